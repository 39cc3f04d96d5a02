//! The word of a handle, as pure functions: which grant is mapped by it, and how; or which handle is free after it.

use dom0_abi::ids::{DomId, GrantRef, VcpuId};

use super::entry::Access;

/// The word.
///
/// | bits | what |
/// |---|---|
/// | 0, 1 | mapped for CPUs, for devices |
/// | 2, 3 | the same, and about to end |
/// | 4 | read-only |
/// | 5 | the mapper names the entry itself, not an address that it maps |
/// | 8..16 | the vCPU among whose free handles it is when it is free |
/// | 16..32 | the granter |
/// | 32..64 | the reference; of a free handle, the next free one |
///
/// INVARIANT: who moves a part from mapped to about to end, by compare-exchange, ends it: so each part ends once. The handle is
/// free when the last part has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Track(pub u64);

/// Parts of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Entries of page tables.
    pub host: bool,
    /// Addresses for devices.
    pub device: bool,
}

impl Parts {
    const fn bits(self) -> u64 {
        self.host as u64 | (self.device as u64) << 1
    }

    const fn of(bits: u64) -> Self {
        Self {
            host: bits & 1 != 0,
            device: bits & 2 != 0,
        }
    }

    /// Whether there are any.
    pub const fn any(self) -> bool {
        self.host || self.device
    }

    /// How many there are.
    pub const fn count(self) -> u8 {
        (self.host as u8).wrapping_add(self.device as u8)
    }

    /// Those that are in both.
    pub const fn and(self, other: Self) -> Self {
        Self::of(self.bits() & other.bits())
    }
}

impl Track {
    const PARTS: u64 = 3;
    const ENDING_SHIFT: u32 = 2;
    const READONLY: u64 = 1 << 4;
    const BY_ENTRY: u64 = 1 << 5;
    const HOME_SHIFT: u32 = 8;
    const GRANTER_SHIFT: u32 = 16;
    const REF_SHIFT: u32 = 32;

    /// A map.
    pub const fn new(
        granter: DomId,
        reference: GrantRef,
        parts: Parts,
        access: Access,
        is_by_entry: bool,
        home: VcpuId,
    ) -> Self {
        let readonly = match access {
            Access::Read => Self::READONLY,
            Access::Write => 0,
        };
        let by_entry = if is_by_entry { Self::BY_ENTRY } else { 0 };
        Self(
            parts.bits()
                | readonly
                | by_entry
                | (home.get() as u64 & 0xff) << Self::HOME_SHIFT
                | (granter.get() as u64) << Self::GRANTER_SHIFT
                | (reference.get() as u64) << Self::REF_SHIFT,
        )
    }

    /// A free handle in front of another.
    pub const fn free(next: u32) -> Self {
        Self((next as u64) << Self::REF_SHIFT)
    }

    /// Whether it is a map, or the rest of one.
    pub const fn is_used(self) -> bool {
        self.0 & 0xf != 0
    }

    /// What is mapped.
    pub const fn parts(self) -> Parts {
        Parts::of(self.0 & Self::PARTS)
    }

    /// What is mapped, or about to end: what there are pins for.
    pub const fn pinned(self) -> Parts {
        Parts::of((self.0 | self.0 >> Self::ENDING_SHIFT) & Self::PARTS)
    }

    /// The word when parts that are mapped are about to end. `None`: they are not mapped.
    pub const fn ending(self, parts: Parts) -> Option<Self> {
        if self.0 & parts.bits() != parts.bits() {
            return None;
        }
        Some(Self(
            self.0 & !parts.bits() | parts.bits() << Self::ENDING_SHIFT,
        ))
    }

    /// The word when parts that were about to end are mapped still.
    pub const fn restored(self, parts: Parts) -> Self {
        Self(self.0 & !(parts.bits() << Self::ENDING_SHIFT) | parts.bits())
    }

    /// The word when parts that were about to end have ended.
    pub const fn ended(self, parts: Parts) -> Self {
        Self(self.0 & !(parts.bits() << Self::ENDING_SHIFT))
    }

    /// What the map allows.
    pub const fn access(self) -> Access {
        if self.0 & Self::READONLY != 0 {
            Access::Read
        } else {
            Access::Write
        }
    }

    /// Whether the mapper names the entry itself.
    pub const fn is_by_entry(self) -> bool {
        self.0 & Self::BY_ENTRY != 0
    }

    /// Whose handle it is when it is free.
    pub const fn home(self) -> VcpuId {
        VcpuId::new((self.0 >> Self::HOME_SHIFT) as u32 & 0xff)
    }

    /// The granter.
    pub const fn granter(self) -> DomId {
        DomId::new((self.0 >> Self::GRANTER_SHIFT) as u16)
    }

    /// The reference.
    pub const fn reference(self) -> GrantRef {
        GrantRef::new((self.0 >> Self::REF_SHIFT) as u32)
    }

    /// The next free handle.
    pub const fn next(self) -> u32 {
        (self.0 >> Self::REF_SHIFT) as u32
    }
}
