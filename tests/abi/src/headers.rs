//! The C side: what the headers say.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use dom0_abi::record::{Constant, Field, Group, Layout};

/// Where Debian's package `libxen-dev` puts the public headers.
pub const HEADER_DIR: &str = "/usr/include/xen";

/// The headers that the crate speaks of, in an order in which they compile.
const HEADERS: &[&str] = &[
    "xen.h",
    "version.h",
    "features.h",
    "sched.h",
    "callback.h",
    "nmi.h",
    "vcpu.h",
    "elfnote.h",
    "event_channel.h",
    "grant_table.h",
    "memory.h",
    "physdev.h",
    "platform.h",
    "domctl.h",
    "sysctl.h",
    "kexec.h",
    "hypfs.h",
    "argo.h",
    "pmu.h",
    "arch-x86/xen-mca.h",
    "io/ring.h",
    "io/console.h",
    "io/xs_wire.h",
    "io/xenbus.h",
    "io/blkif.h",
    "io/netif.h",
];

/// Says what to install if the compiler or the headers are missing.
pub fn require_tools() -> Result<(), String> {
    if !Path::new(HEADER_DIR).join("domctl.h").exists() {
        return Err(format!(
            "no headers in {HEADER_DIR}: install the package libxen-dev"
        ));
    }
    if Command::new("cc").arg("--version").output().is_err() {
        return Err("no C compiler `cc`: install the package gcc".into());
    }
    Ok(())
}

/// The C type that a record names.
fn c_type(c: &str) -> String {
    match c.split_once(": ") {
        Some((outer, member)) => format!("__typeof__((({outer} *)0)->{member})"),
        None => c.to_owned(),
    }
}

/// The C program that prints `key value` for each record.
fn program(layouts: &[&Layout], groups: &[&Group]) -> String {
    let mut text = String::from("#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n");
    // Two of the numbers are the hypervisor's own and show only to itself.
    text.push_str("#define __XEN__\n#include <xen/errno.h>\n#undef __XEN__\n");
    for header in HEADERS {
        writeln!(text, "#include <xen/{header}>").expect("writing to a string");
    }
    text.push_str(
        "#define SHOW(key, value) printf(\"%s %llu\\n\", key, (unsigned long long)(value))\n",
    );
    // The header has a macro that makes a structure for each kind of device; without entries it leaves the head.
    text.push_str("struct nothing {};\n");
    text.push_str("DEFINE_RING_TYPES(bare, struct nothing, struct nothing);\n");
    // No header has this one: it is the BIOS's, by the ACPI specification, "INT 15H, E820H".
    text.push_str(
        "struct e820_entry { uint64_t addr, size; uint32_t type; } __attribute__((packed));\n",
    );
    text.push_str("int main(void)\n{\n");
    for layout in layouts {
        let c = c_type(layout.c);
        writeln!(text, "    SHOW(\"size {}\", sizeof({c}));", layout.rust)
            .expect("writing to a string");
        for field in layout.fields.iter().filter(|field| !field.is_padding()) {
            let key = format!("{}.{}", layout.rust, field.rust);
            let (offset, size) = match field.c {
                "*" => ("0".to_owned(), format!("sizeof({c})")),
                member => (
                    format!("offsetof({c}, {member})"),
                    format!("sizeof((({c} *)0)->{member})"),
                ),
            };
            writeln!(text, "    SHOW(\"offset {key}\", {offset});").expect("writing to a string");
            writeln!(text, "    SHOW(\"bytes {key}\", {size});").expect("writing to a string");
        }
    }
    for constant in groups.iter().flat_map(|group| group.constants) {
        writeln!(text, "    SHOW(\"value {0}\", {0});", constant.c).expect("writing to a string");
    }
    text.push_str("    return 0;\n}\n");
    text
}

/// What the C compiler makes of the records, by key.
pub struct Headers(HashMap<String, u64>);

impl Headers {
    /// Compiles and runs the program in a directory of its own.
    pub fn read(layouts: &[&Layout], groups: &[&Group]) -> Result<Self, String> {
        require_tools()?;
        static RUN: AtomicU32 = AtomicU32::new(0);
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("abi-layout-{}-{run}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let answer = Self::compile_and_run(&dir, &program(layouts, groups));
        // What is left behind after a failure helps to understand it.
        if answer.is_ok() {
            let _ = std::fs::remove_dir_all(&dir);
        }
        answer
    }

    fn compile_and_run(dir: &Path, program: &str) -> Result<Self, String> {
        let source = dir.join("layout.c");
        let binary = dir.join("layout");
        std::fs::write(&source, program)
            .map_err(|error| format!("{}: {error}", source.display()))?;
        // With the tools' switch the headers choose the newest interface version by themselves.
        let compiled = Command::new("cc")
            .args(["-std=gnu11", "-w", "-D__XEN_TOOLS__", "-o"])
            .arg(&binary)
            .arg(&source)
            .output()
            .map_err(|error| format!("cc: {error}"))?;
        if !compiled.status.success() {
            let errors = String::from_utf8_lossy(&compiled.stderr);
            return Err(format!("{} does not compile:\n{errors}", source.display()));
        }
        let ran = Command::new(&binary)
            .output()
            .map_err(|error| format!("{}: {error}", binary.display()))?;
        let mut values = HashMap::new();
        for line in String::from_utf8_lossy(&ran.stdout).lines() {
            let (key, value) = line
                .rsplit_once(' ')
                .ok_or_else(|| format!("unexpected line: {line}"))?;
            let value = value.parse().map_err(|error| format!("{line}: {error}"))?;
            values.insert(key.to_owned(), value);
        }
        Ok(Self(values))
    }

    /// Differences between one structure and the headers, one line each.
    pub fn compare_layout(&self, layout: &Layout) -> Vec<String> {
        let mut wrong = Vec::new();
        self.compare(
            &mut wrong,
            &format!("size {}", layout.rust),
            layout.size as u64,
        );
        for field in layout.fields.iter().filter(|field| !field.is_padding()) {
            let key = format!("{}.{}", layout.rust, field.rust);
            self.compare(&mut wrong, &format!("offset {key}"), field.offset as u64);
            self.compare(&mut wrong, &format!("bytes {key}"), field.size as u64);
        }
        wrong
    }

    /// The difference between one constant and the headers.
    pub fn compare_constant(&self, constant: &Constant) -> Option<String> {
        let key = format!("value {}", constant.c);
        let Some(&c) = self.0.get(&key) else {
            return Some(format!("{key}: missing"));
        };
        // Whether a C macro is signed says nothing: `1 << 31` is. Both readings of the Rust value's bits are right.
        let mask = u64::MAX >> (64 - 8 * constant.width.min(8));
        let equal = c == constant.value
            || (c & mask == constant.value & mask && (c & !mask == 0 || c & !mask == !mask));
        (!equal).then(|| format!("{key}: {:#x} in Rust, {c:#x} in C", constant.value))
    }

    fn compare(&self, wrong: &mut Vec<String>, key: &str, rust: u64) {
        match self.0.get(key) {
            Some(&c) if c == rust => {}
            Some(c) => wrong.push(format!("{key}: {rust} in Rust, {c} in C")),
            None => wrong.push(format!("{key}: missing")),
        }
    }
}

/// Places between the fields of a structure that belong to none of them. There are none if padding is spelled out.
pub fn holes(layout: &Layout) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut end = 0;
    for Field {
        rust, offset, size, ..
    } in layout.fields
    {
        if *offset != end {
            wrong.push(format!(
                "{}.{rust} begins at {offset}, what is before it ends at {end}",
                layout.rust
            ));
        }
        end = offset + size;
    }
    if end != layout.size {
        wrong.push(format!(
            "{} has {} bytes behind its last field",
            layout.rust,
            layout.size - end
        ));
    }
    wrong
}
