//! Whole builds on a model machine, and a look at every page-table entry that comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::string::{String, ToString};
use std::vec::Vec;

use dom0_abi::addr::{GuestAddr, Maddr, Pfn};
use dom0_abi::xen::{Dom0VgaConsoleInfo, StartInfo};
use oxen_arch::boot::CpuId;
use oxen_arch::{Cpu, Machine, SimConfig};
use proptest::prelude::*;

use super::layout::{P2mPlace, PfnRange};
use super::packed_samples::{GZIP, XZ};
use super::sample::{Sample, VIRT_BASE, numeric};
use super::*;
use crate::frame::UndoQueue;

const MIB: u64 = 1 << 20;
const INIT_P2M: u64 = 0x80_0000_0000;

/// A booted machine.
struct Host {
    machine: Machine,
    cpu: Cpu,
    frames: Frames,
    undo: UndoQueue,
    kernel: Option<BootModule>,
    initrd: Option<BootModule>,
    /// Frames that boot modules lie in.
    nr_module_frames: u64,
    /// What the hypervisor's command line has for the guest's.
    arguments: &'static str,
}

fn host(memory: u64, kernel: &[u8], initrd: Option<&[u8]>) -> Host {
    let mut config = SimConfig::new(memory);
    let command_line = String::from("root=/dev/xvda1 quiet");
    config.modules.push((command_line, kernel.to_vec()));
    if let Some(initrd) = initrd {
        config.modules.push((String::new(), initrd.to_vec()));
    }
    let (machine, boot) = Machine::new(config);
    let frames = Frames::new(&machine).unwrap();
    let modules = [Some(kernel), initrd].into_iter().flatten();
    let nr_module_frames = modules
        .map(|module| module.len().div_ceil(4096) as u64)
        .sum();
    let mut modules = boot.modules.into_iter();
    Host {
        cpu: machine.cpu(CpuId::BOOT),
        machine,
        frames,
        undo: UndoQueue::new(),
        kernel: modules.next(),
        initrd: modules.next(),
        nr_module_frames,
        arguments: "",
    }
}

impl Host {
    fn build(&mut self, nr_pages: u64) -> Result<Built, BuildError> {
        let request = Request {
            kernel: &mut self.kernel,
            initrd: &mut self.initrd,
            nr_pages,
            owner: DomId::DOM0,
            screen: Some(Screen::Text {
                maddr: Maddr::new(0xb_8000),
                columns: 80,
                rows: 25,
            }),
            firmware: Firmware::Bios,
            arguments: self.arguments,
        };
        let memory = Memory {
            frames: &self.frames,
            machine: &self.machine,
            cpu: &self.cpu,
            undo: &self.undo,
        };
        build(memory, request)
    }

    fn word(&self, mfn: Mfn, n: usize) -> u64 {
        self.machine.mem().load_u64(mfn.at(n * 8)).unwrap()
    }

    fn page(&self, mfn: Mfn) -> Vec<u8> {
        let mut page = std::vec![0; 4096];
        let mem = self.machine.mem();
        mem.read_bytes(mfn.start(), &mut page).unwrap();
        page
    }

    /// Every leaf that a guest's tables reach outside the hypervisor's slots, by address, and the frames of all tables.
    fn walk(&self, root: Mfn) -> (BTreeMap<u64, u64>, BTreeSet<Mfn>) {
        let (mut leaves, mut tables) = (BTreeMap::new(), BTreeSet::new());
        let mut todo = std::vec![(root, 4, 0u64)];
        while let Some((table, level, base)) = todo.pop() {
            tables.insert(table);
            for slot in 0..512 {
                let entry = self.word(table, slot);
                let is_ours = level == 4 && (256..=271).contains(&slot);
                if is_ours {
                    assert_eq!(Some(entry), self.machine.root_entry(slot));
                    continue;
                }
                if entry == 0 {
                    continue;
                }
                let mut va = base | (slot as u64) << (12 + 9 * (level - 1));
                if level == 4 && slot >= 256 {
                    va |= 0xffff << 48;
                }
                if level == 1 {
                    leaves.insert(va, entry);
                } else {
                    assert_eq!(entry & !ADDRESS, 0x67, "level {level} at {va:#x}");
                    todo.push((Mfn::new((entry & ADDRESS) >> 12), level - 1, va));
                }
            }
        }
        (leaves, tables)
    }

    /// The frame of each pfn, by the p2m list.
    fn p2m(&self, built: &Built) -> Vec<Mfn> {
        let words = built.p2m_list.iter().flat_map(|mfn| {
            let word = move |n| Mfn::new(self.word(mfn, n));
            (0..512).map(word)
        });
        let mut list: Vec<Mfn> = words.collect();
        let tail = list.split_off(built.nr_pages as usize);
        assert!(tail.iter().all(|mfn| mfn.get() == 0));
        list
    }

    /// Whether memory is as if nothing had been built: all frames free, those of the modules too.
    fn assert_untouched(&self, free_before: u64) {
        assert_eq!(
            self.frames.statistics().free,
            free_before + self.nr_module_frames
        );
        for mfn in (0..self.machine.max_mfn().get()).map(Mfn::new) {
            assert_eq!(self.machine.m2p().get(mfn), None);
            assert_eq!(self.frames.owner(mfn), None);
        }
    }
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const WRITABLE_LEAF: u64 = 0x67 | 1 << 52;
const READ_ONLY_LEAF: u64 = 0x65 | 1 << 52;

/// Checks everything that follows from a layout.
fn check(host: &Host, built: &Built, sample: &Sample, initrd: &[u8]) {
    let layout = &built.layout;
    let p2m = host.p2m(built);
    assert_eq!(p2m.len() as u64, layout.nr_pages);

    // Each frame once, dom0's, and named by the M2P; no other frame is.
    let own: BTreeSet<Mfn> = p2m.iter().copied().collect();
    assert_eq!(own.len(), p2m.len());
    for (pfn, mfn) in p2m.iter().enumerate() {
        assert_eq!(host.machine.m2p().get(*mfn), Some(Pfn::new(pfn as u64)));
    }
    assert!(!own.contains(&built.shared_info));
    for mfn in (0..host.machine.max_mfn().get()).map(Mfn::new) {
        let is_dom0s = own.contains(&mfn) || mfn == built.shared_info;
        let owner = is_dom0s.then_some(DomId::DOM0);
        assert_eq!(host.frames.owner(mfn), owner, "{mfn}");
        assert_eq!(host.frames.reference_count(mfn), u32::from(is_dom0s));
        assert_eq!(host.machine.m2p().get(mfn).is_some(), own.contains(&mfn));
    }

    // The tables map the initial mapping and the p2m list, and nothing else; no table is writable.
    let frame_of = |pfn: Pfn| p2m[pfn.get() as usize];
    let (leaves, tables) = host.walk(built.root);
    let mut expected = BTreeMap::new();
    for pfn in layout.mapped.iter() {
        let flags = if layout.tables.contains(pfn) {
            READ_ONLY_LEAF
        } else {
            WRITABLE_LEAF
        };
        assert_eq!(frame_of(pfn).get(), built.mapped.start.get() + pfn.get());
        expected.insert(
            VIRT_BASE + (pfn.get() << 12),
            frame_of(pfn).start().get() | flags,
        );
    }
    let mut all_tables: BTreeSet<Mfn> = layout.tables.iter().map(frame_of).collect();
    if let P2mPlace::Apart { va, list, tables } = layout.p2m {
        for (n, pfn) in list.iter().enumerate() {
            let page = frame_of(pfn).start().get();
            expected.insert(va + ((n as u64) << 12), page | WRITABLE_LEAF);
        }
        all_tables.extend(tables.iter().map(frame_of));
        assert_eq!(built.p2m_tables.len(), tables.len());
    }
    assert_eq!(leaves, expected);
    assert_eq!(tables, all_tables);
    assert_eq!(built.root, frame_of(layout.tables.start));
    for entry in leaves.values() {
        let is_table = tables.contains(&Mfn::new((entry & ADDRESS) >> 12));
        assert!(!is_table || entry & 2 == 0);
    }

    // The kernel is where its segments say, with zeros behind their bytes.
    for load in &sample.loads {
        for at in 0..load.memory {
            let paddr = load.paddr + at;
            let maddr = frame_of(Pfn::new(paddr >> 12)).at(paddr as usize & 0xfff);
            let byte = load.bytes.get(at as usize).copied().unwrap_or(0);
            assert_eq!(host.machine.mem().load_u8(maddr), Ok(byte));
        }
    }
    let pages = |pfns: PfnRange| -> Vec<u8> {
        pfns.iter()
            .flat_map(|pfn| host.page(frame_of(pfn)))
            .collect()
    };
    if let Some(pfns) = layout.initrd {
        assert_eq!(&pages(pfns)[..initrd.len()], initrd);
        if layout.initrd_behind().is_some() {
            assert!(pages(pfns)[initrd.len()..].iter().all(|byte| *byte == 0));
        }
    }
    let stack = host.page(frame_of(layout.stack));
    assert!(stack.iter().all(|byte| *byte == 0));
    let shared = host.page(built.shared_info);
    for (at, byte) in shared.iter().enumerate() {
        assert_eq!(*byte, u8::from(at < 2048 && at % 64 == 1), "{at}");
    }

    // The CPU agrees, from what the registers say.
    let cpu = &host.cpu;
    cpu.load_root(built.root);
    let info: StartInfo = cpu.read_guest(GuestAddr::new(built.start.rsi)).unwrap();
    assert_eq!(info.nr_pages, layout.nr_pages);
    assert_eq!(info.shared_info, built.shared_info.start().get());
    assert_eq!(info.pt_base, VIRT_BASE + (layout.tables.start.get() << 12));
    assert_eq!(info.nr_pt_frames, layout.tables.len());
    assert_eq!(info.mod_len, initrd.len() as u64);
    assert_eq!(&info.cmd_line[..22], b"root=/dev/xvda1 quiet\0");
    let screen = GuestAddr::new(built.start.rsi + (info.console.mfn & 0xffff_ffff));
    let screen: Dom0VgaConsoleInfo = cpu.read_guest(screen).unwrap();
    assert_eq!(screen.video_type, 3);
    for (pfn, mfn) in p2m.iter().enumerate() {
        let at = GuestAddr::new(info.mfn_list + pfn as u64 * 8);
        assert_eq!(cpu.read_guest::<u64>(at), Ok(mfn.get()));
    }
    let push = GuestAddr::new(built.start.rsp - 8);
    assert_eq!(cpu.write_guest(push, &1u64), Ok(()));
    assert!(
        cpu.write_guest(GuestAddr::new(info.pt_base), &0u64)
            .is_err()
    );
    let code: u8 = cpu.read_guest(GuestAddr::new(built.start.rip)).unwrap();
    assert_eq!(code, sample.loads[0].bytes[0x10]);
}

fn initrd() -> Vec<u8> {
    (0..70_000u32).map(|n| (n % 249) as u8).collect()
}

/// A bzImage around a payload.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = std::vec![0u8; 1024];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend_from_slice(payload);
    image
}

#[test]
fn a_kernel_like_linux_is_built() {
    let sample = Sample::new()
        .with_note(numeric(15, INIT_P2M))
        .with_note(numeric(16, 1));
    let mut host = host(64 * MIB, &sample.file(), Some(&initrd()));
    let free = host.frames.statistics().free;
    let nr_pages = 0x2345;
    let built = host.build(nr_pages).unwrap();
    check(&host, &built, &sample, &initrd());
    let regs = built.start;
    assert_eq!((regs.rip, regs.cs), (VIRT_BASE + 0x10_0010, 0xe033));
    assert_eq!((regs.ss, regs.rflags), (0xe02b, 0x202));
    assert_eq!((regs.ds, regs.es, regs.fs, regs.gs), (0, 0, 0, 0));
    assert_eq!(regs.saved_upcall_mask, 1);
    assert_eq!(built.kernel_name.as_str(), "sample ");
    assert!(!built.is_command_line_cut);
    // All that is gone is what dom0 has: its pages, of which the initrd brought some, and the shared page. The kernel's
    // own frames became free.
    let gone = nr_pages + 1 - host.nr_module_frames;
    assert_eq!(host.frames.statistics().free, free - gone);
}

#[test]
fn what_our_command_line_has_for_the_guest_comes_behind_the_modules_words() {
    const MODULE: &str = "root=/dev/xvda1 quiet";
    let too_long: &'static str = "x".repeat(2000).leak();
    for (arguments, expected, is_cut) in [
        ("", MODULE.to_string(), false),
        (
            "single console=hvc0",
            format!("{MODULE} single console=hvc0"),
            false,
        ),
        (
            too_long,
            format!("{MODULE} {too_long}")[..1023].to_string(),
            true,
        ),
    ] {
        let sample = Sample::new();
        let mut host = host(64 * MIB, &sample.file(), None);
        host.arguments = arguments;
        let built = host.build(0x2000).unwrap();
        assert_eq!(built.is_command_line_cut, is_cut);
        let start_info = Mfn::new(built.mapped.start.get() + built.layout.start_info.get());
        let at = core::mem::offset_of!(dom0_abi::xen::StartInfo, cmd_line);
        let line = host.page(start_info)[at..at + 1024].to_vec();
        assert_eq!(line[..expected.len()], *expected.as_bytes());
        assert!(line[expected.len()..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn the_initrd_is_not_copied() {
    let sample = Sample::new().with_note(numeric(16, 1));
    let mut host = host(64 * MIB, &sample.file(), Some(&initrd()));
    let free = host.frames.statistics().free;
    let nr_initrd = initrd().len().div_ceil(4096) as u64;
    let built = host.build(0x1000).unwrap();
    check(&host, &built, &sample, &initrd());
    // None of the frames that were free holds it.
    let taken = free + host.nr_module_frames - nr_initrd - host.frames.statistics().free;
    assert_eq!(taken, 0x1000 + 1 - nr_initrd);
}

#[test]
fn an_old_kernel_is_built() {
    let sample = Sample::new();
    let mut host = host(64 * MIB, &sample.file(), Some(&initrd()));
    let free = host.frames.statistics().free;
    let built = host.build(0x1801).unwrap();
    check(&host, &built, &sample, &initrd());
    assert!(built.p2m_tables.is_empty());
    let left = free + host.nr_module_frames - 0x1801 - 1;
    assert_eq!(host.frames.statistics().free, left);
}

#[test]
fn a_hypercall_page_is_filled() {
    let sample = Sample::new().with_note(numeric(2, VIRT_BASE + 0x10_6000));
    let mut host = host(64 * MIB, &sample.file(), None);
    let built = host.build(0x1000).unwrap();
    let page = host.page(Mfn::new(built.mapped.start.get() + 0x106));
    for number in 0..128u8 {
        let at = usize::from(number) * 32;
        assert_eq!(page[at..at + 32], hypercall_page::stub(number));
    }
}

#[test]
fn two_machines_do_not_meet() {
    let sample = Sample::new().with_note(numeric(15, INIT_P2M));
    let mut one = host(64 * MIB, &sample.file(), None);
    let mut other = host(128 * MIB, &sample.file(), None);
    let (first, second) = (one.build(0x800).unwrap(), other.build(0x4800).unwrap());
    check(&one, &first, &sample, &[]);
    check(&other, &second, &sample, &[]);
}

#[test]
fn errors_name_the_cause_and_give_everything_back() {
    let sample = Sample::new()
        .with_note(numeric(15, INIT_P2M))
        .with_note(numeric(16, 1));
    let file = sample.file();
    let truncated = &file[..file.len() - 100];
    let mut corrupt = GZIP.to_vec();
    corrupt[100] ^= 0xff;
    let xz = |stream: &[u8]| bzimage(&[stream, &14_690u32.to_le_bytes()].concat());
    let large = std::vec![1u8; 20 << 20];
    for (kernel, initrd, nr_pages, message) in [
        (&b"a text"[..], None, 0x1000, "neither an ELF file"),
        (truncated, None, 0x1000, "is truncated: segment 2"),
        (&bzimage(GZIP), None, 0x1000, "does not hold an ELF file"),
        (&bzimage(&corrupt), None, 0x1000, "does not unpack"),
        (&xz(XZ), None, 0x1000, "does not hold an ELF file"),
        (&xz(XZ), None, 0x1000, "does not hold an ELF file"),
        (&xz(&XZ[..100]), None, 0x1000, "does not unpack"),
        (
            &file,
            Some(&large),
            0x1000,
            "the initrd of 20 MiB does not fit: dom0 has 16 MiB",
        ),
        (&file, None, 0x100, "the kernel needs"),
        (&file, None, 0x3fa0, "not enough memory for dom0"),
        (&file, Some(&large), 0x4000, "not enough memory for dom0"),
        (&file, Some(&large), 0, "dom0 cannot have 0 pages"),
    ] {
        let mut host = host(64 * MIB, kernel, initrd.map(Vec::as_slice));
        let free = host.frames.statistics().free;
        let error = host.build(nr_pages).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        host.assert_untouched(free);
    }
}

#[test]
fn no_kernel_is_an_error() {
    let mut host = host(64 * MIB, b"", Some(&initrd()));
    host.kernel = None;
    let error = host.build(0x1000).unwrap_err();
    assert_eq!(error, BuildError::Kernel(KernelError::Missing));
    assert!(host.initrd.is_none());
}

#[test]
fn packed_kernels_are_built() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    let sample = Sample::new().with_note(numeric(15, INIT_P2M));
    let file = sample.file();
    let mut child = match Command::new("gzip")
        .arg("-9cn")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    {
        Ok(child) => child,
        Err(error) => {
            std::eprintln!("skipped: no gzip ({error})");
            return;
        }
    };
    child.stdin.take().unwrap().write_all(&file).unwrap();
    let packed = child.wait_with_output().unwrap().stdout;
    let mut host = host(64 * MIB, &bzimage(&packed), None);
    let free = host.frames.statistics().free;
    let built = host.build(0x1000).unwrap();
    check(&host, &built, &sample, &[]);
    // Buffers and scratch memory are free again.
    let left = free + host.nr_module_frames - 0x1000 - 1;
    assert_eq!(host.frames.statistics().free, left);
}

/// The kernel of a distribution, in the places that Debian's Xen 4.17 gives to Debian's kernel 6.1 with dom0_mem=512m.
/// Its path comes in `OXEN_TEST_VMLINUZ`.
#[test]
fn a_distribution_kernel_is_built() {
    let Some(path) = std::env::var_os("OXEN_TEST_VMLINUZ") else {
        std::eprintln!("skipped: OXEN_TEST_VMLINUZ does not name a kernel");
        return;
    };
    let file = std::fs::read(path).unwrap();
    let mut host = host(1024 * MIB, &file, Some(&initrd()));
    let free = host.frames.statistics().free;
    let built = host.build(0x2_0000).unwrap();
    assert_eq!(built.kernel_name.as_str(), "linux 2.6");
    let (leaves, tables) = host.walk(built.root);
    let layout = &built.layout;
    let nr_tables = layout.tables.len() + built.p2m_tables.len();
    assert_eq!(tables.len() as u64, nr_tables);
    let nr_leaves = layout.mapped.len() + built.p2m_list.len();
    assert_eq!(leaves.len() as u64, nr_leaves);
    let left = free + host.nr_module_frames - 0x2_0000 - 1;
    assert_eq!(host.frames.statistics().free, left);
    if file.windows(8).any(|text| text == b"6.1.0-56") {
        assert_eq!(built.start.rip, 0xffff_ffff_8307_91c0);
        assert_eq!(built.start.rsi, 0xffff_ffff_84a0_0000);
        assert_eq!(built.start.rsp, 0xffff_ffff_84a2_b000);
        assert_eq!(layout.mapped.len(), 0x4c00);
        assert_eq!(layout.p2m_va(), INIT_P2M);
    }
}

/// A frame that turns out not to be memory cannot happen; if it does, wherever the frame was meant to go, the build is
/// undone.
#[test]
fn a_bad_frame_anywhere_undoes_the_build() {
    let sample = Sample::new()
        .with_note(numeric(15, INIT_P2M))
        .with_note(numeric(16, 1));
    let file = sample.file();
    let nr_pages = 0x3000;
    let built = host(64 * MIB, &file, Some(&initrd()))
        .build(nr_pages)
        .unwrap();
    let mapped = |pfn: Pfn| Mfn::new(built.mapped.start.get() + pfn.get());
    let mut victims: Vec<Mfn> = built.p2m_list.iter().collect();
    victims.extend(built.p2m_tables.iter());
    victims.extend(built.layout.tables.iter().map(mapped));
    victims.extend([built.layout.start_info, built.layout.stack].map(mapped));
    victims.extend([Pfn::new(0x100), Pfn::new(0x107)].map(mapped));
    victims.push(built.shared_info);
    for victim in victims {
        let mut host = host(64 * MIB, &file, Some(&initrd()));
        let free = host.frames.statistics().free;
        let taken = MfnRange::of(victim, 1).unwrap();
        let taken = FrameBuf::new(host.machine.mem(), taken).unwrap();
        assert_eq!(
            host.build(nr_pages).unwrap_err(),
            BuildError::BadFrame,
            "{victim}"
        );
        drop(taken);
        host.assert_untouched(free);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_size_and_window_is_built_or_undone(
        nr_pages in 0x300u64..0x3800,
        init_p2m in prop::option::of(prop_oneof![
            Just(INIT_P2M),
            (0u64..1 << 35).prop_map(|page| page << 12),
            (0xf_ffff_f800_0000u64..0xf_ffff_fff0_0000).prop_map(|page| page << 12),
        ]),
        initrd_len in 0usize..100_000,
        initrd_behind: bool,
    ) {
        let mut sample = Sample::new();
        if let Some(va) = init_p2m {
            sample = sample.with_note(numeric(15, va));
        }
        if initrd_behind {
            sample = sample.with_note(numeric(16, 1));
        }
        let initrd = &initrd()[..initrd_len.min(70_000)];
        let mut host = host(64 * MIB, &sample.file(), Some(initrd));
        let free = host.frames.statistics().free;
        match host.build(nr_pages) {
            Ok(built) => check(&host, &built, &sample, initrd),
            Err(_) => host.assert_untouched(free),
        }
    }
}
