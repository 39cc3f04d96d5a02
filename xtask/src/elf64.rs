//! Reading a linked ELF64 executable: its segments, sections and functions.

use std::ops::Range;

use anyhow::{Context, Result, bail};
use elf::ElfBytes;
use elf::abi::{
    EM_X86_64, PT_LOAD, SHF_ALLOC, SHF_EXECINSTR, SHF_WRITE, SHN_ABS, SHT_NOBITS, STT_FUNC,
    STT_NOTYPE, STT_OBJECT,
};
use elf::endian::LittleEndian;
use elf::file::Class;

/// A loadable part of the image.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    /// Where it is linked.
    pub virt: u64,
    /// Where it is loaded.
    pub phys: u64,
    /// How much memory it takes; what `bytes` does not fill is zero.
    pub mem_size: u64,
    /// `PF_X`, `PF_W`, `PF_R`.
    pub flags: u32,
    /// What the file holds of it.
    pub bytes: &'a [u8],
}

/// A section that takes memory.
pub struct Section<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it is linked.
    pub virt: u64,
    /// Its size in memory.
    pub size: u64,
    /// Where its bytes are in the file; empty when it is only zeroes.
    pub file: Range<usize>,
    /// Its bytes; empty when it is only zeroes.
    pub bytes: &'a [u8],
    /// Whether it holds code.
    pub is_code: bool,
    /// Whether it can be written.
    pub is_writable: bool,
}

/// A named piece of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is linked.
    pub address: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Its demangled name without the hash.
    pub name: String,
}

/// Sizes by kind, in bytes.
#[derive(Default)]
pub struct SectionSizes {
    /// Code.
    pub code: u64,
    /// Data that is never written.
    pub read_only: u64,
    /// Data.
    pub data: u64,
    /// Data that starts as zeroes and takes no room in the file.
    pub zeroed: u64,
}

/// A parsed executable.
pub struct Image<'a> {
    elf: ElfBytes<'a, LittleEndian>,
    /// The loadable segments, in the order of the file.
    pub segments: Vec<Segment<'a>>,
    /// The sections that take memory, sorted by address.
    pub sections: Vec<Section<'a>>,
}

impl<'a> Image<'a> {
    /// Parses an ELF64 executable for x86-64.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(bytes).context("not an ELF file")?;
        if elf.ehdr.class != Class::ELF64 || elf.ehdr.e_machine != EM_X86_64 {
            bail!("not an ELF64 file for x86-64");
        }
        let mut segments = Vec::new();
        for header in elf
            .segments()
            .context("no program headers")?
            .iter()
            .filter(|header| header.p_type == PT_LOAD)
        {
            segments.push(Segment {
                virt: header.p_vaddr,
                phys: header.p_paddr,
                mem_size: header.p_memsz,
                flags: header.p_flags,
                bytes: elf
                    .segment_data(&header)
                    .context("a segment lies outside the file")?,
            });
        }
        let mut sections = Vec::new();
        if let (Some(headers), Some(names)) = elf.section_headers_with_strtab()? {
            for header in headers
                .iter()
                .filter(|header| header.sh_flags & u64::from(SHF_ALLOC) != 0 && header.sh_size > 0)
            {
                let start = usize::try_from(header.sh_offset)?;
                let in_file = header.sh_type != SHT_NOBITS;
                let file = if in_file {
                    start..start + usize::try_from(header.sh_size)?
                } else {
                    start..start
                };
                sections.push(Section {
                    name: names.get(header.sh_name as usize)?,
                    virt: header.sh_addr,
                    size: header.sh_size,
                    bytes: bytes
                        .get(file.clone())
                        .context("a section lies outside the file")?,
                    file,
                    is_code: header.sh_flags & u64::from(SHF_EXECINSTR) != 0,
                    is_writable: header.sh_flags & u64::from(SHF_WRITE) != 0,
                });
            }
        }
        sections.sort_by_key(|section| section.virt);
        Ok(Image {
            elf,
            segments,
            sections,
        })
    }

    /// The address at which execution starts.
    pub fn entry(&self) -> u64 {
        self.elf.ehdr.e_entry
    }

    /// The base of the symbol table's offsets: the lowest address of a segment in the upper half, or else of any.
    pub fn base(&self) -> u64 {
        let lowest = |from: u64| {
            self.segments
                .iter()
                .map(|segment| segment.virt)
                .filter(|&virt| virt >= from)
                .min()
        };
        lowest(1 << 63).or_else(|| lowest(0)).unwrap_or(0)
    }

    /// The value of the symbol `name`.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        let (symbols, strings) = self.elf.symbol_table().ok()??;
        symbols
            .iter()
            .find(|symbol| {
                strings
                    .get(symbol.st_name as usize)
                    .is_ok_and(|other| other == name)
            })
            .map(|symbol| symbol.st_value)
    }

    /// All functions, sorted by address. Labels of assembly code without a size reach to the next one; of several
    /// names for one address the first in alphabetical order is kept.
    pub fn functions(&self) -> Vec<Function> {
        let (mut functions, labels) = self.named_code();
        // A label inside a sized function is a place in it, not another function.
        let mut sized: Vec<(u64, u64)> = functions
            .iter()
            .filter(|function| function.size > 0)
            .map(|function| (function.address, function.address + function.size))
            .collect();
        sized.sort_unstable();
        functions.extend(labels.into_iter().filter(|label| {
            let before = sized.partition_point(|&(start, _)| start <= label.address);
            let around = before.checked_sub(1).and_then(|index| sized.get(index));
            around.is_none_or(|&(_, end)| end <= label.address)
        }));
        functions.sort_by(|a, b| (a.address, &a.name).cmp(&(b.address, &b.name)));
        functions.dedup_by_key(|function| function.address);
        let starts: Vec<u64> = functions.iter().map(|function| function.address).collect();
        for (index, function) in functions.iter_mut().enumerate() {
            if function.size == 0 {
                let section = self.section_at(function.address);
                let end = section.map_or(function.address, |section| section.virt + section.size);
                function.size =
                    starts.get(index + 1).map_or(end, |&next| next.min(end)) - function.address;
            }
        }
        functions
    }

    /// The symbols in code: functions, and labels of assembly code.
    fn named_code(&self) -> (Vec<Function>, Vec<Function>) {
        let (mut functions, mut labels) = (Vec::new(), Vec::new());
        let Ok(Some((symbols, strings))) = self.elf.symbol_table() else {
            return (functions, labels);
        };
        for symbol in symbols.iter() {
            let kind = match symbol.st_symtype() {
                STT_FUNC => &mut functions,
                STT_NOTYPE => &mut labels,
                _ => continue,
            };
            let name = strings.get(symbol.st_name as usize).unwrap_or_default();
            let in_code = self
                .section_at(symbol.st_value)
                .is_some_and(|section| section.is_code);
            let has_place = !symbol.is_undefined() && symbol.st_shndx != SHN_ABS;
            if in_code && has_place && !name.is_empty() && !name.starts_with(".L") {
                kind.push(Function {
                    address: symbol.st_value,
                    size: symbol.st_size,
                    name: format!("{:#}", rustc_demangle::demangle(name)),
                });
            }
        }
        (functions, labels)
    }

    /// The addresses at which named data starts, and their sizes.
    pub fn objects(&self) -> Vec<(u64, u64)> {
        let Ok(Some((symbols, _))) = self.elf.symbol_table() else {
            return Vec::new();
        };
        symbols
            .iter()
            .filter(|symbol| symbol.st_symtype() == STT_OBJECT)
            .map(|symbol| (symbol.st_value, symbol.st_size))
            .collect()
    }

    /// The section that holds the address.
    pub fn section_at(&self, address: u64) -> Option<&Section<'a>> {
        self.sections
            .iter()
            .find(|section| (section.virt..section.virt + section.size).contains(&address))
    }

    /// How much memory the image takes, by kind.
    pub fn section_sizes(&self) -> SectionSizes {
        let mut sizes = SectionSizes::default();
        for section in &self.sections {
            let sum = match (
                section.is_code,
                section.is_writable,
                section.bytes.is_empty(),
            ) {
                (true, ..) => &mut sizes.code,
                (false, false, _) => &mut sizes.read_only,
                (false, true, false) => &mut sizes.data,
                (false, true, true) => &mut sizes.zeroed,
            };
            *sum += section.size;
        }
        sizes
    }
}
