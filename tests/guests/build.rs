//! Links each guest as a PV kernel: at a fixed address, by the linker script beside this file.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/guest.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    println!("cargo:rustc-link-arg-bins=--no-pie");
    // Segments need no more alignment than pages have: the linker's default would leave holes of megabytes.
    println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
}
