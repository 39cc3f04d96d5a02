//! Entries for frames that are not the guest's: the hypervisor's, nobody's, the interrupt controllers', none at all.
//!
//! Every frame of RAM that the machine-to-physical table does not give to this guest is tried, so no table, heap page
//! or code page of the hypervisor is left out. A frame that is refused leaves the entry as it was.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::memory::MemoryCommand;
use dom0_abi::xen::{MmuUpdate, UVMF_NONE};
use guest_pv_drivers::hypercall::{self, foreigndom};
use kit::memory::{PAGE, machine_to_physical, physical_to_machine, pte, read};
use kit::page_tables::{Lab, READ_ONLY, WRITABLE, is_plain, page, pin, protect, release};
use kit::{Report, start_info};

kit::guest!("pt-frames", main);

/// Where PCs have RAM that firmware, devices and start code of CPUs share; dom0 sees it as I/O memory.
const FIRST_MIB: u64 = 256;
const SLOT: usize = 1;

fn main(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    let Some(map) = Map::read() else {
        return report.check("the machine's memory map", false, "refused");
    };
    let last = map.last_of_ram();
    every_frame_of_ram(report, lab, &map, last);
    others(report, lab, last);
    upper(report, lab, &map, last);
    foreign(report, lab, &map, last);
}

/// RAM by the machine's memory map.
struct Map {
    entries: [[u8; 20]; 64],
    used: usize,
}

impl Map {
    fn read() -> Option<Self> {
        let mut map = Self {
            entries: [[0; 20]; 64],
            used: 0,
        };
        let argument = [64u64, map.entries.as_mut_ptr().expose_provenance() as u64];
        let args = [
            MemoryCommand::MachineMemoryMap as u64,
            argument.as_ptr().expose_provenance() as u64,
            0,
            0,
            0,
        ];
        // SAFETY: at most 64 entries of 20 bytes are written, and their number; both places are there for that.
        let answer = unsafe { hypercall::call(Hypercall::MemoryOp, args) };
        // SAFETY: the hypervisor has written it.
        map.used = unsafe { (&raw const argument[0]).read_volatile() } as u32 as usize;
        (answer == Ok(0)).then_some(map)
    }

    fn ram(&self) -> impl Iterator<Item = (u64, u64)> {
        self.entries.iter().take(self.used).filter_map(|entry| {
            let word = |at: usize| {
                (0..8).fold(0, |value, index| {
                    value | u64::from(entry[at + index]) << (8 * index)
                })
            };
            let (start, length) = (word(0), word(8));
            (entry[16] == 1).then_some((start / PAGE, (start + length) / PAGE))
        })
    }

    fn last_of_ram(&self) -> u64 {
        self.ram().map(|(_, end)| end - 1).max().unwrap_or(0)
    }

    fn has(&self, mfn: u64) -> bool {
        self.ram().any(|(start, end)| (start..end).contains(&mfn))
    }
}

fn is_own(mfn: u64) -> bool {
    mfn == start_info().shared_info / PAGE
        || machine_to_physical(mfn)
            .and_then(physical_to_machine)
            .is_some_and(|back| back == mfn)
}

/// What came of mapping a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mapped {
    ReadOnly,
    Writable,
    /// The entry is still 0.
    Refused(Errno),
    /// Refused, but the entry changed; or the entry cannot be taken away.
    Wrong(Result<u64, Errno>),
}

/// Maps a frame and takes the mapping away again.
fn try_frame(lab: Lab, mfn: u64, flags: u64) -> Mapped {
    let result = lab.set(1, SLOT, (mfn * PAGE) | flags);
    let entry = lab.table(1).entry(SLOT);
    if let Err(error) = result {
        return if entry == 0 {
            Mapped::Refused(error)
        } else {
            Mapped::Wrong(result)
        };
    }
    let cleared = lab.set(1, SLOT, 0);
    if entry & pte::MFN != mfn * PAGE || cleared.is_err() {
        Mapped::Wrong(cleared)
    } else if entry & pte::RW == 0 {
        Mapped::ReadOnly
    } else {
        Mapped::Writable
    }
}

/// A frame that belongs to the guest without being in its memory: there may be one, the first of its grant table, which
/// has no grants yet. No other page of the hypervisor's may look like that and be accepted.
fn is_shared_and_empty(lab: Lab, mfn: u64) -> bool {
    let mapped = lab.set(1, SLOT, (mfn * PAGE) | READ_ONLY).is_ok();
    let empty = (0..512).all(|word| read(Lab::address(SLOT) + word * 8) == Ok(0));
    mapped && empty && lab.set(1, SLOT, 0).is_ok()
}

fn every_frame_of_ram(report: &mut Report, lab: Lab, map: &Map, last: u64) {
    let refused = Mapped::Refused(Errno::EBUSY);
    let (mut tried, mut accepted, mut wrong) = (0, 0, None);
    for mfn in FIRST_MIB..=last {
        if !map.has(mfn) || is_own(mfn) {
            continue;
        }
        tried += 1;
        if try_frame(lab, mfn, READ_ONLY) != refused && is_shared_and_empty(lab, mfn) {
            accepted += 1;
            continue;
        }
        for flags in [READ_ONLY, WRITABLE, pte::P, pte::P | pte::RW | pte::PCD] {
            let seen = try_frame(lab, mfn, flags);
            if seen != refused {
                wrong.get_or_insert((mfn, flags, seen));
            }
        }
    }
    report.check(
        "there are frames that are not the guest's",
        tried > 0,
        tried,
    );
    report.equal(
        "every frame that is not the guest's is refused",
        wrong,
        None,
    );
    report.check(
        "frames shared with the guest besides",
        accepted <= 1,
        accepted,
    );
    let wrong = (FIRST_MIB..=last)
        .filter(|&mfn| map.has(mfn) && is_own(mfn))
        .map(|mfn| (mfn, try_frame(lab, mfn, READ_ONLY)))
        .find(|&(_, seen)| seen != Mapped::ReadOnly);
    report.equal("every frame of the guest's is accepted", wrong, None);
}

fn others(report: &mut Report, lab: Lab, last: u64) {
    let denied = Mapped::Refused(Errno::EPERM);
    let invalid = Mapped::Refused(Errno::EINVAL);
    // The local APIC is the hypervisor's alone; the IO-APIC can be looked at, and asking for more yields no more.
    for (name, mfn, read, write) in [
        ("local APIC", 0xfee00, denied, denied),
        ("IO-APIC", 0xfec00, Mapped::ReadOnly, Mapped::ReadOnly),
        // Behind what any address of the CPU's reaches, and the number that stands for no frame.
        ("frame 2^40 - 2", (1 << 40) - 2, denied, denied),
        ("no frame", (1 << 40) - 1, invalid, invalid),
    ] {
        let seen = (
            try_frame(lab, mfn, READ_ONLY),
            try_frame(lab, mfn, WRITABLE),
        );
        report.equal(name, seen, (read, write));
    }
    // Dom0 sees the first mebibyte and what is no RAM as devices. Xen has nothing of its own in the first mebibyte that
    // it trusts later; a hypervisor that has may deny it.
    for (name, mfn) in [("frame 0", 0), ("the frame behind RAM", last + 1)] {
        let seen = (
            try_frame(lab, mfn, READ_ONLY),
            try_frame(lab, mfn, WRITABLE),
        );
        let devices = (Mapped::ReadOnly, Mapped::Writable);
        report.check(
            name,
            seen == devices || mfn == 0 && seen == (denied, denied),
            format_args!("seen {seen:?}"),
        );
    }
}

/// The same at the other levels: whatever is not the guest's RAM is no table either.
fn upper(report: &mut Report, lab: Lab, map: &Map, last: u64) {
    let refused = Err(Errno::EINVAL);
    let hypervisor = (FIRST_MIB..=last).find(|&mfn| map.has(mfn) && !is_own(mfn));
    let frames = [
        ("frame 0", 0),
        ("a frame of the hypervisor's", hypervisor.unwrap_or(0)),
        ("the shared info page", start_info().shared_info / PAGE),
        ("the frame behind RAM", last + 1),
        ("the local APIC", 0xfee00),
        ("the last frame there can be", pte::MFN / PAGE),
    ];
    for (name, mfn) in frames {
        for level in 2..=4 {
            let slot = Lab::free_slot(level, 0);
            let entry = (mfn * PAGE) | WRITABLE;
            report.equal(
                format_args!("L{level} entry for {name}"),
                (lab.set(level, slot, entry), lab.table(level).entry(slot)),
                (refused, 0),
            );
            let table = page();
            let before = (table.set_word(100, entry).is_none(), protect(table));
            report.equal(
                format_args!("pin of an L{level} with {name}"),
                (before, pin(level, table.mfn()), is_plain(table)),
                ((true, Ok(0)), refused, true),
            );
            if table.set_word(100, 0).is_none() {
                release(table);
            }
        }
        for level in 1..=4 {
            report.equal(
                format_args!("pin of {name} as L{level}"),
                pin(level, mfn),
                refused,
            );
        }
    }
}

/// The frame's owner is what the caller says it is, or the call fails.
fn foreign(report: &mut Report, lab: Lab, map: &Map, last: u64) {
    let own = page().mfn();
    let place = lab.table(1).machine(SLOT);
    let as_owner = |mfn: u64, flags: u64, owner: DomId| {
        let list = [MmuUpdate {
            ptr: place,
            val: (mfn * PAGE) | flags,
        }];
        // SAFETY: nothing that Rust knows of is in the window.
        let batch = unsafe { hypercall::mmu_update(&list, foreigndom(owner, None)) };
        let entry = lab.table(1).entry(SLOT);
        if batch.result.is_ok() {
            let _ = lab.set(1, SLOT, 0);
        }
        (batch.result, entry != 0)
    };
    for (name, owner, right) in [
        ("SELF", DomId::SELF, Ok(0)),
        // One's own number is no foreign domain's.
        ("its number", DomId::DOM0, Err(Errno::ESRCH)),
        ("IO", DomId::IO, Err(Errno::EBUSY)),
        ("XEN", DomId::XEN, Err(Errno::EBUSY)),
        ("COW", DomId::COW, Err(Errno::ESRCH)),
        ("INVALID", DomId::INVALID, Err(Errno::ESRCH)),
        (
            "a domain that is not there",
            DomId::new(1),
            Err(Errno::ESRCH),
        ),
        (
            "the last domain there can be",
            DomId::new(0x7fef),
            Err(Errno::ESRCH),
        ),
    ] {
        report.equal(
            format_args!("own frame as that of {name}"),
            as_owner(own, READ_ONLY, owner),
            (right, right.is_ok()),
        );
        let va = Lab::address(SLOT);
        let entry = (own * PAGE) | READ_ONLY;
        // SAFETY: as above.
        let result =
            unsafe { hypercall::update_va_mapping_otherdomain(va, entry, UVMF_NONE, owner) };
        let is_there = lab.table(1).entry(SLOT) != 0;
        let _ = lab.set(1, SLOT, 0);
        report.equal(
            format_args!("update_va_mapping_otherdomain: own frame as that of {name}"),
            (result, is_there),
            (right, right.is_ok()),
        );
    }
    // What the hypervisor shows to a control domain (the machine-to-physical table) is never writable.
    let shown = |flags| {
        (FIRST_MIB..=last)
            .filter(|&mfn| map.has(mfn) && !is_own(mfn))
            .filter(|&mfn| as_owner(mfn, flags, DomId::XEN).0.is_ok())
            .count()
    };
    report.equal("frames of XEN, writable", shown(WRITABLE), 0);
    report.check("frames of XEN, read-only", shown(READ_ONLY) > 0, "none");
    let io = (FIRST_MIB..=last)
        .filter(|&mfn| map.has(mfn))
        .filter(|&mfn| as_owner(mfn, READ_ONLY, DomId::IO).0.is_ok())
        .count();
    report.equal("RAM as I/O memory", io, 0);
}
