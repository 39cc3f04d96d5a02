use super::super::sample::{
    E_MACHINE, E_TYPE, Load, PROGRAM_HEADER, PROGRAM_HEADERS, Sample, VIRT_BASE, note, numeric,
};
use super::*;
use proptest::prelude::*;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

fn error(file: &[u8]) -> KernelError {
    match Kernel::parse(file) {
        Ok(_) => panic!("parsed"),
        Err(error) => error,
    }
}

#[test]
fn segments_are_placed_by_paddr() {
    let sample = Sample::new();
    let file = sample.file();
    let kernel = Kernel::parse(&file).unwrap();
    assert_eq!(kernel.entry(), VIRT_BASE + 0x10_0010);
    assert_eq!((kernel.start(), kernel.end()), (0x10_0000, 0x10_7800));
    let segments: Vec<Segment> = kernel.segments().collect();
    assert_eq!(segments.len(), 2);
    for (segment, load) in segments.iter().zip(&sample.loads) {
        assert_eq!(segment.start, load.paddr);
        assert_eq!(segment.end, load.paddr + load.memory);
        assert_eq!(segment.bytes, load.bytes);
    }
}

#[test]
fn paddr_offset_is_taken_off() {
    let mut sample = Sample::new().with_note(numeric(4, VIRT_BASE));
    for load in &mut sample.loads {
        load.paddr += VIRT_BASE;
    }
    let file = sample.file();
    let kernel = Kernel::parse(&file).unwrap();
    assert_eq!((kernel.start(), kernel.end()), (0x10_0000, 0x10_7800));
    let below = Sample::new().with_note(numeric(4, 0x20_0000));
    assert_eq!(error(&below.file()), KernelError::BadSegment(1));
}

#[test]
fn notes_are_found_in_a_section_too() {
    let mut sample = Sample::new();
    sample.notes_in_section = true;
    let file = sample.file();
    let kernel = Kernel::parse(&file).unwrap();
    assert_eq!(kernel.notes().guest_os.to_string(), "sample");
    assert_eq!(
        kernel.segments().next().unwrap().bytes,
        sample.loads[0].bytes
    );
}

#[test]
fn entry_falls_back_to_the_elf_header() {
    let mut sample = Sample::new();
    sample.notes.retain(|note| note[8] != 1);
    sample.entry = VIRT_BASE + 0x10_0020;
    let file = sample.file();
    assert_eq!(Kernel::parse(&file).unwrap().entry(), sample.entry);
}

#[test]
fn other_elf_files_are_named() {
    let good = Sample::new().file();
    let edited = |at: usize, value: u8| {
        let mut file = good.clone();
        file[at] = value;
        error(&file)
    };
    assert_eq!(edited(0, 0), KernelError::NotElf);
    assert_eq!(edited(5, 2), KernelError::NotX86_64);
    assert_eq!(edited(E_MACHINE, 3), KernelError::NotX86_64);
    assert_eq!(edited(E_TYPE, 1), KernelError::NotExecutable(1));
    let mut plain = Sample::new();
    plain.notes.clear();
    assert_eq!(error(&plain.file()), KernelError::NoXenNote);
    assert_eq!(
        KernelError::NoXenNote.to_string(),
        "module 0 is not a PV kernel: no Xen ELF note"
    );
    let mut empty = Sample::new();
    empty.loads.clear();
    assert_eq!(error(&empty.file()), KernelError::NothingToLoad);
    let mut many = Sample::new();
    many.loads = (0..33)
        .map(|n| Load {
            vaddr: 0,
            paddr: 0x10_0000 + n * 0x1000,
            memory: 0x1000,
            bytes: vec![],
        })
        .collect();
    assert_eq!(error(&many.file()), KernelError::TooManySegments);
    many.loads.pop();
    assert!(Kernel::parse(&many.file()).is_ok());
}

#[test]
fn impossible_segments_are_refused() {
    let with = |edit: &dyn Fn(&mut Load)| {
        let mut sample = Sample::new();
        edit(&mut sample.loads[1]);
        error(&sample.file())
    };
    // The segment of notes is number 0.
    assert_eq!(with(&|load| load.memory = 1), KernelError::BadSegment(2));
    assert_eq!(
        with(&|load| load.memory = u64::MAX),
        KernelError::BadSegment(2)
    );
    assert_eq!(
        with(&|load| load.memory = 0x8000_0000),
        KernelError::BadSegment(2)
    );
    assert_eq!(
        with(&|load| load.paddr = 0x10_17ff),
        KernelError::OverlappingSegments(1, 2)
    );
    let mut touching = Sample::new();
    touching.loads[1].paddr = 0x10_1800;
    assert!(Kernel::parse(&touching.file()).is_ok());
}

#[test]
fn impossible_addresses_are_refused() {
    for (kind, value, name) in [
        (1, VIRT_BASE, AddressNote::Entry),
        (1, VIRT_BASE + 0x10_7800, AddressNote::Entry),
        (1, 0, AddressNote::Entry),
        (3, VIRT_BASE + 0x800, AddressNote::VirtBase),
        (15, 0x80_0000_0008, AddressNote::InitP2m),
        (2, VIRT_BASE + 0x10_0010, AddressNote::HypercallPage),
        (2, VIRT_BASE + 0x20_0000, AddressNote::HypercallPage),
        (2, VIRT_BASE + 0x10_7000, AddressNote::HypercallPage),
        (12, HYPERVISOR_VIRT_START + 1, AddressNote::HvStartLow),
    ] {
        let file = Sample::new().with_note(numeric(kind, value)).file();
        assert_eq!(error(&file), KernelError::BadAddress(name, value));
    }
    for (kind, value) in [
        (1, VIRT_BASE + 0x10_77ff),
        (2, VIRT_BASE + 0x10_6000),
        (12, HYPERVISOR_VIRT_START),
    ] {
        assert!(Kernel::parse(&Sample::new().with_note(numeric(kind, value)).file()).is_ok());
    }
}

#[test]
fn truncation_anywhere_is_an_error_that_says_so() {
    let sample = Sample::new();
    let file = sample.file();
    for length in 4..file.len() {
        let error = error(&file[..length]);
        match error {
            KernelError::TruncatedImage { needed, found } => {
                assert!(needed > found && found == length)
            }
            KernelError::TruncatedSegment {
                segment,
                needed,
                found,
            } => {
                assert!(segment < 3 && needed > found as u64 && found == length);
            }
            other => panic!("{length}: {other}"),
        }
    }
    let error = error(&file[..file.len() - 1]);
    assert_eq!(
        error.to_string(),
        std::format!(
            "module 0 is truncated: segment 2 needs {:#x} bytes, the file has {:#x}",
            file.len(),
            file.len() - 1
        )
    );
}

proptest! {
    #[test]
    fn damaged_headers_do_not_panic(
        in_section: bool,
        edits in prop::collection::vec((0usize..0x280, any::<u8>()), 1..12),
    ) {
        let mut sample = Sample::new();
        sample.notes_in_section = in_section;
        let mut file = sample.file();
        for (at, value) in edits {
            file[at] = value;
        }
        if let Ok(kernel) = Kernel::parse(&file) {
            for segment in kernel.segments() {
                prop_assert!(segment.start >= kernel.start() && segment.end <= kernel.end());
                prop_assert!(segment.bytes.len() as u64 <= segment.end - segment.start);
            }
        }
    }

    #[test]
    fn damaged_program_headers_do_not_panic(
        header in 0usize..3,
        field in 0usize..7,
        value in prop_oneof![any::<u64>(), (0u32..64).prop_map(|bit| (1u64 << bit).wrapping_sub(1))],
    ) {
        let mut file = Sample::new().file();
        let at = PROGRAM_HEADERS + header * PROGRAM_HEADER + field * 8;
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        if let Ok(kernel) = Kernel::parse(&file) {
            prop_assert!(kernel.start() < kernel.end());
            prop_assert!(kernel.notes().virt_base.checked_add(kernel.end()).is_some());
        }
    }
}

#[test]
fn a_second_segment_of_notes_counts_if_the_first_has_none() {
    let mut sample = Sample::new();
    let foreign = {
        let mut note = note(3, &[1, 2, 3, 4]);
        note[12..16].copy_from_slice(b"GNU\0");
        note
    };
    // A PT_LOAD turned into PT_NOTE, in front of the real one.
    sample.loads.insert(
        0,
        Load {
            vaddr: 0,
            paddr: 0x9000,
            memory: foreign.len() as u64,
            bytes: foreign,
        },
    );
    let mut file = sample.file();
    let (first, second) = (PROGRAM_HEADERS, PROGRAM_HEADERS + PROGRAM_HEADER);
    file[second] = 4;
    let saved: Vec<u8> = file[first..second].to_vec();
    file.copy_within(second..second + PROGRAM_HEADER, first);
    file[second..second + PROGRAM_HEADER].copy_from_slice(&saved);
    assert_eq!(
        Kernel::parse(&file).unwrap().notes().guest_os.to_string(),
        "sample"
    );
}
