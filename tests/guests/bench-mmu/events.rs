//! Events, sleep and timers: what a send costs, alone and with the way to the handler and back.

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{Port, VcpuId};
use dom0_abi::sched::SchedPoll;
use dom0_abi::xen::{SharedInfo, VcpuInfo, Virq};
use guest_pv_drivers::hypercall::{self, events};
use kit::memory;

use crate::Bench;

// The handler of events: forgets what was told and goes back. In: rcx, r11, rip, cs, rflags, rsp, ss.
global_asm!(
    ".text",
    ".type bench_event, @function",
    "bench_event:",
    "    pop rcx",
    "    pop r11",
    "    push 0",
    "    push rcx",
    "    push r11",
    "    push rax",
    "    mov rax, [rip + {shared}]",
    "    mov byte ptr [rax], 0",
    "    mov qword ptr [rax + 8], 0",
    "    mov qword ptr [rax + {pending}], 0",
    "    inc qword ptr [rip + {seen}]",
    "    mov eax, {iret}",
    "    syscall",
    "    ud2",
    ".size bench_event, . - bench_event",
    shared = sym SHARED,
    seen = sym SEEN,
    pending = const offset_of!(SharedInfo, evtchn_pending),
    iret = const Hypercall::Iret as u32,
);

unsafe extern "C" {
    static bench_event: u8;
}

static SHARED: AtomicU64 = AtomicU64::new(0);
/// How often the handler ran.
static SEEN: AtomicU64 = AtomicU64::new(0);

fn send(port: &Port) -> u64 {
    let at = core::ptr::from_ref(port).expose_provenance() as u64;
    // SAFETY: the argument of a send is a port.
    unsafe { hypercall::raw(Hypercall::EventChannelOp.number(), [4, at, 0, 0, 0]) }
}

fn set_timer(time: u64) -> u64 {
    // SAFETY: touches no memory.
    unsafe { hypercall::raw(Hypercall::SetTimerOp.number(), [time, 0, 0, 0, 0]) }
}

fn sched(command: u64, at: u64) -> u64 {
    // SAFETY: the callers' arguments are what the commands take.
    unsafe { hypercall::raw(Hypercall::SchedOp.number(), [command, at, 0, 0, 0]) }
}

pub fn measure(bench: &mut Bench) {
    let first = VcpuId::new(0);
    let ports = (events::bind_ipi(first), memory::shared_info());
    let (Ok(port), Ok(shared)) = ports else {
        return bench.report.skip("events", "no port");
    };
    SHARED.store(shared, Ordering::Relaxed);
    // SAFETY: the page stays mapped; all access it by atomic accesses.
    let word = |row: usize| unsafe {
        &*((shared as usize + row + port.get() as usize / 64 * 8) as *const AtomicU64)
    };
    let bit = 1 << (port.get() % 64);
    let pending = word(offset_of!(SharedInfo, evtchn_pending));
    let masked = word(offset_of!(SharedInfo, evtchn_mask));
    let forget = || pending.store(0, Ordering::SeqCst);
    masked.fetch_or(bit, Ordering::SeqCst);
    bench.row("event-send-masked", |_| {
        forget();
        send(&port)
    });
    bench.row("event-send-pending", |_| send(&port));
    let ask = SchedPoll {
        ports: dom0_abi::handle::GuestHandle::new(dom0_abi::addr::GuestAddr::new(
            core::ptr::from_ref(&port).expose_provenance() as u64,
        )),
        nr_ports: 1,
        _pad0: 0,
        timeout: 0,
    };
    let ask = core::ptr::from_ref(&ask).expose_provenance() as u64;
    bench.row("poll-of-a-pending-port", |_| sched(3, ask));
    forget();
    bench.row("yield-alone", |_| sched(0, 0));
    bench.row("timer-set", |index| set_timer(u64::MAX / 4 + index));
    set_timer(0);
    masked.fetch_and(!bit, Ordering::SeqCst);

    // With the way to the handler.
    let callbacks = [(&raw const bench_event) as u64, 0, 0, 0, 0];
    // SAFETY: the handler is above; the others are none, as before.
    unsafe { hypercall::raw(Hypercall::SetCallbacks.number(), callbacks) };
    // SAFETY: as above.
    let mask = unsafe {
        &*((shared as usize + offset_of!(VcpuInfo, evtchn_upcall_mask)) as *const AtomicU8)
    };
    mask.store(0, Ordering::SeqCst);
    let told = SEEN.load(Ordering::Relaxed);
    bench.row("event-send-to-handler-and-back", |_| send(&port));
    let told = SEEN.load(Ordering::Relaxed) - told;
    bench
        .report
        .check("the handler ran each time", told > 512, told);
    if events::bind_virq(Virq::Timer.get(), first).is_ok() {
        bench.row("timer-to-handler-and-back", |_| {
            let before = SEEN.load(Ordering::Relaxed);
            let result = set_timer(1);
            while SEEN.load(Ordering::Relaxed) == before {
                core::hint::spin_loop();
            }
            result
        });
    }
    mask.store(1, Ordering::SeqCst);
    set_timer(0);
    let _ = events::close(port);
}
