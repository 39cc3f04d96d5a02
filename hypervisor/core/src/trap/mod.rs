//! What happens when a guest leaves guest mode by an exception.

pub mod emulate;
pub mod exception;
