//! The calendar of a PC's real-time clock: what its registers mean, and which second that is.
#![forbid(unsafe_code)]

use core::fmt;

/// A second of the calendar: of UTC, if whoever has set the clock keeps to that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CalendarTime {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl CalendarTime {
    /// A second of the years from 1970 to 9999: year, month and day, the latter two counted from 1, then hour, minute and second.
    /// `None`: there is none of that name.
    pub const fn new(date: (u16, u8, u8), time: (u8, u8, u8)) -> Option<Self> {
        let (year, month, day) = date;
        let (hour, minute, second) = time;
        let is_date = year >= 1970 && year <= 9999 && day >= 1 && day <= days_of(year, month);
        if !is_date || hour >= 24 || minute >= 60 || second >= 60 {
            return None;
        }
        Some(Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
        })
    }

    /// Seconds since 1970 began, where each day has as many as any other.
    pub fn seconds_since_1970(self) -> u64 {
        // Leap years come at regular intervals, so those before 1970 are taken away again.
        let leap_years = leap_years_before(self.year).wrapping_sub(leap_years_before(1970));
        let months = (1..self.month).map(|month| days_of(self.year, month));
        let days = months.fold(0_u64, |days, month| days.wrapping_add(month.into()));
        let days = days
            .wrapping_add(u64::from(self.year.wrapping_sub(1970)).wrapping_mul(365))
            .wrapping_add(leap_years.into())
            .wrapping_add(u64::from(self.day).wrapping_sub(1));
        [(24, self.hour), (60, self.minute), (60, self.second)]
            .into_iter()
            .fold(days, |whole, (parts, more)| {
                u64::wrapping_add(whole.wrapping_mul(parts), more.into())
            })
    }
}

impl fmt::Display for CalendarTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            year, month, day, ..
        } = self;
        write!(f, "{year}-{month:02}-{day:02} ")?;
        write!(f, "{:02}:{:02}:{:02}", self.hour, self.minute, self.second)
    }
}

/// How many years before this one have a day more.
const fn leap_years_before(year: u16) -> u16 {
    let last = year.wrapping_sub(1);
    (last / 4).wrapping_sub(last / 100).wrapping_add(last / 400)
}

/// The days of a month; of one that is none, 0.
const fn days_of(year: u16, month: u8) -> u8 {
    let has_leap_day = leap_years_before(year.wrapping_add(1)) != leap_years_before(year);
    match month {
        2 if has_leap_day => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    }
}

/// What the registers of a real-time clock hold, all at one moment. SPEC: Motorola MC146818A, "Address map"; the century is not in
/// there, but where ACPI's tables say.
#[cfg(any(test, target_os = "none"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RtcRegisters {
    /// 0 to 59.
    pub second: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 23, or 1 to 12 with the highest bit for the afternoon.
    pub hour: u8,
    /// From 1 on.
    pub day: u8,
    /// From 1 on.
    pub month: u8,
    /// Without the century.
    pub year: u8,
    /// The century, if it is kept.
    pub century: Option<u8>,
    /// Register B: how all that is to be read.
    pub format: u8,
}

#[cfg(any(test, target_os = "none"))]
impl RtcRegisters {
    /// The time that they tell. `None`: none, as of a clock that nobody has set, or that is not there.
    ///
    /// A year without a century is one of those from 1970 to 2069: no PC is older.
    pub fn time(&self) -> Option<CalendarTime> {
        const HAS_24_HOURS: u8 = 1 << 1;
        const IS_BINARY: u8 = 1 << 2;
        const AFTERNOON: u8 = 1 << 7;
        let number = |value: u8| match self.format & IS_BINARY {
            0 => decimal(value),
            _ => Some(value),
        };
        let hour = match self.format & HAS_24_HOURS {
            0 => {
                // The hour that begins at noon, or at midnight, is the twelfth.
                let hour = number(self.hour & !AFTERNOON).filter(|hour| matches!(hour, 1..=12))?;
                let is_afternoon = self.hour & AFTERNOON != 0;
                (hour % 12).wrapping_add(if is_afternoon { 12 } else { 0 })
            }
            _ => number(self.hour)?,
        };
        let year = number(self.year).filter(|year| *year < 100)?;
        let century = self.century.and_then(number);
        let century = century.filter(|century| matches!(century, 19..=99));
        let century = century.unwrap_or(if year < 70 { 20 } else { 19 });
        let year = u16::from(century)
            .wrapping_mul(100)
            .wrapping_add(year.into());
        let date = (year, number(self.month)?, number(self.day)?);
        CalendarTime::new(date, (hour, number(self.minute)?, number(self.second)?))
    }
}

/// The number whose decimal digits are the two halves of a byte.
#[cfg(any(test, target_os = "none"))]
fn decimal(value: u8) -> Option<u8> {
    let (tens, ones) = (value >> 4, value & 0xf);
    (tens < 10 && ones < 10).then_some(tens.wrapping_mul(10).wrapping_add(ones))
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    fn seconds(date: (u16, u8, u8), time: (u8, u8, u8)) -> Option<u64> {
        CalendarTime::new(date, time).map(CalendarTime::seconds_since_1970)
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut expected = 0;
        for year in 1970..=9999 {
            for month in 1..=12 {
                for day in 1..=days_of(year, month) {
                    assert_eq!(seconds((year, month, day), (0, 0, 0)), Some(expected));
                    expected += 24 * 60 * 60;
                }
            }
        }
        // Known from elsewhere: the days of 8030 years, of which each 4th is longer, but three in four centuries.
        assert_eq!(expected, 253_402_300_800);
    }

    #[test]
    fn seconds_of_a_day() {
        assert_eq!(seconds((2001, 9, 9), (1, 46, 40)), Some(1_000_000_000));
        assert_eq!(seconds((2038, 1, 19), (3, 14, 8)), Some(1 << 31));
        let time = CalendarTime::new((2024, 2, 29), (7, 5, 9)).unwrap();
        assert_eq!(time.to_string(), "2024-02-29 07:05:09");
    }

    #[test]
    fn what_is_in_no_calendar() {
        for date in [
            (1969, 12, 31),
            (10_000, 1, 1),
            (2023, 2, 29),
            (2100, 2, 29),
            (2024, 0, 1),
            (2024, 13, 1),
            (2024, 4, 31),
            (2024, 1, 0),
        ] {
            assert_eq!(CalendarTime::new(date, (0, 0, 0)), None, "{date:?}");
        }
        for time in [(24, 0, 0), (0, 60, 0), (0, 0, 60)] {
            assert_eq!(CalendarTime::new((2024, 1, 1), time), None, "{time:?}");
        }
    }

    const BCD_24: u8 = 0b010;
    const BINARY_24: u8 = 0b110;
    const BCD_12: u8 = 0b000;
    const BINARY_12: u8 = 0b100;

    fn registers(format: u8) -> RtcRegisters {
        RtcRegisters {
            second: 0x59,
            minute: 0x30,
            hour: 0x21,
            day: 0x31,
            month: 0x12,
            year: 0x26,
            century: Some(0x20),
            format,
        }
    }

    fn told(registers: RtcRegisters) -> Option<std::string::String> {
        registers.time().map(|time| time.to_string())
    }

    #[test]
    fn digits_and_numbers() {
        let told = |registers| told(registers).unwrap();
        assert_eq!(told(registers(BCD_24)), "2026-12-31 21:30:59");
        let binary = RtcRegisters {
            second: 59,
            minute: 30,
            hour: 21,
            day: 31,
            month: 12,
            year: 26,
            century: Some(20),
            format: BINARY_24,
        };
        assert_eq!(told(binary), "2026-12-31 21:30:59");
    }

    #[test]
    fn twelve_hours_twice() {
        let hours = [
            (0x12, 12, 0),
            (0x01, 1, 1),
            (0x11, 11, 11),
            (0x92, 0x8c, 12),
            (0x81, 0x81, 13),
            (0x91, 0x8b, 23),
        ];
        for (digits, number, expected) in hours {
            for (format, hour) in [(BCD_12, digits), (BINARY_12, number)] {
                let registers = RtcRegisters {
                    second: 0,
                    minute: 0,
                    hour,
                    day: 1,
                    month: 1,
                    year: 7,
                    century: None,
                    format,
                };
                let time = registers.time().unwrap();
                assert_eq!(time.hour, expected, "{hour:#x}");
            }
        }
        for hour in [0, 0x80, 0x13, 0x1a] {
            let registers = RtcRegisters {
                hour,
                ..registers(BCD_12)
            };
            assert_eq!(registers.time(), None, "{hour:#x}");
        }
    }

    #[test]
    fn years_without_a_century_that_makes_sense() {
        for (year, century, expected) in [
            (0x69, None, 2069),
            (0x70, None, 1970),
            (0x99, None, 1999),
            (0x24, Some(0x21), 2124),
            (0x24, Some(0), 2024),
            (0x24, Some(0xff), 2024),
            (0x80, Some(0x18), 1980),
        ] {
            let registers = RtcRegisters {
                year,
                century,
                ..registers(BCD_24)
            };
            assert_eq!(registers.time().unwrap().year, expected);
        }
    }

    #[test]
    fn a_clock_that_is_not_there_tells_no_time() {
        for byte in [0, 0xff] {
            let registers = RtcRegisters {
                second: byte,
                minute: byte,
                hour: byte,
                day: byte,
                month: byte,
                year: byte,
                century: Some(byte),
                format: byte,
            };
            assert_eq!(registers.time(), None);
        }
    }
}
