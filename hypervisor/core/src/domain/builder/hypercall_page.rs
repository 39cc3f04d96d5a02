//! The page of hypercall stubs that older kernels call through.
//!
//! ABI: `public/arch-x86/xen-x86_64.h`: stub n at offset 32 * n; all registers but rax, rcx and r11 survive, and those
//! two are saved by the stub, as `syscall` destroys them. The stub of `iret` does not return; it leaves what `iret` needs
//! above the frame that the kernel has built.

use dom0_abi::addr::{Mfn, PAGE_SIZE};
use oxen_arch::memory::{BadFrame, PhysMem};

/// Bytes of a stub.
pub const STUB_SIZE: usize = 32;

const IRET: u8 = 23;

const PUSH_RCX: u8 = 0x51;
const PUSH_RAX: u8 = 0x50;
const PUSH_R11: [u8; 2] = [0x41, 0x53];
const POP_RCX: u8 = 0x59;
const POP_R11: [u8; 2] = [0x41, 0x5b];
const MOV_EAX: u8 = 0xb8;
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const RET: u8 = 0xc3;
/// What is behind a stub: traps if run.
const INT3: u8 = 0xcc;

/// The code for hypercall `number`.
pub fn stub(number: u8) -> [u8; STUB_SIZE] {
    let mut stub = [INT3; STUB_SIZE];
    let before: &[u8] = &[PUSH_RCX, PUSH_R11[0], PUSH_R11[1]];
    let call: &[u8] = &[MOV_EAX, number, 0, 0, 0, SYSCALL[0], SYSCALL[1]];
    let parts: [&[u8]; 3] = if number == IRET {
        [before, &[PUSH_RAX], call]
    } else {
        [before, call, &[POP_R11[0], POP_R11[1], POP_RCX, RET]]
    };
    for (to, from) in stub.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    stub
}

/// Fills a frame with the stubs.
pub fn fill(mem: &PhysMem, page: Mfn) -> Result<(), BadFrame> {
    (0..PAGE_SIZE)
        .step_by(STUB_SIZE)
        .zip(0..)
        .try_for_each(|(offset, number)| mem.write_bytes(page.at(offset), &stub(number)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Code, Decoder, DecoderOptions, Register};
    use std::vec::Vec;

    #[test]
    fn stubs_decode_to_what_the_abi_says() {
        for number in 0..128 {
            let bytes = stub(number);
            let mut decoder = Decoder::new(64, &bytes, DecoderOptions::NONE);
            let code: Vec<_> = decoder
                .iter()
                .take_while(|instruction| instruction.code() != Code::Int3)
                .map(|instruction| {
                    let operand = match instruction.code() {
                        Code::Mov_r32_imm32 => u64::from(instruction.immediate32()),
                        _ => 0,
                    };
                    (instruction.code(), instruction.op0_register(), operand)
                })
                .collect();
            let push = |register| (Code::Push_r64, register, 0);
            let pop = |register| (Code::Pop_r64, register, 0);
            let call = [
                (Code::Mov_r32_imm32, Register::EAX, u64::from(number)),
                (Code::Syscall, Register::None, 0),
            ];
            let mut expected = std::vec![push(Register::RCX), push(Register::R11)];
            if number == 23 {
                expected.push(push(Register::RAX));
                expected.extend(call);
            } else {
                expected.extend(call);
                expected.extend([pop(Register::R11), pop(Register::RCX)]);
                expected.push((Code::Retnq, Register::None, 0));
            }
            assert_eq!(code, expected);
        }
    }
}
