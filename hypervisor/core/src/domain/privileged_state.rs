//! The system registers of a vCPU as its kernel sees them: control and debug registers, XCR0, the virtual I/O privilege
//! level, TSC_AUX. The segment bases live in the CPU, which checks them.
//!
//! INVARIANT: whatever is stored can be loaded into the hardware as it is. Each register has one validator, which the
//! hypercall and the emulated instruction share (I27), and the fields are private.
//!
//! What the hardware's CR4 and XCR0 must be follows from this state alone and is recomputed, never edited in place:
//! [`PrivilegedState::cr4_for_hardware`], [`PrivilegedState::xcr0`].

use dom0_abi::addr::GuestAddr;
use dom0_abi::arch::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START};
use dom0_abi::errno::Errno;
use oxen_arch::DebugRegisters;
use oxen_arch::guest_range::is_canonical;

use crate::guest_access::GuestPtr;

/// Bits of CR0. SPEC: Intel SDM volume 3, 2.5.
pub mod cr0 {
    /// Task switched: the next FPU instruction raises #NM. The only bit that a guest may change.
    pub const TS: u64 = 1 << 3;
    /// What a guest reads beside TS: PE, MP, ET, NE, WP, AM, PG, as on bare hardware after boot.
    pub const FIXED: u64 = 0x8005_0033;
}

/// Bits of CR4. SPEC: Intel SDM volume 3, 2.5.
pub mod cr4 {
    /// Time stamp disable: `rdtsc` needs privilege.
    pub const TSD: u64 = 1 << 2;
    /// Debugging extensions: DR4 and DR5 do not exist.
    pub const DE: u64 = 1 << 3;
    /// `rdfsbase` and its kin.
    pub const FSGSBASE: u64 = 1 << 16;
    /// `xgetbv`, `xsetbv` and the XSAVE family.
    pub const OSXSAVE: u64 = 1 << 18;
    /// What a guest reads beside its own bits: PAE, MCE, OSFXSR, OSXMMEXCPT, the same on every host.
    pub const FIXED: u64 = (1 << 5) | (1 << 6) | (1 << 9) | (1 << 10);
}

/// Bits of XCR0. SPEC: Intel SDM volume 1, 13.3.
pub mod xcr0 {
    /// x87; always on.
    pub const X87: u64 = 1 << 0;
    /// XMM registers.
    pub const SSE: u64 = 1 << 1;
    /// Upper halves of YMM registers.
    pub const AVX: u64 = 1 << 2;
    /// Mask registers and the rest of ZMM registers, three components that come together.
    pub const AVX512: u64 = 7 << 5;
}

/// Bits of DR6 and DR7. SPEC: Intel SDM volume 3, 18.2.
pub mod dr {
    /// DR6: single step.
    pub const DR6_SINGLE_STEP: u64 = 1 << 14;
    /// DR6: reserved bits that read as 1.
    pub const DR6_ONES: u64 = 0xffff_0ff0;
    /// DR6: all bits that can be 1.
    pub const DR6_DEFINED: u64 = 0xffff_efff;
    /// DR7: reserved bit that reads as 1.
    pub const DR7_ONES: u64 = 1 << 10;
    /// DR7: all bits that can be 1, without that one.
    pub const DR7_DEFINED: u64 = 0xffff_23ff;
    /// DR7: general detect, a trap on each access to a debug register.
    pub const DR7_GENERAL_DETECT: u64 = 1 << 13;
}

/// What of CR4 and XCR0 a guest may set: the part of the host's features that its CPUID shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnedBits {
    /// Of [`cr4::TSD`], [`cr4::DE`], [`cr4::FSGSBASE`], [`cr4::OSXSAVE`].
    pub cr4: u64,
    /// Of the bits in [`xcr0`]; 0 without XSAVE.
    pub xcr0: u64,
}

/// Which ports the guest's user mode may use, without a privilege level: where the guest says so, a bit for each, 0 if it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortBitmap {
    /// The first byte.
    pub at: GuestAddr,
    /// For how many ports there are bits; no others may be used.
    pub nr_ports: u32,
}

impl PortBitmap {
    const NONE: Self = Self {
        at: GuestAddr::new(0),
        nr_ports: 0,
    };
}

/// The system registers of one vCPU.
#[derive(Clone, Debug)]
pub struct PrivilegedState {
    owned: OwnedBits,
    task_switched: bool,
    cr2: u64,
    cr4: u64,
    xcr0: u64,
    debug: DebugRegisters,
    iopl: u8,
    port_bitmap: PortBitmap,
    tsc_aux: u32,
}

impl PrivilegedState {
    /// The state of a vCPU that was never run: of the components of XCR0, those that every 64-bit CPU has are on.
    pub const fn new(owned: OwnedBits) -> Self {
        Self {
            owned,
            task_switched: false,
            cr2: 0,
            cr4: 0,
            // A guest finds x87 and SSE switched on, as far as it may have them.
            xcr0: xcr0::X87 | (owned.xcr0 & xcr0::SSE),
            debug: DebugRegisters::RESET,
            iopl: 0,
            port_bitmap: PortBitmap::NONE,
            tsc_aux: 0,
        }
    }

    /// CR0 as the guest reads it.
    pub const fn cr0(&self) -> u64 {
        if self.task_switched {
            cr0::FIXED | cr0::TS
        } else {
            cr0::FIXED
        }
    }

    /// Writes CR0, of which only TS may change.
    ///
    /// `EPERM`: another bit differs; nothing has changed.
    pub fn set_cr0(&mut self, value: u64) -> Result<(), Errno> {
        if value & !cr0::TS != cr0::FIXED {
            return Err(Errno::EPERM);
        }
        self.task_switched = value & cr0::TS != 0;
        Ok(())
    }

    /// Whether CR0.TS is set: the CPU's own must follow while this vCPU runs.
    pub const fn task_switched(&self) -> bool {
        self.task_switched
    }

    /// Sets or clears CR0.TS: `fpu_taskswitch`, `clts`, and delivery of #NM.
    pub fn set_task_switched(&mut self, on: bool) {
        self.task_switched = on;
    }

    /// CR2: the address of the last page fault given to the guest, or what it wrote since.
    pub const fn cr2(&self) -> u64 {
        self.cr2
    }

    /// Sets CR2, which may hold anything.
    pub fn set_cr2(&mut self, value: u64) {
        self.cr2 = value;
    }

    /// CR4 as the guest reads it.
    pub const fn cr4(&self) -> u64 {
        cr4::FIXED | self.cr4
    }

    /// Writes CR4. Bits that are not the guest's own are ignored: a kernel sets what it knows of, and reads back what it
    /// got.
    pub fn set_cr4(&mut self, value: u64) {
        self.cr4 = value & self.owned.cr4;
    }

    /// The guest's part of the hardware's CR4 while this vCPU runs.
    ///
    /// FSGSBASE and OSXSAVE are on wherever the guest may own them: their instructions do no harm, and a switch would
    /// cost more than it hides.
    pub const fn cr4_for_hardware(&self) -> u64 {
        self.cr4 | (self.owned.cr4 & (cr4::FSGSBASE | cr4::OSXSAVE))
    }

    /// Whether the guest has set CR4.OSXSAVE.
    pub const fn has_osxsave(&self) -> bool {
        self.cr4 & cr4::OSXSAVE != 0
    }

    /// XCR0.
    pub const fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// Writes XCR0.
    ///
    /// `EINVAL`: x87 is missing, a component is not the guest's to use, or one lacks those that it needs; nothing has
    /// changed.
    pub fn set_xcr0(&mut self, value: u64) -> Result<(), Errno> {
        let has = |bits| value & bits != 0;
        let all = |bits| value & bits == bits;
        let legal = value & !self.owned.xcr0 == 0
            && has(xcr0::X87)
            && (!has(xcr0::AVX) || has(xcr0::SSE))
            && (!has(xcr0::AVX512) || all(xcr0::AVX512 | xcr0::AVX));
        if !legal {
            return Err(Errno::EINVAL);
        }
        self.xcr0 = value;
        Ok(())
    }

    /// The I/O privilege level; the hardware's own stays 0.
    pub const fn iopl(&self) -> u8 {
        self.iopl
    }

    /// Sets the I/O privilege level. ABI: `public/physdev.h`, `PHYSDEVOP_set_iopl`.
    ///
    /// `EINVAL`: above 3; nothing has changed.
    #[doc(alias = "PHYSDEVOP_set_iopl")]
    pub fn set_iopl(&mut self, level: u32) -> Result<(), Errno> {
        match u8::try_from(level) {
            Ok(level @ 0..=3) => {
                self.iopl = level;
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// Which ports may be used without a privilege level.
    pub const fn port_bitmap(&self) -> PortBitmap {
        self.port_bitmap
    }

    /// Sets that. ABI: `public/physdev.h`, `PHYSDEVOP_set_iobitmap`.
    ///
    /// `EINVAL`: there are not so many ports; `EFAULT`: no guest can have anything there. Nothing has changed then.
    #[doc(alias = "PHYSDEVOP_set_iobitmap")]
    pub fn set_port_bitmap(&mut self, at: GuestAddr, nr_ports: u32) -> Result<(), Errno> {
        const PORTS: u32 = 0x1_0000;
        if nr_ports > PORTS {
            return Err(Errno::EINVAL);
        }
        let bytes = nr_ports.div_ceil(8);
        if !GuestPtr::<u8>::new(at).row_can_be_guests(bytes) {
            return Err(Errno::EFAULT);
        }
        self.port_bitmap = PortBitmap { at, nr_ports };
        Ok(())
    }

    /// TSC_AUX, which `rdtscp` returns.
    pub const fn tsc_aux(&self) -> u32 {
        self.tsc_aux
    }

    /// Sets TSC_AUX, which may hold anything.
    pub fn set_tsc_aux(&mut self, value: u32) {
        self.tsc_aux = value;
    }

    /// The debug registers, fit to be loaded.
    pub const fn debug_registers(&self) -> &DebugRegisters {
        &self.debug
    }

    /// Reads a debug register. ABI: `public/xen.h`, `get_debugreg`.
    ///
    /// `ENODEV`: DR4 or DR5 while CR4.DE is set, or no such register.
    #[doc(alias = "get_debugreg")]
    pub fn debug_register(&self, number: u32) -> Result<u64, Errno> {
        let address = usize::try_from(number)
            .ok()
            .and_then(|number| self.debug.addr.get(number));
        match (address, self.alias(number)?) {
            (Some(&address), _) => Ok(address),
            (None, 6) => Ok(self.debug.dr6),
            (None, _) => Ok(self.debug.dr7),
        }
    }

    /// Writes a debug register. ABI: `public/xen.h`, `set_debugreg`.
    ///
    /// Reserved bits of DR6 and DR7 are forced. `EPERM`: an address that is not canonical or belongs to the hypervisor,
    /// general detect, or an enabled breakpoint on I/O ports (it would strike in the hypervisor, which carries out port
    /// accesses) or of an undefined length. `EINVAL`: a bit of the upper half of DR6 or DR7. `ENODEV`: as for [`Self::debug_register`]. On failure nothing has changed.
    #[doc(alias = "set_debugreg")]
    pub fn set_debug_register(&mut self, number: u32, value: u64) -> Result<(), Errno> {
        let alias = self.alias(number)?;
        let address = usize::try_from(number)
            .ok()
            .and_then(|number| self.debug.addr.get_mut(number));
        match (address, alias) {
            (Some(address), _) => {
                check_breakpoint_address(value)?;
                *address = value;
            }
            _ if value > u64::from(u32::MAX) => return Err(Errno::EINVAL),
            (None, 6) => self.debug.dr6 = (value & dr::DR6_DEFINED) | dr::DR6_ONES,
            (None, _) => {
                check_breakpoint_control(value)?;
                self.debug.dr7 = (value & dr::DR7_DEFINED) | dr::DR7_ONES;
            }
        }
        Ok(())
    }

    /// Adds status bits to DR6, as the CPU does for a #DB: bits are only ever set, the guest clears them.
    pub fn record_debug_status(&mut self, bits: u64) {
        self.debug.dr6 |= bits & dr::DR6_DEFINED;
    }

    /// DR4 and DR5 are other names of DR6 and DR7, until CR4.DE takes them away.
    fn alias(&self, number: u32) -> Result<u32, Errno> {
        match number {
            0..=3 | 6 | 7 => Ok(number),
            4 if self.cr4 & cr4::DE == 0 => Ok(6),
            5 if self.cr4 & cr4::DE == 0 => Ok(7),
            _ => Err(Errno::ENODEV),
        }
    }
}

/// A breakpoint covers up to 8 bytes, aligned to its length; the whole of them must be the guest's, whatever length DR7
/// gives it later.
fn check_breakpoint_address(address: u64) -> Result<(), Errno> {
    // XSA-12, XSA-444. Both borders of the hypervisor's part are multiples of 8.
    const _: () = assert!(HYPERVISOR_VIRT_START.is_multiple_of(8));
    const _: () = assert!(HYPERVISOR_VIRT_END.is_multiple_of(8));
    let hypervisors = (HYPERVISOR_VIRT_START..HYPERVISOR_VIRT_END).contains(&address);
    if hypervisors || !is_canonical(address) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

fn check_breakpoint_control(value: u64) -> Result<(), Errno> {
    if value & dr::DR7_GENERAL_DETECT != 0 {
        return Err(Errno::EPERM);
    }
    for breakpoint in [0u32, 1, 2, 3] {
        let field = |shift: u32, mask: u64| value.checked_shr(shift).unwrap_or(0) & mask;
        let enabled = field(breakpoint.saturating_mul(2), 3) != 0;
        let kind = field(breakpoint.saturating_mul(4).saturating_add(16), 3);
        let length = field(breakpoint.saturating_mul(4).saturating_add(18), 3);
        let legal = match kind {
            0 => length == 0,
            2 => false,
            _ => true,
        };
        if enabled && !legal {
            return Err(Errno::EPERM);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
