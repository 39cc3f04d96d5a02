//! Stamps against flushes, and mailboxes, in every order.
//!
//! A page table is one word, an entry that is there or not. What a CPU's TLB holds is another: filled from the entry at
//! any time by a plain load, as a processor does on its own, and emptied by a flush.
#![forbid(unsafe_code)]

use arch::CpuId;
use dom0_abi::addr::GuestAddr;
use interleavings::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use interleavings::tlb::{CpuSet, CpuTlb, Flush, Tlb, TlbStamp};
use loom::model::Builder;
use loom::sync::{Arc, Mutex};
use loom::thread;

const REMOVER: CpuId = CpuId::new(0);
const USER: CpuId = CpuId::new(1);

type Boxes = Tlb<Vec<CpuTlb>>;

/// One entry, and what the user's TLB holds of it.
struct World {
    tlb: Boxes,
    entry: AtomicU64,
    cached: AtomicU64,
}

impl World {
    fn new(cpus: usize) -> Arc<Self> {
        Arc::new(Self {
            tlb: Tlb::new((0..cpus).map(|_| CpuTlb::new()).collect()),
            entry: AtomicU64::new(1),
            cached: AtomicU64::new(0),
        })
    }

    /// The user's processor walks.
    fn fill(&self) {
        let seen = self.entry.load(Ordering::Relaxed);
        if self.cached.load(Ordering::Relaxed) == 0 {
            self.cached.store(seen, Ordering::Relaxed);
        }
    }

    /// The user's processor forgets, and may walk at once.
    fn flush(&self) {
        self.cached.store(0, Ordering::Relaxed);
        self.fill();
    }

    /// Removes the entry, stamps, and asks at once who is stale. If the user is said not to be, its TLB is empty.
    fn remove(&self) -> TlbStamp {
        self.entry.store(0, Ordering::Relaxed);
        let stamp = self.tlb.stamp();
        self.look(stamp);
        stamp
    }

    fn look(&self, stamp: TlbStamp) {
        if !self.tlb.stale_since(stamp).contains(USER) {
            assert_eq!(
                self.cached.load(Ordering::Relaxed),
                0,
                "not stale, but still held"
            );
        }
    }
}

fn check(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

#[test]
fn a_flush_beside_a_removal_misses_nothing() {
    check(None, || {
        let world = World::new(2);
        world.tlb.remember_again(USER);
        let remover = {
            let world = world.clone();
            thread::spawn(move || world.remove())
        };
        world.fill();
        world.tlb.flush_all(USER, || world.flush());
        world.fill();
        let stamp = remover.join().unwrap();
        world.look(stamp);
    });
}

#[test]
fn a_root_that_is_loaded_beside_a_removal_misses_nothing() {
    check(None, || {
        let world = World::new(2);
        let remover = {
            let world = world.clone();
            thread::spawn(move || world.remove())
        };
        world.tlb.remember_again(USER);
        world.fill();
        let stamp = remover.join().unwrap();
        world.look(stamp);
    });
}

#[test]
fn a_root_that_is_left_beside_a_removal_misses_nothing() {
    check(None, || {
        let world = World::new(2);
        world.tlb.remember_again(USER);
        let remover = {
            let world = world.clone();
            thread::spawn(move || world.remove())
        };
        world.fill();
        world
            .tlb
            .flush_all(USER, || world.cached.store(0, Ordering::Relaxed));
        world.tlb.forget_everything(USER);
        world.tlb.remember_again(USER);
        world.fill();
        let stamp = remover.join().unwrap();
        world.look(stamp);
    });
}

#[test]
fn a_stamp_may_travel() {
    check(None, || {
        let world = World::new(2);
        world.tlb.remember_again(USER);
        // As the word of a frame carries it.
        let word = Arc::new(AtomicU64::new(TlbStamp::NEVER.bits()));
        let remover = {
            let (world, word) = (world.clone(), word.clone());
            thread::spawn(move || {
                world.entry.store(0, Ordering::Relaxed);
                word.store(world.tlb.stamp().bits(), Ordering::Release);
            })
        };
        let third = {
            let (world, word) = (world.clone(), word.clone());
            thread::spawn(move || {
                let stamp = TlbStamp::from_bits(word.load(Ordering::Acquire));
                if stamp != TlbStamp::NEVER {
                    world.look(stamp);
                }
            })
        };
        world.fill();
        world.tlb.flush_all(USER, || world.flush());
        world.fill();
        remover.join().unwrap();
        third.join().unwrap();
    });
}

/// Serves until the flag is up.
fn serve_until(tlb: &Boxes, me: CpuId, done: &AtomicBool, flush: impl Fn(Flush)) {
    while !done.load(Ordering::Acquire) {
        tlb.serve(me, &flush);
        thread::yield_now();
    }
}

#[test]
fn a_request_is_answered_after_the_flush() {
    check(None, || {
        let world = World::new(2);
        world.tlb.remember_again(USER);
        world.fill();
        let done = Arc::new(AtomicBool::new(false));
        let remover = {
            let (world, done) = (world.clone(), done.clone());
            thread::spawn(move || {
                world.entry.store(0, Ordering::Relaxed);
                let nothing = |_| ();
                let tlb = &world.tlb;
                tlb.shoot(
                    REMOVER,
                    &CpuSet::one(USER),
                    Flush::All,
                    nothing,
                    |_| (),
                    || (),
                );
                assert_eq!(world.cached.load(Ordering::Relaxed), 0);
                done.store(true, Ordering::Release);
            })
        };
        world.fill();
        serve_until(&world.tlb, USER, &done, |_| world.flush());
        remover.join().unwrap();
    });
}

#[test]
fn two_that_shoot_at_each_other_both_come_back() {
    check(Some(2), || {
        let tlb: Arc<Boxes> = Arc::new(Tlb::new((0..2).map(|_| CpuTlb::new()).collect()));
        let flushes = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let finished = Arc::new(AtomicU64::new(0));
        tlb.remember_again(REMOVER);
        tlb.remember_again(USER);
        let play = |me: CpuId, other: CpuId| {
            let (tlb, flushes, finished) = (tlb.clone(), flushes.clone(), finished.clone());
            move || {
                let index = |cpu: CpuId| cpu.get() as usize;
                let flush = |_| _ = flushes[index(me)].fetch_add(1, Ordering::Relaxed);
                let serve = || tlb.serve(me, flush);
                tlb.shoot(me, &CpuSet::one(other), Flush::All, |_| (), |_| (), serve);
                assert_eq!(flushes[index(other)].load(Ordering::Relaxed), 1);
                finished.fetch_add(1, Ordering::Release);
                while finished.load(Ordering::Acquire) < 2 {
                    serve();
                    thread::yield_now();
                }
            }
        };
        let other = thread::spawn(play(USER, REMOVER));
        play(REMOVER, USER)();
        other.join().unwrap();
    });
}

#[test]
fn of_two_senders_each_gets_what_it_asked_for() {
    check(Some(2), || {
        let tlb: Arc<Boxes> = Arc::new(Tlb::new((0..3).map(|_| CpuTlb::new()).collect()));
        tlb.remember_again(USER);
        // One bit for each page that was flushed. The target takes an interrupt at once, one at a time.
        let flushed = Arc::new(Mutex::new(0_u64));
        let send = |id: u32| {
            let (tlb, flushed) = (tlb.clone(), flushed.clone());
            move || {
                let interrupt = |target| {
                    let mut flushed = flushed.lock().unwrap();
                    tlb.serve(target, |what| {
                        *flushed |= match what {
                            Flush::All => 0b101,
                            Flush::Page(at) => 1 << (at.get() >> 12),
                        };
                    });
                };
                let page = Flush::Page(GuestAddr::new(u64::from(id) << 12));
                let (me, target) = (CpuId::new(id), CpuSet::one(USER));
                tlb.shoot(me, &target, page, interrupt, |_| (), || ());
                assert_ne!(*flushed.lock().unwrap() >> id & 1, 0);
            }
        };
        let other = thread::spawn(send(2));
        send(0)();
        other.join().unwrap();
    });
}
