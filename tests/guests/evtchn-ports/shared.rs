//! What the domain shares with the hypervisor about events.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use dom0_abi::errno::Errno;
use dom0_abi::ids::Port;
use dom0_abi::xen::{SharedInfo, VcpuInfo};
use kit::memory;

/// The page.
#[derive(Clone, Copy)]
pub struct Shared(u64);

impl Shared {
    pub fn map() -> Result<Self, Errno> {
        memory::shared_info().map(Self)
    }

    fn word(self, offset: usize) -> &'static AtomicU64 {
        // SAFETY: the page stays mapped; whoever writes to it does so by atomic accesses, as here.
        unsafe { &*((self.0 as usize + offset) as *const AtomicU64) }
    }

    fn byte(self, offset: usize) -> &'static AtomicU8 {
        // SAFETY: as above.
        unsafe { &*((self.0 as usize + offset) as *const AtomicU8) }
    }

    fn row(self, row: usize, port: Port) -> (&'static AtomicU64, u64) {
        let index = port.get() as usize;
        (self.word(row + index / 64 * 8), 1 << (index % 64))
    }

    pub fn is_pending(self, port: Port) -> bool {
        let (word, bit) = self.row(offset_of!(SharedInfo, evtchn_pending), port);
        word.load(Ordering::SeqCst) & bit != 0
    }

    pub fn clear_pending(self, port: Port) {
        let (word, bit) = self.row(offset_of!(SharedInfo, evtchn_pending), port);
        word.fetch_and(!bit, Ordering::SeqCst);
    }

    pub fn set_pending(self, port: Port) {
        let (word, bit) = self.row(offset_of!(SharedInfo, evtchn_pending), port);
        word.fetch_or(bit, Ordering::SeqCst);
    }

    pub fn is_masked(self, port: Port) -> bool {
        let (word, bit) = self.row(offset_of!(SharedInfo, evtchn_mask), port);
        word.load(Ordering::SeqCst) & bit != 0
    }

    pub fn set_masked(self, port: Port, masked: bool) {
        let (word, bit) = self.row(offset_of!(SharedInfo, evtchn_mask), port);
        match masked {
            true => word.fetch_or(bit, Ordering::SeqCst),
            false => word.fetch_and(!bit, Ordering::SeqCst),
        };
    }

    /// All that is pending, as one number for each word that has something.
    pub fn nothing_is_pending(self) -> bool {
        let row = offset_of!(SharedInfo, evtchn_pending);
        (0..64).all(|index| self.word(row + index * 8).load(Ordering::SeqCst) == 0)
    }

    pub fn upcall(self) -> &'static AtomicU8 {
        self.byte(offset_of!(VcpuInfo, evtchn_upcall_pending))
    }

    pub fn mask(self) -> &'static AtomicU8 {
        self.byte(offset_of!(VcpuInfo, evtchn_upcall_mask))
    }

    pub fn selector(self) -> &'static AtomicU64 {
        self.word(offset_of!(VcpuInfo, evtchn_pending_sel))
    }

    /// What was told: the byte and the selector, which are clear afterwards.
    pub fn take(self) -> (u8, u64) {
        (
            self.upcall().swap(0, Ordering::SeqCst),
            self.selector().swap(0, Ordering::SeqCst),
        )
    }
}
