//! The first thing a PV kernel sees: its registers, its start_info, its page tables, its initrd, the hypercall page.
//!
//! All of it is what the boot protocol promises and what kernels rely on before they have a trap table or a console.
#![no_std]
#![no_main]
// UNSAFETY: the hypercall page is called.
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};

use dom0_abi::arch::{FLAT_CS64, FLAT_SS, HYPERVISOR_VIRT_START};
use dom0_abi::elfnote::ElfNote;
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::{HYPERCALL_STUB_SIZE, Hypercall};
use dom0_abi::version::{Capabilities, Changeset, CommandLine, Extraversion, VersionCommand};
use dom0_abi::xen::StartFlags;
use guest_pv_drivers::hypercall;
use kit::memory::{self, PAGE, Page, VIRT_BASE, pte};
use kit::registers::flags;
use kit::{Report, entry_state, probe, start_info};

kit::guest!("hello", main);

static HYPERCALL_PAGE: Page = Page::new();

// The builder fills this page with the stubs. The other guests have no such note: kernels without it must boot, too.
global_asm!(
    ".section .note.Xen, \"a\", @note",
    ".balign 4",
    ".long 4, 8, {hypercall_page}",
    ".asciz \"Xen\"",
    ".quad {page}",
    ".previous",
    hypercall_page = const ElfNote::HypercallPage as u32,
    page = sym HYPERCALL_PAGE,
);

fn main(report: &mut Report) {
    registers(report);
    start_info_fields(report);
    command_line_and_initrd(report);
    page_frames(report);
    page_tables(report);
    hypercall_page(report);
    versions(report);
    console(report);
}

fn registers(report: &mut Report) {
    let state = entry_state();
    let info = start_info();
    report.equal("entry cs", state.cs, u64::from(FLAT_CS64));
    report.equal("entry ss", state.ss, u64::from(FLAT_SS));
    report.equal(
        "entry data selectors",
        [state.ds, state.es, state.fs, state.gs],
        [0; 4],
    );
    // Bit 1 always reads as one. The real interrupt flag stays set whatever the guest does; its own is the upcall mask.
    report.equal("entry rflags", state.rflags, flags::IF | 2);
    // Behind the page tables comes one page of stack, and rsp is its end.
    report.equal(
        "entry rsp",
        state.rsp,
        info.pt_base + (info.nr_pt_frames + 1) * PAGE,
    );
    report.equal("entry rsi in a page", state.rsi % PAGE, 0);
    report.equal(
        "entry rax rbx rcx rdx",
        [state.rax, state.rbx, state.rcx, state.rdx],
        [0; 4],
    );
    report.equal(
        "entry rdi rbp r8 r9",
        [state.rdi, state.rbp, state.r8, state.r9],
        [0; 4],
    );
    report.equal(
        "entry r10 r11 r12 r13",
        [state.r10, state.r11, state.r12, state.r13],
        [0; 4],
    );
    report.equal("entry r14 r15", [state.r14, state.r15], [0; 2]);
    for (name, msr) in [
        ("fs", 0xc000_0100u32),
        ("gs", 0xc000_0101),
        ("kernel gs", 0xc000_0102),
    ] {
        let (low, high): (u64, u64);
        let trap = probe!("rdmsr"; in("ecx") msr, out("rax") low, out("rdx") high);
        report.equal(
            format_args!("entry {name} base"),
            (trap.is_some(), high << 32 | low),
            (false, 0),
        );
    }
}

fn start_info_fields(report: &mut Report) {
    let info = start_info();
    report.equal("magic", text(&info.magic), "xen-3.0-x86_64p");
    report.check("nr_pages", info.nr_pages > 1024, info.nr_pages);
    report.equal(
        "shared_info is a frame",
        (info.shared_info != 0, info.shared_info % PAGE),
        (true, 0),
    );
    // Dom0 has no xenstore page or port yet; it makes its own.
    report.equal("store", (info.store_mfn, info.store_evtchn.get()), (0, 0));
    let of_dom0 = (StartFlags::PRIVILEGED | StartFlags::INITDOMAIN).bits();
    // Bits 8 to 15 are power management options, and the initrd is given by address, not by frame.
    report.equal("flags", info.flags & !0xff00, of_dom0);
    // The list is mapped with the image unless a note asks for another place; then no frames are told. What the number
    // of the first one says is then undefined: 4.17 leaves the first pfn behind the builder's memory there.
    report.equal("nr_p2m_frames without INIT_P2M", info.nr_p2m_frames, 0);
}

fn command_line_and_initrd(report: &mut Report) {
    let info = start_info();
    let line = text(&info.cmd_line);
    // The runner gives one of these; the loader puts a file name before it, which must be gone.
    if let Some(size) = line.strip_prefix("initrd=") {
        let size = size.parse::<u64>().unwrap_or(0);
        report.equal("mod_len", info.mod_len, size);
        report.equal(
            "mod_start is in a page of its own",
            info.mod_start % PAGE,
            0,
        );
        let wrong = (0..size).find(|i| byte(info.mod_start + i) != (i * 7 % 251) as u8);
        report.equal("initrd content", wrong, None);
        let mapped = memory::leaf(info.mod_start) & (pte::P | pte::RW);
        report.equal("initrd is mapped writable", mapped, pte::P | pte::RW);
    } else {
        report.equal("cmd_line", line, "first second=2");
        report.equal("no initrd", (info.mod_start, info.mod_len), (0, 0));
    }
    report.equal("cmd_line ends", info.cmd_line.last().copied(), Some(0));
}

/// The p2m list names every frame of the domain once, and the M2P agrees.
fn page_frames(report: &mut Report) {
    let info = start_info();
    report.equal("mfn_list alignment", info.mfn_list % PAGE, 0);
    let mut wrong = None;
    for pfn in 0..info.nr_pages {
        let mfn = memory::read(info.mfn_list + pfn * 8);
        // Two pfns with one mfn cannot both agree with the M2P.
        if mfn.ok().and_then(memory::machine_to_physical) != Some(pfn) {
            wrong = Some((pfn, mfn));
            break;
        }
    }
    report.equal("every pfn's mfn leads back to it", wrong, None);
}

/// From VIRT_BASE on every page maps its own pfn, page tables read-only and all else writable.
fn page_tables(report: &mut Report) {
    let info = start_info();
    let root: u64;
    let trap = probe!("mov {root}, cr3"; root = out(reg) root);
    let root_pfn = memory::machine_to_physical(root / PAGE);
    report.equal(
        "cr3 is pt_base",
        (trap.is_some(), root_pfn),
        (false, Some((info.pt_base - VIRT_BASE) / PAGE)),
    );

    let end = memory::end_of_mapping();
    report.equal("the mapping ends at 4 MiB", end % (4 << 20), 0);
    let spare = end - info.pt_base - (info.nr_pt_frames + 1) * PAGE;
    report.check(
        "512 KiB are spare behind the stack",
        spare >= 512 << 10,
        spare,
    );

    let tables = info.pt_base..info.pt_base + info.nr_pt_frames * PAGE;
    let (mut wrong_frame, mut wrong_right) = (None, None);
    for va in (VIRT_BASE..end).step_by(PAGE as usize) {
        let entry = memory::leaf(va);
        if memory::read(info.mfn_list + (va - VIRT_BASE) / PAGE * 8)
            != Ok((entry & pte::MFN) / PAGE)
        {
            wrong_frame.get_or_insert((va, entry));
        }
        let writable = if tables.contains(&va) { 0 } else { pte::RW };
        // No NX: nothing is known about which page holds code. Guest kernel pages are marked by bit 52 and not global.
        let right = pte::P | pte::U | writable | 1 << 52;
        if entry & !(pte::MFN | pte::A | pte::D) != right {
            wrong_right.get_or_insert((va, entry));
        }
    }
    report.equal("each page maps its pfn", wrong_frame, None);
    report.equal(
        "page tables are read-only and nothing else is",
        wrong_right,
        None,
    );

    // The hypervisor's range begins with the table that this guest has just read, and it is there in the root.
    let (entries, _) = memory::walk(HYPERVISOR_VIRT_START);
    report.check(
        "slot 256 of the root is present",
        entries[0] & pte::P != 0,
        entries[0],
    );
}

fn hypercall_page(report: &mut Report) {
    let stub =
        HYPERCALL_PAGE.address() + Hypercall::XenVersion.number() * HYPERCALL_STUB_SIZE as u64;
    let (result, rcx, r11): (u64, u64, u64);
    // SAFETY: the stub issues xen_version(version), which touches no memory, and returns with rax changed alone.
    unsafe {
        asm!(
            "call {stub}",
            stub = in(reg) stub,
            in("rdi") 0u64,
            in("rsi") 0u64,
            inout("rcx") 0x1234u64 => rcx,
            inout("r11") 0x5678u64 => r11,
            out("rax") result,
            out("rdx") _,
            out("r8") _,
            out("r10") _,
        )
    };
    report.equal(
        "call by the hypercall page",
        Ok(result),
        hypercall::xen_version(),
    );
    report.equal("the stub keeps rcx and r11", (rcx, r11), (0x1234, 0x5678));
}

fn versions(report: &mut Report) {
    report.equal("version 4.17", hypercall::xen_version(), Ok(0x0004_0011));
    for (name, command, size) in [
        (
            "extraversion",
            VersionCommand::Extraversion,
            size_of::<Extraversion>(),
        ),
        (
            "capabilities",
            VersionCommand::Capabilities,
            size_of::<Capabilities>(),
        ),
        (
            "changeset",
            VersionCommand::Changeset,
            size_of::<Changeset>(),
        ),
        (
            "commandline",
            VersionCommand::CommandLine,
            size_of::<CommandLine>(),
        ),
    ] {
        let (answer, buffer) = query(command);
        report.equal(format_args!("{name} answers"), answer, Ok(0));
        let within = &buffer[..size];
        let string = text(within);
        let printable = string.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        report.check(
            format_args!("{name} is text that ends"),
            within.contains(&0) && printable,
            string,
        );
        report.check(
            format_args!("{name} is no longer than it may be"),
            buffer[size..].iter().all(|&b| b == 0),
            size,
        );
    }
    let (_, buffer) = query(VersionCommand::Capabilities);
    let holds = text(&buffer)
        .split(' ')
        .any(|word| word == "xen-3.0-x86_64");
    report.check(
        "this kind of guest is among the capabilities",
        holds,
        text(&buffer),
    );
    let (_, buffer) = query(VersionCommand::CommandLine);
    report.check(
        "the command line is the hypervisor's",
        text(&buffer).contains("dom0_mem="),
        text(&buffer),
    );

    let (answer, buffer) = query(VersionCommand::PlatformParameters);
    report.equal(
        "platform_parameters",
        (answer, word(&buffer)),
        (Ok(0), HYPERVISOR_VIRT_START),
    );
    report.equal("pagesize", hypercall::page_size(), Ok(PAGE));
    // Submap 0; the index comes first in the structure and is input.
    let (answer, buffer) = query(VersionCommand::GetFeatures);
    let submap = (word(&buffer) >> 32) as u32;
    report.equal("get_features answers", answer, Ok(0));
    // pae_pgdir_above_4gb, mmu_pt_update_preserve_ad, highmem_assist, gnttab_map_avail_bits, dom0.
    report.equal("features that are there", submap & 0x8f0, 0x8f0);
    // writable_page_tables, writable_descriptor_tables, auto_translated_physmap, supervisor_mode_kernel, hvm ones.
    report.equal("features that are not", submap & 0x70f, 0);
}

fn console(report: &mut Report) {
    report.equal(
        "console write",
        hypercall::console_write(b"hello from a PV guest\n"),
        Ok(0),
    );
    report.equal("empty console write", hypercall::console_write(b""), Ok(0));
    let long = [b'.'; 300];
    // The hypervisor takes the text in pieces of its own; the caller sees one write.
    report.equal("long console write", hypercall::console_write(&long), Ok(0));
    report.equal("end of line", hypercall::console_write(b"\n"), Ok(0));
    report.equal(
        "nothing was typed",
        hypercall::console_read(&mut [0; 16]),
        Ok(0),
    );
}

/// `xen_version` with a zeroed buffer longer than any answer.
fn query(command: VersionCommand) -> (Result<u64, Errno>, [u8; 2048]) {
    let mut buffer = [0u8; 2048];
    // SAFETY: no command's structure is longer.
    let answer = unsafe { hypercall::xen_version_query(command, &mut buffer) };
    (answer, buffer)
}

fn word(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn byte(va: u64) -> u8 {
    (memory::read(va & !7).unwrap_or(0) >> (va % 8 * 8)) as u8
}

fn text(bytes: &[u8]) -> &str {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    core::str::from_utf8(&bytes[..end]).unwrap_or("not text")
}
