//! How a table loses its type for good: what its entries hold goes back, line by line from the last to the first, and tables
//! below that nobody uses any more follow. Nothing here is recursive: those tables come into the same queue.

use super::entry::Entry;
use super::hold::Hold;
use super::promote::is_ours;
use super::refs::settle;
use super::{Level, twin};
use crate::budget::Budget;
use crate::frame::type_word::TypeEvent;
use crate::frame::undo::ToUndo;
use crate::frame::{Memory, Unpaid};

/// Works on the queue; `true` when all that was in it is undone, `false` when the budget was spent before that, or another CPU has the rest in
/// its hands: it will not take long.
pub fn drain(memory: Memory<'_>, budget: &mut Budget) -> bool {
    while !memory.undo.is_empty() {
        if !budget.spend_table() {
            return false;
        }
        let Some(table) = memory.undo.pop(memory.frames) else {
            return false;
        };
        if !undo(memory, table, budget) {
            return false;
        }
    }
    true
}

/// Gives back what the entries of one table hold; `false` if the budget was spent before the end, and the table is in the queue
/// again.
fn undo(memory: Memory<'_>, mut table: ToUndo, budget: &mut Budget) -> bool {
    let ToUndo { mfn, level, .. } = table;
    if level == Level::L4 {
        twin::detach(memory, mfn);
    }
    let is_done = match level {
        // Nearly all entries: what depends on the level is known here when the hypervisor is built.
        Level::L1 => entries(memory, &mut table, Level::L1, budget),
        level => entries(memory, &mut table, level, budget),
    };
    if !is_done {
        memory.undo.put_back(memory.frames, table);
        return false;
    }
    let stamp = memory.machine.tlb_stamp();
    match memory.frames.type_event(mfn, TypeEvent::Undone(stamp)) {
        Ok(effect) => settle(memory, mfn, effect),
        Err(refused) => debug_assert!(false, "{mfn} was in our hands: {refused:?}"),
    }
    memory.undo.note_undone();
    true
}

/// Gives back what the entries hold that are left, line by line from the last to the first; `false` if the budget was spent
/// before the end.
#[inline(always)]
fn entries(memory: Memory<'_>, table: &mut ToUndo, level: Level, budget: &mut Budget) -> bool {
    let mem = memory.mem();
    let mut unpaid = Unpaid::new(memory.undo);
    while let Ok(Some(mut line)) = mem.last_nonzero_line(table.mfn, usize::from(table.progress)) {
        if !budget.spend_entry() {
            return false;
        }
        line.keep_below(usize::from(table.progress));
        let mut cost = 0_u32;
        for (index, &word) in line.words.iter().enumerate() {
            if word != 0 && !is_ours(level, line.first.wrapping_add(index) as u16) {
                cost = cost.wrapping_add(1);
                Hold::from_entry(&memory, level, Entry(word)).end();
            }
        }
        table.progress = line.first as u16;
        budget.pay(cost);
        unpaid.pay(budget);
    }
    true
}
