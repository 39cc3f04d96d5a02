//! `in`, `out`, `ins` and `outs`.

use super::*;

#[test]
fn ports_in_every_width() {
    let mut bench = Bench::new();
    bench.state.set_iopl(1).unwrap();
    bench.machine.set_port(0x80, 0x1234_5678);
    for (bytes, expected) in [
        (&[0xe4, 0x80][..], 0xffff_ffff_ffff_ff78),
        (&[0x66, 0xe5, 0x80], 0xffff_ffff_ffff_5678),
        (&[0xe5, 0x80], 0x1234_5678),
        (&[0xec], 0xffff_ffff_ffff_ff78),
        (&[0x66, 0xed], 0xffff_ffff_ffff_5678),
        (&[0xed], 0x1234_5678),
    ] {
        bench.regs.rax = u64::MAX;
        bench.regs.rdx = 0xabcd_0080;
        bench.run(bytes);
        assert_eq!(bench.regs.rax, expected, "{bytes:02x?}");
    }
    bench.cpu.take_port_log();
    for (bytes, width, value) in [
        (&[0xe6, 0x80][..], PortWidth::Byte, 0x0d),
        (&[0x66, 0xe7, 0x80], PortWidth::Word, 0xf00d),
        (&[0xef], PortWidth::Dword, 0x600d_f00d),
    ] {
        bench.regs.rax = 0xffff_ffff_600d_f00d;
        bench.run(bytes);
        let log = bench.cpu.take_port_log();
        assert_eq!(log.len(), 1);
        assert!(log[0].is_out);
        assert_eq!(
            (log[0].port, log[0].width, log[0].value),
            (0x80, width, value)
        );
    }
}

#[test]
fn denied_ports_read_as_all_ones() {
    let mut bench = Bench::new();
    bench.state.set_iopl(1).unwrap();
    for port in [0x20, 0x3f8, 0x3ff] {
        bench.machine.set_port(port, 0);
        bench.regs.rdx = u64::from(port);
        bench.regs.rax = 0;
        bench.run(&[0xec]);
        assert_eq!(bench.regs.rax, 0xff);
        bench.run(&[0xed]);
        assert_eq!(bench.regs.rax, 0xffff_ffff);
        bench.run(&[0xef]);
    }
    bench.ports = PortRights::none();
    bench.regs.rdx = 0x3d4;
    bench.run(&[0xec]);
    assert_eq!(bench.regs.rax, 0xffff_ffff);
    assert!(bench.cpu.take_port_log().is_empty());
    bench.state.set_iopl(0).unwrap();
    bench.refuse(&[0xec], GP);
}

/// The bitmap is the guest's own, and every byte of an access counts.
#[test]
fn ports_by_the_bitmap_of_the_guest() {
    let mut bench = Bench::new();
    let bitmap = GuestAddr::new(DATA);
    // All but 0x80 and 0x81 are refused; there are bits up to 0x87.
    let mut bits = [0xff_u8; 17];
    bits[0x10] = !0b11;
    bench.cpu.write_guest_bytes(bitmap, &bits).unwrap();
    bench.machine.set_port(0x80, 0x1234);
    bench.refuse(&[0xe4, 0x80], GP);
    bench.state.set_port_bitmap(bitmap, 0x88).unwrap();
    bench.regs.rax = 0;
    bench.run(&[0x66, 0xe5, 0x80]);
    assert_eq!(bench.regs.rax, 0x1234);
    bench.refuse(&[0xe5, 0x80], GP);
    bench.refuse(&[0xe4, 0x82], GP);
    bench.refuse(&[0xfa], GP);
    bench.state.set_port_bitmap(bitmap, 0x81).unwrap();
    bench.run(&[0xe4, 0x80]);
    bench.refuse(&[0x66, 0xe5, 0x80], GP);
    let refused = bench.state.set_port_bitmap(bitmap, 0x1_0001);
    assert_eq!(refused, Err(Errno::EINVAL));
    let ours = GuestAddr::new(0xffff_8000_0000_0000);
    let refused = bench.state.set_port_bitmap(ours, 8);
    assert_eq!(refused, Err(Errno::EFAULT));
}

fn memory(bench: &Bench, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = std::vec![0; len];
    bench
        .cpu
        .read_guest_bytes(GuestAddr::new(at), &mut bytes)
        .unwrap();
    bytes
}

#[test]
fn strings_go_both_ways() {
    let mut bench = Bench::new();
    bench.state.set_iopl(1).unwrap();
    bench.machine.set_port(0x1f0, 0x0403_0201);
    bench.regs.rdx = 0x1f0;
    bench.regs.rdi = DATA + PAGE_SIZE as u64 - 2;
    bench.regs.rcx = 3;
    bench.run(&[0xf3, 0x6d]);
    assert_eq!(bench.regs.rcx, 0);
    assert_eq!(bench.regs.rdi, DATA + PAGE_SIZE as u64 + 10);
    let stored = memory(&bench, DATA + PAGE_SIZE as u64 - 2, 13);
    assert_eq!(stored, [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 0]);

    bench.cpu.take_port_log();
    bench.regs.rflags = flags::DF;
    bench.regs.rsi = DATA + PAGE_SIZE as u64 + 2;
    bench.regs.rcx = 2;
    bench.run(&[0xf3, 0x66, 0x6f]);
    assert_eq!(bench.regs.rsi, DATA + PAGE_SIZE as u64 - 2);
    let values: Vec<u32> = bench
        .cpu
        .take_port_log()
        .iter()
        .map(|access| access.value)
        .collect();
    assert_eq!(values, [0x0201, 0x0403]);

    bench.regs.rcx = 0;
    bench.run(&[0xf3, 0x6e]);
    assert!(bench.cpu.take_port_log().is_empty());
}

#[test]
fn strings_with_segments_and_short_addresses() {
    let mut bench = Bench::new();
    bench.state.set_iopl(1).unwrap();
    bench
        .cpu
        .write_guest(GuestAddr::new(DATA + 8), &0x5a_u8)
        .unwrap();
    bench.cpu.set_fs_base(DATA).unwrap();
    bench.cpu.set_gs_base(DATA + 4).unwrap();
    bench.regs.rdx = 0x80;
    for (bytes, rsi) in [
        (&[0x64, 0x6e][..], 8),
        (&[0x65, 0x6e], 4),
        (&[0x6e], DATA + 8),
    ] {
        bench.regs.rsi = rsi;
        bench.run(bytes);
        assert_eq!(bench.regs.rsi, rsi + 1);
        assert_eq!(bench.cpu.take_port_log()[0].value, 0x5a);
    }
    // A segment prefix does not move the destination of `ins`.
    bench.machine.set_port(0x80, 0x77);
    bench.regs.rdi = DATA;
    bench.run(&[0x64, 0x6c]);
    assert_eq!(memory(&bench, DATA, 1), [0x77]);
    bench.regs.rsi = 0xffff_ffff_0000_0000 | (DATA + 8);
    bench.regs.rcx = 0xffff_ffff_0000_0001;
    bench.run(&[0x67, 0xf3, 0x6e]);
    assert_eq!((bench.regs.rsi, bench.regs.rcx), (DATA + 9, 0));
}

#[test]
fn a_fault_in_a_string_stops_it_there() {
    let mut bench = Bench::new();
    bench.state.set_iopl(1).unwrap();
    let end = DATA + 2 * PAGE_SIZE as u64;
    bench.regs.rdx = 0x80;
    bench.regs.rdi = end - 2;
    bench.regs.rcx = 5;
    let result = bench.trap_at(CODE, Vector::GeneralProtection, &[0xf3, 0x6c]);
    assert_eq!(result, Err(Exception::pf(end, PageFaultCode::WRITE)));
    assert_eq!(
        (bench.regs.rip, bench.regs.rcx, bench.regs.rdi),
        (CODE, 3, end)
    );
    bench.mode = Mode::User;
    bench.state.set_iopl(3).unwrap();
    bench.regs.rsi = end;
    bench.refuse(&[0x6e], Exception::pf(end, PageFaultCode::USER));
    bench.regs.rsi = 1 << 47;
    bench.refuse(&[0x6e], GP);
    bench.mode = Mode::Kernel;
    bench.regs.rsi = 0xffff_8000_0000_0000;
    bench.refuse(&[0x6e], Exception::pf(0xffff_8000_0000_0000, 0));
}

#[test]
fn a_long_string_is_cut_into_shares() {
    let mut bench = Bench::new();
    bench.state.set_iopl(1).unwrap();
    bench.regs.rdx = 0x80;
    bench.regs.rsi = DATA;
    bench.regs.rcx = 150;
    bench
        .trap_at(CODE, Vector::GeneralProtection, &[0xf3, 0x6e])
        .unwrap();
    assert_eq!((bench.regs.rip, bench.regs.rcx), (CODE, 86));
    bench.emulate().unwrap();
    bench.emulate().unwrap();
    assert_eq!((bench.regs.rip, bench.regs.rcx), (CODE + 2, 0));
    assert_eq!(bench.cpu.take_port_log().len(), 150);
}
