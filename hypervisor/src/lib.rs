//! The image.
#![no_std]
#![forbid(unsafe_code)]

use core::fmt::Write;
use core::panic::PanicInfo;

use dom0_abi::arch::CpuUserRegs;
use oxen_arch::boot::BootInfo;
use oxen_arch::entry::Handlers;
use oxen_arch::{
    Cpu, Handover, Machine, SerialConfig, SerialParity, StartOptions, emergency, open_serial,
};

struct Entries;

impl Handlers for Entries {
    fn hypercall(_: &Cpu, _: &mut CpuUserRegs) {}
    fn exception(_: &Cpu, regs: &mut CpuUserRegs) {
        panic!("guest exception {} at {:x}", regs.entry_vector, regs.rip)
    }
    fn interrupt(_: &Cpu, _: Option<&mut CpuUserRegs>, _: u8) {}
}

/// Starts.
pub fn start(handover: Handover) -> ! {
    open_serial(&SerialConfig {
        port: 0x3f8,
        baud: Some(115200),
        data_bits: 8,
        parity: SerialParity::None,
        two_stop_bits: false,
        irq: Some(4),
    });
    let _ = writeln!(Emergency, "hello from oxen");
    let info = match handover.read() {
        Ok(info) => info,
        Err(error) => panic!("{error}"),
    };
    let _ = writeln!(
        Emergency,
        "loader {:?} cmd {:?} rsdp {:?} screen {:?} modules {:?}",
        info.loader, info.command_line, info.rsdp, info.screen, info.modules
    );
    for range in info.memory_map.iter() {
        let _ = writeln!(Emergency, "{range:x?}");
    }
    let options = StartOptions {
        memory_limit: None,
        smep: true,
        smap: true,
    };
    let error = oxen_arch::start::<Entries>(&handover, info, options, go_on);
    panic!("{error}")
}

fn go_on(machine: Machine, info: BootInfo, cpu: Cpu) -> ! {
    let _ = writeln!(
        Emergency,
        "cpu {} of {} khz {} entry {}",
        cpu.id(),
        machine.nr_cpus(),
        machine.tsc_khz(),
        cpu.tsc() - info.entry_tsc
    );
    for range in machine.take_free_ranges() {
        let _ = writeln!(Emergency, "free {range:x?}");
    }
    let _ = writeln!(
        Emergency,
        "msr {:?} {:?}",
        cpu.read_msr(0x1b),
        cpu.read_msr(0x12345)
    );
    let mut b = [0; 20];
    let _ = writeln!(
        Emergency,
        "guest {:?}",
        cpu.read_guest_bytes(dom0_abi::addr::GuestAddr::new(0x1000), &mut b)
    );
    machine.screen_write(b"Hello screen\nfrom Oxen\n");
    panic!("end")
}

struct Emergency;
impl Write for Emergency {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for line in text.split_inclusive('\n') {
            emergency::write(line.trim_end_matches('\n').as_bytes());
            if line.ends_with('\n') {
                emergency::write(b"\r\n");
            }
        }
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(Emergency, "{info}");
    for address in emergency::callers() {
        let _ = writeln!(Emergency, "  {address:x} {:?}", emergency::symbol(address));
    }
    emergency::halt()
}
