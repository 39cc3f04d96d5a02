//! What a vCPU does with grants, made of the input.

use dom0_abi::grant_table::{
    GrantCopy, GrantTableCommand as Cmd, MapGrantRef, SwapGrantRef, UnmapAndReplace, UnmapGrantRef,
};
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, GrantRef};
use zerocopy::{FromZeros, IntoBytes};

use crate::game::Game;
use crate::world::{GRANT_TABLE, L1, WINDOW, WINDOW_PAGES, linear};

/// How many operations a list has at most.
const LIST: usize = 6;
/// So many references and handles are likely.
const FEW: u8 = 6;

/// A grant is written, or a call about grants is made.
pub fn grant(game: &mut Game<'_>) {
    match game.byte() {
        0..64 => give(game),
        64..136 => list(game, Cmd::MapGrantRef, |game| map(game).as_bytes().to_vec()),
        136..192 => list(game, Cmd::UnmapGrantRef, |game| {
            unmap(game).as_bytes().to_vec()
        }),
        192..204 => list(game, Cmd::UnmapAndReplace, |game| {
            let mut op = UnmapAndReplace::new_zeroed();
            let unmap = unmap(game);
            (op.handle, op.host_addr) = (unmap.handle, unmap.host_addr);
            op.new_addr = place(game, false);
            op.as_bytes().to_vec()
        }),
        204..236 => list(game, Cmd::Copy, |game| copy(game).as_bytes().to_vec()),
        236..244 => list(game, Cmd::SwapGrantRef, |game| {
            let mut op = SwapGrantRef::new_zeroed();
            (op.ref_a, op.ref_b) = (reference(game), reference(game));
            op.as_bytes().to_vec()
        }),
        _ => {
            let (command, at) = (u64::from(game.byte()) % 14, game.data(&[0; 64]));
            let mut picker = game.picker();
            let (ops, count) = (picker.of(&[at, 0, !7]), picker.count(1));
            game.call(Hypercall::GrantTableOp, [command, ops, count, 0, 0]);
        }
    }
}

/// Writes an entry, or its flags only.
fn give(game: &mut Game<'_>) {
    let at = linear(GRANT_TABLE) + u64::from(game.byte() % FEW) * 8;
    let to = domain(game);
    let mut picker = game.picker();
    let flags = match picker.of(&[1_u8, 1, 1, 1, 5, 5, 0, 2]) {
        2 => picker.word() & 0xffff,
        flags => u64::from(flags),
    };
    let entry = flags | u64::from(to.get()) << 16 | picker.mfn() << 32;
    let length = picker.of(&[8, 8, 8, 2]);
    let bytes = &entry.to_le_bytes()[..length];
    let written = game.world.write(game.slot, game.seat, at, bytes);
    game.say(|| format!("grant {entry:#x} at {at:#x}: {written}"));
}

fn list(game: &mut Game<'_>, command: Cmd, one: impl Fn(&mut Game<'_>) -> Vec<u8>) {
    let count = usize::from(game.byte()) % LIST;
    let ops: Vec<u8> = (0..count).flat_map(|_| one(game)).collect();
    game.say(|| format!("{command:?} {ops:x?}"));
    let at = game.data(&ops);
    let count = game.picker().count(count);
    let args = [command.get().into(), at, count, 0, 0];
    game.call(Hypercall::GrantTableOp, args);
}

fn domain(game: &mut Game<'_>) -> DomId {
    let byte = usize::from(game.byte());
    let world = &game.world;
    match byte {
        0..230 => world.players[byte % 3].id,
        230..245 => world.dying.last().copied().unwrap_or(DomId::XEN),
        _ => DomId::SELF,
    }
}

fn reference(game: &mut Game<'_>) -> GrantRef {
    let byte = game.byte();
    GrantRef::new(match byte {
        0..245 => u32::from(byte % FEW),
        245..250 => 511 + u32::from(byte - 245),
        _ => game.word() as u32,
    })
}

/// Where an entry is, by itself or by the address that it maps.
fn place(game: &mut Game<'_>, is_by_entry: bool) -> u64 {
    let byte = u64::from(game.byte());
    if byte >= 250 {
        return game.picker().address();
    }
    let page = WINDOW as u64 + byte % WINDOW_PAGES;
    if is_by_entry {
        game.world.players[game.slot].frames[L1].start().get() + page * 8
    } else {
        linear(page as usize)
    }
}

fn map(game: &mut Game<'_>) -> MapGrantRef {
    let mut op = MapGrantRef::new_zeroed();
    (op.dom, op.grant_ref) = (domain(game), reference(game));
    op.flags = game
        .picker()
        .of(&[2, 2, 2, 6, 3, 7, 1, 5, 18, 22, 19, 10, 0x1_001a, 0]);
    op.host_addr = place(game, op.flags & 16 != 0);
    op
}

fn unmap(game: &mut Game<'_>) -> UnmapGrantRef {
    let mut op = UnmapGrantRef::new_zeroed();
    op.handle = u32::from(game.byte() % (FEW * 6));
    let parts = game.byte();
    op.host_addr = place(game, parts & 4 != 0);
    if parts & 3 != 0 {
        op.dev_bus_addr = game.picker().mfn() << 12;
    }
    if parts & 3 == 2 {
        op.host_addr = 0;
    }
    op
}

fn copy(game: &mut Game<'_>) -> GrantCopy {
    let mut op = GrantCopy::new_zeroed();
    op.flags = u16::from(game.byte() % 4);
    for is_source in [true, false] {
        let is_grant = op.flags & if is_source { 1 } else { 2 } != 0;
        let (domid, u) = if is_grant {
            (domain(game), u64::from(reference(game).get()))
        } else {
            (DomId::SELF, game.picker().mfn())
        };
        let offset = game.word() as u16 % 4200;
        let end = if is_source {
            &mut op.source
        } else {
            &mut op.dest
        };
        (end.domid, end.u, end.offset) = (domid, u, offset);
    }
    op.len = game.word() as u16 % 300;
    op
}
