//! `platform_op`, and the wall clock that it sets.

use core::mem::offset_of;

use dom0_abi::addr::{Maddr, Mfn};
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::platform::{
    EfiConfigTable, EfiInfoIndex, EnterAcpiSleep, FirmwareInfo, FirmwareInfoType,
    INTERFACE_VERSION, PlatformCommand, PlatformOp, Settime32, Settime64,
};
use dom0_abi::xen::SharedInfo;
use oxen_arch::boot::EfiTables;
use oxen_arch::{CalendarTime, Stop, catch_stop};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::budget::Budget;
use crate::domain::Capabilities;
use crate::domain::teardown;
use crate::frame::UndoQueue;
use crate::testing::{CODE, DATA, DATA_END, Guest, failure, frame, stop};

use crate::trap::return_path::Next;

/// What a shared page says: version, seconds, nanoseconds.
fn wall(guest: &Guest, page: Mfn) -> (u32, u64, u32) {
    let word = |offset| guest.host.mem().load_u32(page.at(offset)).unwrap();
    let seconds = u64::from(word(offset_of!(SharedInfo, wc_sec_hi))) << 32
        | u64::from(word(offset_of!(SharedInfo, wc_sec)));
    (
        word(offset_of!(SharedInfo, wc_version)),
        seconds,
        word(offset_of!(SharedInfo, wc_nsec)),
    )
}

fn request(command: u32, argument: &(impl IntoBytes + Immutable)) -> PlatformOp {
    let mut op = PlatformOp::new_zeroed();
    (op.cmd, op.interface_version) = (command, INTERFACE_VERSION);
    op.set_variant(argument);
    op
}

fn settime64(secs: u64, nsecs: u32, system_time: u64) -> PlatformOp {
    let argument = Settime64 {
        secs,
        nsecs,
        mbz: 0,
        system_time,
    };
    request(PlatformCommand::Settime64.get(), &argument)
}

fn make(guest: &mut Guest, op: &PlatformOp) -> i64 {
    guest.put(DATA, op);
    guest.call(Hypercall::PlatformOp, [DATA])
}

#[test]
fn a_domain_begins_with_what_the_real_time_clock_said() {
    let time = CalendarTime::new((2019, 12, 31), (23, 59, 59)).unwrap();
    for (clock, seconds) in [(Some(time), 1_577_836_799), (None, 0)] {
        let mut guest = Guest::configured(DomId::new(7), Capabilities::empty(), |config| {
            config.real_time_clock = clock;
        });
        let (version, told, nanoseconds) = wall(&guest, guest.shared_info);
        assert_eq!(guest.host.time.real_time_clock, clock);
        assert_eq!((version, told, nanoseconds), (2, seconds, 0));
        // It is not theirs to set.
        let result = make(&mut guest, &settime64(1, 2, 0));
        assert_eq!(result, failure(Errno::EPERM));
        assert_eq!(wall(&guest, guest.shared_info), (2, seconds, 0));
    }
}

#[test]
fn who_sets_the_wall_clock_sets_that_of_all() {
    let mut guest = Guest::dom0();
    let neighbour = guest.neighbour();
    let other = |guest: &Guest| guest.host.domains.get(neighbour.domid).unwrap().shared_info;
    // A year for which 32 bits are too few, and a time that is behind system time 0.
    let op = settime64(0x1_2345_6789, 5, 1_000_000_006);
    assert_eq!(make(&mut guest, &op), 0);
    let expected = (4, 0x1_2345_6787, 999_999_999);
    assert_eq!(wall(&guest, guest.shared_info), expected);
    assert_eq!(wall(&guest, other(&guest)), expected);
    // The same once more is nothing new.
    assert_eq!(make(&mut guest, &op), 0);
    assert_eq!(wall(&guest, other(&guest)), expected);
    let old_form = Settime32 {
        secs: u32::MAX,
        nsecs: 1_500_000_000,
        system_time: 0,
    };
    let op = request(PlatformCommand::Settime32.get(), &old_form);
    assert_eq!(make(&mut guest, &op), 0);
    let expected = (6, 1 << 32, 500_000_000);
    assert_eq!(wall(&guest, guest.shared_info), expected);
    assert_eq!(wall(&guest, other(&guest)), expected);
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut guest = Guest::dom0();
    let before = wall(&guest, guest.shared_info);
    let mut with_rest = settime64(1, 2, 0);
    with_rest.u[12] = 1;
    let mut other_version = settime64(1, 2, 0);
    other_version.interface_version += 1;
    let mut both = request(1234, &0_u8);
    both.interface_version = 0;
    for (op, errno) in [
        (with_rest, Errno::EINVAL),
        (settime64(1, 0, 1_000_000_001), Errno::EINVAL),
        (settime64(u64::MAX, u32::MAX, 0), Errno::EINVAL),
        (other_version, Errno::EACCES),
        (both, Errno::EACCES),
        (request(0, &0_u8), Errno::ENOSYS),
        (request(1234, &0_u8), Errno::ENOSYS),
        (
            request(PlatformCommand::MicrocodeUpdate.get(), &0_u8),
            Errno::ENOSYS,
        ),
    ] {
        assert_eq!(make(&mut guest, &op), failure(errno), "{op:?}");
    }
    let result = guest.call(Hypercall::PlatformOp, [DATA_END - 8]);
    assert_eq!(result, failure(Errno::EFAULT));
    assert_eq!(wall(&guest, guest.shared_info), before);
}

#[test]
fn i18_domains_are_told_in_steps() {
    let mut guest = Guest::dom0();
    let neighbour = guest.neighbour();
    guest.host.set_entry_budget(Budget::new(1));
    guest.put(DATA, &settime64(77, 0, 0));
    (guest.regs.rax, guest.regs.rdi) = (Hypercall::PlatformOp.number(), DATA);
    let mut entries = 0;
    loop {
        assert_eq!(guest.syscall(), Next::Guest);
        entries += 1;
        if guest.regs.rip == CODE {
            break;
        }
        let call = (guest.regs.rip, guest.regs.rax, guest.regs.rdi);
        assert_eq!(call, (CODE - 2, Hypercall::PlatformOp.number(), DATA));
        guest.regs.rip = CODE;
    }
    assert_eq!(guest.regs.rax, 0);
    assert!(entries > 50, "{entries}");
    let other = guest.host.domains.get(neighbour.domid).unwrap().shared_info;
    for page in [guest.shared_info, other] {
        assert_eq!(wall(&guest, page).1, 77);
    }
}

/// What was the page of a domain that ends may be another one's at any time.
#[test]
fn the_page_of_a_domain_that_ends_is_left_alone() {
    let mut guest = Guest::dom0();
    let neighbour = guest.neighbour();
    let domain = guest.host.domains.get(neighbour.domid).unwrap();
    stop(&guest.host, &guest.other_cpu, &domain);
    let undo = UndoQueue::new();
    let memory = guest.host.memory(&guest.cpu, &undo);
    let (page, mut budget) = (domain.shared_info, Budget::ENDLESS);
    let _ = teardown::release(memory, &guest.host.domains, &domain, &mut budget);
    drop(domain);
    while frame(memory, guest.domid) != page {}
    let before = wall(&guest, page);
    assert_eq!(make(&mut guest, &settime64(99, 0, 0)), 0);
    assert_eq!(wall(&guest, guest.shared_info).1, 99);
    assert_eq!(wall(&guest, page), before);
}

fn sleep(sleep_state: u32, flags: u32) -> PlatformOp {
    let argument = EnterAcpiSleep {
        val_a: 0x3401,
        val_b: 0x2000,
        sleep_state,
        flags,
    };
    request(PlatformCommand::EnterAcpiSleep.get(), &argument)
}

#[test]
fn dom0_switches_the_machine_off() {
    let mut guest = Guest::dom0();
    let ended = catch_stop(|| make(&mut guest, &sleep(5, 0)));
    assert_eq!(ended, Err(Stop::SwitchedOff([0x3401, 0x2000])));
}

#[test]
fn no_other_sleep_begins_and_no_other_domain_begins_one() {
    let mut guest = Guest::dom0();
    for (state, flags, errno) in [
        (0, 0, Errno::EINVAL),
        (6, 0, Errno::EINVAL),
        (5, 2, Errno::EINVAL),
        (u32::MAX, u32::MAX, Errno::EINVAL),
        (1, 0, Errno::EOPNOTSUPP),
        (3, 0, Errno::EOPNOTSUPP),
        (5, 1, Errno::EOPNOTSUPP),
    ] {
        let result = make(&mut guest, &sleep(state, flags));
        assert_eq!(result, failure(errno), "{state} {flags}");
    }
    let mut other = Guest::ordinary();
    assert_eq!(make(&mut other, &sleep(5, 0)), failure(Errno::EPERM));
    let mut without = Guest::configured(DomId::DOM0, Capabilities::all(), |config| {
        config.has_switch = false;
    });
    assert_eq!(make(&mut without, &sleep(5, 0)), failure(Errno::EOPNOTSUPP));
    for guest in [&guest, &other, &without] {
        assert_eq!(guest.host.machine.stopped(), None);
    }
}

fn about_efi(guest: &mut Guest, kind: u32, index: u32) -> (i64, FirmwareInfo) {
    let argument = FirmwareInfo {
        kind,
        index,
        u: [0xa5; 32],
    };
    let result = make(
        guest,
        &request(PlatformCommand::FirmwareInfo.get(), &argument),
    );
    let op: PlatformOp = guest.get(DATA);
    (result, op.variant())
}

#[test]
fn dom0_finds_the_tables_of_efi() {
    const EFI: u32 = FirmwareInfoType::EfiInfo.get();
    let tables = EfiTables {
        revision: 0x2_0046,
        runtime_revision: 0x2_0032,
        tables: Maddr::new(0x7f5e_c018),
        count: 13,
    };
    let mut guest = Guest::configured(DomId::DOM0, Capabilities::all(), |config| {
        config.efi = Some(tables);
    });
    let (result, info) = about_efi(&mut guest, EFI, EfiInfoIndex::ConfigTable.get());
    let list: EfiConfigTable = info.variant();
    assert_eq!((result, list.addr, list.nent), (0, 0x7f5e_c018, 13));
    for (index, version) in [
        (EfiInfoIndex::Version, tables.revision),
        (EfiInfoIndex::RtVersion, tables.runtime_revision),
    ] {
        let (result, info) = about_efi(&mut guest, EFI, index.get());
        assert_eq!((result, info.variant::<u32>()), (0, version));
    }
    let index = EfiInfoIndex::ConfigTable.get();
    for (kind, index) in [
        (EFI, EfiInfoIndex::Vendor.get()),
        (EFI, u32::MAX),
        (EFI + 1, 0),
        (0, 0),
    ] {
        let (result, info) = about_efi(&mut guest, kind, index);
        assert_eq!((result, info.u), (failure(Errno::ENOSYS), [0xa5; 32]));
    }
    for (guest, errno) in [
        (&mut Guest::dom0(), Errno::ENOSYS),
        (&mut Guest::ordinary(), Errno::EPERM),
    ] {
        let (result, info) = about_efi(guest, EFI, index);
        assert_eq!((result, info.u), (failure(errno), [0xa5; 32]));
    }
}
