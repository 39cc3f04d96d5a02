//! Why dom0 cannot be built, in words for the console.

use core::fmt;

use dom0_abi::addr::PAGE_SHIFT;
use dom0_abi::elfnote::ElfNote;
use oxen_arch::memory::BadFrame;

use super::bzimage::Packing;
use super::unpack::UnpackError;

/// What is wrong with dom0's kernel, module 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KernelError {
    /// There is no module 0.
    Missing,
    /// The module has no content to speak of.
    Empty,
    /// Neither an ELF file nor a bzImage; its first four bytes, big-endian.
    NotAKernel(u32),
    /// A compressed file, not a bzImage around one.
    BarePacked(Packing),
    /// A bzImage of a boot protocol before 2.08.
    OldBootProtocol(u16),
    /// A bzImage packed in a way that there is no decoder for.
    UnsupportedPacking(Packing),
    /// A bzImage packed in a way that is not known.
    UnknownPacking,
    /// The file ends before something that its headers name.
    TruncatedImage {
        /// How long the file would have to be.
        needed: usize,
        /// How long it is.
        found: usize,
    },
    /// The payload of a bzImage does not unpack.
    Unpack(UnpackError),
    /// A payload unpacked to something that is not ELF.
    NotElf,
    /// The ELF header contradicts itself.
    BadElf,
    /// An ELF file for another kind of machine: class, byte order or `e_machine` differ.
    NotX86_64,
    /// An ELF file that is neither an executable nor a shared object: `e_type`.
    NotExecutable(u16),
    /// More than the loadable segments that a kernel has.
    TooManySegments,
    /// No segment to load.
    NothingToLoad,
    /// A segment lies partly outside the file.
    TruncatedSegment {
        /// Its number among the program headers.
        segment: usize,
        /// Where its bytes end in the file.
        needed: u64,
        /// How long the file is.
        found: usize,
    },
    /// A segment has more bytes in the file than in memory, or lies outside what addresses can name.
    BadSegment(usize),
    /// Two segments want the same memory.
    OverlappingSegments(usize, usize),
    /// No Xen note at all.
    NoXenNote,
    /// A numeric note whose size is none of 1, 2, 4, 8.
    BadNote(ElfNote),
    /// The note names another version of the interface than "xen-3.0".
    WrongXenVersion,
    /// The note names another loader than "generic".
    WrongLoader,
    /// The kernel says what it supports, and to be dom0 is not among it.
    NotADom0,
    /// The kernel requires a feature that PV does not have here: which token of the note.
    RequiredFeature(FeatureName),
    /// A note holds an address that is impossible: which, and its value.
    BadAddress(AddressNote, u64),
}

/// A note whose value is an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressNote {
    /// Where the kernel is entered.
    Entry,
    /// Where its memory is mapped.
    VirtBase,
    /// Where it wants the p2m list.
    InitP2m,
    /// Where it wants the hypercall page.
    HypercallPage,
    /// Where it allows the hypervisor's range to begin.
    HvStartLow,
}

impl fmt::Display for AddressNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Entry => "ENTRY",
            Self::VirtBase => "VIRT_BASE",
            Self::InitP2m => "INIT_P2M",
            Self::HypercallPage => "HYPERCALL_PAGE",
            Self::HvStartLow => "HV_START_LOW",
        })
    }
}

/// The name of a feature as a kernel wrote it, cut to what a message needs.
pub type FeatureName = arrayvec::ArrayString<40>;

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("module 0 ")?;
        match self {
            Self::Missing => f.write_str("is missing: the boot loader has to load dom0's kernel"),
            Self::Empty => f.write_str("is not a kernel: it is empty"),
            Self::NotAKernel(first) => write!(
                f,
                "is neither an ELF file nor a bzImage: it begins with {first:08x}"
            ),
            Self::BarePacked(packing) => {
                write!(f, "is a {packing} file, not a bzImage: unpack it first")
            }
            Self::OldBootProtocol(version) => write!(
                f,
                "is a bzImage of boot protocol {}.{:02}; at least 2.08 is needed",
                version >> 8,
                version & 0xff
            ),
            Self::UnsupportedPacking(packing) => write!(
                f,
                "is a bzImage packed with {packing}, which is not supported; xz, gzip and unpacked kernels are"
            ),
            Self::UnknownPacking => f.write_str("is a bzImage packed in an unknown way"),
            Self::TruncatedImage { needed, found } => write!(
                f,
                "is truncated: its headers need {needed:#x} bytes, the file has {found:#x}"
            ),
            Self::Unpack(error) => write!(f, "does not unpack: {error}"),
            Self::NotElf => f.write_str("does not hold an ELF file"),
            Self::BadElf => f.write_str("is not a kernel: its ELF header is wrong"),
            Self::NotX86_64 => f.write_str("is not a kernel for x86-64"),
            Self::NotExecutable(kind) => {
                write!(f, "is not a kernel: it is an ELF file of type {kind}")
            }
            Self::TooManySegments => f.write_str("has too many segments"),
            Self::NothingToLoad => f.write_str("is not a kernel: it has no segment to load"),
            Self::TruncatedSegment {
                segment,
                needed,
                found,
            } => write!(
                f,
                "is truncated: segment {segment} needs {needed:#x} bytes, the file has {found:#x}"
            ),
            Self::BadSegment(segment) => {
                write!(f, "is wrong: segment {segment} has impossible sizes")
            }
            Self::OverlappingSegments(one, other) => {
                write!(f, "is wrong: segments {one} and {other} overlap in memory")
            }
            Self::NoXenNote => f.write_str("is not a PV kernel: no Xen ELF note"),
            Self::BadNote(kind) => {
                write!(
                    f,
                    "is not a PV kernel: Xen ELF note {} ({kind:?}) is malformed",
                    kind.get()
                )
            }
            Self::WrongXenVersion => {
                f.write_str("is not a PV kernel: XEN_VERSION is not \"xen-3.0\"")
            }
            Self::WrongLoader => f.write_str("is not a PV kernel: LOADER is not \"generic\""),
            Self::NotADom0 => f.write_str("is a PV kernel that does not support being dom0"),
            Self::RequiredFeature(name) => {
                write!(f, "requires feature \"{name}\", which there is none of")
            }
            Self::BadAddress(note, value) => {
                write!(f, "is wrong: its note {note} holds {value:#x}")
            }
        }
    }
}

/// Why dom0's memory cannot be laid out or filled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BuildError {
    /// The kernel is wrong.
    Kernel(KernelError),
    /// Kernel, page tables and the rest of the initial mapping take more than dom0 gets: needed, given (frames).
    KernelDoesNotFit {
        /// Frames that are needed.
        needed: u64,
        /// Frames that dom0 gets.
        nr_pages: u64,
    },
    /// The initrd does not fit behind the kernel.
    InitrdDoesNotFit {
        /// Frames of the initrd.
        initrd: u64,
        /// Frames that dom0 gets.
        nr_pages: u64,
    },
    /// The p2m list does not fit behind the kernel and the initrd.
    P2mDoesNotFit {
        /// Frames of the list and of the tables that map it.
        p2m: u64,
        /// Frames that dom0 gets.
        nr_pages: u64,
    },
    /// The initial mapping or the p2m list would reach an address that guests do not have, or each other.
    AddressSpace {
        /// The first address that is wanted.
        start: u64,
        /// The address behind the last.
        end: u64,
    },
    /// Too many pages to have numbers for.
    TooLarge(u64),
    /// Not enough machine memory: what for, and how many frames.
    NoMemory(Purpose, u64),
    /// A frame that was given out for dom0 is not memory. Never happens while the hypervisor's records are right.
    BadFrame,
}

/// What memory was wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To unpack the kernel.
    Unpacking,
    /// dom0's initial mapping, in one piece.
    InitialMapping,
    /// dom0's p2m list, in one piece.
    P2m,
    /// The page that dom0 shares with the hypervisor.
    SharedInfo,
    /// The rest of dom0's memory.
    Rest,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unpacking => "unpacking the kernel of dom0",
            Self::InitialMapping => "the initial mapping of dom0",
            Self::P2m => "the p2m list of dom0",
            Self::SharedInfo => "the shared page of dom0",
            Self::Rest => "dom0",
        })
    }
}

/// A number of frames as a size that a person reads.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FRAMES_IN_A_MIB: u32 = 20 - PAGE_SHIFT;
        let mib = self.0 >> FRAMES_IN_A_MIB;
        if mib > 0 {
            write!(f, "{mib} MiB")
        } else {
            write!(f, "{} KiB", self.0.saturating_mul(4))
        }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(error) => error.fmt(f),
            Self::KernelDoesNotFit { needed, nr_pages } => write!(
                f,
                "the kernel needs {}, dom0 has {}",
                Size(*needed),
                Size(*nr_pages)
            ),
            Self::InitrdDoesNotFit { initrd, nr_pages } => write!(
                f,
                "the initrd of {} does not fit: dom0 has {}",
                Size(*initrd),
                Size(*nr_pages)
            ),
            Self::P2mDoesNotFit { p2m, nr_pages } => write!(
                f,
                "the p2m list of {} does not fit beside kernel and initrd: dom0 has {}",
                Size(*p2m),
                Size(*nr_pages)
            ),
            Self::AddressSpace { start, end } => write!(
                f,
                "the kernel wants addresses {start:#x} to {end:#x}, which are not free in a guest"
            ),
            Self::TooLarge(nr_pages) => write!(f, "dom0 cannot have {nr_pages} pages"),
            Self::NoMemory(purpose, frames) => write!(
                f,
                "not enough memory for {purpose}: {} wanted",
                Size(*frames)
            ),
            Self::BadFrame => f.write_str("a frame of dom0 is not memory"),
        }
    }
}

impl From<KernelError> for BuildError {
    fn from(error: KernelError) -> Self {
        Self::Kernel(error)
    }
}

impl From<BadFrame> for BuildError {
    fn from(_: BadFrame) -> Self {
        Self::BadFrame
    }
}
