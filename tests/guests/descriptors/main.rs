//! x
#![no_std]
#![no_main]
kit::guest!("descriptors", main);
fn main(_: &mut kit::Report) {}
