//! A model machine: memory, CPUs, clock, and devices that remember what was written to them.
//!
//! LOCK: what boot left has rank `Machine`, devices have rank `Devices`. The state of each CPU has a lock of its own
//! below all ranks, which no other lock is ever taken under.

use core::fmt;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use arrayvec::{ArrayString, ArrayVec};
use dom0_abi::addr::{Maddr, Mfn, PAGE_SIZE};
use zerocopy::FromZeros;

use super::config::SimConfig;
use super::cpu::Cpu;
use super::frames::Frames;
use super::interrupts::SentIpi;
use super::lines::Bus;
use super::memory::{BootSlice, M2p, ModuleMemory, PhysMem};
use super::processor::Processor;
use super::stop::Stop;
use crate::CalendarTime;
use crate::boot::{BootInfo, BootModule, CpuId, EfiTables, MemoryMap, MfnRange, PhysicalId};
use crate::boot_memory::BootMemory;
use crate::paging_facts::{PagingFacts, SPARE_SLOT};
use crate::registers::CpuidResult;
use crate::seat::Seat;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Rank, SpinLock};
use crate::tlb::{CpuSet, CpuTlb, Tlb, TlbMode};

/// Slots of a root that belong to the hypervisor. ABI: `public/arch-x86/xen-x86_64.h`, `ROOT_PAGETABLE_FIRST_XEN_SLOT`.
pub(super) const FIRST_SLOT: usize = 256;
const SLOTS: usize = 16;

/// A CPU and whether a thread plays it.
pub(super) struct Slot {
    pub(super) is_held: AtomicBool,
    pub(super) seat: Seat,
    pub(super) processor: Mutex<Processor>,
}

/// What was written, and what is there to be read.
#[derive(Default)]
pub(super) struct Devices {
    serial_output: Vec<u8>,
    serial_input: VecDeque<u8>,
    screen_output: Vec<u8>,
    is_screen_released: bool,
    stop: Option<Stop>,
    pub(super) ports: BTreeMap<u16, u32>,
    pub(super) ipis: Vec<SentIpi>,
    pub(super) bus: Bus,
}

/// What the machine and its CPUs share.
pub(super) struct Parts {
    pub(super) frames: Arc<Frames>,
    pub(super) cpus: Vec<Slot>,
    pub(super) cpuid: BTreeMap<(u32, u32), CpuidResult>,
    pub(super) msrs: BTreeMap<u32, u64>,
    pub(super) tsc: AtomicU64,
    pub(super) tsc_khz: u32,
    real_time_clock: Option<CalendarTime>,
    has_switch: bool,
    efi: Option<EfiTables>,
    pub(super) devices: SpinLock<Devices>,
    /// How many guest writes are left until one fails; 0 if none is to fail.
    pub(super) failing_write: AtomicU64,
    /// What guests have us read is changed behind us.
    pub(super) spoils_reads: AtomicBool,
    pub(super) forgets_flushes: bool,
    pub(super) tlb: Tlb<Vec<CpuTlb>>,
    pub(super) tlb_mode: TlbMode,
    paging: PagingFacts,
    /// What twins of roots hold in our slots, if guests run on twins.
    pub(super) twin_entries: Option<[u64; SLOTS]>,
}

impl Parts {
    /// The state of a CPU, for one operation. Panics if there is no such CPU.
    pub(super) fn processor(&self, id: CpuId) -> MutexGuard<'_, Processor> {
        let slot = &self.cpus[id.get() as usize];
        slot.processor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A machine. Several may exist in a process, and several threads may use one.
pub struct Machine {
    pub(super) parts: Arc<Parts>,
    mem: PhysMem,
    m2p: M2p,
    memory_map: MemoryMap,
    root_entries: [u64; SLOTS],
    boot_memory: SpinLock<Option<BootMemory>>,
}

impl Machine {
    /// Builds the machine and lets its loader and start code do their work.
    ///
    /// Panics if the description cannot be fulfilled: modules that do not fit into memory, a command line longer than
    /// the protocol allows, no CPU.
    pub fn new(config: SimConfig) -> (Self, BootInfo) {
        assert!(config.cpus > 0, "a machine has a CPU");
        assert!(
            config.cpus <= CpuSet::CAPACITY,
            "a set of CPUs holds no more"
        );
        let paging = config.paging_facts();
        let address_bits = u32::from(paging.address_bits);
        let (has_pcids, has_twins) = (config.uses_pcids(), config.uses_twins());
        let mut memory_map = config.memory_map;
        memory_map.normalise();
        let max_mfn = memory_map.max_mfn();
        assert!(
            max_mfn.start().get() <= 1 << address_bits,
            "the CPU cannot address all of the memory"
        );

        let frames = Arc::new(Frames::new(&memory_map));
        let mem = PhysMem::new(frames.clone());
        let mut boot_memory = BootMemory::new(&memory_map);
        let modules = config.modules.into_iter().map(|(command_line, bytes)| {
            let count = bytes.len().div_ceil(PAGE_SIZE) as u64;
            let low = Some(Maddr::new(1 << 32));
            let range = match count {
                0 => MfnRange::EMPTY,
                _ => boot_memory
                    .alloc(count, 1, low)
                    .expect("a module does not fit into memory"),
            };
            let memory =
                ModuleMemory::new(&mem, range, bytes).expect("free memory is ordinary RAM");
            BootModule::new(text(&command_line), memory)
        });
        let boot_info = BootInfo {
            modules: modules.collect(),
            loader: text(&config.loader),
            command_line: text(&config.command_line),
            memory_map: memory_map.clone(),
            rsdp: None,
            screen: config.screen,
            is_efi: config.efi.is_some(),
            efi: config.efi,
            entry_tsc: 0,
        };

        let root_frames = boot_memory
            .alloc(SLOTS as u64, 1, None)
            .expect("no memory for the hypervisor's tables");
        assert!(frames.bits.take(root_frames), "free memory is ordinary RAM");
        let m2p_frames = boot_memory
            .alloc(M2p::frames_for(max_mfn), 1, None)
            .expect("no memory for the machine-to-physical table");
        assert!(frames.bits.take(m2p_frames), "free memory is ordinary RAM");
        let m2p = M2p::new(frames.clone(), m2p_frames, max_mfn);
        let mut root_entries = [0; SLOTS];
        for (slot, (entry, mfn)) in root_entries.iter_mut().zip(root_frames.iter()).enumerate() {
            if FIRST_SLOT + slot == SPARE_SLOT {
                continue;
            }
            // Present, writable, accessed, dirty; the first one, the machine-to-physical table, is for guests too.
            *entry = mfn.start().get() | 0x63 | if slot == 0 { 4 } else { 0 };
        }
        let processor = |id: u32| {
            let seed = config.seed.wrapping_add(u64::from(id) << 32);
            Processor::new(seed, address_bits, has_pcids)
        };
        let cpus = (0..config.cpus)
            .map(|id| Slot {
                is_held: AtomicBool::new(false),
                seat: Seat::new(),
                processor: Mutex::new(processor(id)),
            })
            .collect();
        let parts = Parts {
            frames,
            cpus,
            cpuid: config.cpuid,
            msrs: config.msrs,
            tsc: AtomicU64::new(1),
            tsc_khz: config.tsc_khz,
            real_time_clock: config.real_time_clock,
            has_switch: config.has_switch,
            efi: config.efi,
            devices: SpinLock::new(Rank::Devices, Devices::default()),
            failing_write: AtomicU64::new(0),
            spoils_reads: AtomicBool::new(false),
            forgets_flushes: config.forgets_flushes,
            tlb: Tlb::new((0..config.cpus).map(|_| CpuTlb::new()).collect()),
            tlb_mode: if has_pcids {
                TlbMode::Pcid
            } else {
                TlbMode::Global
            },
            paging,
            twin_entries: has_twins.then(|| twin_entries(root_entries)),
        };
        let machine = Self {
            parts: Arc::new(parts),
            mem,
            m2p,
            memory_map,
            root_entries,
            boot_memory: SpinLock::new(Rank::Machine, Some(boot_memory)),
        };
        (machine, boot_info)
    }

    /// The machine's memory.
    pub fn mem(&self) -> &PhysMem {
        &self.mem
    }

    /// The machine-to-physical table.
    pub fn m2p(&self) -> &M2p {
        &self.m2p
    }

    /// The frames that the machine-to-physical table lives in.
    pub fn m2p_frames(&self) -> MfnRange {
        self.parts.frames.m2p()
    }

    /// The normalised map.
    pub fn memory_map(&self) -> &MemoryMap {
        &self.memory_map
    }

    /// One past the last frame of RAM: the length of the frame table and of the machine-to-physical table.
    pub fn max_mfn(&self) -> Mfn {
        self.memory_map.max_mfn()
    }

    /// Takes all RAM that boot left over. The second time there is none.
    pub fn take_free_ranges(&self) -> ArrayVec<MfnRange, 256> {
        self.boot_memory
            .lock()
            .take()
            .map_or_else(ArrayVec::new, BootMemory::into_free)
    }

    /// Makes a table that lives for ever. `None` if memory is short, or was already taken by
    /// [`Self::take_free_ranges`].
    pub fn boot_slice<T>(
        &self,
        count: usize,
        make: impl FnMut(usize) -> T,
    ) -> Option<BootSlice<T>> {
        self.take_boot_memory(count.checked_mul(size_of::<T>())?)?;
        Some(BootSlice::new((0..count).map(make).collect()))
    }

    /// Makes a table of zeros that lives for ever, as [`Self::boot_slice`] does.
    pub fn zeroed_boot_slice<T: FromZeros>(&self, count: usize) -> Option<BootSlice<T>> {
        self.take_boot_memory(count.checked_mul(size_of::<T>())?)?;
        Some(BootSlice::new(T::new_vec_zeroed(count).ok()?))
    }

    /// Takes frames for so many bytes out of use for good.
    fn take_boot_memory(&self, bytes: usize) -> Option<()> {
        let count = bytes.div_ceil(PAGE_SIZE) as u64;
        let mut boot_memory = self.boot_memory.lock();
        let boot_memory = boot_memory.as_mut()?;
        if count == 0 {
            return Some(());
        }
        let range = boot_memory.alloc(count, 1, None)?;
        self.parts.frames.bits.take(range).then_some(())
    }

    /// What slot 256..=271 of each guest root must hold; `None` for other slots.
    pub fn root_entry(&self, slot: usize) -> Option<u64> {
        self.root_entries
            .get(slot.checked_sub(FIRST_SLOT)?)
            .copied()
    }

    /// What the CPUs make of page tables.
    pub fn paging(&self) -> PagingFacts {
        self.parts.paging
    }

    /// What firmware calls a CPU. `None`: there is none of this number. Its ACPI counts from one.
    pub fn physical_id(&self, cpu: CpuId) -> Option<PhysicalId> {
        let is_there = (cpu.get() as usize) < self.nr_cpus();
        is_there.then(|| PhysicalId {
            apic: cpu.get(),
            acpi: cpu.get() + 1,
        })
    }

    /// Whether the time-stamp counters of all CPUs are alike.
    pub fn clocks_agree(&self) -> bool {
        true
    }

    /// How many CPUs run. They have the numbers below that.
    pub fn nr_cpus(&self) -> usize {
        self.parts.cpus.len()
    }

    /// Writes to the serial line.
    pub fn serial_write(&self, bytes: &[u8]) {
        self.parts
            .devices
            .lock()
            .serial_output
            .extend_from_slice(bytes);
    }

    /// The next byte that came in on the serial line.
    pub fn serial_read(&self) -> Option<u8> {
        self.parts.devices.lock().serial_input.pop_front()
    }

    /// Writes to the screen, unless it was released.
    pub fn screen_write(&self, bytes: &[u8]) {
        let mut devices = self.parts.devices.lock();
        if !devices.is_screen_released {
            devices.screen_output.extend_from_slice(bytes);
        }
    }

    /// Leaves the screen to somebody else.
    pub fn release_screen(&self) {
        self.parts.devices.lock().is_screen_released = true;
    }

    /// Starts the machine again: unwinds with [`Stop::Reboot`].
    pub fn reboot(&self) -> ! {
        self.stop(Stop::Reboot)
    }

    /// Stands still for ever: unwinds with [`Stop::Halt`].
    pub fn halt(&self) -> ! {
        self.stop(Stop::Halt)
    }

    /// Ends in a panic, by a fault in the hypervisor: unwinds with [`Stop::Crash`].
    pub fn crash(&self) -> ! {
        self.stop(Stop::Crash)
    }

    /// Ends the machine's run: unwinds with [`Stop::PowerOff`].
    pub fn power_off(&self) -> ! {
        self.stop(Stop::PowerOff)
    }

    /// What EFI's tables say; `None` where firmware is not EFI.
    pub fn efi(&self) -> Option<EfiTables> {
        self.parts.efi
    }

    /// Whether ACPI names the registers that [`Self::switch_off`] writes.
    pub fn has_switch(&self) -> bool {
        self.parts.has_switch
    }

    /// Switches power off: unwinds with [`Stop::SwitchedOff`].
    pub fn switch_off(&self, types: [u16; 2]) -> ! {
        self.stop(Stop::SwitchedOff(types))
    }

    fn stop(&self, stop: Stop) -> ! {
        self.parts.devices.lock().stop.get_or_insert(stop);
        stop.unwind()
    }

    /// How fast the time-stamp counter, and with it the clock, runs.
    pub fn tsc_khz(&self) -> u32 {
        self.parts.tsc_khz
    }

    /// What the real-time clock says, if there is one.
    pub fn real_time_clock(&self) -> Option<CalendarTime> {
        self.parts.real_time_clock
    }
}

/// What only the model has.
impl Machine {
    /// Takes a CPU to play it on this thread. Panics if there is none of that number, or somebody holds it.
    pub fn cpu(&self, id: CpuId) -> Cpu {
        Cpu::take(self.parts.clone(), id)
    }

    /// Lets every CPU speculate for a while: it fills its TLB from the tables as they are now, for addresses that it used
    /// lately and ones near by.
    pub fn agitate(&self) {
        for (id, _) in (0..).zip(&self.parts.cpus) {
            let mut processor = self.parts.processor(CpuId::new(id));
            processor.speculate(&self.parts.frames, 16);
        }
    }

    /// Lets the time-stamp counter go on.
    pub fn advance_tsc(&self, cycles: u64) {
        self.parts.tsc.fetch_add(cycles, Ordering::SeqCst);
    }

    /// All that was written to the serial line.
    pub fn serial_output(&self) -> Vec<u8> {
        self.parts.devices.lock().serial_output.clone()
    }

    /// Puts bytes on the serial line, to be read.
    pub fn push_serial_input(&self, bytes: &[u8]) {
        self.parts.devices.lock().serial_input.extend(bytes);
    }

    /// All that was written to the screen.
    pub fn screen_output(&self) -> Vec<u8> {
        self.parts.devices.lock().screen_output.clone()
    }

    /// How the machine was stopped first, if it was.
    pub fn stopped(&self) -> Option<Stop> {
        self.parts.devices.lock().stop
    }

    /// Sets what reading a port yields.
    pub fn set_port(&self, port: u16, value: u32) {
        self.parts.devices.lock().ports.insert(port, value);
    }

    /// Makes another vCPU of every guest change each byte as soon as it was read for the guest: what is read twice is another
    /// thing the second time.
    pub fn spoil_guest_reads(&self, on: bool) {
        self.parts.spoils_reads.store(on, Ordering::Relaxed);
    }

    /// Makes one guest write fail with a fault: the `nth` from now on any CPU, counted from 1; 0 calls it off.
    pub fn fail_guest_write(&self, nth: u64) {
        self.parts.failing_write.store(nth, Ordering::Relaxed);
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("memory_map", &self.memory_map)
            .field("cpus", &self.nr_cpus())
            .finish()
    }
}

/// What twins hold where roots hold `full`: the machine-to-physical table and the windows of descriptor tables alike, another
/// table for image and per-CPU areas, and nothing else.
fn twin_entries(full: [u64; SLOTS]) -> [u64; SLOTS] {
    const IMAGE: usize = 1;
    const UNUSED: usize = 2;
    const WINDOWS: usize = 3;
    let mut twin = [0; SLOTS];
    twin[0] = full[0];
    twin[IMAGE] = full[UNUSED];
    twin[WINDOWS] = full[WINDOWS];
    twin
}

/// A text of the boot protocol.
fn text<const N: usize>(text: &str) -> ArrayString<N> {
    ArrayString::from(text).expect("a text is longer than the boot protocol allows")
}
