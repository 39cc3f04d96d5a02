//! `set_gdt`, `update_descriptor`, `set_segment_base`.

use super::*;

#[test]
fn a_gdt_is_checked_held_and_seen() {
    let mut guest = Guest::dom0();
    let frame = guest.frame_at(page(0));
    guest.put(page(0) + 8, &[SEGMENT, CODE_64]);
    assert_eq!(
        guest.set_gdt(&[frame], 16),
        failure(Errno::EINVAL),
        "writable"
    );
    guest.check_descriptors();
    assert_eq!(guest.make_read_only(page(0)), 0);
    assert_eq!(guest.load(0xb), Err((13, 8, 0)));
    assert_eq!(guest.set_gdt(&[frame], 16), 0);
    guest.check_descriptors();
    assert_eq!(guest.get::<u64>(page(0) + 8), CHECKED);
    assert_eq!(guest.load(0xb), Ok(BASE));
    assert_eq!(guest.get::<u64>(page(0) + 8), CHECKED | ACCESSED);
    assert_eq!(guest.make_writable(page(0)), failure(Errno::EBUSY));
    assert_eq!(guest.set_gdt(&[], 0), 0);
    assert_eq!(guest.cpu.descriptor_pages(), []);
    assert_eq!(guest.load(0xb), Err((13, 8, 0)));
    assert_eq!(guest.make_writable(page(0)), 0);
    guest.check_descriptors();
}

#[test]
fn a_gdt_is_replaced_as_a_whole_or_not_at_all() {
    let mut guest = Guest::dom0();
    for index in 0..4 {
        guest.put(page(index) + 8, &SEGMENT);
        guest.make_read_only(page(index));
    }
    let frames: Vec<_> = (0..4).map(|index| guest.frame_at(page(index))).collect();
    assert_eq!(guest.set_gdt(&frames[..2], 1024), 0);
    let writable = guest.frame_at(page(5));
    let root = guest.root;
    let others = Mfn::new(0);
    let nowhere = Mfn::new(1 << 40);
    for bad in [writable, root, others, nowhere] {
        let list = [frames[2], frames[0], bad];
        assert_eq!(guest.set_gdt(&list, 1025), failure(Errno::EINVAL));
        assert_eq!(guest.cpu.descriptor_pages(), frames[..2]);
        guest.check_descriptors();
    }
    assert_eq!(guest.set_gdt(&frames, 7169), failure(Errno::EINVAL));
    assert_eq!(
        guest.set_gdt(&frames, u64::from(u32::MAX)),
        failure(Errno::EINVAL)
    );
    for list in HOSTILE {
        let result = guest.finish(Hypercall::SetGdt, [list, 1, 0, 0, 0]);
        assert_eq!(result, failure(Errno::EFAULT), "{list:#x}");
    }
    // The list is read before a frame is looked at.
    guest.put(DATA_END - 8, &nowhere.get());
    let result = guest.finish(Hypercall::SetGdt, [DATA_END - 8, 513, 0, 0, 0]);
    assert_eq!(result, failure(Errno::EFAULT));
    assert_eq!(guest.cpu.descriptor_pages(), frames[..2]);
    assert_eq!(guest.make_writable(page(2)), 0, "nobody holds it");
    // One frame may be all pages of a table; the upper half of the number is not looked at.
    assert_eq!(guest.set_gdt(&[frames[1]; 14], 1 << 32 | 7168), 0);
    guest.check_descriptors();
    assert_eq!(guest.load(13 * 0x1000 + 0xb), Ok(BASE));
    assert_eq!(guest.make_writable(page(0)), 0);
    assert_eq!(guest.make_writable(page(1)), failure(Errno::EBUSY));
}

#[test]
fn a_long_table_is_taken_in_steps_wherever_they_end() {
    for units in [21, 22, 50, 100, 531, 533, 640] {
        let mut guest = Guest::dom0();
        let frames: Vec<_> = (0..6).map(|index| guest.frame_at(page(index))).collect();
        for index in 0..6 {
            guest.put(page(index), &[SEGMENT; 512]);
            guest.make_read_only(page(index));
        }
        guest.host.set_entry_budget(Budget::new(units));
        assert_eq!(guest.set_gdt(&frames, 6 * 512), 0, "{units} units");
        guest.check_descriptors();
        assert_eq!(guest.set_gdt(&[], 0), 0);
        // The last of all descriptors is refused.
        guest.make_writable(page(5));
        guest.put(page(5) + 0xff8, &TSS);
        guest.make_read_only(page(5));
        assert_eq!(guest.set_gdt(&frames, 6 * 512), failure(Errno::EINVAL));
        guest.check_descriptors();
        for index in 0..6 {
            assert_eq!(
                guest.make_writable(page(index)),
                0,
                "{units} units, page {index}"
            );
        }
    }
}

#[test]
fn a_table_that_is_left_half_taken_is_no_loss() {
    let mut guest = Guest::dom0();
    let frames: Vec<_> = (0..3).map(|index| guest.frame_at(page(index))).collect();
    for index in 0..3 {
        guest.put(page(index), &[SEGMENT; 512]);
        guest.make_read_only(page(index));
    }
    // For one page and half of the next.
    guest.host.set_entry_budget(Budget::new(1700));
    for (index, frame) in frames.iter().enumerate() {
        guest.put(LIST + index as u64 * 8, &frame.get());
    }
    let rip = guest.regs.rip;
    guest.regs.rax = Hypercall::SetGdt.number();
    (guest.regs.rdi, guest.regs.rsi) = (LIST, 3 * 512);
    assert_eq!(guest.syscall(), Next::Guest);
    assert_eq!(guest.regs.rip, rip - 2, "it takes longer");
    guest.regs.rip = rip;
    guest.check_descriptors();
    assert_eq!(guest.cpu.descriptor_pages(), []);
    assert_eq!(guest.type_of(frames[0]), Some((PageType::Descriptors, 1)));
    // Another list than before.
    assert_eq!(guest.set_gdt(&frames[1..], 1024), 0);
    guest.check_descriptors();
    assert_eq!(guest.make_writable(page(0)), 0);
    assert_eq!(guest.cpu.descriptor_pages(), frames[1..]);
    // Two pages of three are taken; then one is enough.
    (guest.regs.rdi, guest.regs.rsi) = (LIST, 3 * 512);
    for (index, frame) in [frames[1], frames[2], frames[0]].iter().enumerate() {
        guest.put(LIST + index as u64 * 8, &frame.get());
    }
    guest.make_read_only(page(0));
    guest.regs.rax = Hypercall::SetGdt.number();
    (guest.regs.rdi, guest.regs.rsi) = (LIST, 3 * 512);
    guest.host.set_entry_budget(Budget::new(100));
    assert_eq!(guest.syscall(), Next::Guest);
    guest.regs.rip = rip;
    guest.check_descriptors();
    assert_eq!(guest.set_gdt(&frames[1..2], 512), 0);
    assert_eq!(guest.cpu.descriptor_pages(), frames[1..2]);
    guest.check_descriptors();
    assert_eq!(guest.make_writable(page(2)), 0);
}

#[test]
fn single_descriptors() {
    let mut guest = Guest::dom0();
    let frame = guest.frame_at(page(0));
    guest.make_read_only(page(0));
    assert_eq!(guest.set_gdt(&[frame], 8), 0);
    let at = frame.start().get();
    for (descriptor, stored) in [
        (SEGMENT, CHECKED),
        (CODE_64, CODE_64 | 0x6000 << 32),
        (0, 0),
        // Not present.
        (0x900 << 32, 0x900 << 32),
    ] {
        // The page counts, not how many of its descriptors are in use.
        for place in [8, 0xff8] {
            assert_eq!(guest.update_descriptor(at + place, descriptor), 0);
            assert_eq!(guest.get::<u64>(page(0) + place), stored);
        }
    }
    // Pages that are of no other use.
    let plain = guest.frame_at(page(1)).start().get();
    assert_eq!(guest.update_descriptor(plain + 16, SEGMENT), 0);
    assert_eq!(guest.get::<u64>(page(1) + 16), CHECKED);
    guest.make_read_only(page(1));
    assert_eq!(guest.update_descriptor(plain + 24, CODE_64), 0);
    assert_eq!(
        guest.type_of(guest.frame_at(page(1))),
        None,
        "for the moment only"
    );

    let fingerprint = |guest: &Guest| guest.get::<[u64; 512]>(page(1));
    let before = fingerprint(&guest);
    let root = guest.root.start().get();
    for at in [
        at + 4,
        at + 1,
        plain + 7,
        root,
        root + 8,
        0,
        1 << 52,
        u64::MAX - 7,
    ] {
        assert_eq!(
            guest.update_descriptor(at, SEGMENT),
            failure(Errno::EINVAL),
            "{at:#x}"
        );
    }
    for at in [at + 8, plain + 8] {
        assert_eq!(guest.update_descriptor(at, TSS), failure(Errno::EINVAL));
    }
    assert_eq!(fingerprint(&guest), before);
    guest.check_descriptors();
}

#[test]
fn frames_of_others_are_no_descriptors() {
    let mut guest = Guest::dom0();
    let neighbour = guest.neighbour();
    let before = guest.neighbour_fingerprint(&neighbour);
    let mut theirs = Vec::new();
    guest
        .host
        .frames
        .visit_of(neighbour.domid, |mfn| theirs.push(mfn));
    assert!(theirs.len() > 8);
    for mfn in theirs {
        assert_eq!(guest.set_gdt(&[mfn], 1), failure(Errno::EINVAL));
        let at = mfn.start().get();
        assert_eq!(guest.update_descriptor(at, SEGMENT), failure(Errno::EINVAL));
    }
    assert!(guest.neighbour_fingerprint(&neighbour) == before);
    guest.check_descriptors();
}

#[test]
fn the_gs_of_user_mode() {
    let mut guest = Guest::dom0();
    let frame = guest.frame_at(page(0));
    guest.put(page(0) + 8, &SEGMENT);
    guest.put(page(1), &SEGMENT);
    guest.make_read_only(page(0));
    guest.make_read_only(page(1));
    guest.set_gdt(&[frame], 2);
    guest.cpu.set_gs_base(0x7000).unwrap();
    guest.set_ldt(page(1), 1);
    for (selector, base) in [
        (0xb_u64, BASE),
        (0x13, 0),
        // The page of the LDT is found for it.
        (7, BASE),
        (0, 0),
        (8, BASE),
        (0xf, 0),
        (0xffff_ffff_ffff_000b, BASE),
    ] {
        let which = u64::from(SegmentBase::GsUserSelector.get());
        assert_eq!(guest.call(Hypercall::SetSegmentBase, [which, selector]), 0);
        assert_eq!(guest.cpu.user_gs_base(), base, "{selector:#x}");
        assert_eq!(guest.cpu.gs_base(), 0x7000);
    }
    guest.check_descriptors();
}

#[test]
fn i12_limits_of_tables_hold_for_look_ups() {
    let mut guest = Guest::dom0();
    let frame = guest.frame_at(page(0));
    guest.put(page(0), &[CODE_64; 512]);
    guest.put(page(1), &[CODE_64; 512]);
    guest.make_read_only(page(0));
    guest.make_read_only(page(1));
    guest.set_gdt(&[frame], 2);
    guest.set_ldt(page(1), 3);
    let is_64bit = |guest: &Guest, selector| {
        guest.state(|state| state.tables.is_64bit_code(guest.host.mem(), selector))
    };
    for selector in (0..=u16::MAX).filter(|selector| selector & 4 != 0) {
        assert!(!is_64bit(&guest, selector), "not found yet");
    }
    // Code that can be read is data, too.
    guest.load(7).unwrap();
    guest.update_descriptor(guest.frame_at(page(1)).start().get(), SEGMENT);
    for selector in 0..=u16::MAX {
        let index = selector >> 3;
        let wanted = match selector & 4 {
            0 => index < 512 || selector | 3 == FLAT_CS64,
            _ => index == 1 || index == 2,
        };
        assert_eq!(is_64bit(&guest, selector), wanted, "{selector:#x}");
    }
    for flat in [FLAT_CS32, FLAT_SS] {
        assert!(!is_64bit(&guest, flat));
    }
}
