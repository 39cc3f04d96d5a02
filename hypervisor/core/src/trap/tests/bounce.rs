//! Frames.

use dom0_abi::xen::VmAssist;
use oxen_arch::boot::CpuId;

use crate::domain::vcpu::{GuestMode, KernelStack};
use crate::testing::{CODE, DATA, DATA_END, Guest, HIGH, READ_ONLY, STACK};
use crate::trap::exception::Vector;
use crate::trap::return_path::Next;

const HANDLER: u64 = CODE + 0x100;

/// Fills the registers that a frame shows with distinct values.
fn distinct(guest: &mut Guest) {
    guest.regs.rcx = 0x1111;
    guest.regs.r11 = 0x2222;
    guest.regs.rip = 0x3333;
    guest.regs.cs = 0xe033;
    guest.regs.rflags = 0x246;
    guest.regs.rsp = STACK - 8;
    guest.regs.ss = 0xe02b;
}

#[test]
fn i26_a_frame_without_error_code_is_seven_words() {
    let mut guest = Guest::ordinary();
    guest.set_trap(0, 0, HANDLER);
    distinct(&mut guest);
    guest.set_mask(0);
    let before = guest.regs;
    assert_eq!(guest.exception(0, 0), Next::Guest);
    // From STACK - 8 down to a multiple of 16, then seven words.
    assert_eq!(guest.regs.rsp, STACK - 16 - 56);
    let frame: [u64; 7] = guest.get(guest.regs.rsp);
    assert_eq!(
        frame,
        [0x1111, 0x2222, 0x3333, 0xe030, 0x246, STACK - 8, 0xe02b]
    );
    assert_eq!(
        (guest.regs.rip, guest.regs.cs, guest.regs.ss),
        (HANDLER, 0xe033, 0xe02b)
    );
    // All others stay.
    let mut after = guest.regs;
    (after.rip, after.rsp, after.entry_vector) = (before.rip, before.rsp, before.entry_vector);
    assert_eq!(after, before);
}

#[test]
fn i26_a_frame_with_error_code_has_it_behind_r11_and_shows_the_mask_in_cs() {
    let mut guest = Guest::ordinary();
    guest.set_trap(11, 4, HANDLER);
    distinct(&mut guest);
    assert_eq!(guest.mask(), 1);
    assert_eq!(guest.exception(11, 0xabcd), Next::Guest);
    assert_eq!(guest.regs.rsp, STACK - 16 - 64);
    let frame: [u64; 8] = guest.get(guest.regs.rsp);
    let cs = 0x1_0000_e030;
    assert_eq!(
        frame,
        [0x1111, 0x2222, 0xabcd, 0x3333, cs, 0x46, STACK - 8, 0xe02b]
    );
}

#[test]
fn the_stack_is_aligned_down_for_every_offset() {
    let mut guest = Guest::ordinary();
    guest.set_trap(13, 0, HANDLER);
    guest.set_trap(0, 0, HANDLER);
    for offset in 0..32 {
        for (vector, words) in [(0, 7), (13, 8)] {
            distinct(&mut guest);
            guest.regs.rsp = STACK - offset;
            assert_eq!(guest.exception(vector, 0x18), Next::Guest);
            assert_eq!(guest.regs.rsp, ((STACK - offset) & !15) - words * 8);
            let shown: u64 = guest.get(guest.regs.rsp + (words - 2) * 8);
            assert_eq!(shown, STACK - offset);
        }
    }
}

#[test]
fn delivery_masks_events_only_where_the_table_says_so() {
    let mut guest = Guest::ordinary();
    for (flags, mask) in [(0, 0), (4, 1), (3, 0), (7, 1)] {
        guest.set_trap(3, flags, HANDLER);
        distinct(&mut guest);
        guest.set_mask(0);
        assert_eq!(guest.exception(3, 0), Next::Guest);
        assert_eq!(guest.mask(), mask, "flags {flags}");
    }
}

#[test]
fn i24_a_handler_begins_with_clean_flags_and_flat_selectors() {
    let mut guest = Guest::ordinary();
    guest.set_trap(6, 0, HANDLER);
    distinct(&mut guest);
    guest.regs.rflags = u64::MAX;
    guest.regs.cs = 0x1237;
    guest.regs.ss = 0x3210;
    assert_eq!(guest.exception(6, 0), Next::Guest);
    // Not TF, NT, RF, VM, AC; DF and the arithmetic flags and ID stay.
    assert_eq!(guest.regs.rflags, 0x0020_0ed7);
    assert_eq!((guest.regs.cs, guest.regs.ss), (0xe033, 0xe02b));
    let frame: [u64; 7] = guest.get(guest.regs.rsp);
    assert_eq!(frame[3], 0x1_0000_1234);
    assert_eq!(frame[4], !0x3200, "IF is the mask, IOPL is not shown");
}

#[test]
fn the_virtual_iopl_is_shown_to_those_who_asked() {
    let mut guest = Guest::ordinary();
    guest.set_trap(6, 0, HANDLER);
    guest.state(|state| state.privileged.set_iopl(1)).unwrap();
    for (assist, shown) in [(false, 0x46), (true, 0x1046)] {
        guest.domain(|domain| domain.assists.set(VmAssist::ArchitecturalIopl, assist));
        distinct(&mut guest);
        assert_eq!(guest.exception(6, 0), Next::Guest);
        assert_eq!(guest.get::<[u64; 7]>(guest.regs.rsp)[4], shown);
        assert_eq!(guest.regs.rflags & 0x3000, 0);
    }
}

#[test]
fn user_mode_enters_on_the_kernels_stack_and_root() {
    let mut guest = Guest::ordinary();
    guest.set_trap(14, 0, HANDLER);
    guest.set_mode(GuestMode::User);
    guest.state(|state| {
        state.kernel_stack = KernelStack {
            ss: 0xe02b,
            sp: STACK + 0x18,
        };
    });
    guest.cpu.set_gs_base(0x1000).unwrap();
    guest.cpu.set_user_gs_base(0x2000).unwrap();
    // A root on which the kernel's stack does not exist.
    let user_root = guest.empty_root();
    guest.cpu.load_root(user_root.mfn());
    distinct(&mut guest);
    guest.cpu.set_fault_address(0x1_2345);
    assert_eq!(guest.exception(14, 0x6), Next::Guest);
    assert_eq!(guest.regs.rsp, STACK + 0x10 - 64);
    let frame: [u64; 8] = guest.get(guest.regs.rsp);
    assert_eq!(frame[4], 0x1_0000_e033, "the user's level is 3");
    assert_eq!(frame[2], 6, "a fault of user mode");
    assert_eq!(
        (guest.cpu.gs_base(), guest.cpu.user_gs_base()),
        (0x2000, 0x1000)
    );
    assert_eq!(guest.mode(), GuestMode::Kernel);
    assert_eq!(guest.cpu.registers().cr3 >> 12, guest.root.get());
}

/// Crashes that end an ordinary domain, and only that.
fn crashes(guest: &mut Guest, text: &str) {
    let domid = guest.domid;
    assert_eq!(
        guest.domain(|domain| domain.shutdown.reason()).unwrap().0,
        3
    );
    let output = guest.output();
    let line = format!("d{domid}v0 crashed: {text}");
    assert!(output.contains(&line), "no {line:?} in {output}");
    assert!(output.contains("rip e033:"), "{output}");
    assert_eq!(guest.host.machine.stopped(), None);
}

#[test]
fn xsa_215_a_frame_that_does_not_fit_ends_the_domain() {
    for (rsp, at) in [
        (0xffff_8800_0000_0000_u64, None),
        (0xffff_8000_0000_1000, None),
        (0xffff_8800_0000_0037, None),
        (0x0000_8000_0000_0010, None),
        (0x40, None),
        (DATA, None),
        (DATA_END + 0x40, None),
        (DATA_END + 0x800, Some(DATA_END + 0x800 - 56)),
        (READ_ONLY + 0x800, Some(READ_ONLY + 0x800 - 56)),
        (0, None),
    ] {
        let mut guest = Guest::ordinary();
        guest.set_trap(0, 0, HANDLER);
        distinct(&mut guest);
        guest.regs.rsp = rsp;
        assert_eq!(guest.exception(0, 0), Next::Schedule, "{rsp:#x}");
        let at = at.map_or(String::new(), |at| format!("{at:#x}"));
        crashes(
            &mut guest,
            &format!("the kernel's stack cannot be written at {at}"),
        );
    }
}

#[test]
fn a_frame_may_end_anywhere_that_is_the_guests() {
    for top in [DATA_END, HIGH + 64, HIGH + 0x1000] {
        let mut guest = Guest::ordinary();
        guest.set_trap(13, 0, HANDLER);
        distinct(&mut guest);
        guest.regs.rsp = top;
        assert_eq!(guest.exception(13, 8), Next::Guest, "{top:#x}");
        assert_eq!(guest.regs.rsp, top - 64);
    }
}

#[test]
fn i26_an_exception_without_handler_ends_the_domain() {
    for (vector, code, text) in [
        (0, 0, "unhandled #DE"),
        (6, 0, "unhandled #UD"),
        (13, 0x10, "unhandled #GP [0010]"),
        (14, 0x2, "unhandled #PF [0002] at 0xdead"),
    ] {
        let mut guest = Guest::ordinary();
        guest.cpu.set_fault_address(0xdead);
        assert_eq!(guest.exception(vector, code), Next::Schedule);
        crashes(&mut guest, text);
    }
}

#[test]
fn the_report_shows_registers_and_stack_and_no_more_than_is_there() {
    let mut guest = Guest::ordinary();
    guest.regs.rsp = DATA_END - 32;
    guest.put(DATA_END - 32, &[0x11_u64, 0x22, 0x33, 0x44]);
    (guest.regs.rax, guest.regs.r15) = (0xaaaa_0000_0000_000a, 0xffff_0000_0000_000f);
    assert_eq!(
        guest.exception(u32::from(Vector::DivideError.number()), 0),
        Next::Schedule
    );
    let output = guest.output();
    for part in [
        "rax aaaa00000000000a",
        "r15 ffff00000000000f",
        &format!(
            "stack {:016x}: 0000000000000011 0000000000000022",
            DATA_END - 32
        ),
        &format!("stack {DATA_END:016x}: {DATA_END:#x} cannot be read"),
    ] {
        assert!(output.contains(part), "no {part:?} in {output}");
    }
}

#[test]
fn cpus_and_machines_do_not_share_anything() {
    let mut crashing = Guest::ordinary();
    let mut running = Guest::dom0();
    let before = running.fingerprint();
    assert_eq!(crashing.exception(6, 0), Next::Schedule);
    assert_eq!(before, running.fingerprint());
    assert_eq!(crashing.other_cpu.id(), CpuId::new(1));
    let pcpu = |guest: &Guest, cpu: &oxen_arch::Cpu| guest.host.pcpu(cpu).unwrap().running();
    assert_eq!(
        pcpu(&running, &running.cpu).map(|(domain, _)| domain.get()),
        Some(0)
    );
    assert_eq!(pcpu(&running, &running.other_cpu), None);
    assert_eq!(
        running.exception(0x100, 0),
        Next::Shutdown(crate::trap::return_path::HostEnd::Hardware(
            crate::domain::shutdown::Reason(3)
        ))
    );
}
