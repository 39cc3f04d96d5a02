//! The straight way: when it is taken, that nothing happens when it is not, and that what comes behind a call is seen to.

use dom0_abi::addr::GuestAddr;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, VcpuId};
use dom0_abi::xen::{MmuUpdate, UVMF_ALL, UVMF_INVLPG, UVMF_NONE, UVMF_TLB_FLUSH};

use oxen_arch::boot::CpuId;
use oxen_arch::registers::AtOnce;
use oxen_arch::sync::atomic::{AtomicBool, Ordering};

use crate::budget::Budget;
use crate::domain::vcpu::GuestMode;
use crate::domain::{Capabilities, Domain};
use crate::frame::{TypeState, UndoQueue};
use crate::hypercall::at_once;
use crate::page_type::entry::Entry;
use crate::page_type::hold::Reach;
use crate::page_type::{Level, PageType, TypeRef, promote, undo};
use crate::testing::{CODE, DATA, Guest, frame};
use crate::trap::entry;
use crate::trap::return_path::Next;

/// A page that each test unmaps.
const PAGE: u64 = DATA + 0x5000;
const SELF: u64 = DomId::SELF.get() as u64;
/// What a call at once comes to behind which nothing waits, and one behind which something does.
const DONE: Option<AtOnce> = Some(AtOnce {
    result: 0,
    is_settled: true,
});
const LEFT: Option<AtOnce> = Some(AtOnce {
    result: 0,
    is_settled: false,
});

fn at_once(guest: &Guest, call: Hypercall, arguments: [u64; 4]) -> Option<AtOnce> {
    at_once::hypercall(&guest.host, &guest.cpu, call.number(), arguments)
}

/// Unmaps the page.
fn unmap(guest: &Guest, flags: u64) -> Option<AtOnce> {
    at_once(guest, Hypercall::UpdateVaMapping, [PAGE, 0, flags, 0])
}

fn is_mapped(guest: &Guest) -> bool {
    guest.cpu.flush_tlb();
    guest.cpu.read_guest::<u64>(GuestAddr::new(PAGE)).is_ok()
}

/// Where the entry of the page is.
fn place(guest: &Guest) -> u64 {
    let mut table = guest.root;
    for shift in [39, 30, 21] {
        let at = table.word((PAGE >> shift & 511) as usize);
        table = Entry(guest.host.mem().load_u64(at).unwrap()).mfn();
    }
    table.word((PAGE >> 12 & 511) as usize).get()
}

#[test]
fn an_ordinary_call_is_made() {
    for flags in [UVMF_NONE, UVMF_INVLPG] {
        let guest = Guest::ordinary();
        assert!(is_mapped(&guest));
        assert_eq!(unmap(&guest, flags), DONE);
        assert!(!is_mapped(&guest));
    }
    let guest = Guest::ordinary();
    let ptr = place(&guest);
    guest.put(DATA, &MmuUpdate { ptr, val: 0 });
    let arguments = [DATA, 1, DATA + 64, SELF];
    // What is read a second time is something else (I12).
    guest.host.machine.spoil_guest_reads(true);
    assert_eq!(at_once(&guest, Hypercall::MmuUpdate, arguments), DONE);
    guest.host.machine.spoil_guest_reads(false);
    assert!(!is_mapped(&guest));
    assert_eq!(guest.get::<u32>(DATA + 64), 1);
}

#[test]
fn nothing_is_done_for_who_is_no_kernel() {
    let refused = |prepare: &dyn Fn(&Guest)| {
        let guest = Guest::ordinary();
        prepare(&guest);
        assert_eq!(unmap(&guest, UVMF_NONE), None);
        assert!(is_mapped(&guest));
    };
    refused(&|guest| guest.set_mode(GuestMode::User));
    refused(&|guest| assert!(guest.host.domains.leave(&guest.cpu).is_some()));
}

fn queue(domain: &Domain) -> &UndoQueue {
    &domain.vcpu(VcpuId::new(0)).unwrap().undo
}

/// Puts a table into the vCPU's queue of those that are to be undone.
fn drop_a_root(guest: &Guest) {
    let root = guest.empty_root();
    guest.domain(|domain| {
        let memory = guest.host.memory(&guest.cpu, queue(domain));
        drop(TypeRef::from_held(memory, root));
    });
}

#[test]
fn what_waits_is_seen_to_behind_the_call() {
    let left = |prepare: &dyn Fn(&Guest)| {
        let guest = Guest::ordinary();
        prepare(&guest);
        assert_eq!(unmap(&guest, UVMF_NONE), LEFT);
        assert!(!is_mapped(&guest));
    };
    left(&|guest| guest.domain(|domain| domain.vcpus().for_each(|vcpu| vcpu.signals.send_nmi())));
    left(&|guest| guest.cpu.raise_nmi());
    left(&|guest| {
        guest.raise_event();
        guest.set_mask(0);
    });
    left(&drop_a_root);
}

#[test]
fn an_event_that_the_call_itself_makes_deliverable_is_delivered() {
    let mut guest = Guest::ordinary();
    guest.state(|state| state.callbacks.event = CODE + 0x80);
    let ptr = place(&guest);
    let shared = guest.shared_info.start().get() | 7;
    assert_eq!(
        guest.call(Hypercall::UpdateVaMapping, [PAGE, shared, UVMF_INVLPG]),
        0
    );
    guest.put(DATA, &MmuUpdate { ptr, val: shared });
    // The number of requests done, 1, becomes what is pending, and a mask of 0.
    let regs = &mut guest.regs;
    (regs.rip, regs.rax) = (CODE, Hypercall::MmuUpdate.number());
    [regs.rdi, regs.rsi, regs.rdx, regs.r10] = [DATA, 1, PAGE, SELF];
    assert_eq!(guest.syscall(), Next::Guest);
    assert_eq!((guest.regs.rip, guest.regs.rax), (CODE + 0x80, 0));
}

#[test]
fn tables_are_undone_before_the_caller_goes_on() {
    let mut guest = Guest::ordinary();
    drop_a_root(&guest);
    assert!(!guest.domain(|domain| queue(domain).is_empty()));
    assert_eq!(
        guest.call(Hypercall::UpdateVaMapping, [PAGE, 0, UVMF_NONE]),
        0
    );
    assert!(guest.domain(|domain| queue(domain).is_empty()));
    // Nor with a budget that does not suffice.
    drop_a_root(&guest);
    guest.host.set_entry_budget(Budget::new(0));
    let regs = &mut guest.regs;
    (regs.rip, regs.rax) = (CODE, Hypercall::UpdateVaMapping.number());
    [regs.rdi, regs.rsi, regs.rdx] = [PAGE, 0, UVMF_NONE];
    assert_eq!(guest.syscall(), Next::Guest);
    assert_eq!(guest.regs.rip, CODE - 2);
}

/// Another CPU takes the table out of use while an entry of it is written, so that the write has the last reference.
#[test]
fn a_table_that_only_the_call_still_used_is_undone() {
    let mut guest = Guest::configured(DomId::new(7), Capabilities::empty(), |config| {
        config.cpus = 4;
    });
    let undo = UndoQueue::new();
    let table = frame(guest.host.memory(&guest.cpu, &undo), guest.domid);
    guest.put(
        DATA,
        &MmuUpdate {
            ptr: table.word(0).get(),
            val: 0,
        },
    );
    let is_over = AtomicBool::new(false);
    let Guest {
        host,
        cpu,
        regs,
        domid,
        ..
    } = &mut guest;
    let domain = host.domains.get(*domid).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (cpu, undo) = (host.machine.cpu(CpuId::new(2)), UndoQueue::new());
            let memory = host.memory(&cpu, &undo);
            let reach = Reach::own(host, &domain);
            while !is_over.load(Ordering::Relaxed) {
                let (ty, mut budget) = (PageType::Table(Level::L1), Budget::ENDLESS);
                // Refused while the other one undoes it, or writes to it as to any page.
                if let Ok(held) = promote::acquire(memory, &reach, table, ty, &mut budget) {
                    let is_shared = || match host.frames.type_state(table) {
                        Some(TypeState::InUse { count, .. }) => count > 1,
                        _ => false,
                    };
                    while !is_shared() && !is_over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                    drop(held);
                }
                assert!(undo::drain(memory, &mut budget));
            }
        });
        for _ in 0..100_000 {
            regs.rax = Hypercall::MmuUpdate.number();
            [regs.rdi, regs.rsi, regs.rdx, regs.r10] = [DATA, 1, 0, SELF];
            assert_eq!(entry::handle_syscall(host, cpu, regs), Next::Guest);
            assert!(queue(&domain).is_empty());
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn calls_that_may_be_more_go_the_general_way() {
    let guest = Guest::ordinary();
    for flags in [
        UVMF_TLB_FLUSH,
        UVMF_NONE | UVMF_ALL,
        UVMF_INVLPG | UVMF_ALL,
        3,
        DATA,
    ] {
        assert_eq!(unmap(&guest, flags), None);
    }
    let ptr = place(&guest);
    let foreign = u64::from(guest.domid.get());
    let requests = [
        (ptr, 1, foreign),
        (ptr, 0, SELF),
        (ptr, 2, SELF),
        (ptr | 1, 1, SELF),
        (ptr | 7, 1, SELF),
    ];
    for (ptr, count, foreign) in requests {
        guest.put(DATA, &MmuUpdate { ptr, val: 0 });
        let arguments = [DATA, count, DATA + 64, foreign];
        assert_eq!(at_once(&guest, Hypercall::MmuUpdate, arguments), None);
    }
    for call in Hypercall::ALL {
        if !matches!(call, Hypercall::UpdateVaMapping | Hypercall::MmuUpdate) {
            assert_eq!(at_once(&guest, *call, [0; 4]), None);
        }
    }
    assert!(is_mapped(&guest));
    assert_eq!(guest.get::<u32>(DATA + 64), 0);
}
