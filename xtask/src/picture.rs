//! Reads text off a picture of the screen: the inverse of what Oxen draws with its font.

use anyhow::{Context, Result, bail};
use font8x8::legacy::BASIC_LEGACY;

/// Pixels of a character; each of the font's eight lines is drawn twice.
const GLYPH: (usize, usize) = (8, 16);

/// A picture, as QEMU's monitor dumps it (PPM, three bytes a pixel).
pub struct Picture<'a> {
    width: usize,
    height: usize,
    pixels: &'a [u8],
}

impl<'a> Picture<'a> {
    /// Reads a PPM file.
    pub fn read(file: &'a [u8]) -> Result<Self> {
        // Magic, width and height, greatest value: three lines, then bytes.
        let mut parts = file.splitn(4, |&byte| byte == b'\n');
        let mut line = || -> Result<&str> {
            Ok(std::str::from_utf8(
                parts.next().context("the picture is cut off")?,
            )?)
        };
        if line()? != "P6" {
            bail!("the picture is no PPM file");
        }
        let size = line()?;
        let (width, height) = size.split_once(' ').context("no size")?;
        let (width, height) = (width.parse()?, height.parse()?);
        line()?;
        Ok(Self {
            width,
            height,
            pixels: parts.next().unwrap_or_default(),
        })
    }

    /// What is written on it, line by line; cells that hold no character of the font count as blanks.
    pub fn text(&self) -> String {
        let (rows, columns) = (self.height / GLYPH.1, self.width / GLYPH.0);
        let mut text = String::new();
        for row in 0..rows {
            let line: String = (0..columns)
                .map(|column| self.character(row, column))
                .collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn character(&self, row: usize, column: usize) -> char {
        let lines: [u8; 8] = std::array::from_fn(|line| {
            (0..GLYPH.0)
                .filter(|x| self.is_lit(column * GLYPH.0 + x, row * GLYPH.1 + 2 * line))
                .fold(0, |bits, x| bits | 1 << x)
        });
        let code =
            (0x20..0x7f).find(|&code: &u8| BASIC_LEGACY.get(usize::from(code)) == Some(&lines));
        code.map_or(' ', char::from)
    }

    fn is_lit(&self, x: usize, y: usize) -> bool {
        let pixel = 3 * (y * self.width + x);
        self.pixels
            .get(pixel..pixel + 3)
            .is_some_and(|colours| colours.iter().any(|&colour| colour > 0x40))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_read() {
        let text = ["Oxen", "12 \"{}"];
        let (width, height) = (10 * GLYPH.0, 3 * GLYPH.1);
        let mut pixels = vec![0; 3 * width * height];
        for (row, line) in text.iter().enumerate() {
            for (column, byte) in line.bytes().enumerate() {
                for y in 0..GLYPH.1 {
                    for x in 0..GLYPH.0 {
                        if BASIC_LEGACY[usize::from(byte)][y / 2] >> x & 1 == 1 {
                            let pixel = (row * GLYPH.1 + y) * width + column * GLYPH.0 + x;
                            pixels[3 * pixel..][..3].fill(0xc0);
                        }
                    }
                }
            }
        }
        let mut file = format!("P6\n{width} {height}\n255\n").into_bytes();
        file.extend(pixels);
        assert_eq!(Picture::read(&file).unwrap().text(), "Oxen\n12 \"{}\n\n");
        assert!(Picture::read(b"P5\n1 1\n255\n").is_err());
        assert!(Picture::read(b"").is_err());
    }
}
