//! Whole instructions, from guest memory to registers, on the model machine.

mod port_io;

use std::vec::Vec;

use dom0_abi::addr::{GuestAddr, PAGE_SIZE};
use oxen_arch::boot::CpuId;
use oxen_arch::{CpuidResult, Machine, PortWidth, SimConfig};
use proptest::prelude::*;
use zerocopy::FromZeros;

use super::*;
use crate::domain::privileged_state::{cr0, cr4};
use crate::policy::cpuid::HostFacts;
use crate::policy::ports::PortRange;
use crate::trap::exception::PageFaultCode;
use crate::trap::flags;
use crate::trap::instruction::Gpr;

/// One page of code; nothing is mapped behind it.
const CODE: u64 = 0x40_0000;
/// Two writable pages; nothing is mapped behind them.
const DATA: u64 = 0x40_2000;
const HIDDEN_PORTS: PortRange = PortRange::new(0x3f8, 0x3ff);

struct Bench {
    machine: Machine,
    cpu: Cpu,
    root: Mfn,
    cpuid: CpuidPolicy,
    msrs: MsrPolicy,
    ports: PortRights,
    mode: Mode,
    has_64bit_code: bool,
    is_dom0: bool,
    state: PrivilegedState,
    regs: CpuUserRegs,
}

impl Bench {
    fn new() -> Self {
        let (machine, _) = Machine::new(SimConfig::new(64 << 20));
        let cpu = machine.cpu(CpuId::new(0));
        let mut frames = machine
            .take_free_ranges()
            .into_iter()
            .flat_map(|range| range.iter().collect::<Vec<_>>());
        let mut frame = || {
            let mfn = frames.next().unwrap();
            machine.mem().zero_frame(mfn).unwrap();
            mfn
        };
        let (root, l3, l2, l1) = (frame(), frame(), frame(), frame());
        let entry = |table: Mfn, slot: usize, to: Mfn, flags: u64| {
            let value = to.start().get() | flags;
            machine.mem().store_u64(table.at(slot * 8), value).unwrap();
        };
        entry(root, 0, l3, 7);
        entry(l3, 0, l2, 7);
        entry(l2, 2, l1, 7);
        entry(l1, 0, frame(), 7);
        entry(l1, 2, frame(), 7);
        entry(l1, 3, frame(), 7);
        for slot in 256..272 {
            let value = machine.root_entry(slot).unwrap();
            machine.mem().store_u64(root.at(slot * 8), value).unwrap();
        }
        drop(frames);
        cpu.load_root(root);
        let facts = HostFacts {
            tsc_khz: machine.tsc_khz(),
            max_mfn: machine.max_mfn(),
        };
        let cpuid = CpuidPolicy::derive(&facts, |leaf, subleaf| cpu.cpuid(leaf, subleaf));
        let msrs = MsrPolicy::derive(&cpuid, |msr| cpu.read_msr(msr));
        let state = PrivilegedState::new(cpuid.owned_bits());
        Self {
            machine,
            cpu,
            root,
            cpuid,
            msrs,
            ports: PortRights::dom0(&[HIDDEN_PORTS]).unwrap(),
            mode: Mode::Kernel,
            has_64bit_code: true,
            is_dom0: true,
            state,
            regs: CpuUserRegs::new_zeroed(),
        }
    }

    /// Lets the guest run into these bytes at `rip`.
    fn trap_at(&mut self, rip: u64, vector: Vector, bytes: &[u8]) -> Result<(), Exception> {
        self.cpu
            .write_guest_bytes(GuestAddr::new(rip), bytes)
            .unwrap();
        self.regs.rip = rip;
        self.regs.entry_vector = u32::from(vector.number());
        self.emulate()
    }

    fn emulate(&mut self) -> Result<(), Exception> {
        let guest = Guest {
            mode: self.mode,
            has_64bit_code: self.has_64bit_code,
            root: self.root,
            vcpu: VcpuId::new(0),
            is_dom0: self.is_dom0,
            cpuid: &self.cpuid,
            msrs: &self.msrs,
            ports: &self.ports,
        };
        emulate(&self.cpu, &guest, &mut self.state, &mut self.regs)
    }

    /// Runs an instruction that must succeed.
    fn run(&mut self, bytes: &[u8]) {
        let result = self.trap_at(CODE, Vector::GeneralProtection, bytes);
        assert_eq!(result, Ok(()), "{bytes:02x?}");
        assert_eq!(self.regs.rip, CODE + bytes.len() as u64, "{bytes:02x?}");
    }

    /// Runs an instruction that must be refused with this exception and change nothing.
    fn refuse(&mut self, bytes: &[u8], exception: Exception) {
        let state = std::format!("{:?}", self.state);
        let mut regs = self.regs;
        let cpu = std::format!("{:?}", self.cpu.registers().debug);
        self.cpu.take_port_log();
        let result = self.trap_at(CODE, Vector::GeneralProtection, bytes);
        assert_eq!(result, Err(exception), "{bytes:02x?}");
        (regs.rip, regs.entry_vector) = (CODE, 13);
        assert_eq!(
            std::format!("{regs:?}"),
            std::format!("{:?}", self.regs),
            "{bytes:02x?}"
        );
        assert_eq!(state, std::format!("{:?}", self.state), "{bytes:02x?}");
        assert_eq!(cpu, std::format!("{:?}", self.cpu.registers().debug));
        assert!(self.cpu.take_port_log().is_empty());
    }
}

const GP: Exception = Exception::gp(0);
const FORCED_CPUID: [u8; 7] = [0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2];

#[test]
fn forced_cpuid_in_both_modes() {
    for mode in [Mode::Kernel, Mode::User] {
        let mut bench = Bench::new();
        bench.mode = mode;
        bench.regs.rax = 0xdead_0000_4000_0000;
        bench.regs.rcx = u64::MAX;
        assert_eq!(
            bench.trap_at(CODE, Vector::InvalidOpcode, &FORCED_CPUID),
            Ok(())
        );
        assert_eq!(bench.regs.rip, CODE + 7);
        assert_eq!(bench.regs.rax, 0x4000_0005);
        assert_eq!(bench.regs.rbx, 0x566e_6558);
        assert_eq!(bench.regs.rcx, 0x6558_4d4d);
        assert_eq!(bench.regs.rdx, 0x4d4d_566e);
    }
}

#[test]
fn other_invalid_opcodes_stay_invalid() {
    for bytes in [
        &FORCED_CPUID[..6],
        &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa3],
        &[0x0f, 0xa2],
        &[0xfa],
    ] {
        let mut bench = Bench::new();
        bench.state.set_iopl(3).unwrap();
        let result = bench.trap_at(CODE, Vector::InvalidOpcode, bytes);
        assert_eq!(result, Err(Exception::ud()));
        assert_eq!(bench.regs.rip, CODE);
    }
}

#[test]
fn osxsave_through_both_forms() {
    let mut bench = Bench::new();
    bench.regs.rax = 1;
    bench.run(&[0x0f, 0xa2]);
    assert_eq!(bench.regs.rcx & (1 << 27), 0);
    bench.regs.rax = 1;
    bench
        .trap_at(CODE, Vector::InvalidOpcode, &FORCED_CPUID)
        .unwrap();
    assert_ne!(bench.regs.rcx & (1 << 27), 0);
}

#[test]
fn faults_for_another_reason_are_passed_on() {
    let mut bench = Bench::new();
    bench.regs.error_code = 0x80 << 3 | 2;
    let result = bench.trap_at(CODE, Vector::GeneralProtection, &[0x0f, 0xa2]);
    assert_eq!(result, Err(Exception::gp(0x402)));
    bench.regs.error_code = 0;
    bench.has_64bit_code = false;
    bench.refuse(&[0x0f, 0xa2], GP);
    bench.has_64bit_code = true;
    let result = bench.trap_at(CODE, Vector::StackFault, &[0x0f, 0xa2]);
    assert_eq!(result, Err(Exception::ss(0)));
    for vector in [0xff, 256, u32::MAX] {
        bench.regs.entry_vector = vector;
        assert_eq!((bench.emulate(), bench.regs.rip), (Err(GP), CODE));
    }
}

#[test]
fn an_instruction_at_the_end_of_a_page() {
    let mut bench = Bench::new();
    let at = CODE + PAGE_SIZE as u64 - 2;
    bench
        .trap_at(at, Vector::GeneralProtection, &[0x0f, 0xa2])
        .unwrap();
    assert_eq!(bench.regs.rip, CODE + PAGE_SIZE as u64);
    // The second byte lies on the page that is not there.
    bench.regs.rip = CODE + PAGE_SIZE as u64 - 1;
    assert_eq!(bench.emulate(), Err(GP));
    bench.regs.rip = 0xffff_8000_0000_0000;
    assert_eq!(bench.emulate(), Err(GP));
}

#[test]
fn control_registers() {
    let mut bench = Bench::new();
    bench.run(&[0x0f, 0x20, 0xc0]);
    assert_eq!(bench.regs.rax, 0x8005_0033);
    bench.regs.rbx = cr0::FIXED | cr0::TS;
    bench.run(&[0x0f, 0x22, 0xc3]);
    assert!(bench.state.task_switched() && bench.cpu.registers().task_switched);
    bench.run(&[0x0f, 0x06]);
    assert!(!bench.state.task_switched() && !bench.cpu.registers().task_switched);
    bench.regs.rbx = cr0::FIXED & !1;
    bench.refuse(&[0x0f, 0x22, 0xc3], GP);

    bench.regs.r9 = 0xdead_beef_0000_1000;
    bench.run(&[0x41, 0x0f, 0x22, 0xd1]);
    bench.run(&[0x0f, 0x20, 0xd0]);
    assert_eq!(bench.regs.rax, 0xdead_beef_0000_1000);

    bench.run(&[0x0f, 0x20, 0xdf]);
    assert_eq!(bench.regs.rdi, bench.root.get() << 12);
    // The root that it has, with the bits that name no frame as they like; nothing else.
    let root = bench.root.get() << 12;
    for low in [0, 0x18, 0xfff] {
        bench.regs.rdi = root | low;
        bench.run(&[0x0f, 0x22, 0xdf]);
    }
    for other in [0, root ^ 0x1000, root | 1 << 52, root | 1 << 63, u64::MAX] {
        bench.regs.rdi = other;
        bench.refuse(&[0x0f, 0x22, 0xdf], GP);
    }

    bench.regs.rdx = u64::MAX;
    bench.run(&[0x0f, 0x22, 0xe2]);
    bench.run(&[0x0f, 0x20, 0xe6]);
    let owned = cr4::TSD | cr4::DE | cr4::FSGSBASE | cr4::OSXSAVE;
    assert_eq!(bench.regs.rsi, cr4::FIXED | owned);
}

#[test]
fn every_general_register_is_reached() {
    for number in 0..16u8 {
        let mut bench = Bench::new();
        let rex = 0x40 | number >> 3;
        let mod_rm = 0xd0 | number & 7;
        Gpr::new(number).write(&mut bench.regs, 0x1111 * u64::from(number) + 1);
        bench.run(&[rex, 0x0f, 0x22, mod_rm]);
        assert_eq!(bench.state.cr2(), 0x1111 * u64::from(number) + 1);
        Gpr::new(number).write(&mut bench.regs, 0);
        bench.run(&[rex, 0x0f, 0x20, mod_rm]);
        let regs = &bench.regs;
        let all = [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi,
            regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ];
        for (i, value) in all.into_iter().enumerate() {
            let expected = if i == usize::from(number) {
                bench.state.cr2()
            } else {
                0
            };
            assert_eq!(value, expected, "r{i}");
        }
    }
}

#[test]
fn debug_registers() {
    let mut bench = Bench::new();
    bench.regs.rax = 0x1000;
    bench.run(&[0x0f, 0x23, 0xc0]);
    assert_eq!(bench.cpu.registers().debug.addr[0], 0x1000);
    bench.regs.rcx = 1;
    bench.run(&[0x0f, 0x23, 0xf9]);
    assert_eq!(bench.cpu.registers().debug.dr7, 0x401);
    bench.run(&[0x0f, 0x21, 0xfa]);
    assert_eq!(bench.regs.rdx, 0x401);
    bench.regs.rax = 0xffff_8000_0000_0000;
    bench.refuse(&[0x0f, 0x23, 0xc0], GP);
    bench.regs.rax = 1 << 13;
    bench.refuse(&[0x0f, 0x23, 0xf8], GP);
    bench.state.set_cr4(cr4::DE);
    bench.refuse(&[0x0f, 0x21, 0xe0], Exception::ud());
    bench.refuse(&[0x0f, 0x23, 0xe8], Exception::ud());
}

#[test]
fn model_specific_registers() {
    let mut bench = Bench::new();
    bench.regs.rcx = 0xffff_ffff_c000_0101;
    bench.regs.rax = 0xaaaa_aaaa_0000_1000;
    bench.regs.rdx = 0xbbbb_bbbb_ffff_8880;
    bench.run(&[0x0f, 0x30]);
    assert_eq!(bench.cpu.gs_base(), 0xffff_8880_0000_1000);
    bench.run(&[0x0f, 0x32]);
    assert_eq!((bench.regs.rax, bench.regs.rdx), (0x1000, 0xffff_8880));
    bench.regs.rdx = 0x0000_8000;
    bench.refuse(&[0x0f, 0x30], GP);
    bench.regs.rcx = 0x1d9;
    bench.refuse(&[0x0f, 0x32], GP);
    bench.refuse(&[0x0f, 0x30], GP);
}

#[test]
fn extended_control_register() {
    let mut bench = Bench::new();
    bench.regs.rax = 7;
    bench.refuse(&[0x0f, 0x01, 0xd1], Exception::ud());
    bench.state.set_cr4(cr4::OSXSAVE);
    bench.run(&[0x0f, 0x01, 0xd1]);
    assert_eq!((bench.state.xcr0(), bench.cpu.registers().xcr0), (7, 7));
    for (rax, rcx, rdx) in [
        (5, 0, 0),
        (0, 0, 0),
        (0xe7, 0, 0),
        (7, 1, 0),
        (7, 0, 1),
        (0x207, 0, 0),
    ] {
        (bench.regs.rax, bench.regs.rcx, bench.regs.rdx) = (rax, rcx, rdx);
        bench.refuse(&[0x0f, 0x01, 0xd1], GP);
        assert_eq!(bench.cpu.registers().xcr0, 7);
    }
}

#[test]
fn interrupt_flag_and_caches() {
    let mut bench = Bench::new();
    for bytes in [[0xfa], [0xfb]] {
        bench.state.set_iopl(0).unwrap();
        bench.refuse(&bytes, GP);
        bench.state.set_iopl(1).unwrap();
        bench.regs.rflags = 0x202;
        bench.run(&bytes);
        assert_eq!(bench.regs.rflags, 0x202);
    }
    bench.run(&[0x0f, 0x09]);
    assert_eq!(bench.cpu.registers().cache_write_backs, 1);
    bench.is_dom0 = false;
    bench.run(&[0x0f, 0x09]);
    assert_eq!(bench.cpu.registers().cache_write_backs, 1);
}

#[test]
fn time_stamps() {
    let mut bench = Bench::new();
    bench.machine.advance_tsc(0x5_0000_0000);
    bench.run(&[0x0f, 0x31]);
    assert_eq!(bench.regs.rdx, 5);
    bench.state.set_tsc_aux(0x8000_0003);
    bench.run(&[0x0f, 0x01, 0xf9]);
    assert_eq!((bench.regs.rdx, bench.regs.rcx), (5, 0x8000_0003));
}

#[test]
fn user_mode_has_cpuid_and_what_its_privilege_level_gives() {
    let mut bench = Bench::new();
    bench.mode = Mode::User;
    bench.regs.rax = 0x4000_0001;
    bench.run(&[0x0f, 0xa2]);
    assert_eq!(bench.regs.rax, 0x0004_0011);
    for bytes in [
        &[0x0f, 0x32][..],
        &[0x0f, 0x30],
        &[0x0f, 0x31],
        &[0x0f, 0x01, 0xf9],
        &[0x0f, 0x01, 0xd1],
        &[0x0f, 0x06],
        &[0x0f, 0x09],
        &[0x0f, 0x20, 0xc0],
        &[0x0f, 0x22, 0xd0],
        &[0x0f, 0x21, 0xc0],
        &[0x0f, 0x23, 0xc0],
    ] {
        bench.state.set_iopl(3).unwrap();
        bench.regs.rcx = 0xc000_0102;
        bench.refuse(bytes, GP);
    }
    for bytes in [&[0xec][..], &[0xee], &[0x6c], &[0x6e], &[0xfa], &[0xfb]] {
        bench.regs.rdx = 0x3d4;
        (bench.regs.rdi, bench.regs.rsi) = (DATA, DATA);
        bench.state.set_iopl(2).unwrap();
        bench.refuse(bytes, GP);
        bench.state.set_iopl(3).unwrap();
        bench.run(bytes);
    }
}

#[test]
fn everything_else_is_refused() {
    let mut bench = Bench::new();
    bench.state.set_iopl(3).unwrap();
    for bytes in [
        &[0xf4][..],               // hlt
        &[0x0f, 0x08],             // invd
        &[0x0f, 0x01, 0x38],       // invlpg
        &[0x0f, 0x01, 0x10],       // lgdt
        &[0x0f, 0x01, 0x18],       // lidt
        &[0x0f, 0x01, 0xf0],       // lmsw
        &[0x0f, 0x01, 0xf8],       // swapgs
        &[0x0f, 0x01, 0xd0],       // xgetbv
        &[0x0f, 0x00, 0xd8],       // ltr
        &[0x0f, 0x00, 0xd0],       // lldt
        &[0x0f, 0x07],             // sysret
        &[0x0f, 0x33],             // rdpmc
        &[0x44, 0x0f, 0x20, 0xc0], // mov rax, cr8
        &[0x44, 0x0f, 0x22, 0xc0], // mov cr8, rax
        &[0xf0, 0x0f, 0x20, 0xc0], // the same with LOCK
        &[0x0f, 0x22, 0xc8],       // mov cr1, rax
        &[0xff, 0x18],             // call far
        &[0x48, 0xcf],             // iretq
        &[0xcd, 0x80],             // int
        &[0x0f, 0x0b],             // ud2
        &[0xf3, 0x0f, 0x09],       // wbnoinvd
    ] {
        bench.refuse(bytes, GP);
    }
}

#[test]
fn single_steps_are_reported_once_each() {
    let mut bench = Bench::new();
    bench.regs.rflags = flags::TF | flags::RF;
    let result = bench.trap_at(CODE, Vector::GeneralProtection, &[0x0f, 0xa2]);
    assert_eq!(result, Err(Exception::db()));
    assert_eq!(bench.regs.rip, CODE + 2);
    assert_eq!(bench.regs.rflags, flags::TF);
    assert_eq!(bench.state.debug_register(6), Ok(0xffff_4ff0));
    bench.state.set_iopl(1).unwrap();
    (bench.regs.rcx, bench.regs.rsi) = (2, DATA);
    let result = bench.trap_at(CODE, Vector::GeneralProtection, &[0xf3, 0x6e]);
    assert_eq!(result, Err(Exception::db()));
    assert_eq!((bench.regs.rip, bench.regs.rcx), (CODE, 1));
    assert_eq!(bench.emulate(), Err(Exception::db()));
    assert_eq!((bench.regs.rip, bench.regs.rcx), (CODE + 2, 0));
}

#[test]
fn a_policy_that_promises_too_much_harms_nobody() {
    let mut bench = Bench::new();
    let facts = HostFacts {
        tsc_khz: 1,
        max_mfn: Mfn::new(1),
    };
    bench.cpuid = CpuidPolicy::derive(&facts, |leaf, _| CpuidResult {
        eax: if leaf == 0 { 0xd } else { !0 },
        ebx: !0,
        ecx: !0,
        edx: !0,
    });
    bench.state = PrivilegedState::new(bench.cpuid.owned_bits());
    bench.state.set_cr4(cr4::OSXSAVE);
    bench.regs.rax = 0xe7;
    bench.refuse(&[0x0f, 0x01, 0xd1], GP);
}

const OPCODES: &[&[u8]] = &[
    &[0x0f, 0x22],
    &[0x0f, 0x23],
    &[0x0f, 0x30],
    &[0x0f, 0x01, 0xd1],
    &[0xf3, 0x6d],
    &[0xf3, 0x6f],
    &[0x0f, 0xa2],
    &[],
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_bytes_and_registers(
        code in prop::collection::vec(any::<u8>(), 15),
        opcode in prop::sample::select(OPCODES),
        values in prop::array::uniform8(any::<u64>()),
        iopl in 0..4u32,
        user: bool,
        rip in prop::sample::select(&[CODE, CODE + 4094, CODE + 4090][..]),
    ) {
        let mut bench = Bench::new();
        bench.state.set_iopl(iopl).unwrap();
        bench.mode = if user { Mode::User } else { Mode::Kernel };
        let [rax, rcx, rdx, rbx, rsi, rdi, rsp, rflags] = values;
        bench.regs = CpuUserRegs { rax, rcx, rdx, rbx, rsi, rdi, rsp, rflags, ..CpuUserRegs::new_zeroed() };
        let bytes: Vec<u8> = opcode.iter().copied().chain(code).collect();
        let fits = usize::try_from(CODE + 4096 - rip).unwrap().min(bytes.len());
        let result = bench.trap_at(rip, Vector::GeneralProtection, &bytes[..fits]);
        let moved = bench.regs.rip - rip;
        prop_assert!(moved <= 15);
        if result == Err(GP) {
            prop_assert_eq!(moved, 0);
        }
        // What the guest must never get hold of, whatever it does.
        let dr = bench.cpu.registers().debug;
        prop_assert_eq!(dr.dr7 & 0xffff_ffff_0000_fc00, 0x400);
        prop_assert_eq!(bench.regs.rflags & !flags::RF, rflags & !flags::RF);
        prop_assert!(matches!(bench.state.xcr0(), 1 | 3 | 7));
        prop_assert_eq!(bench.state.iopl(), u8::try_from(iopl).unwrap());
        for access in bench.cpu.take_port_log() {
            prop_assert_eq!(bench.ports.check(access.port, access.width), crate::policy::ports::Access::Direct);
        }
    }
}
