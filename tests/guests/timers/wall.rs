//! The wall clock, and who sets it.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::platform::{INTERFACE_VERSION, PlatformCommand, PlatformOp, Settime32, Settime64};
use dom0_abi::xen::SharedInfo;
use guest_pv_drivers::hypercall;
use kit::Report;

use crate::clock::Clock;

/// The beginning of 2020: no machine that runs this has an earlier time.
const YEAR_2020: u64 = 1_577_836_800;
/// A time for which 32 bits are too few.
const LATE: u64 = 0x1_2345_6789;

pub fn check(report: &mut Report, shared: u64, clock: Clock) {
    let first = read(shared);
    report.check(
        "the wall clock is told",
        first.version != 0 && first.version.is_multiple_of(2) && first.seconds > YEAR_2020,
        first.seconds,
    );
    report.check(
        "its nanoseconds",
        first.nanoseconds < 1_000_000_000,
        first.nanoseconds,
    );

    let now = clock.now();
    report.equal("it is set", settime64(LATE, 7, 0, now), Ok(0));
    let set = read(shared);
    let (seconds, nanoseconds) = (now / 1_000_000_000, now % 1_000_000_000);
    let expected = match 7_u64.checked_sub(nanoseconds) {
        Some(rest) => (LATE - seconds, rest),
        None => (LATE - seconds - 1, 1_000_000_007 - nanoseconds),
    };
    let told = (set.seconds, u64::from(set.nanoseconds));
    report.equal("as of system time 0", told, expected);
    report.check(
        "with another version",
        set.version != first.version,
        set.version,
    );

    let old_form = Settime32 {
        secs: 5,
        nsecs: 1_000_000_003,
        system_time: 4,
    };
    let mut op = request(PlatformCommand::Settime32, INTERFACE_VERSION);
    op.set_variant(&old_form);
    report.equal("it is set in the old form", platform_op(&op), Ok(0));
    let set = read(shared);
    report.equal(
        "nanoseconds are carried",
        (set.seconds, set.nanoseconds),
        (5, 999_999_999),
    );

    report.equal(
        "what must be zero",
        settime64(9, 9, 1, 0),
        Err(Errno::EINVAL),
    );
    let other = request(PlatformCommand::Settime64, INTERFACE_VERSION + 1);
    report.equal("another interface", platform_op(&other), Err(Errno::EACCES));
    let mut unknown = request(PlatformCommand::Settime64, INTERFACE_VERSION);
    unknown.cmd = 1000;
    report.equal("no command", platform_op(&unknown), Err(Errno::ENOSYS));
    report.equal("that changes nothing", read(shared), set);
    let restored = settime64(first.seconds, first.nanoseconds, 0, 0);
    report.equal("it is set back", restored, Ok(0));
}

/// What is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wall {
    version: u32,
    seconds: u64,
    nanoseconds: u32,
}

fn read(shared: u64) -> Wall {
    let word = |offset: usize| {
        // SAFETY: the page stays mapped; all access it by atomic accesses.
        let word = unsafe { &*((shared as usize + offset) as *const AtomicU32) };
        word.load(Ordering::SeqCst)
    };
    let high = u64::from(word(offset_of!(SharedInfo, wc_sec_hi)));
    Wall {
        version: word(offset_of!(SharedInfo, wc_version)),
        seconds: high << 32 | u64::from(word(offset_of!(SharedInfo, wc_sec))),
        nanoseconds: word(offset_of!(SharedInfo, wc_nsec)),
    }
}

fn request(command: PlatformCommand, interface_version: u32) -> PlatformOp {
    let mut op = PlatformOp::zeroed();
    (op.cmd, op.interface_version) = (command.get(), interface_version);
    op
}

fn settime64(secs: u64, nsecs: u32, mbz: u32, system_time: u64) -> Result<u64, Errno> {
    let mut op = request(PlatformCommand::Settime64, INTERFACE_VERSION);
    op.set_variant(&Settime64 {
        secs,
        nsecs,
        mbz,
        system_time,
    });
    platform_op(&op)
}

fn platform_op(op: &PlatformOp) -> Result<u64, Errno> {
    let at = core::ptr::from_ref(op) as u64;
    // SAFETY: reads the request.
    hypercall::decode(unsafe { hypercall::raw(Hypercall::PlatformOp.number(), [at, 0, 0, 0, 0]) })
}
