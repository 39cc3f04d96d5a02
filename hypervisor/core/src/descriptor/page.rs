//! How a page of descriptors is checked.

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use oxen_arch::memory::{BadFrame, PhysMem};

use super::check::check;
use crate::budget::Budget;
use crate::page_type::{ENTRIES, Stop};

/// What a descriptor costs beside an entry of a page table, in units of the budget.
const DESCRIPTOR: u32 = 1;

/// Checks the descriptors of a frame from `next` on and puts them as they have to be, moving `next` along. Nobody else can
/// write to the frame.
///
/// `EINVAL`: the descriptor at `next` is not allowed. [`Stop::Again`]: the rest is to be done from `next` on.
pub fn check_page(
    mem: &PhysMem,
    mfn: Mfn,
    next: &mut u16,
    budget: &mut Budget,
) -> Result<(), Stop> {
    let refused = |BadFrame| Stop::Refused(Errno::EINVAL);
    while let Some((index, raw)) = mem
        .next_nonzero_word(mfn, usize::from(*next))
        .map_err(refused)?
    {
        *next = index as u16;
        if !budget.spend_entry() {
            return Err(Stop::Again);
        }
        budget.pay(DESCRIPTOR);
        let checked = check(raw).map_err(Errno::from)?;
        if checked != raw {
            mem.store_u64(mfn.word(index), checked).map_err(refused)?;
        }
        *next = next.saturating_add(1);
    }
    *next = ENTRIES;
    Ok(())
}
