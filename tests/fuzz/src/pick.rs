//! Frames, entries and addresses that could be meant, and a few that could not.

use arbitrary::Unstructured;
use dom0_abi::addr::Mfn;

use crate::world::{ARGS, FRAMES, L1, L2, L3, LOOSE, ROOT, SHARED, USER_ROOT, World, linear};

/// Chooses by bytes of the input.
pub struct Picker<'g, 'i> {
    pub world: &'g World,
    pub input: &'g mut Unstructured<'i>,
    pub slot: usize,
}

/// The tables that a domain begins with, from L1 up.
const TABLES: [usize; 5] = [L1, L2, L3, ROOT, USER_ROOT];
/// Flags that entries have.
const FLAGS: [u64; 12] = [7, 5, 3, 1, 0x67, 0x27, 0x25, 0x65, 6, 0x1f, 0x107, 0x87];
/// Frames that are no memory, or no frames.
const ODD: [u64; 8] = [
    0,
    0xfee00,
    0xfec00,
    0xf_ffff,
    0xb8,
    0x3_ffff_ffff,
    0xff_ffff_ffff,
    u64::MAX >> 12,
];
/// Addresses where nothing of the caller's is.
const NOWHERE: [u64; 8] = [
    0,
    8,
    1 << 47,
    u64::MAX << 47,
    0xffff_8000_0000_0000,
    0xffff_87ff_ffff_fff8,
    !7,
    u64::MAX,
];

impl Picker<'_, '_> {
    fn byte(&mut self) -> u8 {
        self.input.arbitrary().unwrap_or(0)
    }

    /// One of a few.
    pub fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    /// Any word.
    pub fn word(&mut self) -> u64 {
        self.input.arbitrary().unwrap_or(0)
    }

    /// A frame.
    pub fn mfn(&mut self) -> u64 {
        let players = &self.world.players;
        let own = &players[self.slot].frames;
        let kind = self.byte() % 16;
        let mfn = match kind {
            0..6 => own[LOOSE + usize::from(self.byte()) % (FRAMES - LOOSE)],
            6..9 => own[TABLES[usize::from(self.byte()) % TABLES.len()]],
            9..11 => own[usize::from(self.byte()) % FRAMES],
            11 | 12 => {
                let byte = usize::from(self.byte());
                players[byte % 3].frames[byte / 3 % FRAMES]
            }
            13 => {
                let number: u16 = self.input.arbitrary().unwrap_or(0);
                Mfn::new(u64::from(number) % (self.world.host.frames.end().get() + 8))
            }
            14 => {
                let at = self.byte();
                let m2p = self.world.host.machine.m2p_frames().start.get();
                let odd = ODD.get(usize::from(at)).copied();
                Mfn::new(odd.unwrap_or(m2p))
            }
            _ => return self.word() >> 12,
        };
        mfn.get()
    }

    /// A frame that is a table, more likely than not.
    pub fn table(&mut self) -> u64 {
        let own = &self.world.players[self.slot].frames;
        match self.byte() % 4 {
            0 | 1 => own[TABLES[usize::from(self.byte()) % TABLES.len()]].get(),
            2 => own[LOOSE + usize::from(self.byte()) % (FRAMES - LOOSE)].get(),
            _ => self.mfn(),
        }
    }

    /// An index into a table: one of the first, mostly, where there is something.
    pub fn index(&mut self) -> u64 {
        match self.byte() {
            byte @ 0..224 => u64::from(byte) % FRAMES as u64,
            byte @ 224..240 => 250 + u64::from(byte - 224),
            byte @ 240..252 => 264 + u64::from(byte - 240),
            _ => u64::from(self.input.arbitrary::<u16>().unwrap_or(0)) % 512,
        }
    }

    /// An entry.
    pub fn entry(&mut self) -> u64 {
        match self.byte() % 16 {
            0 => 0,
            1 => self.word(),
            2 | 3 => {
                let bits: u16 = self.input.arbitrary().unwrap_or(0);
                let low = u64::from(bits & 0xfff);
                let high = u64::from(self.byte()) << 56 | u64::from(bits >> 12) << 52;
                self.mfn() << 12 | low | high
            }
            _ => {
                let flags = self.of(&FLAGS);
                self.mfn().wrapping_shl(12) | flags
            }
        }
    }

    /// An address of the caller's address space.
    pub fn address(&mut self) -> u64 {
        match self.byte() % 8 {
            0..3 => linear(usize::from(self.byte()) % FRAMES),
            3 | 4 => linear(L1) + self.index() * 8,
            5 => linear(ARGS) + u64::from(self.input.arbitrary::<u16>().unwrap_or(0)),
            6 => self.of(&NOWHERE),
            _ => self.word(),
        }
    }

    /// The argument of calls that says whose tables and whose pages.
    pub fn foreign(&mut self) -> u64 {
        const OWN: u64 = 0x7ff0;
        let byte = self.byte();
        let id = |index: u8| {
            let player = &self.world.players[usize::from(index) % 3];
            u64::from(player.id.get())
        };
        match byte {
            0..200 => OWN,
            200..216 => id(byte),
            216..224 => (id(byte) + 1) << 16 | id(byte),
            224..232 => (id(byte) + 1) << 16 | OWN,
            232..236 => 0x7ff1,
            236..240 => 0x7ff2,
            240..244 => 0x7ff4,
            _ => self.input.arbitrary::<u32>().unwrap_or(0).into(),
        }
    }

    /// Where a call is to tell how much it did.
    pub fn done(&mut self) -> u64 {
        match self.byte() {
            0..160 => 0,
            160..224 => linear(SHARED + 2) + 0x800,
            _ => self.address(),
        }
    }

    /// The count of a list of so many requests.
    pub fn count(&mut self, length: usize) -> u64 {
        let length = length as u64;
        match self.byte() {
            0..232 => length,
            232..240 => length | 1 << 31,
            240..246 => length + 1,
            _ => self.word(),
        }
    }
}
