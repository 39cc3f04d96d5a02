//! I22 and I23: where events arrive, and what a domain's ports cost the others.

use dom0_abi::event_channel::{
    AllocUnbound, BindInterdomain, BindIpi, BindVcpu, EventChannelCommand, PortStatus, Status,
};
use dom0_abi::ids::{DomId, Port, VcpuId};
use zerocopy::{FromBytes, Immutable};

use super::*;
use crate::world::SHARED;

impl World {
    fn event<T>(&mut self, slot: usize, command: EventChannelCommand, argument: &mut T) -> i64
    where
        T: IntoBytes + FromBytes + Immutable,
    {
        let at = linear(ARGS);
        assert!(self.write(slot, 0, at, argument.as_bytes()));
        let args = [command.get().into(), at, 0, 0, 0];
        let number = Hypercall::EventChannelOp.number();
        let result = returned(self.call_whole(slot, 0, number, args));
        let mut bytes = vec![0; size_of::<T>()];
        assert!(self.read(slot, 0, at, &mut bytes));
        *argument = T::read_from_bytes(&bytes).unwrap();
        result
    }

    fn id(&self, slot: usize) -> DomId {
        self.players[slot].id
    }

    fn offer(&mut self, slot: usize, to: usize) -> u32 {
        let mut argument = AllocUnbound {
            dom: DomId::SELF,
            remote_dom: self.id(to),
            port: Port::new(0),
        };
        assert_eq!(
            self.event(slot, EventChannelCommand::AllocUnbound, &mut argument),
            0
        );
        argument.port.get()
    }

    fn connect(&mut self, slot: usize, to: usize, port: u32) -> Result<u32, i64> {
        let mut argument = BindInterdomain {
            remote_dom: self.id(to),
            _pad0: 0,
            remote_port: Port::new(port),
            local_port: Port::new(0),
        };
        match self.event(slot, EventChannelCommand::BindInterdomain, &mut argument) {
            0 => Ok(argument.local_port.get()),
            error => Err(error),
        }
    }

    fn ipi(&mut self, slot: usize, vcpu: u32) -> Result<u32, i64> {
        let mut argument = BindIpi {
            vcpu: VcpuId::new(vcpu),
            port: Port::new(0),
        };
        match self.event(slot, EventChannelCommand::BindIpi, &mut argument) {
            0 => Ok(argument.port.get()),
            error => Err(error),
        }
    }

    fn send(&mut self, slot: usize, port: u32) -> i64 {
        self.event(slot, EventChannelCommand::Send, &mut { port })
    }

    fn close(&mut self, slot: usize, port: u32) -> i64 {
        self.event(slot, EventChannelCommand::Close, &mut { port })
    }

    fn status(&mut self, slot: usize, port: u32) -> u32 {
        let mut argument = Status::new_zeroed();
        (argument.dom, argument.port) = (DomId::SELF, Port::new(port));
        assert_eq!(
            self.event(slot, EventChannelCommand::Status, &mut argument),
            0
        );
        argument.status
    }

    /// The ports below 64 that are pending, which are not afterwards; and which vCPUs were told.
    fn take_events(&mut self, slot: usize) -> (u64, [bool; 2]) {
        let mem = self.host.mem();
        let shared = self.players[slot].frames[SHARED];
        let told = [0, 64].map(|info| {
            let selector = mem.swap_u64(shared.at(info + 8), 0).unwrap();
            let byte = mem.load_u8(shared.at(info)).unwrap();
            mem.store_u8(shared.at(info), 0).unwrap();
            assert_eq!(byte == 1, selector == 1, "{byte} {selector}");
            byte == 1
        });
        (mem.swap_u64(shared.at(2048), 0).unwrap(), told)
    }
}

const NONE: (u64, [bool; 2]) = (0, [false, false]);

const fn told(port: u32) -> (u64, [bool; 2]) {
    (1 << port, [true, false])
}

#[test]
fn i22_events_of_three_domains_arrive_where_they_are_sent() {
    let mut world = world();
    // All pairs, and some ports before, so that numbers differ.
    for slot in 0..3 {
        for _ in 0..slot {
            world.ipi(slot, 0).unwrap();
        }
    }
    let mut ends = Vec::new();
    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        let near = world.offer(a, b);
        assert_eq!(world.connect((b + 1) % 3, a, near), Err(INVALID), "not its");
        let far = world.connect(b, a, near).unwrap();
        assert_eq!(world.take_events(b), told(far));
        assert_eq!(world.connect(b, a, near), Err(INVALID), "once");
        ends.extend([(a, near, b, far), (b, far, a, near)]);
    }
    for &(from, port, to, arrives) in &ends {
        assert_eq!(world.send(from, port), 0);
        for slot in 0..3 {
            let expected = if slot == to { told(arrives) } else { NONE };
            assert_eq!(world.take_events(slot), expected, "{from} to {to}");
        }
    }
    world.sound();
    // One end closes, and the number is somebody else's at once: nothing arrives there.
    let (from, port, to, arrives) = ends[0];
    assert_eq!(world.close(to, arrives), 0);
    assert_eq!(world.offer(to, 2), arrives);
    let third = world.connect(2, to, arrives).unwrap();
    world.take_events(2);
    assert_eq!(world.send(from, port), 0);
    assert_eq!(world.status(from, port), PortStatus::Unbound.get());
    assert!((0..3).all(|slot| world.take_events(slot) == NONE));
    assert_eq!(world.send(2, third), 0);
    assert_eq!(world.take_events(to), told(arrives));
    world.sound();
    world.finish().unwrap();
}

#[test]
fn i22_the_end_of_a_domain_disconnects_the_others() {
    let mut world = world();
    let to_1 = world.offer(0, 1);
    let of_1 = world.connect(1, 0, to_1).unwrap();
    let of_1_too = world.offer(1, 2);
    let to_1_too = world.connect(2, 1, of_1_too).unwrap();
    assert_eq!((of_1, world.send(1, of_1)), (1, 0));
    let id = world.id(1);
    world.kill(1);
    // It has not begun to end: what is sent arrives nowhere that anybody looks.
    assert_eq!((world.send(0, to_1), world.send(2, to_1_too)), (0, 0));
    while world.dying.contains(&id) {
        world.sound();
        world.tear_down(0, 4, Budget::new(40));
    }
    for (slot, port) in [(0, to_1), (2, to_1_too)] {
        assert_eq!(world.status(slot, port), PortStatus::Unbound.get());
        assert_eq!((world.send(slot, port), world.close(slot, port)), (0, 0));
        assert_eq!(world.close(slot, port), INVALID);
    }
    world.sound();
    world.finish().unwrap();
}

#[test]
fn i22_the_vcpu_that_is_chosen_is_told() {
    let mut world = world();
    let (ipi, other_ipi) = (world.ipi(1, 0).unwrap(), world.ipi(1, 1).unwrap());
    assert_eq!((world.send(1, ipi), world.take_events(1)), (0, told(ipi)));
    let to_second = (1 << other_ipi, [false, true]);
    assert_eq!(
        (world.send(1, other_ipi), world.take_events(1)),
        (0, to_second)
    );
    let near = world.offer(0, 1);
    let far = world.connect(1, 0, near).unwrap();
    world.take_events(1);
    let mut argument = BindVcpu {
        port: Port::new(far),
        vcpu: VcpuId::new(1),
    };
    assert_eq!(
        world.event(1, EventChannelCommand::BindVcpu, &mut argument),
        0
    );
    assert_eq!(world.send(0, near), 0);
    assert_eq!(world.take_events(1), (1 << far, [false, true]));
    // The other end may go and come again: who is told stays.
    assert_eq!(world.close(0, near), 0);
    assert_eq!(world.connect(0, 1, far), Ok(near));
    assert_eq!(world.send(0, near), 0);
    assert_eq!(world.take_events(1), (1 << far, [false, true]));
    world.finish().unwrap();
}

#[test]
fn i23_all_ports_of_a_domain_are_its_own_affair() {
    let mut world = world();
    let near = world.offer(0, 1);
    let far = world.connect(1, 0, near).unwrap();
    let mut count = 1;
    while world.ipi(1, 0).is_ok() {
        count += 1;
    }
    assert_eq!(count, 4095);
    // What the others send arrives, and they get ports as before.
    assert_eq!(world.connect(1, 0, near), Err(Errno::ENOSPC.as_return()));
    assert_eq!((world.send(0, near), world.ipi(2, 0)), (0, Ok(1)));
    assert_eq!(world.take_events(1).0, 1 << far);
    // A reset is as long as the domain had ports, and gives way all the time.
    world.host.set_entry_budget(Budget::new(100));
    let at = linear(ARGS);
    assert!(world.write(1, 0, at, DomId::SELF.as_bytes()));
    let number = Hypercall::EventChannelOp.number();
    let mut outcome = world.call(1, 0, number, [10, at, 0, 0, 0]);
    let mut entries = 1;
    while outcome == Outcome::Pending {
        entries += 1;
        // Another vCPU of it makes one more meanwhile.
        if entries == 50 {
            let at = linear(ARGS + 1);
            assert!(world.write(1, 1, at, &[0; 8]));
            assert_eq!(returned(world.call(1, 1, number, [7, at, 0, 0, 0])), 0);
        }
        outcome = world.resume(1, 0);
    }
    assert_eq!(outcome, Outcome::Returned(0));
    assert!(entries > 4095 / 10);
    assert_eq!(world.status(0, near), PortStatus::Unbound.get());
    assert_eq!(world.ipi(1, 0), Ok(1), "none is left");
    world.sound();
    world.finish().unwrap();
}
