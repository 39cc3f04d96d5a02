//! Grants of the guest's to itself: a map with its end, and a copy of a page.

use dom0_abi::addr::GuestAddr;
use dom0_abi::grant_table::{
    CopyFlags, CopyPtr, GrantCopy, GrantTableCommand, GrantType, MapFlags, MapGrantRef, SetupTable,
    UnmapGrantRef,
};
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, GrantRef};
use guest_pv_drivers::hypercall;
use kit::page_tables::{Lab, WRITABLE, page};

use crate::Bench;

/// Where the table is mapped, and where the grant is.
const TABLE_SLOT: usize = 1;
const MAP_SLOT: usize = 2;
const REFERENCE: u32 = 9;

fn operate<T>(command: GrantTableCommand, operation: &mut T) -> u64 {
    let at = core::ptr::from_mut(operation).expose_provenance() as u64;
    // SAFETY: the callers hand over the structure of the command.
    unsafe {
        hypercall::raw(
            Hypercall::GrantTableOp.number(),
            [command.get().into(), at, 1, 0, 0],
        )
    }
}

/// As results of hypercalls are: an error has the highest bit set.
fn status(status: i16) -> u64 {
    i64::from(status).cast_unsigned()
}

pub fn measure(bench: &mut Bench, lab: &Lab) {
    let mut frame = 0_u64;
    let mut setup = SetupTable {
        dom: DomId::SELF,
        _pad0: 0,
        nr_frames: 1,
        status: -1,
        _pad1: [0; 3],
        frame_list: GuestHandle::new(GuestAddr::new((&raw mut frame).expose_provenance() as u64)),
    };
    operate(GrantTableCommand::SetupTable, &mut setup);
    // SAFETY: the hypervisor has written it.
    let mfn = unsafe { (&raw const frame).read_volatile() };
    if setup.status != 0 || lab.map(TABLE_SLOT, mfn << 12 | WRITABLE).is_err() {
        return bench.report.skip("grants", "no table");
    }
    let (granted, own) = (page(), page());
    let entry = u64::from(GrantType::PermitAccess as u16) | granted.mfn() << 32;
    let table = Lab::address(TABLE_SLOT) as usize + REFERENCE as usize * 8;
    // SAFETY: the table is mapped there, and Rust knows of nothing in it.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(table).write_volatile(entry) };

    let at = Lab::address(MAP_SLOT);
    bench.row("grant-map-and-unmap", |_| {
        // SAFETY: all fields are integers.
        let (mut map, mut unmap): (MapGrantRef, UnmapGrantRef) = unsafe { core::mem::zeroed() };
        (map.host_addr, map.flags) = (at, MapFlags::HOST_MAP.bits());
        (map.grant_ref, map.dom) = (GrantRef::new(REFERENCE), DomId::DOM0);
        let mapped = operate(GrantTableCommand::MapGrantRef, &mut map);
        (unmap.host_addr, unmap.handle) = (at, map.handle);
        let ended = operate(GrantTableCommand::UnmapGrantRef, &mut unmap);
        mapped | ended | status(map.status) | status(unmap.status)
    });
    bench.row("grant-copy-of-a-page", |_| {
        let end = |domid, u| CopyPtr {
            u,
            domid,
            offset: 0,
            _pad0: 0,
        };
        let mut copy = GrantCopy {
            source: end(DomId::DOM0, REFERENCE.into()),
            dest: end(DomId::SELF, own.mfn()),
            len: 4096,
            flags: CopyFlags::SOURCE_GREF.bits(),
            status: -1,
            _pad0: 0,
        };
        operate(GrantTableCommand::Copy, &mut copy) | status(copy.status)
    });
}
