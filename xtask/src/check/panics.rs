//! The functions of the image from which a panic can be reached, against the list of those that may.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::call_graph::CallGraph;
use crate::elf64::{Function, Image};
use crate::workspace::root;

const LIST: &str = "hypervisor/panics.toml";

/// An entry of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Allowed {
    /// A demangled name, in which `*` stands for any text.
    name: String,
    /// Why that may panic, or why it never does.
    reason: String,
    /// Its panics cannot happen, so its callers do not reach them.
    #[serde(default)]
    never_happens: bool,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    function: Vec<Allowed>,
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
    Ok(compare(&graph, &list.function))
}

fn compare(graph: &CallGraph, list: &[Allowed]) -> Vec<String> {
    let never_happens = |function: &Function| {
        list.iter()
            .any(|allowed| allowed.never_happens && matches(&allowed.name, &function.name))
    };
    let next: BTreeMap<usize, usize> = graph
        .reaching(is_panic, never_happens)
        .into_iter()
        .collect();
    let name = |node: usize| {
        graph
            .functions
            .get(node)
            .map_or("?", |function| function.name.as_str())
    };

    let mut problems = BTreeSet::new();
    for &node in next.keys().filter(|&&node| {
        !list
            .iter()
            .any(|allowed| matches(&allowed.name, name(node)))
    }) {
        let way = std::iter::successors(next.get(&node), |step| next.get(step));
        let way = way.map(|&step| name(step)).collect::<Vec<_>>().join(" > ");
        problems.insert(format!(
            "{LIST} does not name {}, which can panic by way of {way}",
            name(node)
        ));
    }
    for allowed in list {
        if allowed.reason.trim().is_empty() {
            problems.insert(format!("{LIST} gives no reason for {:?}", allowed.name));
        }
        if !next.keys().any(|&node| matches(&allowed.name, name(node))) {
            problems.insert(format!(
                "{LIST} names {:?}, which cannot panic",
                allowed.name
            ));
        }
    }
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

    #[test]
    fn the_list_must_be_neither_too_short_nor_too_long() {
        // main calls f, f calls a panic; g calls nothing.
        let functions = [
            ("core::panicking::panic", vec![]),
            ("f", branch(0xe8, 1, 0)),
            ("main", branch(0xe8, 2, 1)),
            ("g", vec![0xc3]),
        ];
        let graph = graph_of(&functions, &[]);
        let problems =
            |list: &str| compare(&graph, &toml::from_str::<List>(list).unwrap().function);
        let entry = |name: &str, rest: &str| {
            format!("[[function]]\nname = \"{name}\"\nreason = \"r\"\n{rest}\n")
        };

        let missing = problems(&entry("main", ""));
        assert_eq!(
            missing,
            [format!(
                "{LIST} does not name f, which can panic by way of core::panicking::panic"
            )]
        );
        assert_eq!(problems(&(entry("main", "") + &entry("f", ""))), [""; 0]);
        assert_eq!(problems(&entry("f", "never_happens = true")), [""; 0]);
        assert_eq!(
            problems(&(entry("*", "") + &entry("g", ""))),
            [format!("{LIST} names \"g\", which cannot panic")]
        );
        assert_eq!(
            problems("[[function]]\nname = \"*\"\nreason = \" \"\n"),
            [format!("{LIST} gives no reason for \"*\"")]
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
