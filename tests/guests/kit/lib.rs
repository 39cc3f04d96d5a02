//! What every micro-guest is built on: the ELF notes, the entry, trap handlers that record and step over, printing,
//! verdicts.
//!
//! A guest is a PV kernel that runs in guest kernel mode (but for what [`user`] runs), on the page tables and (after the entry) its own stack,
//! with events masked. It has one vCPU, so the kit's state is plain atomics and [`single::Single`] cells: only a trap
//! interrupts it, and a trap handler runs to its end.
#![no_std]
// UNSAFETY: a kernel's entry, trap stubs and probing instructions are machine code.
#![allow(unsafe_code)]

pub mod console;
pub mod descriptors;
pub mod entry;
pub mod frames;
pub mod grants;
pub mod memory;
mod notes;
pub mod page_tables;
pub mod registers;
pub mod report;
mod single;
pub mod trap;
pub mod user;

pub use entry::{EntryState, entry_state, start_info};
pub use report::Report;
pub use trap::Trap;

#[doc(hidden)]
pub mod reexport {
    pub use crate::trap::{RESUME, STACK, START, take};
}

/// Makes a binary a guest: names it and its function, which gets a [`Report`] to put the results of its checks into.
#[macro_export]
macro_rules! guest {
    ($name:literal, $main:path) => {
        // SAFETY: the kit calls this symbol, with this type, and nothing else defines it.
        #[unsafe(no_mangle)]
        extern "Rust" fn guest_main() -> ! {
            $crate::report::run($name, $main)
        }
    };
}
