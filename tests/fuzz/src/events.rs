//! What a vCPU does with event channels, made of the input.

use dom0_abi::event_channel::EventChannelCommand as Cmd;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use zerocopy::IntoBytes;

use crate::game::Game;
use crate::world::{LOOSE, SHARED, linear};

/// From here on a domain's frames are likely pages of the FIFO form.
const FIFO: usize = LOOSE + 20;

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
        216..220 => (Cmd::Reset, [domain(game).into(), 0, 0]),
        220..222 => (
            Cmd::SetPriority,
            [port(game), u32::from(game.byte() % 18), 0],
        ),
        222..232 => return scribble(game),
        232..248 => return fifo(game),
        _ => return other(game),
    };
    game.say(|| format!("{command:?} {argument:x?}"));
    let at = game.data(argument.as_bytes());
    call(game, command.get().into(), at);
}

/// The FIFO form is chosen or grows, or its words and control blocks are written to.
fn fifo(game: &mut Game<'_>) {
    let page = usize::from(game.byte() % 5);
    let frame = match page {
        // What a guest would give, in the place where it writes to it.
        0..4 => game.world.players[game.slot].frames[FIFO + page].get(),
        _ => game.word(),
    };
    let mut words = [frame, 0, 0];
    let command = match game.byte() {
        0..80 => {
            let offset = game.picker().of(&[0_u32, 72, 2048, 4024, 4032, 4]);
            words[1] = u64::from(offset) | u64::from(vcpu(game)) << 32;
            Cmd::InitControl
        }
        80..140 => Cmd::ExpandArray,
        _ => {
            let (at, word) = (game.word() % 512 * 8, game.word());
            // The words of few ports, and control blocks, more often than the rest.
            let at = game.picker().of(&[0, 8, 16, 72, 80, at]);
            let place = linear(FIFO + page.min(3)) + at;
            let (slot, seat) = (game.slot, game.seat);
            let written = game.world.write(slot, seat, place, &word.to_le_bytes());
            return game
                .say(|| format!("write {word:#x} to page {page} of events at {at}: {written}"));
        }
    };
    game.say(|| format!("{command:?} {words:x?}"));
    let at = game.data(words.as_bytes());
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
