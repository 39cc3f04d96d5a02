//! The same operations by six threads at once, one for each CPU: what comes of it is not the same each time, but the books
//! are right whenever everybody stands still (I3, I4, I10, I32).

use std::sync::Barrier;

use dom0_abi::addr::GuestAddr;
use oxen_arch::Cpu;
use oxen_arch::boot::CpuId;
use oxen_arch::registers::ENTRY_SYSCALL;
use oxen_core::budget::Budget;
use oxen_core::domain::teardown::{self, Progress};
use oxen_core::frame::UndoQueue;
use oxen_core::trap::entry;
use oxen_core::trap::return_path::Next;

use crate::ops::{Call, Maker};
use crate::rng::Rng;
use crate::world::{CPUS, Config, RIP, Scene, World, shut_down, stack, stop};

const ROUNDS: u64 = 3;
const CALLS: u64 = 250;

/// Makes calls of one vCPU; `false` if it does not go on.
fn play(scene: Scene<'_>, cpu: &Cpu, rng: &mut Rng, slot: usize, seat: usize) -> bool {
    let mut regs = scene.players[slot].seats[seat].regs;
    for _ in 0..CALLS {
        for Call { call, args, data } in Maker::new(scene, rng, slot, seat).calls() {
            let put = |(at, bytes): &(u64, Vec<u8>)| {
                let at = GuestAddr::new(*at);
                cpu.write_guest_bytes(at, bytes).is_ok()
            };
            if !data.iter().all(put) {
                continue;
            }
            (regs.rip, regs.rax, regs.rsp) = (RIP, call.number(), stack(seat));
            [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8] = args;
            regs.entry_vector = ENTRY_SYSCALL;
            for _ in 0..1 + rng.below(40) {
                if entry::handle_syscall(scene.host, cpu, &mut regs) != Next::Guest {
                    return false;
                }
                if regs.rip == RIP {
                    break;
                }
                regs.rip = RIP;
            }
        }
        if rng.one_in(8) {
            scene.host.machine.agitate();
        }
    }
    true
}

fn run(seed: u64) {
    let config = Config {
        wild: false,
        ..Config::of(seed)
    };
    let mut world = World::new(config);
    let mut rng = Rng::new(seed);
    for round in 0..ROUNDS {
        let budget = Budget::new(30 + rng.below(150) as u32);
        world.host.set_entry_budget(budget);
        // In the last round one domain ends while the others go on.
        let ends = round + 1 == ROUNDS;
        let ending = 1 + rng.below(2) as usize;
        world.cpus.clear();
        let both_stopped = Barrier::new(2);
        let start = Barrier::new(6);
        let (scene, base) = (world.scene(), rng.next());
        let scene_seats: Vec<_> = (0..6).map(|cpu| (cpu / 2, cpu % 2)).collect();
        std::thread::scope(|scope| {
            for (id, (slot, seat)) in scene_seats.into_iter().enumerate() {
                let (start, both_stopped) = (&start, &both_stopped);
                scope.spawn(move || {
                    let cpu = scene.host.machine.cpu(CpuId::new(id as u32));
                    let mut rng = Rng::new(base.wrapping_add(id as u64));
                    start.wait();
                    if !(ends && slot == ending) {
                        play(scene, &cpu, &mut rng, slot, seat);
                        return;
                    }
                    let domain = scene.host.domains.get(scene.players[slot].id).unwrap();
                    shut_down(scene.host, &cpu, &domain);
                    stop(scene.host, &cpu);
                    both_stopped.wait();
                    let undo = UndoQueue::new();
                    let memory = scene.host.memory(&cpu, &undo);
                    let mut progress = Progress::More;
                    while seat == 0 && progress == Progress::More {
                        let mut budget = Budget::new(25 + rng.below(100) as u32);
                        progress =
                            teardown::release(memory, &scene.host.domains, &domain, &mut budget);
                    }
                });
            }
        });
        let machine = &world.host.machine;
        world.cpus = (0..CPUS).map(|id| machine.cpu(CpuId::new(id))).collect();
        if ends {
            let id = world.players[ending].id;
            world.dying.push(id);
        }
        world
            .check()
            .unwrap_or_else(|text| panic!("seed {seed} round {round}: {text}"));
        for slot in 0..3 {
            world.refresh(slot);
        }
    }
    world
        .finish()
        .unwrap_or_else(|text| panic!("seed {seed}: {text}"));
}

#[test]
fn i32_counts_hold_when_all_cpus_work_at_once() {
    let seeds = crate::number("OXEN_PARALLEL").unwrap_or(12);
    for seed in 0..seeds {
        run(seed);
    }
}
