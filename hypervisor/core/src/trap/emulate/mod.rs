//! Emulation of privileged instructions for paravirtual kernels.
//!
//! A guest's kernel runs at CPL 3, where these instructions raise #GP; a few it may use all the same. [`emulate`] carries
//! them out against the vCPU's [`PrivilegedState`] and the policies of the domain. What is not on the decoder's list, or
//! is on it and not allowed here, gives the guest the exception that the hardware raised.

pub mod decode;
mod port_io;

use dom0_abi::addr::{Maddr, Mfn};
use dom0_abi::arch::CpuUserRegs;
use dom0_abi::errno::Errno;
use dom0_abi::ids::VcpuId;
use oxen_arch::{Cpu, CpuidResult, PortWidth};

use crate::domain::privileged_state::PrivilegedState;
use crate::guest_access::GuestPtr;
use crate::policy::cpuid::{CpuidPolicy, CpuidView};
use crate::policy::msr::MsrPolicy;
use crate::policy::ports::PortRights;
use crate::trap::exception::{Exception, Vector};
use crate::trap::instruction::complete;
use crate::trap::instruction::fetch::Fetched;
use decode::{ControlRegister, FORCED_CPUID_LENGTH, Instruction};

/// In which of its two modes a guest was when it trapped. Both run at CPL 3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Kernel.
    Kernel,
    /// User.
    User,
}

/// Whose instruction it is: what of the vCPU and its domain does not change by the emulation.
#[derive(Clone, Copy)]
pub struct Guest<'a> {
    /// The mode at the time of the trap.
    pub mode: Mode,
    /// Whether CS names 64-bit code, which has base 0 and no limit. There is no emulation for any other.
    pub has_64bit_code: bool,
    /// The root table of kernel mode, which CR3 shows.
    pub root: Mfn,
    /// The vCPU's number.
    pub vcpu: VcpuId,
    /// Whether the domain is dom0.
    pub is_dom0: bool,
    /// CPUID.
    pub cpuid: &'a CpuidPolicy,
    /// Model-specific registers.
    pub msrs: &'a MsrPolicy,
    /// I/O ports.
    pub ports: &'a PortRights,
}

/// Carries out the instruction that raised #GP(0) or #UD (the forced form of `cpuid`) in the guest whose registers these
/// are, on the CPU that runs it.
///
/// `Ok`: the guest goes on with `regs`, behind the instruction, or at it again if it is a repeated one that has had its
/// share of time. `Err`: the exception to deliver with `regs` as they are now. It is mostly the one that the hardware
/// raised, and then nothing has changed; #PF where the memory operand of `ins` or `outs` cannot be reached, with the
/// elements before it done; #DB when a single-stepped instruction has been carried out (DR6 says so already).
pub fn emulate(
    cpu: &Cpu,
    guest: &Guest<'_>,
    state: &mut PrivilegedState,
    regs: &mut CpuUserRegs,
) -> Result<(), Exception> {
    let vector = u8::try_from(regs.entry_vector).map(Vector::from_number);
    let Ok(Some(vector)) = vector else {
        return Err(Exception::gp(0));
    };
    let raised = Exception::new(vector, regs.error_code);
    let may_be_emulated = raised == Exception::gp(0) || raised == Exception::ud();
    if !may_be_emulated || !guest.has_64bit_code {
        return Err(raised);
    }
    let fetched = Fetched::read(regs.rip, |at, into| cpu.read_guest_bytes(at, into));
    let mut emulation = Emulation {
        cpu,
        guest,
        state,
        regs,
        raised,
    };
    if raised == Exception::ud() {
        if !decode::is_forced_cpuid(fetched.bytes()) {
            return Err(raised);
        }
        emulation.cpuid(true);
        return emulation.finish(FORCED_CPUID_LENGTH);
    }
    let decoded = decode::decode(fetched.bytes()).ok_or(raised)?;
    match emulation.run(decoded.instruction)? {
        Progress::Done => emulation.finish(decoded.length),
        Progress::Again => emulation.finish(0),
    }
}

/// Whether an instruction is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    Done,
    Again,
}

struct Emulation<'a> {
    cpu: &'a Cpu,
    guest: &'a Guest<'a>,
    state: &'a mut PrivilegedState,
    regs: &'a mut CpuUserRegs,
    raised: Exception,
}

impl Emulation<'_> {
    fn run(&mut self, instruction: Instruction) -> Result<Progress, Exception> {
        match instruction {
            Instruction::Cpuid => self.cpuid(false),
            Instruction::Cli | Instruction::Sti => self.require_io_privilege()?,
            Instruction::PortIo(direction, port, width) => {
                let port = port.number(self.regs);
                self.require_port(port, width)?;
                self.port_io(direction, port, width);
            }
            Instruction::StringIo(io) => {
                self.require_port(self.regs.rdx as u16, io.width)?;
                return self.string_io(io);
            }
            privileged => {
                if self.guest.mode != Mode::Kernel {
                    return Err(self.raised);
                }
                self.run_in_kernel(privileged)?;
            }
        }
        Ok(Progress::Done)
    }

    fn run_in_kernel(&mut self, instruction: Instruction) -> Result<(), Exception> {
        let refused = self.raised;
        match instruction {
            Instruction::Rdmsr => {
                let value = self
                    .guest
                    .msrs
                    .read(self.cpu, self.state, self.guest.vcpu, self.regs.rcx as u32)
                    .map_err(|_| refused)?;
                self.set_edx_eax(value);
            }
            Instruction::Wrmsr => {
                let value = self.edx_eax();
                let msr = self.regs.rcx as u32;
                self.guest
                    .msrs
                    .write(self.cpu, self.state, self.guest.vcpu, msr, value)
                    .map_err(|_| refused)?;
            }
            Instruction::Rdtsc => {
                let tsc = self.cpu.tsc();
                self.set_edx_eax(tsc);
            }
            Instruction::Rdtscp => {
                let tsc = self.cpu.tsc();
                self.set_edx_eax(tsc);
                self.regs.rcx = u64::from(self.state.tsc_aux());
            }
            Instruction::ReadControl(control, gpr) => {
                let value = match control {
                    ControlRegister::Cr0 => self.state.cr0(),
                    ControlRegister::Cr2 => self.state.cr2(),
                    ControlRegister::Cr3 => self.guest.root.start().get(),
                    ControlRegister::Cr4 => self.state.cr4(),
                };
                gpr.write(self.regs, value);
            }
            Instruction::WriteControl(control, gpr) => {
                let value = gpr.read(self.regs);
                self.write_control(control, value)?;
            }
            Instruction::ReadDebug(debug, gpr) => {
                let value = self
                    .state
                    .debug_register(u32::from(debug.number()))
                    .map_err(|errno| self.debug_refusal(errno))?;
                gpr.write(self.regs, value);
            }
            Instruction::WriteDebug(debug, gpr) => {
                let value = gpr.read(self.regs);
                self.state
                    .set_debug_register(u32::from(debug.number()), value)
                    .map_err(|errno| self.debug_refusal(errno))?;
                self.cpu.load_debug_registers(self.state.debug_registers());
            }
            Instruction::Clts => {
                self.state.set_task_switched(false);
                self.cpu.set_task_switched(false);
            }
            // Caches matter to devices only, and no domain but dom0 has any.
            Instruction::Wbinvd if self.guest.is_dom0 => self.cpu.write_back_caches(),
            Instruction::Wbinvd => {}
            Instruction::Xsetbv => self.set_extended_control()?,
            Instruction::Cpuid
            | Instruction::Cli
            | Instruction::Sti
            | Instruction::PortIo(..)
            | Instruction::StringIo(_) => return Err(refused),
        }
        Ok(())
    }

    /// CR3 takes no other root than the one it has, whatever the bits say that name no frame: kernels change it by a
    /// hypercall.
    fn write_control(&mut self, control: ControlRegister, value: u64) -> Result<(), Exception> {
        match control {
            ControlRegister::Cr0 => {
                self.state.set_cr0(value).map_err(|_| self.raised)?;
                self.cpu.set_task_switched(self.state.task_switched());
            }
            ControlRegister::Cr2 => self.state.set_cr2(value),
            ControlRegister::Cr3 if Maddr::new(value).mfn() == self.guest.root => {}
            ControlRegister::Cr3 => return Err(self.raised),
            ControlRegister::Cr4 => {
                self.state.set_cr4(value);
                self.cpu.load_guest_cr4(self.state.cr4_for_hardware());
            }
        }
        Ok(())
    }

    fn set_extended_control(&mut self) -> Result<(), Exception> {
        if !self.state.has_osxsave() {
            return Err(Exception::ud());
        }
        // XCR0 is the only one.
        if self.regs.rcx as u32 != 0 {
            return Err(self.raised);
        }
        let before = self.state.xcr0();
        let value = self.edx_eax();
        self.state.set_xcr0(value).map_err(|_| self.raised)?;
        if self.cpu.set_xcr0(value).is_err() {
            // The policy offered what this CPU lacks; the old value was accepted once.
            self.state.set_xcr0(before).map_err(|_| self.raised)?;
            return Err(self.raised);
        }
        Ok(())
    }

    fn cpuid(&mut self, forced: bool) {
        let view = CpuidView {
            forced,
            is_dom0: self.guest.is_dom0,
            osxsave: self.state.has_osxsave(),
            xcr0: self.state.xcr0(),
        };
        let (leaf, subleaf) = (self.regs.rax as u32, self.regs.rcx as u32);
        let CpuidResult { eax, ebx, ecx, edx } = self.guest.cpuid.query(leaf, subleaf, view);
        self.regs.rax = u64::from(eax);
        self.regs.rbx = u64::from(ebx);
        self.regs.rcx = u64::from(ecx);
        self.regs.rdx = u64::from(edx);
    }

    /// The kernel counts as CPL 1, user mode as CPL 3; the hardware's IOPL is always 0.
    fn require_io_privilege(&self) -> Result<(), Exception> {
        let cpl = match self.guest.mode {
            Mode::Kernel => 1,
            Mode::User => 3,
        };
        if self.state.iopl() >= cpl {
            Ok(())
        } else {
            Err(self.raised)
        }
    }

    /// A port may be used with the privilege, or where the guest's bitmap allows all bytes of the access. SPEC: Intel SDM volume 1,
    /// 19.5.2, as far as the ABI has it.
    fn require_port(&self, port: u16, width: PortWidth) -> Result<(), Exception> {
        self.require_io_privilege().or_else(|refused| {
            let bitmap = self.state.port_bitmap();
            let port = u32::from(port);
            let mut ports = port..port.saturating_add(width.bytes().into());
            let may_use = |port: u32| {
                let byte = GuestPtr::<u8>::new(bitmap.at).element((port >> 3).into());
                let refuses = |byte: u8| byte >> (port & 0b111) & 1 != 0;
                port < bitmap.nr_ports && byte.read(self.cpu).is_ok_and(|byte| !refuses(byte))
            };
            ports.all(may_use).then_some(()).ok_or(refused)
        })
    }

    /// DR4 and DR5 do not exist while CR4.DE is set.
    fn debug_refusal(&self, errno: Errno) -> Exception {
        match errno {
            Errno::ENODEV => Exception::ud(),
            _ => self.raised,
        }
    }

    fn edx_eax(&self) -> u64 {
        (self.regs.rdx << 32) | (self.regs.rax & 0xffff_ffff)
    }

    fn set_edx_eax(&mut self, value: u64) {
        self.regs.rax = value & 0xffff_ffff;
        self.regs.rdx = value >> 32;
    }

    fn finish(self, length: u8) -> Result<(), Exception> {
        complete(self.regs, self.state, length)
    }
}

#[cfg(test)]
mod tests;
