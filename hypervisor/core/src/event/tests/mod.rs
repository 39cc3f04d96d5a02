mod fifo;
mod fifo_queues;
mod numbers;
mod ports;
mod reset;
mod send;
mod word;

use dom0_abi::event_channel::{
    AllocUnbound, BindInterdomain, BindIpi, BindVcpu, BindVirq, Close, EventChannelCommand, Reset,
    Send, Status, Unmask,
};
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, Port, VcpuId};
use oxen_arch::Cpu;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::testing::{DATA, Guest, Neighbour};
use crate::trap::entry;
use crate::trap::return_path::Next;
use dom0_abi::addr::GuestAddr;
use dom0_abi::arch::CpuUserRegs;
use oxen_arch::registers::ENTRY_SYSCALL;

/// A domain that makes calls, on its CPU.
struct Caller<'a> {
    guest: &'a Guest,
    cpu: &'a Cpu,
    regs: CpuUserRegs,
}

impl<'a> Caller<'a> {
    fn own(guest: &'a Guest) -> Self {
        Self {
            guest,
            cpu: &guest.cpu,
            regs: guest.regs,
        }
    }

    fn neighbour(guest: &'a Guest, neighbour: &Neighbour) -> Self {
        Self {
            guest,
            cpu: &guest.other_cpu,
            regs: neighbour.regs,
        }
    }

    fn op<T: IntoBytes + Immutable + FromBytes>(
        &mut self,
        command: EventChannelCommand,
        argument: &mut T,
    ) -> i64 {
        let at = GuestAddr::new(DATA);
        self.cpu.write_guest(at, argument).unwrap();
        self.regs.rax = Hypercall::EventChannelOp.number();
        [self.regs.rdi, self.regs.rsi] = [command.get().into(), DATA];
        self.regs.entry_vector = ENTRY_SYSCALL;
        let next = entry::handle_syscall(&self.guest.host, self.cpu, &mut self.regs);
        assert_eq!(next, Next::Guest);
        *argument = self.cpu.read_guest(at).unwrap();
        self.regs.rax as i64
    }

    fn alloc(&mut self, remote: DomId) -> Result<Port, i64> {
        let mut argument = AllocUnbound {
            dom: DomId::SELF,
            remote_dom: remote,
            port: Port::new(0),
        };
        match self.op(EventChannelCommand::AllocUnbound, &mut argument) {
            0 => Ok(argument.port),
            error => Err(error),
        }
    }

    fn connect(&mut self, remote: DomId, port: Port) -> Result<Port, i64> {
        let mut argument = BindInterdomain {
            remote_dom: remote,
            _pad0: 0,
            remote_port: port,
            local_port: Port::new(0),
        };
        match self.op(EventChannelCommand::BindInterdomain, &mut argument) {
            0 => Ok(argument.local_port),
            error => Err(error),
        }
    }

    fn bind_virq(&mut self, virq: u32, vcpu: u32) -> Result<Port, i64> {
        let mut argument = BindVirq {
            virq,
            vcpu: VcpuId::new(vcpu),
            port: Port::new(0),
        };
        match self.op(EventChannelCommand::BindVirq, &mut argument) {
            0 => Ok(argument.port),
            error => Err(error),
        }
    }

    fn bind_ipi(&mut self, vcpu: u32) -> Result<Port, i64> {
        let mut argument = BindIpi {
            vcpu: VcpuId::new(vcpu),
            port: Port::new(0),
        };
        match self.op(EventChannelCommand::BindIpi, &mut argument) {
            0 => Ok(argument.port),
            error => Err(error),
        }
    }

    fn send(&mut self, port: u32) -> i64 {
        let port = Port::new(port);
        self.op(EventChannelCommand::Send, &mut Send { port })
    }

    fn close(&mut self, port: u32) -> i64 {
        let port = Port::new(port);
        self.op(EventChannelCommand::Close, &mut Close { port })
    }

    fn unmask(&mut self, port: u32) -> i64 {
        let port = Port::new(port);
        self.op(EventChannelCommand::Unmask, &mut Unmask { port })
    }

    fn bind_vcpu(&mut self, port: u32, vcpu: u32) -> i64 {
        let (port, vcpu) = (Port::new(port), VcpuId::new(vcpu));
        self.op(EventChannelCommand::BindVcpu, &mut BindVcpu { port, vcpu })
    }

    fn reset(&mut self, dom: DomId) -> i64 {
        self.op(EventChannelCommand::Reset, &mut Reset { dom })
    }

    /// Status, vCPU and the rest, or the error.
    fn status_of(&mut self, dom: DomId, port: u32) -> Result<Status, i64> {
        let mut argument = Status::new_zeroed();
        (argument.dom, argument.port) = (dom, Port::new(port));
        match self.op(EventChannelCommand::Status, &mut argument) {
            0 => Ok(argument),
            error => Err(error),
        }
    }

    fn status(&mut self, port: u32) -> u32 {
        self.status_of(DomId::SELF, port).unwrap().status
    }
}

/// What a domain shares with us.
#[derive(Clone, Copy)]
struct Shared<'a> {
    guest: &'a Guest,
    domid: DomId,
}

impl Shared<'_> {
    fn at(self, offset: usize) -> dom0_abi::addr::Maddr {
        let domain = self.guest.host.domains.get(self.domid).unwrap();
        domain.shared_info.at(offset)
    }

    fn bit(self, row: usize, port: u32) -> bool {
        let at = self.at(row + port as usize / 64 * 8);
        self.guest.host.mem().load_u64(at).unwrap() >> (port % 64) & 1 != 0
    }

    fn is_pending(self, port: u32) -> bool {
        self.bit(2048, port)
    }

    fn set_masked(self, port: u32, masked: bool) {
        let at = self.at(2560 + port as usize / 64 * 8);
        let bit = 1 << (port % 64);
        let mem = self.guest.host.mem();
        if masked {
            mem.fetch_or_u64(at, bit).unwrap();
        } else {
            mem.fetch_and_u64(at, !bit).unwrap();
        }
    }

    fn selector(self) -> u64 {
        self.guest.host.mem().load_u64(self.at(8)).unwrap()
    }

    fn upcall(self) -> u8 {
        self.guest.host.mem().load_u8(self.at(0)).unwrap()
    }

    /// What a kernel does before it looks for events.
    fn take(self) -> u64 {
        let mem = self.guest.host.mem();
        mem.store_u8(self.at(0), 0).unwrap();
        mem.swap_u64(self.at(8), 0).unwrap()
    }

    fn clear_pending(self, port: u32) {
        let at = self.at(2048 + port as usize / 64 * 8);
        let mem = self.guest.host.mem();
        mem.fetch_and_u64(at, !(1 << (port % 64))).unwrap();
    }
}
