//! I/O ports and the interrupt flag, which go by the guest's own I/O privilege level.

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use guest_pv_drivers::hypercall;
use kit::memory::Page;
use kit::registers::{self, flags};
use kit::{Report, Trap, probe};

use crate::{done, general_protection};

/// `PHYSDEVOP_set_iopl`, which takes the level as a 32-bit word.
const SET_IOPL: u64 = 6;

static BUFFER: Page = Page::new();

const MARK: u64 = 0x1122_3344_5566_7788;

fn input(port: u16) -> [(Option<Trap>, u64); 3] {
    let (byte, word, dword): (u64, u64, u64);
    let traps = [
        probe!("in al, dx"; in("dx") port, inout("rax") MARK => byte),
        probe!("in ax, dx"; in("dx") port, inout("rax") MARK => word),
        probe!("in eax, dx"; in("dx") port, inout("rax") MARK => dword),
    ];
    let [a, b, c] = traps;
    [(a, byte), (b, word), (c, dword)]
}

fn set_iopl(level: u32) -> Result<u64, Errno> {
    let argument = (&raw const level).expose_provenance() as u64;
    // SAFETY: the hypervisor reads the level.
    unsafe { hypercall::call(Hypercall::PhysdevOp, [SET_IOPL, argument, 0, 0, 0]) }
}

pub fn check(report: &mut Report) {
    without_level(report);
    match set_iopl(1) {
        Err(Errno::ENOSYS) => report.skip("I/O with level 1", "physdev_op: ENOSYS"),
        result => {
            report.equal("set_iopl(1)", result, Ok(0));
            with_level(report);
            report.equal("set_iopl(4)", set_iopl(4), Err(Errno::EINVAL));
            report.equal("set_iopl(0)", set_iopl(0), Ok(0));
            without_level(report);
        }
    }
}

/// At first the level is 0, and the kernel is as if at level 1: everything is refused.
fn without_level(report: &mut Report) {
    general_protection(report, "cli: level 0", probe!("cli"));
    general_protection(report, "sti: level 0", probe!("sti"));
    for port in [
        0x20, 0x21, 0x40, 0x61, 0x70, 0x71, 0x80, 0x3f8, 0xcf8, 0xcfc, 0xffff,
    ] {
        for ((trap, rax), width) in input(port).into_iter().zip([1, 2, 4]) {
            general_protection(
                report,
                format_args!("in {port:#x}, {width} bytes: level 0"),
                trap,
            );
            report.equal(
                format_args!("rax behind in {port:#x}, {width} bytes"),
                rax,
                MARK,
            );
        }
    }
    general_protection(
        report,
        "in, port in the instruction: level 0",
        probe!("in al, 0x80"; out("al") _),
    );
    general_protection(
        report,
        "out, port in the instruction: level 0",
        probe!("out 0x80, al"; in("al") 0u8),
    );
    general_protection(
        report,
        "out: level 0",
        probe!("out dx, eax"; in("eax") 0u32, in("dx") 0xcf8u16),
    );
    let buffer = BUFFER.address();
    general_protection(
        report,
        "insb: level 0",
        probe!("insb"; in("dx") 0x80u16, inout("rdi") buffer => _),
    );
    general_protection(
        report,
        "outsb: level 0",
        probe!("outsb"; in("dx") 0x80u16, inout("rsi") buffer => _),
    );
    let left: u64;
    let trap =
        probe!("rep insd"; in("dx") 0x80u16, inout("rdi") buffer => _, inout("rcx") 4u64 => left);
    general_protection(report, "rep insd: level 0", trap);
    report.equal("rep insd: count is kept", left, 4);
}

fn with_level(report: &mut Report) {
    // They do nothing: the guest's interrupt flag is the upcall mask, and the real one stays set.
    done(report, "cli: level 1", probe!("cli"));
    report.equal(
        "cli: the real flag",
        registers::rflags() & flags::IF,
        flags::IF,
    );
    done(report, "sti: level 1", probe!("sti"));
    let mask = probe!("int3").map(|trap| trap.frame.saved_upcall_mask());
    report.equal("sti: the upcall mask", mask, Some(1));
    // The interrupt controllers, the timer's channel 0, the serial port that is the hypervisor's console, ports of no
    // device: nothing there. Parts of the register that the width does not reach stay; 32 bits clear the upper half.
    for port in [0x20u16, 0x21, 0xa0, 0xa1, 0x40, 0x3f8, 0x3fd, 0xffff] {
        let seen = input(port).map(|(trap, rax)| (trap.is_none(), rax));
        let right = [
            (true, MARK | 0xff),
            (true, MARK | 0xffff),
            (true, 0xffff_ffff),
        ];
        // Wider reads go on into ports that may be there, and a byte at the timer's is alone.
        let widths = if matches!(port, 0x40 | 0xffff) { 1 } else { 2 };
        report.equal(
            format_args!("in {port:#x}: nothing there"),
            &seen[..widths],
            &right[..widths],
        );
    }
    // The keyboard controller is dom0's: bit 2 of its status says that it has been set up.
    let [(trap, status), ..] = input(0x64);
    report.equal(
        "in 0x64: a device",
        (trap.is_none(), status & 0xff != 0xff, status >> 8),
        (true, true, MARK >> 8),
    );
    done(
        report,
        "out: a device",
        probe!("out 0x80, al"; in("al") 0u8),
    );
    // Writes that go nowhere.
    done(
        report,
        "out: not the guest's",
        probe!("out 0x21, al"; in("al") 0xffu8),
    );

    // PCI configuration: the address is the guest's own, the data that of the device.
    let host_bridge = 0x8000_0000u32;
    done(
        report,
        "out 0xcf8",
        probe!("out dx, eax"; in("eax") host_bridge, in("dx") 0xcf8u16),
    );
    let [_, _, (trap, address)] = input(0xcf8);
    report.equal(
        "in 0xcf8",
        (trap.is_none(), address),
        (true, u64::from(host_bridge)),
    );
    let [_, (trap, maker), _] = input(0xcfc);
    report.equal(
        "in 0xcfc: the host bridge's maker",
        (trap.is_none(), maker & 0xffff),
        (true, 0x8086),
    );

    let buffer = BUFFER.address();
    let (end, left): (u64, u64);
    let trap =
        probe!("rep insb"; in("dx") 0x21u16, inout("rdi") buffer => end, inout("rcx") 4u64 => left);
    report.equal(
        "rep insb",
        (trap.is_none(), end - buffer, left),
        (true, 4, 0),
    );
    report.equal(
        "rep insb: what came in",
        kit::memory::read(buffer),
        Ok(0xffff_ffff),
    );
    let end: u64;
    let trap = probe!("outsb"; in("dx") 0x80u16, inout("rsi") buffer => end);
    report.equal("outsb", (trap.is_none(), end - buffer), (true, 1));
    // A string that is not there: the guest's own page fault, not the hypervisor's.
    let trap = probe!("insb"; in("dx") 0x21u16, inout("rdi") kit::memory::UNMAPPED => _);
    report.equal(
        "insb to nowhere",
        trap.map(|t| (t.vector, t.error, t.cr2)),
        Some((14, Some(2), kit::memory::UNMAPPED)),
    );
}
