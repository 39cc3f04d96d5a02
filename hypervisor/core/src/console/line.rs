//! From messages to lines, and from lines to devices.

use core::fmt::{self, Write};

use arrayvec::ArrayVec;
use oxen_arch::Machine;

use super::Ring;
use super::Timestamps;

const PREFIX: &str = "(OXEN) ";
/// Bytes that are written at once.
const CHUNK: usize = 128;

/// The devices that output goes to.
pub(super) struct Sinks {
    has_serial: bool,
    pub(super) has_screen: bool,
    /// The last byte that went out. Output of dom0 may end within a line.
    last: u8,
}

impl Sinks {
    /// No device.
    pub(super) const NONE: Self = Self::new(false, false);

    pub(super) const fn new(has_serial: bool, has_screen: bool) -> Self {
        Self {
            has_serial,
            has_screen,
            last: b'\n',
        }
    }

    /// Writes bytes to the devices. The serial line gets a carriage return before a line feed, unless there is one.
    pub(super) fn write(&mut self, machine: &Machine, bytes: &[u8]) {
        for chunk in bytes.chunks(CHUNK) {
            if self.has_screen {
                machine.screen_write(chunk);
            }
            if self.has_serial {
                let mut cooked = ArrayVec::<u8, { 2 * CHUNK }>::new();
                let mut last = self.last;
                for &byte in chunk {
                    // There is room for twice the chunk.
                    if byte == b'\n' && last != b'\r' {
                        let _ = cooked.try_push(b'\r');
                    }
                    let _ = cooked.try_push(byte);
                    last = byte;
                }
                machine.serial_write(&cooked);
            }
            self.last = chunk.last().copied().unwrap_or(self.last);
        }
    }
}

/// Writes messages line by line, each with its prefix, of printable characters only.
pub(super) struct LineWriter<'a> {
    machine: &'a Machine,
    sinks: &'a mut Sinks,
    ring: Option<&'a mut Ring>,
    timestamps: Timestamps,
    time: u64,
    chunk: ArrayVec<u8, CHUNK>,
    is_at_start: bool,
}

impl<'a> LineWriter<'a> {
    /// A writer of lines that all carry the same time: microseconds or ticks, as `timestamps` says.
    pub(super) fn new(
        machine: &'a Machine,
        sinks: &'a mut Sinks,
        ring: Option<&'a mut Ring>,
        timestamps: Timestamps,
        time: u64,
    ) -> Self {
        Self {
            machine,
            sinks,
            ring,
            timestamps,
            time,
            chunk: ArrayVec::new(),
            is_at_start: true,
        }
    }

    /// Writes a message of one or more lines.
    pub(super) fn lines(mut self, message: fmt::Arguments<'_>) {
        if self.sinks.last != b'\n' {
            self.sinks.write(self.machine, b"\n");
        }
        // Only a `Display` of a message's parts could fail; then the line ends there.
        let _ = self.write_fmt(message);
        if !self.is_at_start {
            self.push(b'\n');
        }
        self.flush();
    }

    fn prefix(&mut self) {
        self.is_at_start = false;
        let time = self.time;
        let _ = match self.timestamps {
            Timestamps::None => self.write_str(PREFIX),
            Timestamps::Boot => {
                let (seconds, us) = (time / 1_000_000, time % 1_000_000);
                write!(self, "{PREFIX}[{seconds:>6}.{us:06}] ")
            }
            Timestamps::Raw => write!(self, "{PREFIX}[{time:016x}] "),
        };
    }

    fn push(&mut self, byte: u8) {
        if let Some(ring) = &mut self.ring {
            ring.push(byte);
        }
        if self.chunk.try_push(byte).is_err() {
            self.flush();
            let _ = self.chunk.try_push(byte);
        }
    }

    fn flush(&mut self) {
        self.sinks.write(self.machine, &self.chunk);
        self.chunk.clear();
    }
}

impl Write for LineWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if character == '\n' {
                if self.is_at_start {
                    self.prefix();
                }
                self.push(b'\n');
                self.is_at_start = true;
                continue;
            }
            if self.is_at_start {
                self.prefix();
            }
            match u8::try_from(character) {
                Ok(byte @ (b' '..=b'~' | b'\t')) => self.push(byte),
                _ => self.push(b'?'),
            }
        }
        Ok(())
    }
}
