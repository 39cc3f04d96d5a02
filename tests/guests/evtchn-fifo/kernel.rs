//! What a kernel has of the FIFO form, and how it takes events.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use dom0_abi::errno::Errno;
use dom0_abi::event_channel::{
    FIFO_LINK_MASK, FIFO_LINKED, FIFO_MASKED, FIFO_MAX_QUEUES, FIFO_PENDING, FifoControlBlock,
};
use dom0_abi::ids::Port;
use dom0_abi::xen::{SharedInfo, VcpuInfo};
use kit::memory::{self, Page};

pub const PENDING: u32 = 1 << FIFO_PENDING;
pub const MASKED: u32 = 1 << FIFO_MASKED;
pub const LINKED: u32 = 1 << FIFO_LINKED;
/// What names the next port.
pub const LINK: u32 = FIFO_LINK_MASK;

static CONTROL: Page = Page::new();
static WORDS: [Page; PAGES] = [const { Page::new() }; PAGES];
/// Pages of event words that there are.
pub const PAGES: usize = 6;
/// Words in each.
pub const PER_PAGE: u32 = 1024;
/// Where the control block is in its page.
pub const OFFSET: u32 = 0x1b8;

/// The kernel.
pub struct Kernel {
    shared: u64,
    heads: [u32; FIFO_MAX_QUEUES],
}

/// Ports with events, in the order in which they were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    ports: [u32; 16],
    count: usize,
}

impl Found {
    pub fn of(found: &[u32]) -> Self {
        let mut ports = [0; 16];
        ports[..found.len()].copy_from_slice(found);
        Self {
            ports,
            count: found.len(),
        }
    }
}

fn half(at: u64) -> &'static AtomicU32 {
    // SAFETY: within a page of the image, or the shared one, which stay mapped; all access them by atomic accesses.
    unsafe { &*(core::ptr::with_exposed_provenance::<AtomicU32>(at as usize)) }
}

impl Kernel {
    pub fn new() -> Result<Self, Errno> {
        Ok(Self {
            shared: memory::shared_info()?,
            heads: [0; FIFO_MAX_QUEUES],
        })
    }

    pub fn control_frame(&self) -> u64 {
        CONTROL.mfn()
    }

    pub fn words_frame(&self, page: usize) -> u64 {
        WORDS[page].mfn()
    }

    fn control(&self, offset: usize) -> &'static AtomicU32 {
        half(CONTROL.address() + u64::from(OFFSET) + offset as u64)
    }

    /// What says which queues are not empty.
    pub fn ready(&self) -> &'static AtomicU32 {
        self.control(offset_of!(FifoControlBlock, ready))
    }

    /// The word of a port.
    pub fn word(&self, port: Port) -> &'static AtomicU32 {
        let page = &WORDS[(port.get() / PER_PAGE) as usize];
        half(page.address() + u64::from(port.get() % PER_PAGE) * 4)
    }

    pub fn bits(&self, port: Port) -> u32 {
        self.word(port).load(Ordering::SeqCst)
    }

    pub fn mask(&self, port: Port) {
        self.word(port).fetch_or(MASKED, Ordering::SeqCst);
    }

    /// The byte that says that there is something to look for.
    pub fn upcall(&self) -> &'static AtomicU8 {
        self.byte(offset_of!(VcpuInfo, evtchn_upcall_pending))
    }

    /// The byte that keeps upcalls off.
    pub fn upcall_mask(&self) -> &'static AtomicU8 {
        self.byte(offset_of!(VcpuInfo, evtchn_upcall_mask))
    }

    fn byte(&self, offset: usize) -> &'static AtomicU8 {
        let at = self.shared as usize + offset;
        // SAFETY: as for `half`.
        unsafe { &*(core::ptr::with_exposed_provenance::<AtomicU8>(at)) }
    }

    /// Whether a port is pending in the two-level form, which is forgotten.
    pub fn take_two_level(&self, port: Port) -> bool {
        let index = port.get() as usize;
        let at = self.shared as usize + offset_of!(SharedInfo, evtchn_pending) + index / 64 * 8;
        // SAFETY: as for `half`.
        let word = unsafe { &*(core::ptr::with_exposed_provenance::<AtomicU64>(at)) };
        let bit = 1 << (index % 64);
        word.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// Takes what there is, the byte of the upcall first.
    pub fn drain(&mut self) -> Found {
        let mut found = Found::of(&[]);
        let mut ready = 0;
        self.upcall().store(0, Ordering::SeqCst);
        loop {
            ready |= self.ready().swap(0, Ordering::SeqCst);
            if ready == 0 {
                return found;
            }
            let queue = ready.trailing_zeros() as usize;
            let Some(head) = self.heads.get_mut(queue) else {
                return found;
            };
            if *head == 0 {
                let at = offset_of!(FifoControlBlock, head) + queue * 4;
                *head =
                    half(CONTROL.address() + u64::from(OFFSET) + at as u64).load(Ordering::SeqCst);
            }
            let port = Port::new(*head);
            if port.get() >= PAGES as u32 * PER_PAGE || found.count == found.ports.len() {
                return found;
            }
            let page = &WORDS[(port.get() / PER_PAGE) as usize];
            let word = half(page.address() + u64::from(port.get() % PER_PAGE) * 4);
            let old = word.fetch_and(!(LINKED | LINK), Ordering::SeqCst);
            *head = old & LINK;
            if *head == 0 {
                ready &= !(1 << queue);
            }
            if old & (PENDING | MASKED) == PENDING {
                word.fetch_and(!PENDING, Ordering::SeqCst);
                found.ports[found.count] = port.get();
                found.count += 1;
            }
        }
    }

    /// Forgets all, as before the form was chosen.
    pub fn forget(&mut self) {
        self.heads = [0; FIFO_MAX_QUEUES];
        for page in WORDS.iter().chain([&CONTROL]) {
            for index in 0..512 {
                let _ = page.set_word(index, 0);
            }
        }
    }
}
