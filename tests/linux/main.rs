//! The first and only program of a Linux: it uses what a kernel depends on its hypervisor for (processes, memory that they share
//! until one writes, sleep, clocks, the interrupts of a disk if there is one), says how that went as the micro-guests do, and switches the machine off.
//!
//! It speaks to Linux itself, without a library: so it is built by the same toolchain as everything else and weighs nothing. ABI: Linux,
//! `syscalls(2)`, and the System V ABI for x86-64, appendix A.2.1.
#![no_std]
#![no_main]
// UNSAFETY: system calls, and the start of the program.
#![allow(unsafe_code)]

mod system;

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU8, Ordering};

use system::{Block, Clock, Disk, Failure, Output};

/// How often it forks: often enough for the kernel to use page tables again that it has given back.
const FORKS: u8 = 200;
/// Every child writes to so many pages that it shares with its parent.
const PAGES: usize = 64;
const PAGE: usize = 4096;
/// What a child leaves that was content.
const CONTENT: i32 = 7;
/// What it is called with when it calls itself.
const AGAIN: &[u8] = b"again\0";
const SECOND: u64 = 1_000_000_000;
/// What the kernel needs for a disk and for `/proc/xen`, each behind those that it needs.
const MODULES: [&[u8]; 8] = [
    b"/virtio_ring.ko\0",
    b"/virtio.ko\0",
    b"/virtio_pci_legacy_dev.ko\0",
    b"/virtio_pci_modern_dev.ko\0",
    b"/virtio_pci.ko\0",
    b"/virtio_blk.ko\0",
    b"/xen-privcmd.ko\0",
    b"/xenfs.ko\0",
];

/// What the kernel tells about the hypervisor, but for the date when that was compiled, which Oxen does not tell.
const ABOUT_HYPERVISOR: [&[u8]; 12] = [
    b"/sys/hypervisor/guest_type\0",
    b"/sys/hypervisor/uuid\0",
    b"/sys/hypervisor/version/major\0",
    b"/sys/hypervisor/version/minor\0",
    b"/sys/hypervisor/version/extra\0",
    b"/sys/hypervisor/compilation/compiler\0",
    b"/sys/hypervisor/compilation/compiled_by\0",
    b"/sys/hypervisor/properties/capabilities\0",
    b"/sys/hypervisor/properties/changeset\0",
    b"/sys/hypervisor/properties/virtual_start\0",
    b"/sys/hypervisor/properties/pagesize\0",
    b"/sys/hypervisor/properties/features\0",
];

static SHARED: [AtomicU8; PAGES * PAGE] = [const { AtomicU8::new(0) }; PAGES * PAGE];

/// Begins, by the start code in [`system`]. `arguments`: how many there are.
extern "C" fn begin(arguments: usize) -> ! {
    if arguments > 1 {
        system::exit(CONTENT)
    }
    let mut has_passed = true;
    let mut check = |name: &str, result: Result<(), Failure>| {
        match result {
            Ok(()) => say(format_args!("linux: {name}: ok")),
            Err(failure) => say(format_args!("linux: {name}: FAIL ({failure})")),
        }
        has_passed &= result.is_ok();
    };
    say(format_args!("linux: user mode"));
    check("forks", forks());
    check("another program", another_program());
    check("sleep", sleep());
    check("wall clock", wall_clock());
    check("hypervisor", hypervisor());
    check("modules", modules());
    check("capabilities", capabilities());
    match has_disk() {
        Ok(false) => {}
        Ok(true) => check("disk", disk()),
        Err(failure) => check("devices", Err(failure)),
    }
    if has_passed {
        say(format_args!("GUEST linux: PASS"));
    }
    system::power_off()
}

fn say(text: fmt::Arguments<'_>) {
    // Without a console there is nobody to tell.
    let _ = writeln!(Output, "{text}");
}

/// Children see what their parent wrote before, and it does not see what they write.
fn forks() -> Result<(), Failure> {
    let pages = || SHARED.iter().step_by(PAGE);
    for round in 1..=FORKS {
        pages().for_each(|byte| byte.store(round, Ordering::Relaxed));
        let holds = |value: u8| pages().all(|byte| byte.load(Ordering::Relaxed) == value);
        let Some(child) = system::fork()? else {
            let is_right = holds(round);
            pages().for_each(|byte| byte.store(0, Ordering::Relaxed));
            system::exit(if is_right && holds(0) { CONTENT } else { 1 })
        };
        expect(system::wait(child)?, CONTENT)?;
        expect(holds(round), true)?;
    }
    Ok(())
}

/// A child becomes another program: this one, from the beginning.
fn another_program() -> Result<(), Failure> {
    match system::fork()? {
        Some(child) => expect(system::wait(child)?, CONTENT),
        None => {
            let _ = system::execute(b"/init\0", AGAIN);
            system::exit(1)
        }
    }
}

/// Who sleeps wakes, and not before its time.
fn sleep() -> Result<(), Failure> {
    let before = system::time(Clock::Monotonic)?;
    system::sleep(SECOND)?;
    let after = system::time(Clock::Monotonic)?;
    expect(after >= before.saturating_add(SECOND), true)
}

/// Whoever reads this knows what time it is.
fn wall_clock() -> Result<(), Failure> {
    let time = system::time(Clock::Real)?;
    say(format_args!("linux: seconds since 1970: {}", time / SECOND));
    Ok(())
}

/// The kernel knows what it runs on, and all that there is to be said of it.
fn hypervisor() -> Result<(), Failure> {
    system::make_folder(b"/sys\0")?;
    system::mount(b"sysfs\0", b"/sys\0")?;
    has_text(b"/sys/hypervisor/type\0", b"xen\n")?;
    for path in ABOUT_HYPERVISOR {
        let mut text = [0; 256];
        let length = system::read_file(path, &mut text)?;
        let text = text.get(..length).unwrap_or_default();
        expect(text.iter().any(|byte| !byte.is_ascii_whitespace()), true)?;
    }
    Ok(())
}

fn modules() -> Result<(), Failure> {
    MODULES.into_iter().try_for_each(system::load_module)
}

/// The kernel controls the hypervisor.
fn capabilities() -> Result<(), Failure> {
    system::make_folder(b"/proc\0")?;
    system::mount(b"proc\0", b"/proc\0")?;
    system::mount(b"xenfs\0", b"/proc/xen\0")?;
    has_text(b"/proc/xen/capabilities\0", b"control_d\n")
}

fn has_text(path: &'static [u8], text: &[u8]) -> Result<(), Failure> {
    let mut found = [0; 32];
    let length = system::read_file(path, &mut found)?;
    expect(found.get(..length) == Some(text), true)
}

/// Whether the machine has a disk.
fn has_disk() -> Result<bool, Failure> {
    system::make_folder(b"/dev\0")?;
    system::mount(b"devtmpfs\0", b"/dev\0")?;
    Ok(system::read_file(b"/sys/block/vda/size\0", &mut [0; 32]).is_ok())
}

/// The first half of the disk has what it came with; the second one has what is written to it.
fn disk() -> Result<(), Failure> {
    const HALF: usize = (4 << 20) / Block::SIZE;
    let disk = Disk::open(b"/dev/vda\0")?;
    let word = |number: usize, index: usize| {
        let place = number * (Block::SIZE / 8) + index;
        (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    let mut block = Block([0; Block::SIZE / 8]);
    for number in 0..HALF {
        disk.read(number, &mut block)?;
        let mut words = (0..).zip(&block.0);
        expect(
            words.all(|(index, &found)| found == word(number, index)),
            true,
        )?;
        block.0.iter_mut().for_each(|word| *word = !*word);
        disk.write(HALF + number, &block)?;
    }
    for number in 0..HALF {
        disk.read(HALF + number, &mut block)?;
        let mut words = (0..).zip(&block.0);
        expect(
            words.all(|(index, &found)| found == !word(number, index)),
            true,
        )?;
    }
    Ok(())
}

fn expect<T: PartialEq>(found: T, expected: T) -> Result<(), Failure> {
    if found == expected {
        Ok(())
    } else {
        Err(Failure::Unexpected)
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say(format_args!("linux: FAIL ({info})"));
    system::power_off()
}
