//! What a vCPU does with event channels, made of the input.

use dom0_abi::event_channel::EventChannelCommand as Cmd;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use zerocopy::IntoBytes;

use crate::game::Game;
use crate::world::{SHARED, linear};

/// So many ports are likely.
const FEW: u8 = 6;

/// A call about ports is made, or bits of the shared page are changed by the guest.
pub fn event(game: &mut Game<'_>) {
    let (command, argument) = match game.byte() {
        0..40 => (Cmd::AllocUnbound, [pair(domain(game), domain(game)), 0, 0]),
        40..88 => (Cmd::BindInterdomain, [domain(game).into(), port(game), 0]),
        88..104 => (Cmd::BindVirq, [u32::from(game.byte()) % 26, vcpu(game), 0]),
        104..116 => (Cmd::BindIpi, [vcpu(game), 0, 0]),
        116..132 => (Cmd::BindVcpu, [port(game), vcpu(game), 0]),
        132..176 => (Cmd::Send, [port(game), 0, 0]),
        176..204 => (Cmd::Close, [port(game), 0, 0]),
        204..216 => (Cmd::Unmask, [port(game), 0, 0]),
        216..222 => (Cmd::Reset, [domain(game).into(), 0, 0]),
        222..244 => return scribble(game),
        _ => return other(game),
    };
    game.say(|| format!("{command:?} {argument:x?}"));
    let at = game.data(argument.as_bytes());
    call(game, command.get().into(), at);
}

/// Any command, with any words for an argument, or no argument at all.
fn other(game: &mut Game<'_>) {
    let command = u64::from(game.byte()) % 16;
    let words = [0; 3].map(|_: u64| game.word());
    let at = game.data(words.as_bytes());
    let at = game.picker().of(&[at, at, at, 0, !7]);
    if game.byte() < 64 {
        return game.call(Hypercall::EventChannelOpCompat, [at, 0, 0, 0, 0]);
    }
    call(game, command, at);
}

fn call(game: &mut Game<'_>, command: u64, at: u64) {
    game.call(Hypercall::EventChannelOp, [command, at, 0, 0, 0]);
}

/// A port becomes pending, or masked, or neither, and selectors anything; the bytes of the upcall stay as they are.
fn scribble(game: &mut Game<'_>) {
    let at = game.picker().of(&[8_u64, 72, 2048, 2056, 2560, 2568]);
    let word = game.word();
    let place = linear(SHARED) + at;
    let written = game
        .world
        .write(game.slot, game.seat, place, &word.to_le_bytes());
    game.say(|| format!("write {word:#x} to the shared page at {at}: {written}"));
}

const fn pair(low: u16, high: u16) -> u32 {
    low as u32 | (high as u32) << 16
}

fn domain(game: &mut Game<'_>) -> u16 {
    match usize::from(game.byte() % 8) {
        0..3 => DomId::SELF.get(),
        kind @ 3..6 => game.world.players[kind % 3].id.get(),
        6 => match game.world.dying.last() {
            Some(dying) => dying.get(),
            None => 77,
        },
        _ => game.word() as u16,
    }
}

fn port(game: &mut Game<'_>) -> u32 {
    match game.byte() {
        byte @ 0..240 => u32::from(byte % FEW),
        _ => game.word() as u32,
    }
}

fn vcpu(game: &mut Game<'_>) -> u32 {
    match game.byte() {
        byte @ 0..240 => u32::from(byte % 2),
        _ => game.word() as u32,
    }
}
