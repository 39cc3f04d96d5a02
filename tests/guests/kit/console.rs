//! Lines on the hypervisor's console.

use core::fmt::{self, Write};

use guest_pv_drivers::hypercall;

/// One line is one hypercall as long as it fits, so that the hypervisor's own messages fall between lines.
struct Line {
    bytes: [u8; 512],
    used: usize,
}

impl Line {
    fn flush(&mut self) {
        // Nobody to tell when the console refuses; the runner misses the verdict then.
        let _ = hypercall::console_write(&self.bytes[..self.used]);
        self.used = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.used == self.bytes.len() {
                self.flush();
            }
            self.bytes[self.used] = byte;
            self.used += 1;
        }
        Ok(())
    }
}

/// Prints `text` and ends the line.
pub fn print_line(text: fmt::Arguments) {
    let mut line = Line {
        bytes: [0; 512],
        used: 0,
    };
    let _ = writeln!(line, "{text}");
    line.flush();
}

/// Prints a line on the console.
#[macro_export]
macro_rules! println {
    ($($text:tt)*) => { $crate::console::print_line(format_args!($($text)*)) };
}
