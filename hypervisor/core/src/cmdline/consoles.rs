//! Where the log goes and how much of it: `com1=`, `console=`, `loglvl=` and their like.

use super::Problem;
use super::value::{Value, integer, integer_u32};

/// Parity bit of a serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// No parity bit.
    None,
    /// Odd number of ones.
    Odd,
    /// Even number of ones.
    Even,
    /// Always one.
    Mark,
    /// Always zero.
    Space,
}

/// The settings of one serial port: `com1=`, `com2=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialPort {
    /// Bits per second; `None` keeps what the firmware or the boot loader has set, format included.
    pub baud: Option<u32>,
    /// The rate at divisor 1.
    pub base_baud: u32,
    /// Data bits, 5 to 8.
    pub data_bits: u8,
    /// Parity bit.
    pub parity: Parity,
    /// Stop bits, 1 or 2.
    pub stop_bits: u8,
    /// First I/O port of the UART's registers.
    pub io_base: u16,
    /// Its interrupt line; 0: it is polled.
    pub irq: u8,
}

impl SerialPort {
    /// The first serial port of a PC, at 115200 baud, 8n1.
    pub const COM1: Self = Self {
        baud: Some(115_200),
        base_baud: 115_200,
        data_bits: 8,
        parity: Parity::None,
        stop_bits: 1,
        io_base: 0x3f8,
        irq: 4,
    };
    /// The second serial port of a PC, at 115200 baud, 8n1.
    pub const COM2: Self = Self {
        io_base: 0x2f8,
        irq: 3,
        ..Self::COM1
    };

    /// Reads `baud[/base][,DPS[,io-base[,irq]]]`; a part left empty keeps what `self` has.
    pub(super) fn parse(mut self, value: Value<'_>) -> Result<Self, Problem> {
        for (position, part) in value.text()?.split(',').enumerate() {
            match (position, part) {
                (0..=3, "") => {}
                (0, part) => self.set_baud(part)?,
                (1, part) => self.set_format(part)?,
                (2, "pci" | "amt") | (3, "msi") => return Err(Problem::Unsupported),
                (2, part) => {
                    self.io_base = u16::try_from(integer(part)?).map_err(|_| Problem::BadValue)?
                }
                (3, part) => {
                    self.irq = u8::try_from(integer(part)?)
                        .ok()
                        .filter(|&irq| irq < 16)
                        .ok_or(Problem::BadValue)?;
                }
                _ => return Err(Problem::Unsupported),
            }
        }
        // Eight registers.
        if self.io_base == 0 || self.io_base > 0xfff8 {
            return Err(Problem::BadValue);
        }
        Ok(self)
    }

    /// The divisor that gives the baud rate; `None` if the line is to stay as it is.
    pub fn divisor(&self) -> Option<u16> {
        // A rate that the UART cannot have was refused by `set_baud`.
        u16::try_from(self.base_baud.checked_div(self.baud?)?).ok()
    }

    fn set_baud(&mut self, text: &str) -> Result<(), Problem> {
        let (baud, base) = match text.split_once('/') {
            Some((baud, base)) => (baud, Some(base)),
            None => (text, None),
        };
        if let Some(base) = base {
            self.base_baud = integer_u32(base)?;
        }
        self.baud = if baud == "auto" {
            None
        } else {
            Some(integer_u32(baud)?)
        };
        match self.baud {
            Some(baud) if baud == 0 || baud > self.base_baud || self.divisor().is_none() => {
                Err(Problem::BadValue)
            }
            None if self.base_baud == 0 => Err(Problem::BadValue),
            _ => Ok(()),
        }
    }

    fn set_format(&mut self, text: &str) -> Result<(), Problem> {
        let &[data_bits, parity, stop_bits] = text.as_bytes() else {
            return Err(Problem::BadValue);
        };
        self.data_bits = match data_bits {
            b'5' => 5,
            b'6' => 6,
            b'7' => 7,
            b'8' => 8,
            _ => return Err(Problem::BadValue),
        };
        self.parity = match parity {
            b'n' => Parity::None,
            b'o' => Parity::Odd,
            b'e' => Parity::Even,
            b'm' => Parity::Mark,
            b's' => Parity::Space,
            _ => return Err(Problem::BadValue),
        };
        self.stop_bits = match stop_bits {
            b'1' => 1,
            b'2' => 2,
            _ => return Err(Problem::BadValue),
        };
        Ok(())
    }
}

/// The consoles that `console=` names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consoles {
    /// The first serial port.
    pub com1: bool,
    /// The second serial port.
    pub com2: bool,
    /// The screen, until dom0 takes it over.
    pub screen: bool,
}

impl Consoles {
    pub(super) fn parse(value: Value<'_>) -> Result<Self, Problem> {
        let mut consoles = Self::default();
        for name in value.text()?.split(',') {
            match name {
                "com1" => consoles.com1 = true,
                "com2" => consoles.com2 = true,
                "vga" => consoles.screen = true,
                "none" => {}
                "com1H" | "com1L" | "com2H" | "com2L" | "pv" | "dbgp" | "ehci" | "xhci" => {
                    return Err(Problem::Unsupported);
                }
                _ => return Err(Problem::BadValue),
            }
        }
        Ok(consoles)
    }
}

/// How much a log line matters; the first is the most important.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something was lost or refused that should not have been.
    Error,
    /// Something is not as it should be.
    Warning,
    /// What an administrator wants to know.
    Info,
    /// What someone wants to know who looks for a mistake.
    Debug,
}

/// Which lines are written: `loglvl=`, `guest_loglvl=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevels {
    /// Lines up to this level are always written; `None`: no line.
    pub always: Option<Level>,
    /// Lines above it and up to this one are written as long as there are not too many.
    pub limited: Option<Level>,
}

impl LogLevels {
    /// For the hypervisor's own lines.
    pub(super) const OWN: Self = Self {
        always: Some(Level::Info),
        limited: Some(Level::Info),
    };
    /// For lines that a guest causes.
    pub(super) const GUEST: Self = Self {
        always: None,
        limited: Some(Level::Warning),
    };

    /// Reads `level` or `level/limited level`.
    pub(super) fn parse(value: Value<'_>) -> Result<Self, Problem> {
        let text = value.text()?;
        let (always, limited) = text.split_once('/').unwrap_or((text, text));
        let (always, limited) = (level(always)?, level(limited)?);
        Ok(Self {
            always,
            limited: always.max(limited),
        })
    }
}

fn level(text: &str) -> Result<Option<Level>, Problem> {
    match text {
        "none" => Ok(None),
        "error" => Ok(Some(Level::Error)),
        "warning" => Ok(Some(Level::Warning)),
        "info" => Ok(Some(Level::Info)),
        "debug" | "all" => Ok(Some(Level::Debug)),
        _ => Err(Problem::BadValue),
    }
}

/// `conswitch=`: who gets what is typed, and how that is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConSwitch {
    /// The character that, typed three times, moves the input between dom0 and Oxen; `None`: nothing does.
    pub code: Option<u8>,
    /// The input starts with Oxen and not with dom0.
    pub keep: bool,
}

impl ConSwitch {
    /// Ctrl-A, input to dom0.
    pub(super) const DEFAULT: Self = Self {
        code: Some(1),
        keep: false,
    };

    /// Reads a letter, or a character that is no letter and turns switching off, and `x` behind it.
    pub(super) fn parse(value: Value<'_>) -> Result<Self, Problem> {
        let (key, keep) = match *value.text()?.as_bytes() {
            [key] => (key, false),
            [key, b'x'] => (key, true),
            _ => return Err(Problem::BadValue),
        };
        let key = key.to_ascii_lowercase();
        if !key.is_ascii() {
            return Err(Problem::BadValue);
        }
        // Ctrl clears all but the low five bits of a letter.
        Ok(Self {
            code: key.is_ascii_lowercase().then_some(key & 0x1f),
            keep,
        })
    }
}

/// What `console_timestamps=` puts before each line of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timestamps {
    /// Nothing.
    #[default]
    None,
    /// Seconds and microseconds since the boot loader's jump.
    Boot,
    /// The time stamp counter.
    Raw,
}

impl Timestamps {
    pub(super) fn parse(value: Value<'_>) -> Result<Self, Problem> {
        match value {
            Value::Flag(false) => Ok(Self::None),
            Value::Text("boot") => Ok(Self::Boot),
            Value::Text("raw") => Ok(Self::Raw),
            // These, and the bare name, want the time of day.
            Value::Flag(true) | Value::Text("date" | "datems") => Err(Problem::Unsupported),
            Value::Text("none") => Ok(Self::None),
            Value::Text("") => Err(Problem::MissingValue),
            Value::Text(_) => Err(Problem::BadValue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_ports() {
        let parse = |text| SerialPort::COM1.parse(Value::Text(text));
        let com1 = SerialPort::COM1;
        for (text, wanted) in [
            ("115200", com1),
            ("115200,8n1", com1),
            (
                "9600,8n1,0x3f8,4",
                SerialPort {
                    baud: Some(9600),
                    ..com1
                },
            ),
            ("auto", SerialPort { baud: None, ..com1 }),
            (
                "38400/1843200,7e2,0x2e8,0",
                SerialPort {
                    baud: Some(38400),
                    base_baud: 1_843_200,
                    data_bits: 7,
                    parity: Parity::Even,
                    stop_bits: 2,
                    io_base: 0x2e8,
                    irq: 0,
                },
            ),
            (
                ",5o1",
                SerialPort {
                    data_bits: 5,
                    parity: Parity::Odd,
                    ..com1
                },
            ),
            (
                "9600,6m1,,5",
                SerialPort {
                    baud: Some(9600),
                    data_bits: 6,
                    parity: Parity::Mark,
                    irq: 5,
                    ..com1
                },
            ),
            (
                ",8s1",
                SerialPort {
                    parity: Parity::Space,
                    ..com1
                },
            ),
        ] {
            assert_eq!(parse(text), Ok(wanted), "{text:?}");
        }
        for wrong in [
            "fast",
            "0",
            "230400",
            "1",
            "9600/0",
            "auto/0",
            "9600,8",
            "9600,9n1",
            "9600,8x1",
            "9600,8n3",
            "9600,8n1,0",
            "9600,8n1,0xffff",
            "9600,8n1,0x10000",
            "9600,8n1,0x3f8,16",
            "9600,8n1,0x3f8,x",
            "4294967296",
        ] {
            assert_eq!(parse(wrong), Err(Problem::BadValue), "{wrong:?}");
        }
        for other in [
            "115200,8n1,pci",
            "115200,8n1,amt",
            "115200,8n1,0x3f8,msi",
            "115200,8n1,0x3f8,4,01:00.0",
        ] {
            assert_eq!(parse(other), Err(Problem::Unsupported), "{other:?}");
        }
        assert_eq!(com1.divisor(), Some(1));
        assert_eq!(parse("9600").unwrap().divisor(), Some(12));
        assert_eq!(parse("auto").unwrap().divisor(), None);
    }

    #[test]
    fn consoles() {
        let parse = |text| Consoles::parse(Value::Text(text));
        let some = |com1, com2, screen| Ok(Consoles { com1, com2, screen });
        assert_eq!(parse("com1"), some(true, false, false));
        assert_eq!(parse("com1,vga"), some(true, false, true));
        assert_eq!(parse("vga,com2"), some(false, true, true));
        assert_eq!(parse("none"), some(false, false, false));
        assert_eq!(parse("com3"), Err(Problem::BadValue));
        assert_eq!(parse("com1,"), Err(Problem::BadValue));
        assert_eq!(parse("com1H"), Err(Problem::Unsupported));
        assert_eq!(parse("xhci"), Err(Problem::Unsupported));
        assert_eq!(parse(""), Err(Problem::MissingValue));
    }

    #[test]
    fn levels() {
        let parse = |text| LogLevels::parse(Value::Text(text));
        let levels = |always, limited| Ok(LogLevels { always, limited });
        use Level::*;
        assert_eq!(parse("all"), levels(Some(Debug), Some(Debug)));
        assert_eq!(parse("debug"), levels(Some(Debug), Some(Debug)));
        assert_eq!(parse("info"), levels(Some(Info), Some(Info)));
        assert_eq!(parse("warning"), levels(Some(Warning), Some(Warning)));
        assert_eq!(parse("error"), levels(Some(Error), Some(Error)));
        assert_eq!(parse("none"), levels(None, None));
        assert_eq!(parse("none/warning"), levels(None, Some(Warning)));
        assert_eq!(parse("error/all"), levels(Some(Error), Some(Debug)));
        // A limit below the level that is always written limits nothing.
        assert_eq!(parse("info/none"), levels(Some(Info), Some(Info)));
        for wrong in ["loud", "/", "info/", "/info", "info/all/none"] {
            assert_eq!(parse(wrong), Err(Problem::BadValue), "{wrong:?}");
        }
    }

    #[test]
    fn switch_characters() {
        let parse = |text| ConSwitch::parse(Value::Text(text));
        assert_eq!(parse("a"), Ok(ConSwitch::DEFAULT));
        assert_eq!(parse("A"), Ok(ConSwitch::DEFAULT));
        assert_eq!(
            parse("ax"),
            Ok(ConSwitch {
                code: Some(1),
                keep: true
            })
        );
        assert_eq!(
            parse("z"),
            Ok(ConSwitch {
                code: Some(26),
                keep: false
            })
        );
        assert_eq!(
            parse("x"),
            Ok(ConSwitch {
                code: Some(24),
                keep: false
            })
        );
        assert_eq!(
            parse("-"),
            Ok(ConSwitch {
                code: None,
                keep: false
            })
        );
        for wrong in ["ay", "axx", "é", "éx"] {
            assert_eq!(parse(wrong), Err(Problem::BadValue), "{wrong:?}");
        }
    }

    #[test]
    fn timestamps() {
        let parse = |text| Timestamps::parse(Value::Text(text));
        assert_eq!(parse("none"), Ok(Timestamps::None));
        assert_eq!(parse("boot"), Ok(Timestamps::Boot));
        assert_eq!(parse("raw"), Ok(Timestamps::Raw));
        assert_eq!(parse("datems"), Err(Problem::Unsupported));
        assert_eq!(parse("noon"), Err(Problem::BadValue));
        assert_eq!(
            Timestamps::parse(Value::Flag(true)),
            Err(Problem::Unsupported)
        );
    }
}
