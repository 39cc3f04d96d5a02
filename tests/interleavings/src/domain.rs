//! What stands for the room `domain`, and what of it is here.

#[path = "../../../hypervisor/core/src/domain/shutdown.rs"]
pub mod shutdown;
#[path = "../../../hypervisor/core/src/domain/signals.rs"]
pub mod signals;

/// What stands for the table of domains.
pub mod table {
    /// As many as models have.
    pub const MAX_DOMAINS: usize = 2;
}
