//! The auditor: derives from scratch what every record of every frame must say, and reports each difference with the story
//! of the frame.
//!
//! It looks at what there is: the entries of all tables, the roots and descriptor pages of all vCPUs, pins, shared pages, grants, the
//! lists of owners, free frames and the queues of tables to be undone. Each of them makes *uses* of frames; a frame's counts
//! must be the number of its uses, and its type what they need. It has its own reader of entries and shares no decision with
//! `page_type`, so that a mistake there meets another opinion here. Records are read, never changed.
//!
//! | file | what |
//! |---|---|
//! | [`entries`] | what an entry must be, and what it uses |
//! | [`uses`] | who uses what: the walk over everything |
//! | [`tally`] | the uses of each frame, counted, against its record |
//! | `grants` | what grants use, and whether granters and mappers agree |
//! | [`twins`] | what roots have as their twins |
//! | [`translations`] | what a CPU may still remember |
//! | [`story`] | all that is to be said about one frame |
//! | `key` | a debug key that starts it, in debug builds |
//!
//! INVARIANTS checked here: I1 to I8 of the whole machine, as far as they can be seen while nothing moves. What is seen is
//! right only while no CPU is at work for a domain.

pub mod entries;
mod grants;
#[cfg(debug_assertions)]
pub mod key;
pub mod story;
pub mod tally;
pub mod translations;
pub mod twins;
pub mod uses;

use core::fmt;

use dom0_abi::addr::Mfn;
use dom0_abi::ids::{DomId, GrantRef};
use oxen_arch::tlb::TlbStamp;

use crate::frame::{Kind, TypeState};
use crate::host::Host;
use crate::page_type::PageType;
pub use entries::Wrong;
pub use story::Story;
pub use tally::Tally;
pub use uses::{By, Use};

/// A difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The frame that it is about.
    pub mfn: Mfn,
    /// What it is.
    pub what: Problem,
}

/// What is not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It has so many general references, and so many are used (I4).
    General {
        /// What the record says.
        recorded: u32,
        /// What was found.
        found: u32,
    },
    /// Its type has so many references, and so many are used (I3).
    Types {
        /// What the record says.
        recorded: u32,
        /// What was found.
        found: u32,
    },
    /// Somebody uses it as something that it is not (I1, I2).
    OtherType {
        /// Who.
        by: By,
        /// As what.
        needed: PageType,
    },
    /// An entry of it must not be.
    Entry {
        /// Which.
        index: u16,
        /// What is there.
        entry: u64,
        /// What is wrong about it.
        wrong: Wrong,
    },
    /// Slot of a root that is the hypervisor's holds something else (I7).
    Slot {
        /// Which.
        index: u16,
        /// What is there.
        entry: u64,
    },
    /// It is being made ready, and nobody is at it.
    Changing,
    /// It belongs to a domain and is in so many lists of its frames instead of one, or is in a list of somebody else's.
    Listed(u16),
    /// It is in so many queues of tables to be undone, and should be in one or none.
    Queued(u16),
    /// It is no table and is to be undone.
    NoTable,
    /// It belongs to nobody and has a type, or is used.
    Unowned,
    /// It is in so many free blocks, against what its record says (I5).
    Free(u16),
    /// It has no references and is not free.
    Dead,
    /// It is free, and the machine-to-physical table has a name for it.
    Named,
    /// It is said to be ready for any domain, and holds something, or was used.
    NotClean,
    /// The domain's count of frames, which is another than that of its lists. The frame means nothing.
    Account {
        /// Whose.
        owner: DomId,
        /// What is counted.
        recorded: u64,
        /// What is there.
        found: u64,
    },
    /// It is a root in use, guests run on twins, and it has none.
    NoTwin,
    /// Its twin holds something else than it must.
    Twin {
        /// In which slot.
        index: u16,
        /// What is there.
        entry: u64,
    },
    /// It is the twin of a root that is none, or has another.
    StrayTwin(Mfn),
    /// The domain is charged for another number of twins than its roots have. The frame means nothing.
    Twins {
        /// Whose.
        owner: DomId,
        /// What is counted.
        recorded: u64,
        /// What is there.
        found: u64,
    },
    /// A grant is said to be used so often, and so often by who writes, and has so many maps. The frame means nothing.
    Pins {
        /// Whose grant.
        granter: DomId,
        /// Which.
        reference: GrantRef,
        /// What is recorded.
        recorded: (u8, u8),
        /// What was found.
        found: (u8, u8),
    },
    /// A handle is the map of a grant that is not used, or by another domain. The frame means nothing.
    StrayMap {
        /// Whose handle.
        mapper: DomId,
        /// Which.
        handle: u32,
    },
    /// So many handles of a domain were ever used, and so many are maps or free. The frame means nothing.
    Handles {
        /// Whose.
        owner: DomId,
        /// What is recorded.
        recorded: u32,
        /// What was found.
        found: u32,
    },
    /// A CPU remembers a way to it that must not be (I1, I5, I8).
    Remembered(translations::Danger),
}

/// There are fewer tallies than frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFew;

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {}: ", self.mfn)?;
        match self.what {
            Problem::General { recorded, found } => {
                write!(f, "{recorded} references recorded, {found} found")
            }
            Problem::Types { recorded, found } => {
                write!(
                    f,
                    "{recorded} references to its type recorded, {found} found"
                )
            }
            Problem::OtherType { by, needed } => write!(f, "{by} uses it as {needed:?}"),
            Problem::Entry {
                index,
                entry,
                wrong,
            } => write!(f, "entry {index} is {entry:#x}: {wrong:?}"),
            Problem::Slot { index, entry } => {
                write!(f, "slot {index}, the hypervisor's, is {entry:#x}")
            }
            Problem::Changing => f.write_str("being made ready by nobody"),
            Problem::Listed(times) => write!(f, "in {times} lists of frames of its owner"),
            Problem::Queued(times) => write!(f, "in {times} queues of tables to be undone"),
            Problem::NoTable => f.write_str("to be undone, but no table"),
            Problem::Unowned => f.write_str("used or typed, but nobody's"),
            Problem::Free(times) => write!(f, "in {times} free blocks"),
            Problem::Named => f.write_str("free, and has a pfn"),
            Problem::NotClean => f.write_str("said to be clean, but is not"),
            Problem::Dead => f.write_str("not free, but nobody refers to it"),
            Problem::Account {
                owner,
                recorded,
                found,
            } => write!(f, "domain {owner} counts {recorded} frames and has {found}"),
            Problem::NoTwin => f.write_str("a root without a twin"),
            Problem::Twin { index, entry } => {
                write!(f, "entry {index} of its twin is {entry:#x}")
            }
            Problem::StrayTwin(root) => write!(f, "the twin of {root}, which does not have it"),
            Problem::Twins {
                owner,
                recorded,
                found,
            } => write!(
                f,
                "domain {owner} is charged for {recorded} twins and has {found}"
            ),
            Problem::Pins {
                granter,
                reference,
                recorded,
                found,
            } => write!(
                f,
                "grant {reference} of domain {granter} has {recorded:?} uses recorded, {found:?} found"
            ),
            Problem::StrayMap { mapper, handle } => {
                write!(
                    f,
                    "handle {handle} of domain {mapper} maps what is not granted to it"
                )
            }
            Problem::Handles {
                owner,
                recorded,
                found,
            } => write!(f, "domain {owner} used {recorded} handles and has {found}"),
            Problem::Remembered(danger) => write!(f, "remembered by a CPU: {danger:?}"),
        }
    }
}

/// Reports free frames that are said to be zeroed and forgotten by all CPUs, and are not (I11).
pub fn clean(host: &Host, report: &mut dyn FnMut(Finding)) {
    host.frames.visit_free(|first, _| {
        let Some((Kind::FreeHead { clean, .. }, _)) = host.frames.words(first) else {
            return;
        };
        let end = first.get().saturating_add(clean.into());
        for mfn in (first.get()..end).map(Mfn::new) {
            let is_empty = host.mem().next_nonzero_word(mfn, 0) == Ok(None);
            let is_unused = matches!(
                host.frames.type_state(mfn),
                Some(TypeState::None { stamp, .. }) if stamp == TlbStamp::NEVER
            );
            if !(is_empty && is_unused) {
                let what = Problem::NotClean;
                report(Finding { mfn, what });
            }
        }
    });
}

/// Looks at everything and reports every difference. `tallies`: one for each frame ([`crate::frame::Frames::end`]); what they
/// hold at first does not matter.
pub fn audit(
    host: &Host,
    tallies: &mut [Tally],
    report: &mut dyn FnMut(Finding),
) -> Result<(), TooFew> {
    let end = usize::try_from(host.frames.end().get()).map_err(|_| TooFew)?;
    let tallies = tallies.get_mut(..end).ok_or(TooFew)?;
    tallies.fill(Tally::NONE);
    tally::count(host, tallies, report);
    tally::compare(host, tallies, report);
    twins::check(host, report);
    grants::check(host, report);
    Ok(())
}
