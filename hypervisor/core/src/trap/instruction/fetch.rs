//! Fetching an instruction from guest memory.

use dom0_abi::addr::GuestAddr;
use oxen_arch::GuestFault;

use super::MAX_LENGTH;

/// The bytes of one instruction, read once: what the decoder judges is what is carried out, whatever another vCPU
/// writes meanwhile (I12).
pub struct Fetched {
    bytes: [u8; READ],
    length: usize,
}

impl Fetched {
    /// Reads [`MAX_LENGTH`] bytes at `rip`, and no instruction has more; fewer if a page ends before and the next cannot be read.
    ///
    /// `read` fails if it cannot read all of a piece; only pieces within one page are asked for.
    pub fn read(
        rip: u64,
        mut read: impl FnMut(GuestAddr, &mut [u8]) -> Result<(), GuestFault>,
    ) -> Self {
        let mut fetched = Self {
            bytes: [0; READ],
            length: 0,
        };
        let to_page_end = PAGE.saturating_sub(rip & PAGE.saturating_sub(1));
        let first = usize::try_from(to_page_end).unwrap_or(READ).min(READ);
        let Some((head, tail)) = fetched.bytes.split_at_mut_checked(first) else {
            return fetched;
        };
        if read(GuestAddr::new(rip), head).is_err() {
            return fetched;
        }
        fetched.length = first;
        let Some(next_page) = rip.checked_add(to_page_end) else {
            return fetched;
        };
        if !tail.is_empty() && read(GuestAddr::new(next_page), tail).is_ok() {
            fetched.length = READ;
        }
        fetched
    }

    /// The bytes that could be read.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
            .get(..self.length.min(MAX_LENGTH))
            .unwrap_or_default()
    }
}

/// How much is read at once: whole words, which a copy moves faster than bytes.
const READ: usize = 16;
const PAGE: u64 = dom0_abi::addr::PAGE_SIZE as u64;

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// Memory whose byte at an address is the address's low byte, in which only one range can be read.
    fn fetch(rip: u64, readable: core::ops::Range<u64>) -> (Vec<u8>, u32) {
        let mut calls = 0;
        let fetched = Fetched::read(rip, |at, into| {
            calls += 1;
            let start = at.get();
            assert_eq!(
                start >> 12,
                (start + into.len() as u64 - 1) >> 12,
                "one page"
            );
            for (i, byte) in into.iter_mut().enumerate() {
                let at = start + i as u64;
                if !readable.contains(&at) {
                    return Err(GuestFault {
                        at: GuestAddr::new(at),
                    });
                }
                *byte = at as u8;
            }
            Ok(())
        });
        (fetched.bytes().to_vec(), calls)
    }

    #[test]
    fn page_ends() {
        for offset in 0..4096u64 {
            let rip = 0x5000 + offset;
            let all: Vec<u8> = (rip..rip + 15).map(|at| at as u8).collect();
            assert_eq!(fetch(rip, 0x5000..0x7000).0, all, "both pages");
            let (one, calls) = fetch(rip, 0x5000..0x6000);
            let expected = usize::try_from(4096 - offset).unwrap().min(15);
            assert_eq!(one, all[..expected], "second page missing");
            assert!(calls <= 2);
            assert_eq!(fetch(rip, 0x6000..0x7000).0, [], "first page missing");
        }
    }

    #[test]
    fn end_of_the_address_space() {
        let fetched = Fetched::read(u64::MAX - 2, |_, into| {
            into.fill(0xfa);
            Ok(())
        });
        assert_eq!(fetched.bytes(), [0xfa; 3]);
    }
}
