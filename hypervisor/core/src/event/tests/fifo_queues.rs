//! Queues of two vCPUs, against a model of what a kernel sees that takes ports out as the ABI says.

use std::collections::VecDeque;

use dom0_abi::addr::{Maddr, Mfn};
use dom0_abi::ids::{Port, VcpuId};
use oxen_arch::memory::PhysMem;
use oxen_arch::sync::{Rank, SpinLock};
use oxen_arch::{Machine, SimConfig};
use proptest::prelude::*;

use crate::event::cell::PortCell;
use crate::event::fifo::queues::{self, Places, Queue, Queues, Raised, Slot};
use crate::event::fifo::word::EventWord;
use crate::event::word::Priority;

const PENDING: u32 = 1 << 31;
const MASKED: u32 = 1 << 30;
const LINKED: u32 = 1 << 29;
const LINK: u32 = (1 << 17) - 1;

/// Pages of words, of homes, and of both control blocks; between them pages that nobody writes to.
const WORDS: Mfn = Mfn::new(0x200);
const HOMES: Mfn = Mfn::new(0x202);
const CONTROL: Mfn = Mfn::new(0x204);
const OTHERS: [Mfn; 4] = [
    Mfn::new(0x1ff),
    Mfn::new(0x201),
    Mfn::new(0x203),
    Mfn::new(0x205),
];
const PORTS: u32 = 7;

struct Bench {
    machine: Machine,
    vcpus: [SpinLock<Queues>; 2],
    /// The heads that the kernel of each vCPU goes on with.
    heads: [[u32; 16]; 2],
    /// What it still has to look at.
    ready: [u32; 2],
    priorities: [u32; PORTS as usize],
    told: [VcpuId; PORTS as usize],
}

impl Places for Bench {
    fn queues(&self, vcpu: VcpuId) -> Option<&SpinLock<Queues>> {
        self.vcpus.get(vcpu.get() as usize)
    }

    fn slot(&self, port: Port) -> Option<Slot> {
        (port.get() < 1024).then(|| Slot {
            word: EventWord::of(WORDS, port),
            home: HOMES.at(port.get() as usize * 2),
        })
    }
}

fn control(vcpu: usize) -> Maddr {
    CONTROL.at(vcpu * 2048)
}

impl Bench {
    fn new() -> Self {
        let (machine, _) = Machine::new(SimConfig::new(4 << 20));
        for mfn in [WORDS, HOMES, CONTROL].into_iter().chain(OTHERS) {
            machine.mem().zero_frame(mfn).unwrap();
        }
        Self {
            machine,
            vcpus: [(); 2].map(|()| SpinLock::new(Rank::Queues, Queues::new())),
            heads: [[0; 16]; 2],
            ready: [0; 2],
            priorities: [7; PORTS as usize],
            told: [VcpuId::new(0); PORTS as usize],
        }
    }

    fn with_controls() -> Self {
        let bench = Self::new();
        for vcpu in 0..2 {
            assert!(!bench.set_control(vcpu));
        }
        bench
    }

    fn set_control(&self, vcpu: usize) -> bool {
        let mut queues = self.vcpus[vcpu].lock();
        queues.set_control(self.mem(), control(vcpu)).unwrap()
    }

    fn mem(&self) -> &PhysMem {
        self.machine.mem()
    }

    fn word_at(port: u32) -> Maddr {
        WORDS.at(port as usize * 4)
    }

    fn word(&self, port: u32) -> u32 {
        self.mem().load_u32(Self::word_at(port)).unwrap()
    }

    fn queue(&self, port: u32) -> Queue {
        Queue {
            vcpu: self.told[port as usize],
            priority: Priority::new(self.priorities[port as usize]).unwrap(),
        }
    }

    fn send(&self, port: u32) -> Raised {
        let cell = PortCell::new();
        queues::raise(self.mem(), self, &cell, Port::new(port), self.queue(port)).unwrap()
    }

    fn unmask(&self, port: u32) -> bool {
        queues::unmask(self.mem(), self, Port::new(port), self.queue(port)).unwrap()
    }

    fn mask(&self, port: u32) {
        self.mem()
            .fetch_or_u32(Self::word_at(port), MASKED)
            .unwrap();
    }

    /// The kernel of a vCPU takes the next port out, and handles its event if there is one. `None`: there is nothing to take. The other: which,
    /// and whether there was an event.
    fn take(&mut self, vcpu: usize) -> Option<(u32, bool)> {
        let mem = self.machine.mem();
        self.ready[vcpu] |= mem.fetch_and_u32(control(vcpu), 0).unwrap();
        let queue = self.ready[vcpu].trailing_zeros() as usize;
        let head = self.heads[vcpu].get_mut(queue)?;
        if *head == 0 {
            let at = Maddr::new(control(vcpu).get() + 8 + queue as u64 * 4);
            *head = mem.load_u32(at).unwrap();
        }
        let port = *head & LINK & 1023;
        let at = Self::word_at(port);
        let word = mem.fetch_and_u32(at, !(LINKED | LINK)).unwrap();
        *head = word & LINK;
        if *head == 0 {
            self.ready[vcpu] &= !(1 << queue);
        }
        let is_event = word & (PENDING | MASKED) == PENDING;
        if is_event {
            mem.fetch_and_u32(at, !PENDING).unwrap();
        }
        Some((port, is_event))
    }
}

fn tells(raised: Raised) -> bool {
    raised.tells
}

/// What should be.
#[derive(Default)]
struct Model {
    queues: [[VecDeque<u32>; 16]; 2],
    pending: [bool; PORTS as usize],
    masked: [bool; PORTS as usize],
    linked: [bool; PORTS as usize],
}

impl Model {
    fn link(&mut self, port: u32, queue: Queue) {
        let index = port as usize;
        if self.pending[index] && !self.masked[index] && !self.linked[index] {
            self.linked[index] = true;
            let queues = &mut self.queues[queue.vcpu.get() as usize];
            queues[queue.priority.index()].push_back(port);
        }
    }

    fn take(&mut self, vcpu: usize) -> Option<(u32, bool)> {
        let mut queues = self.queues[vcpu].iter_mut();
        let port = queues.find_map(VecDeque::pop_front)?;
        let index = port as usize;
        self.linked[index] = false;
        let is_event = self.pending[index] && !self.masked[index];
        self.pending[index] &= !is_event;
        Some((port, is_event))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(u32),
    Mask(u32),
    Unmask(u32),
    Priority(u32, u32),
    Move(u32, u32),
    Take(usize),
    TakeAll(usize),
    /// A word, a head, or what is ready.
    Scribble(usize, u32),
}

fn steps(hostile: bool) -> impl Strategy<Value = Vec<Step>> {
    let port = || 1..PORTS;
    let step = prop_oneof![
        8 => port().prop_map(Step::Send),
        2 => port().prop_map(Step::Mask),
        3 => port().prop_map(Step::Unmask),
        2 => (port(), 0..16_u32).prop_map(|(port, priority)| Step::Priority(port, priority)),
        2 => (port(), 0..2_u32).prop_map(|(port, vcpu)| Step::Move(port, vcpu)),
        6 => (0..2_usize).prop_map(Step::Take),
        1 => (0..2_usize).prop_map(Step::TakeAll),
        if hostile { 6 } else { 0 } => (any::<usize>(), any::<u32>(), any::<bool>())
            .prop_map(|(at, value, few)| Step::Scribble(at, if few { value & !LINK | value & 7 } else { value })),
    ];
    proptest::collection::vec(step, 1..200)
}

impl Bench {
    /// What both sides do alike; whether somebody is told.
    fn step(&mut self, step: &Step) -> bool {
        match *step {
            Step::Send(port) => tells(self.send(port)),
            Step::Unmask(port) => self.unmask(port),
            Step::Mask(port) => {
                self.mask(port);
                false
            }
            Step::Priority(port, priority) => {
                self.priorities[port as usize] = priority;
                false
            }
            Step::Move(port, vcpu) => {
                self.told[port as usize] = VcpuId::new(vcpu);
                false
            }
            Step::Take(vcpu) => {
                self.take(vcpu);
                false
            }
            Step::TakeAll(vcpu) => {
                // Hostile words may be a circle.
                let _ = (0..50).find_map(|_| self.take(vcpu).is_none().then_some(()));
                false
            }
            Step::Scribble(at, value) => {
                let words = (1..PORTS).map(Self::word_at);
                let blocks = [control(0), control(1)].into_iter();
                let fields =
                    blocks.flat_map(|block| (0..18).map(move |n| Maddr::new(block.get() + n * 4)));
                let places: Vec<_> = words.chain(fields).collect();
                let place = places[at % places.len()];
                self.mem().store_u32(place, value).unwrap();
                false
            }
        }
    }
}

proptest! {
    #[test]
    fn each_event_is_seen_once_by_priority_and_then_in_order(steps in steps(false)) {
        let mut bench = Bench::with_controls();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Take(vcpu) => prop_assert_eq!(bench.take(vcpu), model.take(vcpu)),
                Step::TakeAll(vcpu) => loop {
                    let taken = bench.take(vcpu);
                    prop_assert_eq!(taken, model.take(vcpu));
                    if taken.is_none() {
                        break;
                    }
                },
                step => {
                    let ready = |bench: &Bench| {
                        [0, 1].map(|vcpu| bench.mem().load_u32(control(vcpu)).unwrap())
                    };
                    let before = ready(&bench);
                    let is_told = bench.step(&step);
                    prop_assert_eq!(is_told, before != ready(&bench));
                    match step {
                        Step::Send(port) => model.pending[port as usize] = true,
                        Step::Mask(port) => model.masked[port as usize] = true,
                        Step::Unmask(port) => model.masked[port as usize] = false,
                        _ => {}
                    }
                    if let Step::Send(port) | Step::Unmask(port) = step {
                        model.link(port, bench.queue(port));
                    }
                }
            }
            for port in 1..PORTS {
                let index = port as usize;
                let expected = [model.pending[index], model.masked[index], model.linked[index]];
                let word = bench.word(port);
                prop_assert_eq!([PENDING, MASKED, LINKED].map(|bit| word & bit != 0), expected);
            }
        }
        for vcpu in [0, 1] {
            while let Some(taken) = bench.take(vcpu) {
                prop_assert_eq!(Some(taken), model.take(vcpu));
            }
            prop_assert_eq!(None, model.take(vcpu));
        }
        for port in 1..PORTS {
            let word = bench.word(port);
            prop_assert!(word & PENDING == 0 || word & MASKED != 0, "port {port} is left");
        }
    }

    /// Whatever a guest writes: nothing but its own pages changes, homes are queues that there are, and when it begins anew all works.
    #[test]
    fn a_guest_that_scribbles_harms_itself_alone(steps in steps(true)) {
        let mut bench = Bench::with_controls();
        for step in &steps {
            bench.step(step);
        }
        let mut page = [0; 4096];
        for other in OTHERS {
            bench.mem().read_bytes(other.start(), &mut page).unwrap();
            prop_assert_eq!(page, [0; 4096]);
        }
        for port in 1..1024_usize {
            let home = bench.mem().load_u16(HOMES.at(port * 2)).unwrap();
            prop_assert!(home < 32);
        }
        for vcpu in [0, 1] {
            prop_assert_eq!(bench.vcpus[vcpu].lock().end(), Some(control(vcpu)));
            bench.heads[vcpu] = [0; 16];
            bench.ready[vcpu] = 0;
        }
        for page in [WORDS, CONTROL] {
            bench.mem().zero_frame(page).unwrap();
        }
        for vcpu in [0, 1] {
            prop_assert!(!bench.set_control(vcpu));
        }
        bench.priorities = [7; PORTS as usize];
        for port in [3, 1, 2] {
            bench.told[port as usize] = VcpuId::new(0);
            prop_assert_eq!(tells(bench.send(port)), port == 3);
        }
        let taken: Vec<_> = std::iter::from_fn(|| bench.take(0)).collect();
        prop_assert_eq!(taken, [(3, true), (1, true), (2, true)]);
    }
}

#[test]
fn what_comes_before_the_control_block_waits_for_it() {
    let mut bench = Bench::new();
    bench.priorities = [7, 7, 7, 2, 7, 7, 7];
    for port in [5, 3, 1] {
        assert!(!tells(bench.send(port)));
        assert!(bench.word(port) & LINKED != 0);
    }
    assert!(bench.set_control(0), "it is told now");
    assert!(
        !bench.set_control(1),
        "nobody has anything to say to that one"
    );
    let taken: Vec<_> = std::iter::from_fn(|| bench.take(0)).collect();
    assert_eq!(taken, [(3, true), (5, true), (1, true)]);
}

#[test]
fn a_tail_that_moved_away_is_the_tail_no_more() {
    let mut bench = Bench::with_controls();
    bench.send(1);
    assert_eq!(bench.take(0), Some((1, true)));
    // The port that the first vCPU's queue ended with begins a queue of the other one.
    bench.told[1] = VcpuId::new(1);
    assert!(tells(bench.send(1)));
    bench.told[3] = VcpuId::new(1);
    assert!(!tells(bench.send(3)));
    assert!(tells(bench.send(2)));
    assert_eq!(bench.take(0), Some((2, true)));
    assert_eq!(bench.take(0), None);
    assert_eq!(
        [0; 3].map(|_| bench.take(1)),
        [Some((1, true)), Some((3, true)), None]
    );
}

/// A word that does not let itself be linked to ends the attempt; it is not left busy.
#[test]
fn a_word_that_does_not_rest_is_given_up() {
    let bench = Bench::with_controls();
    bench.send(1);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let (is_over, order) = (&is_over, std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        let bench = &bench;
        scope.spawn(move || {
            let mut value = 0;
            while !is_over.load(order) {
                value = (value + 1) & 7;
                let word = PENDING | LINKED | value;
                bench.mem().store_u32(Bench::word_at(1), word).unwrap();
            }
        });
        for _ in 0..200 {
            EventWord::of(WORDS, Port::new(1))
                .link(bench.mem(), Port::new(2))
                .unwrap();
        }
        is_over.store(true, order);
    });
    assert_eq!(bench.word(1) & (1 << 28), 0);
}
