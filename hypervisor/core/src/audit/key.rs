//! The auditor as a debug key of a debug build, in memory that it borrows.
//!
//! It is for a machine of which nobody else works on memory just now: what another CPU changes meanwhile looks wrong.

use core::fmt::Write;

use arrayvec::{ArrayString, ArrayVec};
use dom0_abi::addr::PAGE_SIZE;
use oxen_arch::Cpu;
use oxen_arch::memory::FrameBuf;
use zerocopy::FromBytes;

use super::{Finding, Story, Tally, audit};
use crate::frame::{Placement, UndoQueue};
use crate::host::Host;

/// So many findings are told with their stories.
const TOLD: usize = 8;

/// Looks at everything and says what is wrong. Takes as long as it takes.
pub fn pressed(host: &Host, cpu: &Cpu) {
    let mut findings = ArrayVec::<Finding, TOLD>::new();
    let mut count = 0_u64;
    let done = with_tallies(host, cpu, |tallies| {
        let audited = audit(host, tallies, &mut |finding| {
            count = count.saturating_add(1);
            // The first are enough; the number is told.
            let _ = findings.try_push(finding);
        });
        audited.is_ok()
    });
    if done != Some(true) {
        host.out(cpu)
            .answer(format_args!("too little memory for the audit"));
        return;
    }
    host.out(cpu)
        .answer(format_args!("audit of memory: {count} findings"));
    for finding in findings {
        // Made before the console is locked: it locks whatever it looks at.
        let mut story = ArrayString::<1024>::new();
        let mfn = finding.mfn;
        // What does not fit is left out.
        let _ = write!(story, "{}", Story { host, mfn });
        host.out(cpu).answer(format_args!("{finding}: {story}"));
    }
}

/// Calls `look` with a tally for each frame; `None`: there is no memory for them.
fn with_tallies<R>(host: &Host, cpu: &Cpu, look: impl FnOnce(&mut [Tally]) -> R) -> Option<R> {
    let end = usize::try_from(host.frames.end().get()).ok()?;
    let bytes = end.checked_mul(size_of::<Tally>())?;
    let undo = UndoQueue::new();
    let memory = host.memory(cpu, &undo);
    let nr_frames = u64::try_from(bytes.div_ceil(PAGE_SIZE)).ok()?;
    let frames = memory
        .alloc_contiguous(nr_frames, Placement::Anywhere)
        .ok()?;
    let mut buffer = FrameBuf::new(host.mem(), frames.range())?;
    let tallies = <[Tally]>::mut_from_bytes(buffer.get_mut(..bytes)?).ok()?;
    Some(look(tallies))
}
