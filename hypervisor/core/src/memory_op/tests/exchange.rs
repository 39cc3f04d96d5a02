//! `exchange`, and what is left of it when it fails at any place.

use super::*;
use MemoryCommand::{Exchange, PopulatePhysmap};
use dom0_abi::ids::VcpuId;
use dom0_abi::memory::MemoryExchange;

/// So many extents of an order at [`LIST`] for as many frames in extents of another at [`OTHER_LIST`].
fn argument(count: u64, order: u32, wanted: u32) -> MemoryExchange {
    let output = MemoryReservation {
        extent_start: at(OTHER_LIST),
        ..reservation((count << order) >> wanted, wanted)
    };
    MemoryExchange {
        input: reservation(count, order),
        output,
        nr_exchanged: 0,
    }
}

impl Guest {
    /// Gets frames in extents, with pfns from 0x100 on, and soils them.
    fn get_extents(&mut self, count: u64, order: u32) -> Vec<u64> {
        for index in 0..count {
            self.put(LIST + index * 8, &(0x100 + (index << order)));
        }
        let done = self.ask(PopulatePhysmap, &reservation(count, order));
        assert_eq!(done as u64, count);
        let firsts = (0..count).map(|index| self.get::<u64>(LIST + index * 8));
        let frames: Vec<u64> = firsts
            .flat_map(|first| first..first + (1 << order))
            .collect();
        frames.iter().for_each(|&mfn| self.soil(mfn));
        frames
    }

    /// All frames are the guest's, with pfns from 0x100 on.
    fn has(&self, frames: &[u64]) -> bool {
        (0x100..)
            .zip(frames)
            .all(|(pfn, &mfn)| self.is_own(mfn) && self.pfn(mfn) == Some(pfn))
    }

    fn exchange(&mut self, argument: &MemoryExchange) -> (i64, u64) {
        let result = self.ask(Exchange, argument);
        (result, self.get::<MemoryExchange>(ARGUMENT).nr_exchanged)
    }

    fn want(&self, count: u64, order: u32) {
        for index in 0..count {
            self.put(OTHER_LIST + index * 8, &(0x100 + (index << order)));
        }
    }
}

#[test]
fn every_size_for_every_size() {
    for units in [30, Budget::FULL.units()] {
        for (count, order, wanted) in [
            (1, 0, 0),
            (5, 0, 0),
            (8, 0, 3),
            (8, 0, 2),
            (2, 2, 0),
            (3, 2, 2),
            (64, 0, 6),
            (1, 6, 0),
            (2, 1, 2),
            (512, 0, 9),
            (1, 9, 0),
            (1, 9, 9),
        ] {
            let mut guest = guest();
            let old = guest.get_extents(count, order);
            let (pages, free) = (guest.pages(), guest.free());
            let outputs = (count << order) >> wanted;
            guest.want(outputs, wanted);
            guest.host.set_entry_budget(Budget::new(units));
            assert_eq!(guest.exchange(&argument(count, order, wanted)), (0, count));
            assert_eq!((guest.pages(), guest.free()), (pages, free));
            let firsts = (0..outputs).map(|index| guest.get::<u64>(OTHER_LIST + index * 8));
            let new: Vec<u64> = firsts
                .flat_map(|first| first..first + (1 << wanted))
                .collect();
            assert!(guest.has(&new), "{count} of order {order} for {wanted}");
            assert!(new.iter().all(|mfn| guest.is_zero(*mfn)));
            // Those of an earlier step may be the new ones of a later.
            for mfn in old.iter().filter(|mfn| !new.contains(mfn)) {
                assert!(!guest.is_own(*mfn) && guest.pfn(*mfn).is_none());
            }
            guest.audit();
        }
    }
}

/// Four pages for one extent, with the third write failing, and so on: all as before.
#[test]
fn i9_whatever_fails_all_comes_back() {
    for (count, order, wanted) in [(4, 0, 2), (1, 2, 0), (4, 0, 0)] {
        let outputs = (count << order) >> wanted;
        for nth in 1..=outputs + 1 {
            let mut guest = guest();
            let old = guest.get_extents(count, order);
            let before = (guest.pages(), guest.free());
            guest.want(outputs, wanted);
            let wanted_list: [u64; 4] = guest.list(OTHER_LIST);
            guest.put(ARGUMENT, &argument(count, order, wanted));
            guest.host.machine.fail_guest_write(nth);
            let (result, _) = guest.memory_op(Exchange as u64, ARGUMENT);
            assert_eq!(result, failure(Errno::EFAULT), "write {nth}");
            assert_eq!((guest.pages(), guest.free()), before);
            // Steps of one: those before are done. The last write is that of how many are.
            let step = if order == wanted { 1 } else { outputs };
            let steps = (nth - 1) / step;
            let done = steps * (4 / (outputs / step));
            // What is done may have come back as something new since.
            let kept = (0x100..).zip(&old).skip(done as usize);
            for (pfn, &mfn) in kept {
                assert!(guest.is_own(mfn), "write {nth}, {mfn:#x}");
                assert_eq!(guest.pfn(mfn), Some(pfn));
                assert!(!guest.is_zero(mfn), "nothing is written to old frames");
            }
            if done == 0 {
                let list: [u64; 4] = guest.list(OTHER_LIST);
                assert_eq!(list, wanted_list, "what was told is unsaid");
            }
            guest.audit();
        }
    }
}

#[test]
fn frames_that_cannot_be_given() {
    for place in 0..4 {
        let mut guest = guest();
        let old = guest.get_extents(4, 0);
        let neighbour = guest.neighbour();
        let mut others = None;
        guest
            .host
            .frames
            .visit_of(neighbour.domid, |mfn| others = Some(mfn.get()));
        let before = (guest.pages(), guest.free());
        let (root, shared) = (guest.root.get(), guest.shared_info.get());
        let twice = old[(place + 1) % 4];
        let end = guest.host.machine.max_mfn().get();
        let far = [1 << 40, u64::MAX, end, 0];
        for bad in [root, shared, others.unwrap(), twice]
            .into_iter()
            .chain(far)
        {
            guest.put(LIST, &[old[0], old[1], old[2], old[3]]);
            guest.put(LIST + place as u64 * 8, &bad);
            guest.want(1, 2);
            let seen = guest.exchange(&argument(4, 0, 2));
            assert_eq!(seen, (failure(Errno::EINVAL), 0), "{bad:#x} at {place}");
            assert!(guest.has(&old));
            assert_eq!((guest.pages(), guest.free()), before);
            assert_eq!(guest.get::<u64>(OTHER_LIST), 0x100);
            guest.audit();
        }
        // One after the other: what came before is done.
        guest.put(LIST, &[old[0], old[1], old[2], old[3]]);
        guest.put(LIST + place as u64 * 8, &root);
        guest.want(4, 0);
        let seen = guest.exchange(&argument(4, 0, 0));
        assert_eq!(seen, (failure(Errno::EINVAL), place as u64));
        assert_eq!((guest.pages(), guest.free()), before);
        guest.audit();
    }
}

#[test]
fn no_memory_takes_nothing() {
    let mut guest = guest();
    let old = guest.get_extents(4, 0);
    guest.want(1, 2);
    let before = (guest.pages(), guest.free());
    let mut low = argument(4, 0, 2);
    for bits in [1, 12, 23] {
        low.output.mem_flags = bits;
        assert_eq!(guest.exchange(&low), (failure(Errno::ENOMEM), 0));
    }
    low.output.mem_flags = 2 << 8 | 1 << 17;
    assert_eq!(guest.exchange(&low), (failure(Errno::ENOMEM), 0));
    assert_eq!(
        guest.exchange(&argument(1, 10, 10)),
        (failure(Errno::ENOMEM), 0)
    );
    assert!(guest.has(&old));
    assert_eq!((guest.pages(), guest.free()), before);
    guest.domain(|domain| domain.memory.limit.store(u64::MAX, Ordering::Relaxed));
    let all = MemoryReservation {
        extent_start: at(0),
        ..reservation((1 << 26) - 1, 0)
    };
    guest.ask(MemoryCommand::IncreaseReservation, &all);
    let before = (guest.pages(), guest.free());
    let seen = guest.exchange(&argument(4, 0, 2));
    assert_eq!(seen, (failure(Errno::ENOMEM), 0));
    assert!(guest.has(&old));
    assert_eq!((guest.pages(), guest.free()), before);
    guest.audit();
}

/// XSA-29, XSA-212: where the lists are said to be, and from where on.
#[test]
fn i13_lists_and_progress_are_not_believed() {
    let mut guest = guest();
    let old = guest.get_extents(1, 0);
    guest.want(1, 0);
    let before = (guest.pages(), guest.free());
    for target in HOSTILE {
        for done in [0, 1, 511, 1 << 20, 1 << 40, 1 << 60] {
            let mut exchange = argument(done + 1, 0, 0);
            exchange.nr_exchanged = done;
            let back = |to: u64| at(to.wrapping_sub(done.wrapping_mul(8)));
            exchange.input.extent_start = back(target);
            exchange.output.extent_start = back(OTHER_LIST);
            let seen = guest.exchange(&exchange);
            assert_eq!(
                seen,
                (failure(Errno::EFAULT), done),
                "{target:#x} {done:#x}"
            );
            exchange.input.extent_start = back(LIST);
            exchange.output.extent_start = back(target);
            let seen = guest.exchange(&exchange);
            assert_eq!(
                seen,
                (failure(Errno::EFAULT), done),
                "{target:#x} {done:#x}"
            );
        }
        assert_eq!(
            guest.memory_op(Exchange as u64, target).0,
            failure(Errno::EFAULT)
        );
    }
    assert!(guest.has(&old));
    assert_eq!((guest.pages(), guest.free()), before);
    let with = |change: &dyn Fn(&mut MemoryExchange)| {
        let mut exchange = argument(1, 0, 0);
        change(&mut exchange);
        exchange
    };
    for (exchange, errno) in [
        (with(&|e| e.nr_exchanged = 2), Errno::EINVAL),
        (with(&|e| e.input.domid = DomId::DOM0), Errno::EINVAL),
        (with(&|e| e.output.nr_extents = 2), Errno::EINVAL),
        (with(&|e| e.input.extent_order = 1), Errno::EINVAL),
        (with(&|e| e.input.extent_order = 19), Errno::EPERM),
        (with(&|e| e.output.extent_order = u32::MAX), Errno::EPERM),
    ] {
        assert_eq!(guest.exchange(&exchange).0, failure(errno));
    }
    assert!(guest.has(&old));
    guest.audit();
}

impl Guest {
    /// Begins an exchange and goes on with it until a large step has come so far, and no further.
    fn exchange_up_to(&mut self, argument: &MemoryExchange, frames: u64) {
        self.put(ARGUMENT, argument);
        let rip = self.regs.rip;
        self.regs.rax = Hypercall::MemoryOp.number();
        (self.regs.rdi, self.regs.rsi) = (Exchange as u64, ARGUMENT);
        for _ in 0..1000 {
            assert_eq!(self.syscall(), Next::Guest);
            assert_eq!(self.regs.rip, rip - 2, "it is over");
            self.regs.rip = rip;
            if self.domain(|domain| domain.exchange.done()) == Some(frames) {
                return;
            }
        }
        panic!("it does not come so far");
    }
}

#[test]
fn i18_a_large_exchange_goes_in_pieces() {
    for (count, order, wanted) in [(512, 0, 9), (1, 9, 0), (1, 9, 9), (16, 5, 9), (1, 7, 3)] {
        let mut guest = guest();
        guest.get_extents(count, order);
        let outputs = (count << order) >> wanted;
        guest.want(outputs, wanted);
        guest.put(ARGUMENT, &argument(count, order, wanted));
        let (result, times) = guest.memory_op(Exchange as u64, ARGUMENT);
        assert_eq!(result, 0);
        // Frames are zeroed first, or with each piece; there is one piece to an entry.
        let frames = (count << order) as u32;
        assert!(times >= frames / 64 - 1, "{count} of {order}: {times}");
        assert!(guest.domain(|domain| domain.exchange.take().is_none()));
        guest.audit();
    }
}

#[test]
fn an_exchange_that_is_left_in_the_middle_keeps_no_frames() {
    for frames in [64, 128, 448] {
        let mut guest = guest();
        let old = guest.get_extents(512, 0);
        let (pages, free) = (guest.pages(), guest.free());
        guest.want(1, 9);
        guest.exchange_up_to(&argument(512, 0, 9), frames);
        guest.audit();
        // What was given is the guest's no more, and the rest of the new extent is nobody's yet.
        let given = old.iter().filter(|&&mfn| !guest.is_own(mfn)).count() as u64;
        assert_eq!(given, frames);
        assert_eq!(
            (guest.pages(), guest.free()),
            (pages, free - (512 - frames))
        );
        if frames == 128 {
            // The vCPU makes another one, which takes its place.
            let rest: Vec<u64> = old.into_iter().skip(128).collect();
            for (index, mfn) in (0..).zip(&rest[..256]) {
                guest.put(LIST + index * 8, mfn);
            }
            guest.put(OTHER_LIST, &0x300_u64);
            assert_eq!(guest.exchange(&argument(256, 0, 8)), (0, 256));
        } else {
            let undo = crate::frame::UndoQueue::new();
            let memory = guest.host.memory(&guest.cpu, &undo);
            let held = guest.domain(|domain| domain.exchange.take()).unwrap();
            held.end(memory);
        }
        assert_eq!((guest.pages(), guest.free()), (pages, free));
        guest.audit();
    }
}

/// Nobody is charged for what a large step keeps, so a domain has one, however many vCPUs it has.
#[test]
fn i18_another_vcpu_waits_for_a_large_exchange() {
    let mut guest = guest();
    let old = guest.get_extents(512, 0);
    let (pages, free) = (guest.pages(), guest.free());
    guest.want(1, 9);
    guest.put(ARGUMENT, &argument(512, 0, 9));
    let other = VcpuId::new(1);
    assert!(guest.domain(|domain| domain.exchange.enter(other).unwrap().is_none()));
    guest.regs.rax = Hypercall::MemoryOp.number();
    (guest.regs.rdi, guest.regs.rsi) = (Exchange as u64, ARGUMENT);
    for _ in 0..3 {
        let rip = guest.regs.rip;
        assert_eq!(guest.syscall(), Next::Guest);
        assert_eq!(guest.regs.rip, rip - 2, "it goes on later");
        guest.regs.rip = rip;
        assert!(guest.has(&old));
        assert_eq!((guest.pages(), guest.free()), (pages, free));
    }
    assert!(guest.domain(|domain| domain.exchange.take().is_none()));
    assert_eq!(guest.exchange(&argument(512, 0, 9)), (0, 512));
    guest.audit();
}

#[test]
fn a_list_that_changes_under_way_ends_the_exchange() {
    let mut guest = guest();
    let old = guest.get_extents(512, 0);
    let (pages, free) = (guest.pages(), guest.free());
    guest.want(1, 9);
    guest.exchange_up_to(&argument(512, 0, 9), 128);
    for (place, bad) in [(500, old[0]), (128, guest.root.get())] {
        guest.put(LIST + place * 8, &bad);
    }
    let (result, _) = guest.memory_op(Exchange as u64, ARGUMENT);
    assert_eq!(result, failure(Errno::EINVAL));
    assert_eq!(guest.get::<MemoryExchange>(ARGUMENT).nr_exchanged, 0);
    assert_eq!(guest.get::<u64>(OTHER_LIST), 0x100, "nothing is told");
    assert_eq!((guest.pages(), guest.free()), (pages, free));
    assert!(guest.domain(|domain| domain.exchange.take().is_none()));
    guest.audit();
    // The same that it was beforehand changes nothing.
    let mut guest = limited(Guest::dom0());
    let old = guest.get_extents(512, 0);
    guest.put(LIST + 500 * 8, &guest.root.get());
    guest.want(1, 9);
    let seen = guest.exchange(&argument(512, 0, 9));
    assert_eq!(seen, (failure(Errno::EINVAL), 0));
    assert!(guest.has(&old));
    // Nor does a place where nothing can be told.
    guest.put(LIST + 500 * 8, &old[500]);
    let mut unseen = argument(512, 0, 9);
    unseen.output.extent_start = at(READ_ONLY);
    assert_eq!(guest.exchange(&unseen), (failure(Errno::EFAULT), 0));
    assert!(guest.has(&old));
    guest.audit();
}
