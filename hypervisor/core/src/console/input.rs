//! What was typed for dom0 and not read yet.

const SIZE: usize = 512;

/// Characters in the order of their coming. Of a full ring the new ones are lost: a reader that is too slow loses what
/// it has not seen the start of, never something from the middle.
pub struct InputRing {
    bytes: [u8; SIZE],
    /// The number of the next character to be read; numbers wrap.
    start: u32,
    end: u32,
}

impl InputRing {
    /// Nothing typed.
    pub const EMPTY: Self = Self {
        bytes: [0; SIZE],
        start: 0,
        end: 0,
    };

    /// Adds a character. Returns whether there was room.
    pub fn push(&mut self, byte: u8) -> bool {
        if self.end.wrapping_sub(self.start) as usize >= SIZE {
            return false;
        }
        if let Some(slot) = self.bytes.get_mut(Self::slot(self.end)) {
            *slot = byte;
        }
        self.end = self.end.wrapping_add(1);
        true
    }

    /// Copies characters out without taking them. Returns how many, and where the reader then stands.
    pub fn peek(&self, into: &mut [u8]) -> (usize, InputPosition) {
        let mut number = self.start;
        let mut nr_copied: usize = 0;
        for byte in into {
            if number == self.end {
                break;
            }
            *byte = self.bytes.get(Self::slot(number)).copied().unwrap_or(0);
            number = number.wrapping_add(1);
            nr_copied = nr_copied.saturating_add(1);
        }
        (
            nr_copied,
            InputPosition {
                start: self.start,
                end: number,
            },
        )
    }

    /// Takes the characters that a `peek` has shown, unless somebody else has taken them.
    pub fn take(&mut self, seen: InputPosition) -> bool {
        let is_first = self.start == seen.start;
        if is_first {
            self.start = seen.end;
        }
        is_first
    }

    fn slot(number: u32) -> usize {
        number as usize % SIZE
    }
}

/// The characters that a reader has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputPosition {
    start: u32,
    end: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_read_in_order_and_only_when_taken() {
        let mut ring = InputRing {
            start: u32::MAX,
            end: u32::MAX,
            ..InputRing::EMPTY
        };
        let mut buffer = [0; 2];
        assert_eq!(ring.peek(&mut buffer).0, 0);
        assert!(b"abc".iter().all(|&byte| ring.push(byte)));
        for _ in 0..2 {
            assert_eq!((ring.peek(&mut buffer).0, &buffer), (2, b"ab"));
        }
        let (_, seen) = ring.peek(&mut buffer);
        assert!(ring.take(seen));
        assert!(!ring.take(seen), "somebody else was first");
        assert_eq!((ring.peek(&mut buffer).0, buffer[0]), (1, b'c'));
    }

    #[test]
    fn of_a_full_ring_the_new_ones_are_lost() {
        let mut ring = InputRing::EMPTY;
        let pushed = (0..2 * SIZE).filter(|&n| ring.push(n as u8)).count();
        assert_eq!(pushed, SIZE);
        let mut buffer = [0; 2 * SIZE];
        let (len, seen) = ring.peek(&mut buffer);
        assert_eq!(len, SIZE);
        assert!(
            buffer[..len]
                .iter()
                .enumerate()
                .all(|(n, &byte)| byte == n as u8)
        );
        assert!(ring.take(seen) && ring.push(0));
    }
}
