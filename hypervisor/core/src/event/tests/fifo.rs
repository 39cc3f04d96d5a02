//! The FIFO form as a domain chooses it, grows it and leaves it.

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use dom0_abi::event_channel::{EventChannelCommand, ExpandArray, InitControl, SetPriority};
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, Port, VcpuId};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::{Caller, Shared};
use crate::audit;
use crate::budget::Budget;
use crate::domain::teardown::{self, Progress};
use crate::domain::vcpu::RunState;
use crate::frame::UndoQueue;
use crate::testing::{CODE, DATA, Guest, Neighbour, failure, frame, stop};
use crate::trap::entry;
use crate::trap::return_path::Next;

const PENDING: u32 = 1 << 31;
const MASKED: u32 = 1 << 30;
const LINKED: u32 = 1 << 29;
const LINK: u32 = (1 << 17) - 1;

impl Caller<'_> {
    fn init_control(&mut self, gfn: Mfn, offset: u32, vcpu: u32) -> Result<u8, i64> {
        let mut argument = InitControl::new_zeroed();
        (argument.control_gfn, argument.offset) = (gfn.get(), offset);
        argument.vcpu = VcpuId::new(vcpu);
        match self.op(EventChannelCommand::InitControl, &mut argument) {
            0 => Ok(argument.link_bits),
            error => {
                assert_eq!(argument.link_bits, 0);
                Err(error)
            }
        }
    }

    fn expand_array(&mut self, gfn: Mfn) -> i64 {
        let array_gfn = gfn.get();
        self.op(
            EventChannelCommand::ExpandArray,
            &mut ExpandArray { array_gfn },
        )
    }

    fn set_priority(&mut self, port: u32, priority: u32) -> i64 {
        let port = Port::new(port);
        let mut argument = SetPriority { port, priority };
        self.op(EventChannelCommand::SetPriority, &mut argument)
    }
}

/// A kernel with its pages.
struct Kernel<'a> {
    guest: &'a Guest,
    domid: DomId,
    control: Mfn,
    arrays: Vec<Mfn>,
    heads: [u32; 16],
}

impl<'a> Kernel<'a> {
    fn new(guest: &'a Guest, domid: DomId) -> Self {
        let mut kernel = Self {
            guest,
            domid,
            control: Mfn::new(0),
            arrays: Vec::new(),
            heads: [0; 16],
        };
        kernel.control = kernel.page();
        kernel
    }

    /// One that has chosen the form.
    fn begun(caller: &mut Caller<'a>) -> Self {
        let kernel = Self::new(caller.guest, caller.guest.domid);
        assert_eq!(caller.init_control(kernel.control, 0, 0), Ok(17));
        kernel
    }

    fn page(&self) -> Mfn {
        let undo = UndoQueue::new();
        frame(self.guest.host.memory(&self.guest.cpu, &undo), self.domid)
    }

    fn expand(&mut self, caller: &mut Caller<'_>) -> i64 {
        let page = self.page();
        let result = caller.expand_array(page);
        if result == 0 {
            self.arrays.push(page);
        }
        result
    }

    fn shared(&self) -> Shared<'a> {
        Shared {
            guest: self.guest,
            domid: self.domid,
        }
    }

    fn at(&self, port: u32) -> dom0_abi::addr::Maddr {
        self.arrays[port as usize / 1024].at(port as usize % 1024 * 4)
    }

    fn word(&self, port: u32) -> u32 {
        self.guest.host.mem().load_u32(self.at(port)).unwrap()
    }

    fn mask(&self, port: u32) {
        let mem = self.guest.host.mem();
        mem.fetch_or_u32(self.at(port), MASKED).unwrap();
    }

    /// Ports with events, in the order in which they are found.
    fn drain(&mut self) -> Vec<u32> {
        let mem = self.guest.host.mem();
        mem.store_u8(self.shared().at(0), 0).unwrap();
        let mut found = Vec::new();
        let mut ready = 0;
        loop {
            ready |= mem.fetch_and_u32(self.control.at(0), 0).unwrap();
            if ready == 0 {
                return found;
            }
            let queue = ready.trailing_zeros() as usize;
            if self.heads[queue] == 0 {
                self.heads[queue] = mem.load_u32(self.control.at(8 + queue * 4)).unwrap();
            }
            let port = self.heads[queue];
            let word = mem.fetch_and_u32(self.at(port), !(LINKED | LINK)).unwrap();
            self.heads[queue] = word & LINK;
            if word & LINK == 0 {
                ready &= !(1 << queue);
            }
            if word & (PENDING | MASKED) == PENDING {
                mem.fetch_and_u32(self.at(port), !PENDING).unwrap();
                found.push(port);
            }
        }
    }
}

fn clean(guest: &Guest) {
    audit::clean(&guest.host, &mut |finding| panic!("{finding}"));
}

#[test]
fn a_control_block_is_given_once_and_its_page_stays_writable() {
    let guest = Guest::ordinary();
    let mut caller = Caller::own(&guest);
    let kernel = Kernel::new(&guest, guest.domid);
    let einval = failure(Errno::EINVAL);
    let page = kernel.control;
    for offset in [4, 1, 4096 - 71, 4096 - 64, 4096, u32::MAX, 1 << 31] {
        assert_eq!(caller.init_control(page, offset, 0), Err(einval));
    }
    for gfn in [
        guest.root,
        Mfn::new(0),
        Mfn::new(1 << 40),
        Mfn::new(u64::MAX),
    ] {
        assert_eq!(caller.init_control(gfn, 0, 0), Err(einval));
    }
    for vcpu in [1, 128, u32::MAX] {
        let enoent = failure(Errno::ENOENT);
        assert_eq!(caller.init_control(page, 0, vcpu), Err(enoent));
    }
    // Nothing of that chose the form.
    assert_eq!(caller.expand_array(page), failure(Errno::EOPNOTSUPP));
    let port = caller.bind_ipi(0).unwrap().get();
    assert_eq!(caller.set_priority(port, 1), failure(Errno::ENOSYS));
    assert_eq!(caller.send(port), 0);
    assert!(kernel.shared().is_pending(port));
    let references = guest.host.frames.reference_count(page);
    assert_eq!(caller.init_control(page, 4096 - 72, 0), Ok(17));
    assert_eq!(guest.host.frames.reference_count(page), references + 1);
    clean(&guest);
    assert_eq!(caller.init_control(page, 0, 0), Err(einval));
    assert_eq!(caller.expand_array(guest.root), einval);
    clean(&guest);
}

#[test]
fn nothing_is_done_that_the_caller_cannot_be_told_of() {
    let mut guest = Guest::ordinary();
    let page = Kernel::new(&guest, guest.domid).control;
    let mut argument = InitControl::new_zeroed();
    argument.control_gfn = page.get();
    let references = guest.host.frames.reference_count(page);
    let read_only = crate::testing::READ_ONLY;
    let mapped = guest
        .cpu
        .write_guest(dom0_abi::addr::GuestAddr::new(read_only), &argument);
    assert!(mapped.is_err());
    // All zeroes: frame 0, which is nobody's.
    assert_eq!(
        guest.call(Hypercall::EventChannelOp, [11, read_only]),
        failure(Errno::EINVAL)
    );
    for at in crate::testing::HOSTILE {
        for command in [11, 12, 13] {
            let result = guest.call(Hypercall::EventChannelOp, [command, at]);
            assert_eq!(result, failure(Errno::EFAULT));
        }
    }
    assert_eq!(guest.host.frames.reference_count(page), references);
    assert!(guest.domain(|domain| !domain.events.is_fifo()));
}

#[test]
fn what_is_pending_before_its_page_comes_arrives_with_it() {
    let guest = Guest::ordinary();
    let mut caller = Caller::own(&guest);
    for _ in 1..70 {
        caller.bind_ipi(0).unwrap();
    }
    let before = [3, 64, 65];
    for port in before {
        assert_eq!(caller.send(port), 0);
    }
    let mut kernel = Kernel::begun(&mut caller);
    assert_eq!(kernel.shared().take().count_ones(), 2);
    // Owed.
    assert_eq!((caller.send(7), caller.send(7)), (0, 0));
    assert_eq!((caller.send(8), caller.close(8)), (0, 0));
    assert_eq!(caller.bind_ipi(0), Ok(Port::new(8)));
    // Closed in the old form's bits too.
    assert_eq!(caller.close(64), 0);
    assert_eq!(caller.bind_ipi(0), Ok(Port::new(64)));
    assert_eq!(kernel.shared().upcall(), 0);
    assert_eq!(kernel.expand(&mut caller), 0);
    assert_eq!(kernel.shared().upcall(), 1);
    assert_eq!(kernel.drain(), [3, 7, 65]);
    assert_eq!(kernel.expand(&mut caller), 0);
    assert_eq!(kernel.drain(), []);
    clean(&guest);
}

#[test]
fn events_come_by_priority_then_in_order_and_once() {
    let guest = Guest::ordinary();
    let mut caller = Caller::own(&guest);
    let mut kernel = Kernel::begun(&mut caller);
    assert_eq!(kernel.expand(&mut caller), 0);
    for _ in 1..12 {
        caller.bind_ipi(0).unwrap();
    }
    for (port, priority) in [(4, 0), (5, 15), (6, 15), (2, 8)] {
        assert_eq!(caller.set_priority(port, priority), 0);
    }
    for (port, priority) in [
        (4, 16),
        (4, u32::MAX),
        (0, 1),
        (12, 1),
        (4000, 1),
        (1 << 17, 1),
    ] {
        let refused = caller.set_priority(port, priority);
        assert_eq!(refused, failure(Errno::EINVAL));
    }
    kernel.mask(9);
    for port in [5, 1, 9, 2, 6, 4, 3, 1, 5] {
        assert_eq!(caller.send(port), 0);
    }
    assert_eq!(kernel.shared().upcall(), 1);
    assert_eq!(kernel.drain(), [4, 1, 3, 2, 5, 6]);
    assert_eq!(kernel.drain(), []);
    assert_eq!(kernel.word(9), PENDING | MASKED);
    assert_eq!((caller.unmask(9), caller.unmask(9)), (0, 0));
    assert_eq!(kernel.drain(), [9]);
    // Of what is in a queue only the next time is another one's.
    assert_eq!(caller.send(3), 0);
    assert_eq!((caller.set_priority(3, 0), caller.send(4)), (0, 0));
    assert_eq!(kernel.drain(), [4, 3]);
    assert_eq!((caller.send(4), caller.send(3)), (0, 0));
    assert_eq!(kernel.drain(), [4, 3]);
    // Closed: what is in the queue is no event any more; made anew, it has the priority of a new one.
    assert_eq!((caller.send(4), caller.close(4)), (0, 0));
    assert_eq!(kernel.word(4), LINKED);
    assert_eq!(kernel.drain(), []);
    assert_eq!(caller.bind_ipi(0), Ok(Port::new(4)));
    assert_eq!((caller.send(1), caller.send(4)), (0, 0));
    assert_eq!(kernel.drain(), [1, 4]);
}

#[test]
fn a_poll_looks_at_the_word_or_at_what_is_owed() {
    let mut guest = Guest::ordinary();
    let neighbour = guest.neighbour();
    let poll = |guest: &mut Guest, port: u32| {
        let request = dom0_abi::sched::SchedPoll {
            ports: dom0_abi::handle::GuestHandle::new(dom0_abi::addr::GuestAddr::new(DATA + 0x100)),
            nr_ports: 1,
            _pad0: 0,
            timeout: 0,
        };
        guest.put(DATA + 0x100, &port);
        guest.put(DATA, &request);
        guest.regs.rax = Hypercall::SchedOp.number();
        [guest.regs.rdi, guest.regs.rsi] = [3, DATA];
        guest.syscall()
    };
    let near = {
        let mut own = Caller::own(&guest);
        Kernel::begun(&mut own);
        own.alloc(neighbour.domid).unwrap().get()
    };
    let mut other = Caller::neighbour(&guest, &neighbour);
    let far = other.connect(guest.domid, Port::new(near)).unwrap().get();
    assert_eq!(poll(&mut guest, near), Next::Schedule);
    assert_eq!(Caller::neighbour(&guest, &neighbour).send(far), 0);
    let mut regs = guest.regs;
    let again = entry::look_again(&guest.host, &guest.cpu, &mut regs);
    assert_eq!(again, Next::Guest);
    assert_eq!(guest.state(|state| state.run()), RunState::Running);
    let array = Kernel::new(&guest, guest.domid).page();
    assert_eq!(Caller::own(&guest).expand_array(array), 0);
    // Pending still, in its word.
    let word = guest.host.mem().load_u32(array.at(near as usize * 4));
    assert_eq!(word, Ok(PENDING | LINKED));
    assert_eq!(poll(&mut guest, near), Next::Guest);
    guest
        .host
        .mem()
        .store_u32(array.at(near as usize * 4), MASKED)
        .unwrap();
    assert_eq!(poll(&mut guest, near), Next::Schedule);
    assert_eq!(Caller::neighbour(&guest, &neighbour).send(far), 0);
    let again = entry::look_again(&guest.host, &guest.cpu, &mut regs);
    assert_eq!(again, Next::Guest);
}

/// Makes a call with little budget at a time; returns how many entries it took.
fn in_steps<T: IntoBytes + Immutable>(
    guest: &mut Guest,
    units: u32,
    command: u64,
    argument: &T,
) -> u32 {
    guest.host.set_entry_budget(Budget::new(units));
    guest.put(DATA, argument);
    guest.regs.rax = Hypercall::EventChannelOp.number();
    [guest.regs.rdi, guest.regs.rsi] = [command, DATA];
    guest.regs.rip = CODE;
    let mut entries = 0;
    loop {
        assert_eq!(guest.syscall(), Next::Guest);
        entries += 1;
        if guest.regs.rip == CODE {
            guest.host.set_entry_budget(Budget::FULL);
            assert_eq!(guest.regs.rax, 0);
            return entries;
        }
        assert_eq!(guest.regs.rip, CODE - 2);
        guest.regs.rip = CODE;
    }
}

#[test]
fn i23_ports_beyond_the_two_level_form_come_and_go_in_steps() {
    let mut guest = Guest::ordinary();
    let free = guest.host.frames.statistics().free;
    {
        let mut caller = Caller::own(&guest);
        let mut kernel = Kernel::begun(&mut caller);
        for port in 1..9000 {
            assert_eq!(caller.bind_ipi(0), Ok(Port::new(port)));
        }
        assert_eq!(kernel.expand(&mut caller), 0);
        for port in [4095, 4096, 8191, 8192, 8999] {
            assert_eq!((caller.send(port), caller.status(port)), (0, 5));
        }
        for port in [9024, 1 << 17, u32::MAX] {
            assert_eq!(caller.send(port), failure(Errno::EINVAL));
        }
        for _ in 1..8 {
            assert_eq!(kernel.expand(&mut caller), 0);
        }
        assert_eq!(kernel.drain(), [4095, 4096, 8191]);
        for port in [5000, 4096, 8500] {
            assert_eq!(caller.close(port), 0);
        }
        for port in [4096, 5000, 8500] {
            assert_eq!(caller.bind_ipi(0), Ok(Port::new(port)));
        }
        clean(&guest);
    }
    let last = Kernel::new(&guest, guest.domid).page();
    let entries = in_steps(&mut guest, 10, 12, &last.get());
    assert!(entries > 10, "{entries}");
    clean(&guest);
    let held = guest.domain(|domain| domain.events.held_arrays().count());
    assert_eq!(held, 9);
    let entries = in_steps(&mut guest, 50, 10, &DomId::SELF);
    assert!(entries > 1000, "{entries}");
    clean(&guest);
    let (held, is_fifo) =
        guest.domain(|domain| (domain.events.held_arrays().count(), domain.events.is_fifo()));
    assert_eq!((held, is_fifo), (0, false));
    // The two-level form again, with its limit.
    let mut caller = Caller::own(&guest);
    let shared = Shared {
        guest: &guest,
        domid: guest.domid,
    };
    for port in 1..4096 {
        assert_eq!(caller.bind_ipi(0), Ok(Port::new(port)));
    }
    assert_eq!(caller.bind_ipi(0), Err(failure(Errno::ENOSPC)));
    shared.take();
    assert!(!shared.is_pending(904));
    assert_eq!(caller.send(904), 0);
    assert!(shared.is_pending(904));
    assert_eq!(shared.take(), 1 << 14);
    // And once more the other one, of which nothing is left.
    in_steps(&mut guest, 700, 10, &DomId::SELF);
    let mut caller = Caller::own(&guest);
    let mut kernel = Kernel::begun(&mut caller);
    assert_eq!(caller.bind_ipi(0), Ok(Port::new(1)));
    assert_eq!(caller.send(1), 0);
    assert_eq!(kernel.expand(&mut caller), 0);
    assert_eq!(kernel.drain(), [1]);
    clean(&guest);
    assert!(guest.host.frames.statistics().free < free);
}

#[test]
fn words_end_at_the_limit_of_ports() {
    let guest = Guest::ordinary();
    let mut caller = Caller::own(&guest);
    let kernel = Kernel::begun(&mut caller);
    // One page for all: it is the guest's own affair.
    let page = kernel.page();
    for _ in 0..128 {
        assert_eq!(caller.expand_array(page), 0);
    }
    assert_eq!(caller.expand_array(page), failure(Errno::ENOSPC));
    clean(&guest);
    assert_eq!(caller.reset(DomId::SELF), 0);
    clean(&guest);
    assert_eq!(guest.host.frames.reference_count(page), 1);
}

#[test]
fn the_end_of_a_domain_gives_all_back() {
    let guest = Guest::ordinary();
    let free = guest.host.frames.statistics().free;
    let neighbour = guest.neighbour();
    let mut other = Caller::neighbour(&guest, &neighbour);
    let kernel = Kernel::new(&guest, neighbour.domid);
    assert_eq!(other.init_control(kernel.control, 64, 0), Ok(17));
    let page = kernel.page();
    for _ in 0..5 {
        assert_eq!(other.expand_array(page), 0);
    }
    for _ in 1..4200 {
        other.alloc(guest.domid).unwrap();
    }
    let mut own = Caller::own(&guest);
    let far = own.connect(neighbour.domid, Port::new(4100)).unwrap().get();
    assert_eq!(own.send(far), 0);
    end(&guest, neighbour);
    assert_eq!(own.status(far), 1);
    assert_eq!(own.send(far), 0);
    clean(&guest);
    // All but our own page of ports.
    assert_eq!(guest.host.frames.statistics().free, free - 1);
}

fn end(guest: &Guest, neighbour: Neighbour) {
    let domain = guest.host.domains.get(neighbour.domid).unwrap();
    stop(&guest.host, &guest.other_cpu, &domain);
    let undo = UndoQueue::new();
    let memory = guest.host.memory(&guest.cpu, &undo);
    let mut steps = 0;
    loop {
        steps += 1;
        let mut budget = Budget::new(55);
        let domains = &guest.host.domains;
        if teardown::release(memory, domains, &domain, &mut budget) == Progress::Done {
            break;
        }
    }
    assert!(steps > 500, "{steps}");
    drop(domain);
    // What the hypervisor had for it, in steps.
    let mut steps = 0;
    let mut free = guest.host.frames.statistics().free;
    loop {
        steps += 1;
        let mut budget = Budget::new(teardown::VCPU);
        if (guest.host).reap_domain(&guest.cpu, neighbour.domid, &mut budget) {
            break;
        }
        assert!(guest.host.domains.get(neighbour.domid).is_none());
        let now = guest.host.frames.statistics().free;
        let most = (teardown::VCPU / teardown::FRAME).into();
        assert!((1..=most).contains(&(now - free)), "{free} {now}");
        free = now;
        clean(guest);
    }
    assert!(steps > 6, "{steps}");
}
