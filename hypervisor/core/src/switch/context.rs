//! What of a vCPU is in the CPU that runs it, saved and loaded.
//!
//! INVARIANT (I30): of what a vCPU can read, everything that another one can have left is loaded before it runs: registers, selectors
//! and bases, floating point, breakpoints, TSC_AUX, the bits of CR0 and CR4 that are a guest's.

use oxen_arch::{BadSelector, BadXcr0, Cpu, DataSelectors, NotCanonical};

use crate::domain::vcpu::{GuestMode, SegmentBases, VcpuState};

/// Saves it. The general registers, and what its calls set, are in the state already.
pub(super) fn save(cpu: &Cpu, mode: GuestMode, state: &mut VcpuState) {
    let selectors = cpu.read_selectors();
    let regs = &mut state.regs;
    (regs.ds, regs.es, regs.fs, regs.gs) = (selectors.ds, selectors.es, selectors.fs, selectors.gs);
    let (in_use, kept) = (cpu.gs_base(), cpu.user_gs_base());
    let (gs_kernel, gs_user) = match mode {
        GuestMode::Kernel => (in_use, kept),
        GuestMode::User => (kept, in_use),
    };
    state.bases = SegmentBases {
        fs: cpu.fs_base(),
        gs_kernel,
        gs_user,
    };
    cpu.save_fpu(&mut state.fpu);
}

/// Loads it, but for the general registers and the root, which comes first: descriptors lie where it leads.
pub(super) fn load(cpu: &Cpu, mode: GuestMode, state: &VcpuState) {
    state.tables.load(cpu);
    let selectors = DataSelectors {
        ds: state.regs.ds,
        es: state.regs.es,
        fs: state.regs.fs,
        gs: state.regs.gs,
    };
    // Those that cannot be loaded are 0 now.
    let _: Result<(), BadSelector> = cpu.load_selectors(&selectors);
    let (in_use, kept) = match mode {
        GuestMode::Kernel => (state.bases.gs_kernel, state.bases.gs_user),
        GuestMode::User => (state.bases.gs_user, state.bases.gs_kernel),
    };
    // What a vCPU holds was checked when it was set.
    let _: Result<(), NotCanonical> = cpu.set_fs_base(state.bases.fs);
    let _: Result<(), NotCanonical> = cpu.set_gs_base(in_use);
    let _: Result<(), NotCanonical> = cpu.set_user_gs_base(kept);
    let _: Result<(), BadXcr0> = cpu.set_xcr0(state.privileged.xcr0());
    cpu.load_guest_cr4(state.privileged.cr4_for_hardware());
    cpu.load_tsc_aux(state.privileged.tsc_aux());
    cpu.restore_fpu(&state.fpu);
    cpu.set_task_switched(state.privileged.task_switched());
    cpu.load_debug_registers(state.privileged.debug_registers());
}
