//! Domains.

pub mod builder;
