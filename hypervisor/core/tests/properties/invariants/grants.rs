//! I19 to I21: what grants allow, for how long, and what is left of them.

use dom0_abi::addr::GuestAddr;
use dom0_abi::grant_table::{
    CopyFlags, GrantCopy, GrantFlags, GrantStatus, GrantTableCommand, GrantType, MapFlags,
    MapGrantRef, QuerySize, SetupTable, UnmapAndReplace, UnmapGrantRef,
};
use dom0_abi::handle::GuestHandle;
use dom0_abi::ids::{DomId, GrantRef};
use dom0_abi::memory::{AcquireResource, MemoryCommand, ResourceType};
use oxen_core::grant::{GrantTable, Limits};
use zerocopy::{FromBytes, Immutable};

use super::*;
use crate::world::{GRANT_TABLE, WINDOW};

const HOST: u32 = MapFlags::HOST_MAP.bits();
const DEVICE: u32 = MapFlags::DEVICE_MAP.bits();
const READONLY: u32 = MapFlags::READONLY.bits();
const BY_ENTRY: u32 = MapFlags::CONTAINS_PTE.bits();
const PERMIT: u16 = GrantType::PermitAccess as u16;
const READING: u16 = GrantFlags::READING.bits();
const WRITING: u16 = GrantFlags::WRITING.bits();

const OKAY: i16 = GrantStatus::Okay as i16;
const GENERAL: i16 = GrantStatus::GeneralError as i16;
const BAD_REF: i16 = GrantStatus::BadGntref as i16;
const BAD_HANDLE: i16 = GrantStatus::BadHandle as i16;

/// Who grants, and who maps.
const GRANTER: usize = 1;
const MAPPER: usize = 2;

impl World {
    /// Makes operations of one kind, and returns what became of them.
    fn grant_ops<T>(&mut self, slot: usize, command: GrantTableCommand, ops: &[T]) -> Vec<T>
    where
        T: IntoBytes + FromBytes + Immutable,
    {
        let at = linear(ARGS);
        assert!(self.write(slot, 0, at, ops.as_bytes()));
        let args = [command.get().into(), at, ops.len() as u64, 0, 0];
        let number = Hypercall::GrantTableOp.number();
        assert_eq!(returned(self.call_whole(slot, 0, number, args)), 0);
        let mut bytes = vec![0; size_of_val(ops)];
        assert!(self.read(slot, 0, at, &mut bytes));
        let parts = bytes.chunks(size_of::<T>());
        parts
            .map(|part| T::read_from_bytes(part).unwrap())
            .collect()
    }

    /// Grants a frame.
    fn grant(&mut self, slot: usize, reference: u32, flags: u16, to: DomId, frame: Mfn) {
        let entry = u64::from(flags) | u64::from(to.get()) << 16 | frame.get() << 32;
        let at = linear(GRANT_TABLE) + u64::from(reference) * 8;
        assert!(self.write(slot, 0, at, &entry.to_le_bytes()));
    }

    /// The flags of a grant.
    fn grant_flags(&self, slot: usize, reference: u32) -> u16 {
        let mut flags = [0; 2];
        let at = linear(GRANT_TABLE) + u64::from(reference) * 8;
        assert!(self.read(slot, 0, at, &mut flags));
        u16::from_le_bytes(flags)
    }

    fn map_op(&self, reference: u32, flags: u32, host_addr: u64) -> MapGrantRef {
        let mut op = MapGrantRef::new_zeroed();
        (op.dom, op.grant_ref) = (self.players[GRANTER].id, GrantRef::new(reference));
        (op.flags, op.host_addr) = (flags, host_addr);
        op
    }

    fn map_grant(&mut self, reference: u32, flags: u32, host_addr: u64) -> MapGrantRef {
        let op = self.map_op(reference, flags, host_addr);
        self.grant_ops(MAPPER, GrantTableCommand::MapGrantRef, &[op])
            .remove(0)
    }

    fn unmap_grant(&mut self, handle: u32, host_addr: u64, dev_bus_addr: u64) -> i16 {
        let mut op = UnmapGrantRef::new_zeroed();
        (op.handle, op.host_addr, op.dev_bus_addr) = (handle, host_addr, dev_bus_addr);
        self.grant_ops(MAPPER, GrantTableCommand::UnmapGrantRef, &[op])[0].status
    }

    /// Grants the frame of a place to the mapper, under reference 9.
    fn granted(&mut self, index: usize, flags: u16) -> Mfn {
        let (mapper, frame) = (self.players[MAPPER].id, self.frame(GRANTER, index));
        self.grant(GRANTER, 9, PERMIT | flags, mapper, frame);
        frame
    }
}

fn window(page: u64) -> u64 {
    linear(WINDOW) + page * 0x1000
}

#[test]
fn i19_a_map_ends_once_and_for_every_cpu() {
    for config in all_modes() {
        let mut world = World::new(config);
        let frame = world.granted(MAPPED, 0);
        let mapped = world.map_grant(9, HOST, window(0));
        assert_eq!(mapped.status, OKAY);
        assert_eq!(mapped.dev_bus_addr, frame.start().get());
        assert_eq!(world.grant_flags(GRANTER, 9), PERMIT | READING | WRITING);
        world.sound();
        // Both CPUs remember it.
        for seat in 0..2 {
            assert!(world.write(MAPPER, seat, window(0), &[0x5a; 8]));
        }
        assert_eq!(
            world.host.mem().load_u64(frame.at(0)),
            Ok(0x5a5a_5a5a_5a5a_5a5a)
        );
        world.sound();
        assert_eq!(world.unmap_grant(mapped.handle, window(0), 0), OKAY);
        assert_eq!(world.grant_flags(GRANTER, 9), PERMIT);
        for seat in 0..2 {
            assert!(!world.write(MAPPER, seat, window(0), &[0xa5; 8]));
        }
        world.sound();
        assert_eq!(
            world.unmap_grant(mapped.handle, window(0), 0),
            BAD_HANDLE,
            "there is nothing to end any more"
        );
        world.sound();
        world.finish().unwrap();
    }
}

#[test]
fn i19_parts_of_a_map_end_one_by_one_or_together() {
    for order in 0..3 {
        for access in [0, READONLY] {
            let mut world = world();
            let frame = world.granted(MAPPED, 0).start().get();
            let mapped = world.map_grant(9, HOST | DEVICE | access, window(0));
            assert_eq!(mapped.status, OKAY);
            world.sound();
            assert_eq!(
                world.unmap_grant(mapped.handle, 0, 0),
                OKAY,
                "nothing is asked for"
            );
            let bad = world.unmap_grant(mapped.handle, window(0), frame + 0x1000);
            assert_eq!(bad, GrantStatus::BadDevAddr as i16);
            world.sound();
            let steps: &[_] = match order {
                0 => &[(window(0), frame)],
                1 => &[(window(0), 0), (0, frame)],
                _ => &[(0, frame), (window(0), 0)],
            };
            for (index, &(host_addr, dev_bus_addr)) in steps.iter().enumerate() {
                assert_ne!(world.grant_flags(GRANTER, 9), PERMIT, "before step {index}");
                let status = world.unmap_grant(mapped.handle, host_addr, dev_bus_addr);
                assert_eq!(status, OKAY);
                world.sound();
            }
            assert_eq!(world.grant_flags(GRANTER, 9), PERMIT);
            assert_eq!(
                world.unmap_grant(mapped.handle, window(0), frame),
                BAD_HANDLE
            );
            world.finish().unwrap();
        }
    }
}

#[test]
fn i19_an_entry_that_the_guest_has_overwritten_keeps_the_grant_until_the_end() {
    let mut world = world();
    let frame = world.granted(MAPPED, 0);
    let mapped = world.map_grant(9, HOST, window(0));
    // A CPU remembers it, and nobody flushes.
    assert!(world.write(MAPPER, 0, window(0), &[0; 8]));
    assert_eq!(world.map(MAPPER, WINDOW, 0, 0), 0);
    world.sound();
    assert_eq!(world.grant_flags(GRANTER, 9), PERMIT | READING | WRITING);
    assert_eq!(world.unmap_grant(mapped.handle, window(0), 0), GENERAL);
    // The granter may make it something else: then nobody remembers it.
    assert_eq!(world.map(GRANTER, MAPPED, 0, 0), 0);
    assert_eq!(world.extended(GRANTER, PIN_L1, frame), 0);
    assert!(!world.write(MAPPER, 0, window(0), &[2; 8]));
    world.sound();
    // It may give it back, but nobody gets it.
    assert_eq!(world.extended(GRANTER, UNPIN, frame), 0);
    let id = world.players[GRANTER].id;
    let undo = UndoQueue::new();
    let memory = world.memory(2, &undo);
    memory.release_domain_frame(frame, id).unwrap();
    assert_eq!(world.host.frames.reference_count(frame), 1);
    world.sound();
    world.kill(MAPPER);
    world.tear_down(0, 0, Budget::ENDLESS);
    assert_eq!(world.host.frames.reference_count(frame), 0);
    assert_eq!(world.grant_flags(GRANTER, 9), PERMIT);
    world.sound();
    world.finish().unwrap();
}

#[test]
fn i19_any_entry_by_which_the_frame_is_mapped_so_will_do() {
    let mut world = world();
    world.granted(MAPPED, 0);
    let one = world.map_grant(9, HOST, window(0));
    let other = world.map_grant(9, HOST | READONLY, window(1));
    assert_eq!((one.status, other.status), (OKAY, OKAY));
    // It allows something else.
    assert_eq!(world.unmap_grant(one.handle, window(1), 0), GENERAL);
    assert_eq!(world.unmap_grant(other.handle, window(0), 0), GENERAL);
    // It leads elsewhere: to what another grant gives, to the mapper's own page.
    let elsewhere = world.frame(GRANTER, LOOSE + 3);
    let (granter, mapper) = (world.players[GRANTER].id, world.players[MAPPER].id);
    world.grant(GRANTER, 10, PERMIT, mapper, elsewhere);
    let another = world.map_grant(10, HOST, window(3));
    assert_eq!((another.status, another.dom), (OKAY, granter));
    for address in [window(3), linear(MAPPED)] {
        assert_eq!(world.unmap_grant(one.handle, address, 0), GENERAL);
        world.sound();
    }
    assert_eq!(world.unmap_grant(another.handle, window(3), 0), OKAY);
    let third = world.map_grant(9, HOST, window(2));
    assert_eq!(world.unmap_grant(one.handle, window(2), 0), OKAY);
    assert_eq!(world.grant_flags(GRANTER, 9), PERMIT | READING | WRITING);
    world.sound();
    assert_eq!(world.unmap_grant(third.handle, window(0), 0), OKAY);
    assert_eq!(world.grant_flags(GRANTER, 9), PERMIT | READING);
    assert_eq!(world.unmap_grant(other.handle, window(1), 0), OKAY);
    world.sound();
    world.finish().unwrap();
}

#[test]
fn i20_a_grant_gives_no_more_than_it_says() {
    let mut world = world();
    let (mapper, other) = (world.players[MAPPER].id, world.players[0].id);
    let frame = world.frame(GRANTER, MAPPED);
    let table = world.frame(GRANTER, L1);
    let foreign = world.frame(0, MAPPED);
    let readonly = GrantFlags::READONLY.bits();
    let bad_page = GrantStatus::BadPage as i16;
    let transfer = GrantType::AcceptTransfer as u16;
    let sub_page = GrantFlags::SUB_PAGE.bits();
    let uncached = GrantFlags::PCD.bits();
    for (flags, to, frame, how, wanted) in [
        (PERMIT, mapper, frame, HOST, OKAY),
        (PERMIT, mapper, frame, 0, BAD_REF),
        (PERMIT, mapper, frame, READONLY, BAD_REF),
        (PERMIT, other, frame, HOST, GENERAL),
        (0, mapper, frame, HOST, GENERAL),
        (transfer, mapper, frame, HOST, GENERAL),
        (3, mapper, frame, HOST, GENERAL),
        (PERMIT | sub_page, mapper, frame, HOST, GENERAL),
        (PERMIT | readonly, mapper, frame, HOST, GENERAL),
        (PERMIT | readonly, mapper, frame, DEVICE, GENERAL),
        (PERMIT | readonly, mapper, frame, HOST | READONLY, OKAY),
        (PERMIT | uncached, mapper, frame, HOST, GENERAL),
        (PERMIT, mapper, table, HOST, GENERAL),
        (PERMIT, mapper, table, DEVICE, GENERAL),
        (PERMIT, mapper, table, HOST | READONLY, OKAY),
        (PERMIT, mapper, foreign, HOST, bad_page),
        (PERMIT, mapper, foreign, HOST | READONLY, bad_page),
        (PERMIT, mapper, Mfn::new(0xffff_ffff), HOST, bad_page),
        (PERMIT, mapper, Mfn::new(0xfee00), HOST, bad_page),
    ] {
        world.grant(GRANTER, 9, flags, to, frame);
        let before = world.books();
        let mapped = world.map_grant(9, how, window(0));
        let what = format!("{flags:#x} to {to} of {frame}, {how:#x}");
        assert_eq!(mapped.status, wanted, "{what}");
        world.sound();
        let may_write = wanted == OKAY && how & READONLY == 0;
        assert_eq!(
            world.write(MAPPER, 0, window(0), &[7; 8]),
            may_write,
            "{what}"
        );
        if wanted == OKAY {
            assert_eq!(world.unmap_grant(mapped.handle, window(0), 0), OKAY);
        }
        assert_eq!(world.grant_flags(GRANTER, 9), flags, "{what}");
        assert_eq!(before.difference(&world.books()), None, "{what}");
    }
    world.granted(MAPPED, 0);
    for (reference, dom, wanted) in [
        (511, world.players[GRANTER].id, GENERAL),
        (512, world.players[GRANTER].id, BAD_REF),
        (u32::MAX, world.players[GRANTER].id, BAD_REF),
        (9, DomId::new(900), GrantStatus::BadDomain as i16),
        (9, DomId::SELF, GrantStatus::BadDomain as i16),
        (9, DomId::XEN, GrantStatus::BadDomain as i16),
    ] {
        let mut op = world.map_op(reference, HOST, window(0));
        op.dom = dom;
        let done = world.grant_ops(MAPPER, GrantTableCommand::MapGrantRef, &[op]);
        assert_eq!(done[0].status, wanted, "{reference} of {dom}");
    }
    // Where there is no table, or none of the caller's, or not quite an entry (XSA-227).
    let own = world.at(MAPPER, L1, WINDOW as u64);
    let others = world.at(GRANTER, L1, WINDOW as u64);
    let above = world.at(MAPPER, L2, 9);
    let plain = world.at(MAPPER, MAPPED, 0);
    for (flags, at, wanted) in [
        (HOST, 0x7f00_0000_0000, GENERAL),
        (HOST, 0xffff_8000_0000_0000, GENERAL),
        (HOST, 1 << 47, GENERAL),
        (HOST | BY_ENTRY, own, OKAY),
        (HOST | BY_ENTRY, own + 1, GENERAL),
        (HOST | BY_ENTRY, own + 4, GENERAL),
        (HOST | BY_ENTRY, others, GENERAL),
        (HOST | BY_ENTRY, above, GENERAL),
        (HOST | BY_ENTRY, plain, GENERAL),
        (HOST | BY_ENTRY, !7, GENERAL),
    ] {
        let before = world.books();
        let mapped = world.map_grant(9, flags, at);
        assert_eq!(mapped.status, wanted, "{at:#x}");
        world.sound();
        if wanted == OKAY {
            assert_eq!(world.unmap_grant(mapped.handle, at + 8, 0), GENERAL);
            assert_eq!(world.unmap_grant(mapped.handle, at, 0), OKAY);
        }
        assert_eq!(before.difference(&world.books()), None, "{at:#x}");
    }
    world.finish().unwrap();
}

/// What the entry is, to the bit: it is the kernel's unless it is for applications, and takes the bits that the guest chose.
#[test]
fn i20_the_entry_of_a_map_is_what_was_asked_for() {
    let mut world = world();
    let frame = world.granted(MAPPED, 0).start().get();
    let application = MapFlags::APPLICATION_MAP.bits();
    let (kernels, global, nx) = (1 << 52, 1 << 8, 1_u64 << 63);
    for (flags, bits) in [
        (HOST, 0x67 | kernels | nx),
        (HOST | READONLY, 0x65 | kernels | nx),
        (HOST | application, 0x67 | global | nx),
        (HOST | application | READONLY | 1 << 16, 0x265 | global | nx),
        (HOST | 0xffff << 16, 0xe67 | kernels | nx),
    ] {
        let mapped = world.map_grant(9, flags, window(3));
        assert_eq!(mapped.status, OKAY);
        let at = world.frame(MAPPER, L1).word(WINDOW + 3);
        assert_eq!(
            world.host.mem().load_u64(at),
            Ok(frame | bits),
            "{flags:#x}"
        );
        // The guest cannot make more of it, nor keep it elsewhere.
        let maddr = world.at(MAPPER, L1, WINDOW as u64 + 3);
        for (at, entry) in [
            (maddr, frame | 7),
            (maddr + 8, frame | 7),
            (maddr + 8, frame | 5),
        ] {
            assert_eq!(
                world.update(MAPPER, SELF, &[(at, entry)]),
                BUSY,
                "{flags:#x}"
            );
        }
        world.sound();
        assert_eq!(world.unmap_grant(mapped.handle, window(3), 0), OKAY);
    }
    world.finish().unwrap();
}

#[test]
fn i21_granters_and_mappers_end_in_any_order() {
    for config in all_modes() {
        for first in [GRANTER, MAPPER] {
            for flags in [
                HOST,
                DEVICE,
                HOST | DEVICE,
                HOST | READONLY,
                DEVICE | READONLY,
            ] {
                for units in [25, 40, 99_999] {
                    let mut world = World::new(config);
                    let frame = world.granted(MAPPED, 0);
                    let mapped = world.map_grant(9, flags, window(0));
                    assert_eq!(mapped.status, OKAY);
                    let second = GRANTER + MAPPER - first;
                    let id = world.players[first].id;
                    world.kill(first);
                    for _ in 0..400 {
                        if world.dying.first() == Some(&id) {
                            world.tear_down(0, 1, Budget::new(units));
                        }
                        if units > 40 {
                            world.sound();
                        }
                    }
                    world.sound();
                    let is_left = world.dying.contains(&id);
                    assert_eq!(is_left, first == GRANTER, "a granter stays for its maps");
                    if first == GRANTER {
                        assert_eq!(world.host.frames.owner(frame), None);
                        let reaches = world.write(MAPPER, 0, window(0), &[3; 8]);
                        assert_eq!(reaches, flags & HOST != 0 && flags & READONLY == 0);
                        let mut op = world.map_op(9, HOST, window(1));
                        op.dom = id;
                        let again = world.grant_ops(MAPPER, GrantTableCommand::MapGrantRef, &[op]);
                        assert_eq!(
                            again[0].status, GENERAL,
                            "nothing new of a domain that ends"
                        );
                        let bus = frame.start().get();
                        assert_eq!(world.unmap_grant(mapped.handle, window(0), bus), OKAY);
                        world.tear_down(0, 1, Budget::ENDLESS);
                        assert!(!world.dying.contains(&id));
                    } else {
                        assert_eq!(world.grant_flags(GRANTER, 9), PERMIT);
                    }
                    world.kill(second);
                    world.sound();
                    world.finish().unwrap();
                }
            }
        }
    }
}

/// Its end has begun, and its frames are still there.
#[test]
fn i21_a_table_that_is_closed_gives_nothing() {
    let mut world = world();
    world.granted(MAPPED, 0);
    let first = world.map_grant(9, HOST | READONLY, window(0));
    let id = world.players[GRANTER].id;
    world.kill(GRANTER);
    world.tear_down(0, 1, Budget::new(14));
    let domain = world.host.domains.get(id).unwrap();
    let table = domain.grants.frame(world.host.mem(), 0).unwrap();
    drop(domain);
    let flags = |world: &World| world.host.mem().load_u16(table.word(9)).unwrap();
    assert_eq!(flags(&world), PERMIT | READING);
    for access in [0, READONLY] {
        let mut op = world.map_op(9, HOST | access, window(1));
        op.dom = id;
        let done = world.grant_ops(MAPPER, GrantTableCommand::MapGrantRef, &[op]);
        assert_eq!(done[0].status, GENERAL);
    }
    assert_eq!(world.unmap_grant(first.handle, window(0), 0), OKAY);
    assert_eq!(
        flags(&world),
        PERMIT | READING,
        "nobody touches it any more"
    );
    world.sound();
    world.finish().unwrap();
}

#[test]
fn i10_a_long_list_of_grants_ends_alike_with_and_without_budget() {
    let mut results = Vec::new();
    for budget in [Budget::ENDLESS, Budget::new(25), Budget::new(90)] {
        let mut world = world();
        world.granted(MAPPED, 0);
        world.host.set_entry_budget(budget);
        let maps: Vec<_> = (0..40)
            .map(|page| world.map_op(9 + u32::from(page % 7 == 6), HOST, window(page)))
            .collect();
        let mapped = world.grant_ops(MAPPER, GrantTableCommand::MapGrantRef, &maps);
        world.sound();
        let unmaps: Vec<_> = mapped
            .iter()
            .map(|mapped| {
                let mut op = UnmapGrantRef::new_zeroed();
                let is_mapped = mapped.status == OKAY;
                op.handle = if is_mapped { mapped.handle } else { u32::MAX };
                op.host_addr = mapped.host_addr;
                op
            })
            .collect();
        let unmapped = world.grant_ops(MAPPER, GrantTableCommand::UnmapGrantRef, &unmaps);
        world.sound();
        assert_eq!(world.grant_flags(GRANTER, 9), PERMIT);
        let statuses = |index: usize| (mapped[index].status, unmapped[index].status);
        results.push((0..40).map(statuses).collect::<Vec<_>>());
        world.finish().unwrap();
    }
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
    assert_eq!(
        results[0].iter().filter(|status| status.0 == OKAY).count(),
        35
    );
}

#[test]
fn i23_tables_and_handles_grow_to_their_limits() {
    let mut world = world();
    world.granted(MAPPED, 0);
    let id = world.players[MAPPER].id;
    let pages = |world: &World| {
        let domain = world.host.domains.get(id).unwrap();
        domain.nr_pages(&world.host.frames)
    };
    let before = pages(&world);
    let mut size = QuerySize::new_zeroed();
    size.dom = DomId::SELF;
    let told = world.grant_ops(MAPPER, GrantTableCommand::QuerySize, &[size]);
    assert_eq!(
        (told[0].status, told[0].nr_frames, told[0].max_nr_frames),
        (OKAY, 1, 64)
    );
    for (asked, wanted) in [(0, OKAY), (5, OKAY), (64, OKAY), (65, GENERAL), (3, OKAY)] {
        world.host.set_entry_budget(Budget::new(30));
        let mut setup = SetupTable::new_zeroed();
        (setup.dom, setup.nr_frames) = (DomId::SELF, asked);
        setup.frame_list = GuestHandle::new(GuestAddr::new(linear(ARGS) + 64));
        let done = world.grant_ops(MAPPER, GrantTableCommand::SetupTable, &[setup]);
        assert_eq!(done[0].status, wanted, "{asked}");
        world.sound();
    }
    assert_eq!(pages(&world), before, "nobody counts them as its memory");
    let told = world.grant_ops(MAPPER, GrantTableCommand::QuerySize, &[size]);
    assert_eq!(told[0].nr_frames, 64);
    world.host.set_entry_budget(Budget::ENDLESS);
    // A grant can be in use so often and no more.
    let maps: Vec<_> = (0..100).map(|_| world.map_op(9, DEVICE, 0)).collect();
    let mut handles = Vec::new();
    for _ in 0..3 {
        let mapped = world.grant_ops(MAPPER, GrantTableCommand::MapGrantRef, &maps);
        handles.extend(
            mapped
                .iter()
                .filter(|op| op.status == OKAY)
                .map(|op| op.handle),
        );
    }
    assert_eq!(handles.len(), 255);
    world.sound();
    handles.sort_unstable();
    handles.dedup();
    assert_eq!(handles.len(), 255, "each has one handle");
    world.finish().unwrap();
    let most = GrantTable::new(Limits {
        max_grant_frames: u32::MAX,
        max_maptrack_frames: u32::MAX,
    });
    assert_eq!(most.max_frames(), 512);
}

#[test]
fn i20_copies_reach_what_is_granted_and_no_byte_beyond() {
    let mut world = world();
    let (source, dest) = (world.frame(GRANTER, MAPPED), world.frame(MAPPER, MAPPED));
    let (granter, mapper) = (world.players[GRANTER].id, world.players[MAPPER].id);
    let text: Vec<u8> = (0..4096_u32).map(|byte| (byte * 7 % 251) as u8).collect();
    let readonly = GrantFlags::READONLY.bits();
    let (from_ref, to_ref) = (CopyFlags::SOURCE_GREF.bits(), CopyFlags::DEST_GREF.bits());
    let own = DomId::SELF;
    let denied = GrantStatus::PermissionDenied as i16;
    let bad_arg = GrantStatus::BadCopyArg as i16;
    let bad_page = GrantStatus::BadPage as i16;
    let bad_domain = GrantStatus::BadDomain as i16;
    let root = world.frame(MAPPER, ROOT).get();
    // Flags of the grant; source, destination; offsets, length, flags; how it ends.
    for (grant, from, to, [at, into, len], flags, wanted) in [
        (
            PERMIT,
            (granter, 9),
            (own, dest.get()),
            [0, 0, 4096],
            from_ref,
            OKAY,
        ),
        (
            PERMIT,
            (granter, 9),
            (own, dest.get()),
            [3, 5, 1001],
            from_ref,
            OKAY,
        ),
        (
            PERMIT,
            (granter, 9),
            (own, dest.get()),
            [4095, 0, 1],
            from_ref,
            OKAY,
        ),
        (
            PERMIT,
            (granter, 9),
            (own, dest.get()),
            [4096, 0, 0],
            from_ref,
            OKAY,
        ),
        (
            PERMIT,
            (granter, 9),
            (own, dest.get()),
            [4095, 0, 2],
            from_ref,
            bad_arg,
        ),
        (
            PERMIT,
            (granter, 9),
            (own, dest.get()),
            [0, 1, 4096],
            from_ref,
            bad_arg,
        ),
        (
            PERMIT,
            (granter, 9),
            (own, dest.get()),
            [65535, 65535, 65535],
            from_ref,
            bad_arg,
        ),
        (
            PERMIT | readonly,
            (granter, 9),
            (own, dest.get()),
            [0, 0, 99],
            from_ref,
            OKAY,
        ),
        (
            PERMIT | readonly,
            (own, dest.get()),
            (granter, 9),
            [0, 0, 99],
            to_ref,
            GENERAL,
        ),
        (
            PERMIT,
            (own, dest.get()),
            (granter, 9),
            [8, 16, 99],
            to_ref,
            OKAY,
        ),
        (
            PERMIT,
            (granter, 9),
            (granter, 9),
            [0, 100, 99],
            from_ref | to_ref,
            OKAY,
        ),
        (
            0,
            (granter, 9),
            (own, dest.get()),
            [0, 0, 99],
            from_ref,
            GENERAL,
        ),
        (
            PERMIT,
            (granter, 512),
            (own, dest.get()),
            [0, 0, 99],
            from_ref,
            BAD_REF,
        ),
        (
            PERMIT,
            (granter, source.get()),
            (own, dest.get()),
            [0, 0, 99],
            0,
            denied,
        ),
        (
            PERMIT,
            (mapper, dest.get()),
            (own, dest.get()),
            [0, 0, 99],
            0,
            denied,
        ),
        (
            PERMIT,
            (own, dest.get()),
            (granter, source.get()),
            [0, 0, 99],
            0,
            denied,
        ),
        (
            PERMIT,
            (DomId::new(900), 9),
            (own, dest.get()),
            [0, 0, 99],
            from_ref,
            bad_domain,
        ),
        (
            PERMIT,
            (granter, 9),
            (own, source.get()),
            [0, 0, 99],
            from_ref,
            bad_page,
        ),
        (
            PERMIT,
            (own, source.get()),
            (own, dest.get()),
            [0, 0, 99],
            0,
            bad_page,
        ),
        (
            PERMIT,
            (granter, 9),
            (own, root),
            [0, 0, 99],
            from_ref,
            GENERAL,
        ),
    ] {
        world.grant(GRANTER, 9, grant, mapper, source);
        assert!(world.write(GRANTER, 0, linear(MAPPED), &text));
        assert!(world.write(MAPPER, 0, linear(MAPPED), &[0; 4096]));
        let before = world.books();
        let mut op = GrantCopy::new_zeroed();
        (op.source.domid, op.source.u, op.source.offset) = (from.0, from.1, at);
        (op.dest.domid, op.dest.u, op.dest.offset) = (to.0, to.1, into);
        (op.len, op.flags) = (len, flags);
        let done = world.grant_ops(MAPPER, GrantTableCommand::Copy, &[op]);
        let what = format!("{grant:#x}: {op:?}");
        assert_eq!(done[0].status, wanted, "{what}");
        assert_eq!(world.grant_flags(GRANTER, 9), grant, "{what}");
        assert_eq!(before.difference(&world.books()), None, "{what}");
        let (mut here, mut there) = (vec![0; 4096], vec![0; 4096]);
        assert!(world.read(MAPPER, 0, linear(MAPPED), &mut here));
        assert!(world.read(GRANTER, 0, linear(MAPPED), &mut there));
        let (mut now_here, mut now_there) = (vec![0; 4096], text.clone());
        if wanted == OKAY {
            let (at, into, len) = (usize::from(at), usize::from(into), usize::from(len));
            let part = if from.0 == granter { &text } else { &now_here }[at..at + len].to_vec();
            let target = if to.0 == granter {
                &mut now_there
            } else {
                &mut now_here
            };
            target[into..into + len].copy_from_slice(&part);
        }
        assert!(here == now_here && there == now_there, "{what}");
        world.sound();
    }
    world.finish().unwrap();
}

#[test]
fn i09_an_entry_moves_into_the_place_of_a_map_or_stays() {
    let mut world = world();
    world.granted(MAPPED, 0);
    let own = world.to(MAPPER, LOOSE, WRITABLE);
    assert_eq!(world.map(MAPPER, WINDOW + 1, own, 0), 0);
    let slot = |world: &World, page: usize| {
        let at = world.frame(MAPPER, L1).word(WINDOW + page);
        world.host.mem().load_u64(at).unwrap() & !MARKS
    };
    let entry = slot(&world, 1);
    let mapped = world.map_grant(9, HOST, window(0));
    let mut op = UnmapAndReplace::new_zeroed();
    op.handle = mapped.handle;
    // Not mapped there; from where there is no table; from itself.
    for (host_addr, new_addr) in [
        (window(2), window(1)),
        (window(0), 0x7f00_0000_0000),
        (window(0), window(0)),
    ] {
        let before = world.books();
        (op.host_addr, op.new_addr) = (host_addr, new_addr);
        let done = world.grant_ops(MAPPER, GrantTableCommand::UnmapAndReplace, &[op]);
        assert_eq!(done[0].status, GENERAL, "{host_addr:#x} {new_addr:#x}");
        assert_eq!(before.difference(&world.books()), None);
        world.sound();
    }
    (op.host_addr, op.new_addr) = (window(0), window(1));
    let done = world.grant_ops(MAPPER, GrantTableCommand::UnmapAndReplace, &[op]);
    assert_eq!(done[0].status, OKAY);
    assert_eq!((slot(&world, 0), slot(&world, 1)), (entry, 0));
    assert_eq!(world.grant_flags(GRANTER, 9), PERMIT);
    assert!(world.write(MAPPER, 0, window(0), &[1; 8]));
    world.sound();
    world.finish().unwrap();
}

/// The granter changes its entry while it is in use: what is in use stays so.
#[test]
fn i12_a_grant_in_use_is_what_it_was() {
    let mut world = world();
    let frame = world.granted(MAPPED, 0);
    let first = world.map_grant(9, HOST | READONLY, window(0));
    let other = world.frame(GRANTER, LOOSE + 3);
    let mapper = world.players[MAPPER].id;
    world.grant(GRANTER, 9, PERMIT | READING, mapper, other);
    let second = world.map_grant(9, HOST | READONLY, window(1));
    assert_eq!(second.status, OKAY);
    assert_eq!(
        second.dev_bus_addr,
        frame.start().get(),
        "the frame that it had"
    );
    // Whoever wants to write asks again.
    world.grant(
        GRANTER,
        9,
        PERMIT | GrantFlags::READONLY.bits(),
        mapper,
        other,
    );
    assert_eq!(world.map_grant(9, HOST, window(2)).status, GENERAL);
    world.grant(GRANTER, 9, 0, DomId::new(0), Mfn::new(0));
    world.sound();
    for (page, mapped) in [first, second].into_iter().enumerate() {
        assert_eq!(
            world.unmap_grant(mapped.handle, window(page as u64), 0),
            OKAY
        );
    }
    assert_eq!(
        world.map_grant(9, HOST | READONLY, window(0)).status,
        GENERAL
    );
    world.sound();
    world.finish().unwrap();
}

/// What the toolstack needs to fill a new domain's table: its frames, mapped as that domain's.
#[test]
fn i28_the_control_domain_gets_frames_of_tables_and_nobody_else_does() {
    let mut world = world();
    let id = world.players[GRANTER].id;
    let number = Hypercall::MemoryOp.number();
    let command = u64::from(MemoryCommand::AcquireResource.get());
    let list = linear(ARGS) + 256;
    let ask = |world: &mut World, slot: usize, op: AcquireResource| {
        assert!(world.write(slot, 0, linear(ARGS), op.as_bytes()));
        let args = [command, linear(ARGS), 0, 0, 0];
        let answer = returned(world.call_whole(slot, 0, number, args));
        let mut nr_frames = [0; 4];
        let at = linear(ARGS) + core::mem::offset_of!(AcquireResource, nr_frames) as u64;
        assert!(world.read(slot, 0, at, &mut nr_frames));
        (answer, u32::from_le_bytes(nr_frames))
    };
    let mut plain = AcquireResource::new_zeroed();
    (plain.domid, plain.kind) = (id, ResourceType::GrantTable as u16);
    (plain.nr_frames, plain.frame_list) = (1, GuestHandle::new(GuestAddr::new(list)));
    let with = |change: &dyn Fn(&mut AcquireResource)| {
        let mut op = plain;
        change(&mut op);
        op
    };
    let nowhere = GuestHandle::new(GuestAddr::new(0));
    let size = with(&|op| (op.nr_frames, op.frame_list) = (0, nowhere));
    assert_eq!(ask(&mut world, 0, size), (0, 64));
    for (op, wanted) in [
        (with(&|op| op.pad = 1), INVALID),
        (with(&|op| op.id = 1), INVALID),
        (with(&|op| op.kind = 0), INVALID),
        (with(&|op| op.kind = 9), INVALID),
        (with(&|op| op.frame = 64), INVALID),
        (with(&|op| op.frame = u64::MAX), INVALID),
        (with(&|op| op.nr_frames = 65), INVALID),
        (with(&|op| op.frame_list = nowhere), INVALID),
        (
            with(&|op| op.domid = DomId::new(900)),
            Errno::ESRCH.as_return(),
        ),
        (with(&|op| op.domid = DomId::SELF), Errno::ESRCH.as_return()),
        (with(&|op| op.domid = DomId::DOM0), FORBIDDEN),
    ] {
        assert_eq!(ask(&mut world, 0, op).0, wanted, "{op:?}");
    }
    assert_eq!(ask(&mut world, MAPPER, plain).0, FORBIDDEN);
    world.sound();
    world.host.set_entry_budget(Budget::new(30));
    assert_eq!(
        ask(&mut world, 0, with(&|op| (op.frame, op.nr_frames) = (1, 3))).0,
        0
    );
    world.host.set_entry_budget(Budget::ENDLESS);
    assert_eq!(ask(&mut world, 0, plain).0, 0);
    let mut mfn = [0; 8];
    assert!(world.read(0, 0, list, &mut mfn));
    let table = Mfn::new(u64::from_le_bytes(mfn));
    world.sound();
    // Mapped as the other domain's, an entry in it grants.
    let entry = table.start().get() | PRESENT | WRITABLE | USER;
    let at = world.at(0, L1, WINDOW as u64);
    assert_eq!(world.update(0, id.get().into(), &[(at, entry)]), 0);
    let (mapper, frame) = (world.players[MAPPER].id, world.frame(GRANTER, MAPPED));
    let grant = u64::from(PERMIT) | u64::from(mapper.get()) << 16 | frame.get() << 32;
    assert!(world.write(0, 0, window(0) + 9 * 8, &grant.to_le_bytes()));
    let mapped = world.map_grant(9, HOST, window(0));
    assert_eq!(mapped.status, OKAY);
    world.sound();
    world.finish().unwrap();
}
