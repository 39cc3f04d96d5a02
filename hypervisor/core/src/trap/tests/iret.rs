//! `iret`.

use dom0_abi::arch::{CpuUserRegs, IretContext};
use dom0_abi::hypercalls::Hypercall::Iret;
use dom0_abi::xen::VmAssist;
use proptest::prelude::*;

use crate::domain::vcpu::GuestMode;
use crate::testing::{CODE, DATA_END, Guest, HOSTILE, STACK};
use crate::trap::return_path::Next;

const HANDLER: u64 = CODE + 0x100;
const FRAME: u64 = STACK - 0x200;

fn frame_to(rip: u64) -> IretContext {
    IretContext {
        rax: 0x1,
        r11: 0x2,
        rcx: 0x3,
        flags: 0,
        rip,
        cs: 0xe030,
        rflags: 0x246,
        rsp: STACK - 0x40,
        ss: 0xe02b,
    }
}

fn iret(guest: &mut Guest, frame: &IretContext) -> Next {
    guest.put(FRAME, frame);
    guest.regs.rsp = FRAME;
    guest.regs.rax = Iret.number();
    guest.syscall()
}

#[test]
fn all_of_the_frame_is_loaded_and_nothing_else_changes() {
    let mut guest = Guest::ordinary();
    guest.regs.rbx = 0xb;
    guest.regs.r8 = 0x8;
    let before = guest.regs;
    assert_eq!(iret(&mut guest, &frame_to(CODE + 0x10)), Next::Guest);
    let regs = guest.regs;
    assert_eq!((regs.rax, regs.r11, regs.rcx), (1, 2, 3));
    assert_eq!(
        (regs.rip, regs.cs, regs.rflags),
        (CODE + 0x10, 0xe033, 0x246)
    );
    assert_eq!((regs.rsp, regs.ss), (STACK - 0x40, 0xe02b));
    assert_eq!(
        (regs.rbx, regs.r8, regs.rdi),
        (before.rbx, before.r8, before.rdi)
    );
    assert_eq!(guest.mask(), 0);
}

#[test]
fn the_flag_for_interrupts_is_the_event_mask() {
    let mut guest = Guest::ordinary();
    for (rflags, mask) in [(0x46, 1), (0x246, 0), (0x46, 1)] {
        let frame = IretContext {
            rflags,
            ..frame_to(CODE)
        };
        assert_eq!(iret(&mut guest, &frame), Next::Guest);
        assert_eq!((guest.mask(), guest.regs.rflags), (mask, 0x246));
    }
}

#[test]
fn i24_no_frame_gives_a_guest_flags_or_levels_that_are_not_its_own() {
    let mut guest = Guest::ordinary();
    for cs in [0_u64, 0xe030, 0x1231, 0xffff_fffe] {
        let frame = IretContext {
            rflags: u64::MAX,
            cs,
            ss: 0x10,
            ..frame_to(CODE)
        };
        assert_eq!(iret(&mut guest, &frame), Next::Guest);
        assert_eq!(guest.regs.rflags, 0x0025_0fd7);
        assert_eq!((guest.regs.cs, guest.regs.ss), (cs as u16 | 3, 0x13));
    }
}

#[test]
fn in_a_system_call_rcx_and_r11_are_what_sysret_leaves() {
    let mut guest = Guest::ordinary();
    for (cs, loaded) in [(0xe030, 0xe033), (0xe020, 0xe023), (0x10, 0xe033)] {
        let frame = IretContext {
            flags: 1 << 8,
            cs,
            ss: 0x18,
            ..frame_to(CODE + 0x40)
        };
        assert_eq!(iret(&mut guest, &frame), Next::Guest);
        assert_eq!((guest.regs.rcx, guest.regs.r11), (CODE + 0x40, 0x246));
        assert_eq!((guest.regs.cs, guest.regs.ss), (loaded, 0xe02b));
    }
}

#[test]
fn the_virtual_iopl_is_taken_from_those_who_asked() {
    let mut guest = Guest::ordinary();
    let frame = IretContext {
        rflags: 0x1246,
        ..frame_to(CODE)
    };
    assert_eq!(iret(&mut guest, &frame), Next::Guest);
    assert_eq!(guest.state(|state| state.privileged.iopl()), 0);
    guest.domain(|domain| domain.assists.set(VmAssist::ArchitecturalIopl, true));
    assert_eq!(iret(&mut guest, &frame), Next::Guest);
    assert_eq!(guest.state(|state| state.privileged.iopl()), 1);
    assert_eq!(guest.regs.rflags & 0x3000, 0);
}

#[test]
fn a_frame_that_cannot_be_read_ends_the_domain() {
    for rsp in HOSTILE
        .into_iter()
        .chain((1..72).map(|missing| DATA_END - 72 + missing))
    {
        let mut guest = Guest::ordinary();
        guest.regs.rsp = rsp;
        guest.regs.rax = Iret.number();
        assert_eq!(guest.syscall(), Next::Schedule);
        let text = format!("d7v0 crashed: the iret frame at {rsp:#x} cannot be read");
        assert!(guest.output().contains(&text), "{}", guest.output());
    }
}

#[test]
fn user_mode_needs_a_root() {
    let mut guest = Guest::ordinary();
    let frame = IretContext {
        cs: 0xe033,
        ..frame_to(CODE)
    };
    assert_eq!(iret(&mut guest, &frame), Next::Schedule);
    assert!(
        guest
            .output()
            .contains("d7v0 crashed: iret to user mode without page tables")
    );
}

#[test]
fn user_mode_runs_on_its_root_and_gs_base() {
    let mut guest = Guest::ordinary();
    let held = guest.empty_root();
    let user_root = held.mfn();
    guest.state(|state| state.user_root = Some(held));
    guest.cpu.set_gs_base(0x1000).unwrap();
    guest.cpu.set_user_gs_base(0x2000).unwrap();
    let frame = IretContext {
        cs: 0xe033,
        ..frame_to(CODE)
    };
    assert_eq!(iret(&mut guest, &frame), Next::Guest);
    assert_eq!(guest.mode(), GuestMode::User);
    assert_eq!(
        (guest.cpu.gs_base(), guest.cpu.user_gs_base()),
        (0x2000, 0x1000)
    );
    assert_eq!(guest.cpu.registers().cr3 >> 12, user_root.get());
}

#[test]
fn iret_ends_an_nmi_and_the_next_one_comes_then() {
    let mut guest = Guest::ordinary();
    guest.set_trap(2, 4, HANDLER);
    let send = |guest: &Guest| {
        guest.domain(|domain| {
            domain
                .vcpu(dom0_abi::ids::VcpuId::new(0))
                .unwrap()
                .signals
                .send_nmi();
        });
    };
    send(&guest);
    assert_eq!(guest.exception(2, 0), Next::Guest);
    assert_eq!(guest.regs.rip, HANDLER);
    send(&guest);
    (guest.regs.rip, guest.regs.rsp) = (HANDLER + 8, STACK);
    assert_eq!(guest.exception(2, 0), Next::Guest);
    assert_eq!(guest.regs.rip, HANDLER + 8, "one at a time");
    assert_eq!(iret(&mut guest, &frame_to(CODE)), Next::Guest);
    assert_eq!(guest.regs.rip, HANDLER);
    assert_eq!(guest.get::<[u64; 7]>(guest.regs.rsp)[2], CODE);
}

/// Registers as a guest may have them when it is interrupted.
fn registers() -> impl Strategy<Value = CpuUserRegs> {
    (any::<[u64; 9]>(), any::<u64>(), 0_u64..0x800).prop_map(|(values, rflags, depth)| {
        let mut regs = zerocopy::FromZeros::new_zeroed();
        let CpuUserRegs {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rbp,
            r11,
            r15,
            ..
        } = &mut regs;
        [*rax, *rbx, *rcx, *rdx, *rsi, *rdi, *rbp, *r11, *r15] = values;
        regs.rip = CODE + (values[0] & 0xff);
        (regs.cs, regs.ss) = (0xe033, 0xe02b);
        // What can be set in ring 3, without single step, which a handler would not run with.
        regs.rflags = (rflags & 0x0024_0cd5) | 0x202;
        regs.rsp = STACK - depth;
        regs
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn iret_undoes_a_bounce(regs in registers(), mask in 0_u8..2, with_code in any::<bool>(), masks in any::<bool>()) {
        let mut guest = Guest::ordinary();
        let vector = if with_code { 11 } else { 0 };
        guest.set_trap(vector, if masks { 4 } else { 0 }, HANDLER);
        guest.set_mask(mask);
        guest.regs = regs;
        prop_assert_eq!(guest.exception(vector.into(), 0x10), Next::Guest);
        // What a handler does: drop the error code, push the rest of an iret frame.
        let bounced = guest.regs.rsp;
        let [rcx, r11]: [u64; 2] = guest.get(bounced);
        let [rip, cs, rflags, rsp, ss]: [u64; 5] = guest.get(bounced + if with_code { 24 } else { 16 });
        let back = IretContext { rax: guest.regs.rax, r11, rcx, flags: 0, rip, cs, rflags, rsp, ss };
        let at = bounced - 72;
        guest.put(at, &back);
        guest.regs.rsp = at;
        guest.regs.rax = Iret.number();
        prop_assert_eq!(guest.syscall(), Next::Guest);
        let mut after = guest.regs;
        (after.entry_vector, after.error_code) = (0, 0);
        prop_assert_eq!(after, regs);
        prop_assert_eq!(guest.mask(), mask);
    }
}
