//! Entries that a guest writes to as if they were memory. The page is mapped read-only, so each write traps; here the entry
//! is found and changed as by `mmu_update`.
//!
//! Kernels rely on this all the time (`vm_assist`, writable page tables): unmapping, `fork`, `mremap` change L1 entries by
//! atomic instructions. Entries of other levels are never written to like this.

use dom0_abi::addr::{GuestAddr, Mfn};
use dom0_abi::ids::DomId;

use super::update::{Replaced, replace, replace_at_once};
use super::walk::{l1_entry, l1_entry_at_once, l1_table};
use crate::frame::Memory;
use crate::frame::type_word::TypeState;
use crate::hypercall::CallCtx;
use crate::page_type::entry::Entry;
use crate::page_type::hold::Reach;
use crate::page_type::{Level, PageType, Stop, TypeRef, UsedL1};

/// An L1 entry that is mapped at an address that the guest wrote to.
pub struct TrappedEntry<'m> {
    table: TypeRef<'m>,
    index: u16,
}

/// A frame as an L1 table, if it is one in use of the domain's.
fn table<'m>(memory: Memory<'m>, mfn: Mfn, owner: DomId) -> Result<Option<TypeRef<'m>>, Stop> {
    match memory.frames.type_state(mfn) {
        Some(TypeState::InUse {
            ty: PageType::Table(Level::L1),
            ..
        }) => l1_table(memory, mfn, owner),
        _ => Ok(None),
    }
}

/// Which entry of a table contains the byte at an address.
const fn index_of(address: GuestAddr) -> u16 {
    ((address.get() & 0xfff) >> 3) as u16
}

impl<'m> TrappedEntry<'m> {
    /// Replaces the entry at `address` by what `wanted` makes of it, if nothing is out of the ordinary, and returns what it was.
    /// `None`, and nothing has changed: else [`Self::find`] and [`Self::exchange`] say why.
    #[inline(always)]
    pub fn replace_at_once(
        ctx: &CallCtx<'m>,
        address: GuestAddr,
        wanted: impl FnOnce(Entry) -> Option<Entry>,
    ) -> Option<Entry> {
        let (memory, owner) = (&ctx.memory(), ctx.domain.id);
        let mapping = l1_entry_at_once(memory, ctx.state.kernel_root()?, address)?;
        if !mapping.is_present() || mapping.is_writable() {
            return None;
        }
        let table = UsedL1::at_once(memory, mapping.mfn(), owner)?;
        let reach = Reach::own(ctx.host, ctx.domain);
        replace_at_once(&table, &reach, index_of(address), wanted)
    }

    /// Finds the L1 entry that contains the byte at `address`, if the guest has mapped a table of its own there that is in use
    /// and may read it there. [`Stop::Again`]: the table is just changing; the guest may try again.
    pub fn find(ctx: &CallCtx<'m>, address: GuestAddr) -> Result<Option<Self>, Stop> {
        let (memory, owner) = (ctx.memory(), ctx.domain.id);
        let Some(root) = ctx.state.kernel_root() else {
            return Ok(None);
        };
        let mapping = l1_entry(memory, root, owner, address)?;
        if !mapping.is_present() || mapping.is_writable() {
            return Ok(None);
        }
        let index = index_of(address);
        let table = table(memory, mapping.mfn(), owner)?;
        Ok(table.map(|table| Self { table, index }))
    }

    /// The entry as it is now.
    pub fn load(&self, ctx: &CallCtx<'_>) -> Entry {
        Entry::load(ctx.host.mem(), self.table.mfn().word(self.index.into()))
    }

    /// Replaces the entry if it still is `old`, with all checks of `mmu_update`, whose errors it has.
    pub fn exchange(
        &self,
        ctx: &mut CallCtx<'_>,
        old: Entry,
        new: Entry,
    ) -> Result<Replaced, Stop> {
        let reach = Reach::own(ctx.host, ctx.domain);
        let memory = ctx.memory();
        let wanted = |now: Entry| (now == old).then_some(new);
        let budget = &mut ctx.budget;
        replace(
            memory,
            &reach,
            self.table.held(),
            self.index,
            budget,
            wanted,
        )
    }
}
