//! The state of one model CPU: registers, TLB, and the addresses it used lately, from which it speculates.

use std::vec::Vec;

use dom0_abi::addr::{GuestAddr, Mfn};

use super::frames::Frames;
use super::interrupts::Waiting;
use super::rng::Rng;
use super::segments::MappedPages;
use super::shootdown::CachedFrames;
use super::tlb::Tlb;
use super::walk::{Paging, Walker};
use crate::descriptor_window::DataSelectors;
use crate::fpu::FpuArea;
use crate::registers::{DebugRegisters, Notes, PortWidth};

const CR3_NO_FLUSH: u64 = 1 << 63;
const CR3_ROOT: u64 = 0x000f_ffff_ffff_f000;
pub(super) const CR4_PGE: u64 = 1 << 7;
pub(super) const CR4_PCIDE: u64 = 1 << 17;
/// PAE, MCE, PGE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE, SMEP, SMAP.
const CR4_START: u64 = 0x0035_06e0;
/// How many addresses are remembered to speculate from.
const RECENT: usize = 32;

/// The registers of a model CPU, for a look from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuRegisters {
    /// CR0.TS.
    pub task_switched: bool,
    /// The root of the page tables and the PCID; 0 while no guest's root is loaded.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// TSC_AUX.
    pub tsc_aux: u32,
    /// An NMI arrived in the hypervisor.
    pub notes: Notes,
    /// XCR0.
    pub xcr0: u64,
    /// The base of FS.
    pub fs_base: u64,
    /// The base of GS.
    pub gs_base: u64,
    /// The base of GS that `SWAPGS` brings in.
    pub user_gs_base: u64,
    /// DS, ES, FS, GS.
    pub selectors: DataSelectors,
    /// Descriptors of the LDT; 0 if there is none.
    pub ldt_entries: u16,
    /// Breakpoints.
    pub debug: DebugRegisters,
    /// CR2.
    pub fault_address: u64,
    /// How often caches were written back.
    pub cache_write_backs: u64,
    /// How often the CPU waited for an interrupt.
    pub waits: u64,
    /// How often a root was loaded.
    pub root_loads: u64,
    /// How often the whole TLB was flushed.
    pub full_flushes: u64,
}

/// One `IN` or `OUT`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortAccess {
    /// The port.
    pub port: u16,
    /// How much was moved.
    pub width: PortWidth,
    /// What was moved.
    pub value: u32,
    /// Whether it went out.
    pub is_out: bool,
}

/// The forms of `INVPCID`. SPEC: Intel SDM volume 2, INVPCID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invpcid {
    /// One page in one address space, unless it is global.
    Address(u16, GuestAddr),
    /// One address space, but nothing global.
    Context(u16),
    /// Everything.
    All,
    /// Everything but what is global.
    AllButGlobal,
}

/// See the module.
pub(super) struct Processor {
    pub(super) registers: CpuRegisters,
    pub(super) fpu: FpuArea,
    pub(super) ports: Vec<PortAccess>,
    pub(super) pages: MappedPages,
    tlb: Tlb,
    rng: Rng,
    recent: Vec<u64>,
    address_bits: u32,
    /// Interrupts that have not been taken, and the timer.
    pub(super) waiting: Waiting,
    /// The twin of the root, on which the guest runs.
    pub(super) twin: Option<Mfn>,
    /// The PCIDs that may have translations, one bit for each.
    pub(super) live_pcids: u64,
}

impl Processor {
    pub(super) fn new(seed: u64, address_bits: u32, has_pcids: bool) -> Self {
        let registers = CpuRegisters {
            task_switched: false,
            cr3: 0,
            cr4: CR4_START | if has_pcids { CR4_PCIDE } else { 0 },
            tsc_aux: 0,
            notes: Notes::empty(),
            xcr0: 1,
            fs_base: 0,
            gs_base: 0,
            user_gs_base: 0,
            selectors: DataSelectors::default(),
            ldt_entries: 0,
            debug: DebugRegisters::RESET,
            fault_address: 0,
            cache_write_backs: 0,
            waits: 0,
            root_loads: 0,
            full_flushes: 0,
        };
        Self {
            registers,
            fpu: FpuArea::new(),
            ports: Vec::new(),
            pages: MappedPages::default(),
            tlb: Tlb::default(),
            rng: Rng::new(seed),
            recent: Vec::new(),
            address_bits,
            waiting: Waiting::default(),
            twin: None,
            live_pcids: 0,
        }
    }

    /// `MOV CR3`. SPEC: Intel SDM volume 3, 4.10.4.1.
    pub(super) fn write_cr3(&mut self, frames: &Frames, value: u64) {
        self.speculate(frames, 2);
        let has_pcids = self.registers.cr4 & CR4_PCIDE != 0;
        self.twin = None;
        self.registers.cr3 = value & (CR3_ROOT | if has_pcids { 0xfff } else { 0 });
        self.registers.root_loads += 1;
        if !(has_pcids && value & CR3_NO_FLUSH != 0) {
            self.tlb.flush_space(self.pcid());
        }
    }

    /// `MOV CR4`, as far as the TLB is concerned. SPEC: Intel SDM volume 3, 4.10.4.1.
    pub(super) fn write_cr4(&mut self, value: u64) {
        let old = core::mem::replace(&mut self.registers.cr4, value);
        if (old ^ value) & CR4_PGE != 0 || old & !value & CR4_PCIDE != 0 {
            self.flush_all();
        }
    }

    /// `MOV CR3` of a root that maps nothing of a guest's, in PCID 0.
    pub(super) fn unload_root(&mut self) {
        self.twin = None;
        self.registers.cr3 = 0;
        self.registers.root_loads += 1;
        self.tlb.flush_space(0);
    }

    pub(super) fn invpcid(&mut self, what: Invpcid) {
        match what {
            Invpcid::Address(pcid, at) => self.tlb.flush_page_of_space(pcid, at.get()),
            Invpcid::Context(pcid) => self.tlb.flush_space(pcid),
            Invpcid::All => self.flush_all(),
            Invpcid::AllButGlobal => self.tlb.flush_spaces(),
        }
    }

    /// `INVLPG`.
    pub(super) fn flush_page(&mut self, at: GuestAddr) {
        self.tlb.flush_page(self.pcid(), at.get());
    }

    pub(super) fn flush_all(&mut self) {
        self.registers.full_flushes += 1;
        self.tlb.flush_all();
    }

    pub(super) fn pcid(&self) -> u16 {
        (self.registers.cr3 & 0xfff) as u16
    }

    /// What the TLB holds.
    pub(super) fn cached(&self) -> Vec<CachedFrames> {
        self.tlb.cached()
    }

    /// The way to memory; `None` if no root is loaded.
    pub(super) fn walker<'a>(&'a mut self, frames: &'a Frames) -> Option<Walker<'a>> {
        let paging = Paging {
            root: Mfn::new((self.registers.cr3 & CR3_ROOT) >> 12),
            pcid: self.pcid(),
            global_pages: self.registers.cr4 & CR4_PGE != 0,
            has_pcids: self.registers.cr4 & CR4_PCIDE != 0,
            address_bits: self.address_bits,
        };
        let is_loaded = self.registers.cr3 & CR3_ROOT != 0;
        is_loaded.then_some(Walker {
            frames,
            tlb: &mut self.tlb,
            rng: &mut self.rng,
            paging,
        })
    }

    /// Remembers an address to speculate from.
    pub(super) fn remember(&mut self, address: u64) {
        if self.recent.contains(&(address & !0xfff)) {
            return;
        }
        if self.recent.len() < RECENT {
            self.recent.push(address & !0xfff);
        } else {
            let victim = self.rng.below(RECENT);
            self.recent[victim] = address & !0xfff;
        }
    }

    /// Speculates up to `most` times: from addresses used lately and from ones near by, through the root or its twin.
    pub(super) fn speculate(&mut self, frames: &Frames, most: usize) {
        for _ in 0..self.rng.below(most + 1) {
            let Some(address) = self.recent.get(self.rng.below(self.recent.len())).copied() else {
                return;
            };
            let address = match self.rng.below(4) {
                0 => address,
                1 => address.wrapping_add(0x1000),
                2 => address.wrapping_sub(0x1000),
                _ => address ^ (1 << (12 + self.rng.below(35))),
            };
            let twin = self.twin.filter(|_| self.rng.below(2) == 0);
            if let Some(mut walker) = self.walker(frames) {
                walker.paging.root = twin.unwrap_or(walker.paging.root);
                walker.speculate(address);
            }
        }
    }
}
