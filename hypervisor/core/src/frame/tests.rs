use std::collections::BTreeMap;

use dom0_abi::addr::Maddr;
use oxen_arch::SimConfig;
use oxen_arch::boot::CpuId;
use proptest::prelude::*;

use super::*;

const A: DomId = DomId::new(1);
const B: DomId = DomId::new(2);

struct Bench {
    machine: Machine,
    cpu: Cpu,
    frames: Frames,
    undo: UndoQueue,
}

impl Bench {
    fn new(mib: u64) -> Self {
        let mut config = SimConfig::new(mib << 20);
        config.cpus = 5;
        let machine = Machine::new(config).0;
        Self {
            cpu: machine.cpu(CpuId::BOOT),
            frames: Frames::new(&machine).unwrap(),
            machine,
            undo: UndoQueue::new(),
        }
    }

    fn memory(&self) -> Memory<'_> {
        Memory {
            frames: &self.frames,
            machine: &self.machine,
            cpu: &self.cpu,
            undo: &self.undo,
        }
    }
}

fn next(mfn: Mfn) -> Mfn {
    Mfn::new(mfn.get() + 1)
}

fn assigned(memory: Memory<'_>, owner: DomId) -> Mfn {
    let held = memory.alloc(0, Placement::Anywhere).unwrap();
    memory.assign(held, owner, Scrub::Keep).unwrap().start
}

#[test]
fn all_that_boot_left_is_free() {
    let bench = Bench::new(16);
    let frames = &bench.frames;
    let Statistics { total, free } = frames.statistics();
    assert_eq!(total, free);
    assert!(free > 3700 && free < 4096, "{free} of 4096 frames are free");

    // What a module lay in joins them.
    let held = frames.adopt(MfnRange::new(Mfn::new(0xa0), Mfn::new(0xa4)));
    assert_eq!(
        frames.statistics(),
        Statistics {
            total: total + 4,
            free
        }
    );
    drop(held);
    assert_eq!(
        frames.statistics(),
        Statistics {
            total: total + 4,
            free: free + 4
        }
    );
}

#[test]
fn held_frames_are_given_back_on_every_way() {
    let bench = Bench::new(16);
    let (frames, memory) = (&bench.frames, bench.memory());
    let at_first = frames.statistics();
    let free = || frames.statistics().free;

    let held = memory.alloc(4, Placement::Anywhere).unwrap();
    assert_eq!((held.nr_frames(), held.start().get() % 16), (16, 0));
    assert_eq!(free(), at_first.free - 16);
    assert_eq!(frames.owner(held.start()), None);
    drop(held);
    assert_eq!(frames.statistics(), at_first);

    // The tail of the block goes back at once, and pieces one by one.
    let held = memory.alloc_contiguous(37, Placement::Anywhere).unwrap();
    assert_eq!(free(), at_first.free - 37);
    let range = held.range();
    let (first, rest) = held.split(5);
    assert_eq!((first.range().start, first.nr_frames()), (range.start, 5));
    assert_eq!((rest.range().end, rest.nr_frames()), (range.end, 32));
    drop(first);
    assert_eq!(free(), at_first.free - 32);
    let (all, none) = rest.split(100);
    assert_eq!((all.nr_frames(), none.nr_frames()), (32, 0));
    drop((none, all));
    assert_eq!(frames.statistics(), at_first);
}

#[test]
fn what_cannot_be_allocated() {
    let bench = Bench::new(16);
    let (frames, memory) = (&bench.frames, bench.memory());
    let at_first = frames.statistics();
    let alloc = |order, placement| memory.alloc(order, placement).map(|_| ());
    assert_eq!(alloc(MAX_ORDER, Placement::Anywhere), Err(Errno::ENOMEM));
    assert_eq!(
        alloc(MAX_ORDER + 1, Placement::Anywhere),
        Err(Errno::ENOMEM)
    );
    assert_eq!(alloc(u8::MAX, Placement::Anywhere), Err(Errno::ENOMEM));
    assert_eq!(
        alloc(0, Placement::AddressBits(MIN_ADDRESS_BITS - 1)),
        Err(Errno::ENOMEM)
    );
    assert_eq!(alloc(0, Placement::AddressBits(MIN_ADDRESS_BITS)), Ok(()));
    for (nr_frames, errno) in [
        (0, Errno::EINVAL),
        (1 << 20, Errno::ENOMEM),
        (u64::MAX, Errno::ENOMEM),
    ] {
        assert_eq!(
            memory
                .alloc_contiguous(nr_frames, Placement::Anywhere)
                .map(|_| ()),
            Err(errno)
        );
    }
    assert_eq!(frames.statistics(), at_first);
}

#[test]
fn a_limit_of_address_bits_holds() {
    let bench = Bench::new(4096);
    let memory = bench.memory();
    assert!(
        memory
            .alloc(0, Placement::Anywhere)
            .unwrap()
            .start()
            .start()
            >= Maddr::new(1 << 32)
    );
    for bits in [32, 31, 30, 25, 24] {
        let held = memory.alloc(6, Placement::AddressBits(bits)).unwrap();
        assert!(
            held.range().end.start() <= Maddr::new(1 << bits),
            "{held:?} in {bits} bits"
        );
    }
}

#[test]
fn a_domain_gets_zeroed_frames_unless_it_is_meant_to_see_them() {
    let bench = Bench::new(16);
    let (machine, frames, memory) = (&bench.machine, &bench.frames, bench.memory());
    for (scrub, wanted) in [(Scrub::Zero, [0; 8]), (Scrub::Keep, *b"a secret")] {
        let held = memory.alloc(1, Placement::Anywhere).unwrap();
        for mfn in held.range().iter() {
            machine
                .mem()
                .write_bytes(mfn.at(4088), b"a secret")
                .unwrap();
        }
        for mfn in memory.assign(held, A, scrub).unwrap().iter() {
            let mut seen = [1; 8];
            machine.mem().read_bytes(mfn.at(4088), &mut seen).unwrap();
            assert_eq!(seen, wanted);
            assert_eq!(
                (frames.owner(mfn), frames.reference_count(mfn)),
                (Some(A), 1)
            );
            memory.release_domain_frame(mfn, A).unwrap();
        }
    }
}

#[test]
fn frames_that_cannot_be_zeroed_are_not_assigned() {
    let bench = Bench::new(16);
    let (machine, frames, memory) = (&bench.machine, &bench.frames, bench.memory());
    let held = memory.alloc(1, Placement::Anywhere).unwrap();
    let range = held.range();
    // The second of the two holds an object: memory access refuses it.
    let object = FrameBox::new(
        machine.mem(),
        MfnRange::new(next(range.start), range.end),
        7u64,
    )
    .unwrap();
    let free = frames.statistics().free;
    assert_eq!(memory.assign(held, A, Scrub::Zero), Err(Errno::EIO));
    assert_eq!(frames.owner(range.start), None);
    assert_eq!(frames.statistics().free, free + 2);
    drop(object);
}

#[test]
fn a_frame_lives_until_its_last_reference_ends() {
    let bench = Bench::new(16);
    let (frames, memory) = (&bench.frames, bench.memory());
    let at_first = frames.statistics();
    let mfn = assigned(memory, A);

    let first = memory.acquire(mfn, A).unwrap();
    let second = memory.acquire(mfn, A).unwrap();
    assert_eq!((first.mfn(), frames.reference_count(mfn)), (mfn, 3));
    assert_eq!(memory.acquire(mfn, B).map(|_| ()), Err(Errno::EINVAL));

    assert_eq!(memory.release_domain_frame(mfn, B), Err(Errno::EINVAL));
    memory.release_domain_frame(mfn, A).unwrap();
    assert_eq!(
        memory.release_domain_frame(mfn, A),
        Err(Errno::EINVAL),
        "given back twice"
    );
    assert_eq!(frames.owner(mfn), None);
    assert_eq!(
        memory.acquire(mfn, A).map(|_| ()),
        Err(Errno::EINVAL),
        "the domain has given it back"
    );

    drop(first);
    assert_eq!(frames.statistics().free, at_first.free - 1);
    drop(second);
    assert_eq!(frames.statistics(), at_first);
    assert_eq!(frames.reference_count(mfn), 0);
}

#[test]
fn i1_a_frame_that_comes_back_is_flushed_before_it_is_a_table() {
    let bench = Bench::new(16);
    let (frames, memory) = (&bench.frames, bench.memory());
    let mfn = assigned(memory, A);
    drop(crate::page_type::TypeRef::writable(memory, mfn, A).unwrap());
    let mut taken = TakenFrames::new(memory, A);
    taken.take(mfn).unwrap();
    drop(taken);
    assert!(frames.is_of(mfn, A));
    let state = frames.type_state(mfn);
    let was = Some(type_word::PageType::Writable);
    assert!(
        matches!(state, Some(TypeState::None { was: last, stamp }) if last == was && stamp != TlbStamp::NEVER),
        "a CPU may write to it still: {state:?}"
    );
}

#[test]
fn no_reference_to_what_no_domain_has() {
    let bench = Bench::new(16);
    let (machine, frames, memory) = (&bench.machine, &bench.frames, bench.memory());
    let held = memory.alloc(2, Placement::Anywhere).unwrap();
    let high = machine.max_mfn();
    for mfn in [
        held.start(),
        next(held.start()),
        Mfn::new(0),
        Mfn::new(0x800),
        high,
        Mfn::new(1 << 32),
        Mfn::new(!0),
    ] {
        for domain in [DomId::DOM0, A, DomId::XEN, DomId::INVALID] {
            assert_eq!(
                memory.acquire(mfn, domain).map(|_| ()),
                Err(Errno::EINVAL),
                "{mfn}"
            );
            assert_eq!(
                memory.release_domain_frame(mfn, domain),
                Err(Errno::EINVAL),
                "{mfn}"
            );
        }
        assert_eq!((frames.owner(mfn), frames.reference_count(mfn)), (None, 0));
    }
}

#[test]
fn objects_live_in_frames_of_their_own() {
    let bench = Bench::new(16);
    let (frames, memory) = (&bench.frames, bench.memory());
    let at_first = frames.statistics();
    let small = memory.place(5u32).unwrap();
    let large = memory.place([7u8; 3 * PAGE_SIZE + 1]).unwrap();
    assert_eq!((*small, large[3 * PAGE_SIZE]), (5, 7));
    assert_eq!(frames.statistics().free, at_first.free - 5);
    memory.unplace(small);
    memory.unplace(large);
    assert_eq!(frames.statistics(), at_first);

    // With no memory left the value comes back.
    let mut held = Vec::new();
    while let Ok(frame) = memory.alloc(0, Placement::Anywhere) {
        held.push(frame);
    }
    assert_eq!(memory.place(5u32).map(|_| ()), Err(5));
    drop(held);
    assert_eq!(frames.statistics(), at_first);
}

#[test]
fn several_cpus_take_and_end_references() {
    let bench = Bench::new(16);
    let (machine, frames, memory) = (&bench.machine, &bench.frames, bench.memory());
    let at_first = frames.statistics();
    let mfn = assigned(memory, A);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (frames, machine, undo) = (frames, machine, &bench.undo);
            scope.spawn(move || {
                let cpu = machine.cpu(CpuId::new(thread + 1));
                let memory = Memory {
                    frames,
                    machine,
                    cpu: &cpu,
                    undo,
                };
                let mut held = Vec::new();
                for round in 0..500 {
                    held.extend(memory.acquire(mfn, A).ok());
                    if round % 3 == 0 {
                        held.clear();
                    }
                    drop(memory.alloc_contiguous(1 + round % 7, Placement::Anywhere));
                    if thread == 0 && round == 300 {
                        memory.release_domain_frame(mfn, A).unwrap();
                    }
                    let own = assigned(memory, B);
                    memory.release_domain_frame(own, B).unwrap();
                }
            });
        }
    });
    assert_eq!(memory.acquire(mfn, A).map(|_| ()), Err(Errno::EINVAL));
    assert_eq!(frames.statistics(), at_first);
}

#[derive(Clone, Debug)]
enum Op {
    Assign {
        order: u8,
        owner: u16,
    },
    Acquire {
        frame: prop::sample::Index,
        owner: u16,
    },
    Drop {
        which: prop::sample::Index,
    },
    GiveBack {
        frame: prop::sample::Index,
        owner: u16,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (0u8..4, 0u16..2).prop_map(|(order, owner)| Op::Assign { order, owner }),
        (index(), 0u16..2).prop_map(|(frame, owner)| Op::Acquire { frame, owner }),
        index().prop_map(|which| Op::Drop { which }),
        (index(), 0u16..2).prop_map(|(frame, owner)| Op::GiveBack { frame, owner }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a table of owners and counts.
    #[test]
    fn references_agree_with_a_model(ops in proptest::collection::vec(op(), 1..120)) {
        let bench = Bench::new(4);
        let (frames, memory) = (&bench.frames, bench.memory());
        let at_first = frames.statistics();
        // Owner, whether the domain has it, references that are held.
        let mut model: BTreeMap<Mfn, (DomId, bool, usize)> = BTreeMap::new();
        let mut held: Vec<FrameRef<'_>> = Vec::new();

        for op in ops {
            let frame_of = |frame: prop::sample::Index| match model.len() {
                0 => Mfn::new(0x200),
                len => *model.keys().nth(frame.index(len)).unwrap(),
            };
            match op {
                Op::Assign { order, owner } => {
                    if let Ok(block) = memory.alloc(order, Placement::Anywhere) {
                        let range = memory.assign(block, DomId::new(owner), Scrub::Zero).unwrap();
                        for mfn in range.iter() {
                            prop_assert!(model.insert(mfn, (DomId::new(owner), true, 0)).is_none());
                        }
                    }
                }
                Op::Acquire { frame, owner } => {
                    let mfn = frame_of(frame);
                    let entry = model.get_mut(&mfn).filter(|entry| (entry.0, entry.1) == (DomId::new(owner), true));
                    let got = memory.acquire(mfn, DomId::new(owner));
                    prop_assert_eq!(got.is_ok(), entry.is_some());
                    if let (Ok(reference), Some(entry)) = (got, entry) {
                        entry.2 += 1;
                        held.push(reference);
                    }
                }
                Op::Drop { which } if !held.is_empty() => {
                    let reference = held.swap_remove(which.index(held.len()));
                    let entry = model.get_mut(&reference.mfn()).unwrap();
                    entry.2 -= 1;
                    if !entry.1 && entry.2 == 0 {
                        model.remove(&reference.mfn());
                    }
                }
                Op::Drop { .. } => {}
                Op::GiveBack { frame, owner } => {
                    let mfn = frame_of(frame);
                    let entry = model.get_mut(&mfn).filter(|entry| (entry.0, entry.1) == (DomId::new(owner), true));
                    prop_assert_eq!(memory.release_domain_frame(mfn, DomId::new(owner)).is_ok(), entry.is_some());
                    if let Some(entry) = entry {
                        entry.1 = false;
                        if entry.2 == 0 {
                            model.remove(&mfn);
                        }
                    }
                }
            }
            prop_assert_eq!(frames.statistics().free + model.len() as u64, at_first.free);
        }
        for (&mfn, &(owner, is_allocated, count)) in &model {
            prop_assert_eq!(frames.owner(mfn), is_allocated.then_some(owner));
            prop_assert_eq!(frames.reference_count(mfn) as usize, count + usize::from(is_allocated));
            if is_allocated {
                memory.release_domain_frame(mfn, owner).unwrap();
            }
        }
        drop(held);
        prop_assert_eq!(frames.statistics(), at_first);
    }
}
