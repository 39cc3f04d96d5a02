//! Local descriptor tables, which are found page by page.

use super::*;

/// A guest whose pages 0 and 1 would do as an LDT.
fn with_ldt() -> Guest {
    let mut guest = Guest::dom0();
    for index in 0..2 {
        guest.put(page(index), &[SEGMENT; 512]);
        guest.make_read_only(page(index));
    }
    guest
}

#[test]
fn pages_are_found_when_they_are_missed() {
    let mut guest = with_ldt();
    assert_eq!(guest.set_ldt(page(0), 600), 0);
    assert_eq!(guest.cpu.descriptor_pages(), []);
    assert_eq!(guest.load(7), Ok(BASE));
    assert_eq!(guest.cpu.descriptor_pages(), [guest.frame_at(page(0))]);
    guest.check_descriptors();
    assert_eq!(guest.get::<u64>(page(0)), CHECKED | ACCESSED);
    assert_eq!(guest.get::<u64>(page(1)), SEGMENT, "not looked at yet");
    assert_eq!(guest.make_writable(page(0)), failure(Errno::EBUSY));
    assert_eq!(guest.make_writable(page(1)), 0);
    assert_eq!(guest.load(0x1007), Err((14, 0, page(1))), "writable");
    guest.make_read_only(page(1));
    assert_eq!(guest.load(0x1007), Ok(BASE));
    assert_eq!(guest.load(600 * 8 + 7), Err((13, 600 * 8 + 4, 0)));
    guest.check_descriptors();
    assert_eq!(guest.set_ldt(0, 0), 0);
    assert_eq!(guest.load(7), Err((13, 4, 0)));
    for index in 0..2 {
        assert_eq!(guest.make_writable(page(index)), 0);
    }
    guest.check_descriptors();
}

#[test]
fn what_cannot_be_found_is_the_guests_own_fault() {
    let mut guest = with_ldt();
    for (base, selector, result) in [
        (DATA_END, 7, (14, 0, DATA_END)),
        (page(1), 0x1007, (14, 0, page(2))),
        // Addresses wrap.
        (0xffff_ffff_ffff_f000, 0x100f, (14, 0, 8)),
        (0x7fff_ffff_f000, 0xf, (14, 0, 0x7fff_ffff_f008)),
        (0x7fff_ffff_f000, 0x100f, (13, 0x100c, 0)),
    ] {
        assert_eq!(guest.set_ldt(base, 8192), 0);
        assert_eq!(guest.load(selector), Err(result), "{base:#x}");
        guest.check_descriptors();
    }
    guest.set_ldt(DATA_END, 1);
    guest.set_mode(GuestMode::User);
    guest.cpu.guest_loads_gs(7).unwrap_err();
    let outcome = {
        // Delivery is another matter: only what the guest would see is looked at.
        let host = &guest.host;
        let domain = host.domains.get(guest.domid).unwrap();
        let vcpu = domain.vcpu(dom0_abi::ids::VcpuId::new(0)).unwrap();
        let mut state = vcpu.lock();
        guest.regs.error_code = 0;
        super::super::window_fault(&mut crate::hypercall::CallCtx {
            host,
            cpu: &guest.cpu,
            domain: &domain,
            vcpu,
            state: &mut state,
            regs: &mut guest.regs,
            budget: Budget::FULL,
            in_multicall: false,
            rest: None,
        })
    };
    let seen = outcome.unwrap().unwrap_err();
    assert_eq!(seen.error_code(), Some(4), "from user mode");
    assert_eq!(seen.fault_address(), Some(DATA_END));
}

#[test]
fn a_page_that_is_not_descriptors_is_not_mapped() {
    let mut guest = with_ldt();
    assert_eq!(guest.make_writable(page(0)), 0);
    guest.put(page(0) + 72, &TSS);
    guest.make_read_only(page(0));
    guest.set_ldt(page(0), 1024);
    assert_eq!(guest.load(7), Err((14, 0, page(0))));
    assert_eq!(guest.load(0x1007), Ok(BASE), "the other one is");
    assert_eq!(guest.cpu.descriptor_pages(), [guest.frame_at(page(1))]);
    guest.check_descriptors();
    // A frame without a type of its own: what the guest maps read-only and holds nothing forbidden becomes descriptors.
    guest.set_ldt(READ_ONLY, 1);
    assert_eq!(guest.load(7), Err((13, 4, 0)), "empty");
    assert_eq!(guest.cpu.descriptor_pages(), [guest.frame_at(READ_ONLY)]);
    guest.check_descriptors();
}

#[test]
fn tables_where_none_can_be() {
    let mut guest = with_ldt();
    assert_eq!(guest.set_ldt(page(0), 1), 0);
    guest.load(7).unwrap();
    for (base, entries) in [
        (page(0) + 8, 1),
        (page(0) + 1, 1),
        (page(0), 8193),
        (page(0), u64::from(u32::MAX)),
        (0xffff_8000_0000_0000, 1),
        (0xffff_87ff_ffff_f000, 1),
        (0x0000_8000_0000_0000, 1),
        (0xffff_7fff_ffff_f000, 1),
    ] {
        assert_eq!(
            guest.set_ldt(base, entries),
            failure(Errno::EINVAL),
            "{base:#x}"
        );
        assert_eq!(guest.cpu.registers().ldt_entries, 1, "as before");
        assert_eq!(guest.cpu.descriptor_pages().len(), 1);
    }
    // Without entries the address does not matter, nor does the upper half of their number.
    assert_eq!(guest.set_ldt(8, 0), 0);
    assert_eq!(guest.set_ldt(page(0), 0xffff_ffff_0000_0001), 0);
    assert_eq!(guest.load(7), Ok(BASE));
    guest.check_descriptors();
}

#[test]
fn a_return_that_misses_a_page_finds_it() {
    let mut guest = with_ldt();
    guest.host.set_entry_budget(Budget::ENDLESS);
    guest.set_ldt(page(0), 600);
    // As `iretq` with a selector of the LDT leaves it.
    guest.cpu.guest_loads_gs(7).unwrap_err();
    let before = guest.regs;
    assert_eq!(guest.exception(14 | ENTRY_RETURN, 0), Next::Guest);
    assert_eq!(guest.regs.rip, before.rip);
    assert_eq!(guest.cpu.descriptor_pages(), [guest.frame_at(page(0))]);
    guest.set_ldt(DATA_END, 600);
    guest.cpu.guest_loads_gs(7).unwrap_err();
    guest.trap_everything();
    let rip = guest.regs.rip;
    assert_eq!(guest.exception(14 | ENTRY_RETURN, 0), Next::Guest);
    assert_eq!(guest.delivered(rip), (14, 0, DATA_END));
}

#[test]
fn a_page_that_takes_long_is_found_in_steps() {
    let mut guest = with_ldt();
    guest.set_ldt(page(0), 600);
    guest.host.set_entry_budget(Budget::new(100));
    guest.trap_everything();
    let rip = guest.regs.rip;
    let mut tries = 0;
    while guest.cpu.guest_loads_gs(7).is_err() {
        assert_eq!(guest.exception(14, 0), Next::Guest);
        assert_eq!(guest.regs.rip, rip, "the guest sees nothing of it");
        tries += 1;
    }
    assert!((10..16).contains(&tries), "{tries} tries");
    guest.check_descriptors();
}

#[test]
fn the_address_of_the_window_is_nothing_special_to_a_guest() {
    let mut guest = with_ldt();
    guest.set_ldt(page(0), 600);
    guest.cpu.guest_loads_gs(7).unwrap_err();
    let window = guest.cpu.fault_address();
    guest.trap_everything();
    let before = guest.regs;
    assert_eq!(guest.exception(14, 4), Next::Guest);
    assert_eq!(guest.delivered(before.rip), (14, 0, window));
    assert_eq!(guest.cpu.descriptor_pages(), []);
}

#[test]
fn all_references_end_with_the_vcpu() {
    let mut guest = with_ldt();
    let frame = guest.frame_at(page(2));
    guest.make_read_only(page(2));
    guest.set_gdt(&[frame, frame], 513);
    guest.set_ldt(page(0), 1024);
    guest.load(7).unwrap();
    guest.load(0x1007).unwrap();
    assert_eq!(guest.cpu.descriptor_pages().len(), 4);
    crate::descriptor::Tables::EMPTY.load(&guest.cpu);
    assert_eq!(guest.cpu.descriptor_pages(), []);
    guest.domain(|domain| {
        let memory = guest.host.memory(&guest.cpu, &domain.undo);
        let vcpu = domain.vcpu(dom0_abi::ids::VcpuId::new(0)).unwrap();
        vcpu.lock().tables.release(memory);
    });
    guest.check_descriptors();
    for index in 0..3 {
        assert_eq!(guest.make_writable(page(index)), 0);
    }
}
