//! `vcpu_info` in a page of the guest's.

use core::ptr;

use dom0_abi::errno::Errno;
use dom0_abi::vcpu::{VcpuCommand, VcpuRegisterVcpuInfo};
use dom0_abi::xen::VcpuInfo;
use guest_pv_drivers::hypercall::events;
use kit::Report;
use kit::memory::{PAGE, Page};

use crate::clock::Clock;
use crate::{MS, vcpu_op};

static PLACE: Page = Page::new();
const OFFSET: u32 = 0x140;

fn register(mfn: u64, offset: u32) -> Result<u64, Errno> {
    let mut argument = VcpuRegisterVcpuInfo {
        mfn,
        offset,
        rsvd: 0,
    };
    vcpu_op(VcpuCommand::RegisterVcpuInfo, 0, &mut argument)
}

fn look(at: u64) -> VcpuInfo {
    let at = ptr::with_exposed_provenance::<VcpuInfo>(at as usize);
    // SAFETY: the page stays mapped.
    unsafe { at.read_volatile() }
}

pub fn check(report: &mut Report, shared: u64) {
    let invalid = Err(Errno::EINVAL);
    for offset in [PAGE as u32 - 63, PAGE as u32, u32::MAX] {
        report.equal(
            format_args!("vcpu_info at {offset:#x}"),
            register(PLACE.mfn(), offset),
            Err(Errno::ENXIO),
        );
    }
    let table = (kit::memory::walk(PLACE.address()).0[2] / PAGE) & 0xff_ffff_ffff;
    for (name, mfn) in [
        ("a page table", table),
        ("no frame", 1 << 40),
        ("a frame of somebody's", 0x100),
    ] {
        report.equal(
            format_args!("vcpu_info in {name}"),
            register(mfn, OFFSET),
            invalid,
        );
    }
    let before = look(shared);
    report.equal("vcpu_info is moved", register(PLACE.mfn(), OFFSET), Ok(0));
    let at = PLACE.address() + u64::from(OFFSET);
    let info = look(at);
    report.equal("an event is told", info.evtchn_upcall_pending, 1);
    report.equal(
        "all words are to be looked at",
        info.evtchn_pending_sel,
        u64::MAX,
    );
    report.equal(
        "the mask is what it was",
        info.evtchn_upcall_mask,
        before.evtchn_upcall_mask,
    );
    let clock = Clock::of(at);
    let now = clock.now();
    let old = Clock::of(shared).now();
    report.check(
        "the time is there",
        now <= old && old - now < 1000 * MS,
        format_args!("{now} {old}"),
    );
    report.equal(
        "vcpu_info is moved once",
        register(PLACE.mfn(), OFFSET),
        invalid,
    );
    // Sleeps end by what is pending in the new place, and by time.
    let end = clock.now() + 2 * MS;
    let _ = events::poll(&[], end);
    report.check("time goes on there", clock.now() >= now, "it went back");
}
