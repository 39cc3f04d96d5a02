//! What goes into and comes out of the registers of a CPU.
#![forbid(unsafe_code)]

/// `entry_vector` of registers that came by `syscall` from 64-bit code.
pub const ENTRY_SYSCALL: u32 = 0x100;
/// `entry_vector` of registers that came by `syscall` from 32-bit code.
pub const ENTRY_SYSCALL32: u32 = 0x101;
/// Added to the vector of an exception that the return to the guest raised: it was no instruction of the guest's.
pub const ENTRY_RETURN: u32 = 0x200;

/// Flags that a guest may have as it likes: CF, PF, AF, ZF, SF, TF, DF, OF, RF, AC, ID. SPEC: Intel SDM volume 1, 3.4.3.
pub const GUEST_FLAGS: u64 = 0x25_0dd5;
/// Flags that every guest runs with: IF, and the one that is always 1. All others are 0, whatever is asked for (I24).
pub const FORCED_FLAGS: u64 = 1 << 9 | 1 << 1;

/// The page attribute table that every CPU is given and every guest's page tables go by: WB, WT, UC-, UC, WC, WP, UC, UC.
/// Linux adopts what it finds.
pub const PAT: u64 = 0x0000_0501_0007_0406;

/// The bits of CR4 that follow the guest that runs: TSD and DE. SPEC: Intel SDM volume 3, 2.5.
pub const GUEST_CR4: u64 = 1 << 2 | 1 << 3;

bitflags::bitflags! {
    /// What a CPU has to see to before it goes back to a guest, beside what waits for the guest itself.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct Notes: u32 {
        /// An NMI has arrived in the hypervisor.
        const NMI = 1 << 0;
        /// Somebody else may have to run.
        const SCHEDULE = 1 << 1;
        /// Who runs wants others to go first.
        const YIELD = 1 << 2;
    }
}

/// What a call has come to that was made without the registers of its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AtOnce {
    /// What the caller gets in rax.
    pub result: u64,
    /// Whether the caller can go on. If not, something has to be seen to first, with all of its registers at hand.
    pub is_settled: bool,
}

/// What trying a call has come to that way, or not: an `Option` of [`AtOnce`] as it is returned in two registers, for the entry stub to
/// look at.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Attempt {
    result: u64,
    /// 0: nothing was done, 1: it is done, 2: there is more to see to.
    progress: u64,
}

impl Attempt {
    /// Nothing was done.
    pub const NOTHING: Self = Self {
        result: 0,
        progress: 0,
    };

    /// What came of it.
    pub const fn get(self) -> Option<AtOnce> {
        match self.progress {
            0 => None,
            progress => Some(AtOnce {
                result: self.result,
                is_settled: progress == 1,
            }),
        }
    }
}

impl From<AtOnce> for Attempt {
    #[inline(always)]
    fn from(AtOnce { result, is_settled }: AtOnce) -> Self {
        let progress = if is_settled { 1 } else { 2 };
        Self { result, progress }
    }
}

/// The answer of `CPUID`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CpuidResult {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Breakpoints. Whoever loads them has checked that they stay within the guest and set no reserved bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DebugRegisters {
    /// DR0 to DR3.
    pub addr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
}

impl DebugRegisters {
    /// The state after a reset: no breakpoint. SPEC: Intel SDM volume 3, 18.2.
    pub const RESET: Self = Self {
        addr: [0; 4],
        dr6: 0xffff_0ff0,
        dr7: 0x400,
    };
}

impl Default for DebugRegisters {
    fn default() -> Self {
        Self::RESET
    }
}

/// How much an `IN` or `OUT` moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortWidth {
    /// One byte.
    Byte,
    /// Two bytes.
    Word,
    /// Four bytes.
    Dword,
}

impl PortWidth {
    /// How many bytes that is.
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
        }
    }

    /// The bits that are moved.
    pub const fn mask(self) -> u32 {
        match self {
            Self::Byte => 0xff,
            Self::Word => 0xffff,
            Self::Dword => u32::MAX,
        }
    }
}

/// The base address is not canonical; the register is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotCanonical;

/// XCR0 cannot have this value on this CPU; the register is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadXcr0;
