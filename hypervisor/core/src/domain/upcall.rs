//! What a vCPU shares with the hypervisor about events: two bytes, read as one word, and the fault address next to them.
//!
//! The bytes are the guest's to write at any moment, so nothing here trusts them beyond the one load. ORDERING: all accesses
//! are sequentially consistent, so that "set pending, look at mask" here and "clear mask, look at pending" in the guest
//! cannot both miss.

use dom0_abi::addr::Maddr;
use dom0_abi::arch::ArchVcpuInfo;
use dom0_abi::xen::VcpuInfo;
use oxen_arch::memory::{BadFrame, PhysMem, SpotCell};
use oxen_arch::sync::atomic::{AtomicU64, Ordering};

const MASK: u64 = core::mem::offset_of!(VcpuInfo, evtchn_upcall_mask) as u64;
const CR2: u64 =
    (core::mem::offset_of!(VcpuInfo, arch) + core::mem::offset_of!(ArchVcpuInfo, cr2)) as u64;

/// Where the `vcpu_info` of a vCPU is. Whoever sends an event needs it, so it is outside the vCPU's lock.
#[derive(Debug)]
pub struct Upcall {
    info: AtomicU64,
    /// Both bytes, which every way back to the guest looks at.
    word: SpotCell,
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
        let word = SpotCell::new(mem.spot(info)?);
        let info = AtomicU64::new(info.get());
        Ok(Self { info, word })
    }

    /// Where it is.
    pub fn location(&self) -> Maddr {
        Maddr::new(self.info.load(Ordering::SeqCst))
    }

    /// It is there from now on, held as in [`Self::new`], and has all that was in the old place. What others still write to the old place is
    /// for the guest to look for: it is told of everything.
    pub fn move_to(&self, mem: &PhysMem, info: Maddr) -> Result<(), BadFrame> {
        self.word.set(mem.spot(info)?);
        self.info.store(info.get(), Ordering::SeqCst);
        Ok(())
    }

    /// Reads both bytes.
    #[inline(always)]
    pub fn read(&self, mem: &PhysMem) -> UpcallWord {
        UpcallWord(mem.look(self.word.get()))
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
        Maddr::new(self.location().get().wrapping_add(offset))
    }
}
