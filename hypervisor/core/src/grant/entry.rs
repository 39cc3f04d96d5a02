//! The two words of a grant as pure functions: the granter's entry, in a page that it writes to at any time, and the active
//! entry, which only the hypervisor has.

use dom0_abi::addr::Mfn;
use dom0_abi::grant_table::{GTF_TYPE_MASK, GrantFlags, GrantStatus, GrantType};
use dom0_abi::ids::DomId;

/// What somebody does with a granted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Reads and writes it.
    Write,
}

/// The granter's entry, all of it at one moment. ABI: `public/grant_table.h`, `struct grant_entry_v1`.
///
/// | bits | what |
/// |---|---|
/// | 0..16 | type and flags |
/// | 16..32 | the domain that is allowed |
/// | 32..64 | the frame |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared(pub u64);

impl Shared {
    const DOMAIN_SHIFT: u32 = 16;
    const FRAME_SHIFT: u32 = 32;
    /// That somebody can read, and that somebody can write.
    pub(super) const READING: u64 = GrantFlags::READING.bits() as u64;
    pub(super) const WRITING: u64 = GrantFlags::WRITING.bits() as u64;
    const READONLY: u64 = GrantFlags::READONLY.bits() as u64;
    const SUB_PAGE: u64 = GrantFlags::SUB_PAGE.bits() as u64;

    /// The frame.
    pub const fn mfn(self) -> Mfn {
        Mfn::new(self.0 >> Self::FRAME_SHIFT)
    }

    const fn is_for(self, mapper: DomId) -> bool {
        (self.0 >> Self::DOMAIN_SHIFT) as u16 == mapper.get()
    }

    /// The entry marked as in use by this domain. `is_new`: nobody uses it yet, so that type and domain decide; else they have
    /// been looked at, and the granter may have changed them since. `is_map`: it is to be mapped, not copied.
    ///
    /// [`GrantStatus::GeneralError`]: it does not allow that.
    pub fn claimed(
        self,
        mapper: DomId,
        access: Access,
        is_new: bool,
        is_map: bool,
    ) -> Result<Self, GrantStatus> {
        let ruled_out = if is_map { Self::SUB_PAGE } else { 0 };
        let looked_at = self.0 & (GTF_TYPE_MASK as u64 | ruled_out);
        if is_new && (looked_at != GrantType::PermitAccess as u64 || !self.is_for(mapper)) {
            return Err(GrantStatus::GeneralError);
        }
        match access {
            Access::Read => Ok(Self(self.0 | Self::READING)),
            Access::Write if self.0 & Self::READONLY != 0 => Err(GrantStatus::GeneralError),
            Access::Write => Ok(Self(self.0 | Self::READING | Self::WRITING)),
        }
    }
}

/// The active entry: who uses a grant.
///
/// | bits | what |
/// |---|---|
/// | 0..8 | pins: parts of maps, and copies under way |
/// | 8..16 | those of them that write |
/// | 16..32 | the domain that has them |
/// | 32..64 | the frame, of which the entry holds a general reference |
///
/// INVARIANT: without pins it is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Active(pub u64);

impl Active {
    /// Nobody uses it.
    pub const NONE: Self = Self(0);
    const WRITER: u64 = 1 << 8;
    const MAPPER_SHIFT: u32 = 16;
    const FRAME_SHIFT: u32 = 32;

    /// The first pins, of this count. `None`: no entry can name the frame.
    pub fn first(mapper: DomId, mfn: Mfn, access: Access, count: u8) -> Option<Self> {
        let frame = u64::from(u32::try_from(mfn.get()).ok()?);
        let mapper = u64::from(mapper.get());
        let none = Self(frame << Self::FRAME_SHIFT | mapper << Self::MAPPER_SHIFT);
        none.more(access, count)
    }

    /// So many pins more. `None`: there would be more than can be counted.
    #[inline(always)]
    pub const fn more(self, access: Access, count: u8) -> Option<Self> {
        if self.pins().checked_add(count).is_none() {
            return None;
        }
        let more = Self::one(access).wrapping_mul(count as u64);
        Some(Self(self.0.wrapping_add(more)))
    }

    /// So many pins less; without any it is [`Self::NONE`]. `None`: there are not so many.
    #[inline(always)]
    pub const fn less(self, access: Access, count: u8) -> Option<Self> {
        let there = match access {
            Access::Read => self.pins().wrapping_sub(self.writers()),
            Access::Write => self.writers(),
        };
        if there < count {
            return None;
        }
        let less = Self::one(access).wrapping_mul(count as u64);
        let less = Self(self.0.wrapping_sub(less));
        Some(if less.is_used() { less } else { Self::NONE })
    }

    const fn one(access: Access) -> u64 {
        match access {
            Access::Read => 1,
            Access::Write => 1 | Self::WRITER,
        }
    }

    /// Whether there are pins.
    pub const fn is_used(self) -> bool {
        self.pins() > 0
    }

    /// How many there are.
    pub const fn pins(self) -> u8 {
        self.0 as u8
    }

    /// How many of them write.
    pub const fn writers(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Whose they are.
    pub const fn mapper(self) -> DomId {
        DomId::new((self.0 >> Self::MAPPER_SHIFT) as u16)
    }

    /// The frame.
    pub const fn mfn(self) -> Mfn {
        Mfn::new(self.0 >> Self::FRAME_SHIFT)
    }
}
