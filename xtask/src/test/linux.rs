//! Debian's kernel, unmodified, as dom0: with a RAM disk of one program, which says how user mode works.

use std::time::Duration;

use super::machine::{Kernel, MachineTest, Way};
use crate::session::Expect;

/// From power on. A boot takes some 20 seconds, but tests share two CPUs with others.
const LIMIT: Duration = Duration::from_secs(300);

/// What the machine's real-time clock says at power on: 1,941,000,000 seconds after 1970.
const CLOCK: &[&str] = &["-rtc", "base=2031-07-05T06:40:00"];
/// And what the program may find: up to a thousand seconds later.
const SECONDS: &str = r"seconds since 1970: 1941000[0-9]{3}\b";

/// What a kernel says that is not content with itself, or with what it runs on.
const COMPLAINTS: &str = r"WARNING|\bBUG\b|Call Trace|: FAIL";

/// All of them, in the order in which they run.
pub fn tests() -> Vec<MachineTest> {
    vec![
        boots("dom0/linux", 1, ""),
        // As many vCPUs as CPUs, and more than those.
        boots("dom0/linux-2-cpus", 2, ""),
        // Interrupts of devices: by a line, and by messages.
        with_disk("dom0/linux-disk-by-line", 1, "virtio-blk-pci,vectors=0"),
        with_disk("dom0/linux-disk-by-message", 2, "virtio-blk-pci"),
        MachineTest {
            on_xen: false,
            ..boots("dom0/linux-4-vcpus-on-2-cpus", 2, " dom0_max_vcpus=4 xpti")
        },
        MachineTest {
            only_full: true,
            on_xen: false,
            ..boots("dom0/linux-4-cpus", 4, "")
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
    ]
}

/// The same on a machine with a disk, which Linux reads and writes.
fn with_disk(name: &str, cpus: u32, device: &'static str) -> MachineTest {
    let mut test = boots(name, cpus, "");
    test.kernel = Kernel::LinuxWithDisk(device);
    for expect in [&mut test.expect, &mut test.expect_on_xen] {
        expect.insert(0, Expect::Line("linux: disk: ok".into()));
    }
    test
}

/// Linux comes to user mode, finds all that its program asks of it, and switches off.
fn boots(name: &str, cpus: u32, words: &str) -> MachineTest {
    let expect = |end: &str| -> Vec<Expect> {
        vec![
            Expect::Pass("linux".into()),
            Expect::Pattern(SECONDS.into()),
            Expect::Line(end.into()),
            Expect::End,
            Expect::Never(COMPLAINTS.into()),
        ]
    };
    MachineTest {
        name: name.into(),
        way: Way::Direct,
        memory_mib: 1024,
        cpus,
        options: CLOCK,
        command_line: Some(format!("{}{words}", crate::run::default_command_line(1024))),
        kernel: Kernel::Linux,
        expect: expect("dom0 switches the machine off"),
        expect_on_xen: expect("Entering ACPI S5 state"),
        on_xen: true,
        only_full: false,
        needs_good_qemu: true,
        limit: LIMIT,
    }
}
