//! Two vCPUs: events that wake the other one, round trips, and yields to it.
//!
//! The vCPUs share one CPU, or each has its own; the command line says which, and that ends the names of the rows. Under `-icount` one
//! clock counts the instructions of all CPUs, and a CPU that sleeps executes none: so what is measured is what both CPUs do together.
//!
//! QEMU runs CPUs in turns. One loses its turn when it sleeps, interrupts another one, or executes `pause`: so before a vCPU sends it
//! lets the other one come to its sleep by that, and what comes first is the same in each run.

use core::arch::{asm, naked_asm};
use core::mem::{offset_of, size_of, zeroed};
use core::ptr;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use dom0_abi::addr::{PAGE_SHIFT, PAGE_SIZE};
use dom0_abi::arch::{FLAT_CS64, FLAT_SS, VcpuGuestContext, VgcfFlags};
use dom0_abi::errno::Errno;
use dom0_abi::event_channel::EventChannelCommand;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{Port, VcpuId};
use dom0_abi::sched::SchedCommand;
use dom0_abi::vcpu::VcpuCommand;
use dom0_abi::xen::{SharedInfo, VcpuInfo};
use guest_pv_drivers::hypercall::{self, events};
use kit::{memory, start_info};

use crate::{Bench, Cost, no_hypercall, now};

/// How often a vCPU lets the other one go on before it sends: more turns than that takes to its sleep.
const TURNS: usize = 8;
/// Operations of a round: so few that not every round meets a timer of the hypervisor's.
const COUNT: u64 = 32;
/// Sends of the row that is measured send by send.
const SENDS: usize = 64;

/// What the second vCPU does.
const ANSWER: u32 = 0;
const YIELD: u32 = 1;
const YIELD_WITH_FPU: u32 = 2;

static ORDER: AtomicU32 = AtomicU32::new(ANSWER);
/// How often the second vCPU has yielded.
static YIELDS: AtomicU64 = AtomicU64::new(0);
/// Where `shared_info` is mapped.
static SHARED: AtomicU64 = AtomicU64::new(0);
static PEERS: [Peer; 2] = [const { Peer::new() }; 2];

#[repr(C, align(16))]
struct Stack(core::cell::UnsafeCell<[u8; 16 * 1024]>);
// SAFETY: it is used by one vCPU, as its stack.
unsafe impl Sync for Stack {}
static STACK: Stack = Stack(core::cell::UnsafeCell::new([0; 16 * 1024]));

/// What a vCPU has of its own.
#[repr(C)]
struct Peer {
    /// The port by which it is told.
    port: AtomicU32,
    /// How often its handler ran.
    told: AtomicU64,
}

impl Peer {
    const fn new() -> Self {
        Self {
            port: AtomicU32::new(0),
            told: AtomicU64::new(0),
        }
    }

    fn port(&self) -> Port {
        Port::new(self.port.load(Ordering::Relaxed))
    }

    fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }
}

/// The handler of events of a vCPU: forgets what was told and goes back. In: rcx, r11, rip, cs, rflags, rsp, ss.
#[unsafe(naked)]
extern "C" fn on_event<const VCPU: usize>() {
    naked_asm!(
        "pop rcx",
        "pop r11",
        "push 0",
        "push rcx",
        "push r11",
        "push rax",
        "mov rax, [rip + {shared}]",
        "mov byte ptr [rax + {info}], 0",
        "mov qword ptr [rax + {info} + 8], 0",
        "mov ecx, [rip + {peers} + {peer}]",
        "lock btr qword ptr [rax + {pending}], rcx",
        "inc qword ptr [rip + {peers} + {peer} + 8]",
        "mov eax, {iret}",
        "syscall",
        "ud2",
        shared = sym SHARED,
        peers = sym PEERS,
        info = const VCPU * size_of::<VcpuInfo>(),
        peer = const VCPU * size_of::<Peer>(),
        pending = const offset_of!(SharedInfo, evtchn_pending),
        iret = const Hypercall::Iret as u32,
    );
}

fn send(to: &Peer) -> u64 {
    let port = to.port();
    let at = ptr::from_ref(&port).expose_provenance() as u64;
    let command = EventChannelCommand::Send as u64;
    // SAFETY: the argument of a send is a port.
    unsafe { hypercall::raw(Hypercall::EventChannelOp.number(), [command, at, 0, 0, 0]) }
}

fn sched(command: SchedCommand) -> u64 {
    let command = u64::from(command.get());
    // SAFETY: the callers' commands take no argument.
    unsafe { hypercall::raw(Hypercall::SchedOp.number(), [command, 0, 0, 0, 0]) }
}

fn vcpu_op(command: VcpuCommand, vcpu: u64, at: u64) -> Result<u64, Errno> {
    // SAFETY: what is at the address is what the command takes.
    hypercall::decode(unsafe {
        let arguments = [command.get().into(), vcpu, at, 0, 0];
        hypercall::raw(Hypercall::VcpuOp.number(), arguments)
    })
}

/// Ends what would tell a vCPU every few milliseconds that time has passed.
fn stop_timer(vcpu: u64) {
    let _ = vcpu_op(VcpuCommand::StopPeriodicTimer, vcpu, 0);
}

/// Keeps a vCPU from being told of events before it sleeps.
fn mask(vcpu: usize) {
    let offset = vcpu * size_of::<VcpuInfo>() + offset_of!(VcpuInfo, evtchn_upcall_mask);
    let at = SHARED.load(Ordering::Relaxed) as usize + offset;
    // SAFETY: the page stays mapped; all access it by atomic accesses.
    unsafe { &*(at as *const AtomicU8) }.store(1, Ordering::SeqCst);
}

/// Lets the other CPU go on until it sleeps.
fn give_way() {
    for _ in 0..TURNS {
        core::hint::spin_loop();
    }
}

/// Adds to what is in the vCPU's own registers.
fn use_fpu() {
    // SAFETY: no Rust code has anything in the registers.
    unsafe { asm!("paddq xmm0, xmm1", options(nomem, nostack, preserves_flags)) };
}

/// Yields with what the order says before it.
fn yields(order: u32) -> u64 {
    if order == YIELD_WITH_FPU {
        use_fpu();
    }
    sched(SchedCommand::Yield)
}

/// What the second vCPU does: sleeps, is told, answers; or yields for as long as that is the order.
extern "C" fn second() -> ! {
    stop_timer(1);
    loop {
        mask(1);
        match ORDER.load(Ordering::Relaxed) {
            ANSWER => {
                sched(SchedCommand::Block);
                mask(1);
                give_way();
                send(&PEERS[0]);
            }
            order => {
                yields(order);
                YIELDS.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Makes the second vCPU run.
fn start() -> Result<(), Errno> {
    SHARED.store(memory::shared_info()?, Ordering::Relaxed);
    for (number, peer) in (0..).zip(&PEERS) {
        let port = events::bind_ipi(VcpuId::new(number))?;
        peer.port.store(port.get(), Ordering::Relaxed);
    }
    let handlers = [on_event::<0> as *const () as u64, 0, 0, 0, 0];
    // SAFETY: the handler is above; there are no others.
    hypercall::decode(unsafe { hypercall::raw(Hypercall::SetCallbacks.number(), handlers) })?;
    stop_timer(0);
    // SAFETY: all fields are integers.
    let mut context: VcpuGuestContext = unsafe { zeroed() };
    context.flags = VgcfFlags::IN_KERNEL.bits();
    let top = STACK.0.get() as u64 + size_of::<Stack>() as u64;
    let regs = &mut context.user_regs;
    (regs.rip, regs.cs) = (second as *const () as u64, FLAT_CS64);
    // As behind a call.
    (regs.rsp, regs.ss) = (top - 8, FLAT_SS);
    regs.rflags = 1 << 9;
    (context.kernel_sp, context.kernel_ss) = (top, FLAT_SS.into());
    context.event_callback_eip = on_event::<1> as *const () as u64;
    let root = (start_info().pt_base - memory::VIRT_BASE) / PAGE_SIZE as u64;
    let root = memory::physical_to_machine(root).unwrap_or(0);
    context.ctrlreg[3] = root << PAGE_SHIFT;
    vcpu_op(
        VcpuCommand::Initialise,
        1,
        ptr::from_mut(&mut context) as u64,
    )?;
    vcpu_op(VcpuCommand::Up, 1, 0)?;
    Ok(())
}

/// Sends and sleeps until the answer comes.
fn round_trip() -> u64 {
    mask(0);
    give_way();
    send(&PEERS[1]) | sched(SchedCommand::Block)
}

/// On what the two vCPUs run.
#[derive(Clone, Copy, PartialEq)]
pub enum On {
    /// One CPU, in turns.
    SameCpu,
    /// A CPU each.
    OtherCpu,
}

/// Measures what two vCPUs do.
pub fn measure(bench: &mut Bench, on: On) {
    if let Err(error) = start() {
        let report = &mut bench.report;
        return report.check("a second vCPU", false, format_args!("{error:?}"));
    }
    // The second one comes to its first sleep.
    round_trip();
    match on {
        On::SameCpu => {
            waking(bench, "event-send-waking-same-cpu", on);
            bench.rows(
                "event-round-trip-same-cpu",
                COUNT,
                1,
                || (),
                |_| round_trip(),
            );
            yielding(bench, "yield-to-peer", YIELD);
            yielding(bench, "yield-to-peer-with-fpu", YIELD_WITH_FPU);
        }
        On::OtherCpu => {
            waking(bench, "event-send-waking-other-cpu", on);
            bench.rows(
                "event-round-trip-other-cpu",
                COUNT,
                1,
                || (),
                |_| round_trip(),
            );
        }
    }
}

/// The send alone of round trips: until it returns, and if the other vCPU need not wait for this CPU, until its handler has run.
fn waking(bench: &mut Bench, name: &str, on: On) {
    let segment = |hypercall: &dyn Fn() -> u64, on: On| {
        let told = PEERS[1].told();
        bench.counters.around(|| {
            let start = now();
            let result = hypercall();
            while on == On::OtherCpu && PEERS[1].told() == told {
                core::hint::spin_loop();
            }
            (now() - start, result)
        })
    };
    let own = segment(&|| no_hypercall(0, [0; 5]), On::SameCpu).1.0;
    let mut best = Cost::MAX;
    let mut results = 0;
    for _ in 0..SENDS {
        mask(0);
        give_way();
        let (counts, (instructions, result)) = segment(&|| send(&PEERS[1]), on);
        best = best.min(Cost {
            // Where time is no count of instructions, the shorter one may take longer.
            instructions: instructions.saturating_sub(own),
            counts,
        });
        results |= result | sched(SchedCommand::Block);
    }
    bench
        .report
        .check(name, results >> 63 == 0, "a call failed");
    bench.print(name, &best, 1);
}

/// Yields of both vCPUs, one behind the other.
fn yielding(bench: &mut Bench, name: &str, order: u32) {
    ORDER.store(order, Ordering::Relaxed);
    round_trip();
    // The first ones are not as all others: the other vCPU comes from its sleep.
    (0..TURNS).for_each(|_| _ = yields(order));
    let before = YIELDS.load(Ordering::Relaxed);
    let mut own = 0;
    let operation = |_| {
        own += 1;
        yields(order)
    };
    bench.rows(name, COUNT, 2, || (), operation);
    let others = YIELDS.load(Ordering::Relaxed) - before;
    // A vCPU whose time is up has one turn less.
    let is_in_turns = others.abs_diff(own) <= own / 8;
    let turns = format_args!("the other one had {others} turns, this one {own}");
    bench.report.check(name, is_in_turns, turns);
    ORDER.store(ANSWER, Ordering::Relaxed);
    // Until the other one sleeps.
    (0..TURNS).for_each(|_| _ = yields(YIELD));
}
