//! Every command a person types to build, run and test Oxen.

fn main() {}
