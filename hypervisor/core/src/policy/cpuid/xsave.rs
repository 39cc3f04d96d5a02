//! The XSAVE state components that guests may use, and the sizes of their areas. SPEC: Intel SDM volume 1, chapter 13.

use oxen_arch::CpuidResult;

use crate::domain::privileged_state::xcr0;

/// The legacy region and the header, which every area has.
const FIXED_SIZE: u32 = 512 + 64;
/// Components behind the legacy region are numbered from 2 on; 7 is the last that guests may use.
const NUMBERS: core::ops::RangeInclusive<u32> = 2..=7;

/// Size and place of one component.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Component {
    number: u32,
    pub(super) size: u32,
    pub(super) offset: u32,
    aligned: bool,
}

impl Component {
    /// ECX of the component's subleaf: bit 0 (supervisor) is never set.
    pub(super) fn flags(self) -> u32 {
        u32::from(self.aligned) << 1
    }
}

/// The components that guests may use: of the host's, those that are saved and restored on every switch. Without XSAVE
/// none.
#[derive(Clone, Debug, Default)]
pub(super) struct Xsave {
    allowed: u64,
    components: [Component; 6],
}

impl Xsave {
    pub(super) fn derive(max_basic: u32, cpuid: &mut impl FnMut(u32, u32) -> CpuidResult) -> Self {
        const XSAVE: u32 = 1 << 26;
        if max_basic < 0xd || cpuid(1, 0).ecx & XSAVE == 0 {
            return Self::default();
        }
        let main = cpuid(0xd, 0);
        let host = u64::from(main.eax) | (u64::from(main.edx) << 32);
        let all = |bits: u64| host & bits == bits;
        let mut allowed = xcr0::X87 | xcr0::SSE;
        if !all(allowed) {
            return Self::default();
        }
        // A CPU, or a hypervisor below us, may offer only some of what belongs together.
        if all(xcr0::AVX) {
            allowed |= xcr0::AVX;
            if all(xcr0::AVX512) {
                allowed |= xcr0::AVX512;
            }
        }
        let mut xsave = Self {
            allowed,
            ..Self::default()
        };
        for (slot, number) in xsave.components.iter_mut().zip(NUMBERS) {
            if allowed & bit(number) != 0 {
                let theirs = cpuid(0xd, number);
                *slot = Component {
                    number,
                    size: theirs.eax,
                    offset: theirs.ebx,
                    aligned: theirs.ecx & 2 != 0,
                };
            }
        }
        xsave
    }

    pub(super) fn is_usable(&self) -> bool {
        self.allowed != 0
    }

    pub(super) fn has_avx(&self) -> bool {
        self.allowed & xcr0::AVX != 0
    }

    pub(super) fn has_avx512(&self) -> bool {
        self.allowed & xcr0::AVX512 != 0
    }

    /// The bits that a guest may set in XCR0.
    pub(super) fn components(&self) -> u64 {
        self.allowed
    }

    /// The component with this number; all 0 if guests may not use it.
    pub(super) fn component(&self, number: u32) -> Component {
        self.components
            .iter()
            .copied()
            .find(|component| component.number == number)
            .unwrap_or_default()
    }

    /// Bytes of an area in the standard format that holds the components in `xcr0`.
    pub(super) fn size(&self, xcr0: u64) -> u32 {
        if !self.is_usable() {
            return 0;
        }
        self.used(xcr0)
            .map(|component| component.offset.saturating_add(component.size))
            .fold(FIXED_SIZE, u32::max)
    }

    /// The same in the compacted format.
    pub(super) fn compact_size(&self, xcr0: u64) -> u32 {
        if !self.is_usable() {
            return 0;
        }
        self.used(xcr0).fold(FIXED_SIZE, |size, component| {
            let start = if component.aligned {
                size.checked_next_multiple_of(64).unwrap_or(size)
            } else {
                size
            };
            start.saturating_add(component.size)
        })
    }

    fn used(&self, xcr0: u64) -> impl Iterator<Item = &Component> {
        self.components
            .iter()
            .filter(move |component| component.size != 0 && xcr0 & bit(component.number) != 0)
    }
}

fn bit(number: u32) -> u64 {
    1u64.checked_shl(number).unwrap_or(0)
}
