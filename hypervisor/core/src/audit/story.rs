//! All that is to be said about one frame.

use core::fmt;

use dom0_abi::addr::Mfn;

use super::uses::{self, Seen};
use crate::host::Host;

/// The story of a frame: its record, and all who use it. Written by `Display`, which looks at everything.
#[derive(Clone, Copy)]
pub struct Story<'a> {
    /// The machine.
    pub host: &'a Host,
    /// The frame.
    pub mfn: Mfn,
}

impl fmt::Display for Story<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, mfn } = *self;
        match host.frames.words(mfn) {
            Some((kind, state)) => write!(f, "frame {mfn}: {kind:?}, {state:?}")?,
            None => return write!(f, "frame {mfn}: there is no record of it"),
        }
        let mut written = Ok(());
        uses::visit(host, &mut |seen| {
            if let Seen::Use(used) = seen
                && used.mfn == mfn
                && written.is_ok()
            {
                written = write!(f, "; {} uses it: {:?}", used.by, used.needs);
            }
        });
        written
    }
}
