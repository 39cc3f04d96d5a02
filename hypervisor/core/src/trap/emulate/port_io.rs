//! `in`, `out`, `ins` and `outs`, once the privilege for them is established.

use dom0_abi::addr::GuestAddr;
use dom0_abi::arch::CpuUserRegs;
use oxen_arch::PortWidth;
use oxen_arch::guest_range::is_canonical;

use super::decode::{Direction, PortOperand, StringIo};
use super::{Emulation, Mode, Progress};
use crate::policy::ports::Access;
use crate::trap::exception::{Exception, PageFaultCode};
use crate::trap::flags;

/// Elements that a repeated instruction moves before the guest, and whoever waits for this CPU, gets a turn: it then
/// raises #GP again and goes on.
const ELEMENTS_PER_TRAP: u32 = 64;

impl PortOperand {
    /// The port, with these registers.
    pub(super) fn number(self, regs: &CpuUserRegs) -> u16 {
        match self {
            Self::Immediate(port) => u16::from(port),
            Self::Dx => regs.rdx as u16,
        }
    }
}

impl Emulation<'_> {
    pub(super) fn port_io(&mut self, direction: Direction, port: u16, width: PortWidth) {
        match direction {
            Direction::In => {
                let value = u64::from(self.read_port(port, width));
                let kept = match width {
                    // A 32-bit result clears the upper half, narrower ones leave the rest alone.
                    PortWidth::Dword => 0,
                    PortWidth::Byte | PortWidth::Word => !u64::from(width.mask()),
                };
                self.regs.rax = (self.regs.rax & kept) | value;
            }
            Direction::Out => self.write_port(port, width, self.regs.rax as u32),
        }
    }

    /// Moves elements until the count is used up or it is time for a pause. On a fault the elements before are done and
    /// the registers say so; of `ins` the device has given away the element that could not be stored.
    pub(super) fn string_io(&mut self, io: StringIo) -> Result<Progress, Exception> {
        let address_mask = if io.address_32 {
            u64::from(u32::MAX)
        } else {
            u64::MAX
        };
        let is_stepping = self.regs.rflags & flags::TF != 0;
        let mut left = match io.repeated {
            false => 1,
            true => self.regs.rcx & address_mask,
        };
        let share = if is_stepping { 1 } else { ELEMENTS_PER_TRAP };
        for _ in 0..share {
            if left == 0 {
                break;
            }
            self.move_element(io, address_mask)?;
            left = left.saturating_sub(1);
            if io.repeated {
                self.regs.rcx = left;
            }
        }
        Ok(if left == 0 {
            Progress::Done
        } else {
            Progress::Again
        })
    }

    fn move_element(&mut self, io: StringIo, address_mask: u64) -> Result<(), Exception> {
        let port = self.regs.rdx as u16;
        let size = u64::from(io.width.bytes());
        let mut bytes = [0; 4];
        let element = bytes
            .get_mut(..usize::from(io.width.bytes()))
            .unwrap_or_default();
        let pointer = match io.direction {
            Direction::In => self.regs.rdi & address_mask,
            Direction::Out => self.regs.rsi & address_mask,
        };
        let base = io.segment.base(self.cpu);
        let at = GuestAddr::new(base.wrapping_add(pointer));
        let next = if self.regs.rflags & flags::DF == 0 {
            pointer.wrapping_add(size)
        } else {
            pointer.wrapping_sub(size)
        } & address_mask;
        match io.direction {
            Direction::In => {
                let value = self.read_port(port, io.width).to_le_bytes();
                for (to, from) in element.iter_mut().zip(value) {
                    *to = from;
                }
                self.cpu
                    .write_guest_bytes(at, element)
                    .map_err(|fault| self.memory_fault(fault.at, PageFaultCode::WRITE))?;
                self.regs.rdi = next;
            }
            Direction::Out => {
                self.cpu
                    .read_guest_bytes(at, element)
                    .map_err(|fault| self.memory_fault(fault.at, 0))?;
                self.write_port(port, io.width, u32::from_le_bytes(bytes));
                self.regs.rsi = next;
            }
        }
        Ok(())
    }

    /// What the hardware would raise had it made the access itself.
    fn memory_fault(&self, at: GuestAddr, code: u32) -> Exception {
        let user = match self.guest.mode {
            Mode::Kernel => 0,
            Mode::User => PageFaultCode::USER,
        };
        if is_canonical(at.get()) {
            Exception::pf(at.get(), code | user)
        } else {
            Exception::gp(0)
        }
    }

    fn read_port(&self, port: u16, width: PortWidth) -> u32 {
        match self.guest.ports.check(port, width) {
            Access::Direct => self.cpu.port_in(port, width) & width.mask(),
            Access::Denied => width.mask(),
        }
    }

    fn write_port(&self, port: u16, width: PortWidth, value: u32) {
        match self.guest.ports.check(port, width) {
            Access::Direct => self.cpu.port_out(port, width, value & width.mask()),
            Access::Denied => {}
        }
    }
}
