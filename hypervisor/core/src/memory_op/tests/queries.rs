//! What commands tell, and what they answer to nonsense.

use super::*;
use dom0_abi::memory::{
    E820Entry, ForeignMemoryMap, MachphysMapping, MachphysMfnList, MemoryDomain, MemoryMap,
};

#[test]
fn i12_no_command_follows_a_hostile_pointer() {
    let mut guest = guest();
    let before = (guest.pages(), guest.free());
    for command in 0..64 {
        let right = match command {
            0 | 1 | 6 | 18 | 19 => 0,
            2 => guest.host.machine.max_mfn().get() as i64 - 1,
            25 => failure(Errno::EOPNOTSUPP),
            8 | 20 | 22 | 29.. => failure(Errno::ENOSYS),
            _ => failure(Errno::EFAULT),
        };
        for address in HOSTILE {
            let seen = guest.memory_op(command, address).0;
            assert_eq!(seen, right, "command {command} at {address:#x}");
        }
        // Whatever stands above the number, and whatever is there.
        for filling in [0, 0xff] {
            guest.put(ARGUMENT, &[filling; 128]);
            for progress in [0, 1, 1 << 16, 1 << 34, (1 << 58) - 1] {
                let _ = guest.memory_op(command | progress << CONTINUATION_SHIFT, ARGUMENT);
            }
        }
        assert_eq!((guest.pages(), guest.free()), before, "command {command}");
    }
    guest.audit();
}

#[test]
fn i28_commands_that_only_control_may_give() {
    let mut guest = limited(Guest::ordinary());
    let neighbour = guest.neighbour().domid;
    guest.put(ARGUMENT, &[0_u8; 128]);
    for command in [10, 16, 17, 24, 28] {
        let seen = guest.memory_op(command, ARGUMENT).0;
        assert_eq!(seen, failure(Errno::EPERM), "command {command}");
    }
    for domid in [neighbour, DomId::new(77), DomId::DOM0, DomId::XEN] {
        for command in [3, 4, 7, 13, 14, 15, 21, 23, 26] {
            guest.put(ARGUMENT, &[0_u8; 128]);
            let at = if command == 21 { 2 } else { 0 };
            guest.put(ARGUMENT + at, &domid.get());
            let seen = guest.memory_op(command, ARGUMENT).0;
            assert_eq!(seen, failure(Errno::EPERM), "command {command} of {domid}");
        }
    }
}

#[test]
fn reservations_are_told() {
    let mut guest = guest();
    let ask = |guest: &mut Guest, command, domid| guest.ask(command, &MemoryDomain { domid });
    let pages = guest.pages() as i64;
    for domid in [DomId::SELF, DomId::DOM0] {
        let seen = [
            MemoryCommand::CurrentReservation,
            MemoryCommand::MaximumReservation,
            MemoryCommand::MaximumGpfn,
        ]
        .map(|command| ask(&mut guest, command, domid));
        assert_eq!(seen, [pages, 3000, 0]);
    }
    for domid in [DomId::new(5), DomId::IO, DomId::XEN, DomId::new(0xffff)] {
        let seen = ask(&mut guest, MemoryCommand::CurrentReservation, domid);
        assert_eq!(seen, failure(Errno::ESRCH));
    }
    let claim = |pages, domid| MemoryReservation {
        extent_start: at(0),
        domid,
        ..reservation(pages, 0)
    };
    let free = guest.free();
    for (pages, domid, right) in [
        (0, DomId::DOM0, 0),
        (pages as u64, DomId::DOM0, failure(Errno::EINVAL)),
        (pages as u64 + 1, DomId::DOM0, 0),
        (3001, DomId::DOM0, failure(Errno::EINVAL)),
        (0, DomId::SELF, failure(Errno::EINVAL)),
        (0, DomId::new(1), failure(Errno::EINVAL)),
    ] {
        let seen = guest.ask(MemoryCommand::ClaimPages, &claim(pages, domid));
        assert_eq!(seen, right, "{pages} of {domid}");
    }
    guest.domain(|domain| domain.memory.limit.store(u64::MAX, Ordering::Relaxed));
    let most = pages as u64 + free - RESERVE;
    for (pages, right) in [(most, 0), (most + 1, failure(Errno::ENOMEM))] {
        let seen = guest.ask(MemoryCommand::ClaimPages, &claim(pages, DomId::DOM0));
        assert_eq!(seen, right);
    }
}

#[test]
fn the_table_is_told() {
    let mut guest = guest();
    let last = guest.host.machine.max_mfn().get() - 1;
    guest.memory_op(MemoryCommand::MachphysMapping as u64, ARGUMENT);
    let told: MachphysMapping = guest.get(ARGUMENT);
    assert_eq!((told.v_start, told.max_mfn), (0xffff_8000_0000_0000, last));
    let mut argument = MachphysMfnList {
        max_extents: 8,
        extent_start: at(LIST),
        ..MachphysMfnList::new_zeroed()
    };
    assert_eq!(guest.ask(MemoryCommand::MachphysMfnList, &argument), 0);
    assert_eq!(guest.get::<MachphysMfnList>(ARGUMENT).nr_extents, 1);
    let first = guest.host.machine.m2p_frames().start;
    assert_eq!(guest.get::<u64>(LIST), first.get());
    argument.extent_start = at(READ_ONLY);
    let seen = guest.ask(MemoryCommand::MachphysMfnList, &argument);
    assert_eq!(seen, failure(Errno::EFAULT));
}

#[test]
fn maps_are_kept_and_told() {
    let mut guest = guest();
    let free = guest.free();
    let map = |room, buffer| MemoryMap {
        nr_entries: room,
        _pad0: 0,
        buffer: at(buffer),
    };
    let own = |room, buffer| ForeignMemoryMap {
        domid: DomId::SELF,
        _pad0: [0; 3],
        map: map(room, buffer),
    };
    let (tell, set) = (MemoryCommand::MemoryMap, MemoryCommand::SetMemoryMap);
    assert_eq!(guest.ask(tell, &map(9, LIST)), failure(Errno::ENOSYS));
    for index in 0..128 {
        let entry = E820Entry::new(index << 20, 1 << 20, 1);
        guest.put(LIST + index * 20, &entry);
    }
    for count in [129, u32::MAX] {
        assert_eq!(guest.ask(set, &own(count, LIST)), failure(Errno::EINVAL));
    }
    assert_eq!(guest.ask(set, &own(2, 0)), failure(Errno::EFAULT));
    for (count, room) in [(128, 200), (128, 5), (1, 1), (3, 0)] {
        assert_eq!(guest.ask(set, &own(count, LIST)), 0);
        assert_eq!(guest.ask(tell, &map(room, DATA + 0x5000)), 0);
        assert_eq!(guest.get::<MemoryMap>(ARGUMENT).nr_entries, count.min(room));
        for index in 0..count.min(room) {
            let entry: E820Entry = guest.get(DATA + 0x5000 + u64::from(index) * 20);
            assert_eq!(entry.addr(), u64::from(index) << 20);
        }
    }
    assert_eq!(guest.free(), free - 1);
    assert_eq!(guest.ask(set, &own(0, LIST)), 0);
    assert_eq!(guest.free(), free);
    assert_eq!(guest.ask(tell, &map(9, LIST)), failure(Errno::ENOSYS));

    let machine = MemoryCommand::MachineMemoryMap;
    assert_eq!(guest.ask(machine, &map(0, 0)), 0);
    let count = guest.get::<MemoryMap>(ARGUMENT).nr_entries;
    assert_eq!(
        guest.ask(machine, &map(count, LIST)),
        failure(Errno::EINVAL)
    );
    assert_eq!(guest.ask(machine, &map(count + 1, LIST)), 0);
    let entries: Vec<E820Entry> = (0..u64::from(count))
        .map(|index| guest.get(LIST + index * 20))
        .collect();
    assert!(entries.is_sorted_by(|a, b| a.addr() + a.size() <= b.addr()));
    assert_eq!((entries[0].addr(), entries[0].kind()), (0, 1));
}
