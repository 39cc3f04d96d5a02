//! Event channels: ports, and the way of an event from who causes it to the vCPU that is told.
//!
//! | file | what |
//! |---|---|
//! | `word`, `cell` | what a port is, in one word that all CPUs see |
//! | `ports`, `numbers` | the ports of a domain |
//! | `two_level` | pending and masked ports in the memory that domain and hypervisor share |
//! | `fifo` | the same in the FIFO form, which a domain may choose: words in pages of its own, and queues |
//! | `send` | sending, unmasking, and which form it is |
//! | `bind`, `close` | new ports, and their end |
//! | `virq`, `pirq` | virtual interrupts, and those of devices |
//! | `pollers`, `polled` | vCPUs that wait for ports, and for which |
//! | `ops` | the hypercalls |
//!
//! INVARIANT (I22): an event arrives where its sender is connected while it arrives, or nowhere: see `word`.
//! INVARIANT: of two ports that are connected each says so of the other. Both are locked when that begins or ends.
//! INVARIANT (I23): a domain has no more ports than its limit says, and nothing here takes longer the more there are: ports are found by
//! their numbers, numbers by two looks, and all ports of a domain are closed in steps.
//! LOCK: rank `Ports`, see `ports`; rank `Queues`, see `fifo`. Ports themselves are locked by their words, two of them in the order of domain
//! and number; beside the hold of a sender and the queues of a vCPU there is nothing to wait for under such a lock.

pub mod bind;
pub mod cell;
pub mod close;
pub mod fifo;
mod numbers;
pub mod ops;
pub mod pirq;
pub mod polled;
pub mod pollers;
pub mod ports;
pub mod send;
pub mod two_level;
pub mod virq;
pub mod word;

#[cfg(test)]
mod tests;

pub use ports::Ports;
pub use virq::VirqPorts;
