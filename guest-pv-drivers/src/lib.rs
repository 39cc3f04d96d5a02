//! Frontends and hypercalls for guests written in Rust.
