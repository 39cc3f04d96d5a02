//! A target under libFuzzer, whose options this program takes. `OXEN_FUZZ_TARGET` names the target.
#![no_main]

use std::sync::LazyLock;

use oxen_fuzz::Target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("OXEN_FUZZ_TARGET").expect("OXEN_FUZZ_TARGET is not set");
    oxen_fuzz::target(&name).expect("no such target")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(text) = oxen_fuzz::run(&TARGET, bytes, false) {
        panic!("{text}");
    }
});
