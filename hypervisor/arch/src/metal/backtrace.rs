//! Names for addresses of the image, and the chain of callers.
//!
//! `cargo xtask build` fills [`TABLE`] once the image is linked. Format: the magic, u32 capacity of the table in bytes, u32
//! count, then `count` pairs of (u32 offset from the start of the image, u32 offset of the name), ascending, then the
//! names, each ended by a zero.

use super::{layout, per_cpu};

/// Bytes that the linked image keeps free for names.
const CAPACITY: usize = 128 << 10;

/// Offsets of the fields.
const COUNT: usize = 12;
const PAIRS: usize = 16;

const fn empty_table() -> [u8; CAPACITY] {
    let mut table = [0; CAPACITY];
    let magic = *b"OXENSYMS";
    let mut index = 0;
    while index < magic.len() {
        table[index] = magic[index];
        index += 1;
    }
    let [a, b, c, d] = (CAPACITY as u32).to_le_bytes();
    table[8] = a;
    table[9] = b;
    table[10] = c;
    table[11] = d;
    table
}

// SAFETY: a section of plain bytes that only this module reads.
#[unsafe(link_section = ".oxen_symbols")]
#[used]
static TABLE: [u8; CAPACITY] = empty_table();

/// The bytes of the table, in a way that the compiler cannot foresee: they change after linking.
fn table() -> &'static [u8; CAPACITY] {
    core::hint::black_box(&TABLE)
}

fn word(at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        table().get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

/// The function that an address of the image lies in, and how far in.
fn symbol(address: u64) -> Option<(&'static str, u64)> {
    let offset = u32::try_from(address.checked_sub(layout::IMAGE)?).ok()?;
    let count = word(COUNT)? as usize;
    let pair = |index: usize| index.checked_mul(8)?.checked_add(PAIRS);
    let start_of = |index: usize| word(pair(index)?);
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        if start_of(middle)? <= offset {
            low = middle.checked_add(1)?;
        } else {
            high = middle;
        }
    }
    let index = low.checked_sub(1)?;
    let name = word(pair(index)?.checked_add(4)?)?;
    let name = table().get(pair(count)?.checked_add(name as usize)?..)?;
    let len = name.iter().position(|byte| *byte == 0)?;
    let name = core::str::from_utf8(name.get(..len)?).ok()?;
    Some((name, u64::from(offset.checked_sub(start_of(index)?)?)))
}

/// An address of the image, with the name of its function.
pub struct Symbol(pub u64);

impl core::fmt::Display for Symbol {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match symbol(self.0) {
            Some((name, offset)) => write!(f, "{:#018x} {name}+{offset:#x}", self.0),
            None => write!(f, "{:#018x}", self.0),
        }
    }
}

/// The callers of this function, the nearest first: return addresses as the chain of frame pointers has them, as long as
/// it stays within this CPU's stacks.
pub fn callers() -> impl Iterator<Item = u64> {
    let mut frame: u64;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags))
    };
    let stack: u64;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags))
    };
    let is_image_stack = stack < layout::PER_CPU;
    let top = if is_image_stack {
        u64::MAX
    } else {
        per_cpu::current_area() + layout::CPU_LOCAL_OFFSET
    };
    core::iter::from_fn(move || {
        if frame <= stack || frame > top.saturating_sub(16) || !frame.is_multiple_of(8) {
            return None;
        }
        // SAFETY: above the stack pointer and below the end of the stack, hence mapped; on the boot stack the chain ends
        // with the zero that the entry code pushed.
        let (next, address) = unsafe { (*(frame as *const u64), *((frame + 8) as *const u64)) };
        frame = if next > frame { next } else { 0 };
        (address >= layout::IMAGE).then_some(address)
    })
    .take(32)
}
