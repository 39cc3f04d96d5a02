//! All hardware and all unsafe code of the hypervisor, behind one surface with two backends: `metal`, the machine, and
//! `sim`, which lets the rest of the hypervisor run as an ordinary process.
//!
//! The surface is described in `docs/architecture.md`. The backend is chosen by the target and by nothing else.
#![cfg_attr(target_os = "none", no_std)]

pub mod scratch;
