//! Links the executable by `oxen.ld`, at its fixed address.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/oxen.ld");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    println!("cargo:rustc-link-arg-bins=--no-pie");
    println!("cargo:rustc-link-arg-bins=-znostart-stop-gc");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rerun-if-changed=src/entry.S");
    println!("cargo:rerun-if-changed=src/trampoline.S");
}
