//! The straight way: when it is taken, and that nothing happens when it is not.

use dom0_abi::addr::GuestAddr;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuUpdate, UVMF_ALL, UVMF_INVLPG, UVMF_NONE, UVMF_TLB_FLUSH};

use crate::domain::vcpu::GuestMode;
use crate::hypercall::at_once;
use crate::page_type::entry::Entry;
use crate::testing::{DATA, Guest};

/// A page that each test unmaps.
const PAGE: u64 = DATA + 0x5000;
const SELF: u64 = DomId::SELF.get() as u64;

fn at_once(guest: &Guest, call: Hypercall, arguments: [u64; 4]) -> Option<u64> {
    at_once::hypercall(&guest.host, &guest.cpu, call.number(), arguments)
}

/// Unmaps the page.
fn unmap(guest: &Guest, flags: u64) -> Option<u64> {
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
        assert_eq!(unmap(&guest, flags), Some(0));
        assert!(!is_mapped(&guest));
    }
    let guest = Guest::ordinary();
    let ptr = place(&guest);
    guest.put(DATA, &MmuUpdate { ptr, val: 0 });
    let arguments = [DATA, 1, DATA + 64, SELF];
    // What is read a second time is something else (I12).
    guest.host.machine.spoil_guest_reads(true);
    assert_eq!(at_once(&guest, Hypercall::MmuUpdate, arguments), Some(0));
    guest.host.machine.spoil_guest_reads(false);
    assert!(!is_mapped(&guest));
    assert_eq!(guest.get::<u32>(DATA + 64), 1);
}

#[test]
fn nothing_is_done_for_whom_something_waits() {
    let refused = |prepare: &dyn Fn(&Guest)| {
        let guest = Guest::ordinary();
        prepare(&guest);
        assert_eq!(unmap(&guest, UVMF_NONE), None);
        assert!(is_mapped(&guest));
    };
    refused(&|guest| guest.domain(|domain| domain.vcpus().for_each(|vcpu| vcpu.send_nmi())));
    refused(&|guest| guest.cpu.raise_nmi());
    refused(&|guest| {
        guest.raise_event();
        guest.set_mask(0);
    });
    refused(&|guest| guest.state(|state| state.mode = GuestMode::User));
    refused(&|guest| assert!(guest.host.domains.leave(&guest.cpu)));
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
