//! The functions of the image from which a panic can be reached, against the list of those that may.
//!
//! A guest reaches none of them: no pattern of the list can allow that, only a function named as an end of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::call_graph::CallGraph;
use crate::elf64::{Function, Image};
use crate::workspace::root;

const LIST: &str = "hypervisor/panics.toml";

/// Functions of the image, and why they are as they are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    /// Demangled names, in which `*` stands for any text.
    names: Vec<String>,
    /// Why.
    reason: String,
}

impl Group {
    fn names(&self, function: &Function) -> bool {
        self.names.iter().any(|name| matches(name, &function.name))
    }
}

/// The list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// The ways in from a guest. None of them may reach a panic.
    guest: Group,
    /// Where the host ends: who calls these does not count as reaching their panics.
    #[serde(default)]
    end: Vec<Group>,
    /// What may reach a panic, because no guest reaches it.
    #[serde(default)]
    boot: Vec<Group>,
    /// What a guest reaches and what calls addresses that it is given. Whoever takes the address of a function counts as
    /// calling it, so only addresses must come here that code takes which itself is reached.
    #[serde(default)]
    pointers: Vec<Group>,
}

/// The differences between the executable and the list.
pub fn check(linked: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(linked).with_context(|| format!("cannot read {}", linked.display()))?;
    let graph = CallGraph::build(&Image::parse(&bytes)?);
    ensure!(
        graph.functions.iter().any(is_panic),
        "{} has no panic handler among its symbols",
        linked.display()
    );
    let text =
        fs::read_to_string(root().join(LIST)).with_context(|| format!("cannot read {LIST}"))?;
    let list: List = toml::from_str(&text).with_context(|| format!("in {LIST}"))?;
    Ok(compare(&graph, &list))
}

fn compare(graph: &CallGraph, list: &List) -> Vec<String> {
    let is_guest = |function: &Function| list.guest.names(function);
    let named_in =
        |groups: &[Group], function: &Function| groups.iter().any(|group| group.names(function));
    let is_end = |function: &Function| named_in(&list.end, function);
    let name = |node: usize| {
        graph
            .functions
            .get(node)
            .map_or("?", |function| function.name.as_str())
    };
    let can_panic: BTreeMap<usize, usize> = graph.reaching(is_panic, is_end).into_iter().collect();
    let reached: BTreeMap<usize, Option<usize>> =
        graph.reached(is_guest, is_end).into_iter().collect();

    let mut problems = BTreeSet::new();
    for (&node, step) in &can_panic {
        let Some(function) = graph.functions.get(node) else {
            continue;
        };
        let way = std::iter::successors(Some(step), |step| can_panic.get(step));
        let way = way.map(|&step| name(step)).collect::<Vec<_>>().join(" > ");
        if is_guest(function) {
            // One of a chain of them is enough.
            if graph.functions.get(*step).is_some_and(is_guest) {
                continue;
            }
            problems.insert(format!(
                "a guest reaches a panic: {} > {way}",
                function.name
            ));
        } else if !reached.contains_key(&node)
            && !is_end(function)
            && !named_in(&list.boot, function)
        {
            problems.insert(format!(
                "{LIST} does not name {}, which can panic by way of {way}",
                function.name
            ));
        }
    }
    for &node in reached.keys().filter(|&&node| graph.calls_pointers(node)) {
        let Some(function) = graph.functions.get(node) else {
            continue;
        };
        if !is_end(function) && !named_in(&list.pointers, function) {
            let way = std::iter::successors(Some(node), |step| *reached.get(step)?);
            let way = way.map(name).collect::<Vec<_>>().join(" < ");
            problems.insert(format!(
                "{LIST} does not name {way}, which calls what an address says"
            ));
        }
    }

    for pattern in list.end.iter().flat_map(|group| &group.names) {
        if pattern.contains('*') {
            problems.insert(format!("{LIST} names {pattern:?}: an end is one function"));
        }
    }
    let mut tell_unused = |groups: &[Group], is_used: &dyn Fn(usize) -> bool, what: &str| {
        for group in groups {
            if group.reason.trim().is_empty() {
                problems.insert(format!("{LIST} gives no reason for {:?}", group.names));
            }
            for pattern in &group.names {
                let mut nodes = graph.functions.iter().enumerate();
                if !nodes.any(|(node, function)| is_used(node) && matches(pattern, &function.name))
                {
                    problems.insert(format!("{LIST} names {pattern:?}, which {what}"));
                }
            }
        }
    };
    tell_unused(
        std::slice::from_ref(&list.guest),
        &|_| true,
        "does not exist",
    );
    let panics = |node: usize| can_panic.contains_key(&node);
    tell_unused(&list.end, &panics, "cannot panic");
    tell_unused(&list.boot, &panics, "cannot panic");
    tell_unused(
        &list.pointers,
        &|node| graph.calls_pointers(node) && reached.contains_key(&node),
        "calls no addresses, or is not reached by a guest",
    );
    problems.into_iter().collect()
}

/// What a panic begins with: the functions of core that do nothing else, and the handler that they call.
fn is_panic(function: &Function) -> bool {
    const PREFIXES: [&str; 7] = [
        "core::panicking::",
        "core::option::unwrap_failed",
        "core::option::expect_failed",
        "core::result::unwrap_failed",
        "core::slice::index::slice_",
        "core::str::slice_error_fail",
        "core::cell::panic_already",
    ];
    PREFIXES
        .iter()
        .any(|prefix| function.name.starts_with(prefix))
        || function.name.ends_with("rust_begin_unwind")
}

/// Whether `name` has the form `pattern`.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(rest) = name.strip_prefix(before) else {
        return false;
    };
    rest.char_indices()
        .map(|(at, _)| at)
        .chain([rest.len()])
        .any(|at| rest.get(at..).is_some_and(|rest| matches(after, rest)))
}

#[cfg(test)]
mod tests {
    use super::super::call_graph::tests::{branch, graph_of};
    use super::*;

    fn list(groups: &[(&str, &str)]) -> List {
        let mut text = String::new();
        for (kind, name) in groups {
            text += &format!("[{kind}]\nnames = [\"{name}\"]\nreason = \"r\"\n");
        }
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn the_list_must_be_neither_too_short_nor_too_long() {
        // boot calls f, f calls a panic; enter calls g, which calls nothing.
        let functions = [
            ("core::panicking::panic", vec![]),
            ("f", branch(0xe8, 1, 0)),
            ("boot", branch(0xe8, 2, 1)),
            ("g", vec![0xc3]),
            ("enter", branch(0xe8, 4, 3)),
        ];
        let graph = graph_of(&functions, &[]);
        let problems = |groups: &[(&str, &str)]| {
            compare(&graph, &list(&[&[("guest", "enter")], groups].concat()))
        };

        assert_eq!(
            problems(&[("[boot]", "boot")]),
            [format!(
                "{LIST} does not name f, which can panic by way of core::panicking::panic"
            )]
        );
        assert_eq!(problems(&[("[boot]", "boot"), ("[boot]", "f")]), [""; 0]);
        assert_eq!(problems(&[("[end]", "f")]), [""; 0]);
        assert_eq!(
            problems(&[("[boot]", "*"), ("[boot]", "g")]),
            [format!("{LIST} names \"g\", which cannot panic")]
        );
        let mut blank = list(&[("guest", "gone"), ("[boot]", "*")]);
        blank.boot[0].reason = " ".into();
        assert_eq!(
            compare(&graph, &blank),
            [
                format!("{LIST} gives no reason for [\"*\"]"),
                format!("{LIST} names \"gone\", which does not exist"),
            ]
        );
    }

    #[test]
    fn what_a_guest_reaches_cannot_be_allowed() {
        // enter calls f, f calls a panic.
        let functions = [
            ("core::panicking::panic", vec![]),
            ("f", branch(0xe8, 1, 0)),
            ("enter", branch(0xe8, 2, 1)),
        ];
        let graph = graph_of(&functions, &[]);
        let problems = |kind| compare(&graph, &list(&[("guest", "enter"), (kind, "*")]));
        assert_eq!(
            problems("[boot]"),
            ["a guest reaches a panic: enter > f > core::panicking::panic"]
        );
        assert_eq!(
            compare(&graph, &list(&[("guest", "enter"), ("[end]", "f")])),
            [""; 0]
        );
        assert_eq!(
            problems("[end]"),
            [format!("{LIST} names \"*\": an end is one function")]
        );
    }

    #[test]
    fn what_a_guest_reaches_calls_no_unknown_addresses() {
        let call = vec![0xff, 0xd0];
        let functions = [
            ("core::panicking::panic", vec![]),
            ("f", call.clone()),
            ("enter", branch(0xe8, 2, 1)),
            ("other", call),
        ];
        let graph = graph_of(&functions, &[]);
        let problems = |groups: &[(&str, &str)]| {
            compare(&graph, &list(&[&[("guest", "enter")], groups].concat()))
        };
        assert_eq!(
            problems(&[]),
            [format!(
                "{LIST} does not name f < enter, which calls what an address says"
            )]
        );
        assert_eq!(problems(&[("[pointers]", "f")]), [""; 0]);
        assert_eq!(
            problems(&[("[pointers]", "*"), ("[pointers]", "other")]),
            [format!(
                "{LIST} names \"other\", which calls no addresses, or is not reached by a guest"
            )]
        );
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name) in [
            ("a::b", "a::b"),
            ("a::*", "a::b::c"),
            ("*::fmt", "<T as Debug>::fmt"),
            ("*", ""),
            ("a*b*c", "abbc"),
            ("<* as x::Y>::*", "<T<U> as x::Y>::z"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("a::b", "a::bc"),
            ("a::*", "b::a::c"),
            ("*::fmt", "x::fmt2"),
            ("", "a"),
            ("a*b*c", "acb"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
