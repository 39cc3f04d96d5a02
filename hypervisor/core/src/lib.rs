//! The logic of the hypervisor.
