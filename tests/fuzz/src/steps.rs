//! What a vCPU does in one step, made of the input.

use dom0_abi::addr::GuestAddr;
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::memory::{CONTINUATION_SHIFT, MemoryCommand, MemoryExchange, MemoryReservation};
use dom0_abi::xen::{MmuUpdate, MmuextOp};
use oxen_core::trap::entry;
use oxen_core::trap::return_path::Next;
use zerocopy::{FromZeros, IntoBytes};

use crate::game::Game;
use crate::world::{ARGS, FRAMES, L1, LOOSE, Outcome, linear};

/// How many requests a list has at most.
const LIST: usize = 12;
/// A page that is the guest's to write to and to run from.
const CODE: u64 = linear(18);

/// Writes a word, by a mapping of the guest's.
pub fn write(game: &mut Game<'_>) {
    let index = usize::from(game.byte()) % FRAMES;
    let mut picker = game.picker();
    let at = linear(index) + picker.index() * 8;
    let word = picker.entry();
    let written = game
        .world
        .write(game.slot, game.seat, at, &word.to_le_bytes());
    game.say(|| format!("write {word:#x} to {at:#x}: {written}"));
}

fn length(game: &mut Game<'_>) -> usize {
    1 + usize::from(game.byte()) % LIST
}

fn update(game: &mut Game<'_>) -> MmuUpdate {
    let mut picker = game.picker();
    let (table, index) = (picker.table(), picker.index());
    let command = picker.of(&[0, 0, 0, 0, 2, 2, 1, 3, 4, 7]);
    MmuUpdate {
        ptr: table.wrapping_shl(12) | index << 3 | command,
        val: picker.entry(),
    }
}

/// A list of `mmu_update`.
pub fn mmu_update(game: &mut Game<'_>) {
    let length = length(game);
    let list: Vec<_> = (0..length).map(|_| update(game)).collect();
    send(game, Hypercall::MmuUpdate, list.as_bytes(), length);
}

/// One update, plain.
pub fn mmu_update_one(game: &mut Game<'_>) {
    let update = update(game);
    game.say(|| format!("{update:x?}"));
    let at = game.data(update.as_bytes());
    game.call(Hypercall::MmuUpdate, [at, 1, 0, 0x7ff0, 0]);
}

fn operation(game: &mut Game<'_>) -> MmuextOp {
    let mut op = MmuextOp::new_zeroed();
    op.cmd = match game.byte() {
        byte @ 0..64 => u32::from(byte) % 4,
        64..96 => 4,
        96..112 => 5,
        112..128 => 15,
        byte @ 128..250 => u32::from(byte) % 21,
        _ => game.input.arbitrary().unwrap_or(0),
    };
    let mut picker = game.picker();
    // Flushes and descriptor tables have addresses, all others frames.
    let has_address = matches!(op.cmd, 6..14);
    op.arg1 = if has_address {
        picker.address()
    } else if op.cmd == 15 && picker.of(&[0_u8, 1, 2]) == 0 {
        0
    } else {
        picker.mfn()
    };
    op.arg2 = match op.cmd {
        13 => picker.of(&[0, 1, 8, 512, 8192, 8193, u64::MAX]),
        17 => picker.mfn(),
        8 | 9 => picker.address(),
        _ => 0,
    };
    op
}

/// A list of `mmuext_op`.
pub fn mmuext_op(game: &mut Game<'_>) {
    let length = length(game);
    let list: Vec<_> = (0..length).map(|_| operation(game)).collect();
    send(game, Hypercall::MmuextOp, list.as_bytes(), length);
}

/// One operation, plain.
pub fn mmuext_one(game: &mut Game<'_>) {
    let op = operation(game);
    game.say(|| format!("{op:x?}"));
    let at = game.data(op.as_bytes());
    game.call(Hypercall::MmuextOp, [at, 1, 0, 0x7ff0, 0]);
}

fn send(game: &mut Game<'_>, call: Hypercall, list: &[u8], length: usize) {
    let words: Vec<_> = list
        .chunks_exact(8)
        .map(|word| {
            word.iter()
                .rev()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        })
        .collect();
    game.say(|| format!("{words:x?}"));
    let mut at = game.data(list);
    let mut picker = game.picker();
    if picker.of(&[0_u8, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]) == 0 {
        at = picker.address();
    }
    let (count, done, foreign) = (picker.count(length), picker.done(), picker.foreign());
    game.call(call, [at, count, done, foreign, 0]);
}

/// An entry with any bits, on one of the ways into a table of some level.
pub fn pte(game: &mut Game<'_>) {
    let level = u64::from(game.byte()) % 4;
    let way = game.byte() % 4;
    let mut picker = game.picker();
    let mut entry = picker.entry();
    // One more bit, wherever.
    let flip = picker.of(&[0_u8, 1]) == 1;
    if flip {
        entry ^= 1_u64.wrapping_shl(picker.word() as u32);
    }
    let index = picker.index();
    let own = &picker.world.players[picker.slot].frames;
    match way {
        0 => {
            // L1, L2, L3 and root of every domain follow each other downwards.
            let table = own[L1 - level as usize].get();
            let ptr = table << 12 | index << 3;
            let update = MmuUpdate { ptr, val: entry };
            game.say(|| format!("level {} by {update:x?}", level + 1));
            let at = game.data(update.as_bytes());
            game.call(Hypercall::MmuUpdate, [at, 1, 0, 0x7ff0, 0]);
        }
        1 => {
            let va = picker.address();
            let flags = picker.of(&[0, 1, 2, 3, 4, 5, 6, 0x40_6000]);
            let other = picker.foreign();
            if other == 0x7ff0 {
                game.call(Hypercall::UpdateVaMapping, [va, entry, flags, 0, 0]);
            } else {
                let call = Hypercall::UpdateVaMappingOtherdomain;
                game.call(call, [va, entry, flags, other & 0xffff, 0]);
            }
        }
        _ => {
            // Into a page that nobody uses as a table yet, which is then pinned.
            let page = LOOSE + usize::from(picker.of(&[0_u8, 3, 6, 9, 12, 15]));
            let mfn = own[page].get();
            let at = linear(page) + index * 8;
            let bytes = entry.to_le_bytes();
            let written = game.world.write(game.slot, game.seat, at, &bytes);
            game.say(|| format!("write {entry:#x} to {at:#x}: {written}"));
            let unmap = [linear(page), mfn << 12 | 5, 0, 0, 0];
            game.call(Hypercall::UpdateVaMapping, unmap);
            let mut op = MmuextOp::new_zeroed();
            (op.cmd, op.arg1) = (level as u32, mfn);
            game.say(|| format!("{op:x?}"));
            let at = game.data(op.as_bytes());
            game.call(Hypercall::MmuextOp, [at, 1, 0, 0x7ff0, 0]);
        }
    }
}

/// Any call.
pub fn hypercall(game: &mut Game<'_>) {
    let number = match game.byte() {
        byte @ 0..250 => u64::from(byte) % 64,
        _ => game.word(),
    };
    let bytes: Vec<u8> = {
        let length = usize::from(game.byte()) % 96;
        (0..length).map(|_| game.byte()).collect()
    };
    let at = game.data(&bytes);
    let mut picker = game.picker();
    let args = [(); 5].map(|()| match picker.of(&[0_u8, 1, 2, 3, 4, 5, 6, 7]) {
        0 | 1 => at,
        2 | 3 => u64::from(picker.of(&[0_u8, 1, 2, 3, 4, 5, 6, 7])),
        4 => picker.address(),
        5 => picker.mfn(),
        6 => picker.entry(),
        _ => picker.word(),
    });
    game.call_number(number, args);
}

/// A guest that wants its tables writable, and has handlers.
pub fn begin_ptwr(game: &mut Game<'_>) {
    // Vector, flags, selector, padding, address; a zero entry ends the list.
    let mut traps = Vec::new();
    for vector in [1_u8, 6, 13, 14] {
        traps.extend([vector, 0, 0x33, 0xe0, 0, 0, 0, 0]);
        traps.extend((CODE + 0x800).to_le_bytes());
    }
    traps.extend([0; 16]);
    for slot in 0..3 {
        let turn = std::mem::replace(&mut game.slot, slot);
        let at = game.data(&traps);
        game.call(Hypercall::SetTrapTable, [at, 0, 0, 0, 0]);
        game.call(Hypercall::VmAssist, [0, 2, 0, 0, 0]);
        game.slot = turn;
    }
}

/// Instructions that compilers make for writes to entries, with `rdi` as their address.
const FORMS: [&[u8]; 12] = [
    &[0x48, 0x89, 0x37],
    &[0x48, 0x87, 0x37],
    &[0xf0, 0x80, 0x27, 0xfd],
    &[0xf0, 0x48, 0x0f, 0xb1, 0x37],
    &[0x48, 0x0f, 0xb1, 0x37],
    &[0xf0, 0x48, 0x0f, 0xba, 0x37, 0x01],
    &[0xf0, 0x48, 0x0f, 0xb3, 0x37],
    &[0x48, 0x0f, 0xab, 0x37],
    &[0x89, 0x37],
    &[0x48, 0xc7, 0x07, 0, 0, 0, 0],
    &[0x81, 0x0f, 0x20, 0, 0, 0],
    &[0x88, 0x07],
];

/// What a domain asks for when it wants memory, or gives it back.
fn reservation(game: &mut Game<'_>) -> MemoryReservation {
    let length = length(game);
    let mut picker = game.picker();
    let frames: Vec<u64> = (0..length)
        .map(|_| match picker.of(&[0_u8, 0, 0, 1, 1, 2]) {
            0 => picker.mfn(),
            1 => picker.index(),
            _ => picker.word() >> 12,
        })
        .collect();
    let count = match picker.count(length) {
        // A list may end where the memory does, so more than a few times it is left as long as it is.
        raw if raw > length as u64 && picker.of(&[0_u8, 1]) == 0 => length as u64,
        count => count,
    };
    let (order, flags) = (
        picker.of(&[0, 0, 0, 0, 0, 1, 2, 9, 18, 64, u32::MAX]),
        picker.of(&[0, 0, 0, 0, 20, 24, 32, 12, 64, 1 << 16, 1 << 17, u32::MAX]),
    );
    let domid = picker.foreign() as u16;
    let at = game.data(frames.as_bytes());
    let mut asked = MemoryReservation::new_zeroed();
    asked.extent_start = GuestHandle::new(GuestAddr::new(at));
    (asked.nr_extents, asked.extent_order, asked.mem_flags) = (count, order, flags);
    asked.domid = DomId::new(domid);
    asked
}

/// Any command of `memory_op`, the ones that move frames more often than others.
pub fn memory_op(game: &mut Game<'_>) {
    let mut command = match game.byte() {
        0..48 => MemoryCommand::DecreaseReservation as u64,
        48..80 => MemoryCommand::PopulatePhysmap as u64,
        80..96 => MemoryCommand::IncreaseReservation as u64,
        96..160 => MemoryCommand::Exchange as u64,
        byte @ 160..250 => u64::from(byte) % 31,
        _ => game.word(),
    };
    let argument = match command {
        0 | 1 | 6 => reservation(game).as_bytes().to_vec(),
        11 => {
            let mut exchange = MemoryExchange::new_zeroed();
            exchange.input = reservation(game);
            exchange.output = reservation(game);
            let mut picker = game.picker();
            if picker.of(&[0_u8, 0, 0, 1]) == 0 {
                // As many pages in as out.
                exchange.output.nr_extents = exchange.input.nr_extents;
                exchange.output.extent_order = exchange.input.extent_order;
            }
            exchange.nr_exchanged = picker.of(&[0, 0, 0, 0, 0, 1, 2, u64::MAX]);
            exchange.as_bytes().to_vec()
        }
        _ => {
            let list = game.data(&[0; 64]);
            let mut picker = game.picker();
            let words: Vec<u64> = (0..6)
                .map(|_| match picker.of(&[0_u8, 1, 2, 3, 4, 5]) {
                    0 => picker.foreign(),
                    1 => list,
                    2 => u64::from(picker.of(&[0_u8, 1, 2, 3, 4, 5, 6, 7])),
                    3 => picker.mfn(),
                    4 => picker.address(),
                    _ => picker.word(),
                })
                .collect();
            words.as_bytes().to_vec()
        }
    };
    let mut picker = game.picker();
    if picker.of(&[0_u8, 0, 0, 0, 0, 0, 0, 1]) == 1 {
        // As if it went on from there.
        command |= u64::from(picker.of(&[1_u8, 2, 3, 255])) << CONTINUATION_SHIFT;
    }
    game.say(|| format!("{argument:02x?}"));
    let at = game.data(&argument);
    game.call(Hypercall::MemoryOp, [command, at, 0, 0, 0]);
}

/// An instruction that faults on a write to a table.
pub fn ptwr(game: &mut Game<'_>) {
    let mut code = [0x90_u8; 16];
    let mut picker = game.picker();
    let form = picker.of(&[FORMS.as_slice(), &[&[]]].concat());
    code[..form.len()].copy_from_slice(form);
    let raw = if form.is_empty() {
        15
    } else {
        picker.of(&[0, 0, 0, 1, 2])
    };
    for at in 0..raw {
        // Change a byte, or with no form make all of them.
        let place = if form.is_empty() {
            at
        } else {
            usize::from(picker.of(&[0_u8, 1, 2, 3, 4, 5]))
        };
        code[place] = picker.word() as u8;
    }
    let address = match picker.of(&[0_u8, 0, 0, 0, 0, 1, 2, 3]) {
        0 => linear(L1) + picker.index() * 8,
        1 => linear(L1) + picker.index() * 8 + (picker.word() & 7),
        2 => linear(usize::from(picker.of(&[0_u8, 1, 2, 3, 4, 13, 16]))) + picker.index() * 8,
        _ => picker.address(),
    };
    let (rsi, rax, rcx) = (picker.entry(), picker.entry(), picker.word());
    let error_code = picker.of(&[7_u32, 7, 7, 7, 7, 3, 2, 6, 5, 0x17, 0xf]);
    let at = CODE + picker.of(&[0_u64, 0, 0, 0, 0, 0xff8, 0xff1]);
    let has_code = game.world.write(game.slot, game.seat, at, &code);
    game.say(|| {
        format!("{code:02x?} ({has_code}) at {at:#x}: {address:#x} rsi {rsi:#x} rax {rax:#x} error {error_code:#x}")
    });
    // The word that is there now, so that what compares can succeed.
    let mut now = [0; 8];
    let _ = game.world.read(game.slot, game.seat, address, &mut now);
    let seat = &mut game.world.players[game.slot].seats[game.seat];
    let regs = &mut seat.regs;
    (regs.rip, regs.rdi, regs.rsi, regs.rcx) = (at, address, rsi, rcx);
    regs.rax = if rcx & 1 == 0 {
        u64::from_le_bytes(now)
    } else {
        rax
    };
    regs.rsp = linear(ARGS + 5) + 0x800;
    (regs.rflags, regs.entry_vector, regs.error_code) = (0x202, 14, error_code);
    seat.is_pending = false;
    let cpu = &game.world.cpus[seat.cpu];
    cpu.set_fault_address(address);
    let outcome = match entry::handle_exception(&game.world.host, cpu, regs) {
        Next::Guest => Outcome::Returned(regs.rip as i64),
        Next::Schedule | Next::Shutdown(_) => Outcome::Gone,
    };
    game.settle(outcome);
}
