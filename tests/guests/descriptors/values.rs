//! Each access byte with each set of flags, in `update_descriptor` and in a page that becomes a table.

use dom0_abi::errno::Errno;
use kit::Report;
use kit::descriptors::{FLAT_DATA, access, flags, gate, segment};
use kit::page_tables::{protect, unprotect};

use crate::{set, set_page, table_page, update};

const DPL: u64 = 3 << 45;
const RPL: u64 = 3 << 16;

/// What the hypervisor makes of a descriptor; `None` if it refuses it.
fn right(descriptor: u64) -> Option<u64> {
    let byte = (descriptor >> 40) as u8;
    if byte & access::PRESENT == 0 {
        // The CPU never uses it.
        return Some(descriptor);
    }
    if byte & access::SEGMENT != 0 {
        return Some(descriptor | DPL);
    }
    match byte & 0xf {
        // Reserved by the CPU's makers.
        0 => Some(descriptor),
        0xc => {
            let selector = (descriptor >> 16) as u16;
            let parameters = descriptor >> 32 & 0xff;
            // A local selector, one of the guest's part of the global table, or the hypervisor's 64-bit code.
            let target = selector & 4 != 0 || selector >> 3 < 7168 || selector == 0xe033;
            // User code has no business with gates; the hypervisor emulates them or not.
            (target && parameters == 0).then_some(descriptor & !DPL | RPL)
        }
        _ => None,
    }
}

const PLACE: u16 = 20;

pub fn check(report: &mut Report) {
    let page = table_page(&[]);
    set_page(page);
    let place = page.machine() + u64::from(PLACE) * 8;
    // What a descriptor came to, and what it should.
    let outcome = |descriptor| {
        update(place, FLAT_DATA).expect("a good descriptor is taken");
        let answer = update(place, descriptor);
        let expected = match right(descriptor) {
            Some(value) => (Ok(0), Ok(value)),
            // The one that was there stays.
            None => (Err(Errno::EINVAL), Ok(FLAT_DATA)),
        };
        ((answer, page.word(usize::from(PLACE))), expected)
    };
    let try_one = |report: &mut Report, name: core::fmt::Arguments, descriptor| {
        let (seen, expected) = outcome(descriptor);
        report.equal(name, seen, expected);
    };

    for byte in 0..=u8::MAX {
        let wrong = (0..16).find_map(|bits| {
            let (seen, expected) = outcome(segment(0, 0xf_ffff, byte, bits));
            (seen != expected).then_some((bits, seen, expected))
        });
        report.equal(format_args!("access {byte:#04x}, all flags"), wrong, None);
    }
    let data = access::USER | access::WRITABLE;
    let code = access::USER | access::CODE;
    for (name, descriptor) in [
        ("nothing", 0),
        ("one", 1),
        ("all ones", u64::MAX),
        ("all ones, not present", !(u64::from(access::PRESENT) << 40)),
        (
            "data in the hypervisor",
            segment(0xffff_8300, 0xf_ffff, data, flags::PAGES),
        ),
        ("data without a byte", segment(0, 0, data, 0)),
        (
            "data of level 0",
            segment(0, 0xf_ffff, data & !access::DPL3, flags::PAGES),
        ),
        (
            "code of level 0",
            segment(0, 0xf_ffff, code & !access::DPL3, flags::LONG),
        ),
        (
            "conforming code of level 0",
            segment(
                0,
                0xf_ffff,
                (code | access::CONFORMING) & !access::DPL3,
                flags::LONG,
            ),
        ),
        (
            "64-bit code with a base",
            segment(0x1234_5678, 5, code, flags::LONG),
        ),
    ] {
        try_one(report, format_args!("{name}"), descriptor);
    }
    for dpl in [0, access::DPL3] {
        let byte = access::CALL_GATE | dpl;
        for selector in [
            0, 3, 4, 8, 0x1b, 0x1f, 0x7ff8, 0xdff8, 0xdffb, 0xe000, 0xe003, 0xe008, 0xe00b, 0xe010,
            0xe013, 0xe020, 0xe023, 0xe028, 0xe02b, 0xe02f, 0xe030, 0xe031, 0xe032, 0xe033, 0xe034,
            0xe037, 0xe038, 0xe03b, 0xe040, 0xf000, 0xfff8, 0xffff,
        ] {
            let descriptor = gate(selector, 0x1234_5678, byte);
            try_one(
                report,
                format_args!("gate to {selector:#x}, {byte:#x}"),
                descriptor,
            );
        }
        for bit in 0..8 {
            let descriptor = gate(0xe033, 0x1000, byte) | 1 << (32 + bit);
            try_one(
                report,
                format_args!("gate with bit {bit} of the parameters, {byte:#x}"),
                descriptor,
            );
        }
    }
    report.equal("the table is no longer used", set(&[], 0), Ok(0));
    pages(report);
}

/// The same rules for a page as a whole: what can be taken is mended in place.
fn pages(report: &mut Report) {
    // Sixteen access bytes a page.
    for first in (0..=u8::MAX).step_by(32) {
        let variants = |index: u16| {
            let byte = first | (index >> 4) as u8;
            segment(0x1b_0000, 0x1234, byte, (index & 15) as u8)
        };
        let page = table_page(&[]);
        unprotect(page).expect("an own page can be mapped");
        for index in 0..512 {
            // Those that are refused have their turn above.
            let descriptor = right(variants(index)).map_or(0, |_| variants(index));
            page.set_word(usize::from(index), descriptor);
        }
        protect(page).expect("an own page can be mapped read-only");
        report.equal(
            format_args!("a page of access bytes from {first:#x} on"),
            set(&[page.mfn()], 512),
            Ok(0),
        );
        let mended = (0..512).find(|&index| {
            let expected = right(variants(index)).unwrap_or(0);
            page.word(usize::from(index)) != Ok(expected)
        });
        report.equal(
            format_args!("a page of access bytes from {first:#x} on: mended"),
            mended.map(|index| (index, page.word(usize::from(index)))),
            None,
        );
        set(&[], 0).expect("an empty table is always possible");
        unprotect(page).expect("a page of no table can be mapped");
        for index in 0..512 {
            page.set_word(index, 0);
        }
        kit::page_tables::release(page);
    }
}
