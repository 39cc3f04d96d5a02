//! What is asked of a table as a whole.

use core::ptr;

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::grant_table::{
    GetStatusFrames, GetVersion, GrantStatus, GrantTableCommand as Cmd, MapFlags, MapGrantRef,
    QuerySize, SetVersion, SwapGrantRef, UnmapGrantRef,
};
use dom0_abi::handle::GuestHandle;
use dom0_abi::ids::{DomId, GrantRef};
use kit::Report;

use kit::grants::{Grants, PERMIT, UNTOUCHED, bare, operate, setup};

use super::{BAD_DOMAIN, BAD_REF, GENERAL, MAP_SLOT, OKAY};
use kit::page_tables::Lab;

const NOBODY: [DomId; 5] = [
    DomId::new(1),
    DomId::IO,
    DomId::XEN,
    DomId::INVALID,
    DomId::new(0xffff),
];

fn query(dom: DomId) -> Result<(i16, u32, u32), Errno> {
    let mut op = [QuerySize {
        dom,
        _pad0: 0,
        nr_frames: 99,
        max_nr_frames: 99,
        status: UNTOUCHED,
        _pad1: 0,
    }];
    operate(Cmd::QuerySize, &mut op)?;
    Ok((op[0].status, op[0].nr_frames, op[0].max_nr_frames))
}

pub fn check(report: &mut Report) {
    calls(report);
    report.equal("query_size at first", query(DomId::SELF), Ok((OKAY, 1, 64)));
    report.equal(
        "query_size by number",
        query(DomId::DOM0),
        Ok((OKAY, 1, 64)),
    );
    for dom in NOBODY {
        report.equal(
            format_args!("query_size of {dom}"),
            query(dom).map(|told| told.0),
            Ok(BAD_DOMAIN),
        );
        report.equal(
            format_args!("setup_table of {dom}"),
            setup(dom, 1).map(|told| (told.0, told.2)),
            Ok((BAD_DOMAIN, 0)),
        );
    }
    for (nr_frames, wanted) in [
        (0, (OKAY, 0)),
        (1, (OKAY, 1)),
        (3, (OKAY, 3)),
        (2, (OKAY, 2)),
        (65, (GENERAL, 0)),
        (64, (OKAY, 64)),
    ] {
        report.equal(
            format_args!("setup_table: {nr_frames} frames"),
            setup(DomId::SELF, nr_frames).map(|told| (told.0, told.2)),
            Ok(wanted),
        );
    }
    report.equal("query_size at last", query(DomId::SELF), Ok((OKAY, 64, 64)));
    versions(report);
    status_frames(report);
}

fn versions(report: &mut Report) {
    for (version, wanted) in [(0, Err(Errno::EINVAL)), (1, Ok(0)), (3, Err(Errno::EINVAL))] {
        let mut op = [SetVersion { version }];
        let answer = operate(Cmd::SetVersion, &mut op);
        report.equal(format_args!("set_version {version}"), answer, wanted);
    }
    for (dom, wanted) in [
        (DomId::SELF, Ok(1)),
        (DomId::DOM0, Ok(1)),
        (DomId::new(1), Err(Errno::ESRCH)),
        (DomId::XEN, Err(Errno::ESRCH)),
    ] {
        let mut op = [GetVersion {
            dom,
            pad: 0,
            version: 99,
        }];
        let answer = operate(Cmd::GetVersion, &mut op);
        let told = answer.map(|_| op[0].version);
        report.equal(format_args!("get_version of {dom}"), told, wanted);
    }
}

fn status_frames(report: &mut Report) {
    let mut frames = [0u64; 4];
    for (dom, nr_frames, wanted) in [
        (DomId::SELF, 0, OKAY),
        (DomId::SELF, 1, GENERAL),
        (DomId::DOM0, 4, GENERAL),
        (DomId::new(1), 1, BAD_DOMAIN),
    ] {
        let mut op = [GetStatusFrames {
            nr_frames,
            dom,
            status: UNTOUCHED,
            frame_list: GuestHandle::new(GuestAddr::new(
                frames.as_mut_ptr().expose_provenance() as u64
            )),
        }];
        let answer = operate(Cmd::GetStatusFrames, &mut op);
        report.equal(
            format_args!("get_status_frames of {dom}: {nr_frames}"),
            answer.map(|_| op[0].status),
            Ok(wanted),
        );
    }
}

/// Commands and counts that mean nothing, and pointers that no call may follow.
fn calls(report: &mut Report) {
    let mut room = [0u64; 64];
    let there = room.as_mut_ptr().expose_provenance() as u64;
    const OURS: u64 = 0xffff_8000_0000_0000;
    let number = |command: Cmd| u64::from(command.get());
    for (what, command, ops, count, wanted) in [
        ("no such command", 13, there, 1, Err(Errno::ENOSYS)),
        (
            "no such command either",
            0xfff,
            there,
            1,
            Err(Errno::ENOSYS),
        ),
        (
            "dump_table",
            number(Cmd::DumpTable),
            there,
            1,
            Err(Errno::ENOSYS),
        ),
        (
            "a command with progress",
            1 << 12,
            there,
            0,
            Err(Errno::EINVAL),
        ),
        ("too many", 0, there, 1 << 31, Err(Errno::EINVAL)),
        (
            "too many of nothing",
            13,
            there,
            1 << 31,
            Err(Errno::EINVAL),
        ),
        ("no maps", 0, there, 0, Ok(0)),
        ("no unmaps", 1, there, 0, Ok(0)),
        ("no copies", 5, there, 0, Ok(0)),
        ("no replacements", 7, there, 0, Ok(0)),
        ("no swaps", 11, there, 0, Ok(0)),
        ("maps at 0", 0, 0, 1, Err(Errno::EFAULT)),
        ("unmaps at 0", 1, 0, 1, Err(Errno::EFAULT)),
        ("copies at 0", 5, 0, 1, Err(Errno::EFAULT)),
        ("swaps at 0", 11, 0, 1, Err(Errno::EFAULT)),
        ("no maps in the hypervisor", 0, OURS, 0, Err(Errno::EFAULT)),
        (
            "no unmaps in the hypervisor",
            1,
            OURS,
            0,
            Err(Errno::EFAULT),
        ),
        ("maps in the hypervisor", 0, OURS, 1, Err(Errno::EFAULT)),
        ("unmaps in the hypervisor", 1, OURS, 1, Err(Errno::EFAULT)),
        ("copies in the hypervisor", 5, OURS, 1, Err(Errno::EFAULT)),
        ("a size at 0", 6, 0, 1, Err(Errno::EFAULT)),
        ("no size", 6, there, 0, Err(Errno::EINVAL)),
        ("two sizes", 6, there, 2, Err(Errno::EINVAL)),
        ("no setup", 2, there, 0, Err(Errno::EINVAL)),
        ("two setups", 2, there, 2, Err(Errno::EINVAL)),
        ("a setup at 0", 2, 0, 1, Err(Errno::EFAULT)),
        ("no status frames", 9, there, 0, Err(Errno::EINVAL)),
        ("a version at 0", 8, 0, 1, Err(Errno::EFAULT)),
        ("two versions at 0", 10, 0, 2, Err(Errno::EFAULT)),
    ] {
        report.equal(what, bare(command, ops, count), wanted);
    }
    // And one that is right.
    let mut op = QuerySize::zeroed();
    let at = ptr::from_mut(&mut op).expose_provenance() as u64;
    report.equal("one size", bare(6, at, 1), Ok(0));
}

/// Two entries that are swapped.
pub fn swap(report: &mut Report, grants: &Grants) {
    let page = grants.fresh(40, 0);
    grants.set(41, 0, DomId::new(5), 0x1234);
    for (a, b, wanted) in [
        (40, 41, OKAY),
        (40, 40, OKAY),
        (40, 0x8000, BAD_REF),
        (0x8000, 40, BAD_REF),
        (0x8000, 0x8000, BAD_REF),
    ] {
        report.equal(format_args!("swap {a} and {b}"), swap_one(a, b), Ok(wanted));
    }
    report.equal(
        "what was swapped",
        (grants.flags(40), grants.flags(41)),
        (0, PERMIT),
    );
    let mut map = [MapGrantRef::zeroed()];
    map[0].grant_ref = GrantRef::new(41);
    map[0].flags = MapFlags::HOST_MAP.bits();
    map[0].host_addr = Lab::address(MAP_SLOT);
    let answer = operate(Cmd::MapGrantRef, &mut map);
    report.equal("it is mapped", (answer, map[0].status), (Ok(0), OKAY));
    report.equal("to its frame", map[0].dev_bus_addr, page.machine());
    let again = GrantStatus::Eagain as i16;
    report.equal("what is in use is not swapped", swap_one(40, 41), Ok(again));
    report.equal("nor the other way", swap_one(41, 40), Ok(again));
    report.equal("but with itself", swap_one(41, 41), Ok(OKAY));
    let mut unmap = [UnmapGrantRef::zeroed()];
    (unmap[0].handle, unmap[0].host_addr) = (map[0].handle, map[0].host_addr);
    let answer = operate(Cmd::UnmapGrantRef, &mut unmap);
    report.equal("it is unmapped", (answer, unmap[0].status), (Ok(0), OKAY));
}

fn swap_one(a: u32, b: u32) -> Result<i16, Errno> {
    let mut op = [SwapGrantRef {
        ref_a: GrantRef::new(a),
        ref_b: GrantRef::new(b),
        status: UNTOUCHED,
        _pad0: 0,
    }];
    operate(Cmd::SwapGrantRef, &mut op)?;
    Ok(op[0].status)
}
