//! The image: the order of boot, the handlers of the entry stubs, the panic handler. Wiring only.
#![no_std]
#![forbid(unsafe_code)]

mod dom0;
#[cfg(feature = "longest")]
mod longest;
mod panic;

use dom0_abi::arch::CpuUserRegs;
use oxen_arch::boot::BootInfo;
use oxen_arch::entry::Handlers;
use oxen_arch::registers::Attempt;
use oxen_arch::sync::Once;
use oxen_arch::{
    Cpu, Handover, Interrupt, Machine, SerialConfig, SerialLine, SerialParity, StartOptions,
};
use oxen_core::cmdline::{CommandLine, Parity, SerialPort};
use oxen_core::console::{Console, Out};
use oxen_core::host::Host;
use oxen_core::hypercall::at_once;
use oxen_core::irq;
use oxen_core::trap::entry;
use oxen_core::{error, info, warn};
use zerocopy::FromZeros;

static HOST: Once<Host> = Once::new();

/// Boots: called by the start code, with what the loader left.
pub fn start(handover: Handover) -> ! {
    let boot = match handover.read() {
        Ok(boot) => boot,
        Err(error) => {
            let _ = oxen_arch::open_serial(&serial_config(&SerialPort::COM1));
            panic::stop(format_args!("{error}"))
        }
    };
    let settings = CommandLine::parse(&boot.command_line).settings;
    panic::set_noreboot(settings.noreboot);
    if let Some(line) = settings.serial_line() {
        // Without the port there is nobody to tell.
        let _ = oxen_arch::open_serial(&serial_config(&line));
    }
    let options = StartOptions {
        memory_limit: settings.mem,
        max_cpus: settings.cpus(u32::MAX),
        smep: settings.smep,
        smap: settings.smap,
        pcid: settings.pcid,
        xpti: settings.xpti,
    };
    let error = oxen_arch::start::<Entries>(&handover, boot, options, run);
    panic::stop(format_args!("{error}"))
}

/// Goes on with the machine built, on the CPU's own stack.
fn run(machine: Machine, boot: &'static mut BootInfo, cpu: &'static Cpu) -> ! {
    let modules = core::mem::take(&mut boot.modules);
    let boot = &*boot;
    let parsed = CommandLine::parse(&boot.command_line);
    let settings = parsed.settings.clone();
    let Some(console) = Console::new(&machine) else {
        panic::stop(format_args!("no room for the log"))
    };
    let host = HOST.try_call_once(|| Host::new(machine, cpu, boot, settings, console));
    let host = match host {
        Ok(host) => host,
        Err(error) => panic::stop(format_args!("{error}")),
    };
    let out = host.out(cpu);
    out.configure(&host.settings, boot.entry_tsc);
    info!(
        out,
        "Oxen {}, a hypervisor for Xen's guests",
        env!("CARGO_PKG_VERSION")
    );
    info!(out, "boot loader: {}", boot.loader);
    info!(out, "command line: {}", boot.command_line);
    for warning in &parsed.warnings {
        warn!(out, "{warning}");
    }
    if parsed.warnings_left_out > 0 {
        warn!(
            out,
            "and {} more words of the command line", parsed.warnings_left_out
        );
    }
    for range in boot.memory_map.iter() {
        oxen_core::debug!(out, "memory {range}");
    }
    info!(
        out,
        "{} MiB of RAM, TSC {} MHz, {}",
        boot.memory_map.ram_bytes() >> 20,
        host.machine.tsc_khz() / 1000,
        host.machine.time_source(),
    );
    match host.time.real_time_clock {
        Some(time) => info!(out, "real-time clock: {time}"),
        None => warn!(
            out,
            "no real-time clock tells the time: it begins with 1970 for guests, until dom0 sets it"
        ),
    }
    report_cpus(&host.machine, out);
    let is_needed = host.machine.paging().leaks_supervisor;
    match (host.machine.uses_twins(), is_needed) {
        (true, true) => info!(out, "xpti: on, this CPU needs it"),
        (true, false) => info!(out, "xpti: on, though this CPU does not need it"),
        (false, true) => warn!(out, "xpti: off, though this CPU needs it"),
        (false, false) => info!(out, "xpti: off, this CPU does not need it"),
    }
    if let Some(line) = host.settings.serial_line()
        && line.irq != 0
    {
        match host.machine.enable_serial_input(line.irq) {
            Some(gsi) => host.irqs.keep_line(gsi),
            None => warn!(
                out,
                "no IO-APIC serves interrupt {}: the serial line is for output only", line.irq
            ),
        }
    }
    host.call_cpus(cpu);
    if let Err(error) = dom0::start(host, cpu, boot, modules, parsed.dom0_arguments) {
        error!(out, "{error}");
        panic::stop(format_args!("there is no dom0 to run"))
    }
    run_guests(host, cpu)
}

/// What a CPU does from the time on when there are guests.
fn run_guests(host: &Host, cpu: &Cpu) -> ! {
    let mut regs = CpuUserRegs::new_zeroed();
    entry::begin(host, cpu, &mut regs);
    cpu.enter_guest(&regs)
}

/// Says which CPUs run, which do not, and how far their time-stamp counters agree.
fn report_cpus(machine: &Machine, out: Out<'_>) {
    let mut error = 0;
    let mut with_other_memory_types = 0;
    for report in machine.cpu_reports() {
        match report.outcome {
            Err(reason) => {
                let apic_id = report.apic_id;
                warn!(out, "the CPU with APIC {apic_id:#x} is not used: {reason}");
            }
            Ok(cpu) => {
                let offset = cpu.skew.offset();
                if offset != 0 {
                    info!(out, "CPU {}: {offset} cycles are added to its TSC", cpu.id);
                }
                error = cpu.skew.error().max(error);
                with_other_memory_types += u32::from(cpu.had_other_memory_types);
            }
        }
    }
    if with_other_memory_types > 0 {
        info!(
            out,
            "{with_other_memory_types} CPUs came with other memory types (MTRRs) than the first, and got its"
        );
    }
    let nr_cpus = machine.nr_cpus();
    info!(
        out,
        "{} CPUs found, {nr_cpus} running, {}",
        machine.cpus_found(),
        if machine.has_x2apic() {
            "x2APIC"
        } else {
            "xAPIC"
        },
    );
    if nr_cpus > 1 {
        info!(out, "clock: CPUs differ by {error} cycles at most");
    }
}

/// What the entry stubs call.
struct Entries;

impl Handlers for Entries {
    const STRAIGHT: u64 = at_once::NUMBERS;

    #[inline(always)]
    fn hypercall_at_once(cpu: &Cpu, number: u64, arguments: [u64; 4]) -> Attempt {
        match HOST.get() {
            Some(host) => at_once::attempt(host, cpu, number, arguments),
            None => Attempt::NOTHING,
        }
    }

    #[inline(always)]
    fn hypercall(cpu: &Cpu, regs: &mut CpuUserRegs) {
        if let Some(host) = HOST.get() {
            #[cfg(feature = "longest")]
            let _entry = longest::Entry::begin(host, cpu, regs);
            entry::hypercall(host, cpu, regs);
        }
    }

    fn rest_of_hypercall(cpu: &Cpu, regs: &mut CpuUserRegs) {
        if let Some(host) = HOST.get() {
            #[cfg(feature = "longest")]
            let _entry = longest::Entry::begin(host, cpu, regs);
            entry::rest_of_hypercall(host, cpu, regs);
        }
    }

    #[inline(always)]
    fn exception(cpu: &Cpu, regs: &mut CpuUserRegs) {
        if let Some(host) = HOST.get() {
            #[cfg(feature = "longest")]
            let _entry = longest::Entry::begin(host, cpu, regs);
            entry::exception(host, cpu, regs);
        }
    }

    fn device(cpu: &Cpu, vector: u8) {
        if let Some(host) = HOST.get() {
            irq::arrived(host, cpu, vector);
        }
    }

    fn interrupt(cpu: &Cpu, regs: Option<&mut CpuUserRegs>, what: Interrupt) {
        if let Some(host) = HOST.get() {
            #[cfg(feature = "longest")]
            let _entry = regs
                .as_deref()
                .map(|regs| longest::Entry::begin(host, cpu, regs));
            entry::interrupt(host, cpu, regs, what);
        }
    }

    fn idle(cpu: &Cpu) -> ! {
        loop {
            if let Some(host) = HOST.get() {
                host.cpu_up(cpu);
                run_guests(host, cpu)
            }
            cpu.wait_for_interrupt();
        }
    }
}

fn serial_config(line: &SerialPort) -> SerialConfig {
    SerialConfig {
        port: line.io_base,
        line: line.baud.map(|baud| SerialLine {
            baud,
            base_baud: line.base_baud,
            data_bits: line.data_bits,
            parity: match line.parity {
                Parity::None => SerialParity::None,
                Parity::Odd => SerialParity::Odd,
                Parity::Even => SerialParity::Even,
                Parity::Mark => SerialParity::Mark,
                Parity::Space => SerialParity::Space,
            },
            has_two_stop_bits: line.stop_bits == 2,
        }),
    }
}
