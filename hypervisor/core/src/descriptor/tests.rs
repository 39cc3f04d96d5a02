//! Descriptor tables on the model: calls, loads of selectors, and what stays of them.

use dom0_abi::addr::{GuestAddr, Mfn};
use dom0_abi::arch::{FLAT_CS32, FLAT_CS64, FLAT_SS, SegmentBase};
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuextCommand, MmuextOp};
use oxen_arch::SegmentFault;
use oxen_arch::registers::ENTRY_RETURN;

use super::check::check;
use crate::budget::Budget;
use crate::domain::trap_table::TrapEntry;
use crate::domain::vcpu::GuestMode;
use crate::frame::type_word::TypeState;
use crate::page_type::PageType;
use crate::testing::{DATA, DATA_END, Guest, HOSTILE, READ_ONLY, failure};
use crate::trap::return_path::Next;

mod calls;
mod ldt;
mod random;

/// A data segment, as a guest that thinks of itself as ring 0 writes it.
const SEGMENT: u64 = 0x12cf_9234_5678_ffff;
/// The same, checked.
const CHECKED: u64 = 0x12cf_f234_5678_ffff;
const BASE: u64 = 0x1234_5678;
const ACCESSED: u64 = 1 << 40;
const CODE_64: u64 = 0x00af_9a00_0000_ffff;
const TSS: u64 = 0x0000_8900_0000_0067;

const FRAME: u64 = 0x000f_ffff_ffff_f000;
const WRITABLE: u64 = 2;

/// Where the lists of frames are.
const LIST: u64 = DATA + 0x7000;

/// A page of the guest's, by number.
fn page(index: u64) -> u64 {
    DATA + index * 0x1000
}

impl Guest {
    /// The L1 entry of an address, read by a walk that knows nothing of the hypervisor's.
    fn leaf(&self, va: u64) -> u64 {
        let mut table = self.root;
        for level in [3, 2, 1] {
            table = Mfn::new((self.entry(table, va, level) & FRAME) >> 12);
        }
        self.entry(table, va, 0)
    }

    fn entry(&self, table: Mfn, va: u64, level: u32) -> u64 {
        let index = va >> (12 + 9 * level) & 511;
        let at = table.at(index as usize * 8);
        self.host.mem().load_u64(at).unwrap()
    }

    fn frame_at(&self, va: u64) -> Mfn {
        Mfn::new((self.leaf(va) & FRAME) >> 12)
    }

    fn remap(&mut self, va: u64, entry: u64) -> i64 {
        const INVLPG: u64 = 2;
        self.finish(Hypercall::UpdateVaMapping, [va, entry, INVLPG, 0, 0])
    }

    fn make_read_only(&mut self, va: u64) -> i64 {
        self.remap(va, self.leaf(va) & !WRITABLE)
    }

    fn make_writable(&mut self, va: u64) -> i64 {
        self.remap(va, self.leaf(va) | WRITABLE)
    }

    /// Makes a call, and the rest of it until it is done.
    fn finish(&mut self, call: Hypercall, args: [u64; 5]) -> i64 {
        let rip = self.regs.rip;
        self.regs.rax = call.number();
        [
            self.regs.rdi,
            self.regs.rsi,
            self.regs.rdx,
            self.regs.r10,
            self.regs.r8,
        ] = args;
        for _ in 0..100_000 {
            assert_eq!(self.syscall(), Next::Guest);
            if self.regs.rip == rip {
                return self.regs.rax as i64;
            }
            assert_eq!(self.regs.rip, rip - 2);
            self.regs.rip = rip;
        }
        panic!("{call:?} goes on for ever")
    }

    fn set_gdt(&mut self, frames: &[Mfn], entries: u64) -> i64 {
        for (index, frame) in frames.iter().enumerate() {
            self.put(LIST + index as u64 * 8, &frame.get());
        }
        self.finish(Hypercall::SetGdt, [LIST, entries, 0, 0, 0])
    }

    fn update_descriptor(&mut self, maddr: u64, descriptor: u64) -> i64 {
        self.finish(Hypercall::UpdateDescriptor, [maddr, descriptor, 0, 0, 0])
    }

    fn set_ldt(&mut self, base: u64, entries: u64) -> i64 {
        let op = MmuextOp {
            cmd: MmuextCommand::SetLdt.get(),
            _pad0: 0,
            arg1: base,
            arg2: entries,
        };
        self.put(LIST, &op);
        let own = u64::from(DomId::SELF.get());
        self.finish(Hypercall::MmuextOp, [LIST, 1, 0, own, 0])
    }

    /// `mov gs, selector` by the guest, with the hypervisor's help. `Err` is the exception that the guest gets: vector, error
    /// code, and address of a page fault.
    fn load(&mut self, selector: u16) -> Result<u64, (u8, u32, u64)> {
        for _ in 0..10 {
            let (vector, code) = match self.cpu.guest_loads_gs(selector) {
                Ok(base) => return Ok(base),
                Err(SegmentFault::GeneralProtection(code)) => return Err((13, code, 0)),
                Err(SegmentFault::NotPresent(code)) => return Err((11, code, 0)),
                Err(SegmentFault::PageFault) => (14, 0),
            };
            let before = self.regs;
            self.trap_everything();
            assert_eq!(self.exception(vector, code), Next::Guest);
            if self.regs.rip != before.rip {
                let delivered = self.delivered(before.rip);
                self.regs = before;
                return Err(delivered);
            }
        }
        panic!("{selector:#x} is missed for ever")
    }

    /// Handlers for the exceptions that loading a selector can end in; where a handler is says what it is for.
    fn trap_everything(&mut self) {
        self.state(|state| {
            for vector in [11, 13, 14] {
                let entry = TrapEntry::for_nmi(u64::from(vector) << 20);
                state.traps.set(vector, entry);
            }
        });
    }

    /// What the frame on the guest's stack says.
    fn delivered(&self, rip: u64) -> (u8, u32, u64) {
        let vector = (self.regs.rip >> 20) as u8;
        let code: u64 = self.get(self.regs.rsp + 16);
        assert_eq!(self.get::<u64>(self.regs.rsp + 24), rip);
        let address = if vector == 14 {
            self.state(|state| state.privileged.cr2())
        } else {
            0
        };
        (vector, code as u32, address)
    }

    fn type_of(&self, frame: Mfn) -> Option<(PageType, u32)> {
        match self.host.frames.type_state(frame).unwrap() {
            TypeState::InUse { ty, count, .. } => Some((ty, count)),
            _ => None,
        }
    }

    /// Everything that must hold whatever the guest did.
    fn check_descriptors(&self) {
        let held: Vec<_> = self.state(|state| state.tables.frames().collect());
        let mapped = self.cpu.descriptor_pages();
        for frame in &mapped {
            assert!(held.contains(frame), "{frame} is seen without a reference");
        }
        for frame in &held {
            let uses = held.iter().filter(|other| *other == frame).count() as u32;
            assert_eq!(
                self.type_of(*frame),
                Some((PageType::Descriptors, uses)),
                "{frame}"
            );
            for entry in 0..512 {
                let raw = self.host.mem().load_u64(frame.at(entry * 8)).unwrap();
                assert_eq!(check(raw), Ok(raw), "entry {entry} of {frame}");
            }
        }
        for va in (0..8).map(page) {
            let leaf = self.leaf(va);
            let frame = Mfn::new((leaf & FRAME) >> 12);
            assert!(
                leaf & WRITABLE == 0 || !held.contains(&frame),
                "I1: the guest writes to descriptors at {va:#x}"
            );
        }
    }
}
