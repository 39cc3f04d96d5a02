//! The names of the image's functions: a listing for people and the compact table that a panic prints from.
//!
//! The image may reserve a section `.oxen_symbols`. It starts with the magic `OXENSYMS` and its size; the build fills in
//! the rest. All numbers are little-endian `u32`:
//!
//! | offset | what |
//! |---|---|
//! | 0 | `OXENSYMS` |
//! | 8 | capacity: bytes in the whole table, from the magic on |
//! | 12 | `count`, 0 as compiled |
//! | 16 | `count` pairs, sorted: offset of a function from the image's base; offset of its name in the string area |
//! | 16 + 8 · `count` | string area: names in UTF-8, each ended by a zero byte; unused room after it is zero |
//!
//! The base is the lowest linked address of a segment in the upper half of the address space. A function reaches to the
//! next one: sizes are not kept. Names are demangled and shortened: no hash, no generic arguments, a type instead of
//! `<type as trait>`, at most the last 64 bytes. If the table is too small, the smallest functions are left out, whose
//! addresses then appear under the name of the function before.

use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;

use anyhow::{Context, Result, ensure};

use crate::elf64::{Function, Image};

/// The reserved section's name.
pub const SECTION: &str = ".oxen_symbols";
const MAGIC: &[u8; 8] = b"OXENSYMS";
const HEADER: usize = 16;
const PAIR: usize = 8;
const LONGEST_NAME: usize = 64;

/// A filled table.
pub struct Table {
    /// The whole section, exactly as large as its capacity.
    pub bytes: Vec<u8>,
    /// How many functions found no room.
    pub left_out: usize,
}

/// One line `address size name` per function.
pub fn listing(functions: &[Function]) -> String {
    let mut text = String::new();
    for function in functions {
        let _ = writeln!(
            text,
            "{:016x} {:6x} {}",
            function.address, function.size, function.name
        );
    }
    text
}

/// Where in the file the image reserves room for the table, if it does.
pub fn reserved_section(image: &Image) -> Result<Option<Range<usize>>> {
    let Some(section) = image
        .sections
        .iter()
        .find(|section| section.name == SECTION)
    else {
        return Ok(None);
    };
    ensure!(
        section.bytes.starts_with(MAGIC),
        "{SECTION} does not start with {}",
        String::from_utf8_lossy(MAGIC)
    );
    let capacity = section
        .bytes
        .get(8..12)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes);
    let capacity = usize::try_from(capacity.with_context(|| format!("{SECTION} is too short"))?)?;
    ensure!(
        (HEADER..=section.bytes.len()).contains(&capacity),
        "{SECTION} has {} bytes but says {capacity}",
        section.bytes.len()
    );
    Ok(Some(section.file.start..section.file.start + capacity))
}

/// Makes a table of `capacity` bytes for the functions, whose offsets count from `base`. Functions that a 32-bit offset
/// does not reach (code linked at physical addresses) are not in it.
pub fn table(functions: &[Function], base: u64, capacity: usize) -> Result<Table> {
    let mut wanted: Vec<(u32, u64, String)> = functions
        .iter()
        .filter_map(|function| {
            let offset = u32::try_from(function.address.checked_sub(base)?).ok()?;
            Some((offset, function.size, shorten(&function.name)))
        })
        .collect();
    let all = wanted.len();
    // Largest first, as many as there is room for; then in the order of addresses.
    wanted.sort_by_key(|&(offset, size, _)| (std::cmp::Reverse(size), offset));
    let mut room = capacity
        .checked_sub(HEADER)
        .context("the symbol table has no room for its header")?;
    let mut names: HashMap<&str, u32> = HashMap::new();
    let fitting = wanted
        .iter()
        .take_while(|(_, _, name)| {
            let cost = PAIR
                + if names.contains_key(name.as_str()) {
                    0
                } else {
                    name.len() + 1
                };
            let Some(rest) = room.checked_sub(cost) else {
                return false;
            };
            room = rest;
            names.insert(name, 0);
            true
        })
        .count();
    let kept = wanted.get_mut(..fitting).unwrap_or_default();
    kept.sort_by_key(|&(offset, ..)| offset);

    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&u32::try_from(capacity)?.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(kept.len())?.to_le_bytes());
    let mut strings: Vec<u8> = Vec::new();
    let mut places: HashMap<&str, u32> = HashMap::new();
    for (offset, _, name) in kept.iter() {
        let place = match places.get(name.as_str()) {
            Some(&place) => place,
            None => {
                let place = u32::try_from(strings.len())?;
                strings.extend_from_slice(name.as_bytes());
                strings.push(0);
                places.insert(name, place);
                place
            }
        };
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&place.to_le_bytes());
    }
    bytes.extend_from_slice(&strings);
    bytes.resize(capacity, 0);
    Ok(Table {
        bytes,
        left_out: all - fitting,
    })
}

/// A demangled name without generic arguments, with the type alone instead of `<type as trait>`, and no longer than a
/// line of a backtrace can bear.
pub fn shorten(name: &str) -> String {
    let short = without_generics(name);
    let mut start = short.len().saturating_sub(LONGEST_NAME);
    while !short.is_char_boundary(start) {
        start += 1;
    }
    short.get(start..).unwrap_or_default().to_string()
}

fn without_generics(name: &str) -> String {
    let Some(open) = name.find('<') else {
        return name.to_string();
    };
    let (before, from_open) = name.split_at(open);
    let Some(close) = matching_bracket(from_open) else {
        return name.to_string();
    };
    let inside = from_open.get(1..close).unwrap_or_default();
    let after = without_generics(from_open.get(close + 1..).unwrap_or_default());
    if before.is_empty() {
        // `<type as trait>::name` or `<type>::name`.
        let kind = inside.split(" as ").next().unwrap_or_default();
        return format!("{}{after}", without_generics(kind));
    }
    format!("{}{after}", before.strip_suffix("::").unwrap_or(before))
}

/// The index of the `>` that closes the `<` at the start.
fn matching_bracket(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut previous = ' ';
    for (index, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if previous != '-' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
        previous = c;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(address: u64, size: u64, name: &str) -> Function {
        Function {
            address,
            size,
            name: name.into(),
        }
    }

    /// What the panic handler does.
    fn look_up(table: &[u8], offset: u32) -> Option<String> {
        let word = |at: usize| u32::from_le_bytes(table[at..at + 4].try_into().unwrap());
        let count = word(12) as usize;
        let index = (0..count)
            .rev()
            .find(|&n| word(HEADER + PAIR * n) <= offset)?;
        let name = &table[HEADER + PAIR * count + word(HEADER + PAIR * index + 4) as usize..];
        Some(
            String::from_utf8(name[..name.iter().position(|&byte| byte == 0).unwrap()].to_vec())
                .unwrap(),
        )
    }

    #[test]
    fn every_address_finds_its_function() {
        let base = 0xffff_8080_0000_0000;
        let functions = [
            function(0x20_0000, 9, "low"),
            function(base + 0x10, 0x20, "a::b"),
            function(base + 0x40, 8, "c"),
            function(base + 0x50, 8, "a::b"),
        ];
        let table = table(&functions, base, 256).unwrap();
        assert_eq!((table.bytes.len(), table.left_out), (256, 0));
        assert_eq!(
            &table.bytes[..16],
            b"OXENSYMS\x00\x01\x00\x00\x03\x00\x00\x00"
        );
        for (offset, name) in [
            (0, None),
            (0x10, Some("a::b")),
            (0x3f, Some("a::b")),
            (0x40, Some("c")),
            (0x99, Some("a::b")),
        ] {
            assert_eq!(
                look_up(&table.bytes, offset).as_deref(),
                name,
                "{offset:#x}"
            );
        }
    }

    #[test]
    fn the_smallest_functions_go_when_room_is_short() {
        let functions: Vec<_> = (0..10)
            .map(|n| function(n * 100, 10 + (n * 7) % 10, &format!("f{n}")))
            .collect();
        // Room for the header and four pairs with names of three bytes each.
        let table = table(&functions, 0, 16 + 4 * 11 + 10).unwrap();
        assert_eq!(table.left_out, 6);
        assert_eq!(look_up(&table.bytes, 700).as_deref(), Some("f7"));
        let largest = [7, 4, 1, 8]; // sizes 19, 18, 17, 16
        for n in largest {
            assert_eq!(look_up(&table.bytes, n * 100), Some(format!("f{n}")));
        }
        assert!(super::table(&functions, 0, 15).is_err());
        assert_eq!(super::table(&functions, 0, 16).unwrap().left_out, 10);
    }

    #[test]
    fn names_are_shortened() {
        for (long, short) in [
            ("core::fmt::write", "core::fmt::write"),
            (
                "oxen_core::frame::acquire::<oxen_core::L1>",
                "oxen_core::frame::acquire",
            ),
            (
                "<oxen_core::Mfn as core::fmt::Display>::fmt",
                "oxen_core::Mfn::fmt",
            ),
            (
                "<alloc::vec::Vec<fn(u8) -> u8> as core::ops::Drop>::drop",
                "alloc::vec::Vec::drop",
            ),
            ("core::num::<impl u64>::pow", "core::num::pow"),
            ("a::<b>::c::<d>::{closure#0}", "a::c::{closure#0}"),
            ("operator<", "operator<"),
        ] {
            assert_eq!(shorten(long), short);
        }
        assert_eq!(
            shorten(&format!("{}::end", "x".repeat(100))).len(),
            LONGEST_NAME
        );
    }
}
