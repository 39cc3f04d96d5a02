//! Compares `dom0-abi` with the C headers.
//!
//! A C program is written from the records that the crate keeps of itself, compiled against the installed headers and
//! run; it prints what the C compiler makes of each structure, field and constant. A second look, at the source of the
//! crate, makes sure that nothing can be defined without leaving a record.
#![forbid(unsafe_code)]

pub mod headers;
pub mod source;
