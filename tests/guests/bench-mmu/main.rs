//! x
#![no_std]
#![no_main]
kit::guest!("bench-mmu", main);
fn main(_: &mut kit::Report) {}
