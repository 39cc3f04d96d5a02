//! What the boot loader left: Multiboot 1 and Multiboot 2 information, read once, in its own words.
//!
//! It runs on the first page tables, which map the first 4 GiB onto themselves. Both loaders keep their information there.

use arrayvec::ArrayString;
use dom0_abi::addr::Maddr;
use multiboot2::{BootInformation, BootInformationHeader, EFIMemoryAreaType, FramebufferType};

use super::efi;
use super::memory::ModuleMemory;
use crate::boot::{BootInfo, BootModule, ColourMask, Screen};
use crate::memory_map::{MemoryKind, MemoryMap, MemoryRange};

/// What a Multiboot 1 loader leaves in eax. SPEC: Multiboot 0.6.96, 3.2.
const MULTIBOOT1: u32 = 0x2bad_b002;

/// The text screen that every PC starts with.
const TEXT_SCREEN: Screen = Screen::Text {
    maddr: Maddr::new(0xb8000),
    columns: 80,
    rows: 25,
};

/// The loader's registers, not yet looked at.
pub struct Handover {
    magic: u32,
    information: u32,
    image: u32,
    entry_tsc: u64,
}

/// Why there is nothing to boot from.
#[derive(Debug)]
pub enum HandoverError {
    /// The loader is neither a Multiboot 1 nor a Multiboot 2 loader.
    UnknownLoader(u32),
    /// The information is damaged.
    Damaged,
    /// There is no memory map in it.
    NoMemoryMap,
}

impl core::fmt::Display for HandoverError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnknownLoader(magic) => {
                write!(
                    f,
                    "the boot loader speaks neither Multiboot 1 nor Multiboot 2 (eax = {magic:#x})"
                )
            }
            Self::Damaged => f.write_str("the boot loader's information is damaged"),
            Self::NoMemoryMap => f.write_str("the boot loader gave no memory map"),
        }
    }
}

impl Handover {
    /// Keeps what the entry code found.
    ///
    /// # Safety
    ///
    /// The values must come from a boot loader, once, the image must be at `image`, and the first 4 GiB must be mapped onto
    /// themselves.
    pub unsafe fn new(magic: u32, information: u32, image: u32, entry_tsc: u64) -> Self {
        Self {
            magic,
            information,
            image,
            entry_tsc,
        }
    }

    /// Where the loader put the image.
    pub(super) fn image(&self) -> Maddr {
        Maddr::new(u64::from(self.image))
    }

    /// Reads the loader's information.
    pub fn read(&self) -> Result<BootInfo, HandoverError> {
        let mut info = BootInfo {
            loader: ArrayString::new(),
            command_line: ArrayString::new(),
            memory_map: MemoryMap::new(),
            modules: Default::default(),
            rsdp: None,
            screen: None,
            is_efi: false,
            efi: None,
            entry_tsc: self.entry_tsc,
        };
        match self.magic {
            MULTIBOOT1 => self.read_multiboot1(&mut info),
            multiboot2::MAGIC => self.read_multiboot2(&mut info)?,
            other => return Err(HandoverError::UnknownLoader(other)),
        }
        info.memory_map.normalise();
        if info.memory_map.ram_bytes() == 0 {
            return Err(HandoverError::NoMemoryMap);
        }
        Ok(info)
    }

    fn read_multiboot1(&self, info: &mut BootInfo) {
        // SPEC: Multiboot 0.6.96, 3.3: offsets and the flag that makes each field valid.
        const FLAGS: u32 = 0;
        const COMMAND_LINE: (u32, u32) = (1 << 2, 16);
        const MODULES: (u32, u32) = (1 << 3, 20);
        const MEMORY_MAP: (u32, u32) = (1 << 6, 44);
        const LOADER_NAME: (u32, u32) = (1 << 9, 64);
        let word = |at: u32| read_u32(self.information.wrapping_add(at));
        let flags = word(FLAGS);

        if flags & LOADER_NAME.0 != 0 {
            push_str(&mut info.loader, string(word(LOADER_NAME.1)));
        }
        let path_first = |text| strip_file_name(text, info.loader.starts_with("GRUB 2"));
        if flags & COMMAND_LINE.0 != 0 {
            push_str(
                &mut info.command_line,
                path_first(string(word(COMMAND_LINE.1))),
            );
        }
        if flags & MODULES.0 != 0 {
            let (count, list) = (word(MODULES.1), word(MODULES.1 + 4));
            for index in 0..count.min(info.modules.capacity() as u32) {
                let entry = list.wrapping_add(index * 16);
                let (start, end) = (read_u32(entry), read_u32(entry.wrapping_add(4)));
                let text = path_first(string(read_u32(entry.wrapping_add(8))));
                push_module(&mut info.modules, start, end, text);
            }
        }
        if flags & MEMORY_MAP.0 != 0 {
            let (len, start) = (word(MEMORY_MAP.1), word(MEMORY_MAP.1 + 4));
            let mut at = 0;
            while len.saturating_sub(at) >= 24 {
                let entry = start.wrapping_add(at);
                let base = read_u64(entry.wrapping_add(4));
                let kind = kind_of_number(read_u32(entry.wrapping_add(20)));
                let end = base.saturating_add(read_u64(entry.wrapping_add(12)));
                info.memory_map.push(MemoryRange {
                    start: base,
                    end,
                    kind,
                });
                // The size does not count itself.
                at = at.saturating_add(read_u32(entry)).saturating_add(4);
            }
        }
        info.screen = Some(TEXT_SCREEN);
    }

    fn read_multiboot2(&self, info: &mut BootInfo) -> Result<(), HandoverError> {
        let header = self.information as usize as *const BootInformationHeader;
        // SAFETY: a Multiboot 2 loader has left its information there, below 4 GiB, where memory is mapped onto itself.
        let tags = unsafe { BootInformation::load(header) }.map_err(|_| HandoverError::Damaged)?;

        if let Some(name) = tags.boot_loader_name_tag().and_then(|tag| tag.name().ok()) {
            push_str(&mut info.loader, name);
        }
        if let Some(text) = tags.command_line_tag().and_then(|tag| tag.cmdline().ok()) {
            push_str(&mut info.command_line, strip_file_name(text, true));
        }
        for module in tags.module_tags() {
            let text = strip_file_name(module.cmdline().unwrap_or(""), true);
            push_module(
                &mut info.modules,
                module.start_address(),
                module.end_address(),
                text,
            );
        }
        info.is_efi = tags.efi_memory_map_tag().is_some()
            || tags.efi_sdt64_tag().is_some()
            || tags.efi_sdt32_tag().is_some();
        let system_table = tags.efi_sdt64_tag().map(|tag| tag.sdt_address() as u64);
        info.efi = system_table.and_then(efi::read);
        // The firmware's own map knows more than the loader's translation of it; boot services have ended.
        if let Some(map) = tags.efi_memory_map_tag() {
            for area in map.memory_areas() {
                let start = area.phys_start;
                let end = start.saturating_add(area.page_count.saturating_mul(4096));
                info.memory_map.push(MemoryRange {
                    start,
                    end,
                    kind: kind_of_efi(area.ty),
                });
            }
        } else if let Some(map) = tags.memory_map_tag() {
            for area in map.memory_areas() {
                let kind = kind_of_number(u32::from(area.typ()));
                info.memory_map.push(MemoryRange {
                    start: area.start_address(),
                    end: area.end_address(),
                    kind,
                });
            }
        }
        // Both tags hold a copy of the structure, behind eight bytes of header.
        let structure = |tag: *const u8| Maddr::new(tag as u64 + 8);
        info.rsdp = tags
            .rsdp_v2_tag()
            .map(|tag| structure(core::ptr::from_ref(tag).cast()))
            .or_else(|| {
                tags.rsdp_v1_tag()
                    .map(|tag| structure(core::ptr::from_ref(tag).cast()))
            });
        info.screen = match tags.framebuffer_tag() {
            Some(Ok(tag)) => match tag.buffer_type() {
                Ok(FramebufferType::Text) => Some(Screen::Text {
                    maddr: Maddr::new(tag.address()),
                    columns: tag.width() as u16,
                    rows: tag.height() as u16,
                }),
                Ok(FramebufferType::RGB { red, green, blue }) => Some(Screen::Framebuffer {
                    maddr: Maddr::new(tag.address()),
                    width: tag.width(),
                    height: tag.height(),
                    pitch: tag.pitch(),
                    bpp: tag.bpp(),
                    masks: [red, green, blue].map(|field| ColourMask {
                        position: field.position,
                        size: field.size,
                    }),
                }),
                _ => None,
            },
            // Without EFI a PC starts in text mode.
            _ if !info.is_efi => Some(TEXT_SCREEN),
            _ => None,
        };
        Ok(())
    }
}

fn push_module<const N: usize>(
    modules: &mut arrayvec::ArrayVec<BootModule, N>,
    start: u32,
    end: u32,
    text: &str,
) {
    let mut command_line = ArrayString::new();
    push_str(&mut command_line, text);
    let len = end.saturating_sub(start) as usize;
    // SAFETY: the loader's own statement; modules begin on pages of their own, as our headers ask for, and `machine` keeps
    // their frames closed. The first 4 GiB of RAM are in the direct map.
    let memory = unsafe { ModuleMemory::new(Maddr::new(u64::from(start)), len) };
    // More modules than there is room for are not used.
    let _ = modules.try_push(BootModule::new(command_line, memory));
}

/// Cuts the text where the room ends, at a character.
fn push_str<const N: usize>(to: &mut ArrayString<N>, text: &str) {
    for character in text.chars() {
        if to.try_push(character).is_err() {
            return;
        }
    }
}

/// Removes the file name that some loaders put first. GRUB 2 leaves it away, except where it plays GRUB Legacy: then the
/// first word is a path.
fn strip_file_name(text: &str, only_a_path: bool) -> &str {
    let text = text.trim_start();
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    if only_a_path && !first.starts_with(['/', '(']) {
        text
    } else {
        rest.trim_start()
    }
}

fn kind_of_number(number: u32) -> MemoryKind {
    match number {
        1 => MemoryKind::Ram,
        3 => MemoryKind::AcpiReclaimable,
        4 => MemoryKind::AcpiNvs,
        5 => MemoryKind::Unusable,
        _ => MemoryKind::Reserved,
    }
}

fn kind_of_efi(kind: EFIMemoryAreaType) -> MemoryKind {
    match kind {
        EFIMemoryAreaType::CONVENTIONAL
        | EFIMemoryAreaType::LOADER_CODE
        | EFIMemoryAreaType::LOADER_DATA
        | EFIMemoryAreaType::BOOT_SERVICES_CODE
        | EFIMemoryAreaType::BOOT_SERVICES_DATA => MemoryKind::Ram,
        EFIMemoryAreaType::ACPI_RECLAIM => MemoryKind::AcpiReclaimable,
        EFIMemoryAreaType::ACPI_NON_VOLATILE => MemoryKind::AcpiNvs,
        EFIMemoryAreaType::UNUSABLE => MemoryKind::Unusable,
        _ => MemoryKind::Reserved,
    }
}

fn read_u32(at: u32) -> u32 {
    // SAFETY: the first 4 GiB are mapped onto themselves (`Handover::new`); what is not RAM reads as anything.
    unsafe { (at as usize as *const u32).read_unaligned() }
}

fn read_u64(at: u32) -> u64 {
    u64::from(read_u32(at)) | u64::from(read_u32(at.wrapping_add(4))) << 32
}

/// The string at `at`, as far as it is text.
fn string(at: u32) -> &'static str {
    /// No loader passes more.
    const LONGEST: usize = 4096;
    if at == 0 {
        return "";
    }
    // SAFETY: as in `read_u32`; nothing writes there while boot reads it.
    let bytes = unsafe { core::slice::from_raw_parts(at as usize as *const u8, LONGEST) };
    let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(LONGEST);
    let text = bytes.get(..len).unwrap_or(&[]);
    match core::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            core::str::from_utf8(text.get(..error.valid_up_to()).unwrap_or(&[])).unwrap_or("")
        }
    }
}
