//! Addresses of memory operands, against those that iced-x86 computes.

use zerocopy::FromZeros;

use super::*;

fn iced_address(bytes: &[u8], regs: &CpuUserRegs, fs: u64, gs: u64) -> Option<u64> {
    use iced_x86::{Decoder, DecoderOptions, Register};
    let instruction = Decoder::with_ip(64, bytes, regs.rip, DecoderOptions::NONE).decode();
    instruction.virtual_address(0, 0, |register, _, _| {
        Some(match register {
            Register::FS => fs,
            Register::GS => gs,
            Register::CS | Register::DS | Register::ES | Register::SS => 0,
            register => {
                let name = format!("{register:?}").to_lowercase();
                let number = GPR_NAMES.iter().position(|gpr| *gpr == name)?;
                Gpr::new(number as u8).read(regs)
            }
        })
    })
}

/// How far a bit instruction reaches beyond its operand, by the manual's text: 2, 4 or 8 bytes for each 16, 32 or 64 bits,
/// downwards for negative numbers.
fn bit_string_offset(size: Size, number: u64) -> i64 {
    let (signed, bits) = match size {
        Size::Word => (i64::from(number as i16), 16),
        Size::Dword => (i64::from(number as i32), 32),
        _ => (number as i64, 64),
    };
    signed.div_euclid(bits) * (bits / 8)
}

fn registers() -> impl Strategy<Value = CpuUserRegs> {
    let value = prop_oneof![
        any::<u64>(),
        any::<i8>().prop_map(|small| small as u64),
        any::<i16>().prop_map(|small| small as u64),
        any::<u8>().prop_map(|bit| 1 << (bit % 64)),
    ];
    prop::collection::vec(value, 17).prop_map(|values| {
        let mut regs = CpuUserRegs::new_zeroed();
        for number in 0..16 {
            Gpr::new(number).write(&mut regs, values[usize::from(number)]);
        }
        regs.rip = values[16];
        regs
    })
}

const PREFIXES: &[&[u8]] = &[&[], &[0x64], &[0x65], &[0x66], &[0x66, 0x64]];
const OPCODES: &[&[u8]] = &[
    &[0x87],
    &[0x80],
    &[0x81],
    &[0x88],
    &[0xc7],
    &[0x0f, 0xab],
    &[0x0f, 0xb3],
    &[0x0f, 0xba],
    &[0x0f, 0xb1],
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50_000))]

    #[test]
    fn every_addressing_mode(
        prefix in prop::sample::select(PREFIXES),
        rex in prop::option::of(0x40..=0x4fu8),
        opcode in prop::sample::select(OPCODES),
        mod_rm in 0..0xc0u8,
        tail in prop::array::uniform12(any::<u8>()),
        regs in registers(),
        fs: u64,
        gs: u64,
    ) {
        let mut bytes: Vec<u8> = prefix.iter().copied().chain(rex).chain(opcode.iter().copied()).collect();
        bytes.push(mod_rm);
        bytes.extend(tail);
        let Some(write) = decode(&bytes) else { return Ok(()) };
        let base = |segment| match segment {
            Segment::Flat => 0,
            Segment::Fs => fs,
            Segment::Gs => gs,
        };
        let beyond = match (write.operation, write.source) {
            (Operation::SetBit | Operation::ResetBit, Source::Register(number)) => {
                bit_string_offset(write.size, number.read(&regs))
            }
            _ => 0,
        };
        let expected = iced_address(&bytes, &regs, fs, gs).map(|at| at.wrapping_add_signed(beyond));
        prop_assert_eq!(Some(write.address(&regs, base)), expected, "{:02x?}", bytes);
    }
}
