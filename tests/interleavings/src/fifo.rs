//! A domain that uses the FIFO form of events: words and queues are the hypervisor's own, its kernel is the ABI's.

use dom0_abi::addr::{Maddr, Mfn};
use dom0_abi::ids::{Port, VcpuId};

use crate::event::cell::PortCell;
use crate::event::fifo::queues::{self, Places, Queue, Queues, Slot};
use crate::event::fifo::word::EventWord;
use crate::event::word::{Binding, PortState, Priority};
use crate::memory::PhysMem;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Rank, SpinLock, fence_behind_exchange};

const WORDS: Mfn = Mfn::new(1);
const HOMES: Mfn = Mfn::new(2);
const CONTROL: Mfn = Mfn::new(3);

const PENDING: u64 = 1 << 31;
const MASKED: u64 = 1 << 30;
const LINKED: u64 = 1 << 29;
const LINK: u64 = (1 << 17) - 1;

/// Two vCPUs with one queue each, and three ports.
pub struct FifoDomain {
    mem: PhysMem,
    vcpus: [SpinLock<Queues>; 2],
    cells: [PortCell; 4],
    has_words: AtomicU32,
}

impl Places for FifoDomain {
    fn queues(&self, vcpu: VcpuId) -> Option<&SpinLock<Queues>> {
        self.vcpus.get(vcpu.get() as usize)
    }

    fn slot(&self, port: Port) -> Option<Slot> {
        (self.has_words.load(Ordering::Acquire) != 0).then(|| Slot {
            word: EventWord::of(WORDS, port),
            home: HOMES.at(port.get() as usize * 2),
        })
    }
}

fn word_at(port: Port) -> Maddr {
    WORDS.at(port.get() as usize * 4)
}

fn ready_at(vcpu: u32) -> Maddr {
    CONTROL.at(vcpu as usize * 2048)
}

fn head_at(vcpu: u32) -> Maddr {
    CONTROL.at(vcpu as usize * 2048 + 8 + Priority::DEFAULT.index() * 4)
}

impl FifoDomain {
    /// One without events.
    pub fn new() -> Self {
        let domain = Self::without_words();
        domain.add_words();
        domain
    }

    /// As `setup::add` and `setup::pay`: whether a vCPU was told.
    pub fn add_words(&self) -> bool {
        self.has_words.swap(1, Ordering::SeqCst);
        fence_behind_exchange();
        let pay = |port: u32| {
            let is_owed = self.cells[port as usize].pay();
            is_owed && self.send(Port::new(port), 0)
        };
        (1..4).map(pay).filter(|&told| told).count() > 0
    }

    /// One without events, and without words yet.
    pub fn without_words() -> Self {
        let ports = (1..4).map(Port::new);
        let words = ports.flat_map(|port| [word_at(port), HOMES.at(port.get() as usize * 2)]);
        let blocks = (0..2).flat_map(|vcpu| [ready_at(vcpu), head_at(vcpu)]);
        let domain = Self {
            mem: PhysMem::of(words.chain(blocks)),
            vcpus: [(); 2].map(|()| SpinLock::new(Rank::Queues, Queues::new())),
            cells: [(); 4].map(|()| PortCell::new()),
            has_words: AtomicU32::new(0),
        };
        for cell in &domain.cells {
            cell.publish(Binding::first(PortState::Ipi));
        }
        for vcpu in [0, 1] {
            let mut queues = domain.vcpus[vcpu as usize].lock();
            queues.set_control(&domain.mem, ready_at(vcpu)).unwrap();
        }
        domain
    }

    /// Makes a port pending that this vCPU is told of: whether it was told.
    pub fn send(&self, port: Port, vcpu: u32) -> bool {
        let cell = &self.cells[port.get() as usize];
        let raised = queues::raise(&self.mem, self, cell, port, queue(vcpu));
        raised.unwrap().tells
    }

    /// Unmasks it.
    pub fn unmask(&self, port: Port, vcpu: u32) -> bool {
        queues::unmask(&self.mem, self, port, queue(vcpu)).unwrap()
    }

    /// Masks it, as a guest does.
    pub fn mask(&self, port: Port) {
        self.mem.fetch_or_u64(word_at(port), MASKED).unwrap();
    }

    /// What the kernel of a vCPU finds when it is called: bits of ports with events. It looks once whether a queue is ready.
    pub fn drain(&self, vcpu: u32) -> u64 {
        let mut found = 0;
        if self.mem.swap_u64(ready_at(vcpu), 0).unwrap() == 0 {
            return found;
        }
        let mut head = self.mem.load_u64(head_at(vcpu)).unwrap();
        while head != 0 {
            let at = word_at(Port::new(head as u32));
            let old = self.mem.fetch_and_u64(at, !(LINKED | LINK)).unwrap();
            assert_eq!(
                old & LINKED,
                LINKED,
                "in the queue of vCPU {vcpu}: port {head}"
            );
            if old & (PENDING | MASKED) == PENDING {
                let old = self.mem.fetch_and_u64(at, !PENDING).unwrap();
                assert_eq!(old & PENDING, PENDING);
                found |= 1 << head;
            }
            head = old & LINK;
        }
        found
    }

    /// Ports that are pending.
    pub fn pending(&self) -> u64 {
        let is_pending = |&port: &u32| self.word(Port::new(port)) & PENDING != 0;
        (1..4).filter(is_pending).map(|port| 1 << port).sum()
    }

    fn word(&self, port: Port) -> u64 {
        self.mem.load_u64(word_at(port)).unwrap()
    }
}

impl Default for FifoDomain {
    fn default() -> Self {
        Self::new()
    }
}

const fn queue(vcpu: u32) -> Queue {
    Queue {
        vcpu: VcpuId::new(vcpu),
        priority: Priority::DEFAULT,
    }
}
