//! The virtual interrupt table of a vCPU.

use core::fmt;

use dom0_abi::arch::{FLAT_CS64, TRAP_DPL_MASK, TRAP_MASKS_EVENTS, TrapInfo};

/// One entry. The address is canonical; 0 means that there is no handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrapEntry {
    /// Where the handler begins.
    pub address: u64,
    /// The selector that the guest gave, with privilege level 3. It is reported back and never loaded: kernels run on the
    /// flat one.
    pub cs: u16,
    flags: u8,
}

impl TrapEntry {
    /// No handler.
    pub const NONE: Self = Self {
        address: 0,
        cs: 0,
        flags: 0,
    };

    /// Takes an entry from its wire form. The caller has checked the address.
    pub const fn of(info: &TrapInfo) -> Self {
        Self {
            address: info.address,
            cs: info.cs | 3,
            flags: info.flags,
        }
    }

    /// The entry that a callback for NMIs stands for: not for `int`, and events are masked.
    pub const fn for_nmi(address: u64) -> Self {
        Self {
            address,
            cs: FLAT_CS64,
            flags: TRAP_MASKS_EVENTS,
        }
    }

    /// The least privileged level from which `int` reaches the handler.
    pub const fn dpl(&self) -> u8 {
        self.flags & TRAP_DPL_MASK
    }

    /// Whether delivery masks events.
    pub const fn masks_events(&self) -> bool {
        self.flags & TRAP_MASKS_EVENTS != 0
    }
}

/// An entry for each vector.
pub struct TrapTable([TrapEntry; 256]);

impl TrapTable {
    /// No handlers.
    pub const EMPTY: Self = Self([TrapEntry::NONE; 256]);

    /// The entry of a vector.
    pub fn get(&self, vector: u8) -> TrapEntry {
        self.0
            .get(usize::from(vector))
            .copied()
            .unwrap_or(TrapEntry::NONE)
    }

    /// Replaces the entry of a vector.
    pub fn set(&mut self, vector: u8, entry: TrapEntry) {
        if let Some(place) = self.0.get_mut(usize::from(vector)) {
            *place = entry;
        }
    }

    /// Removes all handlers.
    pub fn clear(&mut self) {
        self.0.fill(TrapEntry::NONE);
    }
}

impl fmt::Debug for TrapTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self
            .0
            .iter()
            .enumerate()
            .filter(|(_, entry)| **entry != TrapEntry::NONE);
        f.debug_map().entries(set).finish()
    }
}
