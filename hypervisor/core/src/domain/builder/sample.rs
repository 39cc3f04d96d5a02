//! A small PV kernel, made up: what the tests of the builder build.

use std::vec;
use std::vec::Vec;

/// One Xen note.
pub fn note(kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for field in [4, desc.len() as u32, kind] {
        note.extend_from_slice(&field.to_le_bytes());
    }
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(desc);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

/// One Xen note that holds a number of 8 bytes.
pub fn numeric(kind: u32, value: u64) -> Vec<u8> {
    note(kind, &value.to_le_bytes())
}

/// Where an ELF file says what.
pub const E_TYPE: usize = 16;
pub const E_MACHINE: usize = 18;
pub const PROGRAM_HEADERS: usize = 64;
pub const PROGRAM_HEADER: usize = 56;

/// A segment to load.
#[derive(Clone)]
pub struct Load {
    pub vaddr: u64,
    pub paddr: u64,
    pub memory: u64,
    pub bytes: Vec<u8>,
}

/// An ELF file to be.
#[derive(Clone)]
pub struct Sample {
    pub entry: u64,
    pub notes: Vec<Vec<u8>>,
    pub loads: Vec<Load>,
    /// The notes are found through a section, not a segment.
    pub notes_in_section: bool,
}

pub const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;

impl Sample {
    /// A kernel as Linux's, only small: text and data with a hole between, the latter longer in memory, and a segment
    /// whose virtual address means something else.
    pub fn new() -> Self {
        let text: Vec<u8> = (0..0x1800u32).map(|n| (n % 251) as u8).collect();
        Self {
            entry: 0x10_0000,
            notes: vec![
                note(6, b"sample\0"),
                note(5, b"xen-3.0\0"),
                note(8, b"generic\0"),
                numeric(3, VIRT_BASE),
                numeric(4, 0),
                numeric(1, VIRT_BASE + 0x10_0010),
            ],
            loads: vec![
                Load {
                    vaddr: VIRT_BASE + 0x10_0000,
                    paddr: 0x10_0000,
                    memory: 0x1800,
                    bytes: text,
                },
                Load {
                    vaddr: 0,
                    paddr: 0x10_4800,
                    memory: 0x3000,
                    bytes: vec![0x5a; 0x900],
                },
            ],
            notes_in_section: false,
        }
    }

    pub fn with_note(mut self, note: Vec<u8>) -> Self {
        self.notes.push(note);
        self
    }

    /// The bytes of the file.
    pub fn file(&self) -> Vec<u8> {
        let notes = self.notes.concat();
        let nr_headers = self.loads.len() + usize::from(!self.notes_in_section);
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(E_TYPE, 0);
        let half = |file: &mut Vec<u8>, value: u16| file.extend_from_slice(&value.to_le_bytes());
        let word = |file: &mut Vec<u8>, value: u32| file.extend_from_slice(&value.to_le_bytes());
        let long = |file: &mut Vec<u8>, value: u64| file.extend_from_slice(&value.to_le_bytes());
        half(&mut file, 2);
        half(&mut file, 62);
        word(&mut file, 1);
        long(&mut file, self.entry);
        long(&mut file, PROGRAM_HEADERS as u64);
        let mut at = PROGRAM_HEADERS + nr_headers * PROGRAM_HEADER;
        // Sections stand where the segments' bytes would begin.
        long(&mut file, if self.notes_in_section { at as u64 } else { 0 });
        word(&mut file, 0);
        for value in [
            64,
            56,
            nr_headers as u16,
            64,
            if self.notes_in_section { 1 } else { 0 },
            0,
        ] {
            half(&mut file, value);
        }
        assert_eq!(file.len(), PROGRAM_HEADERS);
        let mut body = Vec::new();
        if self.notes_in_section {
            word(&mut body, 0);
            word(&mut body, 7);
            for value in [0, 0, at as u64 + 64, notes.len() as u64] {
                long(&mut body, value);
            }
            body.resize(64, 0);
            at += 64;
        }
        let mut header = |kind: u32, bytes: &[u8], paddr: u64, vaddr: u64, memory: u64| {
            word(&mut file, kind);
            word(&mut file, 7);
            let bytes_len = bytes.len() as u64;
            for value in [at as u64, vaddr, paddr, bytes_len, memory, 4] {
                long(&mut file, value);
            }
            body.extend_from_slice(bytes);
            at += bytes.len();
        };
        if !self.notes_in_section {
            header(4, &notes, 0, 0, notes.len() as u64);
        }
        for load in &self.loads {
            header(1, &load.bytes, load.paddr, load.vaddr, load.memory);
        }
        if self.notes_in_section {
            // The section's bytes must come right behind its header.
            body.splice(64..64, notes.iter().copied());
            let moved = notes.len() as u64;
            for segment in 0..self.loads.len() {
                let field = PROGRAM_HEADERS + segment * PROGRAM_HEADER + 8;
                let offset = u64::from_le_bytes(file[field..field + 8].try_into().unwrap());
                file[field..field + 8].copy_from_slice(&(offset + moved).to_le_bytes());
            }
        }
        file.extend_from_slice(&body);
        file
    }
}
