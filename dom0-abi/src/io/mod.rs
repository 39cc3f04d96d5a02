//! Shared pages between frontends and backends of devices. ABI: `public/io/`.
//!
//! The hypervisor never looks into these; guests and their drivers do.

pub mod blkif;
pub mod console;
pub mod netif;
pub mod ring;
pub mod xenbus;
pub mod xs_wire;
