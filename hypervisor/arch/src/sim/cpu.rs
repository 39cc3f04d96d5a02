//! A model CPU, held by the thread that plays it.

use core::fmt;
use core::marker::PhantomData;
use std::sync::{Arc, MutexGuard};
use std::vec::Vec;

use dom0_abi::addr::{GuestAddr, PAGE_SIZE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::machine::Parts;
use super::memory::read_value;
use super::processor::{CpuRegisters, Invpcid, PortAccess, Processor};
use super::walk::Walker;
use crate::boot::CpuId;
use crate::fpu::FpuArea;
use crate::guest_range::{GuestFault, check_guest_range, is_canonical};
use crate::registers::{
    BadXcr0, CpuidResult, DebugRegisters, GUEST_CR4, NotCanonical, Notes, PortWidth,
};
use crate::seat::Seat;
use crate::sync::atomic::Ordering;

/// The CPU that runs this code. One thread at a time holds it, got it from [`Machine::cpu`](super::Machine::cpu), and
/// gives it back by dropping it.
pub struct Cpu {
    pub(super) parts: Arc<Parts>,
    pub(super) id: CpuId,
    not_send: PhantomData<*const ()>,
}

macro_rules! bases {
    ($($(#[$doc:meta])* $field:ident $set:ident;)*) => {$(
        $(#[$doc])*
        pub fn $field(&self) -> u64 {
            self.processor().registers.$field
        }

        /// Loads that base.
        pub fn $set(&self, base: u64) -> Result<(), NotCanonical> {
            if !is_canonical(base) {
                return Err(NotCanonical);
            }
            self.processor().registers.$field = base;
            Ok(())
        }
    )*};
}

impl Cpu {
    /// Panics if there is no such CPU, or somebody holds it.
    pub(super) fn take(parts: Arc<Parts>, id: CpuId) -> Self {
        let slot = parts
            .cpus
            .get(id.get() as usize)
            .expect("the machine has no such CPU");
        assert!(
            !slot.is_held.swap(true, Ordering::Acquire),
            "CPU {id} is held already"
        );
        Self {
            parts,
            id,
            not_send: PhantomData,
        }
    }

    pub(super) fn processor(&self) -> MutexGuard<'_, Processor> {
        self.parts.processor(self.id)
    }

    /// Where it keeps what it works for.
    pub(crate) fn seat(&self) -> &Seat {
        let slot = self.parts.cpus.get(self.id.get() as usize);
        &slot.expect("`take` has found it").seat
    }

    /// Which one it is.
    pub fn id(&self) -> CpuId {
        self.id
    }

    /// Reads guest virtual memory through the loaded root, with the rights of user mode. A range that is not canonical
    /// or touches the hypervisor's part is refused before anything is touched.
    pub fn read_guest_bytes(&self, at: GuestAddr, into: &mut [u8]) -> Result<(), GuestFault> {
        check_guest_range(at, into.len())?;
        let mut at = at.get();
        let mut rest = into;
        while !rest.is_empty() {
            let (part, more) = rest.split_at_mut(in_page(at, rest.len()));
            self.access(at, |walker| walker.read(at, part))?;
            if self.parts.spoils_reads.load(Ordering::Relaxed) {
                let spoiled: Vec<u8> = part.iter().map(|byte| !byte).collect();
                // What is mapped read-only stays as it is.
                let _ = self.access(at, |walker| walker.write(at, &spoiled));
            }
            at = at.wrapping_add(part.len() as u64);
            rest = more;
        }
        Ok(())
    }

    /// Writes guest virtual memory, as [`Self::read_guest_bytes`] reads it. On a fault the bytes before it have been
    /// written.
    pub fn write_guest_bytes(&self, at: GuestAddr, from: &[u8]) -> Result<(), GuestFault> {
        check_guest_range(at, from.len())?;
        let countdown = |left: u64| left.checked_sub(1);
        if self
            .parts
            .failing_write
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, countdown)
            == Ok(1)
        {
            return Err(GuestFault { at });
        }
        let mut at = at.get();
        let mut rest = from;
        while !rest.is_empty() {
            let (part, more) = rest.split_at(in_page(at, rest.len()));
            self.access(at, |walker| walker.write(at, part))?;
            at = at.wrapping_add(part.len() as u64);
            rest = more;
        }
        Ok(())
    }

    fn access(
        &self,
        at: u64,
        access: impl FnOnce(&mut Walker<'_>) -> Option<()>,
    ) -> Result<(), GuestFault> {
        let frames = &*self.parts.frames;
        let mut processor = self.processor();
        processor.speculate(frames, 2);
        processor.remember(at);
        let done = processor
            .walker(frames)
            .and_then(|mut walker| access(&mut walker));
        done.ok_or(GuestFault {
            at: GuestAddr::new(at),
        })
    }

    /// Reads a value from guest virtual memory.
    pub fn read_guest<T: FromBytes>(&self, at: GuestAddr) -> Result<T, GuestFault> {
        let mut done = Ok(());
        let value = read_value(|into| done = self.read_guest_bytes(at, into));
        done.map(|()| value)
    }

    /// The same; on the metal it is not tried as hard.
    pub fn read_guest_at_once<T: FromBytes>(&self, at: GuestAddr) -> Option<T> {
        self.read_guest(at).ok()
    }

    /// Writes a value to guest virtual memory.
    pub fn write_guest<T: IntoBytes + Immutable>(
        &self,
        at: GuestAddr,
        value: &T,
    ) -> Result<(), GuestFault> {
        self.write_guest_bytes(at, value.as_bytes())
    }

    /// The hardware's own answer.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let table = &self.parts.cpuid;
        // Most leaves ignore the subleaf.
        let subleaf = if matches!(leaf, 4 | 7 | 0xb | 0xd | 0x14 | 0x8000_001d) {
            subleaf
        } else {
            0
        };
        let mut result = table.get(&(leaf, subleaf)).copied().unwrap_or_default();
        if (leaf, subleaf) == (1, 0) {
            result.ebx |= (self.id.get() & 0xff) << 24;
        }
        if leaf == 0xd && subleaf < 2 {
            let xcr0 = self.processor().registers.xcr0;
            let ends = (2..63)
                .filter(|bit| xcr0 >> bit & 1 != 0)
                .filter_map(|bit| table.get(&(0xd, bit)));
            result.ebx = ends
                .map(|part| part.ebx + part.eax)
                .max()
                .unwrap_or(0)
                .max(576);
        }
        result
    }

    /// Reads a model-specific register; `None` if the CPU has no such one.
    pub fn read_msr(&self, msr: u32) -> Option<u64> {
        self.parts.msrs.get(&msr).copied()
    }

    bases! {
        /// The base of FS.
        fs_base set_fs_base;
        /// The base of GS now in use.
        gs_base set_gs_base;
        /// The base of GS that is kept for guest user mode.
        user_gs_base set_user_gs_base;
    }

    /// Brings the base of GS into use that is kept for guest user mode, and keeps the one that was.
    pub fn swap_gs_bases(&self) {
        let registers = &mut self.processor().registers;
        core::mem::swap(&mut registers.gs_base, &mut registers.user_gs_base);
    }

    /// Sets or clears CR0.TS.
    pub fn set_task_switched(&self, on: bool) {
        self.processor().registers.task_switched = on;
    }

    /// Makes the bits of CR4 that follow the guest (`GUEST_CR4`) those of `value`.
    pub fn load_guest_cr4(&self, value: u64) {
        let mut processor = self.processor();
        let cr4 = processor.registers.cr4;
        processor.write_cr4(cr4 & !GUEST_CR4 | value & GUEST_CR4);
    }

    /// Loads what `RDTSCP` and `RDPID` return.
    pub fn load_tsc_aux(&self, value: u32) {
        self.processor().registers.tsc_aux = value;
    }

    /// Notes what this CPU has to see to before it goes back to a guest.
    pub fn note(&self, what: Notes) {
        self.processor().registers.notes |= what;
    }

    /// Whether anything is noted.
    pub fn has_notes(&self) -> bool {
        !self.notes().is_empty()
    }

    /// What is noted.
    pub fn notes(&self) -> Notes {
        self.processor().registers.notes
    }

    /// Forgets some of what is noted; returns what of it was.
    pub fn take_notes(&self, what: Notes) -> Notes {
        let notes = &mut self.processor().registers.notes;
        let noted = *notes & what;
        notes.remove(what);
        noted
    }

    /// Sets XCR0. Refuses what the CPU lacks and combinations that cannot be.
    /// SPEC: Intel SDM volume 1, 13.3.
    pub fn set_xcr0(&self, value: u64) -> Result<(), BadXcr0> {
        const XSAVE: u32 = 1 << 26;
        let components = self.cpuid(0xd, 0);
        let supported = u64::from(components.edx) << 32 | u64::from(components.eax);
        let has = |bits: u64| value & bits == bits;
        let has_none_or = |bits: u64, needed: u64| value & bits == 0 || has(bits | needed);
        let well = self.cpuid(1, 0).ecx & XSAVE != 0
            && value & !(supported & FpuArea::COMPONENTS) == 0
            && has(1)
            && has_none_or(1 << 2, 1 << 1)
            && has_none_or(0b11 << 3, 0)
            && has_none_or(0b111 << 5, 1 << 2)
            && has_none_or(0b11 << 17, 0);
        if well {
            self.processor().registers.xcr0 = value;
        }
        if well { Ok(()) } else { Err(BadXcr0) }
    }

    /// Loads breakpoints that have been checked.
    pub fn load_debug_registers(&self, dr: &DebugRegisters) {
        self.processor().registers.debug = *dr;
    }

    /// Reads DR6.
    pub fn read_dr6(&self) -> u64 {
        self.processor().registers.debug.dr6
    }

    /// CR2: the address of the last page fault.
    pub fn fault_address(&self) -> u64 {
        self.processor().registers.fault_address
    }

    /// Reads a port: what [`Machine::set_port`](super::Machine::set_port) put there, or all ones.
    pub fn port_in(&self, port: u16, width: PortWidth) -> u32 {
        let value = self
            .parts
            .devices
            .lock()
            .ports
            .get(&port)
            .copied()
            .unwrap_or(u32::MAX)
            & width.mask();
        self.processor().ports.push(PortAccess {
            port,
            width,
            value,
            is_out: false,
        });
        value
    }

    /// Writes a port.
    pub fn port_out(&self, port: u16, width: PortWidth, value: u32) {
        let value = value & width.mask();
        self.processor().ports.push(PortAccess {
            port,
            width,
            value,
            is_out: true,
        });
    }

    /// The time-stamp counter. Every look makes it go on by one.
    pub fn tsc(&self) -> u64 {
        self.parts.tsc.fetch_add(1, Ordering::SeqCst)
    }

    /// Writes all caches back.
    pub fn write_back_caches(&self) {
        self.processor().registers.cache_write_backs += 1;
    }

    /// Saves the floating-point and vector registers.
    pub fn save_fpu(&self, area: &mut FpuArea) {
        area.clone_from(&self.processor().fpu);
    }

    /// Loads them.
    pub fn restore_fpu(&self, area: &FpuArea) {
        self.processor().fpu.clone_from(area);
    }
}

/// What only the model has.
impl Cpu {
    /// `MOV CR3`: root, PCID if CR4.PCIDE is set, and bit 63, which then keeps the TLB as it is.
    pub fn write_cr3(&self, value: u64) {
        self.processor().write_cr3(&self.parts.frames, value);
    }

    /// `MOV CR4`: a change of PGE, and switching PCIDs off, forget all translations.
    pub fn write_cr4(&self, value: u64) {
        self.processor().write_cr4(value);
    }

    /// `INVPCID`.
    pub fn invpcid(&self, what: Invpcid) {
        self.processor().invpcid(what);
    }

    /// The registers as they are now.
    pub fn registers(&self) -> CpuRegisters {
        self.processor().registers.clone()
    }

    /// Makes an NMI arrive while the CPU is in the hypervisor.
    pub fn raise_nmi(&self) {
        self.note(Notes::NMI);
    }

    /// Sets CR2, as a page fault does.
    pub fn set_fault_address(&self, address: u64) {
        self.processor().registers.fault_address = address;
    }

    /// Sets bits of DR6, as a breakpoint does.
    pub fn raise_dr6(&self, bits: u64) {
        self.processor().registers.debug.dr6 |= bits;
    }

    /// Writes to the x87, SSE and AVX registers, as a guest does.
    pub fn fill_fpu(&self, byte: u8) {
        let mut processor = self.processor();
        let image = &mut processor.fpu.bytes;
        // The registers themselves, behind the control words, and the list of components in use.
        image[32..416].fill(byte);
        image[512] = 0b111;
        image[576..832].fill(byte);
    }

    /// Takes the log of port accesses.
    pub fn take_port_log(&self) -> Vec<PortAccess> {
        core::mem::take(&mut self.processor().ports)
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        if let Some(slot) = self.parts.cpus.get(self.id.get() as usize) {
            slot.is_held.store(false, Ordering::Release);
        }
    }
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu")
            .field("id", &self.id)
            .field("registers", &self.registers())
            .finish()
    }
}

/// How many of `len` bytes at the address lie in its page.
fn in_page(address: u64, len: usize) -> usize {
    len.min(PAGE_SIZE - (address as usize % PAGE_SIZE))
}
