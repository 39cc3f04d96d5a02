//! Every structure and constant of `dom0-abi` agrees with the headers, and none goes unseen.

use std::collections::BTreeSet;

use abi_layout::headers::{Headers, holes};
use abi_layout::source;
use dom0_abi::record::{Group, Layout};

fn layouts() -> Vec<&'static Layout> {
    dom0_abi::LAYOUTS.iter().copied().flatten().collect()
}

fn groups() -> Vec<&'static Group> {
    dom0_abi::CONSTANTS.iter().copied().flatten().collect()
}

#[test]
fn structures_and_constants_agree_with_the_headers() {
    let (layouts, groups) = (layouts(), groups());
    let headers = Headers::read(&layouts, &groups).unwrap_or_else(|error| panic!("{error}"));
    let mut wrong: Vec<String> = layouts
        .iter()
        .flat_map(|layout| headers.compare_layout(layout))
        .collect();
    wrong.extend(
        groups
            .iter()
            .flat_map(|group| group.constants)
            .filter_map(|constant| headers.compare_constant(constant)),
    );
    assert!(
        wrong.is_empty(),
        "{} differences:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn structures_have_no_holes() {
    let wrong: Vec<String> = layouts().into_iter().flat_map(holes).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_record_is_noticed() {
    use dom0_abi::record::{Constant, Field};
    let real = dom0_abi::xen::MmuUpdate::LAYOUT;
    let moved = Layout {
        fields: &[
            Field {
                rust: "val",
                c: "val",
                offset: 0,
                size: 8,
            },
            Field {
                rust: "ptr",
                c: "ptr",
                offset: 8,
                size: 4,
            },
        ],
        size: 24,
        ..real
    };
    let group = Group {
        rust: "Wrong",
        constants: &[
            Constant {
                c: "GNTST_bad_page",
                value: 9,
                width: 2,
            },
            Constant {
                c: "GNTST_bad_page",
                value: -9i64 as u64,
                width: 2,
            },
            Constant {
                c: "XEN_DOMCTL_PFINFO_LPINTAB",
                value: 1 << 31,
                width: 4,
            },
            Constant {
                c: "DOMID_SELF",
                value: 0xf0,
                width: 1,
            },
        ],
    };
    let headers = Headers::read(&[&moved], &[&group]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        headers.compare_layout(&moved),
        [
            "size dom0_abi::xen::MmuUpdate: 24 in Rust, 16 in C",
            "offset dom0_abi::xen::MmuUpdate.val: 0 in Rust, 8 in C",
            "offset dom0_abi::xen::MmuUpdate.ptr: 8 in Rust, 0 in C",
            "bytes dom0_abi::xen::MmuUpdate.ptr: 4 in Rust, 8 in C",
        ]
    );
    let noticed: Vec<bool> = group
        .constants
        .iter()
        .map(|c| headers.compare_constant(c).is_some())
        .collect();
    assert_eq!(noticed, [true, false, false, true]);
    assert_eq!(holes(&moved).len(), 1);
}

#[test]
fn all_that_is_defined_leaves_a_record() {
    let found = source::read(&source::crate_dir()).unwrap_or_else(|error| panic!("{error}"));
    assert!(
        found.strays.is_empty(),
        "a layout outside the defining macros:\n{}",
        found.strays.join("\n")
    );
    assert!(
        found.structs.len() > 20 && found.value_sets.len() > 20,
        "the source is not where it is looked for"
    );

    let listed: BTreeSet<&str> = layouts().iter().map(|layout| layout.rust).collect();
    let missing: Vec<&String> = found
        .structs
        .iter()
        .filter(|name| !listed.contains(name.as_str()))
        .collect();
    assert!(missing.is_empty(), "not in dom0_abi::LAYOUTS: {missing:?}");

    let listed: BTreeSet<&str> = groups().iter().map(|group| group.rust).collect();
    let missing: Vec<&String> = found
        .value_sets
        .iter()
        .chain(&found.modules)
        .filter(|name| !listed.contains(name.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "not in dom0_abi::CONSTANTS: {missing:?}"
    );
}

#[test]
fn a_stray_definition_is_noticed() {
    let mut found = source::Definitions::default();
    source::scan(
        "a.rs",
        "#[repr(C)]\npub struct Loose {\n    pub a: u8,\n}\nbitflags! {\n}\n",
        &mut found,
    );
    source::scan(
        "io/b.rs",
        "abi_structs! {\n    pub struct Kept = \"struct kept\", 4 {\n    }\n}\n",
        &mut found,
    );
    assert_eq!(found.strays, ["a.rs:1: #[repr(C)]", "a.rs:5: bitflags! {"]);
    assert_eq!(found.structs, ["dom0_abi::io::b::Kept"]);
}
