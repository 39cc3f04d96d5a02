//! Debian's kernel, unmodified, as dom0: with a RAM disk of one program, which says how user mode works, and with the login shell of
//! `cargo xtask run`.

use std::time::Duration;

use super::machine::{Kernel, MachineTest, Way};
use crate::iso::Entry;
use crate::run::default_command_line;
use crate::session::Expect;

/// From power on. A boot takes some 20 seconds, but tests share two CPUs with others.
const LIMIT: Duration = Duration::from_secs(300);
/// The machine's memory.
const MEMORY_MIB: u64 = 1024;

/// What the machine's real-time clock says at power on: 1,941,000,000 seconds after 1970.
const CLOCK: &[&str] = &["-rtc", "base=2031-07-05T06:40:00"];
/// And what the program may find: up to a thousand seconds later.
const SECONDS: &str = r"seconds since 1970: 1941000[0-9]{3}\b";

/// What a kernel says that is not content with itself, or with what it runs on.
const COMPLAINTS: &str = r"WARNING|\bBUG\b|Call Trace|: FAIL";
/// What is left of Oxen's log where the command line has [`WARNINGS_ONLY`].
const WARNINGS: &str = r"\(OXEN\)";
const WARNINGS_ONLY: &str = " loglvl=warning guest_loglvl=warning";

/// Ways from power on to the hypervisor.
const WAYS: [(&str, Way); 4] = [
    ("menu-lst", Way::Bios(Entry::MenuLst)),
    ("grub-cfg", Way::Bios(Entry::Multiboot2)),
    ("multiboot-1", Way::Bios(Entry::Multiboot1)),
    ("uefi", Way::Uefi),
];
const CPUS: [u32; 3] = [1, 2, 4];
/// QEMU's options for a chip set and a model of CPU, with the clock.
const MACHINES: [(&str, &[&str]); 4] = [
    ("q35-max", CLOCK),
    ("q35-qemu64", &["-cpu", "qemu64", CLOCK[0], CLOCK[1]]),
    ("pc-max", &["-machine", "pc", CLOCK[0], CLOCK[1]]),
    (
        "pc-qemu64",
        &["-machine", "pc", "-cpu", "qemu64", CLOCK[0], CLOCK[1]],
    ),
];

/// What every change is tested with, so that each two of a way, a number of CPUs, a chip set and a model of CPU meet; the two ways by `grub.cfg`
/// count as one. Some have a disk: interrupts of devices, by a line and by messages.
const CHOSEN: [(&str, u32, &str, Option<&str>); 9] = [
    ("menu-lst", 1, "q35-max", None),
    ("menu-lst", 2, "pc-qemu64", None),
    ("menu-lst", 4, "q35-qemu64", None),
    ("grub-cfg", 1, "pc-qemu64", Some("virtio-blk-pci,vectors=0")),
    ("grub-cfg", 2, "q35-max", Some("virtio-blk-pci")),
    ("multiboot-1", 4, "pc-max", None),
    ("uefi", 1, "q35-qemu64", None),
    ("uefi", 2, "pc-max", None),
    ("uefi", 4, "q35-max", None),
];

/// All of them, in the order in which they run.
pub fn tests() -> Vec<MachineTest> {
    let mut tests = vec![login_shell()];
    for (way_name, way) in WAYS {
        for cpus in CPUS {
            for (machine_name, options) in MACHINES {
                tests.push(on_machine((way_name, way), cpus, (machine_name, options)));
            }
        }
    }
    tests.extend([
        // More vCPUs than CPUs, on twins of roots.
        MachineTest {
            on_xen: false,
            ..boots("dom0/linux-4-vcpus-on-2-cpus", 2, " dom0_max_vcpus=4 xpti")
        },
        MachineTest {
            only_full: true,
            on_xen: false,
            ..boots("dom0/linux-3-vcpus-on-a-cpu", 1, " dom0_max_vcpus=3")
        },
        MachineTest {
            only_full: true,
            on_xen: false,
            ..boots("dom0/linux-pinned", 2, " dom0_vcpus_pin")
        },
    ]);
    tests
}

/// From power on by GRUB, with nothing that Oxen warns of.
fn on_machine(
    (way_name, way): (&str, Way),
    cpus: u32,
    (machine_name, options): (&str, &'static [&'static str]),
) -> MachineTest {
    let name = format!("dom0/linux-{way_name}-{cpus}-{machine_name}");
    let mut test = boots(&name, cpus, WARNINGS_ONLY);
    (test.way, test.options) = (way, options);
    test.expect.push(Expect::Never(WARNINGS.into()));
    let is_this = |chosen: &&(&str, u32, &str, _)| {
        (chosen.0, chosen.1, chosen.2) == (way_name, cpus, machine_name)
    };
    match CHOSEN.iter().find(is_this) {
        None => test.only_full = true,
        Some((.., None)) => {}
        Some((.., Some(device))) => {
            test.kernel = Kernel::LinuxWithDisk(device);
            for expect in [&mut test.expect, &mut test.expect_on_xen] {
                expect.insert(0, Expect::Line("linux: disk: ok".into()));
            }
        }
    }
    test
}

/// Linux comes to user mode, finds all that its program asks of it, and switches the machine off.
fn boots(name: &str, cpus: u32, words: &str) -> MachineTest {
    let expect = vec![
        Expect::Pass("linux".into()),
        Expect::Pattern(SECONDS.into()),
        Expect::End,
        Expect::Never(COMPLAINTS.into()),
    ];
    MachineTest {
        name: name.into(),
        way: Way::Direct,
        memory_mib: MEMORY_MIB,
        cpus,
        options: CLOCK,
        command_line: Some(format!("{}{words}", default_command_line(MEMORY_MIB))),
        kernel: Kernel::Linux,
        expect_on_xen: expect.clone(),
        expect,
        on_xen: true,
        only_full: false,
        needs_good_qemu: true,
        limit: LIMIT,
    }
}

/// What a person sees at the console, and what is typed there; the network reaches QEMU's own.
fn login_shell() -> MachineTest {
    const PROMPT: &str = "dom0:/root# ";
    let mut test = boots("dom0/login-shell", 1, "");
    test.kernel = Kernel::LoginShell;
    test.options = &[
        "-netdev",
        "user,id=net",
        "-device",
        "e1000,romfile=,netdev=net",
    ];
    let line = |text: &str| Expect::Line(text.into());
    let prompt = || line(PROMPT);
    let types = |text: &str| Expect::Type(text.into());
    test.expect = vec![
        prompt(),
        types("cat /proc/xen/capabilities; ping -c 1 10.0.2.2\r"),
        line("control_d"),
        line("1 packets received"),
        prompt(),
        // Job control: what runs can be interrupted, and the shell goes on. The word comes from a process that is in the foreground by then:
        // in the moment before it is, shells do not hear this key.
        types("sh -c 'echo to be; exec sleep 1000'; echo not\r"),
        line("\nto be"),
        types("\x03"),
        prompt(),
        types("reboot -n; echo left\r"),
        line("dom0 shut down (reboot): restarting"),
        Expect::End,
        Expect::Never(COMPLAINTS.into()),
    ];
    test.expect_on_xen = Vec::new();
    test.on_xen = false;
    test
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_two_meet() {
        let parts = |(way, cpus, machine, _): (&str, u32, &str, _)| {
            let way = if way == "multiboot-1" {
                "grub-cfg"
            } else {
                way
            };
            let (chips, cpu) = machine.split_once('-').unwrap();
            [
                way.to_string(),
                cpus.to_string(),
                chips.into(),
                cpu.to_string(),
            ]
        };
        let chosen: Vec<_> = CHOSEN.map(parts).into();
        let all = WAYS.iter().flat_map(|(way, _)| {
            CPUS.iter().flat_map(move |cpus| {
                let machines = MACHINES.iter();
                machines.map(move |(machine, _)| parts((way, *cpus, machine, None)))
            })
        });
        for row in all {
            for first in 0..row.len() {
                for second in 0..first {
                    let has_both = |other: &&[String; 4]| {
                        other[first] == row[first] && other[second] == row[second]
                    };
                    assert!(chosen.iter().find(has_both).is_some(), "{row:?}");
                }
            }
        }
        let tested = tests().into_iter().filter(|test| !test.only_full).count();
        assert_eq!(tested, CHOSEN.len() + 2);
    }
}
