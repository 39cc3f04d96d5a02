use proptest::prelude::*;

use super::*;

const ALL_CR4: u64 = cr4::TSD | cr4::DE | cr4::FSGSBASE | cr4::OSXSAVE;
const ALL_XCR0: u64 = xcr0::X87 | xcr0::SSE | xcr0::AVX | xcr0::AVX512;

fn state() -> PrivilegedState {
    PrivilegedState::new(OwnedBits {
        cr4: ALL_CR4,
        xcr0: ALL_XCR0,
    })
}

#[test]
fn cr0_changes_in_one_bit_only() {
    let mut state = state();
    assert_eq!(state.cr0(), 0x8005_0033);
    assert_eq!(state.set_cr0(0x8005_003b), Ok(()));
    assert!(state.task_switched());
    for bit in (0..64).filter(|&bit| bit != 3) {
        let value = state.cr0() ^ (1 << bit);
        assert_eq!(state.set_cr0(value), Err(Errno::EPERM), "bit {bit}");
        assert_eq!(state.cr0(), 0x8005_003b);
    }
}

#[test]
fn cr4_keeps_only_owned_bits() {
    for bit in 0..64 {
        let mut state = state();
        state.set_cr4(1 << bit);
        let owned = (1 << bit) & ALL_CR4;
        assert_eq!(state.cr4(), 0x660 | owned, "bit {bit}");
        assert_eq!(
            state.cr4_for_hardware(),
            owned | cr4::FSGSBASE | cr4::OSXSAVE,
            "bit {bit}"
        );
        let mut poor = PrivilegedState::new(OwnedBits { cr4: 0, xcr0: 0 });
        poor.set_cr4(1 << bit);
        assert_eq!((poor.cr4(), poor.cr4_for_hardware()), (0x660, 0));
    }
}

#[test]
fn xcr0_begins_with_what_every_cpu_has() {
    assert_eq!(state().xcr0(), xcr0::X87 | xcr0::SSE);
    let without_xsave = PrivilegedState::new(OwnedBits { cr4: 0, xcr0: 0 });
    assert_eq!(without_xsave.xcr0(), xcr0::X87);
}

#[test]
fn xcr0_accepts_what_hardware_accepts() {
    let legal = [0x1, 0x3, 0x7, 0xe7];
    for value in 0..0x1000u64 {
        let mut state = state();
        assert_eq!(
            state.set_xcr0(value).is_ok(),
            legal.contains(&value),
            "{value:#x}"
        );
        let mut without_avx = PrivilegedState::new(OwnedBits {
            cr4: ALL_CR4,
            xcr0: 3,
        });
        assert_eq!(
            without_avx.set_xcr0(value).is_ok(),
            value == 1 || value == 3
        );
    }
    for bit in 8..64 {
        assert!(state().set_xcr0(0xe7 | (1 << bit)).is_err(), "bit {bit}");
    }
}

#[test]
fn iopl_range() {
    let mut state = state();
    for level in 0..4 {
        assert_eq!(state.set_iopl(level), Ok(()));
        assert_eq!(u32::from(state.iopl()), level);
    }
    for level in [4, 255, 256, 0x100, u32::MAX] {
        assert_eq!(state.set_iopl(level), Err(Errno::EINVAL));
        assert_eq!(state.iopl(), 3);
    }
}

#[test]
fn breakpoint_addresses() {
    let allowed = [
        0,
        0x7fff_ffff_ffff,
        0xffff_8800_0000_0000,
        0xffff_ffff_8100_0000,
        u64::MAX,
    ];
    let refused = [
        0x8000_0000_0000,
        0xffff_7fff_ffff_ffff,
        0xffff_8000_0000_0000,
        0xffff_8000_0000_0007,
        0xffff_87ff_ffff_fff8,
        0xffff_87ff_ffff_ffff,
    ];
    for number in 0..4 {
        let mut state = state();
        for address in allowed {
            assert_eq!(state.set_debug_register(number, address), Ok(()));
            assert_eq!(state.debug_register(number), Ok(address));
        }
        for address in refused {
            assert_eq!(
                state.set_debug_register(number, address),
                Err(Errno::EPERM),
                "{address:#x}"
            );
            assert_eq!(state.debug_register(number), Ok(u64::MAX));
        }
    }
}

#[test]
fn status_and_control_have_their_reserved_bits_forced() {
    let mut state = state();
    assert_eq!(state.set_debug_register(6, 0), Ok(()));
    assert_eq!(state.debug_register(6), Ok(0xffff_0ff0));
    assert_eq!(state.set_debug_register(6, 0xffff_ffff), Ok(()));
    assert_eq!(state.debug_register(6), Ok(0xffff_efff));
    assert_eq!(state.set_debug_register(7, 0), Ok(()));
    assert_eq!(state.debug_register(7), Ok(0x400));
    assert_eq!(state.set_debug_register(7, 0xd800), Ok(()));
    assert_eq!(state.debug_register(7), Ok(0x400));
    assert_eq!(state.set_debug_register(7, 1 << 13), Err(Errno::EPERM));
    for register in [4, 5, 6, 7] {
        let result = state.set_debug_register(register, 1 << 32);
        assert_eq!(result, Err(Errno::EINVAL), "the upper half is reserved");
    }
}

#[test]
fn aliases_follow_debugging_extensions() {
    let mut state = state();
    assert_eq!(state.set_debug_register(4, 1), Ok(()));
    assert_eq!(state.debug_register(6), Ok(0xffff_0ff1));
    assert_eq!(state.set_debug_register(5, 0x55), Ok(()));
    assert_eq!(state.debug_register(7), Ok(0x455));
    assert_eq!(state.debug_register(4), state.debug_register(6));
    assert_eq!(state.debug_register(5), state.debug_register(7));
    state.set_cr4(cr4::DE);
    for number in [4, 5, 8, 9, 15, u32::MAX] {
        assert_eq!(state.set_debug_register(number, 0), Err(Errno::ENODEV));
        assert_eq!(state.debug_register(number), Err(Errno::ENODEV));
    }
    assert_eq!(state.debug_register(7), Ok(0x455));
}

#[test]
fn kinds_of_breakpoints() {
    for breakpoint in 0..4 {
        for enable in 0..4u64 {
            for kind in 0..4u64 {
                for length in 0..4u64 {
                    let value = enable << (2 * breakpoint)
                        | kind << (16 + 4 * breakpoint)
                        | length << (18 + 4 * breakpoint);
                    let bad = enable != 0 && (kind == 2 || kind == 0 && length != 0);
                    let mut state = state();
                    assert_eq!(state.set_debug_register(7, value).is_err(), bad);
                    let stored = if bad { 0x400 } else { 0x400 | value };
                    assert_eq!(state.debug_register(7), Ok(stored));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn debug_registers_can_always_be_loaded(writes in prop::collection::vec((0..10u32, any::<u64>()), 0..40)) {
        let mut state = state();
        for (number, value) in writes {
            let before = *state.debug_registers();
            if state.set_debug_register(number, value).is_err() {
                prop_assert_eq!(before, *state.debug_registers());
            }
            let dr = state.debug_registers();
            for address in dr.addr {
                prop_assert!(is_canonical(address));
                prop_assert!(!(0xffff_8000_0000_0000..0xffff_8800_0000_0000).contains(&address));
            }
            // A one in a reserved bit or in the upper half would fault in the hypervisor.
            prop_assert_eq!(dr.dr6 & !0xe00f, 0xffff_0ff0);
            prop_assert_eq!(dr.dr7 & 0xffff_ffff_0000_fc00, 0x400);
        }
    }
}
