//! `cargo xtask bench`: what operations cost in instructions, on Oxen and on Debian's Xen in the same run.
//!
//! A micro-guest measures, under QEMU's `-icount`, where the time stamp counter counts instructions: the figures are the
//! same on every machine and in every run. Its lines `BENCH <row> <n>` become the rows of one table. Counting costs instructions,
//! so Oxen is booted once more as a build that counts; a line `COUNT <row> <name> <n>` of that boot becomes a column `<name>`.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::guests::{self, Guest, Verdict};
use crate::image_build::{self, Built, Profile};
use crate::process::say;
use crate::qemu::{Accel, Firmware, Hypervisor, Machine, Medium, Qemu};
use crate::run::{default_command_line, payload};
use crate::session::{Expect, Session};
use crate::workspace::logs_dir;

/// What is measured.
#[derive(Args, Debug)]
pub struct Options {
    /// Which operations.
    #[arg(value_enum, default_value = "micro")]
    what: What,
    /// Show only the rows whose names contain this word.
    #[arg(long, value_name = "WORD")]
    row: Option<String>,
}

/// Groups of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Single calls and traps, asked for by a micro-guest.
    Micro,
    /// The longest entry of each micro-guest, on a bench build of Oxen.
    Entries,
}

/// A CPU that works with `-icount`: with the newer ones QEMU gives up at an instruction by which Xen starts. It has
/// everything that a PV hypervisor uses under TCG. Without `mwait`: Xen sleeps by that where there are several CPUs, in a way at
/// which QEMU faults.
const CPU: &str = "EPYC,-monitor";
/// As long as a run may take.
const LIMIT: Duration = Duration::from_secs(180);

/// What is aimed at: rows, and instructions for one operation.
const FLOORS: &[(&[&str], u64)] = &[
    (&["hypercall-shortest"], 60),
    (&["xen-version"], 80),
    (&["syscall-round-trip"], 140),
    (
        &[
            "mmu-update-frame",
            "mmu-update-set",
            "mmu-update-clear",
            "mmu-update-flags",
            "mmu-update-read-only",
        ],
        200,
    ),
    (&["update-va-mapping-flags"], 150),
    (&["event-send-masked"], 150),
    (&["yield-alone"], 300),
    (
        &[
            "trapped-mov",
            "trapped-mov-clear",
            "trapped-xchg",
            "trapped-xchg-frame",
            "trapped-lock-and",
        ],
        200,
    ),
    // 2,000 for a table of a tree and 40 for each present entry; a tree has four tables and three entries between them.
    (&["pin-l1-0", "unpin-l1-0"], 2_000),
    (&["pin-l1-512", "unpin-l1-512"], 2_000 + 40 * 512),
    (&["pin-tree-0", "unpin-tree-0"], 4 * 2_000 + 40 * 3),
    (&["pin-tree-512", "unpin-tree-512"], 4 * 2_000 + 40 * 515),
    (&["pin-tree-per-entry", "unpin-tree-per-entry"], 40),
];

/// The boots of the micro-guest that measures single operations: alone, and with two vCPUs.
const MICRO: [&str; 3] = ["bench-mmu", "bench-same-cpu", "bench-other-cpu"];
/// Instructions that no entry may take (`Budget::FULL` of the hypervisor is chosen for that).
const LONGEST: u64 = 100_000;

/// `cargo xtask bench`.
pub fn run(options: &Options) -> Result<()> {
    match options.what {
        What::Micro => micro(options.row.as_deref()),
        What::Entries => entries(options.row.as_deref()),
    }
}

/// Prints what single operations cost.
fn micro(word: Option<&str>) -> Result<()> {
    guests::build()?;
    let counting = image_build::build(Profile::Counting)?;
    let built = image_build::build(Profile::Image)?;
    let qemu = Qemu::find()?;
    say(format!(
        "{} on both hypervisors, in QEMU {}",
        MICRO.join(", "),
        qemu.major
    ));
    let qemu = &qemu;
    let boots = [
        ("oxen", Some(&built)),
        ("xen", None),
        ("oxen-counting", Some(&counting)),
    ];
    let mut table = Table::default();
    for name in MICRO {
        let guest = &guests::find(name)?;
        let [oxen, xen, counted] = thread::scope(|scope| {
            boots
                .map(|(name, built)| scope.spawn(move || measure(name, guest, built, qemu)))
                .map(|boot| {
                    boot.join()
                        .unwrap_or_else(|_| anyhow::bail!("a thread panicked"))
                })
        });
        table.add(Hypervisor::Oxen, &oxen?);
        table.add(Hypervisor::Xen, &xen?);
        table.add_counts(&counted?);
    }
    if let Some(word) = word {
        table.rows.retain(|row| row.name.contains(word));
    }
    print!("{}", table.text());
    Ok(())
}

/// Prints the longest entry of each micro-guest that comes to a verdict by itself; fails if one is too long.
fn entries(word: Option<&str>) -> Result<()> {
    guests::build()?;
    let built = image_build::build(Profile::Longest)?;
    let qemu = Qemu::find()?;
    let is_wanted = |guest: &Guest| {
        // Where there are several CPUs their instructions are counted together.
        guest.expect == Verdict::Pass
            && guest.cpus == 1
            && guest.types.is_none()
            && word.is_none_or(|word| guest.name.contains(word))
    };
    let mut lines = vec![
        ["guest", "longest entry", "told behind"]
            .map(String::from)
            .to_vec(),
    ];
    let mut most = 0;
    for guest in guests::list()?.into_iter().filter(is_wanted) {
        let text = measure("oxen-longest", &guest, Some(&built), &qemu)?;
        if let Some((instructions, what)) = longest(&text) {
            most = most.max(instructions);
            lines.push(vec![guest.name, instructions.to_string(), what]);
        }
    }
    print!("{}", aligned(&lines));
    ensure!(most > 0, "no guest has told of a long entry");
    ensure!(
        most <= LONGEST,
        "an entry took {most} instructions, {LONGEST} are allowed"
    );
    Ok(())
}

/// The longest of all entries that the console tells of: its instructions, and what the guest was at.
fn longest(text: &str) -> Option<(u64, String)> {
    let mut most = None;
    let mut line_before = "";
    for line in text.lines() {
        let Some((_, told)) = line.split_once("longest entry: ") else {
            line_before = line;
            continue;
        };
        let (instructions, what) = told.split_once(" instructions, ")?;
        let instructions = instructions.parse().ok()?;
        if most.as_ref().is_none_or(|&(most, _)| most < instructions) {
            let before: String = line_before.trim_end().chars().take(50).collect();
            most = Some((instructions, format!("{before} ({})", what.trim_end())));
        }
    }
    most
}

/// Boots the guest on a build of Oxen, or on Xen, and returns all that the console shows.
fn measure(name: &str, guest: &Guest, built: Option<&Built>, qemu: &Qemu) -> Result<String> {
    let name = format!("bench-{name}-{}", guest.name);
    let machine = Machine {
        name: name.clone(),
        accel: Accel::Tcg,
        cpus: guest.cpus,
        // One instruction is one nanosecond, and the clocks stand still while the CPU does.
        options: &["-cpu", CPU, "-icount", "shift=0,sleep=off"],
        disk: None,
        memory: guest.memory_mib.to_string(),
        firmware: Firmware::Bios,
        medium: Medium::Direct(payload(
            built,
            guest
                .hypervisor_line()
                .unwrap_or_else(|| default_command_line(guest.memory_mib)),
            guest.kernel(),
            guest.command_line.clone(),
            guest.initrd()?,
        )?),
    };
    let command = machine.command(qemu)?;
    let log = logs_dir()?.join(format!("{name}.log"));
    let mut session = Session::start(command, &log, LIMIT)?;
    session
        .expect(&[Expect::Pass(guest.binary().into())])
        .with_context(|| format!("log: {}", log.display()))?;
    Ok(session.text().to_string())
}

/// One operation.
#[derive(Debug, Default, PartialEq)]
struct Row {
    name: String,
    oxen: Option<u64>,
    xen: Option<u64>,
    /// Oxen's counters and what they say, in the order in which the guest prints them.
    counts: Vec<(String, String)>,
}

/// All operations in the order in which they were first seen.
#[derive(Debug, Default)]
struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Takes what one of the hypervisors' consoles has shown.
    fn add(&mut self, hypervisor: Hypervisor, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["BENCH", name, instructions] = words.as_slice() {
                let instructions = instructions.parse().ok();
                let row = self.row(name);
                match hypervisor {
                    Hypervisor::Oxen => row.oxen = instructions,
                    Hypervisor::Xen => row.xen = instructions,
                }
            }
        }
    }

    /// Takes what the console of a build that counts has shown.
    fn add_counts(&mut self, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["COUNT", name, counter, count] = words.as_slice() {
                let count = (counter.to_string(), count.to_string());
                self.row(name).counts.push(count);
            }
        }
    }

    fn row(&mut self, name: &str) -> &mut Row {
        let place = self.rows.iter().position(|row| row.name == name);
        let place = place.unwrap_or_else(|| {
            self.rows.push(Row {
                name: name.to_string(),
                ..Row::default()
            });
            self.rows.len() - 1
        });
        &mut self.rows[place]
    }

    /// The table as people read it; what one of the hypervisors cannot do is left out and named at the end.
    fn text(&self) -> String {
        let mut counters: Vec<&str> = Vec::new();
        for (name, _) in self.rows.iter().flat_map(|row| &row.counts) {
            if !counters.contains(&name.as_str()) {
                counters.push(name);
            }
        }
        let heads = ["row", "oxen", "xen", "ratio", "floor"];
        let mut lines: Vec<Vec<String>> = vec![
            heads
                .iter()
                .chain(&counters)
                .map(|head| head.to_string())
                .collect(),
        ];
        let mut missing = Vec::new();
        for row in &self.rows {
            let (Some(oxen), Some(xen)) = (row.oxen, row.xen) else {
                let lacks = if row.oxen.is_none() { "oxen" } else { "xen" };
                missing.push(format!("{} ({lacks})", row.name));
                continue;
            };
            let ratio = format!("{:.2}", oxen as f64 / xen.max(1) as f64);
            let floor = floor_of(&row.name).map_or(String::new(), |floor| floor.to_string());
            let mut line = vec![
                row.name.clone(),
                oxen.to_string(),
                xen.to_string(),
                ratio,
                floor,
            ];
            line.extend(counters.iter().map(|counter| {
                let mut counts = row.counts.iter();
                let found = counts.find(|(name, _)| name == counter);
                found.map_or(String::new(), |(_, count)| count.clone())
            }));
            lines.push(line);
        }
        let mut text = aligned(&lines);
        if !missing.is_empty() {
            text.push_str(&format!("not on both: {}\n", missing.join(", ")));
        }
        text
    }
}

fn floor_of(name: &str) -> Option<u64> {
    let row = FLOORS.iter().find(|(names, _)| names.contains(&name));
    row.map(|&(_, floor)| floor)
}

/// Columns as wide as they must be, the first to the left, the others to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(String::len).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells = line
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| {
                if column == 0 {
                    format!("{cell:width$}")
                } else {
                    format!("  {cell:>width$}")
                }
            });
        text.push_str(cells.collect::<String>().trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_what_both_can_do() {
        let mut table = Table::default();
        table.add(
            Hypervisor::Oxen,
            "TEST a: ok\nBENCH xen-version 80\r\nBENCH b 1000\nBENCH d 7\n",
        );
        table.add(
            Hypervisor::Xen,
            "BENCH xen-version 240\nBENCH b 500\nBENCH c 3\n",
        );
        table.add_counts(
            "BENCH xen-version 99\nCOUNT xen-version locked 3\nCOUNT xen-version flush 0.002\nCOUNT b flush 1\n",
        );
        assert_eq!(
            table.text(),
            "row          oxen  xen  ratio  floor  locked  flush\n\
             xen-version    80  240   0.33     80       3  0.002\n\
             b            1000  500   2.00                     1\n\
             not on both: d (xen), c (oxen)\n"
        );
    }

    #[test]
    fn the_longest_of_all_entries() {
        let text = "TEST a: ok\r\n(OXEN) longest entry: 10001 instructions, vector 0x1, rax 0x1\r\n\
                    TEST b: ok\r\n(OXEN) longest entry: 20002 instructions, vector 0x1, rax 0x2\r\n\
                    TEST c: ok\r\n(OXEN) longest entry: 10003 instructions, vector 0x1, rax 0x3\r\n";
        let right = (20_002, "TEST b: ok (vector 0x1, rax 0x2)".to_string());
        assert_eq!(longest(text), Some(right));
        assert_eq!(longest("GUEST a: PASS\n"), None);
    }

    #[test]
    fn each_row_has_one_floor() {
        let mut names: Vec<&str> = FLOORS
            .iter()
            .flat_map(|(names, _)| *names)
            .copied()
            .collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(floor_of("trapped-xchg"), Some(200));
        assert_eq!(floor_of("trapped-bts"), None);
    }
}
