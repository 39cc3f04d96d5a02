//! The machine as a whole, and how it comes to be: from the loader's information to our own page tables, our own stack
//! and an allocator's worth of free memory.
//!
//! Boot writes 32 bytes and one bit for each frame of RAM (frame table, machine-to-physical table, frame bits) and leaves
//! all other memory untouched.

use core::ptr::NonNull;

use arrayvec::ArrayVec;
use dom0_abi::addr::{Maddr, Mfn, PAGE_SIZE};
use x86_64::registers::control::{Efer, EferFlags};
use x86_64::registers::model_specific::Msr;
use zerocopy::FromZeros;

use super::acpi::{self, Rtc, Topology};
use super::cpu::{self, Cpu};
use super::entry::{self, Handlers};
use super::handover::Handover;
use super::memory::{self, BootSlice, M2p, PhysMem, frames_of};
use super::paging::{Access, OwnHalf};
use super::per_cpu::{self, CpuLocal};
use super::segments::WindowEntries;
use super::smp::Origin;
use super::twin::Twin;
use super::{
    apic, descriptors, io_apic, layout, pci, power, registers, screen, serial, smp, time, tlb,
};
use crate::boot::{BootInfo, BootModule, CpuId, EfiTables, MfnRange};
use crate::boot_memory::BootMemory;
use crate::descriptor_window::{GDT_PAGES, WINDOW_PAGES, Window};
use crate::frame_bits::FrameBits;
use crate::interrupts::SERIAL_VECTOR;
use crate::lines::{LineMode, Message, PciFunction, Target};
use crate::memory_map::MemoryMap;
use crate::paging_facts::PagingFacts;
use crate::sync::atomic::AtomicU64;
use crate::sync::{Once, Rank, SpinLock};
use crate::tlb::{CpuTlb, TlbMode};

/// The least memory that Oxen starts with.
const LEAST_RAM: u64 = 64 << 20;
/// The machine-to-physical table has a multiple of so many bytes.
const M2P_PIECE: u64 = 2 << 20;

static MEM: Once<PhysMem> = Once::new();

/// Opens frames to `PhysMem` again, for those who have no reference to it at hand. They stay closed if memory is not known
/// yet; then nobody has closed any.
///
/// # Safety
///
/// As for [`PhysMem::open`].
pub(super) unsafe fn open_frames(frames: MfnRange) {
    if let Some(mem) = MEM.get() {
        // SAFETY: as the caller promises.
        unsafe { mem.open(frames) };
    }
}

/// What the command line decides about the start of the machine.
#[derive(Clone, Copy, Debug)]
pub struct StartOptions {
    /// RAM at and above this address is not used.
    pub memory_limit: Option<u64>,
    /// No more CPUs than these are used.
    pub max_cpus: u32,
    /// Supervisor-mode execution prevention, where the CPU has it.
    pub smep: bool,
    /// Supervisor-mode access prevention, where the CPU has it.
    pub smap: bool,
    /// Process-context identifiers in the TLB, where the CPU has them and there are no twins of roots.
    pub pcid: bool,
    /// Twins of roots, on which guests run; `None`: where the CPU needs them.
    pub xpti: Option<bool>,
}

/// Why the machine cannot start.
#[derive(Debug)]
pub enum StartError {
    /// There is less RAM than Oxen needs.
    TooLittleMemory {
        /// Bytes of RAM that were found.
        found: u64,
    },
    /// The loader put a module where there is no RAM that Oxen uses: behind `mem=`, for one.
    ModuleOutOfReach {
        /// Its number, counted from 0.
        module: usize,
    },
    /// There is no room for a table of this many bytes.
    NoRoom {
        /// What the table is for.
        table: &'static str,
        /// Its size.
        bytes: u64,
    },
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooLittleMemory { found } => {
                write!(
                    f,
                    "this machine has {} MiB of memory; Oxen needs at least {} MiB",
                    found >> 20,
                    LEAST_RAM >> 20
                )
            }
            Self::ModuleOutOfReach { module } => {
                write!(f, "module {module} lies outside the memory that Oxen uses")
            }
            Self::NoRoom { table, bytes } => {
                write!(f, "no room for the {table} of {} KiB", bytes.div_ceil(1024))
            }
        }
    }
}

/// The machine. There is one, and it stays where it is: this is a handle.
pub struct Machine(pub(super) &'static Parts);

static PARTS: Once<Parts> = Once::new();

/// What the machine consists of.
pub(super) struct Parts {
    mem: &'static PhysMem,
    m2p: M2p,
    m2p_frames: MfnRange,
    memory_map: MemoryMap,
    max_mfn: Mfn,
    boot_memory: SpinLock<Option<BootMemory>>,
    root_entries: [u64; 16],
    topology: Topology,
    /// For how many CPUs there is room: an area and a mailbox each.
    cpu_places: usize,
    pub(super) tlb_mode: TlbMode,
    pub(super) shared: &'static tlb::Shared,
    /// What twins of roots hold in our slots, if guests run on twins.
    pub(super) twin_entries: Option<[u64; 16]>,
    paging: PagingFacts,
    efi: Option<EfiTables>,
}

impl Machine {
    /// The machine's memory.
    pub fn mem(&self) -> &PhysMem {
        self.0.mem
    }

    /// The machine-to-physical table.
    pub fn m2p(&self) -> &M2p {
        &self.0.m2p
    }

    /// The frames that the machine-to-physical table lives in, all of one piece: whole 2 MiB, aligned to that.
    pub fn m2p_frames(&self) -> MfnRange {
        self.0.m2p_frames
    }

    /// What is where in the machine's address space.
    pub fn memory_map(&self) -> &MemoryMap {
        &self.0.memory_map
    }

    /// One past the last frame of RAM.
    pub fn max_mfn(&self) -> Mfn {
        self.0.max_mfn
    }

    /// All RAM that boot has left over; empty the second time.
    pub fn take_free_ranges(&self) -> ArrayVec<MfnRange, 256> {
        let ranges = self
            .0
            .boot_memory
            .lock()
            .take()
            .map(BootMemory::into_free)
            .unwrap_or_default();
        for range in &ranges {
            // SAFETY: RAM in the direct map that boot has given to nobody, and will not any more.
            unsafe { self.0.mem.open(*range) };
        }
        ranges
    }

    /// Makes a table that lives for ever. `None` if there is no room, or after [`Self::take_free_ranges`].
    pub fn boot_slice<T>(
        &self,
        count: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Option<BootSlice<T>> {
        let start = raw_table::<T>(self.0.boot_memory.lock().as_mut()?, count)?;
        for index in 0..count {
            // SAFETY: room for `count` values, nobody else's.
            unsafe { start.add(index).write(make(index)) };
        }
        // SAFETY: every value has just been written.
        Some(unsafe { BootSlice::new(start, count) })
    }

    /// The same, of zeros.
    pub fn zeroed_boot_slice<T: FromZeros>(&self, count: usize) -> Option<BootSlice<T>> {
        zeroed_table(self.0.boot_memory.lock().as_mut()?, count)
    }

    /// What a slot of ours must hold in every root.
    pub fn root_entry(&self, slot: usize) -> Option<u64> {
        self.0
            .root_entries
            .get(slot.checked_sub(*layout::OUR_SLOTS.start())?)
            .copied()
    }

    /// What the CPUs make of page tables.
    pub fn paging(&self) -> PagingFacts {
        self.0.paging
    }

    /// What EFI's tables say; `None` where they cannot be read, or firmware is not EFI.
    pub fn efi(&self) -> Option<EfiTables> {
        self.0.efi
    }

    /// How many CPUs firmware named; [`Self::nr_cpus`] are used.
    pub fn cpus_found(&self) -> usize {
        self.0.topology.cpus.len()
    }

    /// Writes to the serial port, if one is open.
    pub fn serial_write(&self, bytes: &[u8]) {
        serial::write(bytes);
    }

    /// Takes a byte that has arrived at the serial port.
    pub fn serial_read(&self) -> Option<u8> {
        serial::read()
    }

    /// Lets the serial port interrupt the first CPU, as `SERIAL_VECTOR`. The line by which it does so; `None` if no IO-APIC serves it.
    pub fn enable_serial_input(&self, irq: u8) -> Option<u32> {
        let topology = &self.0.topology;
        let gsi = io_apic::isa_line(topology, irq);
        let mode = io_apic::default_mode(topology, gsi);
        let is_routed = self.route_line(gsi, CpuId::BOOT);
        if !is_routed || !self.set_line(gsi, mode, SERIAL_VECTOR, true) {
            return None;
        }
        serial::enable_input();
        Some(gsi)
    }

    /// One past the last interrupt line (GSI) of devices.
    pub fn nr_lines(&self) -> u32 {
        io_apic::nr_lines()
    }

    /// How a line speaks as far as firmware says.
    pub fn line_mode(&self, gsi: u32) -> LineMode {
        io_apic::default_mode(&self.0.topology, gsi)
    }

    /// Chooses the CPU at which a line arrives, and closes it. `false`: no IO-APIC serves it, or none can tell that CPU.
    pub fn route_line(&self, gsi: u32, cpu: CpuId) -> bool {
        let apic_id = smp::apic_id(cpu).and_then(|id| u8::try_from(id).ok());
        apic_id.is_some_and(|id| id != u8::MAX && io_apic::route(gsi, id))
    }

    /// Chooses how a line is understood, as what it arrives, and whether it is open. A level that is held while a line is opened
    /// arrives at once; an edge while it is closed never. `false`: no IO-APIC serves it.
    pub fn set_line(&self, gsi: u32, mode: LineMode, vector: u8, is_open: bool) -> bool {
        io_apic::set(gsi, mode, vector, is_open)
    }

    /// The value of a register of the IO-APIC at an address, if there is one.
    pub fn io_apic_register(&self, at: Maddr, register: u32) -> Option<u32> {
        io_apic::register(at, register)
    }

    /// What a device writes to interrupt a CPU. `None`: no message reaches that.
    pub fn message(&self, to: Target) -> Option<Message> {
        Message::to(smp::apic_id(to.cpu)?, to.vector)
    }

    /// Reads four bytes of the configuration of a PCI function; all ones if there is no such function.
    pub fn read_pci(&self, function: PciFunction, register: u8) -> u32 {
        pci::read(function, register)
    }

    /// Writes four bytes of it.
    pub fn write_pci(&self, function: PciFunction, register: u8, value: u32) {
        pci::write(function, register, value);
    }

    /// Reads a register of a device, of four bytes. `None`: RAM or an interrupt controller is there.
    pub fn read_register(&self, at: Maddr) -> Option<u32> {
        self.is_devices(at).then(|| registers::read(at))?
    }

    /// Writes one. `None`, and nothing is done: as for reading.
    pub fn write_register(&self, at: Maddr, value: u32) -> Option<()> {
        self.is_devices(at).then(|| registers::write(at, value))?
    }

    /// Whether a device may be at an address, other than those that are ours.
    fn is_devices(&self, at: Maddr) -> bool {
        let mfn = at.mfn();
        let (_, local_apic) = apic::mapping();
        let width = u32::from(self.0.paging.address_bits);
        at.get() >> width.min(52) == 0
            && !self.0.memory_map.ram().any(|ram| ram.contains(mfn))
            && !self.is_io_apic(mfn)
            && mfn != local_apic.mfn()
    }

    /// Whether the registers of an IO-APIC are in a frame of addresses.
    pub fn is_io_apic(&self, mfn: Mfn) -> bool {
        let mut io_apics = self.0.topology.io_apics.iter();
        io_apics.any(|io_apic| io_apic.registers.mfn() == mfn)
    }

    /// Writes to the screen, if there is one and it is still ours.
    pub fn screen_write(&self, bytes: &[u8]) {
        screen::write(bytes);
    }

    /// What is known of the real-time clock.
    pub(super) fn rtc(&self) -> Rtc {
        self.0.topology.rtc
    }

    /// Leaves the screen to the control domain.
    pub fn release_screen(&self) {
        screen::release();
    }

    /// Resets the machine.
    pub fn reboot(&self) -> ! {
        power::reboot()
    }

    /// Ends in a panic, by a fault in the hypervisor.
    pub fn crash(&self) -> ! {
        power::crash()
    }

    /// Stops all CPUs for ever.
    pub fn halt(&self) -> ! {
        power::halt_all()
    }

    /// Ends the machine's run. How power is switched off is known to AML, hence to the control domain alone: without its
    /// word ([`Self::switch_off`]) the CPUs stop.
    pub fn power_off(&self) -> ! {
        power::halt_all()
    }

    /// Whether ACPI names the registers that [`Self::switch_off`] writes.
    pub fn has_switch(&self) -> bool {
        power::has_switch()
    }

    /// Switches power off. `types`: values for ACPI's two registers of power management, with the type of sleep that AML has for off. The
    /// CPUs stop where power stays on.
    pub fn switch_off(&self, types: [u16; 2]) -> ! {
        power::switch_off(types)
    }
}

/// Room for `count` values of T in frames of their own, aligned to 2 MiB if it is as large as that.
fn raw_table<T>(memory: &mut BootMemory, count: usize) -> Option<NonNull<T>> {
    const LARGE: u64 = (2 << 20) / PAGE_SIZE as u64;
    let bytes = count.checked_mul(size_of::<T>())?;
    let frames = (bytes.div_ceil(PAGE_SIZE) as u64).max(1);
    let align = if frames >= LARGE { LARGE } else { 1 };
    let range = memory.alloc(frames, align, None)?;
    NonNull::new(memory::direct(range.start.start()).cast())
}

fn zeroed_table<T: FromZeros>(memory: &mut BootMemory, count: usize) -> Option<BootSlice<T>> {
    let start = raw_table::<T>(memory, count)?;
    // SAFETY: room for `count` values, rounded up to whole frames; zeros are valid values.
    unsafe {
        memory::zero(
            start.as_ptr().cast(),
            (count * size_of::<T>()).next_multiple_of(8),
        );
        Some(BootSlice::new(start, count))
    }
}

unsafe extern "C" {
    static image_text_end: u8;
    static image_rodata_end: u8;
    static image_stack_guard: u8;
    static image_end: u8;
    static boot_l4: u8;
}

/// Where parts of the image begin, or end, counted from its start.
pub(super) struct ImageParts {
    text_end: u64,
    rodata_end: u64,
    /// The page below the boot stack.
    guard: u64,
    end: u64,
}

impl ImageParts {
    fn of_this_image() -> Self {
        let offset = |symbol: *const u8| symbol as u64 - layout::IMAGE;
        Self {
            text_end: offset(&raw const image_text_end),
            rodata_end: offset(&raw const image_rodata_end),
            guard: offset(&raw const image_stack_guard),
            end: offset(&raw const image_end),
        }
    }

    /// Start, end and use of each part that is mapped.
    pub(super) fn mapped(&self) -> [(u64, u64, Access); 4] {
        [
            (0, self.text_end, Access::Text),
            (self.text_end, self.rodata_end, Access::ReadOnly),
            (self.rodata_end, self.guard, Access::Data),
            (self.guard + PAGE_SIZE as u64, self.end, Access::Data),
        ]
    }
}

/// Everything `start` hands over to the new stack.
struct Started {
    machine: Option<Machine>,
    info: Option<BootInfo>,
    /// The first page tables.
    low_root: Maddr,
    /// What other CPUs call first.
    entry: u64,
    next: fn(Machine, &'static mut BootInfo, &'static Cpu) -> !,
}

/// Builds the machine and goes on with `next` on the CPU's own stack. Comes back only on failure, on the stack it was
/// called on.
///
/// `H` is what the entry stubs call from now on. What the loader said stays where it is, on the boot stack: it is large.
pub fn start<H: Handlers>(
    handover: &Handover,
    mut info: BootInfo,
    options: StartOptions,
    next: fn(Machine, &'static mut BootInfo, &'static Cpu) -> !,
) -> StartError {
    if let Some(limit) = options.memory_limit {
        info.memory_map.limit(limit);
    }
    info.memory_map.limit(layout::DIRECT_MAP_SIZE);
    let found = info.memory_map.ram_bytes();
    let topology = acpi::read(info.rsdp);
    power::init(topology.reset, topology.sleep);
    let is_out_of_reach = |module: &BootModule| {
        let frames = module.frames();
        // An empty file is nowhere; whoever wants it says what is wrong with it.
        let holds = |ram: MfnRange| ram.intersection(frames) == frames;
        !frames.is_empty() && !info.memory_map.ram().any(holds)
    };
    let built = if found < LEAST_RAM {
        Err(StartError::TooLittleMemory { found })
    } else if let Some(module) = info.modules.iter().position(is_out_of_reach) {
        Err(StartError::ModuleOutOfReach { module })
    } else {
        build(handover, &info, topology, &options)
            .map_err(|(table, bytes)| StartError::NoRoom { table, bytes })
    };
    match built {
        Err(error) => {
            let is_mapped = |screen: &crate::boot::Screen| {
                let end = screen.maddr().get().checked_add(screen::bytes(screen));
                screen::is_sane(screen) && end.is_some_and(|end| end <= 1 << 32)
            };
            if let Some(screen) = info.screen.filter(is_mapped) {
                // SAFETY: the first page tables are still loaded, which map the screen onto itself.
                unsafe { screen::open(&screen, screen.maddr().get()) };
            }
            error
        }
        Ok(machine) => {
            Cpu::protect(options.smep, options.smap, machine.tlb_mode());
            io_apic::init(&machine.0.topology);
            let first_tables = &raw const boot_l4 as u64 - layout::IMAGE;
            let mut started = Started {
                machine: Some(machine),
                info: Some(info),
                low_root: Maddr::new(handover.image().get() + first_tables),
                entry: smp::entry::<H>(),
                next,
            };
            let local = (per_cpu::area(0) + layout::CPU_LOCAL_OFFSET) as *const CpuLocal;
            // SAFETY: `build` has written the record; it stays for ever.
            let local = unsafe { &*local };
            descriptors::load_gdt(local);
            descriptors::load_idt::<H>();
            load_syscall::<H>(local);
            apic::init();
            let top = per_cpu::stack_at_start(0);
            // SAFETY: the stack is mapped and nothing is on it; `started` lies on the boot stack, which stays.
            unsafe { entry::switch_stack(top, on_own_stack, (&raw mut started) as usize) }
        }
    }
}

extern "C" fn on_own_stack(started: usize) -> ! {
    // SAFETY: `start` passes its own variable, and does not return.
    let started = unsafe { &mut *(started as *mut Started) };
    match (started.machine.take(), started.info.as_mut()) {
        (Some(machine), Some(info)) => {
            let parts = machine.0;
            time::init(&parts.topology);
            let origin = Origin {
                map: &info.memory_map,
                modules: &info.modules,
                low_root: started.low_root,
                root: parts.shared.idle_root().start(),
                entry: started.entry,
            };
            smp::start_others(&parts.topology, parts.cpu_places, &origin);
            (started.next)(machine, info, Cpu::current())
        }
        _ => power::halt(),
    }
}

type NoRoom = (&'static str, u64);

/// Builds page tables and tables, and loads the former.
fn build(
    handover: &Handover,
    info: &BootInfo,
    topology: Topology,
    options: &StartOptions,
) -> Result<Machine, NoRoom> {
    const TABLES: NoRoom = ("page tables of the hypervisor", 0);
    let map = &info.memory_map;
    let max_mfn = map.max_mfn();
    let parts = ImageParts::of_this_image();
    let image = frames_of(handover.image(), parts.end);
    let mut boot_memory = BootMemory::new(map);
    boot_memory.reserve(image);
    for module in &info.modules {
        boot_memory.reserve(module.frames());
    }

    let has_1gib_pages = raw_cpuid::CpuId::new()
        .get_extended_processor_and_feature_identifiers()
        .is_some_and(|id| id.has_1gib_pages());
    let mut half = OwnHalf::new(&mut boot_memory, 0, has_1gib_pages).ok_or(TABLES)?;

    let paging = tlb::paging_facts();
    let mut twin = if options.xpti.unwrap_or(paging.leaks_supervisor) {
        let twin = Twin::new(&mut boot_memory, handover.image(), &parts);
        Some(twin.ok_or(TABLES)?)
    } else {
        None
    };

    for (start, end, access) in parts.mapped() {
        let at = Maddr::new(handover.image().get() + start);
        half.map(
            &mut boot_memory,
            layout::IMAGE + start,
            at,
            end - start,
            access,
        )
        .ok_or(TABLES)?;
    }
    for ram in map.ram() {
        half.map_direct(&mut boot_memory, ram, image)
            .ok_or(TABLES)?;
    }
    let wanted = usize::try_from(options.max_cpus).unwrap_or(usize::MAX);
    let cpu_places = topology.cpus.len().min(wanted).clamp(1, smp::CAPACITY);
    let zeros = half.zeroed_frame(&mut boot_memory).ok_or(TABLES)?.mfn();
    let mut window_tables = ArrayVec::<Maddr, { smp::CAPACITY }>::new();
    for id in (0..).take(cpu_places).map(CpuId::new) {
        map_cpu_area(&mut half, twin.as_mut(), &mut boot_memory, id).ok_or(TABLES)?;
        let table = map_window(&mut half, &mut boot_memory, id, zeros).ok_or(TABLES)?;
        window_tables.push(table);
    }
    let devices = io_apic::mappings(&topology).chain(time::mapping(&topology));
    for (at, to) in devices.chain([apic::mapping()]) {
        half.map(&mut boot_memory, at, to, PAGE_SIZE as u64, Access::Device)
            .ok_or(TABLES)?;
    }
    let page = PAGE_SIZE as u64;
    half.map(
        &mut boot_memory,
        registers::WINDOW,
        zeros.start(),
        page,
        Access::ReadOnly,
    )
    .ok_or(TABLES)?;
    let register_window = half.page_table_of(registers::WINDOW).ok_or(TABLES)?;
    let screen = info
        .screen
        .map(|screen| map_screen(&mut half, &mut boot_memory, screen));

    // The machine-to-physical table, as guests see it. Its frames are found here, written below.
    // Whole pieces of 2 MiB: that is how guests that may look at it through mappings of their own are told of them.
    let m2p_bytes = (max_mfn.get() * 8).next_multiple_of(M2P_PIECE);
    let m2p_start = raw_table_at(&mut boot_memory, m2p_bytes)
        .ok_or(("machine-to-physical table", m2p_bytes))?;
    let m2p_len = m2p_bytes;
    half.map(
        &mut boot_memory,
        layout::M2P,
        m2p_start,
        m2p_len,
        Access::GuestReadOnly,
    )
    .ok_or(TABLES)?;
    half.fill_slots(&mut boot_memory).ok_or(TABLES)?;
    let root_entries = half.root_entries();
    let twin_entries = twin.map(|twin| twin.root_entries(root_entries));

    // SAFETY: image, stack of this code (in the image), data and direct map are in the new tables. Nothing on the way uses
    // an address below 4 GiB again.
    unsafe { half.load() };

    for (id, table) in (0..).zip(window_tables) {
        let local = (per_cpu::area(id) + layout::CPU_LOCAL_OFFSET) as *mut CpuLocal;
        // SAFETY: `map_window` has found the table, which stays for ever and is reached through the direct map.
        let window = unsafe { window_entries(table, CpuId::new(id), zeros) };
        // SAFETY: mapped by `map_cpu_area`, nobody else's until that CPU runs.
        unsafe { local.write(CpuLocal::new(id, window)) };
    }
    if let Some(Some(screen)) = screen {
        // SAFETY: mapped by `map_screen`.
        unsafe { screen::open(&screen, screen::AT) };
    }

    let m2p = memory::direct(m2p_start).cast::<u64>();
    let entries = max_mfn.get() as usize;
    // SAFETY: room for one entry a frame, nobody else's.
    let m2p = unsafe {
        memory::fill(m2p, u64::MAX, m2p_len as usize / 8);
        BootSlice::new(NonNull::new_unchecked(m2p.cast::<AtomicU64>()), entries)
    };
    let words = FrameBits::<BootSlice<AtomicU64>>::words_for(max_mfn).unwrap_or(usize::MAX);
    let bits = zeroed_table::<AtomicU64>(&mut boot_memory, words)
        .ok_or(("frame bits", words as u64 * 8))?;
    let mem = MEM.call_once(|| PhysMem::new(FrameBits::new(bits)));
    let tlbs = raw_table::<CpuTlb>(&mut boot_memory, cpu_places)
        .ok_or(("mailboxes", (cpu_places * size_of::<CpuTlb>()) as u64))?;
    for index in 0..cpu_places {
        // SAFETY: room for so many values, nobody else's.
        unsafe { tlbs.add(index).write(CpuTlb::new()) };
    }
    // SAFETY: every value has just been written.
    let shared = tlb::init(unsafe { BootSlice::new(tlbs, cpu_places) }, half.root());

    // SAFETY: the table has just been made for this alone, and the direct map shows it.
    unsafe { registers::init(memory::direct(register_window).cast()) };

    let parts = Parts {
        mem,
        m2p: M2p::new(m2p),
        m2p_frames: frames_of(m2p_start, m2p_len),
        memory_map: map.clone(),
        max_mfn,
        boot_memory: SpinLock::new(Rank::Machine, Some(boot_memory)),
        root_entries,
        topology,
        cpu_places,
        tlb_mode: tlb::mode(options.pcid && twin_entries.is_none()),
        shared,
        twin_entries,
        paging,
        efi: info.efi,
    };
    Ok(Machine(PARTS.call_once(|| parts)))
}

/// Frames for `bytes` bytes, aligned to 2 MiB if they are as many as that.
fn raw_table_at(memory: &mut BootMemory, bytes: u64) -> Option<Maddr> {
    let start = raw_table::<u8>(memory, usize::try_from(bytes).ok()?)?;
    Some(Maddr::new(start.as_ptr() as u64 - layout::DIRECT_MAP))
}

/// Maps the stacks and the record of a CPU; the pages between the stacks stay unmapped. A twin gets what the stubs use.
fn map_cpu_area(
    half: &mut OwnHalf,
    mut twin: Option<&mut Twin>,
    memory: &mut BootMemory,
    cpu: CpuId,
) -> Option<()> {
    let page = PAGE_SIZE as u64;
    let record = layout::Stack {
        first_page: layout::CPU_LOCAL_OFFSET / page,
        pages: 1,
    };
    for part in layout::IST.iter().chain([&layout::MAIN_STACK, &record]) {
        let frames = memory.alloc(part.pages, 1, None)?;
        let at = per_cpu::area(cpu.get()) + part.first_page * page;
        half.map(
            memory,
            at,
            frames.start.start(),
            part.pages * page,
            Access::Data,
        )?;
        if let Some(twin) = twin.as_deref_mut() {
            let is_main = part.first_page == layout::MAIN_STACK.first_page;
            let hidden = if is_main { part.pages - 1 } else { 0 };
            let (_, shown) = frames.split(hidden);
            twin.map_data(memory, at + hidden * page, shown)?;
        }
    }
    Some(())
}

/// Maps a CPU's descriptor window as long as its guest has no tables: the pages of the GDT that guests fill are the page of
/// zeros, then comes a page of ours, and no LDT. Returns the page table that holds the window.
fn map_window(
    half: &mut OwnHalf,
    memory: &mut BootMemory,
    cpu: CpuId,
    zeros: Mfn,
) -> Option<Maddr> {
    let page = PAGE_SIZE as u64;
    let window = Window::of(cpu);
    for index in 0..GDT_PAGES {
        let access = Access::ReadOnly;
        half.map(memory, window.page(index), zeros.start(), page, access)?;
    }
    let own = half.zeroed_frame(memory)?;
    half.map(memory, window.page(GDT_PAGES), own, page, Access::Data)?;
    half.page_table_of(window.page(0))
}

/// The entries of a CPU's window in their page table.
///
/// # Safety
///
/// The table must be the one that [`map_window`] found, and the direct map must be loaded.
unsafe fn window_entries(table: Maddr, cpu: CpuId, zeros: Mfn) -> WindowEntries {
    const _: () = assert!(512_usize.is_multiple_of(WINDOW_PAGES));
    let first = Window::of(cpu).page(0) as usize / PAGE_SIZE % 512;
    let table = memory::direct(table).cast::<AtomicU64>();
    // SAFETY: a window does not reach over the end of its table, as its size divides the table's. The table is a frame of ours
    // that stays for ever; after boot nobody but this CPU writes the entries, and the CPU's own walks are atomic.
    let entries = unsafe { &*table.add(first).cast::<[AtomicU64; WINDOW_PAGES]>() };
    WindowEntries::new(entries, zeros)
}

/// Maps the memory of the screen; `None` if it makes no sense.
fn map_screen(
    half: &mut OwnHalf,
    memory: &mut BootMemory,
    screen: crate::boot::Screen,
) -> Option<crate::boot::Screen> {
    let maddr = screen.maddr();
    let len = screen::bytes(&screen).next_multiple_of(PAGE_SIZE as u64);
    (screen::is_sane(&screen)
        && half
            .map(memory, screen::AT, maddr, len, Access::Device)
            .is_some())
    .then_some(screen)
}

/// Points SYSCALL at the entry stubs.
pub(super) fn load_syscall<H: Handlers>(local: &CpuLocal) {
    const STAR: u32 = 0xc000_0081;
    const LSTAR: u32 = 0xc000_0082;
    const CSTAR: u32 = 0xc000_0083;
    const FMASK: u32 = 0xc000_0084;
    const SYSENTER_CS: u32 = 0x174;
    const KERNEL_GS_BASE: u32 = 0xc000_0102;
    /// All flags that could change what the entry stubs do: TF, IF, DF, IOPL, NT, RF, VM, AC.
    const MASKED: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 18;
    let selectors = u64::from(descriptors::GUEST_CODE32) << 48 | u64::from(descriptors::CODE) << 32;
    // SAFETY: the stubs are what these registers are for; SYSENTER without a code selector is #GP.
    unsafe {
        Msr::new(STAR).write(selectors);
        Msr::new(LSTAR).write(entry::syscall_entry::<H> as *const () as u64);
        Msr::new(CSTAR).write(entry::syscall32_entry::<H> as *const () as u64);
        Msr::new(FMASK).write(MASKED);
        Msr::new(SYSENTER_CS).write(0);
        Msr::new(KERNEL_GS_BASE).write(local as *const CpuLocal as u64);
        Efer::update(|flags| flags.insert(EferFlags::SYSTEM_CALL_EXTENSIONS));
    }
}

/// The time-stamp counter: for figures.
pub fn tsc_now() -> u64 {
    cpu::read_tsc()
}
