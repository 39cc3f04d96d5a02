//! The table of all options.

use core::fmt;
use core::ops::RangeInclusive;

use super::consoles::{ConSwitch, Consoles, LogLevels, SerialPort, Timestamps};
use super::dom0::{Dom0Memory, Dom0Vcpus};
use super::value::{Value, integer_u32, size};
use super::{CommandLine, Problem};
use crate::grant::Limits;

/// One option: what the parser and the reader need to know of it.
pub struct CommandOption {
    /// The word before the `=`.
    pub name: &'static str,
    /// What may stand behind it.
    pub syntax: &'static str,
    /// What holds if it is not given.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
    set: fn(&mut CommandLine, Value<'_>) -> Result<(), Problem>,
}

/// Stores a parsed value in its field, or the default if there is none to store.
macro_rules! into {
    ($field:ident, $parse:expr) => {
        |settings, value| {
            let parsed = $parse(value);
            settings.$field = match parsed {
                Ok(value) => value,
                Err(_) => CommandLine::DEFAULT.$field,
            };
            parsed.map(|_| ())
        }
    };
}

/// All options, in the order of their names.
pub const OPTIONS: &[CommandOption] = &[
    CommandOption {
        name: "com1",
        syntax: "`baud[/base][,DPS[,io-base[,irq]]]`",
        default: "`115200,8n1,0x3f8,4`",
        meaning: "First serial port. `baud` is a number, or `auto` to keep what the firmware has set; `base` is the \
                  rate at divisor 1 (115200). `D`: 5 to 8 data bits; `P`: parity `n`, `o`, `e`, `m` or `s`; `S`: 1 or \
                  2 stop bits. `irq` 0: polled. Parts may be left empty. UARTs on PCI and `name=value` pairs are not \
                  supported.",
        set: into!(com1, |value| SerialPort::COM1.parse(value).map(Some)),
    },
    CommandOption {
        name: "com2",
        syntax: "as `com1`",
        default: "`115200,8n1,0x2f8,3`",
        meaning: "Second serial port.",
        set: into!(com2, |value| SerialPort::COM2.parse(value).map(Some)),
    },
    CommandOption {
        name: "console",
        syntax: "list of `com1`, `com2`, `vga`, `none`",
        default: "`vga`, and `com1` if `com1=` is given",
        meaning: "Where the log and dom0's console go. `vga` is the screen, text or framebuffer, until dom0 takes it \
                  over. Of two serial ports the first is used.",
        set: into!(console, |value| Consoles::parse(value).map(Some)),
    },
    CommandOption {
        name: "console_timestamps",
        syntax: "`none`, `boot`, `raw`",
        default: "`none`",
        meaning: "What stands before each line of the log: `boot` is seconds since start, `raw` the time stamp \
                  counter. Xen's `date` and `datems` are not supported.",
        set: into!(console_timestamps, Timestamps::parse),
    },
    CommandOption {
        name: "conswitch",
        syntax: "`letter[x]`",
        default: "`a`",
        meaning: "Ctrl and this letter, three times, moves the serial input between dom0 and Oxen's debug keys; \
                  another character than a letter turns that off. With `x` the input stays with Oxen when dom0 \
                  starts.",
        set: into!(conswitch, ConSwitch::parse),
    },
    CommandOption {
        name: "dom0_max_vcpus",
        syntax: "`N`, `MIN-MAX`, `MIN-`, `-MAX`",
        default: "`1-`",
        meaning: "Number of dom0's vCPUs: as many as there are CPUs in use, within these bounds.",
        set: into!(dom0_max_vcpus, Dom0Vcpus::parse),
    },
    CommandOption {
        name: "dom0_mem",
        syntax: "list of `size`, `min:size`, `max:size`",
        default: "all but a reserve",
        meaning: "Memory of dom0 at start, the least and the most of it; `max` also bounds what it can grow to, and \
                  wins over `min`. A size is a number with suffix `b`, `k` (also without), `m`, `g` or `t`; `N%` or \
                  `size+N%` adds a fraction of the free memory; `-size` means all free memory but that much; 0 means \
                  not given. The reserve is 1/16 of the free memory, but at most 128 MiB.",
        set: into!(dom0_mem, Dom0Memory::parse),
    },
    CommandOption {
        name: "dom0_vcpus_pin",
        syntax: "boolean",
        default: "off",
        meaning: "Each vCPU of dom0 stays on the CPU of the same number.",
        set: into!(dom0_vcpus_pin, Value::boolean),
    },
    CommandOption {
        name: "gnttab_max_frames",
        syntax: "`N`",
        default: "`64`",
        meaning: "How large the grant table of a domain may get, in frames of 512 grants; from 1 to 512.",
        set: |settings, value| {
            let limits = &mut settings.grant_limits;
            limits.max_grant_frames = Limits::DEFAULT.max_grant_frames;
            limits.max_grant_frames = frames(value, 1..=Limits::MOST.max_grant_frames)?;
            Ok(())
        },
    },
    CommandOption {
        name: "gnttab_max_maptrack_frames",
        syntax: "`N`",
        default: "`1024`",
        meaning: "How many grants of others a domain may map at a time, in frames of 256 handles; at most 1024.",
        set: |settings, value| {
            let limits = &mut settings.grant_limits;
            limits.max_maptrack_frames = Limits::DEFAULT.max_maptrack_frames;
            limits.max_maptrack_frames = frames(value, 0..=Limits::MOST.max_maptrack_frames)?;
            Ok(())
        },
    },
    CommandOption {
        name: "guest_loglvl",
        syntax: "`level[/limited level]`",
        default: "`none/warning`",
        meaning: "As `loglvl`, for lines that guests cause.",
        set: into!(guest_loglvl, LogLevels::parse),
    },
    CommandOption {
        name: "loglvl",
        syntax: "`level[/limited level]`",
        default: "`info`",
        meaning: "Which lines of the hypervisor's own log are written: `none`, `error`, `warning`, `info`, `debug` or \
                  `all`, each with those before it. Lines above the first level and up to the second are written as \
                  long as there are not too many.",
        set: into!(loglvl, LogLevels::parse),
    },
    CommandOption {
        name: "maxcpus",
        syntax: "`N`",
        default: "all",
        meaning: "At most so many CPUs are used.",
        set: into!(maxcpus, |value: Value<'_>| integer_u32(value.text()?)
            .and_then(not_zero)),
    },
    CommandOption {
        name: "mem",
        syntax: "`size`",
        default: "all",
        meaning: "Memory from this address on is not used.",
        set: into!(mem, |value: Value<'_>| size(value.text()?)
            .and_then(not_zero)
            .map(Some)),
    },
    CommandOption {
        name: "noreboot",
        syntax: "boolean",
        default: "off",
        meaning: "When Oxen or dom0 crashes, the machine halts and does not start again.",
        set: into!(noreboot, Value::boolean),
    },
    CommandOption {
        name: "nosmp",
        syntax: "boolean",
        default: "off",
        meaning: "One CPU is used.",
        set: into!(nosmp, Value::boolean),
    },
    CommandOption {
        name: "pcid",
        syntax: "boolean",
        default: "off",
        meaning: "Address spaces of guests have numbers in the TLB (process-context identifiers), if the CPU has them, so \
                  that a switch of page tables need not empty it. Not together with `xpti`. Off by default, since it has not run on such a CPU. \
                  Xen's `pcid=xpti` and `pcid=noxpti` are not supported.",
        set: into!(pcid, Value::boolean),
    },
    CommandOption {
        name: "reboot",
        syntax: "`n`, `no`",
        default: "restart",
        meaning: "The same as `noreboot`. Xen's choice of a way to restart is not supported.",
        set: into!(noreboot, no_reboot),
    },
    CommandOption {
        name: "smap",
        syntax: "boolean",
        default: "on",
        meaning: "The hypervisor touches guest memory only where it means to, if the CPU can enforce that.",
        set: into!(smap, Value::boolean),
    },
    CommandOption {
        name: "smep",
        syntax: "boolean",
        default: "on",
        meaning: "The hypervisor never executes guest memory, if the CPU can enforce that.",
        set: into!(smep, Value::boolean),
    },
    CommandOption {
        name: "sync_console",
        syntax: "boolean",
        default: "off",
        meaning: "A line is on the serial line before its author goes on.",
        set: into!(sync_console, Value::boolean),
    },
    CommandOption {
        name: "xpti",
        syntax: "boolean, `default`",
        default: "`default`",
        meaning: "A guest runs on tables that show little of the hypervisor, against Meltdown: for each root of its own (L4 \
                  table) the hypervisor keeps another, 4 KiB each, and switches at each entry and exit. `default`: \
                  where the CPU needs it. Takes the place of `pcid`. Xen's `dom0=` and `domu=` are not supported: \
                  it is for all domains or for none.",
        set: into!(xpti, |value: Value<'_>| match value {
            Value::Text("default") => Ok(None),
            other => other.boolean().map(Some),
        }),
    },
];

/// A number of frames within bounds; above them Xen has more.
fn frames(value: Value<'_>, bounds: RangeInclusive<u32>) -> Result<u32, Problem> {
    match integer_u32(value.text()?)? {
        frames if bounds.contains(&frames) => Ok(frames),
        frames if frames < *bounds.start() => Err(Problem::BadValue),
        _ => Err(Problem::Unsupported),
    }
}

fn not_zero<T: PartialEq + From<u8>>(value: T) -> Result<T, Problem> {
    if value == T::from(0) {
        Err(Problem::BadValue)
    } else {
        Ok(value)
    }
}

fn no_reboot(value: Value<'_>) -> Result<bool, Problem> {
    match value.text()? {
        "n" | "no" => Ok(true),
        _ => Err(Problem::Unsupported),
    }
}

/// Carries out one word.
pub(super) fn apply(settings: &mut CommandLine, word: &str) -> Result<(), Problem> {
    let find = |name: &str| OPTIONS.iter().find(|option| option.name == name);
    let (option, value) = match word.split_once('=') {
        Some((name, text)) => (find(name), Value::Text(text)),
        None => match find(word) {
            Some(option) => (Some(option), Value::Flag(true)),
            None => (word.strip_prefix("no-").and_then(find), Value::Flag(false)),
        },
    };
    (option.ok_or(Problem::UnknownOption)?.set)(settings, value)
}

/// The rows of the table in `docs/command-line.md`.
pub struct MarkdownTable;

impl fmt::Display for MarkdownTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| option | value | default | meaning |")?;
        writeln!(f, "|---|---|---|---|")?;
        for option in OPTIONS {
            writeln!(
                f,
                "| `{}` | {} | {} | {} |",
                option.name, option.syntax, option.default, option.meaning
            )?;
        }
        Ok(())
    }
}
