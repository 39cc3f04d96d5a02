//! Tests of many CPUs and of time: which CPUs run, whether each is reached, how all are stopped, what the clock goes by.
//!
//! How firmware and GRUB leave the other CPUs is seen by the boot tests, which have four of them there.

use super::boot::{hello, panic, waiting};
use super::machine::{MachineTest, Way};
use crate::session::Expect;

/// QEMU's options for a CPU whose APIC is not an x2APIC, and for one that has little beside.
const XAPIC: &[&str] = &["-cpu", "max,-x2apic"];
const PLAIN: &[&str] = &["-cpu", "qemu64"];
const X2APIC: &[&str] = &[];

/// One instruction is one nanosecond: time-stamp counters run at 1 GHz exactly.
const ICOUNT: &str = "shift=0,sleep=off";

const NOREBOOT: &str = "noreboot dom0_mem=128m com1=115200,8n1 console=com1";

/// How many CPUs there are, how many run, the kind of CPU, and what the command line says: each number of CPUs and each
/// kind at least once.
const MACHINES: [(&str, u32, u32, &[&str], &str); 10] = [
    ("1-cpu-x2apic", 1, 1, X2APIC, ""),
    ("2-cpus-x2apic", 2, 2, X2APIC, ""),
    ("2-cpus-xapic", 2, 2, XAPIC, ""),
    ("4-cpus-plain", 4, 4, PLAIN, ""),
    ("8-cpus-x2apic", 8, 8, X2APIC, ""),
    ("8-cpus-xapic", 8, 8, XAPIC, ""),
    ("maxcpus-2", 4, 2, X2APIC, "maxcpus=2"),
    ("maxcpus-above-all", 2, 2, XAPIC, "maxcpus=100"),
    ("nosmp", 4, 1, XAPIC, "nosmp"),
    ("twins", 4, 4, X2APIC, "xpti"),
];

/// What a machine has to measure time by, how Oxen names what it takes, and what takes the better ones away.
const CLOCKS: [(&str, &str, &[&str]); 3] = [
    ("hpet", "the HPET", &["-cpu", "qemu64", "-icount", ICOUNT]),
    (
        "pm-timer",
        "ACPI's timer",
        &["-cpu", "qemu64", "-icount", ICOUNT, "-machine", "hpet=off"],
    ),
    (
        "8254",
        "the 8254",
        &[
            "-cpu",
            "qemu64",
            "-icount",
            ICOUNT,
            "-machine",
            "pc,hpet=off,acpi=off",
        ],
    ),
];

/// What the log says of the real-time clock, and what that says at power on: with the register for the century that ACPI's tables name, and
/// without the tables. What is not 2085 without a century is 1985; and QEMU knows no clock that is more than 68 years off.
const DATES: [(&str, &str, &[&str]); 2] = [
    (
        "real-time-clock",
        "2085-0(2-28 23:59|3-01 00:0)",
        &["-rtc", "base=2085-02-28T23:59:58"],
    ),
    (
        "real-time-clock-without-acpi",
        "2031-07-05 06:4",
        &[
            "-machine",
            "pc,acpi=off",
            "-rtc",
            "base=2031-07-05T06:40:00",
        ],
    ),
];

/// All of them, in the order in which they run.
pub fn tests() -> Vec<MachineTest> {
    let mut tests: Vec<_> = MACHINES.map(started).into();
    tests.extend([
        each_cpu_answers("x2apic", X2APIC),
        each_cpu_answers("xapic", XAPIC),
        panic_stops_all(),
        machine_check_elsewhere(),
        restart(),
    ]);
    tests.extend(CLOCKS.map(measured));
    tests.extend(DATES.map(dated));
    tests
}

/// All CPUs run that the command line allows, and dom0 is none the wiser.
fn started(
    (name, found, running, options, words): (&str, u32, u32, &'static [&'static str], &str),
) -> MachineTest {
    let mut test = hello(&format!("smp/{name}"), Way::Direct, 256);
    test.cpus = found;
    test.options = options;
    test.command_line = Some(format!("{NOREBOOT} {words}"));
    let apic = if options == X2APIC { "x2APIC" } else { "xAPIC" };
    test.expect.insert(
        0,
        Expect::Pattern(format!(
            "[^0-9]{found} CPUs found, {running} running, {apic}"
        )),
    );
    test.needs_good_qemu = options == X2APIC;
    test.on_xen = false;
    test
}

/// Interrupts between CPUs arrive, and are ended: one that was not would let no other come. Then they sleep again, without
/// a tick.
fn each_cpu_answers(name: &str, options: &'static [&'static str]) -> MachineTest {
    const CPUS: u32 = 4;
    let mut test = waiting(&format!("smp/each-cpu-answers-{name}"));
    test.cpus = CPUS;
    test.options = options;
    test.needs_good_qemu = options == X2APIC;
    for _ in 0..3 {
        test.expect.push(Expect::Type("i".into()));
        let answer = || Expect::Line("was interrupted".into());
        test.expect.extend((0..CPUS).map(|_| answer()));
    }
    let answers = (0..CPUS).map(|id| Expect::Pattern(format!("CPU {id} was interrupted")));
    test.expect.extend(answers);
    test.expect.push(Expect::OthersAsleep);
    test
}

/// A panic stops the other CPUs before it says anything, also those that are asleep.
fn panic_stops_all() -> MachineTest {
    let mut test = panic();
    test.name = "smp/panic-stops-all".into();
    test.cpus = 4;
    test.expect.push(Expect::AllStopped);
    test
}

/// A machine check comes to a CPU that sleeps: it has a stack for that, says who it is, and stops the one that runs dom0.
fn machine_check_elsewhere() -> MachineTest {
    let mut test = waiting("smp/machine-check-on-another-cpu");
    test.cpus = 4;
    test.command_line = Some(NOREBOOT.into());
    test.expect.extend([
        // CPU, bank, status (valid, uncorrected, reported, context corrupt), global status, address, more.
        Expect::Monitor("mce 2 1 0xb200000000000000 0x4 0 0".into()),
        Expect::Line("panic: machine check in the hypervisor".into()),
        Expect::Line("on CPU 2".into()),
        Expect::Line("called from".into()),
        Expect::Line("halted: noreboot".into()),
        Expect::AllStopped,
    ]);
    test
}

/// A machine of several CPUs starts again.
fn restart() -> MachineTest {
    let mut test = waiting("smp/restart");
    test.cpus = 4;
    test.expect.extend([Expect::Type("R".into()), Expect::End]);
    test
}

/// The counter is measured against what there is, to a thousandth.
fn measured((name, source, options): (&str, &str, &'static [&'static str])) -> MachineTest {
    let mut test = hello(&format!("time/{name}"), Way::Direct, 256);
    test.options = options;
    test.cpus = 2;
    let right = format!("TSC (999|1000) MHz, measured against {source}");
    test.expect.insert(0, Expect::Pattern(right));
    test.on_xen = false;
    test
}

/// The real-time clock is read right.
fn dated((name, date, options): (&str, &str, &'static [&'static str])) -> MachineTest {
    let mut test = hello(&format!("time/{name}"), Way::Direct, 256);
    test.options = options;
    test.expect
        .insert(0, Expect::Pattern(format!("real-time clock: {date}")));
    test.on_xen = false;
    test
}
