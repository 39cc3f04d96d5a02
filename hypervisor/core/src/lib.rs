//! The logic of the hypervisor.
#![no_std]
