mod lines;
mod messages;
mod phase;
mod random;

use dom0_abi::errno::Errno;
use dom0_abi::event_channel::{BindPirq, Close, EventChannelCommand, Status};
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, Port};
use dom0_abi::physdev::{
    Eoi, GetFreePirq, IrqStatusQuery, MapPirq, MapPirqType, PhysdevCommand, SetupGsi, UnmapPirq,
};
use oxen_arch::Interrupt;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::event::{send, two_level};
use crate::irq;
use crate::testing::{DATA, Guest, failure};

/// A domain with devices, and what its kernel does.
struct Kernel {
    guest: Guest,
}

impl Kernel {
    fn new() -> Self {
        Self {
            guest: Guest::dom0(),
        }
    }

    fn physdev<T: IntoBytes + Immutable + FromBytes>(
        &mut self,
        command: PhysdevCommand,
        argument: &mut T,
    ) -> i64 {
        self.op(Hypercall::PhysdevOp, command.get().into(), argument)
    }

    fn event<T: IntoBytes + Immutable + FromBytes>(
        &mut self,
        command: EventChannelCommand,
        argument: &mut T,
    ) -> i64 {
        self.op(Hypercall::EventChannelOp, command.get().into(), argument)
    }

    /// Makes a call with an argument that it may change.
    fn op<T: IntoBytes + Immutable + FromBytes>(
        &mut self,
        call: Hypercall,
        command: u64,
        argument: &mut T,
    ) -> i64 {
        self.guest.put(DATA, argument);
        let result = self.guest.call(call, [command, DATA]);
        *argument = self.guest.get(DATA);
        result
    }

    fn map(&mut self, gsi: u32) -> i64 {
        let mut request = MapPirq::new_zeroed();
        request.domid = DomId::SELF;
        request.kind = MapPirqType::Gsi.get();
        (request.index, request.pirq) = (gsi as i32, gsi as i32);
        let result = self.physdev(PhysdevCommand::MapPirq, &mut request);
        assert_eq!(request.pirq, gsi as i32);
        result
    }

    fn map_message(&mut self, change: impl FnOnce(&mut MapPirq)) -> Result<u32, i64> {
        let mut request = MapPirq::new_zeroed();
        request.domid = DomId::SELF;
        request.kind = MapPirqType::MsiSeg.get();
        (request.index, request.pirq) = (-1, -1);
        change(&mut request);
        match self.physdev(PhysdevCommand::MapPirq, &mut request) {
            0 => Ok(request.pirq as u32),
            error => Err(error),
        }
    }

    fn unmap(&mut self, pirq: u32) -> i64 {
        let mut request = UnmapPirq::new_zeroed();
        (request.domid, request.pirq) = (DomId::SELF, pirq as i32);
        self.physdev(PhysdevCommand::UnmapPirq, &mut request)
    }

    fn setup(&mut self, gsi: u32, triggering: u8, polarity: u8) -> i64 {
        let mut request = SetupGsi::new_zeroed();
        request.gsi = gsi as i32;
        (request.triggering, request.polarity) = (triggering, polarity);
        self.physdev(PhysdevCommand::SetupGsi, &mut request)
    }

    fn bind(&mut self, pirq: u32) -> Result<Port, i64> {
        let mut request = BindPirq::new_zeroed();
        (request.pirq, request.flags) = (pirq, 1);
        match self.event(EventChannelCommand::BindPirq, &mut request) {
            0 => Ok(request.port),
            error => Err(error),
        }
    }

    fn close(&mut self, port: Port) {
        let mut request = Close { port };
        assert_eq!(self.event(EventChannelCommand::Close, &mut request), 0);
    }

    fn eoi(&mut self, pirq: u32) -> i64 {
        self.physdev(PhysdevCommand::Eoi, &mut Eoi { irq: pirq })
    }

    fn is_pending(&self, port: Port) -> bool {
        let host = &self.guest.host;
        self.guest
            .domain(|domain| send::is_pending(host, domain, port).unwrap())
    }

    /// The kernel takes an event. Returns whether there was one.
    fn take(&self, port: Port) -> bool {
        let was_pending = self.is_pending(port);
        two_level::forget(self.guest.host.mem(), self.guest.shared_info, port).unwrap();
        was_pending
    }

    /// Both CPUs take the interrupts that wait for them. Returns how many those of devices were.
    fn interrupts(&mut self) -> usize {
        let mut count = 0;
        for cpu in [&self.guest.cpu, &self.guest.other_cpu] {
            while let Some(what) = cpu.take_interrupt() {
                if let Interrupt::Device(vector) = what {
                    irq::arrived(&self.guest.host, cpu, vector);
                    cpu.end_interrupt(vector);
                    count += 1;
                    assert!(count < 100, "an interrupt that comes without end");
                }
            }
        }
        count
    }
}
