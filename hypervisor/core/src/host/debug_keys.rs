//! What the debug keys do.

use dom0_abi::addr::PAGE_SIZE;
use dom0_abi::arch::CpuUserRegs;
use dom0_abi::ids::{DomId, VcpuId};
use oxen_arch::sync::atomic::Ordering;
use oxen_arch::{ClockTime, Cpu, Ipi};

use super::{Host, NOT_ASKED};
use crate::console::DebugKey;
use crate::domain::table::MAX_DOMAINS;
use crate::trap::crash;

/// Does what a key asks for. `regs` are those of the guest that was interrupted, if one was.
pub(super) fn pressed(host: &Host, cpu: &Cpu, regs: Option<&CpuUserRegs>, key: DebugKey) {
    match key {
        #[cfg(debug_assertions)]
        DebugKey::Audit => crate::audit::key::pressed(host, cpu),
        DebugKey::Help => host.out(cpu).write_keys(),
        DebugKey::Log => host.out(cpu).write_log_again(),
        DebugKey::Reboot => host.machine.reboot(),
        DebugKey::Crash => host.machine.crash(),
        DebugKey::Memory => memory(host, cpu),
        DebugKey::Domains => domains(host, cpu),
        DebugKey::Cpus => ask_cpus(host, cpu),
        DebugKey::Dom0Registers => dom0_registers(host, cpu, regs),
    }
}

fn memory(host: &Host, cpu: &Cpu) {
    let statistics = host.frames.statistics();
    let kib = |frames: u64| frames.saturating_mul(PAGE_SIZE as u64) / 1024;
    host.out(cpu).answer(format_args!(
        "{} KiB of memory, {} KiB free",
        kib(statistics.total),
        kib(statistics.free)
    ));
}

fn ask_cpus(host: &Host, cpu: &Cpu) {
    let now = cpu.clock();
    for (id, pcpu) in host.cpus() {
        pcpu.asked_at.store(now.cycles(), Ordering::Relaxed);
        host.machine.interrupt(id, Ipi::Call);
    }
}

/// Answers [`ask_cpus`], if it was that.
pub(super) fn answer(host: &Host, cpu: &Cpu) {
    let asked_at = host.pcpu(cpu).map(|pcpu| &pcpu.asked_at);
    let asked_at = asked_at.map_or(NOT_ASKED, |place| place.swap(NOT_ASKED, Ordering::Relaxed));
    if asked_at != NOT_ASKED {
        let took = ClockTime::from_cycles(asked_at).until(cpu.clock());
        host.out(cpu).answer(format_args!(
            "CPU {} was interrupted, {took} cycles after it was sent for",
            cpu.id()
        ));
    }
}

fn domains(host: &Host, cpu: &Cpu) {
    let ids = (0..MAX_DOMAINS).filter_map(|number| u16::try_from(number).ok());
    for domain in ids.filter_map(|number| host.domains.get(DomId::new(number))) {
        host.out(cpu).answer(format_args!(
            "domain {}: {} frames of {}, assists {:#x}, down: {}",
            domain.id,
            domain.nr_pages(&host.frames),
            domain.memory.limit.load(Ordering::Relaxed),
            domain.assists.bits(),
            domain.shutdown.is_down()
        ));
        for vcpu in domain.vcpus() {
            let (run, mode) = (vcpu.lock().run(), vcpu.mode());
            host.out(cpu).answer(format_args!(
                "  vcpu {}: {run:?}, {mode:?} mode, events at {}",
                vcpu.id,
                vcpu.upcall.location()
            ));
        }
    }
}

/// Those of the interrupted guest, if that is dom0; else those that dom0's first vCPU fell asleep with.
fn dom0_registers(host: &Host, cpu: &Cpu, regs: Option<&CpuUserRegs>) {
    let first = (DomId::DOM0, VcpuId::new(0));
    let running = host.pcpu(cpu).and_then(super::Pcpu::running);
    if let (Some(regs), true) = (regs, running == Some(first)) {
        crash::show_registers(host.out(cpu), regs);
        return;
    }
    let Some(domain) = host.domains.get(first.0) else {
        return;
    };
    if let Some(vcpu) = domain.vcpu(first.1) {
        let regs = vcpu.lock().regs;
        crash::show_registers(host.out(cpu), &regs);
    }
}
