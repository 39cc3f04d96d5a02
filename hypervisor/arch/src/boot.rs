//! What the start of the machine hands to the rest: where memory is, what the loader brought, what to write to.
//!
//! The values come from firmware and loader. Both are trusted to be honest, neither to be tidy, so every list here is
//! bounded and [`MemoryMap`] is made consistent before anybody reads it.
#![forbid(unsafe_code)]

use core::fmt;

use arrayvec::{ArrayString, ArrayVec};
use dom0_abi::addr::{Maddr, Mfn};

use crate::memory::ModuleMemory;
pub use crate::memory_map::{MemoryKind, MemoryMap, MemoryRange};

/// Everything that is known about the machine when the hypervisor proper starts.
pub struct BootInfo {
    /// The loader's name for itself; empty if it gave none.
    pub loader: ArrayString<64>,
    /// The options, without the file name that some loaders put first.
    pub command_line: ArrayString<2048>,
    /// Normalised: sorted, page-rounded, no overlaps.
    pub memory_map: MemoryMap,
    /// What the loader put into memory beside the image, in its order.
    pub modules: Modules,
    /// Where the root of the ACPI tables is, if loader or firmware told.
    pub rsdp: Option<Maddr>,
    /// What can be written to before a driver knows better.
    pub screen: Option<Screen>,
    /// The firmware is EFI.
    pub is_efi: bool,
    /// What its tables say, if they can be read.
    pub efi: Option<EfiTables>,
    /// The time-stamp counter at the first instruction of the image.
    pub entry_tsc: u64,
}

/// EFI, as far as the control domain has to know it: by its tables it finds those of ACPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EfiTables {
    /// EFI's version, as the system table has it.
    pub revision: u32,
    /// That of the runtime services.
    pub runtime_revision: u32,
    /// Where the list of the tables is.
    pub tables: Maddr,
    /// How many there are.
    pub count: u32,
}

/// The loader's modules. More than these are not used.
pub type Modules = ArrayVec<BootModule, 6>;

/// A thing that the loader put into memory: private to the hypervisor until its frames are taken. Not `Clone`, so that
/// there is one way to the frames.
pub struct BootModule {
    command_line: ArrayString<1024>,
    memory: ModuleMemory,
}

impl BootModule {
    /// Made by the backend, from a command line whose file name is already stripped.
    pub(crate) fn new(command_line: ArrayString<1024>, memory: ModuleMemory) -> Self {
        Self {
            command_line,
            memory,
        }
    }

    /// The words that the loader passed along; the first one is stripped where the loader puts a file name there.
    pub fn command_line(&self) -> &str {
        &self.command_line
    }

    /// The content, exactly as long as the file was.
    pub fn bytes(&self) -> &[u8] {
        self.memory.bytes()
    }

    /// Where the content lies.
    #[cfg(target_os = "none")]
    pub(crate) fn frames(&self) -> MfnRange {
        self.memory.frames()
    }

    /// Gives the frames up: they are ordinary memory from now on and still hold the content. What lies behind its end
    /// in the last frame is zeroed.
    pub fn into_frames(self) -> MfnRange {
        self.memory.into_frames()
    }
}

impl fmt::Debug for BootModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootModule")
            .field("command_line", &self.command_line())
            .field("len", &self.bytes().len())
            .finish()
    }
}

/// What firmware calls a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysicalId {
    /// The number of its APIC.
    pub apic: u32,
    /// Its number in ACPI's tables; all ones, if it has none there.
    pub acpi: u32,
}

/// The number of a physical CPU, dense from 0; not its APIC id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CpuId(u32);

impl CpuId {
    /// The CPU that the machine starts with.
    pub const BOOT: Self = Self(0);

    /// Wraps a bare number.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The bare number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What the loader or the firmware left on the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Screen {
    /// Cells of a character and an attribute byte.
    Text {
        /// Where the first cell is.
        maddr: Maddr,
        /// Cells in a line.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// Pixels.
    Framebuffer {
        /// Where the first pixel is.
        maddr: Maddr,
        /// Pixels in a line.
        width: u32,
        /// Lines.
        height: u32,
        /// Bytes from one line to the next.
        pitch: u32,
        /// Bits that a pixel takes in memory.
        bpp: u8,
        /// Where in a pixel red, green and blue are.
        masks: [ColourMask; 3],
    },
}

impl Screen {
    /// Where its memory is.
    pub const fn maddr(&self) -> Maddr {
        match *self {
            Self::Text { maddr, .. } | Self::Framebuffer { maddr, .. } => maddr,
        }
    }
}

/// The bits of a pixel that hold one colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ColourMask {
    /// The lowest bit.
    pub position: u8,
    /// How many bits.
    pub size: u8,
}

/// Neighbouring frames, `end` exclusive. With `end` at or before `start` it holds none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MfnRange {
    /// The first frame.
    pub start: Mfn,
    /// The frame behind the last.
    pub end: Mfn,
}

impl MfnRange {
    /// The range without a frame.
    pub const EMPTY: Self = Self {
        start: Mfn::new(0),
        end: Mfn::new(0),
    };

    /// Makes the range from its ends.
    pub const fn new(start: Mfn, end: Mfn) -> Self {
        Self { start, end }
    }

    /// Makes the range of the `count` frames from `start` on; `None` if such numbers do not exist.
    pub fn of(start: Mfn, count: u64) -> Option<Self> {
        Some(Self {
            start,
            end: start.checked_add(count)?,
        })
    }

    /// Makes the range of one frame.
    pub const fn one(mfn: Mfn) -> Self {
        Self::new(mfn, Mfn::new(mfn.get().saturating_add(1)))
    }

    /// How many frames it holds.
    pub const fn len(self) -> u64 {
        self.end.get().saturating_sub(self.start.get())
    }

    /// How many bytes that is; saturates.
    pub const fn bytes(self) -> u64 {
        self.len().saturating_mul(dom0_abi::addr::PAGE_SIZE as u64)
    }

    /// Whether it holds no frame.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether `mfn` is one of its frames.
    pub fn contains(self, mfn: Mfn) -> bool {
        self.start <= mfn && mfn < self.end
    }

    /// The frames that both hold; empty if there is none.
    pub fn intersection(self, other: Self) -> Self {
        let both = Self {
            start: self.start.max(other.start),
            end: self.end.min(other.end),
        };
        if both.is_empty() { Self::EMPTY } else { both }
    }

    /// Divides it into the first `count` frames and the rest. With fewer frames than that the rest is empty.
    pub const fn split(self, count: u64) -> (Self, Self) {
        let count = if count < self.len() {
            count
        } else {
            self.len()
        };
        let at = Mfn::new(self.start.get().saturating_add(count));
        (
            Self {
                start: self.start,
                end: at,
            },
            Self {
                start: at,
                end: if self.is_empty() { at } else { self.end },
            },
        )
    }

    /// Its frames, from the lowest on.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Mfn> + Clone {
        (self.start.get()..self.end.get()).map(Mfn::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> MfnRange {
        MfnRange::new(Mfn::new(start), Mfn::new(end))
    }

    #[test]
    fn ranges_split_and_meet() {
        assert_eq!(range(3, 7).split(1), (range(3, 4), range(4, 7)));
        assert_eq!(range(3, 7).split(0), (range(3, 3), range(3, 7)));
        let (all, rest) = range(3, 7).split(9);
        assert_eq!((all, rest.len()), (range(3, 7), 0));
        let (none, rest) = range(7, 3).split(2);
        assert!(none.is_empty() && rest.is_empty());
        assert_eq!(range(3, 7).intersection(range(5, 9)), range(5, 7));
        assert!(range(3, 5).intersection(range(5, 9)).is_empty());
        assert!(range(3, 7).iter().eq([3, 4, 5, 6].map(Mfn::new)));
        assert_eq!(range(7, 3).iter().count(), 0);
        assert!(range(3, 7).contains(Mfn::new(6)) && !range(3, 7).contains(Mfn::new(7)));
        assert_eq!(MfnRange::of(Mfn::new(u64::MAX), 1), None);
        assert_eq!(range(0, u64::MAX).bytes(), u64::MAX);
    }
}
