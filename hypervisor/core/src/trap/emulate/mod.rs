//! Emulation of privileged instructions for paravirtual kernels.

pub mod decode;
mod fetch;
