//! How much of the machine dom0 gets: `dom0_mem=` and `dom0_max_vcpus=`.

use dom0_abi::addr::PAGE_SHIFT;

use super::value::{Value, integer, integer_u32, size};
use super::{MIB, Problem};

/// An amount of memory: bytes, plus a fraction of what is available, or all but that much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// The fixed part.
    pub bytes: u64,
    /// Hundredths of the available memory on top of it, below 100.
    pub percent: u8,
    /// The amount is what remains when this much is taken away.
    pub is_remainder: bool,
}

impl Amount {
    /// A fixed number of bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self {
            bytes,
            percent: 0,
            is_remainder: false,
        }
    }

    /// Reads `[-]size`, `[-]size+N%` or `[-]N%`.
    fn parse(text: &str) -> Result<Self, Problem> {
        let (is_remainder, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (bytes, percent) = match text.strip_suffix('%') {
            None => (size(text)?, 0),
            Some(text) => {
                let (bytes, hundredths) = match text.split_once('+') {
                    Some((bytes, hundredths)) => (size(bytes)?, hundredths),
                    None => (0, text),
                };
                let percent = u8::try_from(integer(hundredths)?).map_err(|_| Problem::BadValue)?;
                if percent >= 100 {
                    return Err(Problem::BadValue);
                }
                (bytes, percent)
            }
        };
        Ok(Self {
            bytes,
            percent,
            is_remainder,
        })
    }

    /// As a number of pages, when `available` pages are there.
    fn pages(self, available: u64) -> u64 {
        let fraction = u128::from(available).saturating_mul(u128::from(self.percent)) / 100;
        // Less than `available`, because the percentage is below 100.
        let fraction = u64::try_from(fraction).unwrap_or(available);
        let pages = (self.bytes >> PAGE_SHIFT).saturating_add(fraction);
        if self.is_remainder {
            available.saturating_sub(pages)
        } else {
            pages
        }
    }

    fn is_zero(self) -> bool {
        self.bytes == 0 && self.percent == 0 && !self.is_remainder
    }
}

/// `dom0_mem=`. What is not given, or given as 0, is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dom0Memory {
    /// What dom0 starts with.
    pub size: Option<Amount>,
    /// The least it starts with.
    pub min: Option<Amount>,
    /// The most it starts with, and may grow to by ballooning.
    pub max: Option<Amount>,
}

/// Pages that dom0 is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dom0Pages {
    /// Pages at start.
    pub nr_pages: u64,
    /// Pages that it may have at most, later on; `None`: no limit.
    pub max_pages: Option<u64>,
}

/// Why [`Dom0Memory::pages`] has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dom0MemoryError {
    /// The hypervisor's own needs leave nothing.
    NothingLeft,
    /// The amounts given leave dom0 without a page.
    ZeroPages,
}

impl core::fmt::Display for Dom0MemoryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NothingLeft => "the hypervisor's own needs leave no memory",
            Self::ZeroPages => "the amount leaves dom0 without a page",
        })
    }
}

impl Dom0Memory {
    /// The largest reserve that is kept back when `dom0_mem` names no size.
    pub const MAX_DEFAULT_RESERVE: u64 = 128 * MIB;

    /// Reads a list of `size`, `min:size` and `max:size`.
    pub(super) fn parse(value: Value<'_>) -> Result<Self, Problem> {
        let mut memory = Self::default();
        for part in value.text()?.split(',') {
            let (field, text) = if let Some(text) = part.strip_prefix("min:") {
                (&mut memory.min, text)
            } else if let Some(text) = part.strip_prefix("max:") {
                (&mut memory.max, text)
            } else {
                (&mut memory.size, part)
            };
            *field = Some(Amount::parse(text)?).filter(|amount| !amount.is_zero());
        }
        Ok(memory)
    }

    /// Computes what dom0 gets, when `free` pages are free and the hypervisor needs `reserve` of them for dom0's own
    /// records.
    ///
    /// With no size given it is all but 1/16 of the available pages, or all but 128 MiB, whichever leaves more. The
    /// result is at least the minimum, but never above the maximum, nor above what is available.
    pub fn pages(&self, free: u64, reserve: u64) -> Result<Dom0Pages, Dom0MemoryError> {
        let available = free
            .checked_sub(reserve)
            .filter(|&n| n > 0)
            .ok_or(Dom0MemoryError::NothingLeft)?;
        let wanted = match self.size {
            Some(size) => size.pages(available),
            None => {
                let kept = (available / 16).min(Self::MAX_DEFAULT_RESERVE >> PAGE_SHIFT);
                available.saturating_sub(kept)
            }
        };
        let min = self.min.map_or(0, |amount| amount.pages(available));
        let max_pages = self.max.map(|amount| amount.pages(available));
        let nr_pages = wanted
            .max(min)
            .min(max_pages.unwrap_or(u64::MAX))
            .min(available);
        if nr_pages == 0 {
            return Err(Dom0MemoryError::ZeroPages);
        }
        Ok(Dom0Pages {
            nr_pages,
            max_pages,
        })
    }
}

/// `dom0_max_vcpus=`: as many vCPUs as there are CPUs, but within these bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dom0Vcpus {
    /// At least so many, even if the machine has fewer CPUs.
    pub min: u32,
    /// At most so many.
    pub max: u32,
}

impl Dom0Vcpus {
    pub(super) const DEFAULT: Self = Self {
        min: 1,
        max: u32::MAX,
    };

    /// Reads `N`, `MIN-MAX`, `MIN-` or `-MAX`.
    pub(super) fn parse(value: Value<'_>) -> Result<Self, Problem> {
        let text = value.text()?;
        let bound = |text: &str, default| {
            if text.is_empty() {
                Ok(default)
            } else {
                integer_u32(text)
            }
        };
        let vcpus = match text.split_once('-') {
            None => {
                let exact = integer_u32(text)?;
                Self {
                    min: exact,
                    max: exact,
                }
            }
            Some(("", "")) => return Err(Problem::BadValue),
            Some((min, max)) => Self {
                min: bound(min, Self::DEFAULT.min)?,
                max: bound(max, Self::DEFAULT.max)?,
            },
        };
        if vcpus.min == 0 || vcpus.min > vcpus.max {
            return Err(Problem::BadValue);
        }
        Ok(vcpus)
    }

    /// How many vCPUs dom0 gets on a machine that runs `nr_cpus` CPUs.
    pub fn count(self, nr_cpus: u32) -> u32 {
        nr_cpus.max(self.min).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(text: &str) -> Result<Dom0Memory, Problem> {
        Dom0Memory::parse(Value::Text(text))
    }

    const fn remainder(bytes: u64) -> Amount {
        Amount {
            bytes,
            percent: 0,
            is_remainder: true,
        }
    }

    #[test]
    fn spellings_of_dom0_mem() {
        let amount = |bytes| Some(Amount::bytes(bytes));
        for (text, wanted) in [
            (
                "512m",
                Ok(Dom0Memory {
                    size: amount(512 * MIB),
                    ..Default::default()
                }),
            ),
            (
                "512M",
                Ok(Dom0Memory {
                    size: amount(512 * MIB),
                    ..Default::default()
                }),
            ),
            (
                "524288",
                Ok(Dom0Memory {
                    size: amount(512 * MIB),
                    ..Default::default()
                }),
            ),
            (
                "0x200m",
                Ok(Dom0Memory {
                    size: amount(512 * MIB),
                    ..Default::default()
                }),
            ),
            (
                "max:1g",
                Ok(Dom0Memory {
                    max: amount(1024 * MIB),
                    ..Default::default()
                }),
            ),
            (
                "min:512m,max:1g",
                Ok(Dom0Memory {
                    size: None,
                    min: amount(512 * MIB),
                    max: amount(1024 * MIB),
                }),
            ),
            (
                "1g,max:2g,min:256m",
                Ok(Dom0Memory {
                    size: amount(1 << 30),
                    min: amount(256 * MIB),
                    max: amount(2 << 30),
                }),
            ),
            (
                "512m,1g",
                Ok(Dom0Memory {
                    size: amount(1 << 30),
                    ..Default::default()
                }),
            ),
            (
                "-128m",
                Ok(Dom0Memory {
                    size: Some(remainder(128 * MIB)),
                    ..Default::default()
                }),
            ),
            (
                "1g+25%",
                Ok(Dom0Memory {
                    size: Some(Amount {
                        bytes: 1 << 30,
                        percent: 25,
                        is_remainder: false,
                    }),
                    ..Default::default()
                }),
            ),
            (
                "max:-10%",
                Ok(Dom0Memory {
                    max: Some(Amount {
                        bytes: 0,
                        percent: 10,
                        is_remainder: true,
                    }),
                    ..Default::default()
                }),
            ),
            ("0", Ok(Dom0Memory::default())),
            ("512q", Err(Problem::BadValue)),
            ("half", Err(Problem::BadValue)),
            ("100%", Err(Problem::BadValue)),
            ("1g+%", Err(Problem::BadValue)),
            ("512m,", Err(Problem::BadValue)),
            ("min:", Err(Problem::BadValue)),
            ("mid:512m", Err(Problem::BadValue)),
            ("--1m", Err(Problem::BadValue)),
            ("", Err(Problem::MissingValue)),
        ] {
            assert_eq!(memory(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn pages_of_dom0() {
        const FREE: u64 = (4 << 30) >> PAGE_SHIFT;
        const PAGES_PER_MIB: u64 = MIB >> PAGE_SHIFT;
        for (text, free, reserve, nr_pages, max_pages) in [
            ("512m", FREE, 0, 512 * PAGES_PER_MIB, None),
            ("0", FREE, 0, FREE - 128 * PAGES_PER_MIB, None),
            // 1/16 of 1 GiB is 64 MiB, less than 128 MiB.
            ("0", FREE / 4, 0, (1024 - 64) * PAGES_PER_MIB, None),
            ("-256m", FREE, 0, FREE - 256 * PAGES_PER_MIB, None),
            ("-256m", FREE, 16, FREE - 16 - 256 * PAGES_PER_MIB, None),
            ("25%", FREE, 0, FREE / 4, None),
            ("1g+25%", FREE, 0, FREE / 2, None),
            (
                "max:1g",
                FREE,
                0,
                1024 * PAGES_PER_MIB,
                Some(1024 * PAGES_PER_MIB),
            ),
            (
                "512m,max:1g",
                FREE,
                0,
                512 * PAGES_PER_MIB,
                Some(1024 * PAGES_PER_MIB),
            ),
            ("128m,min:256m", FREE, 0, 256 * PAGES_PER_MIB, None),
            // The maximum overrides the minimum.
            (
                "min:1g,max:512m",
                FREE,
                0,
                512 * PAGES_PER_MIB,
                Some(512 * PAGES_PER_MIB),
            ),
            // As much as there is.
            ("8g", FREE, 100, FREE - 100, None),
            ("min:16t", FREE, 0, FREE, None),
        ] {
            assert_eq!(
                memory(text).unwrap().pages(free, reserve),
                Ok(Dom0Pages {
                    nr_pages,
                    max_pages
                }),
                "{text:?} of {free} pages"
            );
        }
    }

    #[test]
    fn nothing_for_dom0() {
        let whole = Dom0Memory::default();
        assert_eq!(whole.pages(10, 10), Err(Dom0MemoryError::NothingLeft));
        assert_eq!(whole.pages(10, 11), Err(Dom0MemoryError::NothingLeft));
        assert_eq!(
            memory("-8g").unwrap().pages(1000, 0),
            Err(Dom0MemoryError::ZeroPages)
        );
        assert_eq!(
            memory("max:1b").unwrap().pages(1000, 0),
            Err(Dom0MemoryError::ZeroPages)
        );
        assert_eq!(whole.pages(u64::MAX, 0).unwrap().max_pages, None);
    }

    #[test]
    fn vcpus_of_dom0() {
        let parse = |text| Dom0Vcpus::parse(Value::Text(text));
        assert_eq!(parse("4"), Ok(Dom0Vcpus { min: 4, max: 4 }));
        assert_eq!(parse("4-8"), Ok(Dom0Vcpus { min: 4, max: 8 }));
        assert_eq!(
            parse("4-"),
            Ok(Dom0Vcpus {
                min: 4,
                max: u32::MAX
            })
        );
        assert_eq!(parse("-8"), Ok(Dom0Vcpus { min: 1, max: 8 }));
        for wrong in ["0", "-", "8-4", "0-4", "4-8-9", "x", "4294967296"] {
            assert_eq!(parse(wrong), Err(Problem::BadValue), "{wrong:?}");
        }
        for (cpus, vcpus) in [(2, 4), (4, 4), (6, 6), (8, 8), (10, 8)] {
            assert_eq!(Dom0Vcpus { min: 4, max: 8 }.count(cpus), vcpus);
        }
        assert_eq!(Dom0Vcpus::DEFAULT.count(3), 3);
    }
}
