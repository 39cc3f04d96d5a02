//! Maps: what they allow, how they end, and what they are refused for.

use dom0_abi::grant_table::{
    GrantFlags, GrantStatus, GrantTableCommand as Cmd, GrantType, MapFlags, UnmapAndReplace,
    UnmapGrantRef,
};
use dom0_abi::ids::{DomId, GrantRef};
use kit::Report;
use kit::memory::{PAGE, pte, read, write};
use kit::page_tables::{Lab, WRITABLE, page};

use kit::grants::{Grants, PERMIT, UNTOUCHED, map, map_of, map_op, operate, unmap};

use super::{BAD_DOMAIN, BAD_HANDLE, BAD_PAGE, BAD_REF, GENERAL, MAP_SLOT, OKAY};

const HOST: u32 = MapFlags::HOST_MAP.bits();
const DEVICE: u32 = MapFlags::DEVICE_MAP.bits();
const READONLY: u32 = MapFlags::READONLY.bits();
const BY_ENTRY: u32 = MapFlags::CONTAINS_PTE.bits();
const APPLICATION: u32 = MapFlags::APPLICATION_MAP.bits();
const READING: u16 = GrantFlags::READING.bits();
const WRITING: u16 = GrantFlags::WRITING.bits();
const KERNELS: u64 = 1 << 52;
const NX: u64 = 1 << 63;
const GLOBAL: u64 = 1 << 8;

/// An address that is mapped by a slot.
fn at(slot: usize) -> u64 {
    Lab::address(MAP_SLOT + slot)
}

pub fn check(report: &mut Report, grants: &Grants) {
    access(report, grants);
    entries(report, grants);
    refused(report, grants);
    parts(report, grants);
    elsewhere(report, grants);
    overwritten(report, grants);
    replaced(report, grants);
    many(report, grants);
}

fn access(report: &mut Report, grants: &Grants) {
    let page = grants.fresh(9, 0);
    page.set_word(5, 0x1122);
    let mapped = map(9, HOST, at(0));
    report.equal("a map", mapped.status, OKAY);
    report.equal("its address", mapped.dev_bus_addr, page.machine());
    report.equal(
        "the grant is in use",
        grants.flags(9),
        PERMIT | READING | WRITING,
    );
    report.equal("what is there", read(at(0) + 40), Ok(0x1122));
    report.check(
        "it is written to",
        write(at(0) + 48, 0x33).is_none(),
        "refused",
    );
    report.equal("where it shows", page.word(6), Ok(0x33));
    let second = map(9, HOST | READONLY, at(1));
    report.equal("a second one, to read", second.status, OKAY);
    report.equal("what is there too", read(at(1) + 48), Ok(0x33));
    report.check(
        "it cannot be written to",
        write(at(1), 1).is_some(),
        "it can",
    );
    report.equal("the first one ends", unmap(mapped.handle, at(0), 0), OKAY);
    report.equal("somebody reads", grants.flags(9), PERMIT | READING);
    report.check("it is not there any more", read(at(0)).is_err(), "it is");
    report.equal("it ended once", unmap(mapped.handle, at(0), 0), BAD_HANDLE);
    report.equal(
        "not the second one so",
        unmap(second.handle, at(0), 0),
        GENERAL,
    );
    report.equal("the second one ends", unmap(second.handle, at(1), 0), OKAY);
    report.equal("nobody reads", grants.flags(9), PERMIT);
}

fn entries(report: &mut Report, grants: &Grants) {
    let page = grants.fresh(9, 0);
    let mfn = page.machine();
    for (flags, bits) in [
        (HOST, 0x7 | KERNELS | NX),
        (HOST | READONLY, 0x5 | KERNELS | NX),
        (HOST | APPLICATION, 0x7 | GLOBAL | NX),
        (HOST | APPLICATION | READONLY | 1 << 16, 0x205 | GLOBAL | NX),
        (HOST | 0xffff << 16, 0xe07 | KERNELS | NX),
    ] {
        for by_entry in [0, BY_ENTRY] {
            let place = match by_entry {
                0 => at(2),
                _ => grants.lab.table(1).machine(MAP_SLOT + 2),
            };
            let mapped = map(9, flags | by_entry, place);
            report.equal(
                format_args!("a map of {flags:#x} {by_entry}"),
                mapped.status,
                OKAY,
            );
            // Whether it is global, and whether nothing is executed from it, depends on the machine.
            let entry = grants.entry(MAP_SLOT + 2) & !GLOBAL & !NX;
            let wanted = (mfn | bits) & !GLOBAL & !NX;
            report.equal(format_args!("its entry, {flags:#x}"), entry, wanted);
            let ended = unmap(mapped.handle, place, 0);
            report.equal(format_args!("its end, {flags:#x}"), ended, OKAY);
            report.equal("the entry is gone", grants.entry(MAP_SLOT + 2), 0);
        }
    }
}

fn refused(report: &mut Report, grants: &Grants) {
    let page = grants.fresh(9, 0);
    let mfn = page.mfn();
    let table = grants.lab.table(1).mfn;
    let readonly = GrantFlags::READONLY.bits();
    let sub_page = GrantFlags::SUB_PAGE.bits();
    let transfer = GrantType::AcceptTransfer as u16;
    let (me, other) = (DomId::DOM0, DomId::new(1));
    for (what, flags, to, mfn, how, wanted) in [
        ("for nobody", PERMIT, me, mfn, 0, BAD_REF),
        ("for nobody, to read", PERMIT, me, mfn, READONLY, BAD_REF),
        ("for another one", PERMIT, other, mfn, HOST, GENERAL),
        (
            "for the special number",
            PERMIT,
            DomId::SELF,
            mfn,
            HOST,
            GENERAL,
        ),
        ("nothing", 0, me, mfn, HOST, GENERAL),
        ("a transfer", transfer, me, mfn, HOST, GENERAL),
        ("a transitive one", 3, me, mfn, HOST, GENERAL),
        (
            "a part of a page",
            PERMIT | sub_page,
            me,
            mfn,
            HOST,
            GENERAL,
        ),
        ("to read", PERMIT | readonly, me, mfn, HOST, GENERAL),
        (
            "to read, by devices",
            PERMIT | readonly,
            me,
            mfn,
            DEVICE,
            GENERAL,
        ),
        (
            "to read, read",
            PERMIT | readonly,
            me,
            mfn,
            HOST | READONLY,
            OKAY,
        ),
        ("a table", PERMIT, me, table, HOST, GENERAL),
        ("a table, to read", PERMIT, me, table, HOST | READONLY, OKAY),
        ("no frame", PERMIT, me, 0xffff_ffff, HOST, BAD_PAGE),
    ] {
        grants.set(9, flags, to, mfn);
        let mapped = map(9, how, at(0));
        report.equal(format_args!("map {what}"), mapped.status, wanted);
        if mapped.status == OKAY {
            report.equal("it ends", unmap(mapped.handle, at(0), 0), OKAY);
        }
        report.equal("the grant is as before", grants.flags(9), flags);
    }
    grants.set(9, PERMIT, me, mfn);
    for (dom, reference, wanted) in [
        (me, 8, GENERAL),
        (me, 0x7fff, GENERAL),
        (me, 0x8000, BAD_REF),
        (me, u32::MAX, BAD_REF),
        (other, 9, BAD_DOMAIN),
        (DomId::SELF, 9, BAD_DOMAIN),
        (DomId::XEN, 9, BAD_DOMAIN),
        (DomId::IO, 9, BAD_DOMAIN),
    ] {
        let mapped = map_of(dom, reference, HOST, at(0));
        report.equal(
            format_args!("map {reference:#x} of {dom}"),
            mapped.status,
            wanted,
        );
    }
    let entry = grants.lab.table(1).machine(MAP_SLOT);
    let above = grants.lab.table(2).machine(1);
    let nowhere = Lab::WINDOW + (1 << 30);
    for (what, flags, place) in [
        ("where no table is", HOST, nowhere),
        ("in the hypervisor", HOST, 0xffff_8000_0000_0000),
        ("not canonical", HOST, 1 << 47),
        ("an entry and a byte", HOST | BY_ENTRY, entry + 1),
        ("half an entry", HOST | BY_ENTRY, entry + 4),
        ("an entry of level 2", HOST | BY_ENTRY, above),
        ("an entry of a plain page", HOST | BY_ENTRY, page.machine()),
        ("an entry nowhere", HOST | BY_ENTRY, !7),
    ] {
        report.equal(
            format_args!("map {what}"),
            map(9, flags, place).status,
            GENERAL,
        );
        report.equal("nobody has it", grants.flags(9), PERMIT);
    }
    for handle in [0x1_0000, 0x4_0000, u32::MAX] {
        let status = unmap(handle, at(0), 0);
        report.equal(format_args!("unmap {handle:#x}"), status, BAD_HANDLE);
    }
}

fn parts(report: &mut Report, grants: &Grants) {
    let page = grants.fresh(9, 0);
    let bus = page.machine();
    for order in 0..3 {
        let mapped = map(9, HOST | DEVICE, at(0));
        report.equal("a map for CPUs and devices", mapped.status, OKAY);
        report.equal("nothing of it ends", unmap(mapped.handle, 0, 0), OKAY);
        let bad = GrantStatus::BadDevAddr as i16;
        report.equal("another frame", unmap(mapped.handle, 0, bus + PAGE), bad);
        match order {
            0 => report.equal("both end", unmap(mapped.handle, at(0), bus), OKAY),
            1 => {
                report.equal("that for CPUs", unmap(mapped.handle, at(0), 0), OKAY);
                report.equal(
                    "devices are left",
                    grants.flags(9),
                    PERMIT | READING | WRITING,
                );
                report.equal("that for devices", unmap(mapped.handle, 0, bus), OKAY);
            }
            _ => {
                report.equal("that for devices first", unmap(mapped.handle, 0, bus), OKAY);
                report.equal("CPUs are left", grants.flags(9), PERMIT | READING | WRITING);
                report.equal("that for CPUs last", unmap(mapped.handle, at(0), 0), OKAY);
            }
        }
        report.equal("nobody has it", grants.flags(9), PERMIT);
        report.equal("it is over", unmap(mapped.handle, at(0), bus), BAD_HANDLE);
    }
}

/// An entry that the guest overwrites leaves the grant in use: there is nothing by which it could be ended.
fn overwritten(report: &mut Report, grants: &Grants) {
    grants.fresh(20, 0);
    let mapped = map(20, HOST, at(5));
    report.equal("a map to be overwritten", mapped.status, OKAY);
    report.equal("it is overwritten", grants.lab.map(MAP_SLOT + 5, 0), Ok(0));
    report.equal(
        "it cannot be ended",
        unmap(mapped.handle, at(5), 0),
        GENERAL,
    );
    report.equal("it is in use", grants.flags(20), PERMIT | READING | WRITING);
}

fn replaced(report: &mut Report, grants: &Grants) {
    grants.fresh(9, 0);
    let own = page();
    own.set_word(0, 0x55);
    let entry = own.machine() | WRITABLE;
    let replace = |handle, host_addr, new_addr| {
        let mut ops = [UnmapAndReplace::zeroed()];
        ops[0].handle = handle;
        (ops[0].host_addr, ops[0].new_addr) = (host_addr, new_addr);
        let answer = operate(Cmd::UnmapAndReplace, &mut ops);
        (answer, ops[0].status)
    };
    report.equal(
        "an entry of the guest's",
        grants.lab.map(MAP_SLOT + 1, entry),
        Ok(0),
    );
    let mapped = map(9, HOST, at(0));
    let nowhere = Lab::WINDOW + (1 << 30);
    report.equal(
        "replaced from nowhere",
        replace(mapped.handle, at(0), nowhere),
        (Ok(0), GENERAL),
    );
    report.equal(
        "replaced",
        replace(mapped.handle, at(0), at(1)),
        (Ok(0), OKAY),
    );
    report.equal("by what was there", read(at(0)), Ok(0x55));
    report.check("which moved", read(at(1)).is_err(), "it is still there");
    report.equal("nobody has it", grants.flags(9), PERMIT);
    let address = grants.entry(MAP_SLOT) & pte::MFN;
    report.equal("its frame", address, own.machine());
    report.equal("the entry goes", grants.lab.map(MAP_SLOT, 0), Ok(0));
    let by_entry = map(9, HOST | BY_ENTRY, grants.lab.table(1).machine(MAP_SLOT));
    report.equal(
        "not by entries",
        replace(
            by_entry.handle,
            grants.lab.table(1).machine(MAP_SLOT),
            at(1),
        ),
        (Ok(0), GENERAL),
    );
    let place = grants.lab.table(1).machine(MAP_SLOT);
    report.equal("it ends otherwise", unmap(by_entry.handle, place, 0), OKAY);
}

/// An entry that is shown for the end of a map, and leads to another frame.
fn elsewhere(report: &mut Report, grants: &Grants) {
    grants.fresh(9, 0);
    grants.fresh(10, 0);
    let own = page();
    let entry = own.machine() | WRITABLE;
    report.equal(
        "an entry of another page",
        grants.lab.map(MAP_SLOT + 3, entry),
        Ok(0),
    );
    let (one, other) = (map(9, HOST, at(0)), map(10, HOST, at(1)));
    report.equal(
        "that of another grant",
        unmap(one.handle, at(1), 0),
        GENERAL,
    );
    report.equal("that of a page", unmap(one.handle, at(3), 0), GENERAL);
    report.equal("the right one", unmap(one.handle, at(0), 0), OKAY);
    report.equal("the other one", unmap(other.handle, at(1), 0), OKAY);
    report.equal("the page's", grants.lab.map(MAP_SLOT + 3, 0), Ok(0));
}

/// Lists that are longer than a call may take at once.
fn many(report: &mut Report, grants: &Grants) {
    const COUNT: usize = 100;
    grants.fresh(9, 0);
    let mut maps = [const { None }; COUNT].map(|_: Option<()>| map_op(DomId::DOM0, 9, HOST, 0));
    for (slot, op) in maps.iter_mut().enumerate() {
        op.host_addr = at(slot + 20);
        if slot == 40 {
            op.grant_ref = GrantRef::new(0x8000);
        }
    }
    let answer = operate(Cmd::MapGrantRef, &mut maps);
    report.equal("many maps", answer, Ok(0));
    let okay = maps.iter().filter(|op| op.status == OKAY).count();
    report.equal(
        "so many of them",
        (okay, maps[40].status),
        (COUNT - 1, BAD_REF),
    );
    let mut unmaps = [const { None }; COUNT].map(|_: Option<()>| UnmapGrantRef::zeroed());
    for (op, mapped) in unmaps.iter_mut().zip(&maps) {
        let is_mapped = mapped.status == OKAY;
        op.handle = if is_mapped { mapped.handle } else { u32::MAX };
        (op.host_addr, op.status) = (mapped.host_addr, UNTOUCHED);
    }
    let answer = operate(Cmd::UnmapGrantRef, &mut unmaps);
    report.equal("many ends", answer, Ok(0));
    let okay = unmaps.iter().filter(|op| op.status == OKAY).count();
    report.equal(
        "so many of them",
        (okay, unmaps[40].status),
        (COUNT - 1, BAD_HANDLE),
    );
    report.equal("nobody has it", grants.flags(9), PERMIT);
    report.check(
        "nothing is there",
        (20..120).all(|slot| read(at(slot)).is_err()),
        "it is",
    );
}
