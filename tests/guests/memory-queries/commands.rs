//! Each of the 64 command numbers, with arguments of nothing.

use dom0_abi::errno::Errno;
use guest_pv_drivers::hypercall::memory::{self, memory_op};
use kit::memory::{LAST_OF_HYPERVISOR, NON_CANONICAL, READ_ONLY_OF_HYPERVISOR, UNMAPPED};
use kit::{Report, start_info};

use crate::call;

type Answer = Result<u64, Errno>;

/// What a command answers, if its bits above the number (its progress) are
struct Right {
    /// zero, and its pointer is bad;
    bad_pointer: Answer,
    /// zero, and its argument is zeroes;
    zeroes: Answer,
    /// zero, and its argument is ones;
    ones: Answer,
    /// one, and its argument is zeroes;
    start: Answer,
    /// more than fits 32 bits, and its argument is zeroes.
    far_start: Answer,
}

const fn right(bad_pointer: Answer, zeroes: Answer, ones: Answer, start: Answer) -> Right {
    Right {
        bad_pointer,
        zeroes,
        ones,
        start,
        far_start: start,
    }
}

const FAR: u64 = 1 << 34;

fn right_of(command: u64) -> Right {
    use Errno::*;
    match command {
        // These tell progress alone: whatever is wrong, they return how many extents are done.
        0 | 1 | 6 => Right {
            far_start: Ok(FAR),
            ..right(Ok(0), Ok(0), Ok(0), Ok(1))
        },
        2 => {
            let page = memory::maximum_ram_page();
            right(page, page, page, Err(EINVAL))
        }
        3 => right(
            Err(EFAULT),
            Ok(start_info().nr_pages),
            Err(ESRCH),
            Err(EINVAL),
        ),
        4 => {
            let limit = memory::maximum_reservation(dom0_abi::ids::DomId::SELF);
            right(Err(EFAULT), limit, Err(ESRCH), Err(EINVAL))
        }
        14 => right(Err(EFAULT), Ok(0), Err(ESRCH), Err(EINVAL)),
        5 => right(Err(EFAULT), Ok(0), Err(EFAULT), Err(ENOSYS)),
        // Progress of a list of at most 2^16 entries.
        7 | 23 => Right {
            far_start: Err(EDOM),
            ..right(Err(EFAULT), Err(EACCES), Err(ESRCH), Err(EACCES))
        },
        9 => right(Err(EFAULT), Err(ENOSYS), Err(ENOSYS), Err(ENOSYS)),
        10 => right(Err(EFAULT), Ok(0), Err(EFAULT), Err(ENOSYS)),
        11 => right(Err(EFAULT), Ok(0), Err(EPERM), Err(EINVAL)),
        12 => right(Err(EFAULT), Ok(0), Ok(0), Err(ENOSYS)),
        13 => right(Err(EFAULT), Ok(0), Err(EINVAL), Err(ENOSYS)),
        15 => right(Err(EFAULT), Err(EACCES), Err(ESRCH), Err(EINVAL)),
        16 | 17 => right(Err(EFAULT), Err(EINVAL), Err(ESRCH), Err(ENOSYS)),
        18 | 19 => right(Ok(0), Ok(0), Ok(0), Err(ENOSYS)),
        24 => right(Err(EFAULT), Ok(0), Err(EINVAL), Err(EINVAL)),
        25 => right(
            Err(EOPNOTSUPP),
            Err(EOPNOTSUPP),
            Err(EOPNOTSUPP),
            Err(ENOSYS),
        ),
        26 => right(Err(EFAULT), Err(EOPNOTSUPP), Err(EINVAL), Err(EINVAL)),
        27 => right(Err(EFAULT), Ok(0), Err(EINVAL), Err(EINVAL)),
        28 => right(Err(EFAULT), Err(EPERM), Err(EINVAL), Err(EPERM)),
        _ => right(Err(ENOSYS), Err(ENOSYS), Err(ENOSYS), Err(ENOSYS)),
    }
}

/// Memory access rights: for hardware containers. All that matters here is that nothing comes of it.
const ACCESS_OP: u64 = 21;

pub fn check(report: &mut Report) {
    for command in (0..64).filter(|&command| command != ACCESS_OP) {
        let right = right_of(command);
        for (place, address) in [
            ("null", 0),
            ("not mapped", UNMAPPED),
            ("not canonical", NON_CANONICAL),
            ("the machine-to-physical table", READ_ONLY_OF_HYPERVISOR),
            ("the middle of the hypervisor", 0xffff_8300_0000_0000),
            ("the end of the hypervisor", LAST_OF_HYPERVISOR + 4088),
            ("the end of the address space", u64::MAX),
        ] {
            // SAFETY: nothing of the guest's is at any of these.
            let seen = unsafe { memory_op(command, address) };
            report.equal(
                format_args!("command {command}: argument: {place}"),
                seen,
                right.bad_pointer,
            );
        }
        for (what, bits, filling, right) in [
            ("zeroes", command, 0, right.zeroes),
            ("ones", command, u64::MAX, right.ones),
            ("zeroes, begun", command | 1 << 6, 0, right.start),
            ("zeroes, far", command | FAR << 6, 0, right.far_start),
        ] {
            // Longer than any argument, and with what the command writes into it.
            let seen = call(bits, &mut [filling; 16]);
            report.equal(
                format_args!("command {command}: argument: {what}"),
                seen,
                right,
            );
        }
    }
    for filling in [0, u64::MAX] {
        let seen = call(ACCESS_OP, &mut [filling; 16]);
        report.check(
            format_args!("command {ACCESS_OP}: argument: {filling:#x}"),
            seen.is_err(),
            "accepted",
        );
    }
    // All 64 bits of the command count.
    for bit in [32, 63] {
        report.equal(
            format_args!("maximum_ram_page: bit {bit} of the command"),
            call(2 | 1 << bit, &mut [0u64; 16]),
            Err(Errno::EINVAL),
        );
    }
}
