//! The functions of the image from which a panic can be reached, against the list of those that may.

use std::collections::BTreeMap;
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
    let mut problems: Vec<String> = list
        .iter()
        .filter(|allowed| allowed.reason.trim().is_empty())
        .map(|allowed| format!("{LIST}: {:?} has no reason", allowed.name))
        .collect();
    let is_barrier = |function: &Function| {
        list.iter()
            .any(|allowed| allowed.never_happens && matches(&allowed.name, &function.name))
    };
    let next: BTreeMap<usize, usize> = graph.reaching(is_panic, is_barrier).into_iter().collect();
    let name = |node: usize| {
        graph
            .functions
            .get(node)
            .map_or("?", |function| function.name.as_str())
    };
    let mut used = vec![false; list.len()];
    let mut missing = BTreeMap::new();
    for &node in next.keys() {
        let mut is_allowed = false;
        for (allowed, used) in list
            .iter()
            .zip(&mut used)
            .filter(|(allowed, _)| matches(&allowed.name, name(node)))
        {
            (is_allowed, *used) = (true, true);
            let _ = allowed;
        }
        if !is_allowed {
            let way = std::iter::successors(next.get(&node), |step| next.get(step))
                .map(|&step| name(step));
            missing
                .entry(name(node))
                .or_insert_with(|| way.collect::<Vec<_>>().join(" > "));
        }
    }
    problems.extend(missing.into_iter().map(|(name, way)| {
        format!("{LIST} does not name {name}, which can panic by way of {way}")
    }));
    problems.extend(
        list.iter()
            .zip(&used)
            .filter(|(_, used)| !**used)
            .map(|(allowed, _)| format!("{LIST} names {:?}, which cannot panic", allowed.name)),
    );
    problems
}

/// What a panic ends in: core's panic functions, and the handler that they call.
fn is_panic(function: &Function) -> bool {
    function.name.starts_with("core::panicking::") || function.name.ends_with("rust_begin_unwind")
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
    use super::matches;

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
