//! The room `event/fifo` of the hypervisor, but for what needs domains.

#[path = "../../../../hypervisor/core/src/event/fifo/queues.rs"]
pub mod queues;
#[path = "../../../../hypervisor/core/src/event/fifo/word.rs"]
pub mod word;
