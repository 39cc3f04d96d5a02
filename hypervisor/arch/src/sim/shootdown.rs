//! Roots, and what the CPUs remember of page tables.
//!
//! An interrupt of another CPU is taken at once, between two operations of the model processor, whichever thread holds the
//! CPU: so one thread may play all CPUs, and a run repeats from its seed. Before it the target speculates once more, and
//! again behind each flush: what it caches then must do no harm.

use std::vec::Vec;

use dom0_abi::addr::{GuestAddr, Mfn};

use super::cpu::Cpu;
use super::machine::{FIRST_SLOT, Machine, Parts};
use super::processor::{Invpcid, Processor};
use crate::boot::{CpuId, MfnRange};
use crate::sync::atomic::Ordering;
use crate::tlb::{CpuSet, Flush, Pcid, TlbMode, TlbStamp};

const CR3_KEEP: u64 = 1 << 63;
const CR4_PCIDE: u64 = super::processor::CR4_PCIDE;

/// Frames that a CPU reaches without a look into memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CachedFrames {
    /// The first address that the cached entry is for.
    pub address: GuestAddr,
    /// What it leads to: the page, or the table of the next level.
    pub frames: MfnRange,
    /// The page may be written. The processor itself writes accessed and dirty flags into a table at any time.
    pub writable: bool,
    /// It is a table.
    pub is_table: bool,
}

impl Cpu {
    /// Loads a root, in PCID 0, and with that forgets all translations that are not global.
    pub fn load_root(&self, root: Mfn) {
        self.load_root_pcid(root, Pcid::ZERO, false);
    }

    /// Loads a root whose translations have this PCID; with `keep` those that are there stay. In [`TlbMode::Global`] this
    /// is [`Self::load_root`].
    pub fn load_root_pcid(&self, root: Mfn, pcid: Pcid, keep: bool) {
        let mut processor = self.processor();
        self.parts.tlb.remember_again(self.id);
        let mut value = root.start().get();
        if self.parts.tlb_mode == TlbMode::Pcid {
            processor.live_pcids |= pcid.bit();
            value |= u64::from(pcid.get()) | if keep { CR3_KEEP } else { 0 };
        }
        processor.write_cr3(&self.parts.frames, value);
    }

    /// Loads a root, as [`Self::load_root`], and makes the guest run on its twin: the TLB fills itself through both. Panics if
    /// guests do not run on twins, or our slots of the twin do not hold what [`Machine::twin_entry`] says.
    pub fn load_roots(&self, root: Mfn, twin: Mfn) {
        let entries = self.parts.twin_entries;
        let entries = entries.expect("guests do not run on twins here");
        for (slot, wanted) in (FIRST_SLOT..).zip(entries) {
            let word = self.parts.frames.word(twin.at(slot * 8));
            let found = word.map(|word| word.load(Ordering::SeqCst));
            assert_eq!(
                found,
                Some(wanted),
                "slot {slot} of twin {twin} is not ours"
            );
        }
        self.load_root(root);
        self.processor().twin = Some(twin);
    }

    /// Loads a root that leads to no guest, and forgets everything: until a guest's root is loaded no flush is asked of
    /// this CPU.
    pub fn load_idle_root(&self) {
        let mut processor = self.processor();
        processor.speculate(&self.parts.frames, 2);
        processor.unload_root();
        self.parts
            .tlb
            .flush_all(self.id, || flush_all(&self.parts, &mut processor));
        self.parts.tlb.forget_everything(self.id);
    }

    /// Forgets all translations.
    pub fn flush_tlb(&self) {
        self.parts.flush(self.id, &mut self.processor(), Flush::All);
    }

    /// Forgets the translations of one page, global or of any PCID. Returns in how many address spaces.
    pub fn flush_page(&self, at: GuestAddr) -> u32 {
        let mut processor = self.processor();
        let spaces = processor.live_pcids.count_ones().max(1);
        self.parts.flush(self.id, &mut processor, Flush::Page(at));
        spaces
    }

    /// Forgets all translations of a PCID.
    pub fn flush_pcid(&self, pcid: Pcid) {
        let mut processor = self.processor();
        if processor.live_pcids & pcid.bit() == 0 {
            return;
        }
        if self.parts.has_invpcid() {
            processor.invpcid(Invpcid::Context(pcid.get().into()));
            if processor.pcid() != u16::from(pcid.get()) {
                processor.live_pcids &= !pcid.bit();
            }
        } else {
            drop(processor);
            self.flush_tlb();
        }
    }
}

impl Parts {
    fn has_invpcid(&self) -> bool {
        const INVPCID: u32 = 1 << 10;
        self.cpuid
            .get(&(7, 0))
            .is_some_and(|leaf| leaf.ebx & INVPCID != 0)
    }

    /// Flushes a CPU, between two of its operations.
    fn flush(&self, id: CpuId, processor: &mut Processor, what: Flush) {
        let other_pcids = processor.live_pcids & !1_u64.wrapping_shl(processor.pcid().into());
        match what {
            Flush::Page(at) if other_pcids == 0 || self.has_invpcid() => {
                processor.flush_page(at);
                for pcid in (0..).take(Pcid::COUNT.into()) {
                    if other_pcids >> pcid & 1 != 0 {
                        processor.invpcid(Invpcid::Address(pcid, at));
                    }
                }
            }
            _ => self.tlb.flush_all(id, || flush_all(self, processor)),
        }
    }

    /// Serves the mailbox of a CPU. Its lock keeps others from doing so at the same time.
    fn serve(&self, id: CpuId) {
        let mut processor = self.processor(id);
        processor.speculate(&self.frames, 2);
        self.tlb
            .serve(id, |what| self.flush(id, &mut processor, what));
    }
}

fn flush_all(parts: &Parts, processor: &mut Processor) {
    processor.speculate(&parts.frames, 2);
    processor.flush_all();
    processor.live_pcids = 0;
    if processor.registers.cr4 & CR4_PCIDE != 0 {
        processor.live_pcids = 1_u64.wrapping_shl(processor.pcid().into());
    }
    processor.speculate(&parts.frames, 2);
}

impl Machine {
    /// How the TLB tells address spaces apart.
    pub fn tlb_mode(&self) -> TlbMode {
        self.parts.tlb_mode
    }

    /// The time, for what has been removed from page tables up to now.
    pub fn tlb_stamp(&self) -> TlbStamp {
        self.parts.tlb.stamp()
    }

    /// The CPUs that may hold translations that were removed by then.
    pub fn stale_cpus(&self, stamp: TlbStamp) -> CpuSet {
        self.parts.tlb.stale_since(stamp)
    }

    /// Makes the CPUs that may hold translations that were removed by then forget them, and returns when they have: how many
    /// others than the caller's were among them.
    pub fn flush_stale(&self, cpu: &Cpu, stamp: TlbStamp) -> usize {
        if self.parts.forgets_flushes {
            return 0;
        }
        let stale = self.stale_cpus(stamp);
        self.flush_cpus(cpu, &stale, Flush::All);
        stale.iter().filter(|&other| other != cpu.id).count()
    }

    /// Makes CPUs forget, and returns when they have. Those that hold nothing are left alone.
    pub fn flush_cpus(&self, cpu: &Cpu, targets: &CpuSet, what: Flush) {
        let parts = &*self.parts;
        parts.tlb.shoot(
            cpu.id,
            targets,
            what,
            |target| parts.serve(target),
            |what| parts.flush(cpu.id, &mut cpu.processor(), what),
            || parts.serve(cpu.id),
        );
    }

    /// Whether guests are to run on twins of their roots.
    pub fn uses_twins(&self) -> bool {
        self.parts.twin_entries.is_some()
    }

    /// What slot 256..=271 of each twin must hold; `None` for other slots, and where there are no twins.
    pub fn twin_entry(&self, slot: usize) -> Option<u64> {
        let entries = self.parts.twin_entries.as_ref()?;
        entries.get(slot.checked_sub(FIRST_SLOT)?).copied()
    }

    /// What a CPU reaches without a look into memory, now.
    pub fn cached_frames(&self, id: CpuId) -> Vec<CachedFrames> {
        self.parts.processor(id).cached()
    }
}
