use std::string::{String, ToString};
use std::vec;

use super::*;
use crate::fpu::FpuArea;
use crate::memory::BadFrame;
use crate::paging_facts::SPARE_SLOT;
use crate::registers::{BadXcr0, DebugRegisters, NotCanonical, PortWidth};

fn is_shared<T: Send + Sync>() {}

#[test]
fn a_machine_is_shared_and_has_no_equal() {
    is_shared::<Machine>();
    let machines: Vec<_> = (0..2)
        .map(|_| {
            Machine::new(SimConfig {
                cpus: 2,
                ..SimConfig::new(4 * MIB)
            })
            .0
        })
        .collect();
    let spot = Maddr::new(2 * MIB);
    std::thread::scope(|scope| {
        for (n, machine) in machines.iter().enumerate() {
            machine.mem().store_u64(spot, 0).unwrap();
            for id in 0..2 {
                scope.spawn(move || {
                    let cpu = machine.cpu(CpuId::new(id));
                    cpu.set_fs_base(u64::from(id) + 10).unwrap();
                    machine
                        .mem()
                        .fetch_or_u64(spot, 1 << (id as usize * 8 + n))
                        .unwrap();
                });
            }
        }
    });
    for (n, machine) in machines.iter().enumerate() {
        assert_eq!(machine.mem().load_u64(spot), Ok(0x101 << n));
        assert_eq!(machine.cpu(CpuId::new(1)).fs_base(), 11);
    }
}

#[test]
fn a_cpu_is_played_once_at_a_time() {
    let (machine, _) = Machine::new(SimConfig::new(4 * MIB));
    let first = machine.cpu(CpuId::BOOT);
    let twice = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        drop(machine.cpu(CpuId::BOOT))
    }));
    assert!(twice.is_err());
    drop(first);
    machine.cpu(CpuId::BOOT);
}

#[test]
fn the_loader_hands_modules_over() {
    let modules = vec![
        ("console=hvc0".to_string(), vec![7u8; 5000]),
        (String::new(), Vec::new()),
    ];
    let command_line = "dom0_mem=512m".to_string();
    let (machine, info) = Machine::new(SimConfig {
        modules,
        command_line,
        ..SimConfig::new(4 * MIB)
    });
    assert_eq!(
        (info.command_line.as_str(), info.loader.as_str()),
        ("dom0_mem=512m", "sim")
    );
    let mut modules = info.modules.into_iter();
    let kernel = modules.next().unwrap();
    assert_eq!(
        (kernel.command_line(), kernel.bytes()),
        ("console=hvc0", &[7u8; 5000][..])
    );
    let free = machine.take_free_ranges();
    let frames = kernel.into_frames();
    assert_eq!(frames.len(), 2);
    assert!(
        free.iter()
            .all(|range| range.intersection(frames).is_empty())
    );
    assert_eq!(
        machine.mem().read::<[u8; 4096]>(frames.start.start()),
        Ok([7; 4096])
    );
    let last: [u8; 4096] = machine
        .mem()
        .read(Mfn::new(frames.end.get() - 1).start())
        .unwrap();
    assert!(last[..904].iter().all(|byte| *byte == 7) && last[904..].iter().all(|byte| *byte == 0));
    let empty = modules.next().unwrap();
    assert!(empty.bytes().is_empty() && empty.into_frames().is_empty());
}

#[test]
fn a_module_is_private_until_it_is_taken() {
    let modules = vec![(String::new(), vec![7u8; 5000])];
    let (machine, mut info) = Machine::new(SimConfig {
        modules,
        ..SimConfig::new(4 * MIB)
    });
    let is_private = |mfn: u64| machine.mem().load_u8(Mfn::new(mfn).start()) == Err(BadFrame);
    let private: Vec<_> = (0x100..0x400).filter(|mfn| is_private(*mfn)).collect();
    let module = info.modules.pop().unwrap();
    let frames: Vec<_> = module.into_frames().iter().map(Mfn::get).collect();
    assert!(
        frames
            .iter()
            .all(|mfn| private.contains(mfn) && !is_private(*mfn))
    );
}

#[test]
fn boot_memory_is_used_up_once() {
    let (machine, info) = Machine::new(SimConfig::new(4 * MIB));
    assert_eq!(&info.memory_map, machine.memory_map());
    let slice = machine.boot_slice(1000, |n| n as u64).unwrap();
    assert_eq!((slice.len(), slice[999]), (1000, 999));
    assert!(
        machine.boot_slice(1, |_| [0u8; 8 << 20]).is_none(),
        "too much"
    );
    assert!(
        machine.zeroed_boot_slice::<u64>(usize::MAX).is_none(),
        "absurd"
    );
    let free = machine.take_free_ranges();
    // All but 16 frames of tables for root entries, and two each for the slice and the machine-to-physical table.
    assert_eq!(
        free.iter().map(|range| range.len()).sum::<u64>(),
        0x300 - 20
    );
    assert!(
        free.iter()
            .flat_map(|range| range.iter())
            .all(|mfn| machine.mem().load_u8(mfn.start()).is_ok())
    );
    assert!(machine.take_free_ranges().is_empty());
    assert!(machine.boot_slice(1, |_| 0u8).is_none());
    assert_eq!(
        (machine.root_entry(255), machine.root_entry(272)),
        (None, None)
    );
    assert_eq!(machine.root_entry(SPARE_SLOT), Some(0));
    let entries: Vec<_> = (256..272)
        .filter(|&slot| slot != SPARE_SLOT)
        .map(|slot| machine.root_entry(slot).unwrap())
        .collect();
    assert!(
        entries
            .iter()
            .enumerate()
            .all(|(n, entry)| entry & 1 != 0 && (entry & 4 != 0) == (n == 0))
    );
    assert!(
        entries
            .iter()
            .all(|entry| machine.mem().load_u8(Mfn::new(entry >> 12).start()) == Err(BadFrame))
    );
}

#[test]
fn it_ends_by_unwinding() {
    let (machine, _) = Machine::new(SimConfig::new(4 * MIB));
    assert_eq!((catch_stop(|| 5), machine.stopped()), (Ok(5), None));
    let held = crate::sync::SpinLock::new(crate::sync::Rank::Console, ());
    let ended: Result<(), _> = catch_stop(|| {
        let _held = held.lock();
        machine.power_off()
    });
    assert_eq!(
        (ended, machine.stopped()),
        (Err(Stop::PowerOff), Some(Stop::PowerOff))
    );
    assert!(held.try_lock().is_some());
    assert_eq!(catch_stop(|| machine.reboot()), Err::<(), _>(Stop::Reboot));
    assert_eq!(machine.stopped(), Some(Stop::PowerOff), "the first counts");
    let other = std::panic::catch_unwind(|| catch_stop(|| panic!("another matter")));
    assert!(other.is_err());
}

#[test]
fn devices_remember() {
    let (machine, _) = Machine::new(SimConfig {
        tsc_khz: 1000,
        ..SimConfig::new(4 * MIB)
    });
    machine.serial_write(b"ab");
    machine.serial_write(b"c");
    machine.push_serial_input(b"xy");
    assert_eq!(machine.serial_output(), b"abc");
    assert_eq!(
        [
            machine.serial_read(),
            machine.serial_read(),
            machine.serial_read()
        ],
        [Some(b'x'), Some(b'y'), None]
    );
    machine.screen_write(b"s");
    machine.release_screen();
    machine.screen_write(b"t");
    assert_eq!(machine.screen_output(), b"s");

    let cpu = machine.cpu(CpuId::BOOT);
    machine.set_port(0x60, 0x1234_5678);
    assert_eq!(cpu.port_in(0x60, PortWidth::Word), 0x5678);
    assert_eq!(cpu.port_in(0x61, PortWidth::Byte), 0xff);
    cpu.port_out(0x70, PortWidth::Byte, 0x181);
    let log: Vec<_> = cpu
        .take_port_log()
        .iter()
        .map(|access| (access.port, access.value, access.is_out))
        .collect();
    assert_eq!(
        log,
        [
            (0x60, 0x5678, false),
            (0x61, 0xff, false),
            (0x70, 0x81, true)
        ]
    );

    let before = cpu.tsc();
    cpu.wait_for_interrupt();
    machine.advance_tsc(10);
    assert_eq!(cpu.tsc() - before, 1 + 1000 + 10);
    cpu.write_back_caches();
    assert_eq!(
        (cpu.registers().waits, cpu.registers().cache_write_backs),
        (1, 1)
    );
}

#[test]
fn components_that_a_saved_image_has_no_room_for_stay_off() {
    const TILES: u64 = 0b11 << 17;
    let mut config = SimConfig::new(4 * MIB);
    if let Some(leaf) = config.cpuid.get_mut(&(0xd, 0)) {
        leaf.eax |= TILES as u32;
    }
    let (machine, _) = Machine::new(config);
    let cpu = machine.cpu(CpuId::BOOT);
    assert_eq!(cpu.set_xcr0(TILES | 0b111), Err(BadXcr0));
    assert_eq!(cpu.set_xcr0(0b111), Ok(()));
}

#[test]
fn registers_take_what_the_cpu_takes() {
    let (machine, _) = Machine::new(SimConfig {
        cpus: 3,
        ..SimConfig::new(4 * MIB)
    });
    let cpu = machine.cpu(CpuId::new(2));
    assert_eq!((cpu.id(), machine.nr_cpus()), (CpuId::new(2), 3));
    cpu.set_fs_base(0x7fff_ffff_ffff).unwrap();
    cpu.set_gs_base(0xffff_8000_0000_0000).unwrap();
    cpu.set_user_gs_base(3).unwrap();
    assert_eq!(cpu.set_fs_base(1 << 47), Err(NotCanonical));
    assert_eq!(
        [cpu.fs_base(), cpu.gs_base(), cpu.user_gs_base()],
        [0x7fff_ffff_ffff, 0xffff_8000_0000_0000, 3]
    );

    assert_eq!(cpu.cpuid(1, 99).ebx >> 24, 2, "the APIC id");
    assert_eq!(cpu.cpuid(0x4000_0000, 0), Default::default());
    assert_eq!((cpu.cpuid(0xd, 0).ebx, cpu.cpuid(0xd, 0).ecx), (576, 832));
    for bad in [0, 0b10, 0b101, 0b1011, 0b1110_0111, 1 << 63 | 1] {
        assert_eq!(cpu.set_xcr0(bad), Err(BadXcr0), "{bad:#b}");
    }
    cpu.set_xcr0(0b111).unwrap();
    assert_eq!((cpu.cpuid(0xd, 0).ebx, cpu.registers().xcr0), (832, 0b111));
    assert_eq!(
        (cpu.read_msr(0xc000_0080), cpu.read_msr(0x1234)),
        (Some(0xd01), None)
    );

    let dr = DebugRegisters {
        addr: [1, 2, 3, 4],
        ..DebugRegisters::RESET
    };
    cpu.load_debug_registers(&dr);
    cpu.raise_dr6(1);
    assert_eq!(
        (cpu.read_dr6(), cpu.registers().debug.addr),
        (0xffff_0ff1, [1, 2, 3, 4])
    );
    cpu.set_task_switched(true);
    cpu.set_fault_address(5);
    assert_eq!(
        (cpu.registers().task_switched, cpu.fault_address()),
        (true, 5)
    );

    let mut area = FpuArea::new();
    cpu.fill_fpu(0xee);
    cpu.save_fpu(&mut area);
    assert_eq!((area.as_bytes()[160], area.as_bytes()[600]), (0xee, 0xee));
    cpu.restore_fpu(&FpuArea::new());
    cpu.save_fpu(&mut area);
    assert_eq!(area.as_bytes(), FpuArea::new().as_bytes());
}
