//! A machine with six CPUs and three domains of two vCPUs each, played by one thread. Each vCPU has a CPU for itself.
//!
//! Each domain has a third vCPU, which is nothing yet. Those who want that (`let_spares_run`) have these share a seventh CPU, once somebody
//! has said what they begin with.
//!
//! Each domain has [`FRAMES`] frames. Its first table maps frame `i` at [`linear`]`(i)`: tables read-only, some pages writable,
//! some not at all. What a vCPU hands to calls lies in a page of its own.

use dom0_abi::addr::{GuestAddr, Mfn};
use dom0_abi::arch::{CpuUserRegs, FLAT_CS64, FLAT_SS, IretContext, TrapInfo};
use dom0_abi::errno::Errno;
use dom0_abi::grant_table::{GrantTableCommand, SetupTable};
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, VcpuId};
use dom0_abi::xen::VmAssist;
use oxen_arch::boot::CpuId;
use oxen_arch::registers::ENTRY_SYSCALL;
use oxen_arch::sync::atomic::Ordering;
use oxen_arch::tlb::CpuSet;
use oxen_arch::{Cpu, Machine, PagingFacts, SimConfig};
use oxen_core::audit::Tally;
use oxen_core::budget::Budget;
use oxen_core::cmdline::CommandLine;
use oxen_core::console::Console;
use oxen_core::domain::privileged_state::PrivilegedState;
use oxen_core::domain::teardown::{self, Progress};
use oxen_core::domain::upcall::Upcall;
use oxen_core::domain::vcpu::{Vcpu, VcpuState};
use oxen_core::domain::{Capabilities, Domain};
use oxen_core::frame::{Memory, Placement, Scrub, UndoQueue};
use oxen_core::host::Host;
use oxen_core::page_type::hold::Reach;
use oxen_core::page_type::{Level, PageType, TypeRef, promote, undo};
use oxen_core::policy::ports::PortRights;
use oxen_core::switch;
use oxen_core::trap::entry;
use oxen_core::trap::return_path::Next;
use zerocopy::{FromZeros, IntoBytes};

/// Frames of each domain at first.
pub const FRAMES: usize = 72;
pub const ROOT: usize = 0;
pub const L3: usize = 1;
pub const L2: usize = 2;
pub const L1: usize = 3;
pub const USER_ROOT: usize = 4;
pub const SHARED: usize = 5;
/// Pages for the arguments of the two vCPUs.
pub const ARGS: usize = 6;
/// Pages for their stacks.
pub const STACKS: usize = 8;
/// The vCPU that nobody has said anything of, and the CPU on which such vCPUs of all domains run.
pub const SPARE: u32 = 2;
pub const SPARE_CPU: usize = 6;
/// How many CPUs there are.
pub const CPUS: u32 = 7;
/// From here on frames are anything.
pub const LOOSE: usize = 12;

/// Where the first table maps the frames.
pub const fn linear(index: usize) -> u64 {
    0x40_0000 + index as u64 * 0x1000
}

/// Where it maps the first frame of the domain's grant table, and where grants of others may be mapped.
pub const GRANT_TABLE: usize = 400;
pub const WINDOW: usize = 401;
/// So many pages are there for that.
pub const WINDOW_PAGES: u64 = 16;

pub const PRESENT: u64 = 1;
pub const WRITABLE: u64 = 2;
pub const USER: u64 = 4;
/// What CPUs mark in entries at any time.
pub const MARKS: u64 = 0x60;
/// Behind a `syscall`.
pub const RIP: u64 = 0x1000_0002;
/// Where the kernel handles exceptions and system calls.
const HANDLER: u64 = 0x2000_0000;

/// Where the stack of a vCPU's kernel begins.
pub const fn stack(seat: usize) -> u64 {
    linear(STACKS + seat) + 0x1000
}

/// Where it puts an instruction.
const fn code(seat: usize) -> u64 {
    linear(STACKS + seat) + 0x100
}

/// What kind of machine it is.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// From where everything follows.
    pub seed: u64,
    /// PCIDs instead of global pages.
    pub pcid: bool,
    /// CPUs leak what entries name that are not present.
    pub l1tf: bool,
    /// Guests run on twins of their roots, and there are no PCIDs.
    pub xpti: bool,
    /// The control domain maps what it likes into the tables of others.
    pub wild: bool,
    /// No flush that follows from a stamp is made.
    pub forgets_flushes: bool,
}

impl Config {
    /// The machine of a seed.
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            pcid: seed & 1 != 0,
            l1tf: seed & 2 != 0,
            xpti: seed % 3 == 2,
            wild: seed & 4 != 0,
            forgets_flushes: false,
        }
    }
}

/// A vCPU and the CPU that runs it.
pub struct Seat {
    pub cpu: usize,
    pub regs: CpuUserRegs,
    /// A call was left half-way: the registers hold the rest.
    pub is_pending: bool,
    /// It runs user code.
    pub is_user: bool,
}

/// A domain that lives.
pub struct Player {
    pub id: DomId,
    pub seats: [Seat; 2],
    /// The frames that it got, in the order of [`linear`].
    pub frames: Vec<Mfn>,
}

impl Player {
    pub fn entry(&self, index: usize, flags: u64) -> u64 {
        self.frames[index].start().get() | flags
    }
}

/// The machine and all that happens on it.
pub struct World {
    pub host: Host,
    pub config: Config,
    pub cpus: Vec<Cpu>,
    pub players: Vec<Player>,
    /// Domains that end.
    pub dying: Vec<DomId>,
    next_id: u16,
    pub tallies: Vec<Tally>,
    free_at_first: u64,
    /// How often the auditor looked.
    pub checks: u64,
    /// The registers of the CPU of spare vCPUs, if these may run.
    pub spare_regs: Option<CpuUserRegs>,
    /// Whether calls try the straight way first. It forgets what it has read of those that it leaves to the general one.
    pub goes_straight: bool,
}

/// What those see who think up what guests do.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub host: &'a Host,
    pub players: &'a [Player],
    pub dying: &'a [DomId],
    pub wild: bool,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It returned this.
    Returned(i64),
    /// The rest is in the registers.
    Pending,
    /// The vCPU does not go on.
    Gone,
}

impl World {
    pub fn new(config: Config) -> Self {
        let mut machine = SimConfig::new(8 << 20);
        machine.cpus = CPUS;
        machine.seed = config.seed;
        machine.pcid = config.pcid;
        machine.xpti = Some(config.xpti);
        machine.forgets_flushes = config.forgets_flushes;
        machine.paging = Some(PagingFacts {
            address_bits: 46,
            has_nx: true,
            leaks_not_present: config.l1tf,
            leaks_supervisor: config.l1tf,
        });
        let (machine, boot) = Machine::new(machine);
        assert_eq!(machine.uses_twins(), config.xpti);
        let cpus: Vec<_> = (0..CPUS).map(|id| machine.cpu(CpuId::new(id))).collect();
        let settings = CommandLine::parse(&boot.command_line).settings;
        let console = Console::new(&machine).unwrap();
        let host = Host::new(machine, &cpus[0], &boot, settings, console).unwrap();
        let end = host.frames.end().get() as usize;
        let mut world = Self {
            free_at_first: host.frames.statistics().free,
            tallies: vec![Tally::default(); end],
            host,
            config,
            cpus,
            players: Vec::new(),
            dying: Vec::new(),
            next_id: 1,
            checks: 0,
            spare_regs: None,
            goes_straight: true,
        };
        for slot in 0..3 {
            let player = world.spawn(slot);
            world.players.push(player);
            world.set_up(slot);
        }
        world
    }

    /// Makes the domain of a place: the first controls the others and owns the hardware.
    fn spawn(&mut self, slot: usize) -> Player {
        let (id, capabilities) = match slot {
            // Its number is taken as long as a former one of it lingers.
            0 if !self.dying.contains(&DomId::DOM0) => (DomId::DOM0, Capabilities::all()),
            0 => (self.fresh_id(), Capabilities::all()),
            _ => (self.fresh_id(), Capabilities::empty()),
        };
        let [first, second] = [slot * 2, slot * 2 + 1];
        let host = &self.host;
        let undo = UndoQueue::new();
        let memory = host.memory(&self.cpus[first], &undo);
        let frames: Vec<Mfn> = (0..FRAMES).map(|_| fresh_frame(memory, id)).collect();
        let mem = host.mem();
        let put = |table: usize, index: usize, target: usize, flags: u64| {
            let entry = frames[target].start().get() | flags | PRESENT | USER;
            mem.store_u64(frames[table].at(index * 8), entry).unwrap();
        };
        put(ROOT, 0, L3, WRITABLE);
        put(USER_ROOT, 0, L3, WRITABLE);
        put(L3, 0, L2, WRITABLE);
        put(L2, 2, L1, WRITABLE);
        for index in 0..FRAMES {
            match index {
                ROOT | L3 | L2 | L1 | USER_ROOT => put(L1, index, index, 0),
                SHARED..LOOSE => put(L1, index, index, WRITABLE),
                _ if index % 3 == 0 => put(L1, index, index, WRITABLE),
                _ if index % 3 == 1 => put(L1, index, index, 0),
                _ => {}
            }
        }
        let shared = frames[SHARED];
        let ports = PortRights::none();
        let domain = Domain::new(id, capabilities, &host.entry_rules, ports, shared);
        let most = FRAMES as u64 + 40;
        domain.memory.limit.store(most, Ordering::Relaxed);
        let reach = Reach::own(host, &domain);
        let ty = PageType::Table(Level::L4);
        let root = |mfn| {
            let mut budget = Budget::ENDLESS;
            promote::acquire(memory, &reach, mfn, ty, &mut budget).unwrap()
        };
        root(frames[ROOT]).pin().unwrap();
        let held = TypeRef::writable(memory, shared, id).unwrap();
        domain.hold_shared_info(held.into_held());
        let mut vcpus = Vec::new();
        for number in 0..2_u32 {
            let upcall = Upcall::new(mem, shared.at(number as usize * 64)).unwrap();
            // Events are masked.
            mem.store_u8(shared.at(number as usize * 64 + 1), 1)
                .unwrap();
            let mut regs = CpuUserRegs::new_zeroed();
            (regs.rip, regs.cs, regs.ss) = (RIP, FLAT_CS64, FLAT_SS);
            (regs.rsp, regs.rflags) = (stack(number as usize), 0x202);
            let privileged = PrivilegedState::new(host.cpuid.owned_bits());
            let mut state = VcpuState::new(regs, Some(root(frames[ROOT]).into_held()), privileged);
            state.user_root = Some(root(frames[USER_ROOT]).into_held());
            vcpus.push(Vcpu::new(VcpuId::new(number), upcall, state));
        }
        let info = shared.at(SPARE as usize * 64);
        let upcall = Upcall::new(mem, info).unwrap();
        let privileged = PrivilegedState::new(host.cpuid.owned_bits());
        let state = VcpuState::new(CpuUserRegs::new_zeroed(), None, privileged);
        vcpus.push(Vcpu::new(VcpuId::new(SPARE), upcall, state));
        let domain = host.add_domain(&self.cpus[first], domain, vcpus).unwrap();
        let seats = [(first, 0), (second, 1)].map(|(cpu, number)| {
            let vcpu = domain.vcpu(VcpuId::new(number)).unwrap();
            let regs = run(host, &self.cpus[cpu], vcpu);
            Seat {
                cpu,
                regs,
                is_pending: false,
                is_user: false,
            }
        });
        domain.assists.set(VmAssist::WritablePagetables, true);
        if self.spare_regs.is_some() {
            pin_spare(host, &self.cpus[SPARE_CPU], &domain);
        }
        drop(domain);
        assert!(undo.is_empty());
        Player { id, seats, frames }
    }

    /// Lets spare vCPUs run, on a CPU that they share.
    #[allow(dead_code)] // The fuzz target of vCPUs uses it.
    pub fn let_spares_run(&mut self) {
        let cpu = &self.cpus[SPARE_CPU];
        self.host.cpu_up(cpu);
        for player in &self.players {
            let domain = self.host.domains.get(player.id).unwrap();
            pin_spare(&self.host, cpu, &domain);
        }
        self.spare_regs = Some(CpuUserRegs::new_zeroed());
    }

    /// Lets the kernel of a new domain register its handlers.
    fn set_up(&mut self, slot: usize) {
        let budget = self.host.entry_budget();
        self.host.set_entry_budget(Budget::ENDLESS);
        for seat in 0..2 {
            let mut page_fault = TrapInfo::new_zeroed();
            (page_fault.vector, page_fault.cs) = (14, FLAT_CS64);
            page_fault.address = HANDLER;
            let table = [page_fault, TrapInfo::new_zeroed()];
            assert!(self.write(slot, seat, linear(ARGS + seat), table.as_bytes()));
            for (call, args) in [
                (Hypercall::SetTrapTable, [linear(ARGS + seat), 0, 0, 0, 0]),
                (Hypercall::SetCallbacks, [HANDLER, 0, HANDLER, 0, 0]),
                (
                    Hypercall::StackSwitch,
                    [FLAT_SS.into(), stack(seat), 0, 0, 0],
                ),
            ] {
                let outcome = self.call(slot, seat, call.number(), args);
                assert_eq!(outcome, Outcome::Returned(0));
            }
        }
        self.set_up_grants(slot);
        self.host.set_entry_budget(budget);
    }

    /// Lets it map the first frame of its grant table.
    fn set_up_grants(&mut self, slot: usize) {
        let mut op = SetupTable::new_zeroed();
        (op.dom, op.nr_frames) = (DomId::SELF, 1);
        let list = linear(ARGS) + 64;
        op.frame_list = GuestHandle::new(GuestAddr::new(list));
        assert!(self.write(slot, 0, linear(ARGS), op.as_bytes()));
        let command = u64::from(GrantTableCommand::SetupTable.get());
        let args = [command, linear(ARGS), 1, 0, 0];
        let outcome = self.call(slot, 0, Hypercall::GrantTableOp.number(), args);
        assert_eq!(outcome, Outcome::Returned(0));
        let mut mfn = [0; 8];
        assert!(self.read(slot, 0, list, &mut mfn));
        let entry = u64::from_le_bytes(mfn) << 12 | PRESENT | WRITABLE | USER;
        let args = [linear(GRANT_TABLE), entry, 0, 0, 0];
        let outcome = self.call(slot, 0, Hypercall::UpdateVaMapping.number(), args);
        assert_eq!(outcome, Outcome::Returned(0));
    }

    /// Goes to user mode.
    pub fn enter_user(&mut self, slot: usize, seat: usize) -> Outcome {
        let mut frame = IretContext::new_zeroed();
        (frame.cs, frame.ss) = (u64::from(FLAT_CS64) | 3, FLAT_SS.into());
        (frame.rip, frame.rflags) = (0x1000, 0x202);
        // On top of the stack, where `call` lets it point.
        let at = stack(seat) - size_of::<IretContext>() as u64;
        if !self.write(slot, seat, at, frame.as_bytes()) {
            return Outcome::Returned(Errno::EFAULT.as_return());
        }
        let regs = &mut self.players[slot].seats[seat].regs;
        (regs.rip, regs.rax, regs.rsp) = (RIP, Hypercall::Iret.number(), at);
        let outcome = self.enter(slot, seat);
        self.players[slot].seats[seat].is_user = outcome != Outcome::Gone;
        outcome
    }

    /// Comes back from there by a system call, which is none of the hypervisor's whatever the registers say (I17).
    pub fn leave_user(&mut self, slot: usize, seat: usize) -> Outcome {
        let player = &mut self.players[slot].seats[seat];
        player.is_user = false;
        player.regs.rax = Hypercall::MmuUpdate.number();
        match self.enter(slot, seat) {
            Outcome::Gone => Outcome::Gone,
            _ => Outcome::Returned(0),
        }
    }

    /// Lets the kernel write to an address by an instruction of its own, as it does to page tables that it has mapped.
    /// `rdi` is the address.
    pub fn trapped_write(
        &mut self,
        slot: usize,
        seat: usize,
        at: u64,
        [rax, rbx]: [u64; 2],
        instruction: &[u8],
    ) -> Outcome {
        if !self.write(slot, seat, code(seat), instruction) {
            return Outcome::Returned(Errno::EFAULT.as_return());
        }
        let Seat {
            cpu,
            regs,
            is_pending,
            ..
        } = &mut self.players[slot].seats[seat];
        let cpu = &self.cpus[*cpu];
        *is_pending = false;
        (regs.rip, regs.rsp, regs.rdi) = (code(seat), stack(seat), at);
        (regs.rax, regs.rbx) = (rax, rbx);
        cpu.set_fault_address(at);
        // Present, written to, from ring 3.
        (regs.entry_vector, regs.error_code) = (14, 7);
        match entry::handle_exception(&self.host, cpu, regs) {
            Next::Guest if regs.rip == HANDLER => Outcome::Returned(Errno::EFAULT.as_return()),
            Next::Guest => Outcome::Returned(0),
            Next::Schedule | Next::Shutdown(_) => Outcome::Gone,
        }
    }

    fn fresh_id(&mut self) -> DomId {
        loop {
            let id = DomId::new(self.next_id);
            self.next_id = self.next_id % 1000 + 1;
            if self.host.domains.get(id).is_none() && self.host.frames.count_of(id) == 0 {
                return id;
            }
        }
    }

    pub fn scene(&self) -> Scene<'_> {
        Scene {
            host: &self.host,
            players: &self.players,
            dying: &self.dying,
            wild: self.config.wild,
        }
    }

    pub fn cpu(&self, slot: usize, seat: usize) -> &Cpu {
        &self.cpus[self.players[slot].seats[seat].cpu]
    }

    pub fn memory<'a>(&'a self, cpu: usize, undo: &'a UndoQueue) -> Memory<'a> {
        self.host.memory(&self.cpus[cpu], undo)
    }

    /// Begins a call; what was pending is given up.
    pub fn call(&mut self, slot: usize, seat: usize, number: u64, args: [u64; 5]) -> Outcome {
        let regs = &mut self.players[slot].seats[seat].regs;
        (regs.rip, regs.rax, regs.rsp) = (RIP, number, stack(seat));
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8] = args;
        self.enter(slot, seat)
    }

    /// Goes on with what is pending.
    pub fn resume(&mut self, slot: usize, seat: usize) -> Outcome {
        let regs = &mut self.players[slot].seats[seat].regs;
        regs.rip = regs.rip.wrapping_add(2);
        self.enter(slot, seat)
    }

    /// Makes a call to its end.
    pub fn call_whole(&mut self, slot: usize, seat: usize, number: u64, args: [u64; 5]) -> Outcome {
        let mut outcome = self.call(slot, seat, number, args);
        for _ in 0..100_000 {
            if outcome != Outcome::Pending {
                return outcome;
            }
            outcome = self.resume(slot, seat);
        }
        panic!("a call does not end: {number} {args:x?}");
    }

    fn enter(&mut self, slot: usize, seat: usize) -> Outcome {
        let Seat {
            cpu,
            regs,
            is_pending,
            ..
        } = &mut self.players[slot].seats[seat];
        regs.entry_vector = ENTRY_SYSCALL;
        let handle = if self.goes_straight {
            entry::handle_syscall
        } else {
            entry::handle_hypercall
        };
        let next = handle(&self.host, &self.cpus[*cpu], regs);
        *is_pending = next == Next::Guest && regs.rip == RIP.wrapping_sub(2);
        match next {
            Next::Guest if *is_pending => Outcome::Pending,
            Next::Guest => Outcome::Returned(regs.rax as i64),
            Next::Schedule | Next::Shutdown(_) => Outcome::Gone,
        }
    }

    /// Looks which frames a domain has by now. Those that it lost make room for those that it got.
    pub fn refresh(&mut self, slot: usize) {
        let player = &mut self.players[slot];
        let frames = &self.host.frames;
        let mut new = Vec::new();
        frames.visit_of(player.id, |mfn| {
            if !player.frames.contains(&mfn) {
                new.push(mfn);
            }
        });
        new.sort_unstable();
        for place in player.frames.iter_mut().skip(LOOSE) {
            if !frames.is_of(*place, player.id)
                && let Some(mfn) = new.pop()
            {
                *place = mfn;
            }
        }
        player.frames.extend(new);
        player.frames.truncate(200);
    }

    /// Works off what all domains took out of use.
    pub fn drain(&self) {
        for player in &self.players {
            let domain = self.host.domains.get(player.id).unwrap();
            for queue in domain.undo_queues() {
                let memory = self.memory(player.seats[0].cpu, queue);
                let mut budget = Budget::ENDLESS;
                assert!(undo::drain(memory, &mut budget));
            }
        }
    }

    /// Ends a domain, whatever it is at.
    pub fn kill(&mut self, slot: usize) {
        self.end(slot);
        let player = self.spawn(slot);
        self.players[slot] = player;
        self.set_up(slot);
    }

    fn end(&mut self, slot: usize) {
        let player = &self.players[slot];
        let domain = self.host.domains.get(player.id).unwrap();
        shut_down(&self.host, &self.cpus[0], &domain);
        drop(domain);
        for seat in &player.seats {
            stop(&self.host, &self.cpus[seat.cpu]);
        }
        if let Some(regs) = &mut self.spare_regs {
            let _ = switch::next(&self.host, &self.cpus[SPARE_CPU], regs);
        }
        self.dying.push(player.id);
    }

    /// Goes on with the end of a domain, by a CPU.
    pub fn tear_down(&mut self, index: usize, cpu: usize, mut budget: Budget) {
        let id = self.dying[index];
        let undo = UndoQueue::new();
        let progress = match self.host.domains.get(id) {
            Some(domain) => teardown::release(
                self.memory(cpu, &undo),
                &self.host.domains,
                &domain,
                &mut budget,
            ),
            // What is left is the hypervisor's.
            None => Progress::Done,
        };
        assert!(undo.is_empty());
        if progress == Progress::Done && (self.host).reap_domain(&self.cpus[cpu], id, &mut budget) {
            self.dying.remove(index);
        }
    }

    /// Ends everything; all memory must be free again (I10, I29).
    pub fn finish(&mut self) -> Result<(), String> {
        for slot in 0..3 {
            if !self.dying.contains(&self.players[slot].id) {
                self.end(slot);
            }
        }
        self.check()?;
        // What one domain has of another's frames goes with it, so two rounds are enough; three with circles of domains.
        for _ in 0..3 {
            for index in (0..self.dying.len()).rev() {
                self.tear_down(index, 0, Budget::ENDLESS);
            }
        }
        // Of free frames too.
        self.checks = 63;
        self.check()?;
        let free = self.host.frames.statistics().free;
        if !self.dying.is_empty() || free != self.free_at_first {
            return Err(format!(
                "domains {:?} are left, {free} of {} frames are free",
                self.dying, self.free_at_first
            ));
        }
        Ok(())
    }

    /// Writes to a guest's memory as its own code does.
    pub fn write(&self, slot: usize, seat: usize, at: u64, bytes: &[u8]) -> bool {
        let cpu = self.cpu(slot, seat);
        cpu.write_guest_bytes(GuestAddr::new(at), bytes).is_ok()
    }

    /// Reads it.
    pub fn read(&self, slot: usize, seat: usize, at: u64, bytes: &mut [u8]) -> bool {
        let cpu = self.cpu(slot, seat);
        cpu.read_guest_bytes(GuestAddr::new(at), bytes).is_ok()
    }
}

/// A frame for a domain. It must be zero (I11).
fn fresh_frame(memory: Memory<'_>, id: DomId) -> Mfn {
    let held = memory.alloc(0, Placement::Anywhere).unwrap();
    let mfn = memory.assign(held, id, Scrub::Zero).unwrap().start;
    let word = memory.mem().next_nonzero_word(mfn, 0).unwrap();
    assert_eq!(word, None, "frame {mfn} is new and holds something");
    mfn
}

/// Starts a vCPU, lets it run on this CPU alone, and does so; returns its registers.
pub fn run(host: &Host, cpu: &Cpu, vcpu: &Vcpu) -> CpuUserRegs {
    host.cpu_up(cpu);
    let (here, now) = (CpuSet::one(cpu.id()), host.time.now(cpu));
    let pinned = (host.scheduler()).set_affinity(vcpu.index, &here, &here, now);
    pinned.unwrap();
    host.bring_up(cpu, vcpu);
    let mut regs = CpuUserRegs::new_zeroed();
    assert_eq!(switch::next(host, cpu, &mut regs), Next::Guest);
    regs
}

fn pin_spare(host: &Host, cpu: &Cpu, domain: &Domain) {
    let vcpu = domain.vcpu(VcpuId::new(SPARE)).unwrap();
    let (here, now) = (CpuSet::one(cpu.id()), host.time.now(cpu));
    let pinned = (host.scheduler()).set_affinity(vcpu.index, &here, &here, now);
    pinned.unwrap();
}

/// Shuts a domain down, one that owns the hardware too, which would end the host.
pub fn shut_down(host: &Host, cpu: &Cpu, domain: &Domain) {
    host.shut_down(cpu, domain, 3);
    for vcpu in domain.vcpus() {
        host.bring_down(cpu, vcpu);
    }
}

/// Lets a CPU leave its vCPU, whose domain has shut down.
pub fn stop(host: &Host, cpu: &Cpu) {
    let mut regs = CpuUserRegs::new_zeroed();
    assert_eq!(switch::next(host, cpu, &mut regs), Next::Schedule);
}
