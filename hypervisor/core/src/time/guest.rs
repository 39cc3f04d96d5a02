//! What a guest is told of time, in memory that it shares with us.
//!
//! INVARIANT: each structure is written with its version odd before and even after, so that who reads it meanwhile reads it again.

use core::mem::offset_of;

use dom0_abi::addr::{GuestAddr, Maddr};
use dom0_abi::vcpu::{RUNSTATE_UPDATE, Runstate, VcpuRunstateInfo};
use dom0_abi::xen::{TimeFlags, VcpuInfo, VcpuTimeInfo, VmAssist};
use oxen_arch::Cpu;
use oxen_arch::memory::BadFrame;
use oxen_arch::sync::atomic::{Ordering, fence};

use super::Time;
use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::host::Host;

const VERSION: u64 = offset_of!(VcpuTimeInfo, version) as u64;
const ENTRY_TIME: u64 = offset_of!(VcpuRunstateInfo, state_entry_time) as u64;

impl Time {
    /// What the guest on this CPU is told: when its counter was 0, so to speak, and how fast it runs. That stays true for as long as the guest
    /// runs here.
    fn info(&self, cpu: &Cpu, version: u32) -> VcpuTimeInfo {
        let flags = if self.is_stable {
            TimeFlags::TSC_STABLE
        } else {
            TimeFlags::empty()
        };
        VcpuTimeInfo {
            version,
            pad0: 0,
            tsc_timestamp: self.start.cycles().wrapping_sub(cpu.clock_offset()),
            system_time: 0,
            tsc_to_system_mul: self.scale.multiplier(),
            tsc_shift: self.scale.shift(),
            flags: flags.bits(),
            pad1: [0; 2],
        }
    }
}

impl Host {
    /// Tells the guest of a vCPU the time of this CPU, which runs it from now on or has just been given a place to tell it.
    pub fn tell_time(&self, cpu: &Cpu, vcpu: &Vcpu) {
        let place = vcpu.upcall.location().get();
        let at = Maddr::new(place.wrapping_add(offset_of!(VcpuInfo, time) as u64));
        // The place is held, so it is there.
        let _: Result<(), BadFrame> = self.write_time(cpu, at);
        if let Some(copy) = vcpu.areas.time() {
            self.copy_time(cpu, copy);
        }
    }

    fn write_time(&self, cpu: &Cpu, at: Maddr) -> Result<(), BadFrame> {
        let version = Maddr::new(at.get().wrapping_add(VERSION));
        let odd = self.mem().load_u32(version)? | 1;
        self.mem().store_u32(version, odd)?;
        self.mem().write(at, &self.time.info(cpu, odd))?;
        self.mem().store_u32(version, odd.wrapping_add(1))
    }

    /// Writes the copy for the guest's user mode; where there is no memory now, nothing is written.
    pub fn copy_time(&self, cpu: &Cpu, at: GuestAddr) {
        let version = GuestAddr::new(at.get().wrapping_add(VERSION));
        let Ok(old) = cpu.read_guest::<u32>(version) else {
            return;
        };
        let odd = old | 1;
        if cpu.write_guest(version, &odd).is_ok()
            && cpu.write_guest(at, &self.time.info(cpu, odd)).is_ok()
        {
            fence(Ordering::Release);
            let _ = cpu.write_guest(version, &odd.wrapping_add(1));
        }
    }

    /// The vCPU that this CPU runs, or ran until now, is in this state from now on. Its guest is told, where it wants to know.
    pub fn enter_runstate(&self, cpu: &Cpu, domain: &Domain, vcpu: &Vcpu, state: Runstate) {
        // Nearly always it is, and what time it is need not be asked.
        if vcpu.runstate.enter(state, || self.time.now(cpu)) {
            self.tell_runstate(cpu, domain, vcpu);
        }
    }

    /// Writes what became of a vCPU's time to where its guest wants to have it; where there is no memory now, nothing is written.
    pub fn tell_runstate(&self, cpu: &Cpu, domain: &Domain, vcpu: &Vcpu) {
        let Some(at) = vcpu.areas.runstate() else {
            return;
        };
        let mut info = vcpu.runstate.info(self.time.now(cpu));
        if !domain.assists.has(VmAssist::RunstateUpdateFlag) {
            let _ = cpu.write_guest(at, &info);
            return;
        }
        let entry_time = GuestAddr::new(at.get().wrapping_add(ENTRY_TIME));
        let after = info.state_entry_time;
        info.state_entry_time |= RUNSTATE_UPDATE;
        if cpu.write_guest(entry_time, &info.state_entry_time).is_ok() {
            fence(Ordering::Release);
            let _ = cpu.write_guest(at, &info);
            fence(Ordering::Release);
            let _ = cpu.write_guest(entry_time, &after);
        }
    }
}
