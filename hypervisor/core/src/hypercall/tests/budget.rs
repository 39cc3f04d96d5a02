//! How far an entry gets with each kind of work: each is charged what it costs, and goes on in the next entry.

use dom0_abi::addr::Mfn;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::memory::MemoryCommand;
use dom0_abi::sched::SchedCommand;
use dom0_abi::xen::MmuextCommand;

use crate::budget::Budget;
use crate::domain::Capabilities;
use crate::frame::UndoQueue;
use crate::page_type::PageType;
use crate::testing::{DATA, DATA_END, Guest, frame};
use crate::trap::return_path::Next;

/// Where a call tells how much is done.
const DONE: u64 = DATA;
/// Where lists of its own are, and what their elements name.
const LIST: u64 = DATA + 0x1000;
const INNER: u64 = DATA + 0x7000;
const SELF: u64 = DomId::SELF.get() as u64;
const FULL: u32 = Budget::FULL.units();

const PRESENT: u64 = 1;
const WRITABLE: u64 = 3;
/// A request of a list, and a call of a batch.
const REQUEST: u32 = 5;
const CALL: u32 = 10;

/// How many of a row are done in an entry of which the first costs `first`, and each that begins while `least` units are left
/// costs `each`.
fn share(first: u32, least: u32, each: u32) -> u32 {
    let (mut left, mut done) = (FULL.saturating_sub(first), 1);
    while left >= least {
        left = left.saturating_sub(each);
        done += 1;
    }
    done
}

impl Guest {
    fn frames(&self, count: usize) -> Vec<Mfn> {
        let undo = UndoQueue::new();
        let memory = self.host.memory(&self.cpu, &undo);
        (0..count).map(|_| frame(memory, self.domid)).collect()
    }

    /// Writes words one behind the other.
    fn put_words(&self, at: u64, words: impl IntoIterator<Item = u64>) {
        for (index, word) in words.into_iter().enumerate() {
            let place = at + index as u64 * 8;
            assert!(place < DATA_END);
            self.put(place, &word);
        }
    }

    fn fill(&self, table: Mfn, entries: impl IntoIterator<Item = u64>) {
        for (index, entry) in entries.into_iter().enumerate() {
            self.host.mem().store_u64(table.word(index), entry).unwrap();
        }
    }

    /// One entry of a call; whether the call is over.
    fn enter(&mut self) -> bool {
        let rip = self.regs.rip;
        assert_eq!(self.syscall(), Next::Guest);
        let is_over = self.regs.rip == rip;
        assert!(is_over || self.regs.rip == rip - 2);
        self.regs.rip = rip;
        is_over
    }

    fn begin(&mut self, call: Hypercall, args: [u64; 5]) -> bool {
        self.regs.rax = call.number();
        let regs = &mut self.regs;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8] = args;
        self.enter()
    }

    /// Makes a call to its end, which is a success; returns the number of entries.
    fn whole(&mut self, call: Hypercall, args: [u64; 5]) -> u32 {
        let mut entries = 1;
        let mut is_over = self.begin(call, args);
        while !is_over {
            assert!(entries < 10_000, "it goes on for ever");
            is_over = self.enter();
            entries += 1;
        }
        assert_eq!(self.regs.rax, 0);
        entries
    }

    /// Makes a call with a list, and sees that all of it is done in the end; returns how much the first entry did.
    fn listed(&mut self, call: Hypercall, words: Vec<u64>, size: usize) -> u32 {
        let count = (words.len() / size) as u32;
        self.put_words(LIST, words);
        self.put(DONE, &0_u64);
        let mut is_over = self.begin(call, [LIST, count.into(), DONE, SELF, 0]);
        let first = self.get::<u32>(DONE);
        for _ in 0..10_000 {
            if is_over {
                break;
            }
            is_over = self.enter();
        }
        assert!(is_over, "it goes on for ever");
        assert_eq!((self.regs.rax, self.get::<u32>(DONE)), (0, count));
        first
    }

    fn operations(
        &mut self,
        count: usize,
        operation: impl Fn(usize) -> (MmuextCommand, u64, u64),
    ) -> u32 {
        let words = (0..count).flat_map(|index| {
            let (command, first, second) = operation(index);
            [command as u64, first, second]
        });
        let words = words.collect();
        self.listed(Hypercall::MmuextOp, words, 3)
    }

    fn updates(&mut self, count: usize, request: impl Fn(usize) -> (u64, u64)) -> u32 {
        let words = (0..count).flat_map(|index| <[u64; 2]>::from(request(index)));
        let words = words.collect();
        self.listed(Hypercall::MmuUpdate, words, 2)
    }

    /// Makes calls in a batch, all of which succeed; returns how many the first entry made.
    fn batch(&mut self, count: usize, call: Hypercall, args: [u64; 5]) -> u32 {
        let [a, b, c, d, e] = args;
        let entry = [call.number(), u64::MAX, a, b, c, d, e, 0];
        self.put_words(LIST, (0..count).flat_map(|_| entry));
        let result = |guest: &Self, index: usize| guest.get::<u64>(LIST + index as u64 * 64 + 8);
        let mut is_over = self.begin(Hypercall::Multicall, [LIST, count as u64, 0, 0, 0]);
        let first = (0..count).filter(|&index| result(self, index) == 0).count();
        while !is_over {
            is_over = self.enter();
        }
        assert!((0..count).all(|index| result(self, index) == 0));
        first as u32
    }

    fn operation(&mut self, command: MmuextCommand, mfn: Mfn) -> u32 {
        self.put_words(LIST, [command as u64, mfn.get(), 0]);
        self.whole(Hypercall::MmuextOp, [LIST, 1, 0, SELF, 0])
    }
}

#[test]
fn what_is_paid_afterwards_is_never_too_much() {
    let mut budget = Budget::new(10);
    budget.pay(4);
    assert_eq!(budget, Budget::new(6));
    budget.pay(7);
    assert_eq!(budget, Budget::SPENT);
    assert!(!budget.take(1));
}

#[test]
fn i18_whole_pages_and_flushes_cost_more_than_their_requests() {
    use MmuextCommand::*;
    let mut guest = Guest::dom0();
    let pages = guest.frames(2);
    let (one, other) = (pages[0].get(), pages[1].get());
    guest.put(INNER, &1_u64);
    for (command, first, second, cost) in [
        (InvlpgLocal, DATA, 0, 1),
        (TlbFlushLocal, 0, 0, 10),
        (ClearPage, one, 0, 6),
        (CopyPage, one, other, 6),
        // A vCPU, and its CPU, which is the caller's.
        (TlbFlushAll, 0, 0, 11),
        (InvlpgAll, DATA, 0, 11),
        (TlbFlushMulti, 0, INNER, 11),
        (FlushCache, 0, 0, FULL),
        (FlushCacheGlobal, 0, 0, FULL),
    ] {
        let seen = guest.operations(300, |_| (command, first, second));
        let right = share(cost, REQUEST, REQUEST + cost);
        assert_eq!(seen, right, "{command:?}");
    }
}

#[test]
fn i18_a_list_gets_on_with_any_budget() {
    for units in [0, 1, 4, 5, 6, 20] {
        let mut guest = Guest::dom0();
        let page = guest.frames(1)[0].get();
        guest.host.set_entry_budget(Budget::new(units));
        let done = guest.operations(30, |_| (MmuextCommand::ClearPage, page, 0));
        assert_eq!(done, if units < 11 { 1 } else { 2 });
    }
}

/// The frames become tables, and are tables no more; then they are mapped, and given back while they are.
#[test]
fn i18_frames_that_change_their_use_cost_more_than_their_entries() {
    const COUNT: usize = 200;
    let mut guest = Guest::dom0();
    let frames = guest.frames(COUNT);
    let table = guest.frames(1)[0];
    guest.operation(MmuextCommand::PinL1Table, table);
    let pin = guest.operations(COUNT, |index| {
        (MmuextCommand::PinL1Table, frames[index].get(), 0)
    });
    // A claim, and a table.
    assert_eq!(pin, share(27, REQUEST + 20, REQUEST + 27));
    let unpin = guest.operations(COUNT, |index| {
        (MmuextCommand::UnpinTable, frames[index].get(), 0)
    });
    // It comes into the queue, and is undone before the next request.
    let each = REQUEST + 4 + 20;
    assert_eq!(unpin, share(0, each, each));
    let map = guest.updates(COUNT, |index| {
        (
            table.word(index).get(),
            frames[index].start().get() | WRITABLE,
        )
    });
    assert_eq!(map, share(7, REQUEST, REQUEST + 7));
    let undo = UndoQueue::new();
    for &mfn in &frames {
        let memory = guest.host.memory(&guest.cpu, &undo);
        memory.release_domain_frame(mfn, guest.domid).unwrap();
    }
    let unmap = guest.updates(COUNT, |index| (table.word(index).get(), 0));
    assert_eq!(unmap, share(5, REQUEST, REQUEST + 5));
}

#[test]
fn i18_tables_cost_what_is_in_them() {
    let mut guest = Guest::dom0();
    let table = guest.frames(1)[0];
    let frames = guest.frames(512);
    guest.fill(table, frames.iter().map(|mfn| mfn.start().get() | PRESENT));
    // 64 lines of 8 entries, half as much again for the lines.
    assert_eq!(guest.operation(MmuextCommand::PinL1Table, table), 2);
    assert_eq!(guest.operation(MmuextCommand::UnpinTable, table), 1);
    assert_eq!(guest.operation(MmuextCommand::PinL1Table, table), 2);
    let undo = UndoQueue::new();
    for &mfn in &frames {
        let memory = guest.host.memory(&guest.cpu, &undo);
        memory.release_domain_frame(mfn, guest.domid).unwrap();
    }
    // Now each entry is the last use of its frame.
    let entries = 512 * 6 / FULL;
    assert_eq!(
        guest.operation(MmuextCommand::UnpinTable, table),
        entries + 1
    );

    // Frames that were tables are claimed one by one.
    let frames = guest.frames(256);
    for &mfn in &frames {
        guest.operation(MmuextCommand::PinL1Table, mfn);
        guest.operation(MmuextCommand::UnpinTable, mfn);
    }
    let table = guest.frames(1)[0];
    guest.fill(table, frames.iter().map(|mfn| mfn.start().get() | WRITABLE));
    let entries = 256 * (1 + 7) / FULL;
    assert!(guest.operation(MmuextCommand::PinL1Table, table) > entries);

    // One table, found ready in each entry of the table above.
    let (l2, l1) = (guest.frames(1)[0], guest.frames(1)[0]);
    guest.operation(MmuextCommand::PinL1Table, l1);
    guest.fill(l2, (0..512).map(|_| l1.start().get() | PRESENT));
    let entries = 512 * 3 / FULL;
    assert_eq!(guest.operation(MmuextCommand::PinL2Table, l2), entries + 1);
}

#[test]
fn i18_twins_cost_a_page() {
    let mut guest = Guest::configured(DomId::DOM0, Capabilities::all(), |config| {
        config.xpti = Some(true);
    });
    assert!(guest.host.machine.uses_twins());
    let roots = guest.frames(16);
    let pin = guest.operations(roots.len(), |index| {
        (MmuextCommand::PinL4Table, roots[index].get(), 0)
    });
    let each = 27 + 25;
    assert_eq!(pin, share(each, REQUEST + 20, REQUEST + each));
}

#[test]
fn i18_calls_of_a_batch_cost_what_they_do() {
    let mut guest = Guest::dom0();
    let pages = guest.frames(14);
    let undo = UndoQueue::new();
    let held: Vec<_> = pages
        .iter()
        .map(|&mfn| {
            let memory = guest.host.memory(&guest.cpu, &undo);
            let domain = guest.host.domains.get(guest.domid).unwrap();
            let reach = crate::page_type::hold::Reach::own(&guest.host, &domain);
            let (ty, mut budget) = (PageType::Descriptors, Budget::ENDLESS);
            let page = crate::page_type::promote::acquire(memory, &reach, mfn, ty, &mut budget);
            page.unwrap().into_held()
        })
        .collect();
    guest.put_words(INNER, pages.iter().map(|mfn| mfn.get()));
    let calls = guest.batch(40, Hypercall::SetGdt, [INNER, 14 * 512, 0, 0, 0]);
    assert_eq!(calls, share(14 * 4, CALL, CALL + 14 * 4));
    let memory = guest.host.memory(&guest.cpu, &undo);
    for held in held {
        drop(crate::page_type::TypeRef::from_held(memory, held));
    }

    // The caller's domain, 128 entries, which lie in a page of their own.
    guest.put_words(INNER, [SELF, 128, DATA + 0x5000]);
    let set = MemoryCommand::SetMemoryMap as u64;
    let calls = guest.batch(40, Hypercall::MemoryOp, [set, INNER, 0, 0, 0]);
    assert_eq!(calls, share(128, CALL, CALL + 128));
    guest.put_words(INNER, [128, DATA + 0x5000]);
    let map = MemoryCommand::MemoryMap as u64;
    let calls = guest.batch(40, Hypercall::MemoryOp, [map, INNER, 0, 0, 0]);
    assert_eq!(calls, share(128, CALL, CALL + 128));
    // 128 times a port that is not pending, and a time.
    guest.put_words(INNER, [0]);
    assert_eq!(
        guest.whole(Hypercall::EventChannelOp, [7, INNER, 0, 0, 0]),
        1
    );
    guest.put_words(INNER, [DATA + 0x5000, 128, 1]);
    guest.put_words(DATA + 0x5000, (0..64).map(|_| 1 | 1 << 32));
    let poll = SchedCommand::Poll as u64;
    let calls = guest.batch(40, Hypercall::SchedOp, [poll, INNER, 0, 0, 0]);
    assert_eq!(calls, share(128, CALL, CALL + 128));
}

#[test]
fn i18_descriptors_cost_more_than_entries() {
    let mut guest = Guest::dom0();
    let page = guest.frames(1)[0];
    guest.fill(page, (0..512).map(|_| 0x00cf_f300_0000_ffff));
    guest.put(INNER, &page.get());
    let entries = guest.whole(Hypercall::SetGdt, [INNER, 512, 0, 0, 0]);
    assert_eq!(entries, 512 * 2 / FULL + 1);
}

/// How many extents of one frame are given back, and got, in an entry.
#[test]
fn i18_frames_cost_their_zeroing_and_their_accounts() {
    const COUNT: u64 = 300;
    let mut guest = Guest::dom0();
    guest.domain(|domain| {
        let limit = &domain.memory.limit;
        limit.store(3000, oxen_arch::sync::atomic::Ordering::Relaxed);
    });
    let frames = guest.frames(COUNT as usize);
    guest.put_words(LIST, frames.iter().map(|mfn| mfn.get()));
    guest.put_words(INNER, [LIST, COUNT, 0, SELF]);
    for (command, least, each) in [
        // A frame that is given back becomes free.
        (MemoryCommand::DecreaseReservation, 4, 4 + 5),
        (MemoryCommand::PopulatePhysmap, 7 + 9 + 1, 7 + 9 + 1),
    ] {
        let over = guest.begin(Hypercall::MemoryOp, [command as u64, INNER, 0, 0, 0]);
        assert!(!over, "{command:?}");
        let done = guest.regs.rdi >> 6 & 0x3ff_ffff;
        assert_eq!(done, share(each, least, each).into(), "{command:?}");
        while !guest.enter() {}
        assert_eq!(guest.regs.rax, COUNT);
    }
}
