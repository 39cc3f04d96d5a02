//! Domains.
pub mod builder;
pub mod privileged_state;
