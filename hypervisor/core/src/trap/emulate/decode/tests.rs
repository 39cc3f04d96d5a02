//! The decoder against two independent ones, each turned into the same words.

use std::collections::BTreeSet;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::trap::instruction::MAX_LENGTH;

const GPR_NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// Ours, in words.
fn words(decoded: Decoded) -> String {
    let gpr = |gpr: Gpr| GPR_NAMES[usize::from(gpr.number())];
    let dr = |dr: DebugRegister| format!("dr{}", dr.number());
    let cr = |cr: ControlRegister| format!("{cr:?}").to_lowercase();
    let text = match decoded.instruction {
        ReadControl(from, to) => format!("mov {} {}", gpr(to), cr(from)),
        WriteControl(to, from) => format!("mov {} {}", cr(to), gpr(from)),
        ReadDebug(from, to) => format!("mov {} {}", gpr(to), dr(from)),
        WriteDebug(to, from) => format!("mov {} {}", dr(to), gpr(from)),
        PortIo(direction, port, width) => format!(
            "{} {} {}",
            format!("{direction:?}").to_lowercase(),
            width.bytes(),
            match port {
                PortOperand::Immediate(port) => port.to_string(),
                PortOperand::Dx => "dx".to_string(),
            }
        ),
        Instruction::StringIo(io) => string_words(
            io.direction == Direction::In,
            io.width.bytes(),
            io.repeated,
            io.address_32,
            match io.segment {
                Segment::Flat => "flat",
                Segment::Fs => "fs",
                Segment::Gs => "gs",
            },
        ),
        plain => format!("{plain:?}").to_lowercase(),
    };
    format!("{text} / {}", decoded.length)
}

fn string_words(ins: bool, width: u8, repeated: bool, address_32: bool, segment: &str) -> String {
    format!(
        "{} {width} rep {repeated} address_32 {address_32} {segment}",
        if ins { "ins" } else { "outs" }
    )
}

/// What iced-x86 says; `None` for errors and for what is not on the list.
fn iced(bytes: &[u8]) -> Option<String> {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() || instruction.has_lock_prefix() {
        return None;
    }
    let register = |op| format!("{:?}", instruction.op_register(op)).to_lowercase();
    let width = |register: Register| register.size();
    let segment = || match instruction.segment_prefix() {
        Register::FS => "fs",
        Register::GS => "gs",
        _ => "flat",
    };
    let text = match instruction.mnemonic() {
        Mnemonic::Mov => {
            let text = format!("mov {} {}", register(0), register(1));
            if instruction.op0_kind() != OpKind::Register
                || instruction.op1_kind() != OpKind::Register
                || !(text.contains("cr") || text.contains("dr"))
            {
                return None;
            }
            text
        }
        Mnemonic::In | Mnemonic::Out => {
            let (data, port) = if instruction.mnemonic() == Mnemonic::In {
                (0, 1)
            } else {
                (1, 0)
            };
            format!(
                "{:?} {} {}",
                instruction.mnemonic(),
                width(instruction.op_register(data)),
                if instruction.op_kind(port) == OpKind::Immediate8 {
                    instruction.immediate8().to_string()
                } else {
                    "dx".to_string()
                }
            )
            .to_lowercase()
        }
        ins @ (Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd) => string_words(
            true,
            match ins {
                Mnemonic::Insb => 1,
                Mnemonic::Insw => 2,
                _ => 4,
            },
            instruction.has_rep_prefix(),
            instruction.op0_kind() == OpKind::MemoryESEDI,
            "flat",
        ),
        outs @ (Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd) => string_words(
            false,
            match outs {
                Mnemonic::Outsb => 1,
                Mnemonic::Outsw => 2,
                _ => 4,
            },
            instruction.has_rep_prefix(),
            instruction.op1_kind() == OpKind::MemorySegESI,
            segment(),
        ),
        plain @ (Mnemonic::Cpuid
        | Mnemonic::Rdmsr
        | Mnemonic::Wrmsr
        | Mnemonic::Rdtsc
        | Mnemonic::Rdtscp
        | Mnemonic::Clts
        | Mnemonic::Cli
        | Mnemonic::Sti
        | Mnemonic::Wbinvd
        | Mnemonic::Xsetbv) => format!("{plain:?}").to_lowercase(),
        _ => return None,
    };
    Some(format!("{text} / {}", instruction.len()))
}

/// What yaxpeax-x86 says; `None` for errors and for what is not on the list.
fn yaxpeax(bytes: &[u8]) -> Option<String> {
    use yaxpeax_arch::LengthedInstruction;
    use yaxpeax_x86::long_mode::register_class::{CR, DR, Q};
    use yaxpeax_x86::long_mode::{InstDecoder, Opcode, Operand, Segment};
    let instruction = InstDecoder::default().decode_slice(bytes).ok()?;
    let prefixes = instruction.prefixes;
    if prefixes.lock() {
        return None;
    }
    let register = |op| match instruction.operand(op) {
        Operand::Register { reg } if reg.class() == Q => {
            GPR_NAMES[usize::from(reg.num())].to_string()
        }
        Operand::Register { reg } if reg.class() == CR => format!("cr{}", reg.num()),
        Operand::Register { reg } if reg.class() == DR => format!("dr{}", reg.num()),
        _ => String::new(),
    };
    let width = |op| match instruction.operand(op) {
        Operand::Register { reg } => reg.width(),
        _ => instruction
            .mem_size()
            .and_then(|size| size.bytes_size())
            .unwrap_or(0),
    };
    // Its memory operand is always the 64-bit register: the prefix tells.
    let address_32 = prefixes.address_size();
    let text = match instruction.opcode() {
        Opcode::MOV => {
            let text = format!("mov {} {}", register(0), register(1));
            if !(text.contains("cr") || text.contains("dr")) {
                return None;
            }
            text
        }
        port @ (Opcode::IN | Opcode::OUT) => {
            let (data, port_operand) = if port == Opcode::IN { (0, 1) } else { (1, 0) };
            format!(
                "{port:?} {} {}",
                width(data),
                match instruction.operand(port_operand) {
                    Operand::ImmediateU8 { imm } => imm.to_string(),
                    Operand::ImmediateI8 { imm } => (imm as u8).to_string(),
                    _ => "dx".to_string(),
                }
            )
            .to_lowercase()
        }
        Opcode::INS => string_words(true, width(0), prefixes.rep(), address_32, "flat"),
        Opcode::OUTS => string_words(
            false,
            width(1),
            prefixes.rep(),
            address_32,
            match prefixes.segment() {
                Segment::FS => "fs",
                Segment::GS => "gs",
                _ => "flat",
            },
        ),
        plain @ (Opcode::CPUID
        | Opcode::RDMSR
        | Opcode::WRMSR
        | Opcode::RDTSC
        | Opcode::RDTSCP
        | Opcode::CLTS
        | Opcode::CLI
        | Opcode::STI
        | Opcode::WBINVD
        | Opcode::XSETBV) => format!("{plain:?}").to_lowercase(),
        _ => return None,
    };
    Some(format!("{text} / {}", instruction.len().to_const()))
}

fn check(bytes: &[u8]) -> Option<Decoded> {
    let decoded = decode(bytes)?;
    let ours = Some(words(decoded));
    assert_eq!(ours, iced(bytes), "iced on {bytes:02x?}");
    assert_eq!(ours, yaxpeax(bytes), "yaxpeax on {bytes:02x?}");
    Some(decoded)
}

const FORMS: &[(&str, &[u8])] = &[
    ("cpuid", &[0x0f, 0xa2]),
    ("rdmsr", &[0x0f, 0x32]),
    ("wrmsr", &[0x0f, 0x30]),
    ("rdtsc", &[0x0f, 0x31]),
    ("rdtscp", &[0x0f, 0x01, 0xf9]),
    ("xsetbv", &[0x0f, 0x01, 0xd1]),
    ("clts", &[0x0f, 0x06]),
    ("wbinvd", &[0x0f, 0x09]),
    ("cli", &[0xfa]),
    ("sti", &[0xfb]),
    ("ins", &[0x6c]),
    ("ins", &[0x6d]),
    ("outs", &[0x6e]),
    ("outs", &[0x6f]),
    ("in", &[0xe4, 0x99]),
    ("in", &[0xe5, 0x20]),
    ("out", &[0xe6, 0x80]),
    ("out", &[0xe7, 0xff]),
    ("in", &[0xec]),
    ("in", &[0xed]),
    ("out", &[0xee]),
    ("out", &[0xef]),
    ("mov", &[0x0f, 0x20, 0xc0]),
    ("mov", &[0x0f, 0x22, 0xe3]),
    ("mov", &[0x0f, 0x21, 0xfe]),
    ("mov", &[0x0f, 0x23, 0x3e]),
];

const LEGACY: [u8; 10] = [0x66, 0x67, 0xf2, 0xf3, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65];

/// All sequences of up to three legacy prefixes.
fn legacy_sequences() -> BTreeSet<Vec<u8>> {
    let mut sequences = BTreeSet::from([Vec::new()]);
    for _ in 0..3 {
        for shorter in sequences.clone() {
            for prefix in LEGACY {
                let mut longer = shorter.clone();
                longer.push(prefix);
                sequences.insert(longer);
            }
        }
    }
    sequences.retain(|sequence| sequence.len() <= 3);
    sequences
}

/// The manuals' rules for the forms above, written down once more.
fn is_legal(form: &[u8], legacy: &[u8], rex: u8) -> bool {
    let repeat = legacy
        .iter()
        .rfind(|&&prefix| matches!(prefix, 0xf2 | 0xf3));
    let operand_size = legacy.contains(&0x66);
    match form {
        [0x0f, 0x01, 0xd1] => repeat.is_none() && !operand_size,
        [0x0f, 0x20..=0x23, ..] => repeat.is_none() && rex & 4 == 0,
        [0x0f, ..] => repeat.is_none(),
        [0x6c | 0x6e] => repeat != Some(&0xf2),
        [0x6d | 0x6f] => repeat != Some(&0xf2) && !(operand_size && rex & 8 != 0),
        [0xe5 | 0xe7 | 0xed | 0xef, ..] => !(operand_size && rex & 8 != 0),
        _ => true,
    }
}

#[test]
fn each_form_with_each_sequence_of_prefixes() {
    let sequences = legacy_sequences();
    assert_eq!(sequences.len(), 1111);
    for (name, form) in FORMS {
        for legacy in &sequences {
            for rex in [None].into_iter().chain((0x40..=0x4f).map(Some)) {
                let bytes: Vec<u8> = legacy
                    .iter()
                    .copied()
                    .chain(rex)
                    .chain(form.iter().copied())
                    .collect();
                let legal = is_legal(form, legacy, rex.unwrap_or(0));
                let decoded = check(&bytes);
                assert_eq!(decoded.is_some(), legal, "{name} {bytes:02x?}");
                if let Some(decoded) = decoded {
                    assert_eq!(usize::from(decoded.length), bytes.len());
                    assert!(words(decoded).starts_with(name), "{}", words(decoded));
                }
                for end in 0..bytes.len() {
                    assert_eq!(decode(&bytes[..end]), None, "cut short");
                }
                let locked: Vec<u8> = [0xf0].iter().chain(&bytes).copied().collect();
                assert_eq!(decode(&locked), None, "LOCK");
            }
        }
    }
}

#[test]
fn without_prefixes_the_list_is_complete() {
    let is_prefix = |byte| LEGACY.contains(&byte) || matches!(byte, 0x40..=0x4f | 0xf0);
    let mut accepted = 0;
    for first in (0..=u8::MAX).filter(|&byte| !is_prefix(byte)) {
        for second in 0..=u8::MAX {
            for third in 0..=u8::MAX {
                let mut bytes = [0; 16];
                bytes[..3].copy_from_slice(&[first, second, third]);
                let ours = decode(&bytes).map(words);
                accepted += u32::from(ours.is_some());
                if first == 0x0f || third == 0 {
                    assert_eq!(ours, iced(&bytes), "iced on {bytes:02x?}");
                    assert_eq!(ours, yaxpeax(&bytes), "yaxpeax on {bytes:02x?}");
                }
            }
        }
    }
    // Fourteen one-byte opcodes, six of two bytes, CR0, 2, 3, 4 and DR0 to 7 both ways, two of three bytes.
    assert_eq!(accepted, 14 * 65536 + 6 * 256 + 2 * 4 * 32 + 2 * 8 * 32 + 2);
}

#[test]
fn all_strings_of_three_bytes() {
    for number in 0..1u32 << 24 {
        let [a, b, c, _] = number.to_le_bytes();
        check(&[a, b, c, 0xc0]);
    }
}

#[test]
fn fifteen_bytes_and_no_more() {
    for (_, form) in FORMS {
        for prefix in [0x2e, 0x67, 0x65] {
            for total in 1..40usize {
                let Some(prefixes) = total.checked_sub(form.len()) else {
                    continue;
                };
                let mut bytes = std::vec![prefix; prefixes];
                bytes.extend_from_slice(form);
                // yaxpeax-x86 takes one prefix less than the architecture.
                let ours = decode(&bytes).map(words);
                assert_eq!(ours, iced(&bytes), "iced on {bytes:02x?}");
                assert_eq!(ours.is_some(), total <= MAX_LENGTH, "{bytes:02x?}");
            }
        }
    }
}

#[test]
fn forced_cpuid_is_one_sequence_of_bytes() {
    let form = [0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2];
    assert_eq!(form.len(), usize::from(FORCED_CPUID_LENGTH));
    assert!(is_forced_cpuid(&form));
    assert!(is_forced_cpuid(&[
        0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2, 0xcc
    ]));
    for end in 0..form.len() {
        assert!(!is_forced_cpuid(&form[..end]));
    }
    for position in 0..form.len() {
        for bit in 0..8 {
            let mut other = form;
            other[position] ^= 1 << bit;
            assert!(!is_forced_cpuid(&other));
        }
    }
    assert_eq!(decode(&form), None);
}

/// Bytes that often make up privileged instructions.
fn likely_byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => prop::sample::select(&LEGACY[..]),
        2 => 0x40..=0x4fu8,
        3 => Just(0x0f),
        3 => 0x20..=0x32u8,
        3 => prop::sample::select(&[0x01, 0xd1, 0xf9, 0x06, 0x09, 0xa2, 0x6c, 0x6d, 0x6e, 0x6f, 0xf0][..]),
        2 => 0xe4..=0xefu8,
        2 => any::<u8>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50_000))]

    #[test]
    fn random_strings(bytes in prop::collection::vec(likely_byte(), 0..20)) {
        check(&bytes);
    }
}
