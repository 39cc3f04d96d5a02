//! Roots, and what this CPU remembers of page tables.
//!
//! INVARIANT: no entry of our own half is global, so that whatever is, is a guest's.

use core::arch::asm;

use dom0_abi::addr::{GuestAddr, Mfn};
use x86_64::VirtAddr;
use x86_64::instructions::tlb;
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;

use super::cpu::{self, Cpu};
use super::machine::Machine;
use super::memory::BootSlice;
use super::smp;
use crate::counters::{Event, count};
use crate::interrupts::FLUSH_VECTOR;
use crate::paging_facts::{ARCH_CAPABILITIES, PagingFacts};
use crate::sync::Once;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::tlb::{CpuSet, CpuTlb, Flush, Pcid, Tlb, TlbMode, TlbStamp};

/// What all CPUs share. Made before any guest runs.
pub(super) struct Shared {
    tlb: Tlb<BootSlice<CpuTlb>>,
    /// Our half and nothing else.
    idle_root: Mfn,
}

static SHARED: Once<Shared> = Once::new();
/// Whether PCIDs are in use. Written once, before any guest runs.
static USES_PCIDS: AtomicBool = AtomicBool::new(false);
/// Whether the CPU has INVPCID. Written once, before any guest runs.
static HAS_INVPCID: AtomicBool = AtomicBool::new(false);

impl Shared {
    /// The root that leads to no guest.
    pub(super) fn idle_root(&self) -> Mfn {
        self.idle_root
    }
}

/// Keeps the CPUs' mailboxes, and the root that boot has built.
pub(super) fn init(cpus: BootSlice<CpuTlb>, idle_root: Mfn) -> &'static Shared {
    SHARED.call_once(|| Shared {
        tlb: Tlb::new(cpus),
        idle_root,
    })
}

/// Does what other CPUs want of this one: called wherever one waits.
///
/// Not inlined: whoever waits has time.
#[cold]
#[inline(never)]
pub(crate) fn serve_requests() {
    // Before all this is made there is one CPU, on another stack than its own, and nobody to wait for.
    if SHARED.get().is_some() {
        Cpu::current().serve_requests();
    }
}

/// Decides whether PCIDs are used: where they are wanted and the CPU has them.
pub(super) fn mode(is_wanted: bool) -> TlbMode {
    let cpuid = raw_cpuid::CpuId::new();
    let has_pcids = cpuid.get_feature_info().is_some_and(|info| info.has_pcid());
    let has_invpcid = cpuid
        .get_extended_feature_info()
        .is_some_and(|info| info.has_invpcid());
    USES_PCIDS.store(is_wanted && has_pcids, Ordering::Relaxed);
    HAS_INVPCID.store(has_invpcid, Ordering::Relaxed);
    tlb_mode()
}

fn tlb_mode() -> TlbMode {
    if USES_PCIDS.load(Ordering::Relaxed) {
        TlbMode::Pcid
    } else {
        TlbMode::Global
    }
}

/// Asks the CPU what it makes of page tables.
pub(super) fn paging_facts() -> PagingFacts {
    let capabilities = || {
        // SAFETY: asked for only if CPUID says that the register exists.
        Some(unsafe { Msr::new(ARCH_CAPABILITIES).read() })
    };
    PagingFacts::of(cpu::cpuid, capabilities)
}

impl Cpu {
    /// Loads a root, in PCID 0. Its slots 256 to 271 must be the hypervisor's own (`Machine::root_entry`) and everything
    /// else may lead to nothing of ours: that is what `core` keeps by page types (I7, I8).
    pub fn load_root(&self, root: Mfn) {
        self.load_root_pcid(root, Pcid::ZERO, false);
    }

    /// Loads a root, as [`Self::load_root`], whose translations have this PCID; with `keep` those that are there stay. In
    /// [`TlbMode::Global`] this is `load_root`.
    pub fn load_root_pcid(&self, root: Mfn, pcid: Pcid, keep: bool) {
        const KEEP: u64 = 1 << 63;
        if let Some(shared) = SHARED.get() {
            shared.tlb.remember_again(self.id());
        }
        let mut value = root.start().get();
        if tlb_mode() == TlbMode::Pcid {
            let live = self.local.live_pcids.get();
            self.local.live_pcids.set(live | pcid.bit());
            self.local.pcid.set(pcid);
            value |= u64::from(pcid.get()) | if keep { KEEP } else { 0 };
        }
        self.local.entry_root.set(0);
        self.local.exit_root.set(0);
        // SAFETY: as the doc of `load_root` says; CR4.PCIDE is set in the mode that sets the low bits and the highest.
        unsafe { write_cr3(value) };
    }

    /// Loads a root that leads to no guest, and drops everything: until a guest's root is loaded no flush is asked of this
    /// CPU.
    pub fn load_idle_root(&self) {
        if let Some(shared) = SHARED.get() {
            self.load_root(shared.idle_root);
            self.flush_tlb();
            shared.tlb.forget_everything(self.id());
        }
    }

    /// Drops every translation of this CPU, global ones and those of all PCIDs included.
    pub fn flush_tlb(&self) {
        match SHARED.get() {
            Some(shared) => shared.tlb.flush_all(self.id(), || self.drop_all()),
            None => self.drop_all(),
        }
    }

    /// Drops the translations of one page, global or of any PCID. Returns in how many address spaces.
    pub fn flush_page(&self, at: GuestAddr) -> u32 {
        // A non-canonical address has no translation (XSA-279: and some forms of invalidation fault on it).
        let Ok(at) = VirtAddr::try_new(at.get()) else {
            return 0;
        };
        let mut others = self.local.live_pcids.get() & !self.local.pcid.get().bit();
        if others != 0 && !HAS_INVPCID.load(Ordering::Relaxed) {
            self.flush_tlb();
            return others.count_ones();
        }
        let mut spaces = 1_u32;
        count(Event::PageFlush);
        tlb::flush(at);
        while let Some(pcid) = Pcid::new(others.trailing_zeros() as u8) {
            others &= !pcid.bit();
            count(Event::PageFlush);
            // SAFETY: the CPU has the instruction, and CR4.PCIDE is set where a PCID is live; the address is canonical.
            unsafe { invpcid(ONE_ADDRESS, pcid, at.as_u64()) };
            spaces = spaces.wrapping_add(1);
        }
        spaces
    }

    /// Drops all translations of a PCID.
    pub fn flush_pcid(&self, pcid: Pcid) {
        let live = self.local.live_pcids.get();
        if live & pcid.bit() == 0 {
            return;
        }
        if !HAS_INVPCID.load(Ordering::Relaxed) {
            return self.flush_tlb();
        }
        count(Event::Flush);
        // SAFETY: the CPU has the instruction, and CR4.PCIDE is set where a PCID is live.
        unsafe { invpcid(ONE_PCID, pcid, 0) };
        if self.local.pcid.get() != pcid {
            self.local.live_pcids.set(live & !pcid.bit());
        }
    }

    /// Does what other CPUs want of this one.
    pub(super) fn serve_requests(&self) {
        if let Some(shared) = SHARED.get() {
            shared.tlb.serve(self.id(), |what| self.flush(what));
        }
    }

    fn flush(&self, what: Flush) {
        match what {
            Flush::All => self.flush_tlb(),
            Flush::Page(at) => _ = self.flush_page(at),
        }
    }

    fn drop_all(&self) {
        count(Event::Flush);
        let cr4 = Cr4::read();
        if cr4.contains(Cr4Flags::PAGE_GLOBAL) {
            // SAFETY: toggling PGE has no effect but the flush.
            unsafe {
                Cr4::write(cr4 - Cr4Flags::PAGE_GLOBAL);
                Cr4::write(cr4);
            }
        } else {
            count(Event::Cr3Write);
            tlb::flush_all();
        }
        if tlb_mode() == TlbMode::Pcid {
            self.local.live_pcids.set(self.local.pcid.get().bit());
        }
    }
}

/// `MOV CR3`.
///
/// # Safety
///
/// Everything of ours must be where it was in the new tables; bits that CR4 does not allow must be clear.
unsafe fn write_cr3(value: u64) {
    count(Event::Cr3Write);
    // SAFETY: as the caller promises.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// The forms of `INVPCID` in use. SPEC: Intel SDM volume 2, INVPCID.
const ONE_ADDRESS: u64 = 0;
const ONE_PCID: u64 = 1;

/// `INVPCID`. Global translations stay.
///
/// # Safety
///
/// The CPU must have the instruction, CR4.PCIDE must be set, and the address canonical.
unsafe fn invpcid(form: u64, pcid: Pcid, at: u64) {
    let what = [u64::from(pcid.get()), at];
    // SAFETY: as the caller promises; forgetting changes no meaning.
    unsafe {
        asm!("invpcid {}, [{}]", in(reg) form, in(reg) &what, options(readonly, nostack, preserves_flags));
    }
}

impl Machine {
    /// How the TLB tells address spaces apart.
    pub fn tlb_mode(&self) -> TlbMode {
        self.0.tlb_mode
    }

    /// The time, for what has been removed from page tables up to now.
    pub fn tlb_stamp(&self) -> TlbStamp {
        self.0.shared.tlb.stamp()
    }

    /// The CPUs that may hold translations that were removed by then.
    pub fn stale_cpus(&self, stamp: TlbStamp) -> CpuSet {
        self.0.shared.tlb.stale_since(stamp)
    }

    /// Makes the CPUs that may hold translations that were removed by then forget them, and returns when they have: how many
    /// others than the caller's were among them.
    pub fn flush_stale(&self, cpu: &Cpu, stamp: TlbStamp) -> usize {
        let stale = self.stale_cpus(stamp);
        if stale.is_empty() {
            return 0;
        }
        self.flush_cpus(cpu, &stale, Flush::All);
        let others = stale.iter().filter(|&other| other != cpu.id());
        others.fold(0, |count, _| count.wrapping_add(1))
    }

    /// Makes CPUs forget, and returns when they have. Those that hold nothing are left alone.
    pub fn flush_cpus(&self, cpu: &Cpu, targets: &CpuSet, what: Flush) {
        if *targets == CpuSet::one(cpu.id()) {
            // The common case has nobody to ask and nobody to wait for.
            return cpu.flush(what);
        }
        let tlb = &self.0.shared.tlb;
        tlb.shoot(
            cpu.id(),
            targets,
            what,
            |other| smp::interrupt(other, FLUSH_VECTOR),
            |what| cpu.flush(what),
            || cpu.serve_requests(),
        );
    }
}
