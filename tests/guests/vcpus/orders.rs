//! What vCPUs do when they are told to, all at once.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use dom0_abi::ids::{Port, VcpuId};
use dom0_abi::vcpu::{Runstate, VcpuCommand, VcpuRunstateInfo, VcpuSetSingleshotTimer};
use dom0_abi::xen::{TimeFlags, UVMF_ALL, UVMF_INVLPG, Virq};
use guest_pv_drivers::hypercall::{self, events};
use kit::Report;
use kit::memory::Page;
use kit::page_tables::{WRITABLE, page};

use crate::clock::Clock;
use crate::vcpu::{MOST, VCPUS, Vcpu, block, mask_port, op, take_pending};
use crate::{MS, grants, start};

/// Orders.
pub const NOTHING: u64 = 1;
pub const DOWN: u64 = 2;
const STORM: u64 = 3;
const PING_PONG: u64 = 4;
const TIMERS: u64 = 5;
const YIELD: u64 = 6;
const TIME: u64 = 7;
const LOOK: u64 = 8;
pub const RACE: u64 = 9;
pub const ENDS: u64 = 10;

/// How many messages each sends in a storm, and how often a ball goes to and fro.
const MESSAGES: u64 = 2_000;
const ROUNDS: u64 = 500;

/// For each vCPU the order that it has been given last: its number, and below that what to do.
static ORDERS: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
static LAST: AtomicU64 = AtomicU64::new(0);
/// How many vCPUs take part.
static PLAYERS: AtomicU64 = AtomicU64::new(0);
/// How many have sent all their messages.
static SENT_ALL: AtomicU64 = AtomicU64::new(0);
/// The latest time that anybody has read.
static LATEST: AtomicU64 = AtomicU64::new(0);
/// Whose turn it is with the ball, for each pair by its first player.
static BALLS: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
/// The address that `LOOK` looks at.
static AT: AtomicU64 = AtomicU64::new(0);

/// The number of the last order.
pub fn last() -> u64 {
    LAST.load(Ordering::SeqCst)
}

/// How many vCPUs take part.
pub fn players() -> usize {
    PLAYERS.load(Ordering::SeqCst) as usize
}

/// Gives a vCPU an order.
pub fn give(number: usize, what: u64) {
    let order = LAST.fetch_add(1, Ordering::SeqCst) + 1;
    ORDERS[number].store(order << 8 | what, Ordering::SeqCst);
    let _ = events::send(VCPUS[number].port());
}

/// Waits until the order that it has is carried out, and returns what came of that.
pub fn wait(number: usize, clock: Clock) -> Option<u64> {
    let order = ORDERS[number].load(Ordering::SeqCst) >> 8;
    let vcpu = &VCPUS[number];
    let is_done = || vcpu.done.load(Ordering::SeqCst) == order;
    start::wait(clock, is_done).then(|| vcpu.result.load(Ordering::SeqCst))
}

/// What all but the first vCPU do.
pub extern "C" fn obey(vcpu: &'static Vcpu) -> ! {
    vcpu.started.fetch_add(1, Ordering::SeqCst);
    let _ = op(VcpuCommand::StopPeriodicTimer, vcpu.number(), 0);
    loop {
        let order = ORDERS[vcpu.number()].load(Ordering::SeqCst);
        if order >> 8 == vcpu.done.load(Ordering::SeqCst) {
            sleep(vcpu, || {
                ORDERS[vcpu.number()].load(Ordering::SeqCst) == order
            });
            continue;
        }
        let result = carry_out(vcpu, order & 0xff);
        vcpu.result.store(result, Ordering::SeqCst);
        vcpu.done.store(order >> 8, Ordering::SeqCst);
    }
}

/// Sleeps until it is told of something, unless there is a reason not to.
fn sleep(vcpu: &Vcpu, may_sleep: impl Fn() -> bool) {
    vcpu.mask().store(1, Ordering::SeqCst);
    if may_sleep() {
        block();
    }
    vcpu.mask().store(1, Ordering::SeqCst);
}

fn carry_out(vcpu: &'static Vcpu, what: u64) -> u64 {
    let number = vcpu.number();
    match what {
        DOWN => op(VcpuCommand::Down, number, 0).map_or_else(|errno| errno as u64, |_| 0),
        STORM => storm(vcpu),
        PING_PONG => ping_pong(vcpu),
        TIMERS => timers(vcpu),
        RACE => grants::race(vcpu),
        ENDS => grants::ends(vcpu),
        YIELD => {
            for _ in 0..ROUNDS {
                let _ = hypercall::sched_yield();
            }
            0
        }
        TIME => time(vcpu),
        LOOK => {
            let at = ptr::with_exposed_provenance::<u64>(AT.load(Ordering::SeqCst) as usize);
            // SAFETY: a page of the kit's, which another vCPU maps elsewhere meanwhile.
            unsafe { at.read_volatile() }
        }
        _ => 0,
    }
}

/// Sends messages to all others, and sleeps until all of theirs have come.
fn storm(vcpu: &'static Vcpu) -> u64 {
    let players = players();
    let number = vcpu.number();
    let mut failures = 0;
    for message in 0..MESSAGES {
        let other = (number + 1 + message as usize % (players - 1)) % players;
        VCPUS[other].mail[number].fetch_add(1, Ordering::SeqCst);
        failures += u64::from(events::send(VCPUS[other].port()).is_err());
        // Now and then everything is taken at once, else as it comes.
        vcpu.mask()
            .store(u8::from(message % 64 < 32), Ordering::SeqCst);
        if vcpu.mask().load(Ordering::SeqCst) == 0 && vcpu.upcall().load(Ordering::SeqCst) != 0 {
            vcpu.take();
        }
    }
    if SENT_ALL.fetch_add(1, Ordering::SeqCst) + 1 == players as u64 {
        // Whoever sleeps for the last ones to be sent looks again.
        for other in VCPUS.iter().take(players) {
            let _ = events::send(other.port());
        }
    }
    let has_all = || {
        let all_sent = SENT_ALL.load(Ordering::SeqCst) == players as u64;
        let sent: u64 = vcpu
            .mail
            .iter()
            .map(|mail| mail.load(Ordering::SeqCst))
            .sum();
        all_sent && vcpu.seen.load(Ordering::SeqCst) == sent
    };
    while !has_all() {
        sleep(vcpu, || !has_all());
    }
    failures
}

/// Gives a ball to its partner and waits, without an end in time, until it comes back.
fn ping_pong(vcpu: &'static Vcpu) -> u64 {
    let number = vcpu.number();
    let partner = &VCPUS[number ^ 1];
    let ball = &BALLS[number & !1];
    let is_mine = || ball.load(Ordering::SeqCst) & 1 == (number & 1) as u64;
    while ball.load(Ordering::SeqCst) < 2 * ROUNDS {
        if is_mine() {
            ball.fetch_add(1, Ordering::SeqCst);
            let _ = events::send(partner.port());
        } else {
            let _ = events::poll(&[vcpu.port()], 0);
            take_pending(vcpu.port());
        }
    }
    let _ = events::send(partner.port());
    0
}

/// Sets its timer again and again; returns how often that fired early.
fn timers(vcpu: &'static Vcpu) -> u64 {
    let number = vcpu.number();
    let clock = Clock::of(vcpu.info());
    let Ok(port) = events::bind_virq(Virq::Timer.get(), VcpuId::new(number as u32)) else {
        return u64::MAX;
    };
    let mut early = 0;
    for round in 0..20 {
        let time = clock.now() + (round % 5) * MS / 2 + 10_000;
        let mut timer = VcpuSetSingleshotTimer {
            timeout_abs_ns: time,
            flags: 0,
            _pad0: 0,
        };
        let set = op(
            VcpuCommand::SetSingleshotTimer,
            number,
            ptr::from_mut(&mut timer) as u64,
        );
        early += u64::from(set.is_err());
        while !take_pending(port) {
            let _ = events::poll(&[port], 0);
        }
        early += u64::from(clock.now() + tolerance(clock) < time);
    }
    early + u64::from(events::close(port).is_err())
}

/// Reads the time many times, against what others have read; returns how often it was before that.
fn time(vcpu: &'static Vcpu) -> u64 {
    let clock = Clock::of(vcpu.info());
    let mut back = 0;
    for _ in 0..20_000 {
        let latest = LATEST.load(Ordering::SeqCst);
        let now = clock.now();
        back += u64::from(now + tolerance(clock) < latest);
        LATEST.fetch_max(now, Ordering::SeqCst);
    }
    back
}

/// How far the clocks of CPUs may be apart: much, unless the hypervisor says that they are not.
fn tolerance(clock: Clock) -> u64 {
    if clock.read().0.flags & TimeFlags::TSC_STABLE.bits() != 0 {
        20_000
    } else {
        1_000 * MS
    }
}

/// Has all vCPUs do something, the first one too, and looks at what came of it.
pub fn together(report: &mut Report, name: &str, count: usize, clock: Clock, what: u64) {
    for number in 1..count {
        give(number, what);
    }
    let own = carry_out(&VCPUS[0], what);
    VCPUS[0].mask().store(1, Ordering::SeqCst);
    report.equal(format_args!("{name}: 0"), own, 0);
    for number in 1..count {
        report.equal(
            format_args!("{name}: {number}"),
            wait(number, clock),
            Some(0),
        );
    }
}

pub fn all(report: &mut Report, count: usize, clock: Clock) {
    PLAYERS.store(count as u64, Ordering::SeqCst);
    let _ = op(VcpuCommand::StopPeriodicTimer, 0, 0);
    together(report, "nothing", count, clock, NOTHING);
    together(report, "time goes on for all", count, clock, TIME);
    together(report, "yields", count, clock, YIELD);
    together(report, "timers", count, clock, TIMERS);
    if count == 1 {
        return;
    }
    together(report, "a ball", count & !1, clock, PING_PONG);
    for round in 0..3 {
        SENT_ALL.store(0, Ordering::SeqCst);
        together(report, "a storm", count, clock, STORM);
        let seen: u64 = VCPUS
            .iter()
            .map(|vcpu| vcpu.seen.load(Ordering::SeqCst))
            .sum();
        let sent = (round + 1) * MESSAGES * count as u64;
        report.equal("all messages have come", seen, sent);
    }
    masks(report, clock);
    moved(report, clock);
    nmis(report, count, clock);
    runstates(report, count);
    translations(report, count, clock);
}

/// A masked port tells nobody until it is unmasked, by whomever.
fn masks(report: &mut Report, clock: Clock) {
    let Ok(port) = events::bind_ipi(VcpuId::new(1)) else {
        return report.check("a port of the second", false, "none");
    };
    let told = || VCPUS[1].upcalls.load(Ordering::SeqCst);
    let before = told();
    mask_port(port);
    report.equal("send, masked", events::send(port), Ok(()));
    let soon = clock.now() + 3 * MS;
    while clock.now() < soon {}
    report.equal("nobody is told", told(), before);
    report.equal("unmask", events::unmask(port), Ok(()));
    report.check(
        "the second is told",
        start::wait(clock, || told() > before),
        "never",
    );
    report.check("it was pending", take_pending(port), "no");
    report.equal("close", events::close(port), Ok(()));
}

/// A port that is moved tells the vCPU that it is moved to.
fn moved(report: &mut Report, clock: Clock) {
    let Ok(port) = events::bind_virq(Virq::Debug.get(), VcpuId::new(0)) else {
        return report.skip("a port that moves", "no VIRQ");
    };
    let refused = events::bind_vcpu(port, VcpuId::new(1));
    report.check("a VIRQ of a vCPU stays", refused.is_err(), "it moves");
    let _ = events::close(port);
    let offered = events::alloc_unbound(dom0_abi::ids::DomId::SELF, dom0_abi::ids::DomId::DOM0);
    let near = offered.unwrap_or(Port::new(0));
    let far = events::bind_interdomain(dom0_abi::ids::DomId::DOM0, near);
    let far = far.unwrap_or(Port::new(0));
    report.equal("move", events::bind_vcpu(near, VcpuId::new(1)), Ok(()));
    let told = || VCPUS[1].upcalls.load(Ordering::SeqCst);
    let before = told();
    report.equal("send to where it was moved", events::send(far), Ok(()));
    report.check(
        "the second is told",
        start::wait(clock, || told() > before),
        "never",
    );
    for port in [near, far] {
        take_pending(port);
        report.equal("close", events::close(port), Ok(()));
    }
}

/// NMIs reach who runs, who sleeps and who is about to.
fn nmis(report: &mut Report, count: usize, clock: Clock) {
    for (number, vcpu) in VCPUS.iter().enumerate().take(count).skip(1) {
        for round in 1..=20 {
            let sent = op(VcpuCommand::SendNmi, number, 0);
            // Xen may forget to wake one that is just about to sleep.
            let _ = events::send(vcpu.port());
            let comes = || vcpu.nmis.load(Ordering::SeqCst) == round;
            if sent != Ok(0) || !start::wait(clock, comes) {
                report.check(
                    format_args!("NMI {round} to {number}"),
                    false,
                    "it does not come",
                );
                return;
            }
        }
        report.equal(
            format_args!("NMIs to {number}"),
            vcpu.nmis.load(Ordering::SeqCst),
            20,
        );
    }
}

/// What becomes of another one's time can be read.
fn runstates(report: &mut Report, count: usize) {
    for number in 1..count {
        // SAFETY: all fields are integers.
        let mut info: VcpuRunstateInfo = unsafe { core::mem::zeroed() };
        let read = op(
            VcpuCommand::GetRunstateInfo,
            number,
            ptr::from_mut(&mut info) as u64,
        );
        report.equal(format_args!("run state of {number}"), read, Ok(0));
        let [running, _, blocked, offline] = info.time;
        let all = running > 0 && blocked > 0 && offline > 0;
        report.check(
            format_args!("{number} ran, slept and was down"),
            all,
            format_args!("{:?}", info.time),
        );
        let known = Runstate::try_from(info.state).is_ok();
        report.check(format_args!("state of {number}"), known, info.state);
    }
}

/// When a page is mapped elsewhere, and all vCPUs were to forget, no vCPU sees where it was.
fn translations(report: &mut Report, count: usize, clock: Clock) {
    let (window, pages) = (page(), [page(), page()]);
    for (value, page) in (0..).zip(pages) {
        page.set_word(0, value);
    }
    AT.store(window.address(), Ordering::SeqCst);
    let map = |page: &Page| {
        let entry = page.machine() | WRITABLE;
        // SAFETY: Rust knows of nothing in the window; the others look at it by volatile reads.
        unsafe { hypercall::update_va_mapping(window.address(), entry, UVMF_INVLPG | UVMF_ALL) }
    };
    for round in 0..100_u64 {
        let value = round % 2;
        let mapped = map(pages[value as usize]);
        for number in 1..count {
            give(number, LOOK);
        }
        for number in 1..count {
            let seen = wait(number, clock);
            if mapped.is_err() || seen != Some(value) {
                let name = format_args!("round {round}: what {number} sees");
                return report.equal(name, seen, Some(value));
            }
        }
    }
    let back = map(window);
    report.check("all see where a page is mapped", back.is_ok(), "no");
}
