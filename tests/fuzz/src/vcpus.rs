//! What a vCPU does with vCPUs and time, made of the input, and what CPUs do that run them.

use dom0_abi::addr::PAGE_SHIFT;
use dom0_abi::arch::{FLAT_CS64, FLAT_SS, VcpuGuestContext, VgcfFlags};
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::VcpuId;
use dom0_abi::vcpu::{
    VcpuCommand as Cmd, VcpuRegisterVcpuInfo, VcpuSetPeriodicTimer, VcpuSetSingleshotTimer,
};
use oxen_arch::registers::ENTRY_SYSCALL;
use oxen_core::switch;
use oxen_core::trap::entry;
use oxen_core::trap::return_path::Next;
use zerocopy::{FromZeros, IntoBytes};

use crate::game::Game;
use crate::world::{ARGS, LOOSE, ROOT, SHARED, SPARE, SPARE_CPU, USER_ROOT, linear};

/// How often a CPU looks for something to run before it is left alone.
const LOOKS: u32 = 4;
/// As long as timers are set to as a rule, in nanoseconds.
const MS: u64 = 1_000_000;

/// Spare vCPUs run, and who sleeps is no longer lost.
pub fn begin(game: &mut Game<'_>) {
    game.world.let_spares_run();
    game.schedules = true;
}

/// A call about vCPUs, time or sleep, or something that happens to a CPU.
pub fn vcpu(game: &mut Game<'_>) {
    match game.byte() {
        0..160 => vcpu_op(game),
        160..192 => sched_op(game),
        192..204 => {
            let time = time(game);
            game.call(Hypercall::SetTimerOp, [time, 0, 0, 0, 0]);
        }
        204..228 => look_around(game),
        228..240 => spare(game),
        240..248 => scribble(game),
        _ => {
            // Time goes on, for all of them.
            let cycles = 1_u64 << (game.byte() % 36);
            game.say(|| format!("{cycles} cycles later"));
            game.world.host.machine.advance_tsc(cycles);
        }
    }
}

fn vcpu_op(game: &mut Game<'_>) {
    let target = target(game);
    let (command, argument) = match game.byte() {
        0..56 => return initialise(game, target),
        56..88 => (Cmd::Up, Vec::new()),
        88..112 => (Cmd::Down, Vec::new()),
        112..120 => (Cmd::IsUp, Vec::new()),
        120..128 => (Cmd::GetRunstateInfo, Vec::new()),
        128..144 => (Cmd::RegisterRunstateMemoryArea, address(game)),
        144..160 => (Cmd::RegisterVcpuTimeMemoryArea, address(game)),
        160..176 => {
            let mut timer = VcpuSetPeriodicTimer::new_zeroed();
            timer.period_ns = time(game);
            (Cmd::SetPeriodicTimer, timer.as_bytes().to_vec())
        }
        176..184 => (Cmd::StopPeriodicTimer, Vec::new()),
        184..200 => {
            let mut timer = VcpuSetSingleshotTimer::new_zeroed();
            (timer.timeout_abs_ns, timer.flags) = (time(game), game.byte().into());
            (Cmd::SetSingleshotTimer, timer.as_bytes().to_vec())
        }
        200..204 => (Cmd::StopSingleshotTimer, Vec::new()),
        204..224 => {
            let mut place = VcpuRegisterVcpuInfo::new_zeroed();
            let mut picker = game.picker();
            place.mfn = picker.mfn();
            place.offset = picker.of(&[0, 64, 128, 4032, 8, 4, 4040, u32::MAX]);
            (Cmd::RegisterVcpuInfo, place.as_bytes().to_vec())
        }
        224..240 => (Cmd::SendNmi, Vec::new()),
        240..244 => (Cmd::GetPhysid, Vec::new()),
        _ => {
            // Anything, with any words for an argument, or no argument at all.
            let words = [0; 4].map(|_: u64| game.word());
            let command = u64::from(game.byte()) % 20;
            let at = game.data(words.as_bytes());
            let mut picker = game.picker();
            let (at, target) = (picker.of(&[at, 0, !7]), picker.of(&[target, target, !0]));
            return game.call(Hypercall::VcpuOp, [command, target, at, 0, 0]);
        }
    };
    game.say(|| format!("{command:?} of {target}: {argument:02x?}"));
    let mut at = game.data(&argument);
    if game.byte() >= 248 {
        at = game.picker().address();
    }
    let command = u64::from(command as u32);
    game.call(Hypercall::VcpuOp, [command, target, at, 0, 0]);
}

/// Says what a vCPU begins with: like the caller, but for some words, and not all of them as they should be.
fn initialise(game: &mut Game<'_>, target: u64) {
    let mut context = VcpuGuestContext::new_zeroed();
    let flags = game.picker().of(&[4, 4, 4, 0, 0x24, 0x20, 5, 0x1f]);
    context.flags = VgcfFlags::from_bits_retain(flags).bits();
    let frames = &game.world.players[game.slot].frames;
    let (root, user_root) = (frames[ROOT].get(), frames[USER_ROOT].get());
    context.ctrlreg[3] = root << PAGE_SHIFT;
    if game.byte() & 1 != 0 {
        context.ctrlreg[1] = user_root << PAGE_SHIFT;
    }
    let regs = &mut context.user_regs;
    (regs.rip, regs.cs, regs.ss) = (linear(LOOSE), FLAT_CS64, FLAT_SS);
    (regs.rsp, regs.rflags) = (linear(ARGS + 4), 0x202);
    context.kernel_sp = linear(ARGS + 4);
    context.event_callback_eip = linear(LOOSE);
    match game.byte() % 16 {
        0 => context.ctrlreg[3] = game.picker().table() << PAGE_SHIFT,
        1 => context.ctrlreg[1] = game.picker().table() << PAGE_SHIFT,
        2 => {
            context.gdt_frames[0] = game.picker().mfn();
            context.gdt_ents = game.word() % 600;
        }
        3 => {
            context.ldt_base = game.picker().address();
            context.ldt_ents = game.word() % 9000;
        }
        4 => context.user_regs.rip = game.picker().address(),
        5 => context.kernel_sp = game.picker().address(),
        6 => context.gs_base_user = game.word(),
        7 => context.user_regs.rflags = game.word(),
        8 => context.ctrlreg[4] = game.word(),
        9 => context.debugreg[usize::from(game.byte() % 8)] = game.word(),
        10 => {
            let vector = usize::from(game.byte());
            context.trap_ctxt[vector].address = game.picker().address();
        }
        _ => {}
    }
    game.say(|| {
        format!(
            "Initialise {target}: flags {flags:x} and {:x?}",
            context.ctrlreg
        )
    });
    // It is longer than a page: into two that the guest can write to, one behind the other.
    let at = linear(ARGS + 4);
    let written = game
        .world
        .write(game.slot, game.seat, at, context.as_bytes());
    if !written {
        game.say(|| String::from("the pages of the description are lost"));
    }
    let command = u64::from(Cmd::Initialise as u32);
    game.call(Hypercall::VcpuOp, [command, target, at, 0, 0]);
}

/// Yields, blocks or polls. No more: the end of a domain is a matter of the game.
fn sched_op(game: &mut Game<'_>) {
    let (command, argument) = match game.byte() {
        0..64 => (0, [0; 3]),
        64..160 => (1, [0; 3]),
        _ => {
            let ports = game.data(&[1, 0, 0, 0, 2, 0, 0, 0]);
            let count = u64::from(game.byte() % 3);
            (3, [ports, count, time(game)])
        }
    };
    game.say(|| format!("sched_op {command} {argument:x?}"));
    let at = game.data(argument.as_bytes());
    game.call(Hypercall::SchedOp, [command, at, 0, 0, 0]);
}

/// Changes what the hypervisor tells a vCPU, and what it asks: bytes of an upcall and its mask.
fn scribble(game: &mut Game<'_>) {
    let at = linear(SHARED) + u64::from(game.byte() % 3) * 64;
    let word = (game.word() & 0x101).to_le_bytes();
    let written = game.world.write(game.slot, game.seat, at, &word[..2]);
    game.say(|| format!("write {:x?} to {at:#x}: {written}", &word[..2]));
}

/// The CPU of the vCPU whose turn it is handles what it was told, and runs whatever it finds.
pub fn look_around(game: &mut Game<'_>) {
    let (slot, seat) = (game.slot, game.seat);
    let id = game.world.players[slot].id;
    let is_over = |game: &Game<'_>| {
        let domain = game.world.host.domains.get(id);
        domain.is_none_or(|domain| domain.shutdown.reason().is_some())
    };
    if is_over(game) {
        return game.kill();
    }
    let world = &mut game.world;
    let place = &mut world.players[slot].seats[seat];
    let (host, cpu) = (&world.host, &world.cpus[place.cpu]);
    let mut next = Next::Schedule;
    for _ in 0..LOOKS {
        while let Some(what) = cpu.take_interrupt() {
            entry::interrupt(host, cpu, None, what);
        }
        next = switch::next(host, cpu, &mut place.regs);
        if next == Next::Guest {
            break;
        }
    }
    if next == Next::Guest {
        let runs = host.pcpu(cpu).and_then(|pcpu| pcpu.running());
        assert_eq!(
            runs,
            Some((id, VcpuId::new(seat as u32))),
            "it is tied to it"
        );
        // What it goes on with is its kernel's affair; the next call is another one.
        place.is_pending = false;
    }
    game.say(|| format!("    its CPU: {next:?}"));
    if is_over(game) {
        game.kill();
    }
}

/// The CPU of spare vCPUs goes on; the one that it runs then makes a call.
fn spare(game: &mut Game<'_>) {
    let kind = game.byte();
    let time = time(game);
    let target = target(game);
    let world = &mut game.world;
    let Some(regs) = &mut world.spare_regs else {
        return;
    };
    let (host, cpu) = (&world.host, &world.cpus[SPARE_CPU]);
    let mut next = Next::Schedule;
    for _ in 0..LOOKS {
        while let Some(what) = cpu.take_interrupt() {
            entry::interrupt(host, cpu, None, what);
        }
        next = switch::next(host, cpu, regs);
        if next == Next::Guest {
            break;
        }
    }
    let runs = host.pcpu(cpu).and_then(|pcpu| pcpu.running());
    if let Next::Shutdown(_) = next {
        // The domain that owns the hardware is over: a CPU that ends the host leaves nobody before.
        game.say(|| format!("{runs:?} on the CPU of spares: {next:?}"));
        return;
    }
    assert_eq!(next == Next::Guest, runs.is_some());
    assert!(runs.is_none_or(|(_, vcpu)| vcpu.get() == SPARE));
    if runs.is_some() {
        let (call, args) = match kind {
            0..64 => (Hypercall::SchedOp, [1, 0]),
            64..96 => (Hypercall::SchedOp, [0, 0]),
            96..128 => (Hypercall::SetTimerOp, [time, 0]),
            128..176 => (Hypercall::VcpuOp, [Cmd::Down as u64, SPARE.into()]),
            176..216 => (Hypercall::VcpuOp, [Cmd::Up as u64, target]),
            _ => (Hypercall::VcpuOp, [Cmd::SendNmi as u64, target]),
        };
        (regs.rax, regs.entry_vector) = (call.number(), ENTRY_SYSCALL);
        [regs.rdi, regs.rsi] = args;
        next = entry::handle_syscall(host, cpu, regs);
    }
    game.say(|| format!("{runs:?} on the CPU of spares, call {kind}: {next:?}"));
}

/// A vCPU that there is, mostly.
fn target(game: &mut Game<'_>) -> u64 {
    match game.byte() {
        byte @ 0..120 => u64::from(byte % 2),
        120..248 => SPARE.into(),
        _ => game.word(),
    }
}

/// A time that could be meant: from now on, or of a period.
fn time(game: &mut Game<'_>) -> u64 {
    let cpu = game.world.cpu(game.slot, game.seat);
    let now = game.world.host.time.now(cpu);
    match game.byte() {
        byte @ 0..96 => now + u64::from(byte) * MS,
        byte @ 96..192 => u64::from(byte - 96) * MS,
        192..224 => now,
        224..232 => u64::MAX,
        _ => game.word(),
    }
}

/// An address where something is to be told.
fn address(game: &mut Game<'_>) -> Vec<u8> {
    let at = match game.byte() {
        0..96 => linear(ARGS + 5) + u64::from(game.byte()) * 8,
        _ => game.picker().address(),
    };
    at.to_le_bytes().to_vec()
}
