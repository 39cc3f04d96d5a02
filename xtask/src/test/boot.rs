//! The boot tests as data: ways in, sizes of memory, command lines, modules that are no kernels.

use std::time::Duration;

use super::machine::{Kernel, MachineTest, Way};
use crate::iso::Entry;
use crate::session::Expect;

/// From power on; a machine takes 5 to 30 seconds, but tests share two CPUs with others.
const LIMIT: Duration = Duration::from_secs(120);
/// Firmware that is translated takes its time.
const UEFI_LIMIT: Duration = Duration::from_secs(240);

const WAYS: [(&str, Way); 5] = [
    ("bios-multiboot2", Way::Bios(Entry::Multiboot2)),
    ("uefi-multiboot2", Way::Uefi),
    ("menu-lst", Way::Bios(Entry::MenuLst)),
    ("direct", Way::Direct),
    ("bios-multiboot1", Way::Bios(Entry::Multiboot1)),
];

const SIZES: [(&str, u64); 3] = [("128m", 128), ("2g", 2048), ("20g", 20 * 1024)];

/// The pairs of a way and a size that every change is tested with: each way and each size at least once.
const CHOSEN: [(&str, &str); 7] = [
    ("bios-multiboot2", "2g"),
    ("uefi-multiboot2", "2g"),
    ("uefi-multiboot2", "128m"),
    ("menu-lst", "2g"),
    ("direct", "128m"),
    ("direct", "20g"),
    ("bios-multiboot2", "20g"),
];

/// Values of `dom0_mem` on a machine of 1 GiB, and whether they are right.
const DOM0_MEM: [(&str, &str, bool); 6] = [
    ("mebibytes", "512m", true),
    ("kibibytes-without-unit", "262144", true),
    ("min-max", "min:128m,max:768m", true),
    ("size-and-max", "256m,max:512m", true),
    ("wrong-word", "lots", false),
    ("wrong-unit", "512q", false),
];

/// What each module that is no kernel makes Oxen say.
fn bad_modules() -> [(&'static str, Kernel, &'static str); 6] {
    let hello = || "hello".to_string();
    [
        (
            "kernel-is-a-text",
            Kernel::Text,
            "module 0 is neither an ELF file nor a bzImage",
        ),
        (
            "kernel-is-no-pv-kernel",
            Kernel::Hypervisor,
            "module 0 is not a PV kernel: no Xen ELF note",
        ),
        (
            "kernel-truncated-in-half",
            Kernel::Truncated(hello(), 500),
            "module 0 is truncated",
        ),
        (
            "kernel-truncated-in-header",
            Kernel::Truncated(hello(), 1),
            "module 0 is ",
        ),
        (
            "kernel-empty",
            Kernel::Truncated(hello(), 0),
            "module 0 is not a kernel: it is empty",
        ),
        (
            "initrd-too-large",
            Kernel::WithInitrd(hello(), 96),
            "initrd",
        ),
    ]
}

/// All boot tests, in the order in which they run.
pub fn tests() -> Vec<MachineTest> {
    let mut tests = Vec::new();
    for (way_name, way) in WAYS {
        for (size_name, memory_mib) in SIZES {
            let area = if memory_mib == 2048 { "boot" } else { "memory" };
            let mut test = hello(&format!("{area}/{way_name}-{size_name}"), way, memory_mib);
            test.only_full = !CHOSEN.contains(&(way_name, size_name));
            // GRUB 2 puts file names before command lines for a menu.lst only. Xen does not expect that of it and
            // hands them on, which the guest rightly complains about.
            test.on_xen = way != Way::Bios(Entry::MenuLst);
            // Firmware that has used its other CPUs leaves them otherwise than firmware that has not.
            test.cpus = if way == Way::Direct { 1 } else { 4 };
            let running = format!("[^0-9]{} running", test.cpus);
            test.expect.insert(0, Expect::Pattern(running));
            tests.push(test);
        }
    }
    for (name, value, is_right) in DOM0_MEM {
        let mut test = hello(&format!("dom0/dom0_mem-{name}"), Way::Direct, 1024);
        test.command_line = Some(format!("dom0_mem={value} com1=115200,8n1 console=com1"));
        let warning = format!("wrong value in \"dom0_mem={value}\", default used");
        if is_right {
            test.expect
                .push(Expect::Never(regex_lite::escape(&warning)));
        } else {
            test.expect.insert(0, Expect::Line(warning));
        }
        // Xen reads these differently, or silently.
        test.on_xen = is_right;
        tests.push(test);
    }
    tests.push(as_people_write_it());
    tests.push(too_little_memory());
    tests.push(screen());
    tests.push(drawn_screen("uefi", Way::Uefi));
    tests.push(drawn_screen("bios", Way::Bios(Entry::Multiboot2)));
    tests.push(panic());
    tests.push(write_xor_execute());
    tests.push(module_behind_mem());
    tests.push(debug_keys());
    tests.push(nmi());
    tests.push(reboots());
    for (name, kernel, message) in bad_modules() {
        let mut test = hello(&format!("boot/{name}"), Way::Direct, 256);
        test.command_line = Some("dom0_mem=64m noreboot com1=115200,8n1 console=com1".into());
        test.kernel = kernel;
        test.expect = vec![Expect::Line(message.into()), Expect::Never("GUEST".into())];
        test.on_xen = false;
        tests.push(test);
    }
    tests
}

/// The micro-guest `hello` passes.
pub(super) fn hello(name: &str, way: Way, memory_mib: u64) -> MachineTest {
    let expect = vec![Expect::Pass("hello".into())];
    MachineTest {
        name: name.into(),
        way,
        memory_mib,
        cpus: 1,
        options: &[],
        command_line: None,
        // With an initrd: two modules.
        kernel: Kernel::Guest("hello-initrd".into()),
        expect_on_xen: expect.clone(),
        expect,
        on_xen: true,
        only_full: false,
        needs_good_qemu: false,
        limit: if way == Way::Uefi { UEFI_LIMIT } else { LIMIT },
    }
}

/// The very line of a `menu.lst` that people have.
fn as_people_write_it() -> MachineTest {
    let mut test = hello(
        "boot/menu-lst-dom0_mem-512m",
        Way::Bios(Entry::MenuLst),
        1024,
    );
    test.command_line = Some("dom0_mem=512m console=com1".into());
    test.on_xen = false;
    test
}

/// Below its minimum the hypervisor says so instead of failing somewhere.
fn too_little_memory() -> MachineTest {
    let mut test = hello("memory/below-minimum", Way::Direct, 24);
    test.command_line = Some("noreboot com1=115200,8n1 console=com1".into());
    test.expect = vec![
        Expect::Pattern(
            "this machine has [0-9]+ MiB of memory; Oxen needs at least [0-9]+ MiB".into(),
        ),
        Expect::Never("GUEST".into()),
    ];
    test.on_xen = false;
    test
}

/// A command line that names no console writes on the screen, as the `menu.lst` of a machine without serial ports has it.
/// By multiboot 1, that is VGA text; multiboot 2 may bring a frame buffer on a BIOS, too.
fn screen() -> MachineTest {
    let mut test = hello("boot/screen-by-default", Way::Bios(Entry::MenuLst), 256);
    test.command_line = Some("dom0_mem=64m noreboot".into());
    test.kernel = Kernel::Text;
    test.expect = vec![Expect::Screen(
        "module 0 is neither an ELF file nor a bzImage".into(),
    )];
    test.on_xen = false;
    test
}

/// The same where the loader has left a frame buffer.
fn drawn_screen(firmware: &str, way: Way) -> MachineTest {
    let mut test = hello(
        &format!("boot/frame-buffer-by-default-{firmware}"),
        way,
        256,
    );
    test.expect = vec![Expect::Picture(
        "module 0 is neither an ELF file nor a bzImage".into(),
    )];
    test.command_line = Some("dom0_mem=64m noreboot".into());
    test.kernel = Kernel::Text;
    test.on_xen = false;
    test
}

/// `mem=` may leave out the memory that the loader has put a module into.
fn module_behind_mem() -> MachineTest {
    let mut test = hello("memory/module-behind-mem", Way::Direct, 256);
    test.command_line = Some("mem=80m noreboot com1=115200,8n1 console=com1".into());
    test.kernel = Kernel::WithInitrd("hello".into(), 100);
    test.expect = vec![Expect::Line(
        "module 1 lies outside the memory that Oxen uses".into(),
    )];
    test.on_xen = false;
    test
}

/// Every page of the hypervisor, while a guest runs.
fn write_xor_execute() -> MachineTest {
    let mut test = hello("memory/write-xor-execute", Way::Direct, 256);
    test.kernel = Kernel::Guest("console".into());
    test.expect = vec![Expect::Line("ready".into()), Expect::WriteXorExecute];
    test.on_xen = false;
    test
}

/// Three times this character: what is typed next goes to Oxen.
const SWITCH: &str = "\x01\x01\x01";

/// A panic says what, where and by way of which functions, then halts as `noreboot` says.
pub(super) fn panic() -> MachineTest {
    let mut test = waiting("boot/panic");
    test.command_line = Some("noreboot dom0_mem=128m com1=115200,8n1 console=com1".into());
    test.expect.extend([
        Expect::Type("C".into()),
        Expect::Line("panic: vector 6".into()),
        Expect::Line("trap::entry::interrupt+".into()),
        Expect::Line("r15".into()),
        Expect::Line("cr3".into()),
        Expect::Line("called from".into()),
        Expect::Line("on_own_exception+".into()),
        Expect::Line("halted: noreboot".into()),
    ]);
    test
}

/// The keys answer while dom0 runs, and dom0 gets what is typed once input is switched back.
fn debug_keys() -> MachineTest {
    let mut test = waiting("boot/debug-keys");
    test.expect.extend([
        Expect::Type("h".into()),
        Expect::Line("this list".into()),
        Expect::Type("m".into()),
        Expect::Line("KiB of memory".into()),
        Expect::Type("q".into()),
        Expect::Line("domain 0:".into()),
        Expect::Type("0".into()),
        Expect::Line("rip".into()),
        Expect::Type(SWITCH.into()),
        Expect::Line("input goes to dom0".into()),
        Expect::Type("typed by hand\r".into()),
        Expect::Pass("console".into()),
    ]);
    test
}

/// The machine's NMI is dom0's: this one does not expect it, and says what came.
fn nmi() -> MachineTest {
    let mut test = hello("boot/nmi-reaches-dom0", Way::Direct, 256);
    test.kernel = Kernel::Guest("console".into());
    test.expect = vec![
        Expect::Line("ready".into()),
        Expect::Monitor("nmi".into()),
        Expect::Line("no unexpected trap: FAIL vector 2 ".into()),
    ];
    test.on_xen = false;
    test
}

/// A dom0 that waits for input, and input switched to Oxen.
pub(super) fn waiting(name: &str) -> MachineTest {
    let mut test = hello(name, Way::Direct, 256);
    test.kernel = Kernel::Guest("console".into());
    test.expect = vec![
        Expect::Line("ready".into()),
        Expect::Type(SWITCH.into()),
        Expect::Line("input goes to Oxen".into()),
    ];
    test.on_xen = false;
    test
}

/// What cannot go on restarts the machine unless the command line says `noreboot`, as the other tests here do.
fn reboots() -> MachineTest {
    let mut test = hello("boot/reboots-without-noreboot", Way::Direct, 256);
    test.command_line = Some("dom0_mem=64m com1=115200,8n1 console=com1".into());
    test.kernel = Kernel::Text;
    test.expect = vec![
        Expect::Line("module 0 is neither an ELF file nor a bzImage".into()),
        Expect::End,
    ];
    test.expect_on_xen = vec![Expect::Line("Panic".into()), Expect::End];
    test
}
