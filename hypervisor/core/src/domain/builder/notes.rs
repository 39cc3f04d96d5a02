//! The Xen notes of a kernel: how a PV kernel says what it is and what it wants of its builder.
//!
//! ABI: `public/elfnote.h`. Only what a 64-bit PV builder needs is kept; a note that is not known is passed over, as new
//! ones must not make old kernels unbootable.

use core::fmt;
use core::str;

use dom0_abi::elfnote::{ElfNote, OWNER};
use dom0_abi::features::Feature;
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::note::{Note, NoteIterator};

use super::error::{FeatureName, KernelError};

/// A set of features by the numbers of `public/features.h`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FeatureSet(u64);

impl FeatureSet {
    /// What a kernel may require. Writable page tables are not announced as a feature; what the kernels that require
    /// them rely on is that writes to page tables are caught and carried out, and that they get.
    const GRANTED: [Feature; 6] = [
        Feature::WritablePageTables,
        Feature::PaePgdirAbove4gb,
        Feature::MmuPtUpdatePreserveAd,
        Feature::HighmemAssist,
        Feature::GnttabMapAvailBits,
        Feature::Dom0,
    ];

    /// Whether the feature is in the set.
    pub fn contains(self, feature: Feature) -> bool {
        self.0 & u64::from(feature.bit()) != 0
    }

    fn insert(&mut self, feature: Feature) {
        self.0 |= u64::from(feature.bit());
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
            if note.name.strip_suffix(b"\0").unwrap_or(note.name) != OWNER {
                continue;
            }
            let notes = found.get_or_insert_with(Self::none);
            let kind = u32::try_from(note.n_type).ok().map(ElfNote::try_from);
            if let Some(Ok(kind)) = kind {
                notes.take(kind, note.desc)?;
            }
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

    fn take(&mut self, kind: ElfNote, desc: &'a [u8]) -> Result<(), KernelError> {
        let text = NoteString::new(desc);
        let number = || number(kind, desc);
        match kind {
            ElfNote::Entry => self.entry = Some(number()?),
            ElfNote::HypercallPage => self.hypercall_page = Some(number()?),
            ElfNote::VirtBase => self.virt_base = number()?,
            ElfNote::PaddrOffset => self.paddr_offset = number()?,
            ElfNote::XenVersion => self.xen_version = Some(text),
            ElfNote::GuestOs => self.guest_os = text,
            ElfNote::GuestVersion => self.guest_version = text,
            ElfNote::Loader => self.loader = Some(text),
            ElfNote::PaeMode => self.pae_mode = Some(text),
            ElfNote::Features => self.take_features(text.bytes())?,
            ElfNote::HvStartLow => self.hv_start_low = Some(number()?),
            ElfNote::InitP2m => self.init_p2m = Some(number()?),
            ElfNote::ModStartPfn => self.mod_start_pfn = number()? != 0,
            ElfNote::SupportedFeatures => {
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
            let known = feature_named(name);
            if let Some(feature) = known {
                self.supported_features.insert(feature);
            }
            if is_required {
                match known {
                    Some(feature) if FeatureSet::GRANTED.contains(&feature) => {
                        self.required_features.insert(feature);
                    }
                    _ => return Err(KernelError::RequiredFeature(feature_name(name))),
                }
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
        if self.has_supported_features && !self.supported_features.contains(Feature::Dom0) {
            return Err(KernelError::NotADom0);
        }
        Ok(())
    }
}

/// The feature that the ABI calls `XENFEAT_name`.
fn feature_named(name: &[u8]) -> Option<Feature> {
    let constants = Feature::CONSTANTS.constants.iter();
    let mut named = constants.zip(Feature::ALL).filter(|(constant, _)| {
        constant.c.strip_prefix("XENFEAT_").map(str::as_bytes) == Some(name)
    });
    named.next().map(|(_, feature)| *feature)
}

/// A note's number, which has the size that suited its writer.
fn number(kind: ElfNote, desc: &[u8]) -> Result<u64, KernelError> {
    let mut bytes = [0; 8];
    match (desc.len(), bytes.get_mut(..desc.len())) {
        (1 | 2 | 4 | 8, Some(low)) => low.copy_from_slice(desc),
        _ => return Err(KernelError::BadNote(kind)),
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
