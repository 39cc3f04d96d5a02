//! The hypervisor's command line: text to typed settings.
//!
//! Words are separated by blanks; each is `name`, `no-name` or `name=value`. Nothing on the line can stop the machine
//! from booting: a word that is not known is skipped, a value that is wrong leaves its option at the default, and the
//! caller gets the list of both to print. Of an option that is given twice the last counts. What stands behind ` -- `
//! is dom0's. ABI: names, values and separator are Xen's, so that a boot entry written for it works unchanged.
//!
//! [`options::OPTIONS`] is the one table from which the parser and the documentation come.

mod consoles;
mod dom0;
pub mod options;
mod value;

use arrayvec::ArrayVec;
use core::fmt;

pub use consoles::{ConSwitch, Consoles, Level, LogLevels, Parity, SerialPort, Timestamps};
pub use dom0::{Amount, Dom0Memory, Dom0MemoryError, Dom0Pages, Dom0Vcpus};
pub use value::Value;

use crate::grant::Limits;

const MIB: u64 = 1 << 20;

/// How many wrong words are kept; more are counted only.
pub const MAX_WARNINGS: usize = 16;

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// `dom0_mem=`.
    pub dom0_mem: Dom0Memory,
    /// `dom0_max_vcpus=`.
    pub dom0_max_vcpus: Dom0Vcpus,
    /// `dom0_vcpus_pin`: each vCPU of dom0 stays on the CPU of its number.
    pub dom0_vcpus_pin: bool,
    /// `com1=`, if it was given.
    pub com1: Option<SerialPort>,
    /// `com2=`, if it was given.
    pub com2: Option<SerialPort>,
    /// `console=`, if it was given; see [`CommandLine::consoles`].
    pub console: Option<Consoles>,
    /// `console_timestamps=`.
    pub console_timestamps: Timestamps,
    /// `conswitch=`.
    pub conswitch: ConSwitch,
    /// `sync_console`: a line is on the wire before its author goes on.
    pub sync_console: bool,
    /// `gnttab_max_frames=` and `gnttab_max_maptrack_frames=`: what a domain gets for which nobody says otherwise.
    pub grant_limits: Limits,
    /// `loglvl=`.
    pub loglvl: LogLevels,
    /// `guest_loglvl=`.
    pub guest_loglvl: LogLevels,
    /// `noreboot`: after a crash of the hypervisor or of dom0 the machine halts.
    pub noreboot: bool,
    /// `maxcpus=`: at most so many CPUs are used.
    pub maxcpus: u32,
    /// `nosmp`: one CPU is used.
    pub nosmp: bool,
    /// `mem=`: memory from this address on is not used.
    pub mem: Option<u64>,
    /// `smep=`.
    pub smep: bool,
    /// `smap=`.
    pub smap: bool,
    /// `pcid=`.
    pub pcid: bool,
    /// `xpti=`; `None`: as the CPU is.
    pub xpti: Option<bool>,
}

impl CommandLine {
    /// The settings of an empty command line.
    pub const DEFAULT: Self = Self {
        dom0_mem: Dom0Memory {
            size: None,
            min: None,
            max: None,
        },
        dom0_max_vcpus: Dom0Vcpus::DEFAULT,
        dom0_vcpus_pin: false,
        com1: None,
        com2: None,
        console: None,
        console_timestamps: Timestamps::None,
        conswitch: ConSwitch::DEFAULT,
        sync_console: false,
        grant_limits: Limits::DEFAULT,
        loglvl: LogLevels::OWN,
        guest_loglvl: LogLevels::GUEST,
        noreboot: false,
        maxcpus: u32::MAX,
        nosmp: false,
        mem: None,
        smep: true,
        smap: true,
        pcid: false,
        xpti: None,
    };

    /// Reads a command line from which the loader's file name has been taken.
    pub fn parse(text: &str) -> Parsed<'_> {
        let (own, dom0_arguments) = split_dom0_arguments(text);
        let mut parsed = Parsed {
            settings: Self::DEFAULT,
            warnings: ArrayVec::new(),
            warnings_left_out: 0,
            dom0_arguments,
        };
        for word in own.split_ascii_whitespace() {
            let Err(problem) = options::apply(&mut parsed.settings, word) else {
                continue;
            };
            if parsed.warnings.try_push(Warning { word, problem }).is_err() {
                parsed.warnings_left_out = parsed.warnings_left_out.saturating_add(1);
            }
        }
        parsed
    }

    /// The consoles in use: those that `console=` names; without it the screen, and the first serial port if `com1=`
    /// describes it.
    pub fn consoles(&self) -> Consoles {
        self.console.unwrap_or(Consoles {
            com1: self.com1.is_some(),
            com2: false,
            screen: true,
        })
    }

    /// The serial line in use, with its settings. There is one at most; the first port goes before the second.
    pub fn serial_line(&self) -> Option<SerialPort> {
        match self.consoles() {
            Consoles { com1: true, .. } => Some(self.com1.unwrap_or(SerialPort::COM1)),
            Consoles { com2: true, .. } => Some(self.com2.unwrap_or(SerialPort::COM2)),
            _ => None,
        }
    }

    /// How many of the machine's CPUs are used; at least one.
    pub fn cpus(&self, found: u32) -> u32 {
        if self.nosmp {
            1
        } else {
            found.min(self.maxcpus).max(1)
        }
    }
}

impl Default for CommandLine {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What [`CommandLine::parse`] found.
#[derive(Clone, Debug)]
pub struct Parsed<'a> {
    /// The settings.
    pub settings: CommandLine,
    /// The words that were wrong, in their order.
    pub warnings: ArrayVec<Warning<'a>, MAX_WARNINGS>,
    /// How many more were wrong.
    pub warnings_left_out: usize,
    /// What is to be appended to dom0's command line.
    pub dom0_arguments: &'a str,
}

/// A word that was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warning<'a> {
    /// The word as it was given.
    pub word: &'a str,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No option has this name.
    UnknownOption,
    /// The option needs a value.
    MissingValue,
    /// The value is not one that the option takes.
    BadValue,
    /// Xen takes the value; Oxen cannot do what it asks for.
    Unsupported,
}

impl fmt::Display for Warning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word;
        match self.problem {
            Problem::UnknownOption => write!(f, "command line: unknown option \"{word}\" skipped"),
            Problem::MissingValue => {
                write!(f, "command line: \"{word}\" lacks a value, default used")
            }
            Problem::BadValue => write!(f, "command line: wrong value in \"{word}\", default used"),
            Problem::Unsupported => {
                write!(f, "command line: \"{word}\" is not supported, default used")
            }
        }
    }
}

/// Takes apart what is ours and what stands behind the first word `--`.
fn split_dom0_arguments(text: &str) -> (&str, &str) {
    for (at, dashes) in text.match_indices("--") {
        let Some((own, rest)) = text.split_at_checked(at) else {
            continue;
        };
        let dom0 = rest.strip_prefix(dashes).unwrap_or(rest);
        if own.chars().next_back().is_none_or(char::is_whitespace)
            && dom0.chars().next().is_none_or(char::is_whitespace)
        {
            return (own, dom0.trim());
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests;
