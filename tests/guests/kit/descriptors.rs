//! Segment descriptors: building them, asking the CPU about selectors, loading them.

use crate::probe;
use crate::trap::{Cause, Trap};

/// Bits of a descriptor's access byte. Below [`SEGMENT`](access::SEGMENT) lies the type.
pub mod access {
    /// The descriptor may be used.
    pub const PRESENT: u8 = 1 << 7;
    /// Privilege level 3.
    pub const DPL3: u8 = 3 << 5;
    /// Code or data; else a gate or a system segment.
    pub const SEGMENT: u8 = 1 << 4;
    /// Code; else data.
    pub const CODE: u8 = 1 << 3;
    /// Code that keeps the caller's level.
    pub const CONFORMING: u8 = 1 << 2;
    /// Data from the limit up.
    pub const EXPAND_DOWN: u8 = 1 << 2;
    /// Code that can be read.
    pub const READABLE: u8 = 1 << 1;
    /// Data that can be written.
    pub const WRITABLE: u8 = 1 << 1;
    /// The CPU has loaded it.
    pub const ACCESSED: u8 = 1 << 0;

    /// A present segment of user mode.
    pub const USER: u8 = PRESENT | DPL3 | SEGMENT | ACCESSED;
    /// System segment: local descriptor table.
    pub const LDT: u8 = PRESENT | 0x2;
    /// System segment: available task state of 64 bits.
    pub const TSS: u8 = PRESENT | 0x9;
    /// Call gate.
    pub const CALL_GATE: u8 = PRESENT | 0xc;
    /// Interrupt gate.
    pub const INTERRUPT_GATE: u8 = PRESENT | 0xe;
    /// Trap gate.
    pub const TRAP_GATE: u8 = PRESENT | 0xf;
}

/// The four flags above a descriptor's limit.
pub mod flags {
    /// For the system's own use.
    pub const AVAILABLE: u8 = 1 << 0;
    /// Code of 64 bits.
    pub const LONG: u8 = 1 << 1;
    /// Code or stack of 32 bits.
    pub const BIG: u8 = 1 << 2;
    /// The limit counts pages.
    pub const PAGES: u8 = 1 << 3;
}

/// A segment: base, limit (20 bits), access byte, flags (4 bits).
pub const fn segment(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (base as u64, limit as u64);
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (access as u64) << 40
        | (limit >> 16 & 0xf) << 48
        | (flags as u64 & 0xf) << 52
        | (base >> 24) << 56
}

/// A gate to `offset` (its lower half) in the segment `selector`.
pub const fn gate(selector: u16, offset: u32, access: u8) -> u64 {
    let offset = offset as u64;
    offset & 0xffff | (selector as u64) << 16 | (access as u64) << 40 | (offset >> 16) << 48
}

/// Data of all 4 GiB, readable and writable.
pub const FLAT_DATA: u64 = segment(
    0,
    0xf_ffff,
    access::USER | access::WRITABLE,
    flags::PAGES | flags::BIG,
);
/// 32-bit code of all 4 GiB.
pub const FLAT_CODE32: u64 = segment(
    0,
    0xf_ffff,
    access::USER | access::CODE | access::READABLE,
    flags::PAGES | flags::BIG,
);
/// 64-bit code.
pub const FLAT_CODE64: u64 = segment(
    0,
    0xf_ffff,
    access::USER | access::CODE | access::READABLE,
    flags::PAGES | flags::LONG,
);

/// The selector of a descriptor of the global table.
pub const fn global(index: u16) -> u16 {
    index << 3 | 3
}

/// The selector of a descriptor of the local table.
pub const fn local(index: u16) -> u16 {
    index << 3 | 4 | 3
}

/// A register that holds a data selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Register {
    Ds,
    Es,
    Fs,
    Gs,
}

impl Register {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ds, Self::Es, Self::Fs, Self::Gs];

    /// Loads a selector, and returns the trap if that fails.
    pub fn load(self, selector: u16) -> Option<Trap> {
        match self {
            Self::Ds => probe!("mov ds, {selector:x}"; selector = in(reg) selector),
            Self::Es => probe!("mov es, {selector:x}"; selector = in(reg) selector),
            Self::Fs => probe!("mov fs, {selector:x}"; selector = in(reg) selector),
            Self::Gs => probe!("mov gs, {selector:x}"; selector = in(reg) selector),
        }
    }

    /// The selector in it.
    pub fn selector(self) -> u16 {
        let selector: u16;
        let trap = match self {
            Self::Ds => probe!("mov {selector:x}, ds"; selector = out(reg) selector),
            Self::Es => probe!("mov {selector:x}, es"; selector = out(reg) selector),
            Self::Fs => probe!("mov {selector:x}, fs"; selector = out(reg) selector),
            Self::Gs => probe!("mov {selector:x}, gs"; selector = out(reg) selector),
        };
        assert!(trap.is_none(), "selectors can be read");
        selector
    }
}

/// What `lar` says about a selector: the access byte in bits 8-15, the flags in bits 20-23. `None` if it says nothing;
/// the cause of a trap if it raises one.
pub fn access_rights(selector: u16) -> Result<Option<u32>, Cause> {
    let (rights, found): (u32, u8);
    let selector = u32::from(selector);
    match probe!("lar {rights:e}, {selector:e}; setz {found}"; rights = out(reg) rights, selector = in(reg) selector, found = out(reg_byte) found)
    {
        Some(trap) => Err(trap.cause()),
        None => Ok((found != 0).then_some(rights)),
    }
}

/// What `lsl` says about a selector: its limit in bytes.
pub fn limit(selector: u16) -> Result<Option<u32>, Cause> {
    let (limit, found): (u32, u8);
    let selector = u32::from(selector);
    match probe!("lsl {limit:e}, {selector:e}; setz {found}"; limit = out(reg) limit, selector = in(reg) selector, found = out(reg_byte) found)
    {
        Some(trap) => Err(trap.cause()),
        None => Ok((found != 0).then_some(limit)),
    }
}
