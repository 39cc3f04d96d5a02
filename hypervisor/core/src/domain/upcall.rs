//! What a vCPU shares with the hypervisor about events: two bytes, read as one word, and the fault address next to them.
//!
//! The bytes are the guest's to write at any moment, so nothing here trusts them beyond the one load. ORDERING: all accesses
//! are sequentially consistent, so that "set pending, look at mask" here and "clear mask, look at pending" in the guest
//! cannot both miss.

use dom0_abi::addr::Maddr;
use dom0_abi::arch::ArchVcpuInfo;
use dom0_abi::xen::VcpuInfo;
use oxen_arch::memory::{BadFrame, PhysMem, Spot};

const MASK: u64 = core::mem::offset_of!(VcpuInfo, evtchn_upcall_mask) as u64;
const CR2: u64 =
    (core::mem::offset_of!(VcpuInfo, arch) + core::mem::offset_of!(ArchVcpuInfo, cr2)) as u64;

/// Where the `vcpu_info` of a vCPU is. Whoever sends an event needs it, so it is outside the vCPU's lock.
#[derive(Debug)]
pub struct Upcall {
    info: Maddr,
    /// Both bytes, which every way back to the guest looks at.
    word: Spot,
}

/// Both bytes, read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpcallWord(u32);

impl UpcallWord {
    /// Whether an event is to be delivered now.
    pub const fn is_deliverable(self) -> bool {
        // Pending is the lower byte, so that is anything in it, and nothing above.
        matches!(self.0, 1..=0xff)
    }

    /// Whether an event is pending, masked or not.
    pub const fn is_pending(self) -> bool {
        self.0 & 0xff != 0
    }

    /// The mask byte as the guest left it.
    pub const fn mask(self) -> u8 {
        (self.0 >> 8) as u8
    }
}

impl Upcall {
    /// The vCPU's `vcpu_info` is at this address, aligned to 8 bytes, in a frame of its domain that is held writable for as long as
    /// the vCPU may run.
    pub fn new(mem: &PhysMem, info: Maddr) -> Result<Self, BadFrame> {
        let word = mem.spot(info)?;
        Ok(Self { info, word })
    }

    /// Where it is.
    pub fn location(&self) -> Maddr {
        self.info
    }

    /// Reads both bytes.
    #[inline(always)]
    pub fn read(&self, mem: &PhysMem) -> UpcallWord {
        UpcallWord(mem.look(self.word))
    }

    /// Writes the mask byte.
    pub fn set_mask(&self, mem: &PhysMem, mask: u8) -> Result<(), BadFrame> {
        mem.store_u8(self.at(MASK), mask)
    }

    /// Writes the address of the last page fault.
    pub fn set_fault_address(&self, mem: &PhysMem, address: u64) -> Result<(), BadFrame> {
        mem.store_u64(self.at(CR2), address)
    }

    fn at(&self, offset: u64) -> Maddr {
        Maddr::new(self.info.get().wrapping_add(offset))
    }
}
