//! The words of a frame under several CPUs, in every order.
//!
//! The bytes of a frame are part of each model: who relies on what was checked reads them, who has them writable
//! writes them, who has the frame alone does both, and the checker fails if any of these meet.
#![forbid(unsafe_code)]

use arch::CpuId;
use dom0_abi::addr::Mfn;
use dom0_abi::ids::DomId;
use interleavings::frame::type_word::ENTRIES;
use interleavings::frame::{Claim, Frames, Level, PageType, TypeState};
use interleavings::sync::atomic::{AtomicU64, Ordering};
use interleavings::tlb::{CpuSet, CpuTlb, Tlb};
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

const A: DomId = DomId::new(1);
const B: DomId = DomId::new(2);
const L1: PageType = PageType::Table(Level::L1);
const L2: PageType = PageType::Table(Level::L2);
const FRAME: Mfn = Mfn::new(0);

/// Every order.
const ALL: Option<usize> = None;
/// The orders in which a CPU is interrupted so often at most, for what has too many.
const FEW: Option<usize> = Some(3);
/// Fewer still, for three CPUs.
const FEWER: Option<usize> = Some(1);

fn check(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

/// Runs closures at the same time, the first on this thread; each gets the frames and its number.
fn race<const N: usize>(frames: &Arc<Frames>, cpus: [fn(&Frames, usize); N]) {
    let others: Vec<_> = (1..N)
        .map(|me| {
            let frames = frames.clone();
            let cpu = cpus[me];
            thread::spawn(move || cpu(&frames, me))
        })
        .collect();
    cpus[0](frames, 0);
    for other in others {
        other.join().unwrap();
    }
}

/// Makes a frame the type, which must be possible.
fn make(frames: &Frames, mfn: Mfn, ty: PageType) {
    match frames.claim(mfn, ty, A) {
        Claim::Ready => {}
        Claim::Work { .. } => {
            frames.use_alone(mfn);
            frames.finish(mfn);
        }
        other => panic!("{other:?}"),
    }
}

/// Promotes if that is possible now, uses the table and leaves it.
fn use_as(frames: &Frames, ty: PageType) {
    match frames.claim(FRAME, ty, A) {
        Claim::Ready => {}
        Claim::Work { next, .. } => {
            frames.use_alone(FRAME);
            assert_eq!(next, 0);
            frames.finish(FRAME);
        }
        Claim::Again | Claim::Refused => return,
    }
    assert!(
        matches!(frames.type_state(FRAME), Some(TypeState::InUse { ty: now, .. }) if now == ty),
        "a reference keeps the type"
    );
    frames.read_checked(FRAME);
    frames.release(FRAME);
    frames.drain();
}

/// Maps writable if that is possible now, writes and unmaps.
fn map_and_write(frames: &Frames, me: usize) {
    if frames.writable(FRAME, A) == Claim::Ready {
        frames.write(FRAME, me);
        frames.release(FRAME);
    }
}

/// After all: nothing but the allocation refers to the frame, and it has no type.
fn is_quiet(frames: &Frames) {
    frames.drain();
    assert_eq!(frames.references(FRAME), 1);
    let state = frames.type_state(FRAME);
    assert!(matches!(state, Some(TypeState::None { .. })), "{state:?}");
}

#[test]
fn i1_promotion_and_writable_mapping_exclude_each_other() {
    check(FEW, || {
        let frames = Arc::new(Frames::of(A, 1));
        race(
            &frames,
            [
                |frames, _| use_as(frames, L1),
                |frames, me| {
                    map_and_write(frames, me);
                },
            ],
        );
        is_quiet(&frames);
    });
}

#[test]
fn i1_a_mapping_that_ends_lets_a_promotion_in_only_after_it() {
    check(ALL, || {
        let frames = Arc::new(Frames::of(A, 1));
        make(&frames, FRAME, PageType::Writable);
        race(
            &frames,
            [
                |frames, me| {
                    frames.write(FRAME, me);
                    frames.release(FRAME);
                },
                |frames, _| match frames.claim(FRAME, L1, A) {
                    Claim::Work { flush, .. } => {
                        assert!(flush.is_some(), "it was writable: TLBs may know that");
                        frames.use_alone(FRAME);
                        frames.finish(FRAME);
                        frames.read_checked(FRAME);
                        frames.release(FRAME);
                    }
                    other => assert_eq!(other, Claim::Refused),
                },
            ],
        );
        is_quiet(&frames);
    });
}

#[test]
fn i2_of_two_types_a_frame_gets_one() {
    check(FEWER, || {
        let frames = Arc::new(Frames::of(A, 1));
        race(
            &frames,
            [
                |frames, _| use_as(frames, L1),
                |frames, _| use_as(frames, L2),
                map_and_write,
            ],
        );
        is_quiet(&frames);
    });
}

#[test]
fn i2_two_that_promote_to_the_same_type_check_once_at_a_time() {
    check(FEW, || {
        let frames = Arc::new(Frames::of(A, 1));
        race(
            &frames,
            [
                |frames, _| use_as(frames, L1),
                |frames, _| {
                    use_as(frames, L1);
                },
            ],
        );
        is_quiet(&frames);
    });
}

#[test]
fn i3_the_last_reference_ends_beside_a_new_one() {
    check(ALL, || {
        let frames = Arc::new(Frames::of(A, 1));
        make(&frames, FRAME, L1);
        race(
            &frames,
            [
                |frames, _| {
                    frames.read_checked(FRAME);
                    frames.release(FRAME);
                    frames.drain();
                },
                |frames, _| match frames.share(FRAME, L1, A) {
                    Claim::Ready => {
                        frames.read_checked(FRAME);
                        frames.release(FRAME);
                        frames.drain();
                    }
                    // Being undone, or undone.
                    other => assert!(matches!(other, Claim::Again | Claim::Refused)),
                },
            ],
        );
        is_quiet(&frames);
    });
}

#[test]
fn i3_the_last_reference_ends_beside_a_promotion() {
    check(FEWER, || {
        let frames = Arc::new(Frames::of(A, 1));
        make(&frames, FRAME, L1);
        race(
            &frames,
            [
                |frames, _| {
                    frames.release(FRAME);
                    frames.drain();
                },
                |frames, _| use_as(frames, L1),
                map_and_write,
            ],
        );
        is_quiet(&frames);
    });
}

#[test]
fn i3_of_two_that_release_one_undoes() {
    check(ALL, || {
        let frames = Arc::new(Frames::of(A, 1));
        make(&frames, FRAME, L1);
        make(&frames, FRAME, L1);
        let cpu = |frames: Arc<Frames>| {
            move || {
                frames.read_checked(FRAME);
                frames.release(FRAME);
                frames.drain()
            }
        };
        let other = thread::spawn(cpu(frames.clone()));
        let mine = cpu(frames.clone())();
        let others = other.join().unwrap();
        assert_eq!(mine.0 + others.0, 1, "one of them comes last");
        assert_eq!(mine.1 + others.1, u32::from(ENTRIES));
        is_quiet(&frames);
    });
}

#[test]
fn i3_who_took_a_table_out_of_use_goes_on_when_it_is_undone() {
    check(ALL, || {
        let frames = Arc::new(Frames::of(A, 1));
        make(&frames, FRAME, L1);
        let other = {
            let frames = frames.clone();
            thread::spawn(move || frames.drain())
        };
        frames.release(FRAME);
        let mine = frames.drain();
        assert!(
            matches!(frames.type_state(FRAME), Some(TypeState::None { .. })),
            "somebody else has it in his hands"
        );
        assert_eq!(mine.0 + other.join().unwrap().0, 1);
        is_quiet(&frames);
    });
}

#[test]
fn i3_two_queues_of_work_lose_no_table() {
    check(ALL, || {
        let frames = Arc::new(Frames::of(A, 2));
        let second = Frames::mfn(1);
        make(&frames, FRAME, L1);
        make(&frames, second, L1);
        let other = {
            let frames = frames.clone();
            thread::spawn(move || {
                frames.release(second);
                frames.drain().0
            })
        };
        frames.release(FRAME);
        frames.drain_partly(7);
        let mine = frames.drain().0;
        assert_eq!(mine + other.join().unwrap() + frames.drain().0, 2);
        assert_eq!(frames.references(second), 1);
        is_quiet(&frames);
    });
}

#[test]
fn i4_a_frame_that_is_given_back_while_it_is_used_becomes_free_once() {
    check(ALL, || {
        let frames = Arc::new(Frames::of(A, 1));
        let user = {
            let frames = frames.clone();
            thread::spawn(move || {
                if !frames.acquire(FRAME, A) {
                    return false;
                }
                frames.read_checked(FRAME);
                frames.put(FRAME)
            })
        };
        let is_free = frames.give_back(FRAME, A).expect("it is the domain's");
        assert!(frames.give_back(FRAME, A).is_none(), "given back twice");
        assert!(!frames.acquire(FRAME, A), "a frame that was given back");
        assert_ne!(is_free, user.join().unwrap(), "freed once, by one of them");
        assert_eq!(frames.references(FRAME), 0);
    });
}

#[test]
fn i4_a_type_keeps_a_frame_that_is_given_back() {
    check(ALL, || {
        let frames = Arc::new(Frames::of(A, 1));
        race(
            &frames,
            [
                |frames, _| use_as(frames, L1),
                |frames, _| {
                    frames.give_back(FRAME, A).expect("it is the domain's");
                },
            ],
        );
        frames.drain();
        assert_eq!(frames.references(FRAME), 0);
        // Alone at last: nobody reads what was checked.
        frames.use_alone(FRAME);
    });
}

#[test]
fn i4_a_frame_is_taken_only_from_those_who_do_not_use_it() {
    check(ALL, || {
        let frames = Arc::new(Frames::of(A, 1));
        let user = {
            let frames = frames.clone();
            thread::spawn(move || use_as(&frames, L1))
        };
        if frames.take(FRAME, A) {
            frames.use_alone(FRAME);
            assert!(!frames.acquire(FRAME, A));
        }
        user.join().unwrap();
        frames.drain();
        assert!(frames.references(FRAME) < 2);
    });
}

/// Two writable mappings of a page, and what the TLBs of two CPUs hold of them.
struct Mapped {
    frames: Frames,
    tlb: Tlb<Vec<CpuTlb>>,
    entries: [AtomicU64; 2],
    cached: [AtomicU64; 2],
}

impl Mapped {
    /// Both CPUs run a guest, and nothing is mapped.
    fn new() -> Arc<Self> {
        let world = Self {
            frames: Frames::of(A, 1),
            tlb: Tlb::new((0..2).map(|_| CpuTlb::new()).collect()),
            entries: [AtomicU64::new(0), AtomicU64::new(0)],
            cached: [AtomicU64::new(0), AtomicU64::new(0)],
        };
        for cpu in 0..2 {
            world.tlb.remember_again(CpuId::new(cpu));
        }
        Arc::new(world)
    }

    /// A CPU maps the page, if it can be writable now, and walks.
    fn map(&self, cpu: usize) -> bool {
        let is_mapped = self.frames.writable(FRAME, A) == Claim::Ready;
        if is_mapped {
            self.entries[cpu].store(1, Ordering::Release);
            self.fill(cpu);
        }
        is_mapped
    }

    /// A CPU walks, at any time.
    fn fill(&self, cpu: usize) {
        let seen = self.entries[cpu].load(Ordering::Relaxed);
        self.cached[cpu].store(seen, Ordering::Relaxed);
    }

    /// A CPU flushes, on its own, as for a change of roots; what is mapped it may walk at once.
    fn flush(&self, cpu: usize) {
        self.tlb
            .flush_all(CpuId::new(cpu as u32), || self.fill(cpu));
    }

    /// A CPU removes its mapping and ends the reference, as `mmu::update` does.
    fn unmap(&self, cpu: usize) {
        self.entries[cpu].swap(0, Ordering::AcqRel);
        self.frames.release_at(FRAME, || self.tlb.stamp());
    }

    /// Whoever claims the page as a page table is told of all CPUs that may still write to it.
    fn claim(&self) {
        let Claim::Work { flush, .. } = self.frames.claim(FRAME, L1, A) else {
            return;
        };
        let stale = flush.map_or(CpuSet::EMPTY, |stamp| self.tlb.stale_since(stamp));
        for cpu in 0..2 {
            assert!(
                stale.contains(CpuId::new(cpu))
                    || self.cached[cpu as usize].load(Ordering::Relaxed) == 0,
                "not said to be stale, but holds a writable translation of a page table"
            );
        }
        self.frames.use_alone(FRAME);
        self.frames.refuse(FRAME, 0);
    }
}

#[test]
fn i5_who_gets_a_frame_knows_of_every_translation_that_is_left() {
    check(FEW, || {
        let world = Mapped::new();
        assert!(world.map(0) && world.map(1));
        let other = {
            let world = world.clone();
            thread::spawn(move || {
                world.flush(1);
                world.unmap(1);
            })
        };
        world.unmap(0);
        world.claim();
        other.join().unwrap();
        is_quiet(&world.frames);
    });
}

#[test]
fn i5_a_last_reference_has_the_time_of_its_own_end() {
    check(FEW, || {
        let world = Mapped::new();
        assert!(world.map(0));
        let other = {
            let world = world.clone();
            thread::spawn(move || {
                // Behind the flush it holds nothing; then it maps and writes, beside the mapping that goes away meanwhile.
                world.flush(1);
                if world.map(1) {
                    world.unmap(1);
                }
            })
        };
        world.unmap(0);
        other.join().unwrap();
        world.claim();
        is_quiet(&world.frames);
    });
}

#[test]
fn i5_a_frame_that_changes_hands_meanwhile_is_left_to_its_new_owner() {
    check(ALL, || {
        let frames = Arc::new(Frames::of(A, 1));
        make(&frames, FRAME, L1);
        let late = {
            let frames = frames.clone();
            thread::spawn(move || {
                // A vCPU of the first domain, which has seen that the frame is its own.
                if frames.share(FRAME, L1, A) == Claim::Ready {
                    frames.read_checked(FRAME);
                    frames.release(FRAME);
                    frames.drain();
                }
            })
        };
        frames.release(FRAME);
        frames.drain();
        if frames.give_back(FRAME, A) == Some(true) {
            frames.assign(FRAME, B);
            match frames.claim(FRAME, L1, B) {
                Claim::Work { .. } => {
                    frames.use_alone(FRAME);
                    frames.finish(FRAME);
                    frames.read_checked(FRAME);
                    frames.release(FRAME);
                    frames.drain();
                }
                other => panic!("{other:?} of a frame that nobody has used"),
            }
            late.join().unwrap();
            is_quiet(&frames);
        } else {
            late.join().unwrap();
            frames.drain();
            assert_eq!(frames.references(FRAME), 0);
        }
    });
}

#[test]
fn i10_a_parked_promotion_is_resumed_by_one() {
    check(FEW, || {
        let frames = Arc::new(Frames::of(A, 1));
        let Claim::Work { next: 0, .. } = frames.claim(FRAME, L1, A) else {
            panic!("a frame without a type");
        };
        frames.use_alone(FRAME);
        frames.park(FRAME, 3);
        let go_on = |frames: &Frames, _| match frames.claim(FRAME, L1, A) {
            Claim::Ready => {
                frames.read_checked(FRAME);
                frames.release(FRAME);
                frames.drain();
            }
            Claim::Work { next: 0, .. } => {
                // The other has finished and given it up.
                frames.refuse(FRAME, 0);
            }
            Claim::Work { next, .. } => {
                assert_eq!(next, 3, "what comes next is where it stopped");
                frames.use_alone(FRAME);
                frames.finish(FRAME);
                frames.read_checked(FRAME);
                frames.release(FRAME);
                frames.drain();
            }
            other => assert!(matches!(other, Claim::Again | Claim::Refused), "{other:?}"),
        };
        race(&frames, [go_on, go_on]);
        is_quiet(&frames);
    });
}

#[test]
fn i10_two_that_park_in_turns_lose_no_entry() {
    check(FEWER, || {
        let frames = Arc::new(Frames::of(A, 1));
        let Claim::Work { next: 0, .. } = frames.claim(FRAME, L1, A) else {
            panic!("a frame without a type");
        };
        frames.park(FRAME, 1);
        // Each checks one entry and stops.
        let step = |frames: Arc<Frames>| {
            move || match frames.claim(FRAME, L1, A) {
                Claim::Work { next, .. } => {
                    frames.use_alone(FRAME);
                    frames.park(FRAME, next + 1);
                    1
                }
                other => {
                    assert_eq!(other, Claim::Again, "parked, or in the other's hands");
                    0
                }
            }
        };
        let others = [
            thread::spawn(step(frames.clone())),
            thread::spawn(step(frames.clone())),
        ];
        let mut steps = step(frames.clone())();
        for other in others {
            steps += other.join().unwrap();
        }
        let state = frames.type_state(FRAME).unwrap();
        assert_eq!(
            state,
            TypeState::Parked {
                ty: L1,
                progress: 1 + steps
            }
        );
        assert!(frames.abandon(FRAME));
        assert_eq!(frames.drain(), (1, u32::from(1 + steps)));
        is_quiet(&frames);
    });
}

#[test]
fn i10_giving_up_beside_going_on() {
    check(ALL, || {
        let frames = Arc::new(Frames::of(A, 1));
        let Claim::Work { next: 0, .. } = frames.claim(FRAME, L1, A) else {
            panic!("a frame without a type");
        };
        frames.park(FRAME, 5);
        let goes_on = {
            let frames = frames.clone();
            thread::spawn(move || match frames.claim(FRAME, L1, A) {
                Claim::Work { next: 5, .. } => {
                    frames.use_alone(FRAME);
                    frames.refuse(FRAME, 5);
                    true
                }
                Claim::Work { next: 0, .. } => {
                    frames.refuse(FRAME, 0);
                    false
                }
                other => {
                    assert_eq!(other, Claim::Again);
                    false
                }
            })
        };
        let mut undone = (0, 0);
        let has_given_up = frames.abandon(FRAME);
        if has_given_up {
            undone = frames.drain();
        }
        assert_ne!(has_given_up, goes_on.join().unwrap(), "one of them has it");
        let rest = frames.drain();
        assert_eq!((undone.0 + rest.0, undone.1 + rest.1), (1, 5));
        is_quiet(&frames);
    });
}

#[test]
fn i3_a_frame_is_pinned_once() {
    check(ALL, || {
        let frames = Arc::new(Frames::of(A, 1));
        make(&frames, FRAME, L1);
        make(&frames, FRAME, L1);
        let cpu = |frames: Arc<Frames>| move || u32::from(frames.pin(FRAME));
        let other = thread::spawn(cpu(frames.clone()));
        let mine = cpu(frames.clone())();
        assert_eq!(mine + other.join().unwrap(), 1);
        let state = frames.type_state(FRAME).unwrap();
        assert_eq!(
            state,
            TypeState::InUse {
                ty: L1,
                count: 1,
                is_pinned: true
            }
        );
        assert!(frames.unpin(FRAME, A));
        is_quiet(&frames);
    });
}

#[test]
fn i3_a_pin_ends_once() {
    check(FEW, || {
        let frames = Arc::new(Frames::of(A, 1));
        make(&frames, FRAME, L1);
        assert!(frames.pin(FRAME));
        let cpu = |frames: Arc<Frames>| {
            move || {
                let unpinned = u32::from(frames.unpin(FRAME, A));
                frames.drain();
                unpinned
            }
        };
        let other = thread::spawn(cpu(frames.clone()));
        let mine = cpu(frames.clone())();
        assert_eq!(mine + other.join().unwrap(), 1);
        is_quiet(&frames);
    });
}

#[test]
fn i3_pin_and_unpin_beside_a_reference_that_ends() {
    check(FEW, || {
        let frames = Arc::new(Frames::of(A, 1));
        make(&frames, FRAME, L1);
        make(&frames, FRAME, L1);
        race(
            &frames,
            [
                |frames, _| {
                    frames.pin(FRAME);
                },
                |frames, _| {
                    frames.unpin(FRAME, A);
                    frames.drain();
                },
                |frames, _| {
                    frames.read_checked(FRAME);
                    frames.release(FRAME);
                    frames.drain();
                },
            ],
        );
        if matches!(
            frames.type_state(FRAME),
            Some(TypeState::InUse {
                is_pinned: true,
                ..
            })
        ) {
            assert!(frames.unpin(FRAME, A));
        }
        is_quiet(&frames);
    });
}

#[test]
fn i1_a_cache_mode_is_remembered_until_it_was_written_back() {
    check(ALL, || {
        let frames = Arc::new(Frames::of(A, 1));
        make(&frames, FRAME, PageType::Writable);
        race(
            &frames,
            [
                |frames, _| {
                    frames.mark_incoherent(FRAME);
                    frames.release(FRAME);
                },
                map_and_write,
            ],
        );
        match frames.claim(FRAME, L1, A) {
            Claim::Work { is_incoherent, .. } => assert!(is_incoherent),
            other => panic!("{other:?}"),
        }
        frames.refuse(FRAME, 0);
        is_quiet(&frames);
    });
}
