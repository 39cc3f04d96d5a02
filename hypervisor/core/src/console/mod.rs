//! The log, dom0's console, and what is typed.
//!
//! [`Console`] holds the state; [`Out`] adds the machine and the time, and is what code writes to, mostly by the macros
//! [`error!`](crate::error), [`warn!`](crate::warn), [`info!`](crate::info) and [`debug!`](crate::debug). Each line of
//! the log goes to the ring, the serial line and the screen, as the command line wants it. Before the command line is
//! known lines wait in the ring; [`Out::configure`] writes them.
//!
//! INVARIANT: of what is logged only printable ASCII leaves the hypervisor, whoever the text comes from: no guest can
//! move the administrator's cursor through a log line. Dom0's own console output is dom0's business and passes.
//!
//! LOCK: rank `Log`; the machine's devices come after it.

mod input;
mod keys;
mod limit;
mod line;
pub mod op;
mod ring;
mod switch;

use core::fmt;

use dom0_abi::ids::DomId;
use oxen_arch::Machine;
use oxen_arch::memory::BootSlice;
use oxen_arch::sync::atomic::AtomicU8;
use oxen_arch::sync::{Rank, SpinLock};

use crate::cmdline::{CommandLine, Consoles, LogLevels, Timestamps};
use input::{InputPosition, InputRing};
use limit::TokenBucket;
use line::{LineWriter, Sinks};
use switch::{Listener, Switch, Typed};

pub use crate::cmdline::Level;
pub use keys::{DebugKey, KEYS, debug_key};
pub use ring::LogRing;

/// How much of the log is kept.
pub const LOG_SIZE: usize = 16 * 1024;

/// Guests share this many counters of lines that they caused, by their numbers: a guest that causes many mutes few
/// others.
const GUEST_LIMITS: usize = 16;
/// Of lines that are limited one in so many milliseconds is written.
const MS_PER_LINE: u64 = 500;

type Ring = LogRing<BootSlice<AtomicU8>>;

/// The state of the console.
pub struct Console {
    state: SpinLock<State>,
}

struct State {
    ring: Ring,
    sinks: Sinks,
    /// The command line is known; until then lines wait in the ring.
    is_configured: bool,
    timestamps: Timestamps,
    entry_tsc: u64,
    own_levels: LogLevels,
    own_limit: TokenBucket,
    guest_levels: LogLevels,
    guest_limits: [TokenBucket; GUEST_LIMITS],
    switch: Switch,
    input: InputRing,
}

impl Console {
    /// A console that writes to its ring only; `None` if there is no memory for that. The ring is a table made at boot.
    pub fn new(machine: &Machine) -> Option<Self> {
        let ring = LogRing::new(machine.boot_slice(LOG_SIZE, |_| AtomicU8::new(0))?)?;
        let settings = CommandLine::DEFAULT;
        Some(Self {
            state: SpinLock::new(
                Rank::Log,
                State {
                    ring,
                    sinks: Sinks::NONE,
                    is_configured: false,
                    timestamps: settings.console_timestamps,
                    entry_tsc: 0,
                    own_levels: settings.loglvl,
                    own_limit: TokenBucket::FULL,
                    guest_levels: settings.guest_loglvl,
                    guest_limits: [TokenBucket::FULL; GUEST_LIMITS],
                    switch: Switch::new(settings.conswitch),
                    input: InputRing::EMPTY,
                },
            ),
        })
    }

    /// The console of a machine at a point of time.
    pub const fn on<'a>(&'a self, machine: &'a Machine, tsc: u64) -> Out<'a> {
        Out {
            console: self,
            machine,
            tsc,
        }
    }

    /// Copies out of the log ring; see [`LogRing::read`].
    pub fn read_log(&self, from: Option<u32>, into: &mut [u8]) -> (usize, u32) {
        self.state.lock().ring.read(from, into)
    }

    /// Forgets the log up to a number that [`Console::read_log`] has returned.
    pub fn clear_log(&self, up_to: u32) {
        self.state.lock().ring.clear(up_to);
    }

    /// Dom0 runs from now on: what is typed goes to it, unless `conswitch=` says otherwise.
    pub fn dom0_starts(&self) {
        self.state.lock().switch.dom0_starts();
    }

    /// Copies out what was typed for dom0, without taking it.
    fn peek_input(&self, into: &mut [u8]) -> (usize, InputPosition) {
        self.state.lock().input.peek(into)
    }

    /// Takes what [`Console::peek_input`] has shown, unless another CPU did.
    fn take_input(&self, seen: InputPosition) -> bool {
        self.state.lock().input.take(seen)
    }
}

/// What a character that came in has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Dom0 has something to read: it wants VIRQ_CONSOLE.
    ForDom0,
    /// A debug key; the caller does what it asks for.
    Key(DebugKey),
    /// Nothing.
    Nothing,
}

/// A way to write to the console.
#[derive(Clone, Copy)]
pub struct Out<'a> {
    console: &'a Console,
    machine: &'a Machine,
    tsc: u64,
}

impl Out<'_> {
    /// The console behind it.
    pub fn console(&self) -> &Console {
        self.console
    }

    /// Applies the command line, and writes the lines that waited for it. `entry_tsc` is when the machine's loader
    /// jumped to us.
    pub fn configure(&self, settings: &CommandLine, entry_tsc: u64) {
        let mut state = self.console.state.lock();
        let state = &mut *state;
        state.timestamps = settings.console_timestamps;
        state.entry_tsc = entry_tsc;
        state.own_levels = settings.loglvl;
        state.guest_levels = settings.guest_loglvl;
        state.switch = Switch::new(settings.conswitch);
        let Consoles { screen, .. } = settings.consoles();
        state.sinks = Sinks::new(settings.serial_line().is_some(), screen);
        state.is_configured = true;
        self.write_ring(state);
    }

    /// Writes a message of the hypervisor, if its level is wanted.
    pub fn log(&self, level: Level, message: fmt::Arguments<'_>) {
        let mut state = self.console.state.lock();
        let state = &mut *state;
        let ticks = self.ticks_per_line();
        if let Some(left_out) = admit(
            state.own_levels,
            &mut state.own_limit,
            level,
            self.tsc,
            ticks,
        ) {
            self.write_admitted(state, left_out, message);
        }
    }

    /// Writes a message that a guest has caused, if its level is wanted and the guest has not caused too many.
    pub fn guest_log(&self, domain: DomId, level: Level, message: fmt::Arguments<'_>) {
        let mut state = self.console.state.lock();
        let state = &mut *state;
        let ticks = self.ticks_per_line();
        let Some(limit) = state
            .guest_limits
            .get_mut(usize::from(domain.get()) % GUEST_LIMITS)
        else {
            return;
        };
        if let Some(left_out) = admit(state.guest_levels, limit, level, self.tsc, ticks) {
            self.write_admitted(state, left_out, format_args!("d{domain}: {message}"));
        }
    }

    /// Writes a message whatever its level, and even while the console is held: for a CPU that panics, perhaps in the
    /// middle of writing. Then the message is not in the ring, and may stand in the middle of another line. Before the
    /// command line is known it goes to all devices, behind the lines that waited.
    pub fn panic_log(&self, message: fmt::Arguments<'_>) {
        match self.console.state.try_lock() {
            Some(mut state) => {
                if !state.is_configured {
                    state.is_configured = true;
                    state.sinks = Sinks::new(true, true);
                    self.write_ring(&mut state);
                }
                self.write_lines(&mut state, message);
            }
            None => {
                // Whatever the state says about sinks cannot be had: all of them.
                let mut sinks = Sinks::new(true, true);
                LineWriter::new(self.machine, &mut sinks, None, Timestamps::None, 0).lines(message);
            }
        }
    }

    /// Writes what dom0 puts on its console, as it is, but not to the ring.
    pub fn write_for_dom0(&self, bytes: &[u8]) {
        self.console.state.lock().sinks.write(self.machine, bytes);
    }

    /// Leaves the screen to dom0.
    pub fn release_screen(&self) {
        self.console.state.lock().sinks.has_screen = false;
        self.machine.release_screen();
    }

    /// Takes a character that came in on the serial line.
    pub fn input(&self, byte: u8) -> Input {
        let mut state = self.console.state.lock();
        let state = &mut *state;
        match state.switch.typed(byte) {
            Typed::Held => Input::Nothing,
            Typed::Switched(listener) => {
                let message = match listener {
                    Listener::Dom0 => "input goes to dom0",
                    Listener::Oxen => "input goes to Oxen, h lists the keys",
                };
                let key = state
                    .switch
                    .code()
                    .map_or('?', |code| char::from(code | 0x60));
                self.write_lines(
                    state,
                    format_args!("{message}; Ctrl-{key} three times switches"),
                );
                Input::Nothing
            }
            Typed::Deliver {
                to: Listener::Dom0,
                held,
            } => {
                for _ in 0..held {
                    state.input.push(state.switch.code().unwrap_or(byte));
                }
                state.input.push(byte);
                Input::ForDom0
            }
            Typed::Deliver {
                to: Listener::Oxen, ..
            } => match debug_key(byte) {
                Some(key) => Input::Key(key),
                None => Input::Nothing,
            },
        }
    }

    /// Writes the list of debug keys.
    pub fn write_keys(&self) {
        let mut state = self.console.state.lock();
        for &(key, _, meaning) in KEYS {
            self.write_lines(&mut state, format_args!("{}: {meaning}", char::from(key)));
        }
    }

    /// Writes the log once more.
    pub fn write_log_again(&self) {
        self.write_ring(&mut self.console.state.lock());
    }

    /// Writes a message in answer to a debug key, whatever the levels are.
    pub fn answer(&self, message: fmt::Arguments<'_>) {
        self.write_lines(&mut self.console.state.lock(), message);
    }

    fn ticks_per_line(&self) -> u64 {
        u64::from(self.machine.tsc_khz()).saturating_mul(MS_PER_LINE)
    }

    fn write_admitted(&self, state: &mut State, left_out: u32, message: fmt::Arguments<'_>) {
        if left_out > 0 {
            self.write_lines(state, format_args!("{left_out} messages were left out"));
        }
        self.write_lines(state, message);
    }

    fn write_lines(&self, state: &mut State, message: fmt::Arguments<'_>) {
        let time = match state.timestamps {
            Timestamps::None => 0,
            Timestamps::Raw => self.tsc,
            Timestamps::Boot => {
                let cycles = u128::from(self.tsc.saturating_sub(state.entry_tsc));
                let us = cycles
                    .saturating_mul(1000)
                    .checked_div(u128::from(self.machine.tsc_khz()));
                u64::try_from(us.unwrap_or(0)).unwrap_or(u64::MAX)
            }
        };
        LineWriter::new(
            self.machine,
            &mut state.sinks,
            Some(&mut state.ring),
            state.timestamps,
            time,
        )
        .lines(message);
    }

    fn write_ring(&self, state: &mut State) {
        let mut from = None;
        let mut chunk = [0; 128];
        loop {
            let (len, next) = state.ring.read(from, &mut chunk);
            state
                .sinks
                .write(self.machine, chunk.get(..len).unwrap_or_default());
            from = Some(next);
            if len == 0 {
                break;
            }
        }
    }
}

/// Decides over a line. `Some`: it is to be written, and so many were left out before it.
fn admit(
    levels: LogLevels,
    limit: &mut TokenBucket,
    level: Level,
    now: u64,
    ticks_per_line: u64,
) -> Option<u32> {
    if Some(level) <= levels.always {
        Some(0)
    } else if Some(level) <= levels.limited {
        limit.take(now, ticks_per_line)
    } else {
        None
    }
}

/// Logs that something was lost or refused that should not have been, to an [`Out`] or whatever has its `log`.
#[macro_export]
macro_rules! error {
    ($out:expr, $($message:tt)+) => { $out.log($crate::console::Level::Error, ::core::format_args!($($message)+)) };
}

/// Logs that something is not as it should be; see [`error!`](crate::error).
#[macro_export]
macro_rules! warn {
    ($out:expr, $($message:tt)+) => { $out.log($crate::console::Level::Warning, ::core::format_args!($($message)+)) };
}

/// Logs what an administrator wants to know; see [`error!`](crate::error).
#[macro_export]
macro_rules! info {
    ($out:expr, $($message:tt)+) => { $out.log($crate::console::Level::Info, ::core::format_args!($($message)+)) };
}

/// Logs what someone wants to know who looks for a mistake; see [`error!`](crate::error).
#[macro_export]
macro_rules! debug {
    ($out:expr, $($message:tt)+) => { $out.log($crate::console::Level::Debug, ::core::format_args!($($message)+)) };
}

#[cfg(test)]
mod tests;
