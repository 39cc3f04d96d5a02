//! The machine's memory, the domain's memory, the machine-to-physical table.

use dom0_abi::arch::{INVALID_M2P_ENTRY, MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use dom0_abi::memory::{E820Entry, ForeignMemoryMap, MachphysMfnList, MemoryCommand, MemoryMap};
use dom0_abi::xen::{UVMF_INVLPG, UVMF_LOCAL};
use guest_pv_drivers::hypercall::{self, memory};
use kit::frames::{Window, readable, writable};
use kit::memory::{machine_to_physical, read};
use kit::{Report, start_info};

use crate::{NOBODY, at, call};

static WINDOW: Window = Window::new();

pub fn check(report: &mut Report) {
    reservations(report);
    machine_map(report);
    domain_map(report);
    table(report);
}

fn reservations(report: &mut Report) {
    let pages = start_info().nr_pages;
    for domid in [DomId::SELF, DomId::DOM0] {
        report.equal(
            format_args!("current_reservation of {domid}"),
            memory::current_reservation(domid),
            Ok(pages),
        );
        let limit = memory::maximum_reservation(domid);
        report.check(
            format_args!("maximum_reservation of {domid}"),
            limit.is_ok_and(|limit| limit >= pages),
            format_args!("{limit:x?}"),
        );
        // Nothing has been told yet.
        report.equal(
            format_args!("maximum_gpfn of {domid}"),
            memory::maximum_gpfn(domid),
            Ok(0),
        );
    }
    for domid in NOBODY {
        let seen = [
            memory::current_reservation(domid),
            memory::maximum_reservation(domid),
            memory::maximum_gpfn(domid),
        ];
        report.equal(
            format_args!("reservations of {domid:?}"),
            seen,
            [Err(Errno::ESRCH); 3],
        );
    }
}

fn machine_map(report: &mut Report) {
    let mut entries = [E820Entry::new(0, 0, 0); 128];
    let seen = memory::machine_memory_map(&mut entries);
    let count = seen.unwrap_or(0);
    report.check(
        "machine_memory_map",
        (1..128).contains(&count),
        format_args!("{seen:?}"),
    );
    let map = entries.get(..count).unwrap_or_default();
    let ordered = map
        .windows(2)
        .all(|pair| pair[0].addr() + pair[0].size() <= pair[1].addr());
    report.check("machine_memory_map: in order", ordered, "not in order");
    let ram = map.iter().filter(|entry| entry.kind() == 1);
    let end = ram.map(|entry| entry.addr() + entry.size()).max();
    let last = memory::machphys_mapping().map(|mapping| mapping.max_mfn);
    report.equal(
        "machine_memory_map: the end of RAM",
        end.map(|end| end / 4096 - 1),
        last.ok(),
    );
    // The table has an entry for the frame behind the last one too, and that is what this call tells.
    let highest = memory::maximum_ram_page();
    report.check(
        "maximum_ram_page",
        highest.is_ok() && highest.map(|highest| highest - 1) <= last && highest >= last,
        format_args!("{highest:x?}, last {last:x?}"),
    );
    let devices = [0xfec0_0000u64, 0xfee0_0000];
    let reserved = devices.iter().all(|&device| {
        let covering = map
            .iter()
            .find(|entry| (entry.addr()..entry.addr() + entry.size()).contains(&device));
        covering.is_some_and(|entry| entry.kind() == 2)
    });
    report.check(
        "machine_memory_map: interrupt controllers are reserved",
        reserved,
        "not reserved",
    );

    // The list needs room for one entry more than there are.
    let needed = count as u32 + 1;
    for (room, right) in [
        (0, Err(Errno::EINVAL)),
        (1, Err(Errno::EINVAL)),
        (needed - 1, Err(Errno::EINVAL)),
        (needed, Ok(0)),
        (u32::MAX, Ok(0)),
    ] {
        let mut map = MemoryMap {
            nr_entries: room,
            _pad0: 0,
            buffer: memory::list(&mut entries),
        };
        let seen = call(MemoryCommand::MachineMemoryMap as u64, &mut map);
        let left = if right.is_ok() { needed - 1 } else { room };
        report.equal(
            format_args!("machine_memory_map: room for {room}"),
            (seen, map.nr_entries),
            (right, left),
        );
        map.nr_entries = room;
        map.buffer = at(0);
        let seen = call(MemoryCommand::MachineMemoryMap as u64, &mut map);
        report.equal(
            format_args!("machine_memory_map: no list, room for {room}"),
            (seen, map.nr_entries),
            (Ok(0), needed - 1),
        );
    }
}

fn domain_map(report: &mut Report) {
    let mut entries = [E820Entry::new(0, 0, 0); 128];
    let set = |domid, map: &mut [E820Entry]| {
        let mut argument = ForeignMemoryMap {
            domid,
            _pad0: [0; 3],
            map: MemoryMap {
                nr_entries: map.len() as u32,
                _pad0: 0,
                buffer: memory::list(map),
            },
        };
        call(MemoryCommand::SetMemoryMap as u64, &mut argument)
    };
    report.equal(
        "memory_map that nobody has set",
        memory::memory_map(&mut entries),
        Err(Errno::ENOSYS),
    );
    let mut map = [
        E820Entry::new(0, 0x10_0000, 1),
        E820Entry::new(0x20_0000, 0x1000, 2),
    ];
    report.equal("set_memory_map", set(DomId::SELF, &mut map), Ok(0));
    report.equal(
        "memory_map",
        memory::memory_map(&mut entries).map(|count| entries.get(..count).unwrap_or_default()),
        Ok(&map[..]),
    );
    // As much as there is room for.
    report.equal(
        "memory_map: room for one",
        memory::memory_map(&mut entries[..1]),
        Ok(1),
    );
    report.equal("set_memory_map: nothing", set(DomId::DOM0, &mut []), Ok(0));
    report.equal(
        "memory_map: nothing",
        memory::memory_map(&mut entries),
        Err(Errno::ENOSYS),
    );
    for domid in NOBODY {
        report.equal(
            format_args!("set_memory_map of {domid:?}"),
            set(domid, &mut map),
            Err(Errno::ESRCH),
        );
    }
}

/// Maps a frame of another domain.
fn map_of(domid: DomId, entry: u64) -> Result<u64, Errno> {
    // SAFETY: Rust keeps nothing in a window.
    unsafe {
        hypercall::update_va_mapping_otherdomain(
            WINDOW.address(),
            entry,
            UVMF_INVLPG | UVMF_LOCAL,
            domid,
        )
    }
}

fn table(report: &mut Report) {
    let mapping = memory::machphys_mapping();
    report.equal(
        "machphys_mapping",
        mapping.map(|mapping| (mapping.v_start, mapping.v_end)),
        Ok((MACH2PHYS_VIRT_START, MACH2PHYS_VIRT_END)),
    );
    let last = mapping.map_or(0, |mapping| mapping.max_mfn);
    // Each frame of the list maps 2 MiB of the table.
    let needed = (last / (1 << 18) + 1) as usize;
    let mut frames = [0; 8];
    for room in [0, needed - 1, needed, 8] {
        report.equal(
            format_args!("machphys_mfn_list: room for {room}"),
            memory::machphys_mfn_list(&mut frames[..room]),
            Ok(room.min(needed)),
        );
    }
    let mut argument = MachphysMfnList {
        max_extents: 8,
        _pad0: 0,
        extent_start: at(0),
        nr_extents: 77,
        _pad1: 0,
    };
    report.equal(
        "machphys_mfn_list: no list",
        call(MemoryCommand::MachphysMfnList as u64, &mut argument),
        Err(Errno::EFAULT),
    );

    for frame in [frames[0], frames[0] + 1, frames[0] + 511] {
        report.equal(
            format_args!("frame {frame:#x} of the table is nobody's"),
            machine_to_physical(frame),
            Some(INVALID_M2P_ENTRY),
        );
        let name = format_args!("frame {frame:#x} of the table, as the hypervisor's, to be read");
        report.equal(name, map_of(DomId::XEN, readable(frame)), Ok(0));
        let first = (frame - frames[0]) * 512;
        let same = (0..512).all(|index| {
            let through_table = read(MACH2PHYS_VIRT_START + (first + index) * 8);
            through_table == read(WINDOW.address() + index * 8)
        });
        report.check(
            format_args!("frame {frame:#x} of the table: the same content"),
            same,
            "another content",
        );
        WINDOW.close();
        for (name, domid, entry, right) in [
            (
                "the hypervisor's, to be written",
                DomId::XEN,
                writable(frame),
                Errno::EBUSY,
            ),
            (
                "its own, to be read",
                DomId::SELF,
                readable(frame),
                Errno::EBUSY,
            ),
            (
                "its own, to be written",
                DomId::SELF,
                writable(frame),
                Errno::EBUSY,
            ),
            (
                "a device's, to be read",
                DomId::IO,
                readable(frame),
                Errno::EBUSY,
            ),
            (
                "a device's, to be written",
                DomId::IO,
                writable(frame),
                Errno::EBUSY,
            ),
            (
                "another domain's",
                DomId::new(1),
                readable(frame),
                Errno::ESRCH,
            ),
            ("a shared one", DomId::COW, readable(frame), Errno::ESRCH),
        ] {
            report.equal(
                format_args!("frame {frame:#x} of the table, as {name}"),
                map_of(domid, entry),
                Err(right),
            );
        }
    }
    report.equal(
        "the last frame of RAM has an entry",
        machine_to_physical(last).is_some(),
        true,
    );
    let end = needed as u64 * (1 << 18);
    report.equal("behind the table", machine_to_physical(end), None);
}
