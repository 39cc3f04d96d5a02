//! The 32-bit ELF container of the image.
//!
//! Multiboot 1 loaders and QEMU's `-kernel` take no ELF64. The container holds the same segments by their physical
//! addresses, with the entry point in physical memory, no sections and no symbols. Multiboot 1 looks for its header in
//! the first 8 KiB of the file and multiboot 2 in the first 32 KiB, so the segment that begins with them comes right
//! after the program headers.

use anyhow::{Result, bail, ensure};

use crate::elf64::Image;

const FILE_HEADER: usize = 52;
const PROGRAM_HEADER: usize = 32;
/// Alignment of each segment in the file: the headers' own alignment (8) and a cache line.
const SEGMENT_ALIGN: usize = 64;
const MULTIBOOT1_MAGIC: u32 = 0x1bad_b002;
const MULTIBOOT1_REACH: usize = 8 * 1024;
const MULTIBOOT2_MAGIC: u32 = 0xe852_50d6;
const MULTIBOOT2_REACH: usize = 32 * 1024;
/// What a multiboot 1 header may not ask of a loader of ELF files: the a.out fields.
const MULTIBOOT1_AOUT: u32 = 1 << 16;

/// Makes the container of `image`.
///
/// Fails when a segment or the entry does not lie below 4 GiB, or when a multiboot header is not where loaders look.
pub fn elf32(image: &Image) -> Result<Vec<u8>> {
    let mut segments = image.segments.clone();
    segments.retain(|segment| segment.mem_size > 0);
    segments.sort_by_key(|segment| segment.phys);
    let entry = if u32::try_from(image.entry()).is_ok() {
        Some(image.entry())
    } else {
        image.symbol("oxen_entry32")
    };
    let Some(entry) = entry.and_then(|entry| u32::try_from(entry).ok()) else {
        bail!(
            "the entry point {:#x} is not below 4 GiB and no symbol oxen_entry32 is",
            image.entry()
        );
    };
    let inside = |segment: &&crate::elf64::Segment| {
        (segment.phys..segment.phys + segment.mem_size).contains(&u64::from(entry))
    };
    ensure!(
        segments.iter().any(|segment| inside(&segment)),
        "the entry point {entry:#x} lies in no segment"
    );

    let mut file = Vec::new();
    file.extend_from_slice(b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2u16, 3] {
        file.extend_from_slice(&half.to_le_bytes()); // executable, for the 386
    }
    for word in [1, entry, u32::try_from(FILE_HEADER)?, 0, 0] {
        file.extend_from_slice(&word.to_le_bytes()); // version, entry, program headers, no sections, no flags
    }
    for half in [FILE_HEADER, PROGRAM_HEADER, segments.len(), 40, 0, 0] {
        file.extend_from_slice(&u16::try_from(half)?.to_le_bytes());
    }
    let mut offset =
        (FILE_HEADER + PROGRAM_HEADER * segments.len()).next_multiple_of(SEGMENT_ALIGN);
    for segment in &segments {
        let end = segment.phys + segment.mem_size;
        ensure!(
            end <= 1 << 32,
            "the segment at {:#x} does not lie below 4 GiB",
            segment.phys
        );
        let phys = u32::try_from(segment.phys)?;
        let (file_size, mem_size) = (
            u32::try_from(segment.bytes.len())?,
            u32::try_from(segment.mem_size)?,
        );
        for word in [
            1,
            u32::try_from(offset)?,
            phys,
            phys,
            file_size,
            mem_size,
            segment.flags,
            u32::try_from(SEGMENT_ALIGN)?,
        ] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        offset = (offset + segment.bytes.len()).next_multiple_of(SEGMENT_ALIGN);
    }
    for segment in &segments {
        file.resize(file.len().next_multiple_of(SEGMENT_ALIGN), 0);
        file.extend_from_slice(segment.bytes);
    }
    check_headers(&file)?;
    Ok(file)
}

/// Checks that a loader finds both multiboot headers, whole and with right sums.
fn check_headers(file: &[u8]) -> Result<()> {
    let word = |at: usize| {
        file.get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_le_bytes)
    };
    let sums_to_zero = |at: usize, words: usize| {
        (0..words)
            .map(|n| word(at + 4 * n))
            .try_fold(0u32, |sum, word| Some(sum.wrapping_add(word?)))
            == Some(0)
    };
    let Some(one) = (0..MULTIBOOT1_REACH - 12)
        .step_by(4)
        .find(|&at| word(at) == Some(MULTIBOOT1_MAGIC) && sums_to_zero(at, 3))
    else {
        bail!("no multiboot 1 header in the first {MULTIBOOT1_REACH} bytes");
    };
    ensure!(
        word(one + 4).unwrap_or(0) & MULTIBOOT1_AOUT == 0,
        "the multiboot 1 header asks for loading by its a.out fields"
    );
    let two = (0..MULTIBOOT2_REACH - 16)
        .step_by(8)
        .find(|&at| word(at) == Some(MULTIBOOT2_MAGIC) && sums_to_zero(at, 4));
    let Some(two) = two else {
        bail!("no multiboot 2 header in the first {MULTIBOOT2_REACH} bytes")
    };
    let length = word(two + 8).unwrap_or(u32::MAX) as usize;
    ensure!(
        two.saturating_add(length) <= MULTIBOOT2_REACH,
        "the multiboot 2 header reaches beyond the first {MULTIBOOT2_REACH} bytes"
    );
    Ok(())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A minimal ELF64 with one segment per element: `(virt, phys, mem_size, bytes)`.
    pub fn elf64(entry: u64, segments: &[(u64, u64, u64, Vec<u8>)]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
        for word in [entry, 64, 0] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(&0u32.to_le_bytes());
        for half in [64u16, 56, segments.len() as u16, 64, 0, 0] {
            file.extend_from_slice(&half.to_le_bytes());
        }
        let mut offset = 64 + 56 * segments.len() as u64;
        for (virt, phys, mem_size, bytes) in segments {
            file.extend_from_slice(&1u32.to_le_bytes());
            file.extend_from_slice(&5u32.to_le_bytes());
            for word in [offset, *virt, *phys, bytes.len() as u64, *mem_size, 1] {
                file.extend_from_slice(&word.to_le_bytes());
            }
            offset += bytes.len() as u64;
        }
        for (_, _, _, bytes) in segments {
            file.extend_from_slice(bytes);
        }
        file
    }

    fn multiboot(padding: usize) -> Vec<u8> {
        let mut bytes = vec![0x90; padding];
        let two = [
            MULTIBOOT2_MAGIC,
            0,
            24,
            0u32.wrapping_sub(MULTIBOOT2_MAGIC).wrapping_sub(24),
            0,
            8,
        ];
        let one = [
            MULTIBOOT1_MAGIC,
            3,
            0u32.wrapping_sub(MULTIBOOT1_MAGIC).wrapping_sub(3),
        ];
        bytes.extend(two.into_iter().chain(one).flat_map(u32::to_le_bytes));
        bytes
    }

    const VIRT: u64 = 0xffff_8080_0000_0000;

    #[test]
    fn segments_keep_their_bytes_and_physical_addresses() {
        let text = multiboot(0);
        let input = elf64(
            0x20_0010,
            &[
                (VIRT + 0x1000, 0x20_1000, 0x3000, vec![7; 100]),
                (VIRT, 0x20_0000, 0x1000, text.clone()),
            ],
        );
        let file = elf32(&Image::parse(&input).unwrap()).unwrap();
        let parsed = elf::ElfBytes::<elf::endian::LittleEndian>::minimal_parse(&file).unwrap();
        assert_eq!(
            (
                parsed.ehdr.class,
                parsed.ehdr.e_machine,
                parsed.ehdr.e_entry
            ),
            (elf::file::Class::ELF32, 3, 0x20_0010)
        );
        let headers: Vec<_> = parsed.segments().unwrap().iter().collect();
        let addresses: Vec<_> = headers
            .iter()
            .map(|header| (header.p_vaddr, header.p_paddr, header.p_memsz))
            .collect();
        assert_eq!(
            addresses,
            [
                (0x20_0000, 0x20_0000, 0x1000),
                (0x20_1000, 0x20_1000, 0x3000)
            ]
        );
        assert_eq!(parsed.segment_data(&headers[0]).unwrap(), text);
        assert_eq!(parsed.segment_data(&headers[1]).unwrap(), [7; 100]);
    }

    #[test]
    fn refuses_what_no_loader_could_start() {
        let make = |entry, phys, text: Vec<u8>| {
            let size = text.len() as u64;
            elf32(&Image::parse(&elf64(entry, &[(VIRT, phys, size, text)])).unwrap())
                .map_err(|error| error.to_string())
        };
        assert!(make(0x20_0000, 0x20_0000, multiboot(0)).is_ok());
        assert!(
            make(0x20_0000, 0x20_0000, multiboot(8192))
                .unwrap_err()
                .contains("multiboot 1")
        );
        assert!(
            make(0x10_0000, 0x20_0000, multiboot(0))
                .unwrap_err()
                .contains("lies in no segment")
        );
        assert!(
            make(VIRT, 0x20_0000, multiboot(0))
                .unwrap_err()
                .contains("not below 4 GiB")
        );
        assert!(
            make(0xffff_fff0, 0xffff_fff0, multiboot(0))
                .unwrap_err()
                .contains("4 GiB")
        );
        let mut bad_sum = multiboot(0);
        bad_sum[12] ^= 1;
        assert!(
            make(0x20_0000, 0x20_0000, bad_sum)
                .unwrap_err()
                .contains("multiboot 2")
        );
    }
}
