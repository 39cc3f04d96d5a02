//! Event channels: ports made, connected, sent through and closed, rightly and wrongly.

use dom0_abi::event_channel::{
    AllocUnbound, BindInterdomain, BindIpi, BindVcpu, BindVirq, EventChannelCommand, ExpandArray,
    InitControl, SetPriority, Status,
};
use dom0_abi::ids::{Port, VcpuId};

use super::*;

/// Most ports have numbers below this, so that domains meet.
const PORTS: u64 = 10;

impl Maker<'_> {
    fn port(&mut self) -> Port {
        let odd = [0, 63, 64, 511, 512, 4095, 4096, u32::MAX];
        Port::new(match self.rng.percent(5) {
            true => self.rng.pick(&odd).unwrap(),
            false => self.rng.below(PORTS) as u32,
        })
    }

    fn vcpu(&mut self) -> VcpuId {
        let odd = [2, 31, 127, 128, u32::MAX];
        VcpuId::new(match self.rng.percent(5) {
            true => self.rng.pick(&odd).unwrap(),
            false => self.rng.below(2) as u32,
        })
    }

    /// A domain that plays, or the caller.
    fn somebody(&mut self) -> DomId {
        match self.rng.percent(40) {
            true => DomId::SELF,
            false => DomId::new(self.domain() as u16),
        }
    }

    /// A frame of the caller's, most likely one that it writes to.
    fn page_for_events(&mut self) -> u64 {
        let frames = &self.world.players[self.slot].frames;
        let any = self.rng.below(frames.len() as u64) as usize;
        match self.rng.percent(70) {
            true => frames[LOOSE + 30].get(),
            false => frames[any].get(),
        }
    }

    pub(super) fn event_call(&mut self) -> Call {
        use EventChannelCommand as Cmd;
        let commands = [
            Cmd::AllocUnbound,
            Cmd::AllocUnbound,
            Cmd::BindInterdomain,
            Cmd::BindInterdomain,
            Cmd::BindInterdomain,
            Cmd::BindVirq,
            Cmd::BindIpi,
            Cmd::BindVcpu,
            Cmd::Send,
            Cmd::Send,
            Cmd::Close,
            Cmd::Close,
            Cmd::Unmask,
            Cmd::Status,
            Cmd::Reset,
            Cmd::BindPirq,
            Cmd::InitControl,
            Cmd::ExpandArray,
            Cmd::SetPriority,
        ];
        let command = self.rng.pick(&commands).unwrap();
        let bytes = match command {
            Cmd::AllocUnbound => AllocUnbound {
                dom: self.somebody(),
                remote_dom: self.somebody(),
                port: Port::new(0),
            }
            .as_bytes()
            .to_vec(),
            Cmd::BindInterdomain => BindInterdomain {
                remote_dom: self.somebody(),
                _pad0: 0,
                remote_port: self.port(),
                local_port: Port::new(0),
            }
            .as_bytes()
            .to_vec(),
            Cmd::BindVirq => BindVirq {
                virq: self.rng.below(26) as u32,
                vcpu: self.vcpu(),
                port: Port::new(0),
            }
            .as_bytes()
            .to_vec(),
            Cmd::BindIpi => BindIpi {
                vcpu: self.vcpu(),
                port: Port::new(0),
            }
            .as_bytes()
            .to_vec(),
            Cmd::BindVcpu => BindVcpu {
                port: self.port(),
                vcpu: self.vcpu(),
            }
            .as_bytes()
            .to_vec(),
            Cmd::Status => {
                let mut status = Status::new_zeroed();
                (status.dom, status.port) = (self.somebody(), self.port());
                status.as_bytes().to_vec()
            }
            Cmd::InitControl => {
                let mut control = InitControl::new_zeroed();
                control.control_gfn = self.page_for_events();
                control.offset = self.rng.pick(&[0, 72, 2048, 4024, 4028]).unwrap();
                control.vcpu = self.vcpu();
                control.as_bytes().to_vec()
            }
            Cmd::ExpandArray => {
                let array_gfn = self.page_for_events();
                ExpandArray { array_gfn }.as_bytes().to_vec()
            }
            Cmd::SetPriority => {
                let (port, priority) = (self.port(), self.rng.below(17) as u32);
                SetPriority { port, priority }.as_bytes().to_vec()
            }
            Cmd::Reset => self.somebody().as_bytes().to_vec(),
            _ => [self.port().get(); 3].as_bytes().to_vec(),
        };
        let mut data = Vec::new();
        let at = self.data(&mut data, &bytes);
        Call {
            call: Hypercall::EventChannelOp,
            args: [command.get().into(), at, 0, 0, 0],
            data,
        }
    }
}
