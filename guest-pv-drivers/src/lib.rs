//! What a guest written in Rust needs to live on a hypervisor of the Xen PV ABI.
//!
//! Unsafe code is in [`hypercall`] alone; all else builds on its typed functions.
#![no_std]

pub mod hypercall;
