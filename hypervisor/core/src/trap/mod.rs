//! What happens between a guest's leaving guest mode and its coming back.
//!
//! [`entry`] is what the image calls. An entry is handled ([`dispatch`], [`crate::hypercall`]) and may leave one thing for the
//! guest, the [`Injection`]; [`return_path`] delivers that, NMIs and events by a [`bounce`], and
//! says whether there is a guest to return to.

pub mod bounce;
pub mod crash;
pub mod dispatch;
pub mod emulate;
pub mod entry;
pub mod exception;
pub mod flags;
pub mod instruction;
pub mod iret;
pub mod mode;
pub mod page_table_write;
pub mod return_path;

#[cfg(test)]
mod tests;

use crate::domain::vcpu::Callback;
use exception::Exception;

/// What is to be delivered to a guest before it executes anything. Not to be copied: it is delivered once (I26).
#[must_use = "what nobody delivers is lost"]
#[derive(Debug, PartialEq, Eq)]
pub enum Injection {
    /// An exception.
    Exception(Exception),
    /// `int` of a vector that the guest's table opens to it.
    SoftInterrupt(u8),
    /// `syscall` of user code, to the callback that is registered for it.
    Syscall(Callback),
}
