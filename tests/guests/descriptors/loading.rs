//! What the CPU makes of selectors: the guest's own and the hypervisor's.

use dom0_abi::arch::{FLAT_CS32, FLAT_CS64, FLAT_SS};
use kit::descriptors::{
    FLAT_CODE32, FLAT_CODE64, FLAT_DATA, Register, access, access_rights, flags, gate, global,
    limit, segment,
};
use kit::trap::vector;
use kit::{Report, probe, registers};

use crate::{Seen, load_everywhere, not_present, refused, seen, set, set_page, table_page};

const BIG: u8 = flags::PAGES | flags::BIG;
const ALL: u32 = 0xf_ffff;

/// Name, descriptor, what `lar` says (access byte and flags), what loading it into a data register comes to.
type Row = (&'static str, u64, Option<(u8, u8)>, Loads);

const ROWS: [Row; 14] = [
    ("data", FLAT_DATA, Some((0xf3, BIG)), Loads::Well),
    ("32-bit code", FLAT_CODE32, Some((0xfb, BIG)), Loads::Well),
    ("64-bit code", FLAT_CODE64, Some((0xfb, 0xa)), Loads::Well),
    (
        "data to be read",
        segment(0, ALL, 0xf1, BIG),
        Some((0xf1, BIG)),
        Loads::Well,
    ),
    (
        "code to be executed alone",
        segment(0, ALL, 0xf9, BIG),
        Some((0xf9, BIG)),
        Loads::Not,
    ),
    (
        "data from the limit up",
        segment(0, 0xff, 0xf7, BIG),
        Some((0xf7, BIG)),
        Loads::Well,
    ),
    (
        "data that is not present",
        segment(0, ALL, 0x73, BIG),
        Some((0x73, BIG)),
        Loads::Absent,
    ),
    (
        "a call gate",
        gate(FLAT_CS64, 0x1000, access::CALL_GATE),
        None,
        Loads::Not,
    ),
    (
        "conforming code",
        segment(0, ALL, 0xff, 0xa),
        Some((0xff, 0xa)),
        Loads::Well,
    ),
    (
        "the reserved type",
        (access::PRESENT as u64) << 40,
        None,
        Loads::Not,
    ),
    (
        "code with both sizes",
        segment(0, ALL, 0xfb, 0xe),
        Some((0xfb, 0xe)),
        Loads::Well,
    ),
    (
        "data of one page",
        segment(0x1000, 0xfff, 0xf3, flags::BIG),
        Some((0xf3, flags::BIG)),
        Loads::Well,
    ),
    (
        "data with a base",
        segment(0xdead_b000, ALL, 0xf3, BIG),
        Some((0xf3, BIG)),
        Loads::Well,
    ),
    ("nothing", 0, None, Loads::Not),
];

#[derive(Clone, Copy)]
enum Loads {
    Well,
    Not,
    Absent,
}

impl Loads {
    fn right(self, selector: u16) -> Seen {
        match self {
            Self::Well => None,
            Self::Not => refused(selector),
            Self::Absent => not_present(selector),
        }
    }
}

pub fn check(report: &mut Report) {
    hypervisors(report);
    area(report);
    let mut descriptors = [(0, 0); ROWS.len()];
    for (index, (place, row)) in (1..).zip(descriptors.iter_mut().zip(ROWS)) {
        *place = (index, row.1);
    }
    let page = table_page(&descriptors);
    set_page(page);
    for (index, (name, descriptor, rights, loads)) in (1..).zip(ROWS) {
        let selector = global(index);
        let right = rights.map(|(byte, bits)| u32::from(byte) << 8 | u32::from(bits) << 20);
        report.equal(
            format_args!("lar: {name}"),
            access_rights(selector),
            Ok(right),
        );
        let pages = descriptor >> 52 & u64::from(flags::PAGES) != 0;
        let field = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
        let bytes = if pages { field << 12 | 0xfff } else { field };
        report.equal(
            format_args!("lsl: {name}"),
            limit(selector),
            Ok(right.map(|_| bytes)),
        );
        load_everywhere(
            report,
            format_args!("{name}"),
            selector,
            loads.right(selector),
        );
        load_everywhere(
            report,
            format_args!("{name}, level 0"),
            selector & !3,
            loads.right(selector),
        );
    }
    accessed(report);
    set_page(page);
    stack(report);
    far_returns(report);
    outlived(report);
}

/// The tables' last two pages: three selectors for everybody, and nothing else that a guest could use.
fn hypervisors(report: &mut Report) {
    for (index, selector) in (0xe000..=0xffff).step_by(8).enumerate() {
        // RPL 0 and 3 by turns.
        let selector = selector | if index % 2 == 0 { 0 } else { 3 };
        let right = match selector & !3 {
            0xe020 => Some(0xc0_fb00),
            0xe028 => Some(0xc0_f300),
            0xe030 => Some(0xa0_fb00),
            _ => None,
        };
        let rights = access_rights(selector);
        if rights != Ok(right) {
            report.equal(format_args!("lar {selector:#x}"), rights, Ok(right));
        }
        let loaded = seen(Register::Es.load(selector));
        Register::Es.load(0);
        let right = right.map_or(refused(selector), |_| None);
        if loaded != right {
            report.equal(format_args!("load {selector:#x}"), loaded, right);
        }
    }
    for selector in [FLAT_CS64, FLAT_CS32, FLAT_SS] {
        load_everywhere(report, format_args!("{selector:#x}"), selector, None);
    }
    for selector in [0, 1, 2, 3] {
        load_everywhere(report, format_args!("{selector}"), selector, None);
    }
    for selector in [
        8, 0x100b, 0xdff8, 0xe000, 0xe00b, 0xe03b, 0xe043, 0xf003, 0xfffb,
    ] {
        load_everywhere(
            report,
            format_args!("{selector:#x}"),
            selector,
            refused(selector),
        );
    }
}

/// The CPU tells where its tables are, if it is not kept from that; the guest can neither read nor write there.
fn area(report: &mut Report) {
    let mut pointer = [0u64; 2];
    let trap = probe!("sgdt [{place}]"; place = in(reg) pointer.as_mut_ptr());
    if trap.is_some() {
        report.skip("the tables' addresses", "sgdt is protected");
        return;
    }
    let base = pointer[0] >> 16 | pointer[1] << 48;
    for offset in (0..0x2_0000)
        .step_by(0x800)
        .chain([0xdfff, 0xe020, 0xe030, 0xefff])
    {
        let address = base + offset;
        let trap =
            probe!("mov {value}, [{address}]"; address = in(reg) address, value = out(reg) _);
        let read = trap.map(|trap| (trap.vector, trap.error.map(|error| error & !1), trap.cr2));
        report.equal(
            format_args!("table area + {offset:#x}: read"),
            read,
            Some((vector::PF, Some(0), address)),
        );
        let trap = probe!("mov [{address}], {address}"; address = in(reg) address);
        let written = trap.map(|trap| (trap.vector, trap.error.map(|error| error & !1), trap.cr2));
        report.equal(
            format_args!("table area + {offset:#x}: written"),
            written,
            Some((vector::PF, Some(2), address)),
        );
    }
}

/// The CPU notes the use of a segment in the guest's page, unless the hypervisor has done so beforehand.
fn accessed(report: &mut Report) {
    let fresh = segment(0, ALL, 0xf2, BIG);
    let page = table_page(&[(1, fresh)]);
    set_page(page);
    load_everywhere(report, "a segment that was never used", global(1), None);
    report.equal(
        "a segment that was never used: afterwards",
        page.word(1),
        Ok(fresh | 1 << 40),
    );
}

fn stack(report: &mut Report) {
    let own = global(1);
    for (selector, right) in [
        (FLAT_SS, None),
        (own, None),
        (own & !3, refused(own)),
        (FLAT_SS & !3, refused(FLAT_SS)),
        (0, refused(0)),
        (3, refused(0)),
        // To be read alone; code; a gate; not present.
        (global(4), refused(global(4))),
        (global(2), refused(global(2))),
        (global(8), refused(global(8))),
        (
            global(7),
            Some((vector::SS, Some(u64::from(global(7) & !3)), 0)),
        ),
    ] {
        let trap = seen(probe!("mov ss, {selector:x}"; selector = in(reg) selector));
        let held = registers::ss();
        // The hypervisor's frame puts its own there after a trap.
        probe!("mov ss, {selector:x}"; selector = in(reg) FLAT_SS);
        let holds = trap == right && (right.is_some() || held == selector);
        report.check(
            format_args!("SS: {selector:#x}"),
            holds,
            format_args!("{trap:x?} {held:#x}"),
        );
    }
}

fn far_returns(report: &mut Report) {
    for (name, selector, right) in [
        ("64-bit code", global(3), None),
        ("conforming 64-bit code", global(9), None),
        ("code with both sizes", global(11), None),
        ("the hypervisor's", FLAT_CS64, None),
        ("data", global(1), refused(global(1))),
        ("a call gate", global(8), refused(global(8))),
        ("the reserved type", global(10), refused(global(10))),
        ("nothing", global(14), refused(global(14))),
        ("null", 0, refused(0)),
    ] {
        let trap = probe!(
            "push {selector}; lea {there}, [rip + 4f]; push {there}; retfq; 4:";
            selector = in(reg) u64::from(selector), there = out(reg) _
        );
        let held = registers::cs();
        let back = probe!(
            "push 0xe033; lea {there}, [rip + 4f]; push {there}; retfq; 4:"; there = out(reg) _
        );
        let expected = if right.is_none() { selector } else { FLAT_CS64 };
        report.equal(
            format_args!("far return to {name}"),
            (seen(trap), held, seen(back)),
            (right, expected, None),
        );
    }
}

/// A selector that is loaded stays, whatever becomes of the table.
fn outlived(report: &mut Report) {
    Register::Es.load(global(1));
    let emptied = set(&[], 0);
    let trap = seen(probe!("ud2"));
    report.equal(
        "a selector that outlives its table",
        (emptied, trap, Register::Es.selector()),
        (Ok(0), Some((vector::UD, None, 0)), global(1)),
    );
    Register::Es.load(0);
}
