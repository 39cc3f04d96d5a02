//! Builds dom0.

pub mod bzimage;
pub mod error;
pub mod kernel;
pub mod layout;
pub mod notes;
pub mod unpack;

#[cfg(test)]
mod packed_samples;
#[cfg(test)]
mod sample;
