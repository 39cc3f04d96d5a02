//! A PV kernel as an ELF file: what to put where, after everything in it has been checked.
//!
//! Segments are placed by `p_paddr`, not by `p_vaddr`: what lies at pfn n is mapped at VIRT_BASE + n pages. Linux has a
//! segment whose virtual address is 0 and means an offset.

use dom0_abi::addr::PAGE_SIZE;
use dom0_abi::arch::HYPERVISOR_VIRT_START;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_DYN, ET_EXEC, PT_LOAD, PT_NOTE, SHT_NOTE};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::parse::ParseError;
use elf::segment::ProgramHeader;

use super::error::{AddressNote, KernelError};
use super::notes::XenNotes;

/// More loadable segments than any kernel has; bounds the search for overlaps.
const MAX_SEGMENTS: usize = 32;

/// A kernel whose headers, segments and notes are sound.
pub struct Kernel<'a> {
    elf: ElfBytes<'a, LittleEndian>,
    notes: XenNotes<'a>,
    entry: u64,
    start: u64,
    end: u64,
}

/// A piece of the kernel, by its place in guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// The guest's own address of the first byte: pfn and offset.
    pub start: u64,
    /// The address behind the last byte.
    pub end: u64,
    /// The first bytes; the others are zero.
    pub bytes: &'a [u8],
}

impl<'a> Kernel<'a> {
    /// Checks the ELF file `file`. The error names what is wrong with it.
    pub fn parse(file: &'a [u8]) -> Result<Self, KernelError> {
        let elf = ElfBytes::minimal_parse(file).map_err(|error| header_error(error, file))?;
        if elf.ehdr.class != Class::ELF64 || elf.ehdr.e_machine != EM_X86_64 {
            return Err(KernelError::NotX86_64);
        }
        if elf.ehdr.e_type != ET_EXEC && elf.ehdr.e_type != ET_DYN {
            return Err(KernelError::NotExecutable(elf.ehdr.e_type));
        }
        let notes = find_notes(&elf, file)?;
        notes.check()?;
        let mut kernel = Self {
            entry: notes.entry.unwrap_or(elf.ehdr.e_entry),
            elf,
            notes,
            start: u64::MAX,
            end: 0,
        };
        kernel.check_segments(file.len())?;
        kernel.check_addresses()?;
        Ok(kernel)
    }

    /// What the kernel says about itself.
    pub fn notes(&self) -> &XenNotes<'a> {
        &self.notes
    }

    /// The address of the first instruction.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// The guest's own address of the first byte of the first segment.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The guest's own address behind the last byte of the last segment.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// What to put into memory; segments do not overlap.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'a>> + '_ {
        self.loads()
            .filter_map(|(number, header)| self.segment(number, &header).ok())
    }

    /// The headers of the segments to load, with their numbers.
    fn loads(&self) -> impl Iterator<Item = (usize, ProgramHeader)> + '_ {
        self.elf
            .segments()
            .into_iter()
            .flat_map(|segments| segments.iter().enumerate())
            .filter(|(_, header)| header.p_type == PT_LOAD && header.p_memsz > 0)
    }

    fn segment(&self, number: usize, header: &ProgramHeader) -> Result<Segment<'a>, KernelError> {
        let bad = KernelError::BadSegment(number);
        let bytes = self.elf.segment_data(header).map_err(|_| bad.clone())?;
        let start = header.p_paddr.checked_sub(self.notes.paddr_offset);
        let start = start.ok_or(bad.clone())?;
        let end = start.checked_add(header.p_memsz).ok_or(bad.clone())?;
        // Also at its virtual place it must have an end.
        self.notes.virt_base.checked_add(end).ok_or(bad.clone())?;
        if header.p_filesz > header.p_memsz {
            return Err(bad);
        }
        Ok(Segment { start, end, bytes })
    }

    fn check_segments(&mut self, file_len: usize) -> Result<(), KernelError> {
        let (mut start, mut end) = (u64::MAX, 0);
        for (nr_before, (number, header)) in self.loads().enumerate() {
            if nr_before >= MAX_SEGMENTS {
                return Err(KernelError::TooManySegments);
            }
            let needed = header.p_offset.saturating_add(header.p_filesz);
            if usize::try_from(needed).map_or(true, |needed| needed > file_len) {
                return Err(KernelError::TruncatedSegment {
                    segment: number,
                    needed,
                    found: file_len,
                });
            }
            let segment = self.segment(number, &header)?;
            for (other_number, other) in self.loads().take(nr_before) {
                let other = self.segment(other_number, &other)?;
                if segment.start < other.end && other.start < segment.end {
                    return Err(KernelError::OverlappingSegments(other_number, number));
                }
            }
            start = segment.start.min(start);
            end = segment.end.max(end);
        }
        if start >= end {
            return Err(KernelError::NothingToLoad);
        }
        (self.start, self.end) = (start, end);
        Ok(())
    }

    /// Checks each address in the notes that can be judged without knowing dom0's size.
    fn check_addresses(&self) -> Result<(), KernelError> {
        let notes = &self.notes;
        let is_in_image = |va: u64, len: u64| {
            let start = va.checked_sub(notes.virt_base);
            start.is_some_and(|start| {
                start >= self.start && start.checked_add(len).is_some_and(|end| end <= self.end)
            })
        };
        let page = PAGE_SIZE as u64;
        let is_page = |va: u64| va.is_multiple_of(page);
        let bad = |note, value| Err(KernelError::BadAddress(note, value));
        if !is_page(notes.virt_base) {
            return bad(AddressNote::VirtBase, notes.virt_base);
        }
        if !is_in_image(self.entry, 1) {
            return bad(AddressNote::Entry, self.entry);
        }
        match notes.init_p2m {
            Some(va) if !is_page(va) => return bad(AddressNote::InitP2m, va),
            _ => {}
        }
        match notes.hypercall_page {
            Some(va) if !is_page(va) || !is_in_image(va, page) => {
                return bad(AddressNote::HypercallPage, va);
            }
            _ => {}
        }
        match notes.hv_start_low {
            Some(va) if va > HYPERVISOR_VIRT_START => bad(AddressNote::HvStartLow, va),
            _ => Ok(()),
        }
    }
}

/// The Xen notes: of the first segment of notes that has any, else of the first such section.
fn find_notes<'a>(
    elf: &ElfBytes<'a, LittleEndian>,
    file: &'a [u8],
) -> Result<XenNotes<'a>, KernelError> {
    for (number, header) in elf.segments().into_iter().flatten().enumerate() {
        if header.p_type != PT_NOTE {
            continue;
        }
        let data = elf
            .segment_data(&header)
            .map_err(|_| KernelError::TruncatedSegment {
                segment: number,
                needed: header.p_offset.saturating_add(header.p_filesz),
                found: file.len(),
            })?;
        if let Some(notes) = XenNotes::parse(data)? {
            return Ok(notes);
        }
    }
    for header in elf.section_headers().into_iter().flatten() {
        if header.sh_type != SHT_NOTE {
            continue;
        }
        let start = usize::try_from(header.sh_offset).ok();
        let size = usize::try_from(header.sh_size).ok();
        let data = start
            .zip(size)
            .and_then(|(start, size)| file.get(start..)?.get(..size));
        if let Some(notes) = XenNotes::parse(data.unwrap_or_default())? {
            return Ok(notes);
        }
    }
    Err(KernelError::NoXenNote)
}

/// What it means that the headers do not parse.
fn header_error(error: ParseError, file: &[u8]) -> KernelError {
    match error {
        ParseError::SliceReadError((_, needed)) if needed > file.len() => {
            KernelError::TruncatedImage {
                needed,
                found: file.len(),
            }
        }
        ParseError::BadMagic(_) => KernelError::NotElf,
        ParseError::UnsupportedElfClass(_) | ParseError::UnsupportedElfEndianness(_) => {
            KernelError::NotX86_64
        }
        _ => KernelError::BadElf,
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
