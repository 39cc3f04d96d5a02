//! One CPU: its registers, and guest memory as its loaded root shows it.

use core::arch::asm;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use dom0_abi::addr::GuestAddr;
use dom0_abi::arch::CpuUserRegs;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr3, Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::fault::fixup;
use super::per_cpu::{self, CpuLocal};
use super::{entry, layout, pci};
use crate::boot::CpuId;
use crate::counters::{Event, count};
use crate::fpu::FpuArea;
use crate::guest_range::{GuestFault, check_guest_range, is_canonical};
use crate::registers::{
    BadXcr0, CpuidResult, DebugRegisters, GUEST_CR4, NotCanonical, Notes, PAT, PortWidth,
};
use crate::seat::Seat;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::tlb::TlbMode;

const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;

const TSC_AUX: u32 = 0xc000_0103;
const PAT_MSR: u32 = 0x277;

/// CR4 without the guest's bits. Written once, before any guest or other CPU runs.
static HOST_CR4: AtomicU64 = AtomicU64::new(0);
/// What the first CPU had in XCR0 at first, if it has XSAVE. Written once, before any other CPU runs.
static FIRST_XCR0: AtomicU64 = AtomicU64::new(1);
/// Whether the CPU has TSC_AUX. Written once, before any guest runs.
static HAS_TSC_AUX: AtomicBool = AtomicBool::new(false);
/// Whether guest memory must be opened around each access (SMAP is on). Written once, before any guest runs.
static HAS_SMAP: AtomicBool = AtomicBool::new(false);

/// The CPU that runs this code: its record. It cannot leave it: neither `Send` nor `Sync`.
#[repr(transparent)]
pub struct Cpu {
    pub(super) local: CpuLocal,
    stays: PhantomData<*const ()>,
}

impl Cpu {
    /// Finds the record of the running CPU from its stack pointer.
    #[inline(always)]
    pub(super) fn current() -> &'static Self {
        let record = (per_cpu::current_area() + layout::CPU_LOCAL_OFFSET) as *const Self;
        // SAFETY: all code but the very start runs on a stack in a per-CPU area, whose record `machine` has written
        // before the first instruction on that stack. All fields that change are cells, used by this CPU alone.
        unsafe { &*record }
    }

    /// The same, from the registers of the guest that entered.
    ///
    /// # Safety
    ///
    /// `regs` must be at the place of a guest's registers on the running CPU.
    #[inline(always)]
    pub(super) unsafe fn of_guest(regs: *const CpuUserRegs) -> &'static Self {
        let record = (regs as u64).wrapping_add(layout::GUEST_REGS_FROM_TOP) as *const Self;
        // SAFETY: as in `current`: the record lies behind the main stack, whose end the caller's registers are at.
        unsafe { &*record }
    }

    /// Which one it is.
    pub fn id(&self) -> CpuId {
        CpuId::new(self.local.id)
    }

    /// Where it keeps what it works for.
    #[inline(always)]
    pub(crate) fn seat(&self) -> &Seat {
        &self.local.seat
    }

    /// CR2 of the page fault that brought the guest here.
    pub fn fault_address(&self) -> u64 {
        self.local.fault_address.get()
    }

    /// Keeps CR2 before anything here can fault; called on each page fault of a guest.
    #[inline(always)]
    pub(super) fn note_fault_address(&self) {
        let address: u64;
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
        self.local.fault_address.set(address);
    }

    /// Notes what this CPU has to see to before it goes back to a guest. An NMI may do so at any instruction.
    pub fn note(&self, what: Notes) {
        self.local.notes.fetch_or(what.bits(), Ordering::Relaxed);
    }

    /// Whether anything is noted.
    #[inline(always)]
    pub fn has_notes(&self) -> bool {
        self.local.notes.load(Ordering::Relaxed) != 0
    }

    /// What is noted.
    pub fn notes(&self) -> Notes {
        Notes::from_bits_retain(self.local.notes.load(Ordering::Relaxed))
    }

    /// Forgets some of what is noted; returns what of it was.
    pub fn take_notes(&self, what: Notes) -> Notes {
        let noted = self.notes() & what;
        if !noted.is_empty() {
            self.local.notes.fetch_and(!noted.bits(), Ordering::Relaxed);
        }
        noted
    }

    /// Reads guest memory with the rights of user mode. On failure `into` holds what was read up to there.
    pub fn read_guest_bytes(&self, at: GuestAddr, into: &mut [u8]) -> Result<(), GuestFault> {
        check_guest_range(at, into.len())?;
        // SAFETY: the source is in the guest's part of the address space, where nothing of ours is; a fault there ends the
        // copy. The destination is a slice.
        unsafe { guest_copy(into.as_mut_ptr(), at.get() as *const u8, into.len()) }
            .map_err(|left| fault_at(at, into.len(), left))
    }

    /// Writes guest memory with the rights of user mode. On failure the bytes up to there have been written.
    pub fn write_guest_bytes(&self, at: GuestAddr, from: &[u8]) -> Result<(), GuestFault> {
        check_guest_range(at, from.len())?;
        // SAFETY: the destination is in the guest's part of the address space, whose mappings never lead to anything of ours
        // (I8, kept by `core`); a fault there ends the copy.
        unsafe { guest_copy(at.get() as *mut u8, from.as_ptr(), from.len()) }
            .map_err(|left| fault_at(at, from.len(), left))
    }

    /// Reads a value of guest memory.
    #[inline(always)]
    pub fn read_guest<T: FromBytes>(&self, at: GuestAddr) -> Result<T, GuestFault> {
        if let Some(value) = self.read_guest_at_once(at) {
            return Ok(value);
        }
        check_guest_range(at, size_of::<T>())?;
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: as in `read_guest_bytes`.
        unsafe { read_slowly(value.as_mut_ptr().cast(), at, size_of::<T>())? };
        // SAFETY: every byte has been written, and `FromBytes` accepts any.
        Ok(unsafe { value.assume_init() })
    }

    /// The same without trying hard. `None`: the value is neither half a word nor a few words, as what guests hand over most is, or it
    /// could not be read, and may be if it is tried again.
    #[inline(always)]
    pub fn read_guest_at_once<T: FromBytes>(&self, at: GuestAddr) -> Option<T> {
        check_guest_range(at, size_of::<T>()).ok()?;
        let mut value = MaybeUninit::<T>::uninit();
        // As a copy by words: a string instruction takes longer to start.
        let (from, into) = (at.get() as *const u64, value.as_mut_ptr().cast::<u64>());
        let words = const { few_words(size_of::<T>()) };
        with_guest_memory(|| {
            match words {
                // SAFETY: as in `read_guest_bytes`; into the value's own room, of half a word.
                None if size_of::<T>() == 4 => unsafe {
                    into.cast::<u32>().write_unaligned(load_half(from.cast())?);
                },
                None => return None,
                // SAFETY: as above, of so many words.
                Some(words) => unsafe {
                    for pair in (0..words & !1).step_by(2) {
                        let [first, second] = load_two_words(from.wrapping_add(pair))?;
                        into.add(pair).write_unaligned(first);
                        into.add(pair).wrapping_add(1).write_unaligned(second);
                    }
                    if let Some(last) = words.checked_sub(1).filter(|_| words & 1 == 1) {
                        into.add(last)
                            .write_unaligned(load_word(from.wrapping_add(last))?);
                    }
                },
            }
            Some(())
        })?;
        // SAFETY: every byte has been written, and `FromBytes` accepts any.
        Some(unsafe { value.assume_init() })
    }

    /// Writes a value to guest memory.
    #[inline]
    pub fn write_guest<T: IntoBytes + Immutable>(
        &self,
        at: GuestAddr,
        value: &T,
    ) -> Result<(), GuestFault> {
        // As for reads.
        if let Some(words) = const { few_words(size_of::<T>()) } {
            check_guest_range(at, size_of::<T>())?;
            let (from, into) = (
                value.as_bytes().as_ptr().cast::<u64>(),
                at.get() as *mut u64,
            );
            let is_written = with_guest_memory(|| {
                (0..words).all(|word| {
                    // SAFETY: of the value's own words; as in `write_guest_bytes`.
                    unsafe {
                        let value = from.add(word).read_unaligned();
                        store_word(into.wrapping_add(word), value)
                    }
                })
            });
            if is_written {
                return Ok(());
            }
        }
        self.write_guest_bytes(at, value.as_bytes())
    }

    /// The hardware's own answer.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        cpuid(leaf, subleaf)
    }

    /// Reads a model-specific register; `None` if the CPU has no such register.
    pub fn read_msr(&self, msr: u32) -> Option<u64> {
        let (low, high, done): (u32, u32, u32);
        // SAFETY: reading an MSR changes nothing that Rust knows of; where it faults, the fixup leaves `done` at 0.
        unsafe {
            asm!(
                "2: rdmsr",
                "mov {done:e}, 1",
                "3:",
                fixup!("2b", "3b"),
                done = inout(reg) 0_u32 => done,
                in("ecx") msr,
                inout("eax") 0_u32 => low,
                inout("edx") 0_u32 => high,
                options(nostack),
            );
        }
        (done == 1).then_some(u64::from(high) << 32 | u64::from(low))
    }

    /// The base of FS.
    pub fn fs_base(&self) -> u64 {
        read_base(FS_BASE)
    }

    /// Sets the base of FS.
    pub fn set_fs_base(&self, base: u64) -> Result<(), NotCanonical> {
        write_base(FS_BASE, base)
    }

    /// The base of GS.
    pub fn gs_base(&self) -> u64 {
        read_base(GS_BASE)
    }

    /// Sets the base of GS.
    pub fn set_gs_base(&self, base: u64) -> Result<(), NotCanonical> {
        write_base(GS_BASE, base)
    }

    /// The base of GS that is kept for guest user mode.
    pub fn user_gs_base(&self) -> u64 {
        self.local.user_gs_base.get()
    }

    /// Sets the base of GS that is kept for guest user mode.
    pub fn set_user_gs_base(&self, base: u64) -> Result<(), NotCanonical> {
        if !is_canonical(base) {
            return Err(NotCanonical);
        }
        self.local.user_gs_base.set(base);
        Ok(())
    }

    /// Brings the base of GS into use that is kept for guest user mode, and keeps the one that was.
    pub fn swap_gs_bases(&self) {
        let kept = self.local.user_gs_base.replace(self.gs_base());
        // SAFETY: canonical, since none is kept otherwise; the hypervisor does not use the segment.
        unsafe { write_msr(GS_BASE, kept) };
    }

    /// Sets or clears CR0.TS: the guest's next use of floating point faults.
    pub fn set_task_switched(&self, on: bool) {
        let mut cr0 = Cr0::read();
        if cr0.contains(Cr0Flags::TASK_SWITCHED) != on {
            cr0.set(Cr0Flags::TASK_SWITCHED, on);
            // SAFETY: the hypervisor uses no floating point.
            unsafe { Cr0::write(cr0) };
        }
    }

    /// Makes the bits of CR4 that follow the guest (`GUEST_CR4`) those of `value`. The others are as boot set them.
    pub fn load_guest_cr4(&self, value: u64) {
        let now = Cr4::read_raw();
        let wanted = HOST_CR4.load(Ordering::Relaxed) | value & GUEST_CR4;
        if now != wanted {
            // SAFETY: TSD and DE concern guests only; the rest is what `protect` loaded.
            unsafe { Cr4::write_raw(wanted) };
        }
    }

    /// Loads what `RDTSCP` and `RDPID` return, where the CPU has them.
    pub fn load_tsc_aux(&self, value: u32) {
        if HAS_TSC_AUX.load(Ordering::Relaxed) {
            // SAFETY: any 32-bit value is allowed.
            unsafe { write_msr(TSC_AUX, u64::from(value)) };
        }
    }

    /// Loads XCR0, after the CPU has agreed to the value. Components that an `FpuArea` has no room for are refused: saving
    /// would write behind it. Those that the vCPU here has for the first time are as after a reset: what is in them may be another's
    /// (I30).
    pub fn set_xcr0(&self, value: u64) -> Result<(), BadXcr0> {
        if value & !FpuArea::COMPONENTS != 0 || !Cr4::read().contains(Cr4Flags::OSXSAVE) {
            return Err(BadXcr0);
        }
        if value == self.local.xcr0.get() {
            return Ok(());
        }
        let done: u32;
        // SAFETY: the hypervisor uses none of the components; a value that the CPU refuses faults and changes nothing.
        unsafe {
            asm!(
                "2: xsetbv",
                "mov {done:e}, 1",
                "3:",
                fixup!("2b", "3b"),
                done = inout(reg) 0_u32 => done,
                in("ecx") 0,
                in("eax") value as u32,
                in("edx") (value >> 32) as u32,
                options(nostack),
            );
        }
        if done == 0 {
            return Err(BadXcr0);
        }
        self.local.xcr0.set(value);
        let owned = self.local.fpu_components.get();
        if value & !owned != 0 {
            self.reset_fpu_components(value & !owned);
            self.local.fpu_components.set(owned | value);
        }
        Ok(())
    }

    /// Gives components that are in XCR0 their initial values; MXCSR, which goes with two of them, stays.
    fn reset_fpu_components(&self, components: u64) {
        static RESET: FpuArea = FpuArea::new();
        let task_switched = self.open_fpu();
        let mut mxcsr = 0_u32;
        // SAFETY: CR4.OSXSAVE is set, since XCR0 was written. The image has no component, hence initial values for all, and
        // is one that no CPU refuses.
        unsafe {
            asm!(
                "stmxcsr [{mxcsr}]",
                "xrstor64 [{reset}]",
                "ldmxcsr [{mxcsr}]",
                mxcsr = in(reg) &raw mut mxcsr,
                reset = in(reg) &raw const RESET,
                in("eax") components as u32,
                in("edx") (components >> 32) as u32,
                options(nostack),
            );
        }
        self.set_task_switched(task_switched);
    }

    /// Does something with those components in XCR0 that the vCPU here has ever had, which are more than those it has if it
    /// has switched some off.
    fn with_fpu_components<R>(&self, work: impl FnOnce() -> R) -> R {
        let (own, all) = (self.local.xcr0.get(), self.local.fpu_components.get());
        if own == all {
            return work();
        }
        // SAFETY: the CPU has agreed to values that had these components, and where one fits together, several do: what a component
        // needs came with it. `own` was there before.
        unsafe {
            write_xcr0(all);
            let result = work();
            write_xcr0(own);
            result
        }
    }

    /// Loads the breakpoints of a guest, which `core` has checked: none of them is at an address of ours.
    pub fn load_debug_registers(&self, dr: &DebugRegisters) {
        // SAFETY: #DB is survived everywhere in the hypervisor (`fault::in_hypervisor`).
        unsafe {
            asm!(
                "mov dr7, {off}", "mov dr0, {0}", "mov dr1, {1}", "mov dr2, {2}", "mov dr3, {3}", "mov dr6, {dr6}", "mov dr7, {dr7}",
                in(reg) dr.addr[0], in(reg) dr.addr[1], in(reg) dr.addr[2], in(reg) dr.addr[3],
                off = in(reg) 0x400_u64, dr6 = in(reg) dr.dr6, dr7 = in(reg) dr.dr7,
                options(nostack, preserves_flags),
            );
        }
    }

    /// What the last #DB was for; the CPU only ever sets bits, so they are cleared here.
    pub fn read_dr6(&self) -> u64 {
        let value: u64;
        // SAFETY: DR6 only reports.
        unsafe {
            asm!("mov {0}, dr6", "mov dr6, {1}", out(reg) value, in(reg) DebugRegisters::RESET.dr6, options(nostack, preserves_flags));
        }
        value
    }

    /// Reads a port. Which ports a guest may reach is for `core` to decide.
    pub fn port_in(&self, port: u16, width: PortWidth) -> u32 {
        let _pci = pci::guard(port);
        // SAFETY: the hypervisor's own devices are not among the ports that `core` lets through (I27).
        unsafe { port_in(port, width) }
    }

    /// Writes a port; see [`Self::port_in`].
    pub fn port_out(&self, port: u16, width: PortWidth, value: u32) {
        let _pci = pci::guard(port);
        // SAFETY: as in `port_in`; what a device does with it is the trust that a domain with ports has (design, 10).
        unsafe { port_out(port, width, value) }
    }

    /// The time-stamp counter.
    pub fn tsc(&self) -> u64 {
        read_tsc()
    }

    /// Writes all caches back and empties them.
    pub fn write_back_caches(&self) {
        // SAFETY: changes no value in memory.
        unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
    }

    /// Saves the floating-point and vector registers of a guest, components that it has switched off among them.
    pub fn save_fpu(&self, area: &mut FpuArea) {
        let task_switched = self.open_fpu();
        let at = area.bytes.as_mut_ptr();
        let xcr0 = self.local.xcr0.get();
        // SAFETY: the area is aligned and as large as all components that `set_xcr0` can have allowed.
        self.with_fpu_components(|| unsafe {
            if xcr0 != 0 {
                asm!("xsave64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
            } else {
                asm!("fxsave64 [{}]", in(reg) at, options(nostack));
            }
        });
        area.components = self.local.fpu_components.get();
        self.set_task_switched(task_switched);
    }

    /// Loads the floating-point and vector registers of a guest, whose XCR0 has been loaded: all of them, so that nothing of the
    /// last guest's stays (I30). An image that the CPU refuses is replaced by the reset image (XSA-52 class).
    pub fn restore_fpu(&self, area: &FpuArea) {
        let components = area.components | self.local.xcr0.get();
        self.local.fpu_components.set(components);
        let task_switched = self.open_fpu();
        self.with_fpu_components(|| {
            if !self.try_restore_fpu(area) {
                const { assert!(size_of::<FpuArea>() <= 4096) };
                self.try_restore_fpu(&FpuArea::new());
            }
        });
        self.set_task_switched(task_switched);
    }

    /// Clears CR0.TS; returns what it was.
    fn open_fpu(&self) -> bool {
        let task_switched = Cr0::read().contains(Cr0Flags::TASK_SWITCHED);
        self.set_task_switched(false);
        task_switched
    }

    fn try_restore_fpu(&self, area: &FpuArea) -> bool {
        let at = area.bytes.as_ptr();
        let done: u32;
        // SAFETY: the area is aligned and large enough; an invalid image faults and changes nothing of ours. The x87 stack
        // is emptied first, since a pending exception of the last guest would be raised here.
        unsafe {
            asm!("fnclex", "fninit", options(nostack));
            if self.local.xcr0.get() != 0 {
                asm!(
                    "2: xrstor64 [{at}]", "mov {done:e}, 1", "3:", fixup!("2b", "3b"),
                    at = in(reg) at, done = inout(reg) 0_u32 => done, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack),
                );
            } else {
                asm!(
                    "2: fxrstor64 [{at}]", "mov {done:e}, 1", "3:", fixup!("2b", "3b"),
                    at = in(reg) at, done = inout(reg) 0_u32 => done, options(nostack),
                );
            }
        }
        done == 1
    }

    /// Waits for an interrupt and takes it.
    pub fn wait_for_interrupt(&self) {
        // SAFETY: interrupts are taken on this stack, below everything in use, and off again behind the instruction. None is
        // taken between the first two instructions: one that is there already ends the sleep.
        unsafe { asm!("sti", "hlt", "cli") };
        self.local.awake_since.set(self.tsc());
    }

    /// The time stamp behind the last [wait](Self::wait_for_interrupt); 0 if there was none.
    pub fn awake_since(&self) -> u64 {
        self.local.awake_since.get()
    }

    /// Leaves for a guest with these registers, never to come back here: the next entry starts on an empty stack.
    pub fn enter_guest(&self, regs: &CpuUserRegs) -> ! {
        let at = (per_cpu::current_area() + layout::CPU_LOCAL_OFFSET - layout::GUEST_REGS_FROM_TOP)
            as *mut CpuUserRegs;
        // SAFETY: that is the place of a guest's registers, which nothing else is using; `regs` may lie on the stack below,
        // so they are copied first.
        unsafe {
            at.write(*regs);
            entry::enter_guest(at)
        }
    }

    /// Turns the CPU's protections on, as the command line says, and PCIDs if they are to be used.
    pub(super) fn protect(smep: bool, smap: bool, mode: TlbMode) {
        let features = raw_cpuid::CpuId::new().get_extended_feature_info();
        let has_xsave = raw_cpuid::CpuId::new()
            .get_feature_info()
            .is_some_and(|info| info.has_xsave());
        let mut cr4 = Cr4::read() | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE | Cr4Flags::PAGE_GLOBAL
                // Without it the CPU shuts down instead of telling.
                | Cr4Flags::MACHINE_CHECK_EXCEPTION;
        let smap = smap && features.as_ref().is_some_and(|info| info.has_smap());
        cr4.set(
            Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
            smep && features.as_ref().is_some_and(|info| info.has_smep()),
        );
        cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, smap);
        cr4.set(
            Cr4Flags::FSGSBASE,
            features.as_ref().is_some_and(|info| info.has_fsgsbase()),
        );
        cr4.set(Cr4Flags::OSXSAVE, has_xsave);
        // Allowed, since the root that is loaded has PCID 0.
        cr4.set(Cr4Flags::PCID, mode == TlbMode::Pcid);
        HAS_SMAP.store(smap, Ordering::Relaxed);
        HOST_CR4.store(cr4.bits(), Ordering::Relaxed);
        let extended = raw_cpuid::CpuId::new().get_extended_processor_and_feature_identifiers();
        HAS_TSC_AUX.store(
            extended.is_some_and(|id| id.has_rdtscp()),
            Ordering::Relaxed,
        );
        load_protections();
        if has_xsave {
            // SAFETY: CR4.OSXSAVE is set.
            FIRST_XCR0.store(unsafe { read_xcr0() }, Ordering::Relaxed);
        }
    }
}

/// Gives this CPU what [`Cpu::protect`] has decided for all: control registers, page attributes, the state of floating point.
/// The CPU must have all that the first one has.
pub(super) fn load_protections() {
    // SAFETY: no mapping of ours uses an entry that changes; caches are empty when it does.
    unsafe {
        asm!("wbinvd", options(nostack, preserves_flags));
        Msr::new(PAT_MSR).write(PAT);
    }
    // SAFETY: only bits that the CPU has; none of them changes what the hypervisor's own code means.
    unsafe {
        Cr4::write_raw(HOST_CR4.load(Ordering::Relaxed));
        Cr0::write(
            (Cr0::read() | Cr0Flags::NUMERIC_ERROR | Cr0Flags::MONITOR_COPROCESSOR)
                - Cr0Flags::EMULATE_COPROCESSOR
                - Cr0Flags::TASK_SWITCHED,
        );
        asm!("fninit", options(nomem, nostack, preserves_flags));
    }
    if Cr4::read().contains(Cr4Flags::OSXSAVE) {
        // SAFETY: 1 is what a CPU starts with, and what the first CPU had it had too.
        unsafe { write_xcr0(FIRST_XCR0.load(Ordering::Relaxed)) };
    }
    close_guest_memory();
}

/// # Safety
///
/// CR4.OSXSAVE must be set.
unsafe fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: as the caller promises.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// # Safety
///
/// CR4.OSXSAVE must be set, and the CPU must accept the value.
unsafe fn write_xcr0(value: u64) {
    // SAFETY: as the caller promises; the hypervisor uses none of the components.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nomem, nostack, preserves_flags))
    };
}

/// CPUID.
pub(super) fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let raw_cpuid::CpuIdResult { eax, ebx, ecx, edx } = raw_cpuid::cpuid!(leaf, subleaf);
    CpuidResult { eax, ebx, ecx, edx }
}

/// The time-stamp counter.
pub(super) fn read_tsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads a port.
///
/// # Safety
///
/// What the device does on that must leave the hypervisor's memory alone.
pub(super) unsafe fn port_in(port: u16, width: PortWidth) -> u32 {
    let value: u32;
    // SAFETY: as the caller promises.
    unsafe {
        match width {
            PortWidth::Byte => {
                asm!("xor eax, eax", "in al, dx", in("dx") port, out("eax") value, options(nostack))
            }
            PortWidth::Word => {
                asm!("xor eax, eax", "in ax, dx", in("dx") port, out("eax") value, options(nostack))
            }
            PortWidth::Dword => {
                asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack))
            }
        }
    }
    value
}

/// Writes a port.
///
/// # Safety
///
/// As for [`port_in`].
pub(super) unsafe fn port_out(port: u16, width: PortWidth, value: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        match width {
            PortWidth::Byte => {
                asm!("out dx, al", in("dx") port, in("al") value as u8, options(nostack))
            }
            PortWidth::Word => {
                asm!("out dx, ax", in("dx") port, in("ax") value as u16, options(nostack))
            }
            PortWidth::Dword => {
                asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack))
            }
        }
    }
}

fn read_base(msr: u32) -> u64 {
    // SAFETY: both bases exist on every 64-bit CPU.
    unsafe { Msr::new(msr).read() }
}

fn write_base(msr: u32, base: u64) -> Result<(), NotCanonical> {
    if !is_canonical(base) {
        return Err(NotCanonical);
    }
    // SAFETY: canonical, so it does not fault; the hypervisor uses neither segment.
    unsafe { write_msr(msr, base) };
    Ok(())
}

/// `WRMSR`.
///
/// # Safety
///
/// The CPU must have the register and accept the value, which must not change what the hypervisor's own code means.
#[inline(always)]
unsafe fn write_msr(msr: u32, value: u64) {
    count(Event::MsrWrite);
    // SAFETY: as the caller promises.
    unsafe { Msr::new(msr).write(value) };
}

/// The fault of a copy of `len` bytes from or to `at` that had `left` bytes to go.
fn fault_at(at: GuestAddr, len: usize, left: usize) -> GuestFault {
    GuestFault {
        at: GuestAddr::new(at.get().wrapping_add(len.wrapping_sub(left) as u64)),
    }
}

/// Ends the access to guest memory that a guest's own AC flag, or one of ours that was interrupted, opened.
#[inline(always)]
pub(super) fn close_guest_memory() {
    if HAS_SMAP.load(Ordering::Relaxed) {
        // SAFETY: the CPU has SMAP, hence the instruction.
        unsafe { asm!("clac", options(nomem, nostack)) };
    }
}

/// Makes an access with guest memory open. Whether that takes anything is asked once for both ends.
#[inline(always)]
fn with_guest_memory<R>(access: impl FnOnce() -> R) -> R {
    if !HAS_SMAP.load(Ordering::Relaxed) {
        return access();
    }
    // SAFETY: the CPU has SMAP, hence the instruction.
    unsafe { asm!("stac", options(nomem, nostack)) };
    let value = access();
    // SAFETY: as above.
    unsafe { asm!("clac", options(nomem, nostack)) };
    value
}

/// How many words a value is that is copied by words: not more than a grant copy takes. `None`: it is not.
const fn few_words(bytes: usize) -> Option<usize> {
    if bytes != 0 && bytes.is_multiple_of(8) && bytes <= 40 {
        Some(bytes / 8)
    } else {
        None
    }
}

/// Reads what is no short number of words, or has just faulted.
///
/// # Safety
///
/// `into` must be valid for `len` bytes; as many at `at` must lie in the guest's part of the address space.
#[inline(never)]
unsafe fn read_slowly(into: *mut u8, at: GuestAddr, len: usize) -> Result<(), GuestFault> {
    // SAFETY: as the caller promises.
    unsafe { guest_copy(into, at.get() as *const u8, len) }.map_err(|left| fault_at(at, len, left))
}

/// Functions that load a number of guest memory, which is [open](with_guest_memory); the second name is what its register is called by.
macro_rules! loads {
    ($($what:literal $load:ident $number:ty, $register:literal;)*) => {$(
        #[doc = concat!("Loads ", $what, " of guest memory; `None` if that faults.")]
        ///
        /// # Safety
        ///
        /// It must lie in the guest's part of the address space.
        #[inline(always)]
        unsafe fn $load(from: *const $number) -> Option<$number> {
            let (number, done): ($number, u32);
            // SAFETY: as the caller promises. A fault leaves `done` at 0.
            unsafe {
                asm!(
                    concat!("2: mov ", $register, ", [{from}]"),
                    "mov {done:e}, 1",
                    "3:",
                    fixup!("2b", "3b"),
                    number = inout(reg) 0 as $number => number,
                    done = inout(reg) 0_u32 => done,
                    from = in(reg) from,
                    options(nostack, readonly, preserves_flags),
                );
            }
            (done == 1).then_some(number)
        }
    )*};
}

loads! {
    "half a word" load_half u32, "{number:e}";
    "a word" load_word u64, "{number:r}";
}

/// Stores a word to guest memory, which is open; `false` if that faults.
///
/// # Safety
///
/// The word must lie in the guest's part of the address space.
#[inline(always)]
unsafe fn store_word(to: *mut u64, word: u64) -> bool {
    let done: u32;
    // SAFETY: as the caller promises; nothing of ours is there. A fault leaves `done` at 0.
    unsafe {
        asm!(
            "2: mov [{to}], {word}",
            "mov {done:e}, 1",
            "3:",
            fixup!("2b", "3b"),
            word = in(reg) word,
            done = inout(reg) 0_u32 => done,
            to = in(reg) to,
            options(nostack, preserves_flags),
        );
    }
    done == 1
}

/// Loads two words of guest memory, which is open; `None` if that faults.
///
/// # Safety
///
/// The words must lie in the guest's part of the address space.
#[inline(always)]
unsafe fn load_two_words(from: *const u64) -> Option<[u64; 2]> {
    let (first, second, done): (u64, u64, u32);
    // SAFETY: as the caller promises. A fault leaves `done` at 0.
    unsafe {
        asm!(
            "2: mov {first}, [{from}]",
            "3: mov {second}, [{from} + 8]",
            "mov {done:e}, 1",
            "4:",
            fixup!("2b", "4b"),
            fixup!("3b", "4b"),
            first = inout(reg) 0_u64 => first,
            second = inout(reg) 0_u64 => second,
            done = inout(reg) 0_u32 => done,
            from = in(reg) from,
            options(nostack, readonly, preserves_flags),
        );
    }
    (done == 1).then_some([first, second])
}

/// Copies between guest memory and ours. `Err`: how many bytes were left when one side faulted, twice at the same place:
/// the first fault may be due to a translation that the guest has since given more rights, and drops it (Intel SDM volume
/// 3, 4.10.4.3).
///
/// # Safety
///
/// As for [`try_guest_copy`].
unsafe fn guest_copy(to: *mut u8, from: *const u8, len: usize) -> Result<(), usize> {
    let mut left = len;
    let mut faulted_at = None;
    loop {
        // What is left is never more than the whole.
        let done = len.wrapping_sub(left);
        // SAFETY: the rest of what the caller promises.
        match unsafe { try_guest_copy(to.wrapping_add(done), from.wrapping_add(done), left) } {
            Ok(()) => return Ok(()),
            Err(still) if faulted_at == Some(still) => return Err(still),
            Err(still) => {
                faulted_at = Some(still);
                left = still;
            }
        }
    }
}

/// Copies between guest memory and ours. `Err`: how many bytes were left when one side faulted.
///
/// # Safety
///
/// The side that is ours must be valid for `len` bytes; the other must lie in the guest's part of the address space.
unsafe fn try_guest_copy(to: *mut u8, from: *const u8, len: usize) -> Result<(), usize> {
    let left = with_guest_memory(|| {
        let left: usize;
        // SAFETY: as the caller promises. A fault in the words leaves rcx at the number of words not copied, from which the
        // fixup makes bytes; a fault in the tail leaves the bytes.
        unsafe {
            asm!(
                "2: rep movsq",
                "mov ecx, {tail:e}",
                "3: rep movsb",
                "jmp 5f",
                "4: lea rcx, [{tail} + rcx * 8]",
                "5:",
                fixup!("2b", "4b"),
                fixup!("3b", "5b"),
                tail = in(reg) len % 8,
                inout("rcx") len / 8 => left,
                inout("rdi") to => _,
                inout("rsi") from => _,
                options(nostack),
            );
        }
        left
    });
    if left == 0 { Ok(()) } else { Err(left) }
}

/// The control registers of the running CPU, for a panic's report.
pub struct ControlRegisters;

impl core::fmt::Display for ControlRegisters {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (cr2, rsp): (u64, u64);
        // SAFETY: reads registers.
        unsafe {
            asm!("mov {}, cr2", "mov {}, rsp", out(reg) cr2, out(reg) rsp, options(nomem, nostack, preserves_flags))
        };
        let (root, _) = Cr3::read();
        write!(
            f,
            "  cr0 {:016x}  cr2 {cr2:016x}  cr3 {:016x}  cr4 {:016x}  rsp {rsp:016x}",
            Cr0::read_raw(),
            root.start_address().as_u64(),
            Cr4::read_raw(),
        )
    }
}
