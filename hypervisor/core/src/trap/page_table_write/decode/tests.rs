//! The decoder against two independent ones, each turned into the same words; the short way against the general one.

mod addresses;

use std::collections::BTreeSet;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// As the hypervisor decodes: the short way, if there are bytes enough for it, else the general one.
fn decode(bytes: &[u8]) -> Option<PageTableWrite> {
    head_of(bytes).and_then(quick).or_else(|| general(bytes))
}

fn head_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|head| u64::from_le_bytes(*head))
}

const GPR_NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const HIGH_NAMES: [&str; 4] = ["ah", "ch", "dh", "bh"];

/// An instruction in words: what, how many bytes, with what, where, how long.
fn sentence(
    name: &str,
    size: u64,
    source: &str,
    (base, index, displacement, segment): (&str, String, i64, &str),
    length: usize,
) -> String {
    format!("{name} {size} {source} [{base} {index} {displacement} {segment}] / {length}")
}

/// Ours, in words. Addresses that count from the end of the instruction are given from its start, where it is 0.
fn words(write: PageTableWrite) -> String {
    let gpr = |gpr: Gpr| GPR_NAMES[usize::from(gpr.number())];
    let name = match write.operation {
        Operation::Move => "mov",
        Operation::Exchange => "xchg",
        Operation::And => "and",
        Operation::Or => "or",
        Operation::Xor => "xor",
        Operation::Add => "add",
        Operation::Subtract => "sub",
        Operation::ExchangeAdd => "xadd",
        Operation::CompareExchange => "cmpxchg",
        Operation::SetBit => "bts",
        Operation::ResetBit => "btr",
    };
    let source = match write.source {
        Source::Register(register) => gpr(register).to_string(),
        Source::HighByte(register) => HIGH_NAMES[usize::from(register.number())].to_string(),
        Source::Immediate(value) => value.to_string(),
    };
    let memory = write.memory;
    let mut displacement = i64::from(memory.displacement);
    let base = match memory.base {
        Base::Zero => "0",
        Base::Register(register) => gpr(register),
        Base::NextInstruction => {
            displacement += i64::from(write.length);
            "rip"
        }
    };
    let index = memory.index.map_or("-".into(), |index| {
        format!("{}*{}", gpr(index.register), 1 << index.shift)
    });
    let segment = match memory.segment {
        Segment::Flat => "flat",
        Segment::Fs => "fs",
        Segment::Gs => "gs",
    };
    sentence(
        name,
        write.size.bytes(),
        &source,
        (base, index, displacement, segment),
        write.length.into(),
    )
}

/// What iced-x86 says; `None` for errors and for what is not on the list.
fn iced(bytes: &[u8]) -> Option<String> {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let is_repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    if instruction.is_invalid() || is_repeated || instruction.op0_kind() != OpKind::Memory {
        return None;
    }
    let name = match instruction.mnemonic() {
        Mnemonic::Mov => "mov",
        Mnemonic::Xchg => "xchg",
        Mnemonic::And => "and",
        Mnemonic::Or => "or",
        Mnemonic::Xor => "xor",
        Mnemonic::Add => "add",
        Mnemonic::Sub => "sub",
        Mnemonic::Xadd => "xadd",
        Mnemonic::Cmpxchg => "cmpxchg",
        Mnemonic::Bts => "bts",
        Mnemonic::Btr => "btr",
        _ => return None,
    };
    let full = |register: Register| format!("{:?}", register.full_register()).to_lowercase();
    let source = match instruction.op1_kind() {
        OpKind::Register => match instruction.op1_register() {
            register @ (Register::AH | Register::CH | Register::DH | Register::BH) => {
                format!("{register:?}").to_lowercase()
            }
            register if register.is_gpr() => full(register),
            // A segment register, or a special one.
            _ => return None,
        },
        // The number of a bit has no sign, but a byte that is an operand's equal has.
        OpKind::Immediate8 => (instruction.immediate8() as i8).to_string(),
        OpKind::Immediate16 => (instruction.immediate16() as i16).to_string(),
        OpKind::Immediate32 => (instruction.immediate32() as i32).to_string(),
        _ => (instruction.immediate(1) as i64).to_string(),
    };
    let base = instruction.memory_base();
    let uses_32_bits = |register: Register| register.is_gpr32() || register == Register::EIP;
    if uses_32_bits(base)
        || uses_32_bits(instruction.memory_index())
        || (base == Register::None && instruction.memory_displ_size() == 4)
    {
        return None;
    }
    let memory = (
        match base {
            Register::None => "0".to_string(),
            Register::RIP => "rip".to_string(),
            register => full(register),
        },
        match instruction.memory_index() {
            Register::None => "-".to_string(),
            register => format!("{}*{}", full(register), instruction.memory_index_scale()),
        },
        instruction.memory_displacement64() as i64,
        match instruction.segment_prefix() {
            Register::FS => "fs",
            Register::GS => "gs",
            _ => "flat",
        },
    );
    let size = instruction.memory_size().size() as u64;
    Some(sentence(
        name,
        size,
        &source,
        (&memory.0, memory.1, memory.2, memory.3),
        instruction.len(),
    ))
}

/// What yaxpeax-x86 says; `None` for errors and for what is not on the list. It takes the operand of `bts` and `btr` with an
/// immediate for one of eight bytes always, so the size of those is not its own.
fn yaxpeax(bytes: &[u8], size_for_bits: Size) -> Option<String> {
    use yaxpeax_arch::LengthedInstruction;
    use yaxpeax_x86::long_mode::register_class::{B, D, Q, RB, W};
    use yaxpeax_x86::long_mode::{InstDecoder, Opcode, Operand, RegSpec, Segment};
    let instruction = InstDecoder::default().decode_slice(bytes).ok()?;
    let prefixes = instruction.prefixes;
    if prefixes.rep() || prefixes.repnz() || prefixes.address_size() {
        return None;
    }
    let name = match instruction.opcode() {
        Opcode::MOV => "mov",
        Opcode::XCHG => "xchg",
        Opcode::AND => "and",
        Opcode::OR => "or",
        Opcode::XOR => "xor",
        Opcode::ADD => "add",
        Opcode::SUB => "sub",
        Opcode::XADD => "xadd",
        Opcode::CMPXCHG => "cmpxchg",
        Opcode::BTS => "bts",
        Opcode::BTR => "btr",
        _ => return None,
    };
    let length = instruction.len().to_const() as usize;
    let gpr = |register: RegSpec| match register {
        register if register == RegSpec::rip() => "rip".to_string(),
        register => GPR_NAMES[usize::from(register.num())].to_string(),
    };
    let scaled = |register, scale: u8| format!("{}*{scale}", gpr(register));
    let none = || "-".to_string();
    let (base, index, displacement) = match instruction.operand(0) {
        Operand::AbsoluteU32 { addr } => ("0".into(), none(), i64::from(addr as i32)),
        Operand::MemDeref { base } => (gpr(base), none(), 0),
        Operand::Disp { base, disp } => (gpr(base), none(), i64::from(disp)),
        Operand::MemIndexScale { index, scale } => ("0".into(), scaled(index, scale), 0),
        Operand::MemIndexScaleDisp { index, scale, disp } => {
            ("0".into(), scaled(index, scale), i64::from(disp))
        }
        Operand::MemBaseIndexScale { base, index, scale } => (gpr(base), scaled(index, scale), 0),
        Operand::MemBaseIndexScaleDisp {
            base,
            index,
            scale,
            disp,
        } => (gpr(base), scaled(index, scale), i64::from(disp)),
        _ => return None,
    };
    let displacement = displacement + if base == "rip" { length as i64 } else { 0 };
    let source = match instruction.operand(1) {
        Operand::Register { reg } if reg.class() == B && reg.num() >= 4 => {
            HIGH_NAMES[usize::from(reg.num() - 4)].to_string()
        }
        Operand::Register { reg } if [B, RB, W, D, Q].contains(&reg.class()) => gpr(reg),
        Operand::ImmediateI8 { imm } => imm.to_string(),
        Operand::ImmediateU8 { imm } => (imm as i8).to_string(),
        Operand::ImmediateI16 { imm } => imm.to_string(),
        Operand::ImmediateU16 { imm } => (imm as i16).to_string(),
        Operand::ImmediateI32 { imm } => imm.to_string(),
        Operand::ImmediateU32 { imm } => (imm as i32).to_string(),
        Operand::ImmediateI64 { imm } => imm.to_string(),
        _ => return None,
    };
    let segment = match prefixes.segment() {
        Segment::FS => "fs",
        Segment::GS => "gs",
        _ => "flat",
    };
    let size = match (instruction.opcode(), instruction.operand(1)) {
        (Opcode::BTS | Opcode::BTR, Operand::ImmediateI8 { .. } | Operand::ImmediateU8 { .. }) => {
            size_for_bits.bytes()
        }
        _ => u64::from(instruction.mem_size()?.bytes_size()?),
    };
    Some(sentence(
        name,
        size,
        &source,
        (&base, index, displacement, segment),
        length,
    ))
}

fn check(bytes: &[u8]) -> Option<PageTableWrite> {
    let write = decode(bytes)?;
    let ours = Some(words(write));
    assert_eq!(ours, iced(bytes), "iced on {bytes:02x?}");
    assert_eq!(ours, yaxpeax(bytes, write.size), "yaxpeax on {bytes:02x?}");
    assert_eq!(
        Some(write),
        general(bytes),
        "the general way on {bytes:02x?}"
    );
    Some(write)
}

/// Prefixes that change nothing or one thing: two of the same kind come in the tests too.
const LEGACY: [u8; 8] = [0x66, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0xf0];

/// All sequences of up to two legacy prefixes.
fn legacy_sequences() -> BTreeSet<Vec<u8>> {
    let mut sequences = BTreeSet::from([Vec::new()]);
    for _ in 0..2 {
        for shorter in sequences.clone() {
            for prefix in LEGACY {
                let mut longer = shorter.clone();
                longer.push(prefix);
                sequences.insert(longer);
            }
        }
    }
    sequences.retain(|sequence| sequence.len() <= 2);
    sequences
}

/// Opcodes on the list, the middle fields of ModRM that belong to it, and the bytes of an immediate for operands of one,
/// two, and more bytes. Written down once more, from the manual's opcode map.
const FORMS: &[(&[u8], &[u8], [usize; 3])] = &[
    (&[0x00], &ALL, [0; 3]),
    (&[0x01], &ALL, [0; 3]),
    (&[0x08], &ALL, [0; 3]),
    (&[0x09], &ALL, [0; 3]),
    (&[0x20], &ALL, [0; 3]),
    (&[0x21], &ALL, [0; 3]),
    (&[0x28], &ALL, [0; 3]),
    (&[0x29], &ALL, [0; 3]),
    (&[0x30], &ALL, [0; 3]),
    (&[0x31], &ALL, [0; 3]),
    (&[0x80], &[0, 1, 4, 5, 6], [1; 3]),
    (&[0x81], &[0, 1, 4, 5, 6], [1, 2, 4]),
    (&[0x83], &[0, 1, 4, 5, 6], [1; 3]),
    (&[0x86], &ALL, [0; 3]),
    (&[0x87], &ALL, [0; 3]),
    (&[0x88], &ALL, [0; 3]),
    (&[0x89], &ALL, [0; 3]),
    (&[0xc6], &[0], [1; 3]),
    (&[0xc7], &[0], [1, 2, 4]),
    (&[0x0f, 0xab], &ALL, [0; 3]),
    (&[0x0f, 0xb3], &ALL, [0; 3]),
    (&[0x0f, 0xba], &[5, 6], [1; 3]),
    (&[0x0f, 0xb0], &ALL, [0; 3]),
    (&[0x0f, 0xb1], &ALL, [0; 3]),
    (&[0x0f, 0xc0], &ALL, [0; 3]),
    (&[0x0f, 0xc1], &ALL, [0; 3]),
];
const ALL: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
/// What follows, whatever it means.
const TAIL: [u8; 9] = [0x92, 0x81, 0x73, 0xf4, 0x65, 0x0f, 0x57, 0xc8, 0x39];

fn is_move(opcode: &[u8]) -> bool {
    matches!(opcode, [0x88 | 0x89 | 0xc6 | 0xc7])
}

#[test]
fn each_form_with_each_prefix_and_each_mod_rm() {
    let sequences = legacy_sequences();
    assert_eq!(sequences.len(), 73);
    for (opcode, middles, immediates) in FORMS {
        for legacy in &sequences {
            let locked = legacy.contains(&0xf0);
            for rex in [None].into_iter().chain((0x40..=0x4f).map(Some)) {
                for mod_rm in 0..=u8::MAX {
                    let head: Vec<u8> = legacy.iter().copied().chain(rex).collect();
                    let mut bytes = head.clone();
                    bytes.extend_from_slice(opcode);
                    bytes.push(mod_rm);
                    bytes.extend(TAIL);
                    let is_legal = mod_rm < 0xc0
                        && middles.contains(&(mod_rm >> 3 & 7))
                        && !(locked && is_move(opcode));
                    let write = decode(&bytes);
                    assert_eq!(write.is_some(), is_legal, "{bytes:02x?}");
                    let Some(write) = write else { continue };
                    // Two prefixes with one operand: how they combine has nothing to do with it.
                    if legacy.len() < 2 || mod_rm & 0xc7 == 3 {
                        check(&bytes);
                    }
                    let (mode, low) = (mod_rm >> 6, mod_rm & 7);
                    let has_sib = low == 4;
                    let no_base = mode == 0 && (low == 5 || (has_sib && TAIL[0] & 7 == 5));
                    let expected = head.len()
                        + opcode.len()
                        + 1
                        + usize::from(has_sib)
                        + if no_base {
                            4
                        } else {
                            [0, 1, 4][usize::from(mode)]
                        }
                        + immediates[write.size.shift().min(2) as usize];
                    assert_eq!(usize::from(write.length), expected, "{bytes:02x?}");
                    for end in 0..expected {
                        assert_eq!(decode(&bytes[..end]), None, "cut short: {bytes:02x?}");
                    }
                    assert_eq!(decode(&bytes[..expected]), Some(write), "{bytes:02x?}");
                }
            }
        }
    }
}

#[test]
fn each_sib_byte() {
    for opcode in [0x87, 0x81, 0x88, 0xc7] {
        for rex in 0x40..=0x4f {
            for mode in 0..3 {
                for sib in 0..=u8::MAX {
                    let mut bytes = Vec::from([rex, opcode, mode << 6 | 4, sib]);
                    bytes.extend(TAIL);
                    assert!(check(&bytes).is_some(), "{bytes:02x?}");
                }
            }
        }
    }
}

/// The three forms of the hot path: which of them take the short way, and that it is the same.
#[test]
fn the_short_way_agrees_with_the_general_one() {
    let mut short = 0;
    let opcodes: [&[u8]; 8] = [
        &[0x87],
        &[0x89],
        &[0x80],
        &[0x0f, 0xb1],
        &[0x0f, 0xb3],
        &[0x0f, 0xab],
        &[0x0f, 0xba],
        &[0x0f, 0xb0],
    ];
    for opcode in opcodes {
        for prefix in [None, Some(0xf0), Some(0x3e)] {
            for rex in [None].into_iter().chain((0x40..=0x4f).map(Some)) {
                for mod_rm in 0..=u8::MAX {
                    for sib_or_displacement in 0..=u8::MAX {
                        let mut bytes: Vec<u8> = prefix.into_iter().chain(rex).collect();
                        bytes.extend(opcode);
                        bytes.extend([mod_rm, sib_or_displacement]);
                        bytes.extend(TAIL);
                        let general = general(&bytes);
                        assert_eq!(decode(&bytes), general, "{bytes:02x?}");
                        let wide = rex.is_some_and(|rex| rex & 8 != 0);
                        let is_form = match opcode {
                            [0x80] => true,
                            [0x0f, 0xb0] => false,
                            _ => wide,
                        };
                        let is_simple =
                            mod_rm < 0x80 && mod_rm & 7 != 4 && (mod_rm >= 0x40 || mod_rm & 7 != 5);
                        let expected = general.filter(|_| is_form && is_simple);
                        assert_eq!(quick(head_of(&bytes).unwrap()), expected, "{bytes:02x?}");
                        short += usize::from(expected.is_some());
                    }
                }
            }
        }
    }
    // ModRM bytes (6 registers alone, 7 with a displacement) times second bytes.
    let operands = (6 + 7) * 256;
    // Middle fields, REX bytes and prefixes: of `mov`; of the others from a register; of arithmetic; of bits by an immediate.
    let forms = 8 * 8 * 2 + 4 * 8 * 8 * 3 + 5 * 17 * 3 + 2 * 8 * 3;
    assert_eq!(short, operands * forms);
}

#[test]
fn the_forms_of_kernels_are_what_they_are_taken_for() {
    for (bytes, text) in [
        // xchg %rax,(%rbx); lock andb $0xfd,(%r14); mov %rsi,(%rdi); btr; cmpxchg.
        (&[0x48, 0x87, 0x03][..], "xchg 8 rax [rbx - 0 flat] / 3"),
        (
            &[0xf0, 0x41, 0x80, 0x26, 0xfd],
            "and 1 -3 [r14 - 0 flat] / 5",
        ),
        (
            &[0x3e, 0x80, 0x63, 0x08, 0xfd],
            "and 1 -3 [rbx - 8 flat] / 5",
        ),
        (&[0x48, 0x89, 0x37], "mov 8 rsi [rdi - 0 flat] / 3"),
        (
            &[0xf0, 0x48, 0x0f, 0xba, 0x33, 0x05],
            "btr 8 5 [rbx - 0 flat] / 6",
        ),
        (
            &[0xf0, 0x49, 0x0f, 0xb1, 0x14, 0xc8],
            "cmpxchg 8 rdx [r8 rcx*8 0 flat] / 6",
        ),
        (
            &[0x48, 0xc7, 0x05, 0x10, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
            "mov 8 -1 [rip - 27 flat] / 11",
        ),
        (
            &[0x65, 0x88, 0x24, 0x25, 0xf0, 0xff, 0xff, 0xff],
            "mov 1 ah [0 - -16 gs] / 8",
        ),
    ] {
        let mut padded = bytes.to_vec();
        padded.resize(15, 0x90);
        assert_eq!(check(&padded).map(words).as_deref(), Some(text));
    }
}

#[test]
fn what_is_not_on_the_list() {
    for bytes in [
        &[0x48, 0x11, 0x03][..],         // adc
        &[0x48, 0x19, 0x03],             // sbb
        &[0x48, 0x39, 0x03],             // cmp
        &[0x48, 0xf7, 0x13],             // not
        &[0x48, 0xf7, 0x1b],             // neg
        &[0x48, 0xff, 0x03],             // inc
        &[0x48, 0xd1, 0x23],             // shl
        &[0x8c, 0x03],                   // mov of a segment register
        &[0x8f, 0x03],                   // pop
        &[0xaa],                         // stos
        &[0xf3, 0x48, 0xa5],             // rep movs
        &[0xa3, 0, 0, 0, 0, 0, 0, 0, 0], // mov to an absolute address
        &[0x82, 0x23, 0xfd],             // andb of 32-bit code
        &[0x48, 0x0f, 0xc3, 0x03],       // movnti
        &[0x48, 0x0f, 0xbb, 0x03],       // btc
        &[0x48, 0x0f, 0xba, 0x3b, 0x05], // btc
        &[0x48, 0x0f, 0xa3, 0x03],       // bt
        &[0x48, 0x0f, 0xc7, 0x0b],       // cmpxchg16b
        &[0x0f, 0x11, 0x03],             // movups
        &[0xc6, 0xf8, 0x00],             // xabort
        &[0xc5, 0xf8, 0x11, 0x03],       // vmovups
        &[0x48, 0x87, 0xc3],             // xchg of registers
        &[0x67, 0x48, 0x87, 0x03],       // 32-bit address
        &[0xf2, 0xf0, 0x48, 0x87, 0x03], // xacquire
        &[0xf3, 0x48, 0x89, 0x03],       // xrelease
        &[0xf0, 0x48, 0x89, 0x03],       // lock mov
        &[0x48, 0xf0, 0x87, 0x03],       // REX before LOCK
        &[0x48, 0x40, 0x87, 0x03],       // REX twice
    ] {
        let mut padded = bytes.to_vec();
        padded.resize(15, 0);
        assert_eq!(decode(&padded), None, "{bytes:02x?}");
    }
}

#[test]
fn fifteen_bytes_and_no_more() {
    let form = [0x48, 0x81, 0xa4, 0xc8, 1, 2, 3, 4, 5, 6, 7, 8];
    for prefixes in 0..8 {
        let mut bytes = std::vec![0x2e; prefixes];
        bytes.extend(form);
        bytes.extend([0; 4]);
        assert_eq!(decode(&bytes).is_some(), prefixes <= 3, "{prefixes}");
        assert_eq!(decode(&bytes).map(words), iced(&bytes));
    }
}

/// Every pair of opcode bytes with every ModRM byte and a few prefixes: nothing on the list is missing, nothing else is on it.
#[test]
fn all_opcodes() {
    let is_prefix =
        |byte| LEGACY.contains(&byte) || matches!(byte, 0x40..=0x4f | 0x67 | 0xf2 | 0xf3);
    for head in [
        &[][..],
        &[0x66],
        &[0x48],
        &[0xf0],
        &[0x3e, 0x4d],
        &[0xf2],
        &[0xf3, 0xf0],
        &[0x67],
    ] {
        for first in (0..=u8::MAX).filter(|&byte| !is_prefix(byte)) {
            for second in 0..=u8::MAX {
                for mod_rm in 0..=u8::MAX {
                    if first != 0x0f && mod_rm != 0 {
                        continue;
                    }
                    let mut bytes = head.to_vec();
                    bytes.extend([first, second, mod_rm]);
                    bytes.extend(TAIL);
                    // Absolute addresses are not on the list although they are a `mov`.
                    let iced = iced(&bytes).filter(|_| !matches!(first, 0xa2 | 0xa3));
                    assert_eq!(decode(&bytes).map(words), iced, "{bytes:02x?}");
                }
            }
        }
    }
}

/// Bytes that often make up writes to memory.
fn likely_byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        3 => prop::sample::select(&LEGACY[..]),
        1 => prop::sample::select(&[0x67, 0xf2, 0xf3][..]),
        3 => 0x40..=0x4fu8,
        3 => Just(0x0f),
        6 => prop::sample::select(&[0x01, 0x09, 0x20, 0x29, 0x31, 0x80, 0x81, 0x83, 0x86, 0x87, 0x88, 0x89, 0xc6, 0xc7][..]),
        3 => prop::sample::select(&[0xab, 0xb3, 0xba, 0xb0, 0xb1, 0xc0, 0xc1][..]),
        4 => any::<u8>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50_000))]

    #[test]
    fn likely_strings(bytes in prop::collection::vec(likely_byte(), 0..20)) {
        check(&bytes);
    }

    #[test]
    fn random_strings(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
        check(&bytes);
    }
}
