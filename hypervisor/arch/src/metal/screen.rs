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
const GLYPH_WIDTH: u32 = 8;
const GLYPH_HEIGHT: u32 = 16;
const GREY: u32 = 0xc0;

static TERMINAL: SpinLock<Option<Terminal>> = SpinLock::new(Rank::Console, None);

/// A grid of characters with a place to write at.
struct Terminal {
    surface: Surface,
    columns: u32,
    rows: u32,
    column: u32,
    row: u32,
}

enum Surface {
    Text {
        cells: *mut u16,
    },
    Pixels {
        start: *mut u8,
        pitch: u32,
        bytes_per_pixel: u32,
        foreground: u32,
    },
}

// SAFETY: the memory of the screen is reached through the one lock above only.
unsafe impl Send for Terminal {}

/// Bytes of screen memory, for the mapping.
pub(super) fn bytes(screen: &Screen) -> u64 {
    match *screen {
        Screen::Text { columns, rows, .. } => u64::from(columns) * u64::from(rows) * 2,
        Screen::Framebuffer { pitch, height, .. } => u64::from(pitch) * u64::from(height),
    }
}

/// Takes the screen into use.
///
/// # Safety
///
/// The memory of the screen must be mapped at `at`, writable, for ever, and nobody else may use it.
pub(super) unsafe fn open(screen: &Screen, at: u64) {
    let terminal = match *screen {
        Screen::Text { columns, rows, .. } => Terminal {
            surface: Surface::Text {
                cells: at as *mut u16,
            },
            columns: u32::from(columns),
            rows: u32::from(rows),
            column: 0,
            row: 0,
        },
        Screen::Framebuffer {
            width,
            height,
            pitch,
            bpp,
            masks,
            ..
        } => Terminal {
            surface: Surface::Pixels {
                start: at as *mut u8,
                pitch,
                bytes_per_pixel: u32::from(bpp.div_ceil(8)),
                foreground: masks.iter().fold(0, |pixel, mask| pixel | grey(*mask)),
            },
            columns: width / GLYPH_WIDTH,
            rows: height / GLYPH_HEIGHT,
            column: 0,
            row: 0,
        },
    };
    if terminal.columns == 0 || terminal.rows == 0 {
        return;
    }
    let mut terminal = terminal;
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
                    if self.column == self.columns {
                        self.next_line();
                    }
                    self.draw(*byte);
                    self.column += 1;
                }
            }
        }
    }

    fn next_line(&mut self) {
        self.column = 0;
        if self.row + 1 < self.rows {
            self.row += 1;
            return;
        }
        // SAFETY: all lines but the first move up by one, within the screen.
        unsafe {
            match self.surface {
                Surface::Text { cells } => {
                    let line = self.columns as usize;
                    core::ptr::copy(cells.add(line), cells, line * (self.rows - 1) as usize);
                }
                Surface::Pixels { start, pitch, .. } => {
                    let line = (pitch * GLYPH_HEIGHT) as usize;
                    core::ptr::copy(start.add(line), start, line * (self.rows - 1) as usize);
                }
            }
        }
        self.clear_row(self.rows - 1);
    }

    fn clear(&mut self) {
        for row in 0..self.rows {
            self.clear_row(row);
        }
    }

    fn clear_row(&mut self, row: u32) {
        match self.surface {
            Surface::Text { cells } => {
                for column in 0..self.columns {
                    // SAFETY: a cell of the screen.
                    unsafe {
                        cells
                            .add((row * self.columns + column) as usize)
                            .write_volatile(ATTRIBUTE | u16::from(b' '))
                    };
                }
            }
            Surface::Pixels { start, pitch, .. } => {
                let line = (pitch * GLYPH_HEIGHT) as usize;
                // SAFETY: the lines of pixels of one row of the screen.
                unsafe { start.add(row as usize * line).write_bytes(0, line) };
            }
        }
    }

    fn draw(&mut self, byte: u8) {
        let (row, column) = (self.row, self.column);
        match self.surface {
            Surface::Text { cells } => {
                // SAFETY: a cell of the screen: `column` and `row` are within it.
                unsafe {
                    cells
                        .add((row * self.columns + column) as usize)
                        .write_volatile(ATTRIBUTE | u16::from(byte))
                };
            }
            Surface::Pixels {
                start,
                pitch,
                bytes_per_pixel,
                foreground,
            } => {
                let glyph = BASIC_LEGACY.get(usize::from(byte)).unwrap_or(&[0; 8]);
                for y in 0..GLYPH_HEIGHT {
                    let line = glyph.get(y as usize / 2).copied().unwrap_or(0);
                    for x in 0..GLYPH_WIDTH {
                        let pixel = if line >> x & 1 == 1 { foreground } else { 0 };
                        let offset = (row * GLYPH_HEIGHT + y) * pitch
                            + (column * GLYPH_WIDTH + x) * bytes_per_pixel;
                        for (index, part) in pixel
                            .to_le_bytes()
                            .iter()
                            .take(bytes_per_pixel as usize)
                            .enumerate()
                        {
                            // SAFETY: a byte of a pixel of the screen.
                            unsafe { start.add(offset as usize + index).write_volatile(*part) };
                        }
                    }
                }
            }
        }
    }
}

/// Where the screen is mapped: the start of the window for devices.
pub(super) const AT: u64 = layout::DEVICES;
/// No screen has more; it is the room that the window for devices has.
pub(super) const MOST_BYTES: u64 = 1 << 30;
