//! The screen that firmware or loader left: a grid of characters, in text mode or drawn with a font.
//!
//! LOCK: rank Console.

use font8x8::legacy::BASIC_LEGACY;

use super::layout;
use crate::boot::{ColourMask, Screen};
use crate::sync::{Rank, SpinLock};

/// Light grey on black.
const ATTRIBUTE: u16 = 0x0700;
/// Pixels of a character. The font has eight lines; each is drawn twice.
const GLYPH_WIDTH: usize = 8;
const GLYPH_HEIGHT: usize = 16;
const GREY: u32 = 0xc0;

static TERMINAL: SpinLock<Option<Terminal>> = SpinLock::new(Rank::Console, None);

/// A grid of characters with a place to write at.
struct Terminal {
    surface: Surface,
    memory: ScreenMemory,
    columns: usize,
    rows: usize,
    column: usize,
    row: usize,
}

enum Surface {
    Text,
    Pixels {
        pitch: usize,
        bytes_per_pixel: usize,
        foreground: u32,
    },
}

/// Bytes of screen memory, for the mapping.
pub(super) fn bytes(screen: &Screen) -> u64 {
    match *screen {
        Screen::Text { columns, rows, .. } => u64::from(columns) * u64::from(rows) * 2,
        Screen::Framebuffer { pitch, height, .. } => u64::from(pitch) * u64::from(height),
    }
}

/// Whether the screen can be mapped.
pub(super) fn is_sane(screen: &Screen) -> bool {
    let len = bytes(screen);
    screen.maddr().offset() == 0 && len > 0 && len <= MOST_BYTES
}

/// Takes the screen into use.
///
/// # Safety
///
/// The memory of the screen must be mapped at `at`, the start of a page, writable, for ever, and nobody else may use it.
pub(super) unsafe fn open(screen: &Screen, at: u64) {
    let (surface, columns, rows) = match *screen {
        Screen::Text { columns, rows, .. } => {
            (Surface::Text, usize::from(columns), usize::from(rows))
        }
        Screen::Framebuffer {
            width,
            height,
            pitch,
            bpp,
            masks,
            ..
        } => (
            Surface::Pixels {
                pitch: pitch as usize,
                bytes_per_pixel: usize::from(bpp.div_ceil(8)),
                foreground: masks.iter().fold(0, |pixel, mask| pixel | grey(*mask)),
            },
            width as usize / GLYPH_WIDTH,
            height as usize / GLYPH_HEIGHT,
        ),
    };
    let mut terminal = Terminal {
        surface,
        memory: ScreenMemory {
            start: at as *mut u8,
            len: bytes(screen) as usize,
        },
        columns,
        rows,
        column: 0,
        row: 0,
    };
    if terminal.columns == 0 || terminal.rows == 0 {
        return;
    }
    terminal.clear();
    *TERMINAL.lock() = Some(terminal);
}

fn grey(mask: ColourMask) -> u32 {
    (GREY >> 8_u32.saturating_sub(u32::from(mask.size)))
        .checked_shl(u32::from(mask.position))
        .unwrap_or(0)
}

/// Writes text, if there is a screen.
pub(super) fn write(bytes: &[u8]) {
    if let Some(terminal) = TERMINAL.lock().as_mut() {
        terminal.write(bytes);
    }
}

/// Writes text although another holder of the screen may have been stopped in the middle.
pub(super) fn write_by_force(bytes: &[u8]) {
    if let Some(mut terminal) = TERMINAL.try_lock()
        && let Some(terminal) = terminal.as_mut()
    {
        terminal.write(bytes);
    }
}

/// Leaves the screen to the control domain.
pub(super) fn release() {
    *TERMINAL.lock() = None;
}

impl Terminal {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.next_line(),
                b'\r' => self.column = 0,
                byte => {
                    if self.column >= self.columns {
                        self.next_line();
                    }
                    self.draw(*byte);
                    self.column = self.column.saturating_add(1);
                }
            }
        }
    }

    fn next_line(&mut self) {
        self.column = 0;
        let last = self.rows.saturating_sub(1);
        if self.row < last {
            self.row = self.row.saturating_add(1);
            return;
        }
        let row = self.surface.row_bytes(self.columns);
        self.memory.move_to_start(row);
        self.clear_row(last);
    }

    fn clear(&mut self) {
        for row in 0..self.rows {
            self.clear_row(row);
        }
    }

    fn clear_row(&mut self, row: usize) {
        match self.surface {
            Surface::Text => {
                for column in 0..self.columns {
                    self.draw_cell(row, column, b' ');
                }
            }
            Surface::Pixels { .. } => {
                let len = self.surface.row_bytes(self.columns);
                self.memory.clear(row.saturating_mul(len), len);
            }
        }
    }

    fn draw(&mut self, byte: u8) {
        let (row, column) = (self.row, self.column);
        match self.surface {
            Surface::Text => self.draw_cell(row, column, byte),
            Surface::Pixels {
                pitch,
                bytes_per_pixel,
                foreground,
            } => {
                let glyph = BASIC_LEGACY.get(usize::from(byte)).unwrap_or(&[0; 8]);
                let first = row
                    .saturating_mul(GLYPH_HEIGHT)
                    .saturating_mul(pitch)
                    .saturating_add(
                        column
                            .saturating_mul(GLYPH_WIDTH)
                            .saturating_mul(bytes_per_pixel),
                    );
                let lines = glyph.iter().flat_map(|line| [line, line]);
                for (y, line) in (0..GLYPH_HEIGHT).zip(lines) {
                    let start = first.saturating_add(pitch.saturating_mul(y));
                    for x in 0..GLYPH_WIDTH {
                        let pixel = if line >> x & 1 == 1 { foreground } else { 0 };
                        let start = start.saturating_add(bytes_per_pixel.saturating_mul(x));
                        let parts = pixel.to_le_bytes();
                        for (index, part) in (0..bytes_per_pixel).zip(parts) {
                            self.memory.put(start.saturating_add(index), part);
                        }
                    }
                }
            }
        }
    }

    fn draw_cell(&mut self, row: usize, column: usize, byte: u8) {
        let cell = row.saturating_mul(self.columns).saturating_add(column);
        self.memory.put_cell(cell, ATTRIBUTE | u16::from(byte));
    }
}

impl Surface {
    /// Bytes of screen memory from one row of characters to the next.
    fn row_bytes(&self, columns: usize) -> usize {
        match *self {
            Surface::Text => columns.saturating_mul(2),
            Surface::Pixels { pitch, .. } => pitch.saturating_mul(GLYPH_HEIGHT),
        }
    }
}

/// The memory of the screen. What would lie outside is not drawn.
struct ScreenMemory {
    start: *mut u8,
    len: usize,
}

// SAFETY: it is reached through the one lock above only.
unsafe impl Send for ScreenMemory {}

impl ScreenMemory {
    fn put(&mut self, at: usize, byte: u8) {
        if at < self.len {
            // SAFETY: within the memory of the screen, which `open` was promised.
            unsafe { self.start.add(at).write_volatile(byte) };
        }
    }

    fn put_cell(&mut self, index: usize, cell: u16) {
        if index < self.len / 2 {
            // SAFETY: as above; the memory starts at a page.
            unsafe { self.start.cast::<u16>().add(index).write_volatile(cell) };
        }
    }

    fn clear(&mut self, at: usize, len: usize) {
        let at = at.min(self.len);
        let len = len.min(self.len.saturating_sub(at));
        // SAFETY: as above.
        unsafe { self.start.add(at).write_bytes(0, len) };
    }

    /// Moves everything from `from` on to the start.
    fn move_to_start(&mut self, from: usize) {
        let from = from.min(self.len);
        // SAFETY: as above.
        unsafe {
            core::ptr::copy(
                self.start.add(from),
                self.start,
                self.len.saturating_sub(from),
            );
        }
    }
}

/// Where the screen is mapped: the start of the window for devices.
pub(super) const AT: u64 = layout::DEVICES;
/// No screen has more; it is the room that the window for devices has.
const MOST_BYTES: u64 = 1 << 30;
