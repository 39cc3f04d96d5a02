//! Every bit of an entry at every level, one at a time: what is not on the list of allowed bits must be refused.
//!
//! Each bit is tried in an empty slot, on top of an entry that is there already (the way on which a hypervisor may be
//! tempted to look at the frame only), and in a table before it is pinned. A refusal leaves the entry, the table and
//! its type as they were.
#![no_std]
#![no_main]

use core::arch::x86_64::__cpuid;

use dom0_abi::errno::Errno;
use kit::Report;
use kit::memory::{Page, pte};
use kit::page_tables::{Lab, is_plain, page, pin, protect, release, unpin};

kit::guest!("pt-flags", main);

/// Marks the pages of the guest kernel, for the hypervisor's own use.
const GUEST_KERNEL: u64 = 1 << 52;

fn main(report: &mut Report) {
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(error) => return report.check("tables of the guest's own", false, error_name(error)),
    };
    let data = page();
    let lower = [page(), page(), page()];
    for table in lower {
        report.equal("an empty table is read-only", protect(table), Ok(0));
    }
    let physical_bits = (__cpuid(0x8000_0008).eax & 0xff).clamp(36, 52);
    for level in 1..=4 {
        // Not writable, so that the frame has no type from it.
        let base = match level {
            1 => data.machine() | pte::P | pte::U | pte::A,
            _ => lower[level - 2].machine() | pte::P | pte::U | pte::A | pte::RW | pte::D,
        };
        // Frames within the width may be devices, which `pt-frames` looks at.
        for bit in (0..12).chain(physical_bits..64) {
            let trial = Trial {
                lab,
                level,
                base,
                entry: base ^ 1 << bit,
                bit,
                right: right(level, bit),
            };
            trial.in_empty_slot(report);
            trial.over_entry(report);
            trial.before_pin(report);
            if level == 1 {
                trial.by_address(report);
            }
        }
        not_present(report, lab, level);
    }
}

fn error_name(error: Errno) -> &'static str {
    if error == Errno::ENOSYS {
        "the hypervisor has no mmu_update"
    } else {
        "refused"
    }
}

/// What becomes of a bit.
fn right(level: usize, bit: u32) -> Result<u64, Errno> {
    match (level, bit) {
        // Write-through, cache-disable, page size, global; frames that cannot be.
        (2..=4, 3 | 4 | 7 | 8 | 12..=51) => Err(Errno::EINVAL),
        (1, 12..=51) => Err(Errno::EPERM),
        _ => Ok(0),
    }
}

struct Trial {
    lab: Lab,
    level: usize,
    base: u64,
    entry: u64,
    bit: u32,
    right: Result<u64, Errno>,
}

impl Trial {
    fn check(&self, report: &mut Report, how: &str, seen: (Result<u64, Errno>, u64), old: u64) {
        let Self { level, bit, .. } = *self;
        report.equal(format_args!("L{level} bit {bit} {how}"), seen.0, self.right);
        let name = format_args!("L{level} bit {bit} {how}: the entry");
        if self.right.is_err() {
            report.equal(name, seen.1, old);
        } else {
            // The hypervisor may add user, accessed, global and its own mark; nothing else changes.
            let added = seen.1 ^ self.entry;
            let may = pte::U | pte::A | pte::G | GUEST_KERNEL;
            let cleared = self.entry & added & !pte::G;
            report.equal(name, (added & !may, cleared), (0, 0));
        }
    }

    fn slot(&self) -> usize {
        Lab::free_slot(self.level, 0)
    }

    fn set(&self, entry: u64) -> (Result<u64, Errno>, u64) {
        let result = self.lab.set(self.level, self.slot(), entry);
        (result, self.lab.table(self.level).entry(self.slot()))
    }

    fn in_empty_slot(&self, report: &mut Report) {
        let seen = self.set(self.entry);
        self.check(report, "in an empty slot", seen, 0);
        self.clear(report);
    }

    fn over_entry(&self, report: &mut Report) {
        let (before, old) = self.set(self.base);
        let seen = self.set(self.entry);
        self.check(report, "over an entry", (before.and(seen.0), seen.1), old);
        self.clear(report);
    }

    fn by_address(&self, report: &mut Report) {
        let result = self.lab.map(self.slot(), self.entry);
        let seen = self.lab.table(1).entry(self.slot());
        self.check(report, "by update_va_mapping", (result, seen), 0);
        self.clear(report);
    }

    fn clear(&self, report: &mut Report) {
        if self.set(0) != (Ok(0), 0) {
            let Self { level, bit, .. } = *self;
            report.check(
                format_args!("L{level} bit {bit} can be cleared"),
                false,
                "refused",
            );
        }
    }

    fn before_pin(&self, report: &mut Report) {
        let Self { level, bit, .. } = *self;
        // The last slot of which nothing is the hypervisor's.
        let slot = 255;
        let table: &'static Page = page();
        let name = format_args!("L{level} bit {bit} in a pinned table: writable before and after");
        if table.set_word(slot, self.entry).is_some() || protect(table).is_err() {
            return report.check(name, false, "not before");
        }
        let pinned = pin(level, table.mfn());
        let entry = table.word(slot).unwrap_or(0);
        self.check(report, "in a pinned table", (pinned, entry), self.entry);
        // Were it pinned after all, it could not be written.
        let unpinned = if pinned.is_ok() {
            unpin(table.mfn())
        } else {
            Ok(0)
        };
        report.equal(name, (unpinned, is_plain(table)), (Ok(0), true));
        if table.set_word(slot, 0).is_none() {
            release(table);
        }
    }
}

/// What is not present may hold anything; kernels keep where a page has gone to there.
fn not_present(report: &mut Report, lab: Lab, level: usize) {
    let slot = Lab::free_slot(level, 1);
    for entry in [u64::MAX << 1, 0x8000_0000_dead_be80, 0xffff_f000_0000_0000] {
        let seen = (lab.set(level, slot, entry), lab.table(level).entry(slot));
        report.equal(
            format_args!("L{level} not present, {entry:#x}"),
            seen,
            (Ok(0), entry),
        );
        report.equal(
            format_args!("L{level} not present, cleared"),
            lab.set(level, slot, 0),
            Ok(0),
        );
    }
}
