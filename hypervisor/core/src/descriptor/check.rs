//! Which descriptors a guest may have in its tables, and as what.
//!
//! INVARIANT (I1): of what passes, the CPU lets ring 3 load segments of ring 3 and nothing else. No gate can be passed
//! through (XSA-298 was about emulating one), no descriptor of a system object exists.
//!
//! Base and limit may be anything. In 64-bit mode only the bases of FS and GS count, and no segment protects anything there;
//! 32-bit code reaches no address above 4 GiB.
//!
//! SPEC: Intel SDM volume 3, 3.4.5 (segment descriptors), table 3-2 (system types), 5.8.3.1 (call gates of 64-bit mode).

use dom0_abi::arch::{FIRST_RESERVED_GDT_BYTE, FLAT_CS64};
use dom0_abi::errno::Errno;

/// Bits of a descriptor, and its parts.
mod bits {
    pub const PRESENT: u64 = 1 << 47;
    pub const DPL: u64 = 3 << 45;
    /// Code or data.
    pub const SEGMENT: u64 = 1 << 44;
    pub const TYPE: u64 = 0xf << 40;
    /// Of a segment: code.
    pub const CODE: u64 = 1 << 43;
    /// Of a code segment: 64-bit code.
    pub const LONG: u64 = 1 << 53;
    pub const CALL_GATE: u64 = 0xc << 40;
    /// Of a gate: nothing, or the number of parameters that it copies.
    pub const GATE_PARAMETERS: u64 = 0xff << 32;
    pub const GATE_SELECTOR_SHIFT: u32 = 16;
}

use bits::*;

/// The descriptor is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl From<Refused> for Errno {
    fn from(Refused: Refused) -> Self {
        Self::EINVAL
    }
}

/// Checks a descriptor and returns it as it is put into memory.
///
/// What is not present passes as it is, and so does the system type that means nothing. Code and data become segments of
/// ring 3. A call gate becomes one of ring 0, which no guest can use; it is refused where Xen refuses it: if it has
/// parameters, or leads to a segment of the hypervisor's other than [`FLAT_CS64`]. Everything else is refused.
pub const fn check(raw: u64) -> Result<u64, Refused> {
    if raw & PRESENT == 0 {
        return Ok(raw);
    }
    if raw & SEGMENT != 0 {
        return Ok(raw | DPL);
    }
    match raw & TYPE {
        0 => Ok(raw),
        CALL_GATE => check_gate(raw),
        _ => Err(Refused),
    }
}

const fn check_gate(raw: u64) -> Result<u64, Refused> {
    const LOCAL: u16 = 4;
    let selector = (raw >> GATE_SELECTOR_SHIFT) as u16;
    let is_guests = selector & LOCAL != 0 || (selector as usize) < FIRST_RESERVED_GDT_BYTE;
    if raw & GATE_PARAMETERS != 0 || !(is_guests || selector == FLAT_CS64) {
        return Err(Refused);
    }
    Ok((raw & !DPL) | (3 << GATE_SELECTOR_SHIFT))
}

/// Whether a descriptor is that of 64-bit code, as far as the CPU would run it.
pub const fn is_64bit_code(raw: u64) -> bool {
    const NEEDED: u64 = PRESENT | SEGMENT | CODE | LONG;
    raw & NEEDED == NEEDED
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What decides about a descriptor that is no gate: everything else is base, limit and flags.
    fn access(raw: u64) -> u64 {
        raw >> 40 & 0xff
    }

    /// Whether ring 3 can get anything out of a descriptor by loading a selector or by jumping, and which level it then has.
    /// Written down from the manual, not from the code.
    fn level_it_gives(raw: u64) -> Option<u64> {
        let dpl = raw >> 45 & 3;
        let present = raw >> 47 & 1 == 1;
        match (raw >> 44 & 1, raw >> 40 & 0xf) {
            _ if !present => None,
            // Data.
            (1, 0..8) => (dpl == 3).then_some(3),
            // Code that conforms keeps the level of its caller, if its own is not higher.
            (1, 12..) => Some(3),
            (1, _) => (dpl == 3).then_some(3),
            // A call gate leads to whatever its selector names.
            (0, 12) if dpl == 3 => Some(0),
            (0, 12) => None,
            // An LDT, a TSS, other gates: only for the hypervisor's own instructions and tables; none may exist.
            (0, 0) => None,
            (0, _) => Some(0),
            _ => unreachable!(),
        }
    }

    /// Every access byte, with every flag nibble, in a few surroundings.
    fn all_kinds() -> impl Iterator<Item = u64> {
        let around = [
            0,
            0x0000_0000_0008_1234,
            0x1235_00bc_1234_5678,
            0xff0f_00ff_ffff_ffff,
        ];
        around.into_iter().flat_map(|around| {
            (0..256u64).flat_map(move |access| {
                (0..16).map(move |flags| around | access << 40 | flags << 52)
            })
        })
    }

    #[test]
    fn i1_nothing_that_passes_gives_more_than_ring_3() {
        for raw in all_kinds() {
            if let Ok(fixed) = check(raw) {
                assert!(
                    matches!(level_it_gives(fixed), None | Some(3)),
                    "{raw:#x} became {fixed:#x}"
                );
            }
        }
    }

    /// Observed on Xen 4.17, for all 256 access bytes with several flags: see `tests/guests/descriptors`.
    #[test]
    fn as_xen_answers() {
        for raw in all_kinds() {
            let result = check(raw);
            match access(raw) {
                0..0x80 | 0x80 | 0xa0 | 0xc0 | 0xe0 => assert_eq!(result, Ok(raw)),
                kind if kind & 0x10 != 0 => assert_eq!(result, Ok(raw | 0x6000_0000_0000)),
                kind if kind & 0xf == 0xc && raw & 0xff_0000_0000 == 0 => {
                    assert_eq!(result, Ok(raw & !(3 << 45) | 3 << 16));
                }
                _ => assert_eq!(result, Err(Refused), "{raw:#x}"),
            }
        }
    }

    #[test]
    fn gates() {
        const GATE: u64 = 0xffff_8c00_0000_1234;
        for dpl in 0..4u64 {
            for selector in 0..=u16::MAX {
                let allowed = selector < 0xe000 || selector & 4 != 0 || selector == 0xe033;
                let raw = GATE | dpl << 45 | u64::from(selector) << 16;
                let wanted = GATE | u64::from(selector | 3) << 16;
                let result = if allowed { Ok(wanted) } else { Err(Refused) };
                assert_eq!(check(raw), result, "{raw:#x}");
            }
        }
        for bit in 32..40 {
            assert_eq!(check(GATE | 0x8_0000 | 1 << bit), Err(Refused));
        }
    }

    #[test]
    fn code_of_64_bits() {
        for raw in all_kinds() {
            let is = access(raw) & 0x98 == 0x98 && raw >> 53 & 1 == 1;
            assert_eq!(is_64bit_code(raw), is, "{raw:#x}");
        }
        assert!(is_64bit_code(0x00af_fb00_0000_ffff));
        assert!(!is_64bit_code(0x00cf_fb00_0000_ffff));
        assert!(!is_64bit_code(0));
    }

    proptest! {
        #[test]
        fn i1_nothing_gives_more_than_ring_3_whatever_the_rest_is(raw: u64) {
            if let Ok(fixed) = check(raw) {
                prop_assert!(matches!(level_it_gives(fixed), None | Some(3)));
                prop_assert_eq!(check(fixed), Ok(fixed), "what is in memory passes as it is");
                // The CPU marks a segment that it loads.
                let marked = if fixed >> 44 & 1 == 1 { fixed | 1 << 40 } else { fixed };
                prop_assert_eq!(check(marked), Ok(marked));
                prop_assert_eq!(fixed & !(3 << 45 | 3 << 16), raw & !(3 << 45 | 3 << 16));
            }
        }
    }
}
