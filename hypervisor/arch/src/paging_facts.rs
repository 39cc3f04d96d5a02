//! What this machine's CPUs make of page tables, as far as it decides what guests may have in theirs.
#![forbid(unsafe_code)]

use crate::registers::CpuidResult;

/// IA32_ARCH_CAPABILITIES. SPEC: Intel SDM volume 4.
pub(crate) const ARCH_CAPABILITIES: u32 = 0x10a;
/// Bit 0 of it: neither a supervisor's data nor what a not-present entry names can be read by speculation.
const RDCL_NO: u64 = 1 << 0;

/// A slot of ours that leads nowhere, in roots and in their twins. An entry that is not present may stand there: who keeps the
/// roots can note something in it.
pub const SPARE_SLOT: usize = 261;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagingFacts {
    /// How many bits a machine address has.
    pub address_bits: u8,
    /// Entries may forbid execution.
    pub has_nx: bool,
    /// Speculation reads through the address in an entry that is not present (L1TF, XSA-273).
    pub leaks_not_present: bool,
    /// Speculation of user mode reads what only the supervisor may (Meltdown, XSA-254).
    pub leaks_supervisor: bool,
}

/// Models of Intel's family 6 that execute in order: they leak neither.
const IN_ORDER: [u32; 5] = [0x1c, 0x26, 0x27, 0x35, 0x36];
/// Models of Intel's family 6 without L1TF: the small cores (Silvermont to Goldmont Plus) and Xeon Phi.
/// SPEC: Intel, Affected Processors: Transient Execution Attacks, L1 Terminal Fault.
const WITHOUT_L1TF: [u32; 12] = [
    0x37, 0x4a, 0x4c, 0x4d, 0x57, 0x5a, 0x5c, 0x5d, 0x5f, 0x75, 0x7a, 0x85,
];

impl PagingFacts {
    /// Reads them from `CPUID` and IA32_ARCH_CAPABILITIES, which is asked for only if the CPU has it. A CPU of an unknown
    /// kind is taken to leak.
    pub fn of(
        cpuid: impl Fn(u32, u32) -> CpuidResult,
        arch_capabilities: impl FnOnce() -> Option<u64>,
    ) -> Self {
        const EXTENDED: u32 = 0x8000_0000;
        let extended = cpuid(EXTENDED, 0).eax;
        let address_bits = if extended >= EXTENDED + 8 {
            // Entries have room for 52 bits of address; no CPU of 64 bits has less than 36.
            (cpuid(EXTENDED + 8, 0).eax & 0xff).clamp(36, 52) as u8
        } else {
            36
        };
        let has_nx = extended > EXTENDED && cpuid(EXTENDED + 1, 0).edx >> 20 & 1 != 0;

        let CpuidResult { eax, ebx, ecx, edx } = cpuid(0, 0);
        let vendor = [ebx, edx, ecx].map(u32::to_le_bytes);
        let is_immune_vendor = [b"AuthenticAMD", b"HygonGenuine"]
            .iter()
            .any(|name| vendor.as_flattened() == name.as_slice());
        let is_intel = vendor.as_flattened() == b"GenuineIntel";
        let signature = cpuid(1, 0).eax;
        let family = signature >> 8 & 0xf;
        let model = signature >> 4 & 0xf | signature >> 12 & 0xf0;
        let is_one_of = |models: &[u32]| is_intel && family == 6 && models.contains(&model);
        let has_capabilities = eax >= 7 && cpuid(7, 0).edx >> 29 & 1 != 0;
        let is_fixed = has_capabilities
            && arch_capabilities().is_some_and(|capabilities| capabilities & RDCL_NO != 0);

        let leaks_supervisor = !is_immune_vendor && !is_one_of(&IN_ORDER) && !is_fixed;
        Self {
            address_bits,
            has_nx,
            leaks_supervisor,
            leaks_not_present: leaks_supervisor && !is_one_of(&WITHOUT_L1TF),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CPU of a vendor and a signature, with 46 bits of address and NX.
    fn cpu(
        vendor: &'static [u8; 12],
        signature: u32,
        has_capabilities: bool,
    ) -> impl Fn(u32, u32) -> CpuidResult {
        let word = |n: usize| u32::from_le_bytes(vendor[n..n + 4].try_into().unwrap());
        let (ebx, edx, ecx) = (word(0), word(4), word(8));
        move |leaf, _| {
            let mut result = CpuidResult::default();
            match leaf {
                0 => (result.eax, result.ebx, result.ecx, result.edx) = (0x16, ebx, ecx, edx),
                1 => result.eax = signature,
                7 => result.edx = u32::from(has_capabilities) << 29,
                0x8000_0000 => result.eax = 0x8000_0008,
                0x8000_0001 => result.edx = 1 << 20,
                0x8000_0008 => result.eax = 0x302e,
                _ => {}
            }
            result
        }
    }

    #[test]
    fn leaks_follow_vendor_model_and_capabilities() {
        const INTEL: &[u8; 12] = b"GenuineIntel";
        type Case = (&'static [u8; 12], u32, Option<u64>, bool, bool);
        let cases: [Case; 9] = [
            // Skylake: without the register, with it, and with its bit.
            (INTEL, 0x0005_06e3, None, true, true),
            (INTEL, 0x0005_06e3, Some(!RDCL_NO), true, true),
            (INTEL, 0x0005_06e3, Some(RDCL_NO), false, false),
            // An early Atom, a Goldmont, a Xeon Phi.
            (INTEL, 0x0002_0661, None, false, false),
            (INTEL, 0x0005_06c9, None, true, false),
            (INTEL, 0x0008_0650, None, true, false),
            (b"AuthenticAMD", 0x0080_0f12, None, false, false),
            (b"HygonGenuine", 0x0090_0f01, None, false, false),
            (b"SomebodyElse", 0x0000_06f1, None, true, true),
        ];
        for (vendor, signature, capabilities, supervisor, not_present) in cases {
            let facts = PagingFacts::of(cpu(vendor, signature, capabilities.is_some()), || {
                assert!(capabilities.is_some(), "the register does not exist");
                capabilities
            });
            let expected = PagingFacts {
                address_bits: 46,
                has_nx: true,
                leaks_supervisor: supervisor,
                leaks_not_present: not_present,
            };
            assert_eq!(facts, expected, "{signature:x}");
        }
    }

    #[test]
    fn a_cpu_that_says_nothing_is_taken_for_the_worst() {
        let facts = PagingFacts::of(|_, _| CpuidResult::default(), || None);
        assert_eq!((facts.address_bits, facts.has_nx), (36, false));
        assert!(facts.leaks_supervisor && facts.leaks_not_present);
    }
}
