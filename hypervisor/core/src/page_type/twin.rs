//! Twins of roots, on which guests run where user mode could read by speculation what is the supervisor's (Meltdown, XSA-254).
//!
//! Of a guest's slots a twin holds what its root holds; of ours what `Machine::twin_entry` says. `arch` switches between the
//! two at entry and exit. A root has its twin from the moment that it is in use until its undoing begins, so whoever has a
//! reference to its type can load both, and nothing is copied when roots are switched.
//!
//! Where the twin is, is noted in the root itself, in a slot of ours that leads nowhere ([`SPARE_SLOT`]): records of frames have
//! no room for it, and a table beside them would cost every frame of the machine what few need. A guest may read the note, as
//! it may read all of its page tables, but not write it. The entry is not present, and names the frame by the complement of
//! its number: far above all memory for a CPU that follows such entries (L1TF), and nothing for a slot that is empty. It is a
//! hint and no more: a frame is a twin because its record says so and names the root.
//!
//! INVARIANT: what a twin holds in a guest's slot is what its root holds there, except in the middle of [`exchange`].

use dom0_abi::addr::{Mfn, PAGE_SHIFT};
use dom0_abi::arch::{HYPERVISOR_FIRST_SLOT, HYPERVISOR_LAST_SLOT};
use dom0_abi::errno::Errno;
use oxen_arch::Machine;
use oxen_arch::memory::BadFrame;
use oxen_arch::paging_facts::SPARE_SLOT;

use super::entry::bits;
use crate::frame::{Frames, Memory, Work};

mod exchange;

pub(crate) use exchange::exchange;

/// The entry that notes a twin.
const fn note(twin: Mfn) -> u64 {
    !(twin.get() << PAGE_SHIFT) & bits::FRAME
}

/// What [`note`] made an entry of. Any entry notes some frame, if only one that does not exist.
const fn noted(entry: u64) -> Mfn {
    Mfn::new((!entry & bits::FRAME) >> PAGE_SHIFT)
}

/// The twin of a root. The caller has a reference to the root, or it is in its hands; `None`: it has none.
pub(crate) fn of(machine: &Machine, frames: &Frames, root: Mfn) -> Option<Mfn> {
    let entry = machine.mem().load_u64(root.word(SPARE_SLOT)).ok()?;
    let twin = noted(entry);
    frames.is_twin(twin, root).then_some(twin)
}

/// Gives a root its twin, if guests run on twins. The root is in our hands, and ready but for this. `ENOMEM`: there is no
/// memory for it, or the domain has its share of twins; the root has none then.
#[inline(never)]
pub(super) fn attach(memory: Memory<'_>, root: Mfn) -> Result<(), Errno> {
    if !memory.machine.uses_twins() {
        return Ok(());
    }
    memory.undo.note(Work::Twinned);
    memory.new_twin(root, |twin| {
        fill(memory, root, twin).map_err(|BadFrame| Errno::EINVAL)
    })
}

fn fill(memory: Memory<'_>, root: Mfn, twin: Mfn) -> Result<(), BadFrame> {
    let mem = memory.mem();
    mem.copy_frame(root, twin)?;
    for index in HYPERVISOR_FIRST_SLOT..=HYPERVISOR_LAST_SLOT {
        let entry = memory.machine.twin_entry(index).unwrap_or(0);
        mem.store_u64(twin.word(index), entry)?;
    }
    mem.store_u64(root.word(SPARE_SLOT), note(twin))
}

/// Takes the twin of a root away that is being undone; nothing happens if it never had one.
#[inline(never)]
pub(super) fn detach(memory: Memory<'_>, root: Mfn) {
    if memory.machine.uses_twins()
        && let Some(twin) = of(memory.machine, memory.frames, root)
    {
        // A root is RAM.
        let _: Result<(), BadFrame> = memory.mem().store_u64(root.word(SPARE_SLOT), 0);
        memory.free_twin(twin, root);
        memory.undo.note(Work::Parted);
    }
}

#[cfg(test)]
mod tests;
