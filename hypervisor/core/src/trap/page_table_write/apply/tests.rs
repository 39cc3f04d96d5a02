//! What the instructions do, against a model of the manual that works bit by bit, and against others that write to the same
//! entry.

use std::vec::Vec;

use proptest::prelude::*;
use zerocopy::FromZeros;

use super::super::decode::{Base, Memory};
use super::*;
use crate::trap::instruction::Segment;

const OPERATIONS: [Operation; 11] = [
    Operation::Move,
    Operation::Exchange,
    Operation::And,
    Operation::Or,
    Operation::Xor,
    Operation::Add,
    Operation::Subtract,
    Operation::ExchangeAdd,
    Operation::CompareExchange,
    Operation::SetBit,
    Operation::ResetBit,
];
const SIZES: [Size; 4] = [Size::Byte, Size::Word, Size::Dword, Size::Qword];
const ALL_FLAGS: u64 = 0x3f_7fd7;

fn instruction(operation: Operation, size: Size, source: Source) -> PageTableWrite {
    PageTableWrite {
        operation,
        size,
        source,
        memory: Memory {
            base: Base::Zero,
            index: None,
            displacement: 0,
            segment: Segment::Flat,
        },
        length: 3,
    }
}

/// Whether there is such an instruction.
fn exists(write: &PageTableWrite) -> bool {
    let has_immediate = matches!(write.source, Source::Immediate(_));
    match write.operation {
        Operation::Exchange | Operation::ExchangeAdd | Operation::CompareExchange
            if has_immediate =>
        {
            false
        }
        Operation::SetBit | Operation::ResetBit if write.size == Size::Byte => false,
        _ => write.size == Size::Byte || !matches!(write.source, Source::HighByte(_)),
    }
}

/// A number as its bits, the lowest first.
type Bits = Vec<bool>;

fn bits(bytes: &[u8]) -> Bits {
    let of = |byte: u8| (0..8).map(move |bit| byte & (1 << bit) != 0);
    bytes.iter().copied().flat_map(of).collect()
}

fn bytes(bits: &[bool]) -> Vec<u8> {
    let byte = |bits: &[bool]| (0..8).map(|bit| u8::from(bits[bit]) << bit).sum();
    bits.chunks(8).map(byte).collect()
}

/// The flags that arithmetic changes.
#[derive(Default)]
struct Status {
    cf: bool,
    pf: bool,
    af: Option<bool>,
    zf: bool,
    sf: bool,
    of: bool,
}

impl Status {
    fn of_result(result: &[bool]) -> Self {
        Self {
            pf: result[..8].iter().filter(|bit| **bit).count() % 2 == 0,
            zf: !result.contains(&true),
            sf: *result.last().unwrap(),
            ..Self::default()
        }
    }

    fn put(&self, rflags: &mut u64) {
        let af = self.af.unwrap_or(*rflags & 0x10 != 0);
        for (bit, flag) in [
            (0, self.cf),
            (2, self.pf),
            (4, af),
            (6, self.zf),
            (7, self.sf),
            (11, self.of),
        ] {
            *rflags = *rflags & !(1 << bit) | u64::from(flag) << bit;
        }
    }
}

/// Adds column by column.
fn add(a: &[bool], b: &[bool], mut carry: bool) -> (Bits, Status) {
    let (mut sum, mut carries) = (Bits::new(), Bits::new());
    for (&a, &b) in a.iter().zip(b) {
        let ones = u8::from(a) + u8::from(b) + u8::from(carry);
        sum.push(ones % 2 == 1);
        carry = ones >= 2;
        carries.push(carry);
    }
    let into_sign = carries[carries.len() - 2];
    let status = Status {
        cf: carry,
        af: Some(carries[3]),
        of: carry != into_sign,
        ..Status::of_result(&sum)
    };
    (sum, status)
}

/// Adds the complement; a borrow is a carry that is missing.
fn subtract(a: &[bool], b: &[bool]) -> (Bits, Status) {
    let complement: Bits = b.iter().map(|bit| !bit).collect();
    let (difference, status) = add(a, &complement, true);
    let status = Status {
        cf: !status.cf,
        af: status.af.map(|af| !af),
        ..status
    };
    (difference, status)
}

fn put_register(regs: &mut CpuUserRegs, gpr: Gpr, first_byte: usize, value: &[u8]) {
    let mut register = gpr.read(regs).to_le_bytes();
    if value.len() == 4 {
        register = [0; 8];
    }
    register[first_byte..first_byte + value.len()].copy_from_slice(value);
    gpr.write(regs, u64::from_le_bytes(register));
}

/// The manual: changes eight bytes of memory and the registers, as if nobody else were there.
fn model(write: &PageTableWrite, offset: usize, memory: &mut [u8; 8], regs: &mut CpuUserRegs) {
    let count = write.size.bytes() as usize;
    let before = bits(&memory[offset..offset + count]);
    let (place, value) = match write.source {
        Source::Register(gpr) => (Some((gpr, 0)), gpr.read(regs).to_le_bytes()),
        Source::HighByte(gpr) => {
            let high = gpr.read(regs).to_le_bytes()[1];
            (Some((gpr, 1)), [high; 8])
        }
        Source::Immediate(value) => (None, i64::from(value).to_le_bytes()),
    };
    let source = bits(&value[..count]);
    let pairwise = |both: fn(bool, bool) -> bool| -> (Bits, Status) {
        let result: Bits = before
            .iter()
            .zip(&source)
            .map(|(a, b)| both(*a, *b))
            .collect();
        let status = Status::of_result(&result);
        (result, status)
    };
    let selected = usize::from(value[0]) % before.len();
    let mut rflags = regs.rflags;
    let mut after = before.clone();
    match write.operation {
        Operation::Move => after = source,
        Operation::Exchange => {
            after = source;
            let (gpr, first_byte) = place.unwrap();
            put_register(regs, gpr, first_byte, &bytes(&before));
        }
        Operation::SetBit | Operation::ResetBit => {
            rflags = rflags & !1 | u64::from(before[selected]);
            after[selected] = write.operation == Operation::SetBit;
        }
        Operation::CompareExchange => {
            let accumulator = bits(&regs.rax.to_le_bytes()[..count]);
            let (_, status) = subtract(&accumulator, &before);
            status.put(&mut rflags);
            if status.zf {
                after = source;
            } else {
                put_register(regs, Gpr::RAX, 0, &bytes(&before));
            }
        }
        Operation::ExchangeAdd => {
            let (sum, status) = add(&before, &source, false);
            status.put(&mut rflags);
            after = sum;
            let (gpr, first_byte) = place.unwrap();
            put_register(regs, gpr, first_byte, &bytes(&before));
        }
        arithmetic => {
            let (result, status) = match arithmetic {
                Operation::And => pairwise(|a, b| a && b),
                Operation::Or => pairwise(|a, b| a || b),
                Operation::Xor => pairwise(|a, b| a != b),
                Operation::Add => add(&before, &source, false),
                _ => subtract(&before, &source),
            };
            status.put(&mut rflags);
            after = result;
        }
    }
    regs.rflags = rflags;
    memory[offset..offset + count].copy_from_slice(&bytes(&after));
}

/// Carries an instruction out while nobody else writes.
fn alone(write: &PageTableWrite, offset: u64, entry: &mut u64, regs: &mut CpuUserRegs) {
    let work = Write::new(write, regs, 0x1000 + offset).unwrap();
    let replaced = work.exchange::<()>(*entry, |old, new| {
        assert_eq!(old, *entry);
        *entry = new;
        Ok(Exchanged::Done)
    });
    work.finish(regs, replaced.unwrap().unwrap());
}

fn check(write: &PageTableWrite, offset: usize, entry: u64, regs: &CpuUserRegs) {
    let (mut ours, mut our_regs) = (entry, *regs);
    alone(write, offset as u64, &mut ours, &mut our_regs);
    let (mut memory, mut model_regs) = (entry.to_le_bytes(), *regs);
    model(write, offset, &mut memory, &mut model_regs);
    let context = (write, offset, entry, regs);
    assert_eq!(ours, u64::from_le_bytes(memory), "{context:x?}");
    assert_eq!(our_regs, model_regs, "{context:x?}");
}

#[test]
fn all_pairs_of_bytes() {
    let mut regs = CpuUserRegs::new_zeroed();
    for operation in OPERATIONS {
        let write = instruction(operation, Size::Byte, Source::Register(Gpr::new(3)));
        if !exists(&write) {
            continue;
        }
        for a in 0..=u8::MAX {
            for b in 0..=u8::MAX {
                regs.rbx = 0x1111_2222_3333_4400 | u64::from(b);
                // Compared with another number half of the time, and with its own half of that.
                regs.rax = 0xaaaa_bbbb_cccc_dd00 | u64::from(if a & 1 == 0 { b } else { a });
                regs.rflags = if b & 1 == 0 { ALL_FLAGS } else { 0 };
                let entry = u64::from_le_bytes([1, 2, 3, a, 5, 6, 7, 8]);
                check(&write, 3, entry, &regs);
            }
        }
    }
}

#[test]
fn all_bits_of_all_sizes() {
    let mut regs = CpuUserRegs::new_zeroed();
    for operation in [Operation::SetBit, Operation::ResetBit] {
        for size in [Size::Word, Size::Dword, Size::Qword] {
            for number in 0..=u8::MAX {
                for entry in [0, u64::MAX, 0x8000_0000_5a5a_0067] {
                    regs.rflags = ALL_FLAGS;
                    regs.rdx = u64::from(number) | 0xffff_ff00;
                    let register = Source::Register(Gpr::new(2));
                    check(&instruction(operation, size, register), 0, entry, &regs);
                    let immediate = Source::Immediate(i32::from(number as i8));
                    check(&instruction(operation, size, immediate), 0, entry, &regs);
                }
            }
        }
    }
}

/// Figures worked out by hand, in case that model and code share a mistake.
#[test]
fn by_hand() {
    let mut regs = CpuUserRegs::new_zeroed();
    let mut entry = 0x8000_0001_2345_6067;
    // lock andb $0xfd
    regs.rflags = 0x202 | CF | OF | ZF | AF;
    let write = instruction(Operation::And, Size::Byte, Source::Immediate(-3));
    alone(&write, 0, &mut entry, &mut regs);
    assert_eq!(entry, 0x8000_0001_2345_6065);
    assert_eq!(regs.rflags, 0x202 | PF | AF);
    // lock btr $5
    let write = instruction(Operation::ResetBit, Size::Qword, Source::Immediate(5));
    alone(&write, 0, &mut entry, &mut regs);
    assert_eq!(entry, 0x8000_0001_2345_6045);
    assert_eq!(regs.rflags, 0x202 | PF | AF | CF);
    // xchg
    let write = instruction(
        Operation::Exchange,
        Size::Qword,
        Source::Register(Gpr::new(6)),
    );
    alone(&write, 0, &mut entry, &mut regs);
    assert_eq!((entry, regs.rsi), (0, 0x8000_0001_2345_6045));
    // cmpxchg of four bytes that fails: the entry stays, eax is loaded, and the upper half of rax cleared
    entry = 0x1_8000_0000;
    regs.rax = 0xffff_ffff_7fff_ffff;
    let register = Source::Register(Gpr::new(1));
    let write = instruction(Operation::CompareExchange, Size::Dword, register);
    alone(&write, 0, &mut entry, &mut regs);
    assert_eq!((entry, regs.rax), (0x1_8000_0000, 0x8000_0000));
    assert_eq!(regs.rflags, 0x202 | CF | OF | SF | PF);
    // and that succeeds: the upper half stays
    (regs.rax, regs.rcx) = (0x5_8000_0000, 7);
    alone(&write, 0, &mut entry, &mut regs);
    assert_eq!((entry, regs.rax), (0x1_0000_0007, 0x5_8000_0000));
    assert_eq!(regs.rflags, 0x202 | ZF | PF);
    // xadd of a high byte
    regs.rdx = 0xff00;
    let write = instruction(
        Operation::ExchangeAdd,
        Size::Byte,
        Source::HighByte(Gpr::new(2)),
    );
    alone(&write, 4, &mut entry, &mut regs);
    assert_eq!((entry, regs.rdx), (7, 0x100));
    assert_eq!(regs.rflags, 0x202 | CF | AF | ZF | PF);
}

#[test]
fn an_operand_is_within_one_entry_or_none_of_ours() {
    let regs = CpuUserRegs::new_zeroed();
    for size in SIZES {
        let write = instruction(Operation::Move, size, Source::Immediate(-1));
        for start in [0x7000, 0, u64::MAX - 7] {
            for offset in 0..8 {
                let is_within = offset + size.bytes() <= 8;
                let work = Write::new(&write, &regs, start + offset);
                assert_eq!(work.is_some(), is_within, "{size:?} at {offset}");
                if let Some(work) = work {
                    let mut expected = [0; 8];
                    expected[offset as usize..][..size.bytes() as usize].fill(0xff);
                    assert_eq!(work.replacement(0), Some(u64::from_le_bytes(expected)));
                }
            }
        }
    }
}

#[test]
fn i18_an_entry_that_always_changes_is_left_alone_after_a_while() {
    let regs = CpuUserRegs::new_zeroed();
    for operation in OPERATIONS {
        let register = Source::Register(Gpr::new(3));
        let write = instruction(operation, Size::Qword, register);
        let work = Write::new(&write, &regs, 0x1000).unwrap();
        let mut calls = 0;
        // What `cmpxchg` compares with is 0, so it never writes for long.
        let result = work.exchange::<()>(0, |_, _| {
            calls += 1;
            let now = if operation == Operation::CompareExchange {
                0
            } else {
                u64::from(calls)
            };
            Ok(Exchanged::Changed(now))
        });
        assert_eq!(result, Ok(None), "{operation:?}");
        assert_eq!(calls, ATTEMPTS);
    }
}

#[test]
fn i9_a_refused_write_is_tried_once_and_changes_nothing() {
    for operation in OPERATIONS {
        let mut regs = CpuUserRegs::new_zeroed();
        (regs.rbx, regs.rflags) = (0x1234, ALL_FLAGS);
        let before = regs;
        let register = Source::Register(Gpr::new(3));
        let write = instruction(operation, Size::Qword, register);
        let work = Write::new(&write, &regs, 0x1000).unwrap();
        let mut calls = 0;
        let result = work.exchange(0, |_, _| {
            calls += 1;
            Err("refused")
        });
        assert_eq!((result, calls), (Err("refused"), 1));
        assert_eq!(regs, before);
    }
}

#[test]
fn a_comparison_that_fails_writes_nothing() {
    let mut regs = CpuUserRegs::new_zeroed();
    regs.rax = 5;
    let register = Source::Register(Gpr::new(3));
    let write = instruction(Operation::CompareExchange, Size::Qword, register);
    let work = Write::new(&write, &regs, 0x1000).unwrap();
    let never = |_, _| -> Result<Exchanged, ()> { panic!("written") };
    assert_eq!(work.exchange(4, never), Ok(Some(4)));
    // Nor if it fails at the second look.
    let mut calls = 0;
    let result = work.exchange::<()>(5, |_, _| {
        calls += 1;
        Ok(Exchanged::Changed(6))
    });
    assert_eq!((result, calls), (Ok(Some(6)), 1));
}

fn any_write() -> impl Strategy<Value = PageTableWrite> {
    let source = prop_oneof![
        4 => (0..16u8).prop_map(|number| Source::Register(Gpr::new(number))),
        1 => (0..4u8).prop_map(|number| Source::HighByte(Gpr::new(number))),
        2 => any::<i32>().prop_map(Source::Immediate),
        2 => any::<i8>().prop_map(|value| Source::Immediate(value.into())),
    ];
    let operation = prop::sample::select(&OPERATIONS[..]);
    let size = prop::sample::select(&SIZES[..]);
    (operation, size, source)
        .prop_map(|(operation, size, source)| instruction(operation, size, source))
        .prop_filter("exists", exists)
}

/// Numbers whose sums and differences go over the edges.
fn number() -> impl Strategy<Value = u64> {
    let edge = (0..64u32, -2..=2i64).prop_map(|(bit, by)| (1_u64 << bit).wrapping_add_signed(by));
    prop_oneof![any::<u64>(), edge]
}

fn registers() -> impl Strategy<Value = CpuUserRegs> {
    (prop::array::uniform16(number()), any::<u64>()).prop_map(|(values, rflags)| {
        let mut regs = CpuUserRegs::new_zeroed();
        for (number, value) in (0..).zip(values) {
            Gpr::new(number).write(&mut regs, value);
        }
        regs.rflags = rflags;
        regs
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50_000))]

    #[test]
    fn as_the_manual_says(
        write in any_write(),
        offset in 0..8usize,
        entry in number(),
        mut regs in registers(),
        compares_equal: bool,
    ) {
        let offset = offset.min(8 - write.size.bytes() as usize);
        if compares_equal {
            regs.rax = regs.rax & !write.size.mask() | entry >> (8 * offset) & write.size.mask();
        }
        check(&write, offset, entry, &regs);
    }

    /// Whatever others make of the entry before each exchange: the one that succeeds is the manual's for what it replaces.
    #[test]
    fn others_write_to_the_entry_too(
        write in any_write(),
        regs in registers(),
        others in prop::collection::vec(prop_oneof![number(), Just(0x20), Just(0x40)], 0..ATTEMPTS as usize),
        first in number(),
    ) {
        let work = Write::new(&write, &regs, 0x2000).unwrap();
        let mut memory = first;
        let mut others = others.into_iter();
        let replaced = work.exchange::<()>(first, |old, new| {
            // The others are a CPU that sets accessed or dirty, or another one that writes.
            match others.next() {
                Some(bits @ (0x20 | 0x40)) => memory |= bits,
                Some(entry) => memory = entry,
                None => {}
            }
            if memory != old {
                return Ok(Exchanged::Changed(memory));
            }
            memory = new;
            Ok(Exchanged::Done)
        });
        let old = replaced.unwrap().expect("there are fewer others than attempts");
        let mut ours = regs;
        work.finish(&mut ours, old);
        let (mut expected, mut model_regs) = (old.to_le_bytes(), regs);
        model(&write, 0, &mut expected, &mut model_regs);
        prop_assert_eq!(memory, u64::from_le_bytes(expected));
        prop_assert_eq!(ours, model_regs);
    }
}
