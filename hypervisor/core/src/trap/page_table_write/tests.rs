//! Whole writes, from the fault to the entry, on the model machine.

use dom0_abi::addr::Mfn;
use dom0_abi::hypercalls::Hypercall;
use proptest::prelude::*;

use crate::domain::vcpu::{GuestMode, KernelStack};
use crate::frame::type_word::TypeState;
use crate::page_type::PageType;
use crate::testing::{CODE, DATA, Guest, READ_ONLY, STACK};
use crate::trap::flags;
use crate::trap::instruction::Gpr;
use crate::trap::return_path::Next;

/// Where the guest has mapped its own L1 table, the one that maps this address too.
const TABLE: u64 = DATA + 0xa000;
/// An entry of it that is empty.
const ENTRY: u64 = TABLE + (((DATA + 0x2_0000) >> 12) & 511) * 8;
const HANDLER: u64 = CODE + 0x100;
const PAGE_FAULT: u32 = 14;
/// Present, write, user.
const CODE_OF_WRITE: u32 = 7;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
/// What the hypervisor adds to entries: user, global, the mark of the guest's kernel.
const MARKS: u64 = USER | 1 << 8 | 1 << 52;
/// What the CPU sets by itself, also for entries that nobody writes to.
const USED: u64 = 3 << 5;
/// An entry of a page that is not there, which is kept as it is.
const SWAPPED: u64 = 0x0007_ffff_0000_8000;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// `mov [rdi], rsi`, `xchg [rdi], rsi`, `lock and byte [rdi], ~2`, `lock cmpxchg [rdi], rsi`.
const MOV: &[u8] = &[0x48, 0x89, 0x37];
const XCHG: &[u8] = &[0x48, 0x87, 0x37];
const AND: &[u8] = &[0xf0, 0x80, 0x27, 0xfd];
const CMPXCHG: &[u8] = &[0xf0, 0x48, 0x0f, 0xb1, 0x37];

struct Lab {
    guest: Guest,
    /// A page of the guest's that is mapped read-only.
    page: Mfn,
}

impl Lab {
    fn new() -> Self {
        let mut guest = Guest::ordinary();
        for vector in [1, 14] {
            guest.set_trap(vector, 0, HANDLER + u64::from(vector) * 16);
        }
        let table = (0..3).fold(guest.root, |table, step| {
            let index = DATA >> (39 - 9 * step) & 511;
            let entry = guest.host.mem().load_u64(table.at(index as usize * 8));
            Mfn::new((entry.unwrap() & FRAME) >> 12)
        });
        let mapping = table.start().get() | PRESENT | USER;
        assert_eq!(
            guest.call(Hypercall::UpdateVaMapping, [TABLE, mapping, 2]),
            0
        );
        let slot = TABLE + (READ_ONLY >> 12 & 511) * 8;
        let entry: u64 = guest.get(slot);
        let page = Mfn::new((entry & FRAME) >> 12);
        Self { guest, page }
    }

    /// An entry that maps the page.
    fn entry(&self, flags: u64) -> u64 {
        self.page.start().get() | PRESENT | USER | flags
    }

    /// The guest runs into `code`, which writes to `address`.
    fn fault(&mut self, code: &[u8], address: u64, error_code: u32) {
        let mut padded = [0x90_u8; 16];
        padded[..code.len()].copy_from_slice(code);
        self.guest.put(CODE, &padded);
        self.guest.regs.rip = CODE;
        self.guest.cpu.set_fault_address(address);
        assert_eq!(
            self.guest.exception(PAGE_FAULT, error_code),
            Next::Guest,
            "{code:02x?}"
        );
    }

    /// Carries out an instruction that writes to `rdi`, which is in the table.
    fn write(&mut self, code: &[u8]) {
        self.fault(code, self.guest.regs.rdi, CODE_OF_WRITE);
        let end = CODE + code.len() as u64;
        assert_eq!(self.guest.regs.rip, end, "{code:02x?}");
    }

    /// Shows that an instruction is the guest's own fault and changes nothing.
    fn refuse_with(&mut self, code: &[u8], address: u64, error_code: u32) {
        let table = self.table();
        let before = self.guest.regs;
        self.fault(code, address, error_code);
        let context = format!("{code:02x?} at {address:#x}, {error_code:#x}");
        assert_eq!(self.guest.regs.rip, HANDLER + 14 * 16, "{context}");
        let frame: [u64; 8] = self.guest.get(self.guest.regs.rsp);
        assert_eq!(frame[3], CODE, "{context}");
        for gpr in (0..16).filter(|gpr| *gpr != 4).map(Gpr::new) {
            assert_eq!(gpr.read(&self.guest.regs), gpr.read(&before), "{context}");
        }
        assert!(self.table() == table, "an entry changed: {context}");
        self.guest.regs = before;
    }

    fn refuse(&mut self, code: &[u8]) {
        self.refuse_with(code, self.guest.regs.rdi, CODE_OF_WRITE);
    }

    /// All entries, but for what the CPU sets in them.
    fn table(&self) -> [u64; 512] {
        let entries: [u64; 512] = self.guest.get(TABLE);
        entries.map(|entry| entry & !USED)
    }

    fn type_state(&self) -> Option<TypeState> {
        self.guest.host.frames.type_state(self.page)
    }

    fn put_entry(&mut self, entry: u64) {
        (self.guest.regs.rdi, self.guest.regs.rsi) = (ENTRY, entry);
        self.write(MOV);
    }
}

#[test]
fn the_three_forms_that_kernels_use_most() {
    let mut lab = Lab::new();
    let entry = lab.entry(WRITABLE);
    lab.put_entry(entry);
    let written: u64 = lab.guest.get(ENTRY);
    assert_eq!(written & !MARKS, entry & !MARKS);
    let writable = Some(TypeState::InUse {
        ty: PageType::Writable,
        count: 1,
        is_pinned: false,
    });
    assert_eq!(lab.type_state(), writable);

    lab.guest.regs.rflags |= flags::CF | flags::OF;
    lab.write(AND);
    assert_eq!(lab.guest.get::<u64>(ENTRY), written & !WRITABLE);
    let status = lab.guest.regs.rflags & (flags::CF | flags::OF | flags::ZF | flags::SF);
    assert_eq!(status, 0);

    lab.guest.regs.rsi = SWAPPED;
    lab.write(XCHG);
    assert_eq!(lab.guest.get::<u64>(ENTRY), SWAPPED);
    assert_eq!(lab.guest.regs.rsi, written & !WRITABLE);
    assert!(matches!(lab.type_state(), Some(TypeState::None { .. })));
}

#[test]
fn a_comparison_is_with_the_entry_as_it_is() {
    let mut lab = Lab::new();
    let entry = lab.entry(0);
    lab.put_entry(entry);
    let written: u64 = lab.guest.get(ENTRY);
    (lab.guest.regs.rax, lab.guest.regs.rsi) = (written ^ 1, 0);
    lab.write(CMPXCHG);
    assert_eq!(lab.guest.get::<u64>(ENTRY), written);
    assert_eq!(lab.guest.regs.rax, written);
    assert_eq!(lab.guest.regs.rflags & flags::ZF, 0);
    lab.write(CMPXCHG);
    assert_eq!(lab.guest.get::<u64>(ENTRY), 0);
    assert_ne!(lab.guest.regs.rflags & flags::ZF, 0);
}

#[test]
fn i9_what_mmu_update_refuses_is_a_page_fault() {
    let mut lab = Lab::new();
    let table = lab.guest.get::<u64>(TABLE + (TABLE >> 12 & 511) * 8) & FRAME;
    let root = lab.guest.root.start().get();
    let neighbour = lab.guest.neighbour();
    let foreign = {
        let domain = lab.guest.host.domains.get(neighbour.domid).unwrap();
        domain.shared_info.start().get()
    };
    let flags = PRESENT | USER;
    for bad in [
        table | flags | WRITABLE,
        root | flags | WRITABLE,
        foreign | flags,
        lab.guest.host.machine.max_mfn().start().get() | flags,
        // Uncached memory is for domains with devices.
        lab.entry(1 << 4),
    ] {
        for old in [0, lab.entry(WRITABLE)] {
            lab.put_entry(old);
            lab.guest.regs.rsi = bad;
            lab.refuse(MOV);
            lab.refuse(XCHG);
            lab.guest.regs.rax = lab.guest.get(ENTRY);
            lab.refuse(CMPXCHG);
        }
    }
    // One bit that is missing to a writable mapping of the table.
    lab.put_entry(table | flags);
    lab.refuse(&[0x80, 0x0f, 0x02]); // or byte [rdi], 2
    lab.refuse(&[0xf0, 0x48, 0x0f, 0xba, 0x2f, 0x01]); // lock bts qword [rdi], 1
}

#[test]
fn only_the_kernels_writes_to_l1_tables_are_carried_out() {
    let mut lab = Lab::new();
    let entry = lab.entry(0);
    (lab.guest.regs.rdi, lab.guest.regs.rsi) = (ENTRY, entry);
    // Not a write, not present, a fetch, a reserved bit, or something unknown.
    for code in [0, 1, 2, 3, 4, 5, 6, 0xf, 0x17, 0x27, 0x8007] {
        lab.refuse_with(MOV, ENTRY, code);
    }
    // Another address than the instruction's.
    for address in [ENTRY - 1, ENTRY + 8, DATA, u64::MAX] {
        lab.refuse_with(MOV, address, CODE_OF_WRITE);
    }
    // Another instruction.
    for code in [&[0x90][..], &[0x0f, 0x0b], &[0x48, 0xab], &[0xff, 0x37]] {
        lab.refuse(code);
    }
    // Across entries.
    lab.guest.regs.rdi = ENTRY + 4;
    lab.refuse(MOV);
    // A page that is no table: read-only, writable, or not there. A table of another level cannot be mapped like one.
    for address in [
        READ_ONLY,
        DATA + 0x1000,
        DATA + 0xf000,
        0,
        1 << 47,
        u64::MAX - 7,
    ] {
        lab.guest.regs.rdi = address;
        lab.refuse(MOV);
    }
    // 32-bit code.
    lab.guest.regs.rdi = ENTRY;
    let cs = lab.guest.regs.cs;
    lab.guest.regs.cs = dom0_abi::arch::FLAT_CS32;
    lab.refuse(MOV);
    lab.guest.regs.cs = cs;
    lab.write(MOV);
}

#[test]
fn user_mode_writes_to_no_table() {
    let mut lab = Lab::new();
    (lab.guest.regs.rdi, lab.guest.regs.rsi) = (ENTRY, SWAPPED);
    lab.guest.set_mode(GuestMode::User);
    lab.guest.state(|state| {
        state.kernel_stack = KernelStack { ss: 0, sp: STACK };
    });
    lab.refuse(MOV);
}

#[test]
fn upper_tables_are_changed_by_hypercall_alone() {
    let mut lab = Lab::new();
    let mapping = lab.guest.root.start().get() | PRESENT | USER;
    let at = DATA + 0xb000;
    let mapped = lab.guest.call(Hypercall::UpdateVaMapping, [at, mapping, 2]);
    assert_eq!(mapped, 0);
    for slot in [1, 256, 511] {
        (lab.guest.regs.rdi, lab.guest.regs.rsi) = (at + slot * 8, SWAPPED);
        lab.refuse(MOV);
    }
}

#[test]
fn an_instruction_at_the_end_of_readable_code() {
    let mut lab = Lab::new();
    let entry = lab.entry(0);
    (lab.guest.regs.rdi, lab.guest.regs.rsi) = (ENTRY, entry);
    // Behind DATA's eight pages nothing is mapped.
    let rip = DATA + 0x8000 - MOV.len() as u64;
    lab.guest.put(rip, &[MOV[0], MOV[1], MOV[2]]);
    lab.guest.regs.rip = rip;
    lab.guest.cpu.set_fault_address(ENTRY);
    assert_eq!(lab.guest.exception(PAGE_FAULT, CODE_OF_WRITE), Next::Guest);
    assert_eq!(lab.guest.regs.rip, rip + MOV.len() as u64);
    assert_eq!(lab.guest.get::<u64>(ENTRY) & FRAME, entry & FRAME);
}

#[test]
fn single_steps_are_reported_behind_the_instruction() {
    let mut lab = Lab::new();
    (lab.guest.regs.rdi, lab.guest.regs.rsi) = (ENTRY, SWAPPED);
    lab.guest.regs.rflags |= flags::TF | flags::RF;
    lab.fault(MOV, ENTRY, CODE_OF_WRITE);
    assert_eq!(lab.guest.regs.rip, HANDLER + 16);
    let frame: [u64; 8] = lab.guest.get(lab.guest.regs.rsp);
    assert_eq!(frame[2], CODE + MOV.len() as u64);
    assert_eq!(lab.guest.get::<u64>(ENTRY), SWAPPED);
    let dr6 = lab.guest.state(|state| state.privileged.debug_register(6));
    assert_eq!(dr6, Ok(0xffff_4ff0));
}

#[test]
fn segments_have_their_bases() {
    let mut lab = Lab::new();
    let guest = &lab.guest;
    guest.cpu.set_fs_base(ENTRY - 0x10).unwrap();
    guest.cpu.set_gs_base(ENTRY - 0x20).unwrap();
    lab.guest.regs.rsi = SWAPPED;
    // mov fs:[0x10], rsi; mov gs:[0x20], rsi
    for (segment, displacement) in [(0x64, 0x10), (0x65, 0x20)] {
        lab.put_entry(0);
        lab.guest.regs.rsi = SWAPPED;
        let code = [segment, 0x48, 0x89, 0x34, 0x25, displacement, 0, 0, 0];
        lab.fault(&code, ENTRY, CODE_OF_WRITE);
        assert_eq!(lab.guest.regs.rip, CODE + 9);
        assert_eq!(lab.guest.get::<u64>(ENTRY), SWAPPED);
    }
}

fn likely_code() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![
        Just(vec![0x89]),
        Just(vec![0x87]),
        Just(vec![0x80]),
        Just(vec![0x01]),
        Just(vec![0x09]),
        Just(vec![0x31]),
        Just(vec![0x0f, 0xb1]),
        Just(vec![0x0f, 0xab]),
        Just(vec![0x0f, 0xc1]),
        prop::collection::vec(any::<u8>(), 1..3),
    ];
    let prefix = prop::collection::vec(
        prop::sample::select(&[0xf0, 0x3e, 0x66, 0x48, 0x41, 0x4c][..]),
        0..3,
    );
    (prefix, opcode, prop::collection::vec(any::<u8>(), 9)).prop_map(
        |(mut code, opcode, mut rest)| {
            code.extend(opcode);
            // Mostly [rdi].
            if rest[8] & 3 != 0 {
                rest[0] = rest[0] & 0x38 | 7;
            }
            code.extend(rest);
            code
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Hostile code and registers: at most the entry at the fault changes, and never to a way to write to the table.
    #[test]
    fn i1_no_write_makes_a_table_writable(
        writes in prop::collection::vec((likely_code(), prop::array::uniform4(any::<u64>()), 0..8u64, 0..6u8), 1..20),
    ) {
        let mut lab = Lab::new();
        let table = lab.guest.get::<u64>(TABLE + (TABLE >> 12 & 511) * 8) & FRAME;
        for (code, [rax, rsi, rcx, rflags], offset, interesting) in writes {
            let before = lab.table();
            let entry: u64 = lab.guest.get(ENTRY);
            let target = match interesting {
                0 => table | PRESENT | USER | WRITABLE,
                1 => table | PRESENT | USER,
                2 => lab.entry(WRITABLE),
                3 => lab.entry(0),
                4 => entry ^ WRITABLE,
                _ => rsi,
            };
            let regs = &mut lab.guest.regs;
            (regs.rax, regs.rsi, regs.rcx) = (if rax & 1 == 0 { entry } else { rax }, target, rcx);
            regs.rdx = target.wrapping_sub(entry);
            regs.rdi = ENTRY + if rcx & 1 == 0 { 0 } else { offset };
            regs.rsp = STACK;
            regs.rflags = rflags & (flags::CF | flags::OF) | 0x202;
            let address = regs.rdi;
            lab.fault(&code, address, CODE_OF_WRITE);
            let rip = lab.guest.regs.rip;
            prop_assert!((CODE..CODE + 16).contains(&rip) || rip > HANDLER, "{rip:#x}");
            let after = lab.table();
            for (slot, (before, after)) in before.iter().zip(after).enumerate() {
                let is_writable = after & (PRESENT | WRITABLE) == PRESENT | WRITABLE;
                prop_assert!(!(is_writable && after & FRAME == table), "slot {slot}: {after:#x}");
                if TABLE + slot as u64 * 8 != ENTRY {
                    prop_assert_eq!(*before, after, "slot {}", slot);
                }
            }
        }
    }
}
