//! Rust sources as tokens: what is in comments and strings does not count.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace::root;

/// A source file of the project.
pub struct Source {
    /// Its path from the root of the project.
    pub path: PathBuf,
    /// Words and single signs outside comments and literals.
    pub tokens: Vec<Token>,
}

/// A word or a sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The word, or the sign.
    pub text: String,
    /// The line it is in, from 1.
    pub line: usize,
}

impl Source {
    /// Whether the words and signs of `pattern` (separated by spaces) follow each other anywhere.
    pub fn contains(&self, pattern: &str) -> bool {
        let wanted: Vec<&str> = pattern.split(' ').collect();
        self.tokens.windows(wanted.len()).any(|window| {
            window
                .iter()
                .map(|token| token.text.as_str())
                .eq(wanted.iter().copied())
        })
    }
}

/// Every Rust source file of the project, sorted by path.
pub fn all() -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    visit(&root(), &mut sources)?;
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

fn visit(dir: &Path, sources: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                visit(&path, sources)?;
            }
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let path = path.strip_prefix(root()).unwrap_or(&path).to_path_buf();
            sources.push(Source {
                path,
                tokens: tokens(&text),
            });
        }
    }
    Ok(())
}

/// Splits Rust text into words and signs.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = skipped(rest).unwrap_or_else(|| {
            let length = word_length(rest).max(first.len_utf8());
            if !first.is_whitespace() {
                tokens.push(Token {
                    text: rest.get(..length).unwrap_or_default().to_string(),
                    line,
                });
            }
            length
        });
        let (taken, left) = rest.split_at_checked(length).unwrap_or((rest, ""));
        line += taken.matches('\n').count();
        rest = left;
    }
    tokens
}

/// The length of the word at the start.
fn word_length(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len())
}

/// The length of the comment, string or character at the start, if there is one.
fn skipped(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment(text));
    }
    if text.starts_with('\'') {
        return character(text);
    }
    // A string, with its prefix: b, c, r, br, cr and the signs of a raw one.
    let prefix = text
        .find(|c| !matches!(c, 'b' | 'c' | 'r'))
        .filter(|&length| length <= 2)?;
    let after = text.get(prefix..)?;
    if text.get(..prefix)?.ends_with('r') {
        let signs = after.find(|c| c != '#').unwrap_or(0);
        let body = after.get(signs..)?.strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(signs));
        return Some(prefix + signs + 1 + body.find(&end).map_or(body.len(), |at| at + end.len()));
    }
    after
        .strip_prefix('"')
        .map(|body| prefix + 1 + closing(body, '"'))
}

/// The length of `body` up to and with `end`, past escapes.
fn closing(body: &str, end: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        if !escaped && c == end {
            return at + c.len_utf8();
        }
        escaped = !escaped && c == '\\';
    }
    body.len()
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a character literal; `None` for a lifetime.
fn character(text: &str) -> Option<usize> {
    let body = text.get(1..)?;
    let first = body.chars().next()?;
    if first == '\\' {
        return Some(1 + closing(body, '\''));
    }
    body.get(first.len_utf8()..)?
        .starts_with('\'')
        .then_some(1 + first.len_utf8() + 1)
}

#[cfg(test)]
mod tests {
    use super::tokens;

    fn words(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_do_not_count() {
        for text in [
            "// unsafe\n",
            "/* unsafe /* unsafe */ unsafe */",
            "\"unsafe \\\" unsafe\"",
            "r\"unsafe\\\"",
            "r#\"unsafe \" unsafe\"#",
            "b\"unsafe\"",
            "br##\"unsafe\"# unsafe\"##",
            "c\"unsafe\"",
            "'\\''",
            "'\"'",
            "b'\\\\'",
        ] {
            let words = words(text);
            assert!(words.is_empty() || words == ["b"], "{text}: {words:?}");
        }
    }

    #[test]
    fn code_counts_with_its_lines() {
        assert_eq!(
            words("fn f<'a>(x: &'a str) -> char { 'x' }"),
            [
                "fn", "f", "<", "'", "a", ">", "(", "x", ":", "&", "'", "a", "str", ")", "-", ">",
                "char", "{", "}"
            ]
        );
        let found = tokens("/*\n*/ \"\n\" unsafe\n{ r_unsafe }");
        assert_eq!((found[0].text.as_str(), found[0].line), ("unsafe", 3));
        assert_eq!(found[2].text, "r_unsafe");
        assert_eq!(words("bracket crb\"x\""), ["bracket", "crb"]);
    }
}
