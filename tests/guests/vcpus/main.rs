//! Several vCPUs of a domain, on as many CPUs as there are: started, stopped and started again; events, timers and NMIs to each other, all
//! at once; translations that all of them must forget; grants that are mapped, copied from and taken back.
//!
//! The first one gives orders, one at a time, and the others carry them out. No check asks how long something took; a wake-up that is lost
//! is one that never comes.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments, memory shared with the hypervisor, entries of a kernel.
#![allow(unsafe_code)]

#[path = "../timers/clock.rs"]
mod clock;
mod grants;
mod orders;
mod start;
mod vcpu;

use dom0_abi::ids::VcpuId;
use guest_pv_drivers::hypercall::events;
use kit::Report;

use clock::Clock;
use vcpu::VCPUS;

kit::guest!("vcpus", main);

const MS: u64 = 1_000_000;
/// What nothing here takes.
const LONG: u64 = 30_000 * MS;

fn main(report: &mut Report) {
    if let Err(error) = vcpu::begin() {
        return report.check("shared info is mapped", false, error);
    }
    let clock = Clock::of(VCPUS[0].info());
    let count = start::count();
    kit::println!("TEST vCPUs: {count}");
    for (number, vcpu) in VCPUS.iter().enumerate().take(count) {
        match events::bind_ipi(VcpuId::new(number as u32)) {
            Ok(port) => {
                let place = &vcpu.port;
                place.store(port.get(), core::sync::atomic::Ordering::Relaxed);
            }
            Err(error) => return report.check("a port for each", false, error),
        }
    }
    start::refusals(report, count);
    start::all(report, count, clock);
    orders::all(report, count, clock);
    grants::check(report, count, clock);
    start::down_and_up(report, count, clock);
}
