//! Domains and their vCPUs.

pub mod privileged_state;
