//! Calls at random: whatever a guest asks for, every frame is somebody's exactly once and every account is right.

use super::*;
use dom0_abi::memory::MemoryExchange;
use proptest::prelude::*;

/// A word of a list.
#[derive(Clone, Copy, Debug)]
enum Word {
    /// What an earlier call told.
    Told(usize),
    Any(u64),
}

#[derive(Clone, Debug)]
struct Act {
    command: u64,
    progress: u64,
    counts: [u64; 2],
    orders: [u32; 2],
    flags: u32,
    domid: DomId,
    lists: [u64; 2],
    words: Vec<Word>,
    units: u32,
    failing_write: Option<u64>,
    is_finished: bool,
}

fn act() -> impl Strategy<Value = Act> {
    let count = || prop_oneof![8 => 0_u64..6, 1 => any::<u64>()];
    let order = || prop_oneof![8 => 0_u32..5, 1 => 0_u32..70, 1 => any::<u32>()];
    let list = || {
        prop_oneof![
            6 => Just(LIST),
            4 => Just(OTHER_LIST),
            1 => proptest::sample::select(&HOSTILE[..]),
            1 => Just(READ_ONLY),
            1 => Just(DATA_END - 16),
        ]
    };
    let word = prop_oneof![
        6 => (0_usize..64).prop_map(Word::Told),
        2 => (0_u64..4096).prop_map(Word::Any),
        1 => any::<u64>().prop_map(Word::Any),
    ];
    let domid = prop_oneof![
        6 => Just(DomId::SELF),
        1 => Just(DomId::DOM0),
        2 => Just(DomId::new(9)),
        1 => any::<u16>().prop_map(DomId::new),
    ];
    let command =
        prop_oneof![6 => proptest::sample::select(&[0_u64, 1, 6, 11][..]), 1 => 0_u64..64];
    let shape = (
        command,
        prop_oneof![6 => Just(0_u64), 1 => 0_u64..4, 1 => 0..1_u64 << 58],
        [count(), count()],
        [order(), order()],
        prop_oneof![4 => Just(0_u32), 1 => 20_u32..30, 1 => any::<u32>()],
        domid,
    );
    let rest = (
        [list(), list()],
        proptest::collection::vec(word, 8),
        prop_oneof![Just(30_u32), Just(640)],
        proptest::option::weighted(0.2, 1_u64..6),
        proptest::bool::weighted(0.9),
    );
    (shape, rest).prop_map(
        |(
            (command, progress, counts, orders, flags, domid),
            (lists, words, units, failing_write, is_finished),
        )| Act {
            command,
            progress,
            counts,
            orders,
            flags,
            domid,
            lists,
            words,
            units,
            failing_write,
            is_finished,
        },
    )
}

fn perform(guest: &mut Guest, told: &mut Vec<u64>, act: &Act) {
    for (index, word) in (0..).zip(&act.words) {
        let word = match *word {
            Word::Told(index) => told.get(index).copied().unwrap_or(index as u64),
            Word::Any(word) => word,
        };
        guest.put(LIST + index * 8, &word);
        guest.put(OTHER_LIST + index * 8, &word);
    }
    let side = |index: usize| MemoryReservation {
        extent_start: at(act.lists[index]),
        nr_extents: act.counts[index],
        extent_order: act.orders[index],
        mem_flags: act.flags,
        domid: act.domid,
        ..MemoryReservation::new_zeroed()
    };
    let mut argument = MemoryExchange {
        input: side(0),
        output: side(1),
        nr_exchanged: act.progress,
    };
    if act.command == MemoryCommand::Exchange as u64 && act.counts[0] < 1 << 32 {
        // Sides that fit each other, or hardly anything would happen.
        let frames = act.counts[0] << act.orders[0].min(20);
        argument.output.nr_extents = frames >> act.orders[1].min(20);
    }
    guest.put(ARGUMENT, &argument);
    guest.host.set_entry_budget(Budget::new(act.units));
    if let Some(nth) = act.failing_write {
        guest.host.machine.fail_guest_write(nth);
    }
    let command = act.command | act.progress << CONTINUATION_SHIFT;
    if act.is_finished {
        guest.memory_op(command, ARGUMENT);
    } else {
        let rip = guest.regs.rip;
        guest.regs.rax = Hypercall::MemoryOp.number();
        (guest.regs.rdi, guest.regs.rsi) = (command, ARGUMENT);
        assert_eq!(guest.syscall(), Next::Guest);
        guest.regs.rip = rip;
    }
    guest.host.machine.fail_guest_write(0);
    for list in [LIST, OTHER_LIST] {
        for mfn in guest.list::<8>(list) {
            if guest.is_own(mfn) && told.len() < 64 {
                told.push(mfn);
            }
        }
    }
}

fn owned(guest: &Guest, domid: DomId) -> u64 {
    let mut count = 0;
    guest.host.frames.visit_of(domid, |_| count += 1);
    count
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn i10_pages_accounted_are_frames_owned_and_none_is_lost(
        is_control in any::<bool>(),
        acts in proptest::collection::vec(act(), 1..30),
    ) {
        let mut guest = limited(if is_control { Guest::dom0() } else { Guest::ordinary() });
        let neighbour = guest.neighbour().domid;
        let all = guest.free() + owned(&guest, guest.domid) + owned(&guest, neighbour);
        let others = owned(&guest, neighbour);
        let mut told = Vec::new();
        for act in &acts {
            perform(&mut guest, &mut told, act);
            for domid in [guest.domid, neighbour] {
                prop_assert_eq!(owned(&guest, domid), guest.host.frames.count_of(domid));
            }
            let map = u64::from(guest.domain(|domain| domain.map.is_set()))
                + u64::from(guest.host.domains.get(neighbour).unwrap().map.is_set());
            let now = guest.free() + owned(&guest, guest.domid) + owned(&guest, neighbour) + map;
            prop_assert_eq!(now, all, "frames are lost, or come from nowhere");
            prop_assert!(guest.pages() <= 3000);
            if !is_control {
                prop_assert_eq!(owned(&guest, neighbour), others);
            }
            guest.audit();
        }
    }
}
