//! Several calls in one: each has its own result, and only a bad list is an error of the whole.

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::version::VersionCommand;
use dom0_abi::xen::MulticallEntry;
use guest_pv_drivers::hypercall;
use kit::Report;
use kit::memory::{self, HYPERVISOR_VIRT_START, NON_CANONICAL, UNMAPPED};

use crate::call;

const fn entry(op: u64, args: [u64; 6]) -> MulticallEntry {
    MulticallEntry {
        op,
        result: 0x5555_5555_5555_5555,
        args,
    }
}

pub fn check(report: &mut Report) {
    results(report);
    lists(report);
}

fn results(report: &mut Report) {
    let version = Hypercall::XenVersion.number();
    let mut inner = [entry(version, [0; 6])];
    let inner_address = inner.as_mut_ptr().expose_provenance() as u64;
    let cases = [
        ("a good call", entry(version, [0; 6]), 0x0004_0011),
        (
            "a number that does not exist",
            entry(63, [0; 6]),
            Errno::ENOSYS.as_register(),
        ),
        (
            "a number of more than 32 bits",
            entry(1 << 32 | version, [0; 6]),
            Errno::ENOSYS.as_register(),
        ),
        (
            "a command that does not exist",
            entry(version, [99, 0, 0, 0, 0, 0]),
            Errno::ENOSYS.as_register(),
        ),
        (
            "a bad pointer",
            entry(
                version,
                [VersionCommand::Changeset as u64, UNMAPPED, 0, 0, 0, 0],
            ),
            Errno::EFAULT.as_register(),
        ),
        (
            "a multicall in a multicall",
            entry(13, [inner_address, 1, 0, 0, 0, 0]),
            Errno::EINVAL.as_register(),
        ),
        (
            "a good call behind all that",
            entry(version, [0; 6]),
            0x0004_0011,
        ),
    ];
    let mut list = cases.map(|(_, entry, _)| entry);
    // SAFETY: the calls fail or touch no memory.
    report.equal(
        "multicall as a whole",
        unsafe { hypercall::multicall(&mut list) },
        Ok(0),
    );
    for ((name, before, right), after) in cases.into_iter().zip(list) {
        report.equal(format_args!("multicall: {name}"), after.result, right);
        report.equal(
            format_args!("multicall: entry of {name}"),
            (after.op, after.args),
            (before.op, before.args),
        );
    }
    report.equal(
        "the inner multicall did nothing",
        inner[0].result,
        0x5555_5555_5555_5555,
    );
}

fn lists(report: &mut Report) {
    let multicall = |list, count| call(Hypercall::Multicall.number(), [list, count, 0, 0, 0]);
    report.equal("no calls at null", multicall(0, 0), Ok(0));
    report.equal(
        "no calls where nothing is mapped",
        multicall(UNMAPPED, 0),
        Ok(0),
    );
    // The range is checked first, and the address alone is out of it.
    report.equal(
        "no calls, not canonical",
        multicall(NON_CANONICAL, 0),
        Err(Errno::EFAULT),
    );
    report.equal(
        "no calls, hypervisor",
        multicall(HYPERVISOR_VIRT_START, 0),
        Err(Errno::EFAULT),
    );
    report.equal(
        "2^31 calls at null",
        multicall(0, 1 << 31),
        Err(Errno::EFAULT),
    );

    // The list runs into a page that is not there: what came before has been done and has its result.
    let first = memory::end_of_mapping() - size_of::<MulticallEntry>() as u64;
    let list = core::ptr::with_exposed_provenance_mut::<MulticallEntry>(first as usize);
    // SAFETY: spare memory behind the boot stack, which the builder maps and nobody uses.
    unsafe { list.write(entry(Hypercall::XenVersion.number(), [0; 6])) };
    report.equal(
        "a list that ends too early",
        multicall(first, 2),
        Err(Errno::EFAULT),
    );
    // SAFETY: as above.
    let result = unsafe { list.read() }.result;
    report.equal("the call before the end was made", result, 0x0004_0011);
}
