//! The Xen notes of a kernel: how a PV kernel says what it is and what it wants of its builder.
//!
//! ABI: `public/elfnote.h`. Only what a 64-bit PV builder needs is kept; a note that is not known is passed over, as new
//! ones must not make old kernels unbootable.

use core::fmt;
use core::str;

use elf::endian::LittleEndian;
use elf::file::Class;
use elf::note::{Note, NoteIterator};

use super::error::{FeatureName, KernelError};

const ENTRY: u64 = 1;
const HYPERCALL_PAGE: u64 = 2;
const VIRT_BASE: u64 = 3;
const PADDR_OFFSET: u64 = 4;
const XEN_VERSION: u64 = 5;
const GUEST_OS: u64 = 6;
const GUEST_VERSION: u64 = 7;
const LOADER: u64 = 8;
const PAE_MODE: u64 = 9;
const FEATURES: u64 = 10;
const HV_START_LOW: u64 = 12;
const INIT_P2M: u64 = 15;
const MOD_START_PFN: u64 = 16;
const SUPPORTED_FEATURES: u64 = 17;

/// A set of features by the numbers of `public/features.h`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FeatureSet(u64);

/// The names that the note FEATURES may use, with their numbers.
const FEATURE_NAMES: [(&str, u32); 17] = [
    ("writable_page_tables", 0),
    ("writable_descriptor_tables", 1),
    ("auto_translated_physmap", 2),
    ("supervisor_mode_kernel", 3),
    ("pae_pgdir_above_4gb", 4),
    ("mmu_pt_update_preserve_ad", 5),
    ("highmem_assist", 6),
    ("gnttab_map_avail_bits", 7),
    ("hvm_callback_vector", 8),
    ("hvm_safe_pvclock", 9),
    ("hvm_pirqs", 10),
    ("dom0", 11),
    ("grant_map_identity", 12),
    ("memory_op_vnode_supported", 13),
    ("ARM_SMCCC_supported", 14),
    ("linux_rsdp_unrestricted", 15),
    ("not_direct_mapped", 16),
];

impl FeatureSet {
    /// Operation as dom0.
    #[doc(alias = "XENFEAT_dom0")]
    pub const DOM0: u32 = 11;

    /// What a kernel may require. Writable page tables are not announced as a feature; what the kernels that require
    /// them rely on is that writes to page tables are caught and carried out, and that they get.
    const GRANTED: Self = Self(0b1000_1111_0001);

    /// Whether the feature of this number is in the set.
    pub fn contains(self, feature: u32) -> bool {
        self.0.checked_shr(feature).unwrap_or(0) & 1 != 0
    }

    fn insert(&mut self, feature: u32) {
        self.0 |= 1u64.checked_shl(feature).unwrap_or(0);
    }
}

/// What the Xen notes of a kernel say. The strings are the kernel's own bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XenNotes<'a> {
    /// The address of the first instruction; the ELF header's if there is no such note.
    pub entry: Option<u64>,
    /// The address of pfn 0 in the initial mapping.
    pub virt_base: u64,
    /// What to take off the `p_paddr` of a segment to get its place in guest memory.
    pub paddr_offset: u64,
    /// Where to map the p2m list; without it, it lies in the initial mapping.
    pub init_p2m: Option<u64>,
    /// The address of the page to fill with hypercall stubs.
    pub hypercall_page: Option<u64>,
    /// The kernel takes an initrd that is not mapped, by its pfn.
    pub mod_start_pfn: bool,
    /// The lowest address at which the kernel lets the hypervisor's own range begin.
    pub hv_start_low: Option<u64>,
    /// What FEATURES requires.
    pub required_features: FeatureSet,
    /// What FEATURES and SUPPORTED_FEATURES together say that the kernel supports.
    pub supported_features: FeatureSet,
    /// Whether there is a note SUPPORTED_FEATURES, so that what it leaves out is not supported.
    pub has_supported_features: bool,
    /// The operating system's name.
    pub guest_os: NoteString<'a>,
    /// Its version.
    pub guest_version: NoteString<'a>,
    /// The version of the interface: must be "xen-3.0".
    pub xen_version: Option<NoteString<'a>>,
    /// The kind of loader: must be "generic".
    pub loader: Option<NoteString<'a>>,
    /// The note PAE_MODE, without meaning for 64-bit kernels.
    pub pae_mode: Option<NoteString<'a>>,
}

/// A note's text up to its terminator. Not known to be UTF-8; shown with what is not printable as dots.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct NoteString<'a>(&'a [u8]);

impl<'a> NoteString<'a> {
    fn new(desc: &'a [u8]) -> Self {
        Self(desc.split(|byte| *byte == 0).next().unwrap_or_default())
    }

    /// The bytes before the terminator.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Display for NoteString<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        const LONGEST: usize = 64;
        self.0.iter().take(LONGEST).try_for_each(|byte| {
            let shown = matches!(byte, b' '..=b'~');
            f.write_char(if shown { char::from(*byte) } else { '.' })
        })
    }
}

impl fmt::Debug for NoteString<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl<'a> XenNotes<'a> {
    /// Reads the Xen notes among those in `data`; `None` if there is none. A note with an impossible header ends the
    /// list, a known one with an impossible value or a required feature that is not known is an error.
    pub fn parse(data: &'a [u8]) -> Result<Option<Self>, KernelError> {
        // Notes are aligned to 4 bytes whatever their segment claims.
        let notes = NoteIterator::new(LittleEndian, Class::ELF32, 4, data);
        let mut found = None;
        for note in notes {
            let Note::Unknown(note) = note else { continue };
            if note.name != b"Xen\0" && note.name != b"Xen" {
                continue;
            }
            let notes = found.get_or_insert_with(Self::none);
            notes.take(note.n_type, note.desc)?;
        }
        Ok(found)
    }

    fn none() -> Self {
        Self {
            entry: None,
            virt_base: 0,
            paddr_offset: 0,
            init_p2m: None,
            hypercall_page: None,
            mod_start_pfn: false,
            hv_start_low: None,
            required_features: FeatureSet::default(),
            supported_features: FeatureSet::default(),
            has_supported_features: false,
            guest_os: NoteString::default(),
            guest_version: NoteString::default(),
            xen_version: None,
            loader: None,
            pae_mode: None,
        }
    }

    fn take(&mut self, kind: u64, desc: &'a [u8]) -> Result<(), KernelError> {
        let text = NoteString::new(desc);
        let number = || number(kind, desc);
        match kind {
            ENTRY => self.entry = Some(number()?),
            HYPERCALL_PAGE => self.hypercall_page = Some(number()?),
            VIRT_BASE => self.virt_base = number()?,
            PADDR_OFFSET => self.paddr_offset = number()?,
            XEN_VERSION => self.xen_version = Some(text),
            GUEST_OS => self.guest_os = text,
            GUEST_VERSION => self.guest_version = text,
            LOADER => self.loader = Some(text),
            PAE_MODE => self.pae_mode = Some(text),
            FEATURES => self.take_features(text.bytes())?,
            HV_START_LOW => self.hv_start_low = Some(number()?),
            INIT_P2M => self.init_p2m = Some(number()?),
            MOD_START_PFN => self.mod_start_pfn = number()? != 0,
            SUPPORTED_FEATURES => {
                self.has_supported_features = true;
                self.supported_features.0 |= number()?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A name adds to what is supported; with '!' in front, to what is required as well.
    fn take_features(&mut self, list: &[u8]) -> Result<(), KernelError> {
        for token in list.split(|byte| *byte == b'|') {
            let (name, is_required) = match token {
                [b'!', name @ ..] => (name, true),
                name => (name, false),
            };
            let known = FEATURE_NAMES
                .iter()
                .find(|(known, _)| known.as_bytes() == name);
            match known {
                Some((_, feature)) => {
                    self.supported_features.insert(*feature);
                    if is_required {
                        self.required_features.insert(*feature);
                        if !FeatureSet::GRANTED.contains(*feature) {
                            return Err(KernelError::RequiredFeature(feature_name(name)));
                        }
                    }
                }
                None if is_required => {
                    return Err(KernelError::RequiredFeature(feature_name(name)));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Checks that the kernel is one for this interface, and for a control domain.
    pub fn check(&self) -> Result<(), KernelError> {
        if self.xen_version.map(NoteString::bytes) != Some(b"xen-3.0") {
            return Err(KernelError::WrongXenVersion);
        }
        if self.loader.map(NoteString::bytes) != Some(b"generic") {
            return Err(KernelError::WrongLoader);
        }
        if self.has_supported_features && !self.supported_features.contains(FeatureSet::DOM0) {
            return Err(KernelError::NotADom0);
        }
        Ok(())
    }
}

/// A note's number, which has the size that suited its writer.
fn number(kind: u64, desc: &[u8]) -> Result<u64, KernelError> {
    let mut bytes = [0; 8];
    match (desc.len(), bytes.get_mut(..desc.len())) {
        (1 | 2 | 4 | 8, Some(low)) => low.copy_from_slice(desc),
        _ => return Err(KernelError::BadNote(u32::try_from(kind).unwrap_or(0))),
    }
    Ok(u64::from_le_bytes(bytes))
}

/// As much of a feature's name as is text and fits a message.
fn feature_name(name: &[u8]) -> FeatureName {
    let text = str::from_utf8(name).unwrap_or("(not text)");
    let mut short = FeatureName::new();
    for letter in text.chars() {
        if short.try_push(letter).is_err() {
            break;
        }
    }
    short
}

#[cfg(test)]
#[path = "notes_tests.rs"]
mod tests;
