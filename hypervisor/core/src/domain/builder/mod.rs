//! Builds dom0.

pub mod bzimage;
pub mod error;
pub mod unpack;

#[cfg(test)]
mod packed_samples;
