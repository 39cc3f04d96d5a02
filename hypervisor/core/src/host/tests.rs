//! Whole machines: dom0 built from a kernel's file, started, making calls; several machines and CPUs at once.

use dom0_abi::addr::{GuestAddr, PAGE_SIZE};
use dom0_abi::arch::CpuUserRegs;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, VcpuId};
use oxen_arch::boot::CpuId;
use oxen_arch::{Cpu, Interrupt, Ipi, Machine, SERIAL_VECTOR, SimConfig};
use zerocopy::FromZeros;

use super::*;
use crate::cmdline::CommandLine;
use crate::domain::builder::sample::Sample;
use crate::domain::builder::start_info::Firmware;
use crate::domain::builder::{Request, build};
use crate::domain::teardown::Progress;
use crate::domain::{Capabilities, dom0};
use crate::page_type::{Level, PageType, TypeRef};
use crate::policy::ports::PortRights;
use crate::testing::{self, DATA, Guest};
use crate::trap::entry;
use crate::trap::return_path::Next;

/// A machine of two CPUs on which dom0 was built by the builder and runs on the first.
fn machine_with_dom0(seed: u64) -> (Host, [Cpu; 2], CpuUserRegs) {
    let mut config = SimConfig::new(64 << 20);
    config.cpus = 2;
    config.seed = seed;
    config.command_line = "com1=115200 dom0_mem=32m gnttab_max_frames=9".into();
    let pae = crate::domain::builder::sample::note(9, b"yes\0");
    let kernel = Sample::new().with_note(pae).file();
    config.modules.push((String::new(), kernel));
    let (machine, mut boot) = Machine::new(config);
    let cpus = [0, 1].map(|id| machine.cpu(CpuId::new(id)));
    let settings = CommandLine::parse(&boot.command_line).settings;
    let mut kernel = boot.modules.pop();
    let console = Console::new(&machine).unwrap();
    let host = Host::new(machine, &cpus[0], &boot, settings, console).unwrap();
    let request = Request {
        kernel: &mut kernel,
        initrd: &mut None,
        nr_pages: 32 << 8,
        owner: DomId::DOM0,
        screen: None,
        firmware: Firmware::Bios,
        arguments: "",
    };
    let undo = crate::frame::UndoQueue::new();
    let built = build(host.memory(&cpus[0], &undo), request).unwrap();
    let domain = dom0::add(&host, &cpus[0], &built, None, &[]).unwrap();
    let regs = testing::run(&host, &cpus[0], domain.vcpu(VcpuId::new(0)).unwrap());
    drop(domain);
    (host, cpus, regs)
}

#[test]
fn the_audit_key_finds_nothing_wrong_but_what_is() {
    let guest = Guest::dom0();
    let (host, cpu) = (&guest.host, &guest.cpu);
    let free = host.frames.statistics();
    crate::audit::key::pressed(host, cpu);
    let said = guest.output();
    assert!(said.contains("audit of memory: 0 findings"), "{said}");
    assert_eq!(host.frames.statistics(), free);
    // A reference that nobody has.
    let undo = UndoQueue::new();
    let memory = host.memory(cpu, &undo);
    core::mem::forget(memory.acquire(guest.shared_info, guest.domid).unwrap());
    crate::audit::key::pressed(host, cpu);
    let said = guest.output();
    assert!(said.contains("audit of memory: 1 findings"), "{said}");
    assert!(said.contains("domain 0 as shared page uses it"), "{said}");
}

#[test]
fn the_rest_of_a_domain_goes_in_steps() {
    const UNITS: u32 = 100;
    let id = DomId::new(7);
    let guest = Guest::with_vcpus(id, Capabilities::empty(), 30, |_| {});
    let (host, cpu) = (&guest.host, &guest.cpu);
    let domain = host.domains.get(id).unwrap();
    let undo = UndoQueue::new();
    let memory = host.memory(cpu, &undo);
    let grown = (domain.grants).grow(memory, id, 64, &mut { Budget::ENDLESS });
    assert!(grown.is_ok());
    testing::stop(host, cpu, &domain);
    let ended = teardown::release(memory, &host.domains, &domain, &mut { Budget::ENDLESS });
    assert_eq!(ended, Progress::Done);
    let free = || host.frames.statistics().free;
    let before = free();
    assert!(!host.reap_domain(cpu, id, &mut { Budget::ENDLESS }));
    assert_eq!(free(), before, "somebody refers to it");
    drop(domain);
    let (mut last, mut steps) = (before, 0);
    while !host.reap_domain(cpu, id, &mut Budget::new(UNITS)) {
        let freed = free() - last;
        assert!(freed > 0 && freed * u64::from(teardown::FRAME) <= UNITS.into());
        assert!(host.domains.get(id).is_none(), "nobody finds it");
        assert!(host.domains.take(id, |_| false).is_none());
        (last, steps) = (last + freed, steps + 1);
    }
    let of_vcpu = size_of::<Vcpu>().div_ceil(PAGE_SIZE) as u64;
    let all = free() - before;
    assert!(all >= 30 * of_vcpu + 64, "{all}");
    assert!(steps >= (all * 8 / u64::from(UNITS)) / 2, "{steps}");
    assert!(of_vcpu * u64::from(teardown::FRAME) <= teardown::VCPU.into());
    assert!(!host.reap_domain(cpu, id, &mut { Budget::FULL }));
}

#[test]
fn dom0_grants_as_much_as_the_command_line_says() {
    let (host, ..) = machine_with_dom0(1);
    assert_eq!(
        host.domains.get(DomId::DOM0).unwrap().grants.max_frames(),
        9
    );
}

#[test]
fn two_machines_run_a_built_dom0_each() {
    let mut machines = [machine_with_dom0(1), machine_with_dom0(2)];
    for (index, (host, [cpu, other], regs)) in machines.iter_mut().enumerate() {
        // start_info is where rsi says, and begins with its magic.
        let magic: [u8; 16] = cpu.read_guest(GuestAddr::new(regs.rsi)).unwrap();
        assert_eq!(&magic, b"xen-3.0-x86_64p\0");
        let scratch = regs.rsp.wrapping_sub(64);
        let call = |regs: &mut CpuUserRegs, call: Hypercall, rdi, rsi| {
            regs.rax = call.number();
            (regs.rdi, regs.rsi) = (rdi, rsi);
            assert_eq!(entry::handle_syscall(host, cpu, regs), Next::Guest);
            regs.rax as i64
        };
        assert_eq!(call(regs, Hypercall::XenVersion, 0, 0), 0x0004_0011);
        cpu.write_guest(GuestAddr::new(scratch), &[0_u32; 2])
            .unwrap();
        assert_eq!(call(regs, Hypercall::XenVersion, 6, scratch), 0);
        let [_, features] = cpu.read_guest::<[u32; 2]>(GuestAddr::new(scratch)).unwrap();
        assert_eq!(
            features,
            1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 11 | 1 << 13 | 1 << 17
        );
        assert_eq!(call(regs, Hypercall::StackSwitch, 0, index as u64), 0);
        let mut idle = *regs;
        assert_eq!(
            entry::handle_syscall(host, other, &mut idle),
            Next::Schedule
        );
    }
    for (index, (host, ..)) in machines.iter().enumerate() {
        let domain = host.domains.get(DomId::DOM0).unwrap();
        let stack = domain.vcpu(VcpuId::new(0)).unwrap().lock().kernel_stack;
        assert_eq!(stack.sp, index as u64);
        assert!(domain.capabilities.contains(Capabilities::all()));
    }
}

#[test]
fn two_cpus_run_two_domains_at_once() {
    let guest = Guest::dom0();
    let neighbour = guest.neighbour();
    let Guest {
        host,
        cpu,
        other_cpu,
        regs,
        ..
    } = guest;
    // Each thread takes the CPU that it plays.
    drop((cpu, other_cpu));
    std::thread::scope(|scope| {
        for (id, mut regs, sp) in [(0, regs, 0x1000_u64), (1, neighbour.regs, 0x2000)] {
            let host = &host;
            scope.spawn(move || {
                let cpu = host.machine.cpu(CpuId::new(id));
                for round in 0..500 {
                    regs.rax = Hypercall::StackSwitch.number();
                    (regs.rdi, regs.rsi) = (0, sp + round);
                    assert_eq!(entry::handle_syscall(host, &cpu, &mut regs), Next::Guest);
                    assert_eq!(regs.rax, 0);
                    regs.rax = Hypercall::XenVersion.number();
                    (regs.rdi, regs.rsi) = (1, DATA);
                    assert_eq!(entry::handle_syscall(host, &cpu, &mut regs), Next::Guest);
                }
            });
        }
    });
    let sp = |id| {
        let domain = host.domains.get(id).unwrap();
        domain.vcpu(VcpuId::new(0)).unwrap().lock().kernel_stack.sp
    };
    assert_eq!(
        (sp(DomId::DOM0), sp(neighbour.domid)),
        (0x1000 + 499, 0x2000 + 499)
    );
}

#[test]
fn a_domain_that_is_refused_leaves_no_memory_behind() {
    let guest = Guest::dom0();
    let free = guest.host.frames.statistics().free;
    let domain = |id| {
        Domain::new(
            DomId::new(id),
            Capabilities::empty(),
            &guest.host.entry_rules,
            PortRights::none(),
            guest.shared_info,
        )
    };
    let host = &guest.host;
    let undo = crate::frame::UndoQueue::new();
    let memory = host.memory(&guest.cpu, &undo);
    let ty = PageType::Table(Level::L4);
    let root = || {
        let root = TypeRef::share(memory, guest.root, ty, guest.domid);
        root.unwrap().into_held()
    };
    let references = || host.frames.type_state(guest.root);
    let before = references();
    let vcpu = |id| {
        let privileged =
            crate::domain::privileged_state::PrivilegedState::new(guest.host.cpuid.owned_bits());
        let state = crate::domain::vcpu::VcpuState::new(
            CpuUserRegs::new_zeroed(),
            Some(root()),
            privileged,
        );
        let upcall =
            crate::domain::upcall::Upcall::new(host.mem(), guest.shared_info.at(0)).unwrap();
        Vcpu::new(VcpuId::new(id), upcall, state)
    };
    let refused = |result: Result<DomainRef<'_>, AddDomainError>| result.map(|_| ()).unwrap_err();
    assert_eq!(
        refused(host.add_domain(&guest.cpu, domain(0), [vcpu(0)])),
        AddDomainError::DomainNumber
    );
    assert_eq!(
        refused(host.add_domain(&guest.cpu, domain(0x7ff0), [vcpu(0)])),
        AddDomainError::DomainNumber
    );
    assert_eq!(
        refused(host.add_domain(&guest.cpu, domain(5), [vcpu(0), vcpu(2)])),
        AddDomainError::VcpuNumber
    );
    let many = (0..=128).map(vcpu);
    assert_eq!(
        refused(host.add_domain(&guest.cpu, domain(5), many)),
        AddDomainError::VcpuNumber
    );
    assert_eq!(host.frames.statistics().free, free);
    assert_eq!(references(), before);
    assert!(
        host.add_domain(&guest.cpu, domain(5), [vcpu(0), vcpu(1)])
            .is_ok()
    );
    assert!(host.frames.statistics().free < free);
}

#[test]
fn each_cpu_answers_when_a_key_asks() {
    let mut guest = Guest::dom0();
    let (host, regs) = (&guest.host, Some(&mut guest.regs));
    host.machine.push_serial_input(b"\x01\x01\x01i");
    entry::interrupt(host, &guest.cpu, regs, Interrupt::Device(SERIAL_VECTOR));
    assert_eq!(host.machine.take_ipi_log().len(), 2);
    for cpu in [&guest.cpu, &guest.other_cpu] {
        let what = cpu.take_interrupt().unwrap();
        assert_eq!(what, Interrupt::Ipi(Ipi::Call));
        // Once, however often it is called.
        entry::interrupt(host, cpu, None, what);
        entry::interrupt(host, cpu, None, what);
    }
    let text = guest.output();
    for id in 0..2 {
        let answer = std::format!("CPU {id} was interrupted");
        assert_eq!(text.matches(&answer).count(), 1, "{text}");
    }
}
