//! A machine with a domain on it, small enough to make hundreds of: one root, a few pages, a vCPU on CPU 0.

use dom0_abi::addr::{GuestAddr, Mfn};
use dom0_abi::arch::{CpuUserRegs, FLAT_CS64, FLAT_SS, TrapInfo};
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, VcpuId};
use oxen_arch::boot::CpuId;
use oxen_arch::tlb::CpuSet;
use oxen_arch::{Cpu, Machine, SimConfig};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::budget::Budget;
use crate::cmdline::CommandLine;
use crate::console::Console;
use crate::domain::privileged_state::PrivilegedState;
use crate::domain::upcall::Upcall;
use crate::domain::vcpu::{GuestMode, RunState, Vcpu, VcpuState};
use crate::domain::{Capabilities, Domain};
use crate::frame::{Memory, Placement, Scrub, UndoQueue};
use crate::host::Host;
use crate::page_type::hold::Reach;
use crate::page_type::{HeldType, Level, PageType, TypeRef, promote};
use crate::policy::ports::PortRights;
use crate::switch;
use crate::trap::entry;
use crate::trap::return_path::Next;

/// Eight pages that the guest can read and write.
pub const DATA: u64 = 0x40_0000;
/// Behind them: nothing is mapped.
pub const DATA_END: u64 = DATA + 0x8000;
/// A page that the guest can only read.
pub const READ_ONLY: u64 = DATA + 0x9000;
/// A page of the upper half, behind the hypervisor's part.
pub const HIGH: u64 = 0xffff_8800_0000_0000;
/// Where the guest's stack ends.
pub const STACK: u64 = DATA + 0x4000;
/// Where the guest's code would be.
pub const CODE: u64 = DATA + 0x6000;

/// Pointers that no call may follow.
pub const HOSTILE: [u64; 8] = [
    0,
    0x0000_8000_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0xffff_7fff_ffff_fff8,
    0xffff_8000_0000_0000,
    0xffff_87ff_ffff_fff8,
    DATA_END,
    u64::MAX - 3,
];

/// A host, its CPUs, and the domain that runs on the first of them.
pub struct Guest {
    pub host: Host,
    pub cpu: Cpu,
    pub other_cpu: Cpu,
    pub regs: CpuUserRegs,
    pub root: Mfn,
    pub shared_info: Mfn,
    pub domid: DomId,
}

impl Guest {
    /// A control domain that owns the hardware.
    pub fn dom0() -> Self {
        Self::new(DomId::DOM0, Capabilities::all())
    }

    /// An ordinary domain.
    pub fn ordinary() -> Self {
        Self::new(DomId::new(7), Capabilities::empty())
    }

    pub fn new(domid: DomId, capabilities: Capabilities) -> Self {
        Self::with_options(domid, capabilities, "com1=115200 console=com1 loglvl=all")
    }

    pub fn with_options(domid: DomId, capabilities: Capabilities, options: &str) -> Self {
        Self::configured(domid, capabilities, |config| {
            config.command_line = options.into();
        })
    }

    /// An ordinary domain that runs on twins of its roots. CPUs 2 and 3 are there to be used by other threads.
    pub fn on_twins() -> Self {
        Self::configured(DomId::new(7), Capabilities::empty(), |config| {
            config.xpti = Some(true);
            config.cpus = 4;
        })
    }

    pub fn configured(
        domid: DomId,
        capabilities: Capabilities,
        configure: impl FnOnce(&mut SimConfig),
    ) -> Self {
        Self::with_vcpus(domid, capabilities, 1, configure)
    }

    /// One with so many vCPUs, of which the first runs and the others were never initialised.
    pub fn with_vcpus(
        domid: DomId,
        capabilities: Capabilities,
        nr_vcpus: u32,
        configure: impl FnOnce(&mut SimConfig),
    ) -> Self {
        let mut config = SimConfig::new(16 << 20);
        config.cpus = 2;
        configure(&mut config);
        let (machine, boot) = Machine::new(config);
        let cpu = machine.cpu(CpuId::new(0));
        let other_cpu = machine.cpu(CpuId::new(1));
        let settings = CommandLine::parse(&boot.command_line).settings;
        let console = Console::new(&machine).unwrap();
        let host = Host::new(machine, &cpu, &boot, settings.clone(), console).unwrap();
        host.out(&cpu).configure(&settings, boot.entry_tsc);

        let (started, root, shared_info) = start(&host, &cpu, domid, capabilities, nr_vcpus);
        Self {
            host,
            cpu,
            other_cpu,
            regs: started,
            root,
            shared_info,
            domid,
        }
    }

    /// A second domain on the same machine, which runs on the other CPU.
    pub fn neighbour(&self) -> Neighbour {
        let domid = DomId::new(9);
        let mut regs = start(&self.host, &self.other_cpu, domid, Capabilities::empty(), 1).0;
        regs.rbx = 0x6e65_6967;
        Neighbour { domid, regs }
    }

    /// Every byte of the neighbour that could have changed.
    pub fn neighbour_fingerprint(&self, neighbour: &Neighbour) -> Vec<u8> {
        let mut bytes = vec![0; 0x8000];
        self.other_cpu
            .read_guest_bytes(GuestAddr::new(DATA), &mut bytes)
            .unwrap();
        let domain = self.host.domains.get(neighbour.domid).unwrap();
        let mut shared = [0; 4096];
        let at = domain.shared_info.at(0);
        self.host.mem().read_bytes(at, &mut shared).unwrap();
        bytes.extend(shared);
        let cpu = self.other_cpu.registers();
        let vcpu = domain.vcpu(VcpuId::new(0)).unwrap();
        let state = vcpu.lock();
        let rest = format!(
            "{cpu:?} {:?} {:?} {:?} {:?}",
            *state, state.traps, domain.shutdown, domain.assists
        );
        bytes.extend(rest.bytes());
        bytes
    }

    /// Makes a hypercall and returns what comes next.
    pub fn syscall(&mut self) -> Next {
        self.regs.entry_vector = oxen_arch::registers::ENTRY_SYSCALL;
        entry::handle_syscall(&self.host, &self.cpu, &mut self.regs)
    }

    /// Makes a hypercall that returns to its caller, and shows that it changed no register but rax.
    pub fn call_number(&mut self, number: u64, args: [u64; 5]) -> i64 {
        self.regs.rax = number;
        let [rdi, rsi, rdx, r10, r8] = args;
        self.regs.rdi = rdi;
        self.regs.rsi = rsi;
        self.regs.rdx = rdx;
        self.regs.r10 = r10;
        self.regs.r8 = r8;
        let mut before = self.regs;
        assert_eq!(self.syscall(), Next::Guest);
        before.rax = self.regs.rax;
        before.entry_vector = self.regs.entry_vector;
        assert_eq!(before, self.regs, "a register beside rax changed");
        self.regs.rax as i64
    }

    /// The same, by name, with as many arguments as given.
    pub fn call<const N: usize>(&mut self, call: Hypercall, args: [u64; N]) -> i64 {
        let mut all = [0x5555_5555_5555_5555; 5];
        all[..N].copy_from_slice(&args);
        self.call_number(call.number(), all)
    }

    /// An exception of the guest.
    pub fn exception(&mut self, vector: u32, error_code: u32) -> Next {
        self.regs.entry_vector = vector;
        self.regs.error_code = error_code;
        entry::handle_exception(&self.host, &self.cpu, &mut self.regs)
    }

    pub fn put<T: IntoBytes + Immutable>(&self, at: u64, value: &T) {
        self.cpu.write_guest(GuestAddr::new(at), value).unwrap();
    }

    pub fn get<T: FromBytes>(&self, at: u64) -> T {
        self.cpu.read_guest(GuestAddr::new(at)).unwrap()
    }

    /// The mask byte of the vCPU.
    pub fn mask(&self) -> u8 {
        self.host.mem().load_u8(self.shared_info.at(1)).unwrap()
    }

    pub fn set_mask(&self, mask: u8) {
        self.host
            .mem()
            .store_u8(self.shared_info.at(1), mask)
            .unwrap();
    }

    /// Makes an event pending.
    pub fn raise_event(&self) {
        self.host.mem().store_u8(self.shared_info.at(0), 1).unwrap();
    }

    /// Looks at the state of the vCPU.
    pub fn state<R>(&self, look: impl FnOnce(&mut VcpuState) -> R) -> R {
        let domain = self.host.domains.get(self.domid).unwrap();
        look(&mut domain.vcpu(VcpuId::new(0)).unwrap().lock())
    }

    /// The mode of the vCPU.
    pub fn mode(&self) -> GuestMode {
        self.domain(|domain| domain.vcpu(VcpuId::new(0)).unwrap().mode())
    }

    /// Lets the vCPU be in this mode.
    pub fn set_mode(&self, mode: GuestMode) {
        self.domain(|domain| domain.vcpu(VcpuId::new(0)).unwrap().set_mode(mode));
    }

    /// Lets the vCPU sleep, or run.
    pub fn set_run(&self, run: RunState) {
        self.domain(|domain| {
            let vcpu = domain.vcpu(VcpuId::new(0)).unwrap();
            vcpu.set_run(&mut vcpu.lock(), run);
        });
    }

    pub fn domain<R>(&self, look: impl FnOnce(&Domain) -> R) -> R {
        look(&self.host.domains.get(self.domid).unwrap())
    }

    /// Another root of the domain, with nothing in it.
    pub fn empty_root(&self) -> HeldType {
        self.domain(|domain| {
            let memory = self.host.memory(&self.cpu, &domain.undo);
            let root = frame(memory, self.domid);
            promote_root(memory, &self.host, domain, root)
        })
    }

    /// Registers a handler for a vector.
    pub fn set_trap(&mut self, vector: u8, flags: u8, address: u64) {
        let mut info = TrapInfo::new_zeroed();
        (info.vector, info.flags, info.cs, info.address) = (vector, flags, 0x10, address);
        self.put(DATA, &[info, TrapInfo::new_zeroed()]);
        assert_eq!(self.call(Hypercall::SetTrapTable, [DATA]), 0);
    }

    /// All that the serial line carried.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.host.machine.serial_output()).into_owned()
    }

    /// Every byte that the domain and its vCPU could see changed.
    pub fn fingerprint(&self) -> Vec<u8> {
        let mut bytes = vec![0; 0x8000];
        self.cpu
            .read_guest_bytes(GuestAddr::new(DATA), &mut bytes)
            .unwrap();
        bytes.extend(self.regs.as_bytes());
        let mut shared = [0; 4096];
        self.host
            .mem()
            .read_bytes(self.shared_info.at(0), &mut shared)
            .unwrap();
        bytes.extend(shared);
        bytes.extend(format!("{:?}", self.cpu.registers()).bytes());
        bytes.extend(self.host.machine.serial_output());
        bytes
    }
}

/// A domain on the other CPU.
pub struct Neighbour {
    pub domid: DomId,
    pub regs: CpuUserRegs,
}

/// Makes a domain and lets the CPU run its first vCPU; returns its registers, root and shared page.
pub fn start(
    host: &Host,
    cpu: &Cpu,
    domid: DomId,
    capabilities: Capabilities,
    nr_vcpus: u32,
) -> (CpuUserRegs, Mfn, Mfn) {
    let undo = UndoQueue::new();
    let memory = host.memory(cpu, &undo);
    let root = build_root(memory, domid);
    let shared_info = frame(memory, domid);
    for vcpu in 0..32 {
        host.mem()
            .store_u8(shared_info.at(vcpu * 64 + 1), 1)
            .unwrap();
    }
    let mut regs = CpuUserRegs::new_zeroed();
    (regs.rip, regs.cs) = (CODE, FLAT_CS64);
    (regs.rsp, regs.ss) = (STACK, FLAT_SS);
    regs.rflags = 0x202;
    let ports = if domid == DomId::DOM0 {
        PortRights::dom0(&[]).unwrap()
    } else {
        PortRights::none()
    };
    let domain = Domain::new(domid, capabilities, &host.entry_rules, ports, shared_info);
    let held = promote_root(memory, host, &domain, root);
    let shared = TypeRef::writable(memory, shared_info, domid).unwrap();
    domain.hold_shared_info(shared.into_held());
    let mut held = Some(held);
    let vcpus = (0..nr_vcpus).map(|number| {
        let info = shared_info.at(number as usize * 64);
        let privileged = PrivilegedState::new(host.cpuid.owned_bits());
        Vcpu::new(
            VcpuId::new(number),
            Upcall::new(host.mem(), info).unwrap(),
            VcpuState::new(regs, held.take(), privileged),
        )
    });
    let domain = host.add_domain(cpu, domain, vcpus).unwrap();
    let started = run(host, cpu, domain.vcpu(VcpuId::new(0)).unwrap());
    drop(domain);
    (started, root, shared_info)
}

/// Starts a vCPU, lets it run on this CPU alone, and does so; returns its registers.
pub fn run(host: &Host, cpu: &Cpu, vcpu: &Vcpu) -> CpuUserRegs {
    host.cpu_up(cpu);
    let (here, now) = (CpuSet::one(cpu.id()), host.time.now(cpu));
    (host.scheduler())
        .set_affinity(vcpu.index, &here, &here, now)
        .unwrap();
    host.bring_up(cpu, vcpu);
    let mut regs = CpuUserRegs::new_zeroed();
    assert_eq!(switch::next(host, cpu, &mut regs), Next::Guest);
    regs
}

/// Shuts a domain down whose only vCPU the CPU runs, and lets it leave.
pub fn stop(host: &Host, cpu: &Cpu, domain: &Domain) {
    host.shut_down(cpu, domain, 3);
    let mut regs = CpuUserRegs::new_zeroed();
    assert_eq!(switch::next(host, cpu, &mut regs), Next::Schedule);
}

/// What a failed call returns.
pub fn failure(errno: Errno) -> i64 {
    errno.as_return()
}

/// A zeroed frame of a domain.
pub fn frame(memory: Memory<'_>, domid: DomId) -> Mfn {
    let frames = memory.alloc(0, Placement::Anywhere).unwrap();
    memory.assign(frames, domid, Scrub::Zero).unwrap().start
}

/// Makes what was written a root in use.
fn promote_root(memory: Memory<'_>, host: &Host, domain: &Domain, root: Mfn) -> HeldType {
    let reach = Reach::own(host, domain);
    let ty = PageType::Table(Level::L4);
    let mut budget = Budget::ENDLESS;
    let root = promote::acquire(memory, &reach, root, ty, &mut budget);
    root.unwrap().into_held()
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;

fn build_root(memory: Memory<'_>, domid: DomId) -> Mfn {
    let root = frame(memory, domid);
    for page in 0..8 {
        map(memory, domid, root, DATA + page * 0x1000, WRITABLE);
    }
    map(memory, domid, root, READ_ONLY, 0);
    map(memory, domid, root, HIGH, WRITABLE);
    root
}

/// Maps a fresh frame, in tables that are not in use yet.
fn map(memory: Memory<'_>, domid: DomId, root: Mfn, va: u64, writable: u64) -> Mfn {
    let mut table = root;
    for level in [3, 2, 1] {
        let at = table.at(((va >> (12 + 9 * level)) & 511) as usize * 8);
        let entry = memory.mem().load_u64(at).unwrap();
        table = if entry & PRESENT == 0 {
            let next = frame(memory, domid);
            let entry = next.start().get() | PRESENT | WRITABLE | USER;
            memory.mem().store_u64(at, entry).unwrap();
            next
        } else {
            Mfn::new((entry >> 12) & 0xff_ffff_ffff)
        };
    }
    let page = frame(memory, domid);
    let at = table.at(((va >> 12) & 511) as usize * 8);
    let entry = page.start().get() | PRESENT | writable | USER;
    memory.mem().store_u64(at, entry).unwrap();
    page
}
