//! What the values of several options are made of: truth, numbers, sizes. ABI: the notations are those of Xen's
//! command line, so that an existing boot entry keeps its meaning.

use super::Problem;

/// What stood behind an option's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Nothing: `name` is `Flag(true)`, `no-name` is `Flag(false)`.
    Flag(bool),
    /// The text behind the `=` of `name=text`.
    Text(&'a str),
}

impl<'a> Value<'a> {
    /// The text; `MissingValue` for a bare name.
    pub(super) fn text(self) -> Result<&'a str, Problem> {
        match self {
            Self::Text(text) if !text.is_empty() => Ok(text),
            Self::Text(_) | Self::Flag(true) => Err(Problem::MissingValue),
            Self::Flag(false) => Err(Problem::BadValue),
        }
    }

    /// The truth value.
    pub(super) fn boolean(self) -> Result<bool, Problem> {
        match self {
            Self::Flag(on) => Ok(on),
            Self::Text("yes" | "on" | "true" | "enable" | "1") => Ok(true),
            Self::Text("no" | "off" | "false" | "disable" | "0") => Ok(false),
            Self::Text("") => Err(Problem::MissingValue),
            Self::Text(_) => Err(Problem::BadValue),
        }
    }
}

/// Reads an unsigned number: decimal, hexadecimal behind `0x`, octal behind a leading `0`.
pub(super) fn integer(text: &str) -> Result<u64, Problem> {
    let (digits, radix) =
        if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            (hex, 16)
        } else if text.len() > 1 && text.starts_with('0') {
            (text, 8)
        } else {
            (text, 10)
        };
    // `from_str_radix` would take a sign.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return Err(Problem::BadValue);
    }
    u64::from_str_radix(digits, radix).map_err(|_| Problem::BadValue)
}

/// Reads a size in bytes. Without one of the suffixes b, k, m, g, t (either case) it is in KiB.
pub(super) fn size(text: &str) -> Result<u64, Problem> {
    // Behind a hexadecimal number `b` is a digit.
    let is_hex = text.starts_with("0x") || text.starts_with("0X");
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 'b' | 'B')) if !is_hex => (text.get(..at), 1),
        Some((at, 'k' | 'K')) => (text.get(..at), 1 << 10),
        Some((at, 'm' | 'M')) => (text.get(..at), 1 << 20),
        Some((at, 'g' | 'G')) => (text.get(..at), 1 << 30),
        Some((at, 't' | 'T')) => (text.get(..at), 1 << 40),
        _ => (Some(text), 1 << 10),
    };
    let number = integer(digits.ok_or(Problem::BadValue)?)?;
    number.checked_mul(unit).ok_or(Problem::BadValue)
}

/// Reads a number that fits `u32`.
pub(super) fn integer_u32(text: &str) -> Result<u32, Problem> {
    u32::try_from(integer(text)?).map_err(|_| Problem::BadValue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("42", Some(42)),
            ("010", Some(8)),
            ("0x10", Some(16)),
            ("0XfF", Some(255)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("0x", None),
            ("08", None),
            ("+1", None),
            ("-1", None),
            ("0x+1", None),
            ("1 ", None),
            ("1é", None),
            ("a", None),
        ] {
            assert_eq!(integer(text).ok(), wanted, "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, wanted) in [
            ("1", Some(1024)),
            ("1b", Some(1)),
            ("1B", Some(1)),
            ("2k", Some(2048)),
            ("2K", Some(2048)),
            ("3m", Some(3 << 20)),
            ("3M", Some(3 << 20)),
            ("4g", Some(4 << 30)),
            ("4G", Some(4 << 30)),
            ("5t", Some(5 << 40)),
            ("5T", Some(5 << 40)),
            ("0x20m", Some(32 << 20)),
            ("0x1b", Some(27 << 10)),
            ("16777216t", None),
            ("18014398509481984", None),
            ("m", None),
            ("", None),
            ("1mm", None),
            ("1mb", None),
            ("1é", None),
            ("512p", None),
        ] {
            assert_eq!(size(text).ok(), wanted, "{text:?}");
        }
    }

    #[test]
    fn truth() {
        for (value, wanted) in [
            (Value::Flag(true), Some(true)),
            (Value::Flag(false), Some(false)),
            (Value::Text("yes"), Some(true)),
            (Value::Text("on"), Some(true)),
            (Value::Text("true"), Some(true)),
            (Value::Text("enable"), Some(true)),
            (Value::Text("1"), Some(true)),
            (Value::Text("no"), Some(false)),
            (Value::Text("off"), Some(false)),
            (Value::Text("false"), Some(false)),
            (Value::Text("disable"), Some(false)),
            (Value::Text("0"), Some(false)),
            (Value::Text("2"), None),
            (Value::Text("Yes"), None),
            (Value::Text(""), None),
        ] {
            assert_eq!(value.boolean().ok(), wanted, "{value:?}");
        }
    }
}
