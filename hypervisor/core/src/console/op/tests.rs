use dom0_abi::addr::{Maddr, Mfn, PAGE_SIZE};
use oxen_arch::{CpuId, Machine, SimConfig};

use super::super::{Console, Input};
use super::*;
use crate::cmdline::CommandLine;

/// One page of guest memory is mapped here, and nothing behind it.
const PAGE: u64 = 0x1000_0000;

struct Setup {
    machine: Machine,
    console: Console,
    cpu: Cpu,
    page: Mfn,
}

impl Setup {
    fn new() -> Self {
        let (machine, _) = Machine::new(SimConfig::new(4 << 20));
        let console = Console::new(&machine).unwrap();
        let free = machine.take_free_ranges();
        let mut mfns = free.iter().flat_map(|range| range.iter());
        let tables: Vec<Mfn> = mfns.by_ref().take(4).collect();
        let page = mfns.next().unwrap();
        // Four levels with one entry each: present, writable, user.
        let targets = tables[1..].iter().chain([&page]);
        for ((table, target), shift) in tables.iter().zip(targets).zip([39, 30, 21, 12]) {
            machine.mem().zero_frame(*table).unwrap();
            let at = table.at(((PAGE >> shift) as usize & 0x1ff) * 8);
            machine
                .mem()
                .store_u64(at, target.start().get() | 7)
                .unwrap();
        }
        let cpu = machine.cpu(CpuId::BOOT);
        cpu.load_root(tables[0]);
        let setup = Self {
            machine,
            console,
            cpu,
            page,
        };
        setup
            .out()
            .configure(&CommandLine::parse("console=com1").settings, 0);
        setup.console.dom0_starts();
        setup
    }

    fn out(&self) -> Out<'_> {
        self.console.on(&self.machine, 0)
    }

    fn at(&self, offset: usize) -> Maddr {
        self.page.at(offset)
    }

    fn call(&self, command: u32, count: u32, offset: usize) -> Result<Progress, Errno> {
        console_io(
            self.out(),
            &self.cpu,
            true,
            command,
            count,
            GuestAddr::new(PAGE + offset as u64),
        )
    }

    fn type_in(&self, text: &[u8]) {
        text.iter()
            .for_each(|&byte| assert_eq!(self.out().input(byte), Input::ForDom0));
    }
}

#[test]
fn only_the_control_domain_may() {
    let setup = Setup::new();
    setup.type_in(b"secret");
    for command in [CONSOLEIO_WRITE, CONSOLEIO_READ, 2, u32::MAX] {
        let got = console_io(
            setup.out(),
            &setup.cpu,
            false,
            command,
            4,
            GuestAddr::new(PAGE),
        );
        assert_eq!(got, Err(Errno::EPERM));
    }
    assert!(setup.machine.serial_output().is_empty());
    for command in [2, 3, u32::MAX] {
        assert_eq!(setup.call(command, 4, 0), Err(Errno::ENOSYS));
    }
}

#[test]
fn a_write_is_continued_until_all_is_written() {
    let text: Vec<u8> = (0..1000u32).map(|n| b'a' + (n % 26) as u8).collect();
    for len in [0, 1, 127, 128, 129, 255, 256, 257, 1000] {
        let setup = Setup::new();
        setup.machine.mem().write_bytes(setup.at(3), &text).unwrap();
        let (mut count, mut buffer, mut steps) = (len, GuestAddr::new(PAGE + 3), 0);
        loop {
            steps += 1;
            match console_io(
                setup.out(),
                &setup.cpu,
                true,
                CONSOLEIO_WRITE,
                count,
                buffer,
            )
            .unwrap()
            {
                Progress::Done(value) => {
                    assert_eq!(value, 0);
                    break;
                }
                Progress::Continue {
                    count: left,
                    buffer: next,
                } => {
                    assert_eq!(count - left, STEP);
                    (count, buffer) = (left, next);
                }
            }
        }
        assert_eq!(steps, len.div_ceil(STEP).max(1));
        assert_eq!(setup.machine.serial_output(), text[..len as usize]);
    }
}

#[test]
fn a_write_faults_where_memory_ends() {
    let setup = Setup::new();
    setup
        .machine
        .mem()
        .write_bytes(setup.at(PAGE_SIZE - 128), &[b'x'; 128])
        .unwrap();
    assert_eq!(
        setup.call(CONSOLEIO_WRITE, 200, PAGE_SIZE - 128),
        Err(Errno::EFAULT)
    );
    assert_eq!(setup.machine.serial_output(), [b'x'; 128]);

    let call = |count, buffer| {
        console_io(
            setup.out(),
            &setup.cpu,
            true,
            CONSOLEIO_WRITE,
            count,
            GuestAddr::new(buffer),
        )
    };
    for buffer in [
        0,
        0x8000_0000_0000,
        0xffff_8000_0000_0000,
        u64::MAX,
        u64::MAX - 127,
    ] {
        for count in [1, 128, 129, u32::MAX] {
            assert_eq!(
                call(count, buffer),
                Err(Errno::EFAULT),
                "{count} bytes at {buffer:#x}"
            );
        }
        assert_eq!(call(0, buffer), Ok(Progress::Done(0)));
    }
    assert_eq!(setup.machine.serial_output().len(), 128);
}

#[test]
fn a_read_takes_what_was_typed() {
    let setup = Setup::new();
    assert_eq!(setup.call(CONSOLEIO_READ, 16, 0), Ok(Progress::Done(0)));
    let text: Vec<u8> = (0..300u32).map(|n| b'0' + (n % 10) as u8).collect();
    setup.type_in(&text);
    let mut seen = vec![0; 300];
    assert_eq!(setup.call(CONSOLEIO_READ, 10, 0), Ok(Progress::Done(10)));
    setup
        .machine
        .mem()
        .read_bytes(setup.at(0), &mut seen[..10])
        .unwrap();
    assert_eq!(
        setup.call(CONSOLEIO_READ, i32::MAX as u32, 10),
        Ok(Progress::Done(290))
    );
    setup
        .machine
        .mem()
        .read_bytes(setup.at(10), &mut seen[10..])
        .unwrap();
    assert_eq!(seen, text);
    assert_eq!(setup.call(CONSOLEIO_READ, 16, 0), Ok(Progress::Done(0)));
}

#[test]
fn a_read_that_faults_loses_nothing() {
    let setup = Setup::new();
    setup.type_in(b"typed");
    assert_eq!(
        setup.call(CONSOLEIO_READ, 16, PAGE_SIZE - 2),
        Err(Errno::EFAULT)
    );
    assert_eq!(
        setup.call(CONSOLEIO_READ, 0, PAGE_SIZE),
        Ok(Progress::Done(0))
    );
    assert_eq!(setup.call(CONSOLEIO_READ, 1 << 31, 0), Err(Errno::E2BIG));
    assert_eq!(setup.call(CONSOLEIO_READ, u32::MAX, 0), Err(Errno::E2BIG));
    assert_eq!(setup.call(CONSOLEIO_READ, 16, 0), Ok(Progress::Done(5)));
    let mut seen = [0; 5];
    setup
        .machine
        .mem()
        .read_bytes(setup.at(0), &mut seen)
        .unwrap();
    assert_eq!(&seen, b"typed");
}
