//! The table of the CPUID policy: what becomes of each register of each leaf.
//!
//! SPEC: Intel SDM volume 2, `CPUID`; AMD APM volume 3, appendix E; ABI: `public/arch-x86/cpuid.h`.

/// State that a feature needs beside its bit: without it in XCR0 the feature is hidden.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Needs {
    /// None.
    Nothing,
    /// XSAVE itself.
    Xsave,
    /// XMM and YMM state.
    Avx,
    /// ZMM state.
    Avx512,
}

/// A feature that a guest may see if the host has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Feature {
    /// Its bit.
    pub bit: u32,
    /// Its name in manuals.
    pub name: &'static str,
    /// What it depends on.
    pub needs: Needs,
}

/// A value that a rule computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Computed {
    /// The highest basic leaf.
    MaxBasic,
    /// The highest extended leaf.
    MaxExtended,
    /// The highest subleaf of leaf 7.
    MaxFeatureSubleaf,
    /// Lower half of the XCR0 bits that the guest may set.
    Xcr0Low,
    /// Upper half of them.
    Xcr0High,
    /// Bytes of the XSAVE area for the guest's XCR0.
    XsaveSize,
    /// Bytes of the XSAVE area for all that it may set.
    XsaveMaxSize,
    /// Bytes of the compacted XSAVE area for the guest's XCR0.
    XsaveCompactSize,
    /// Bytes of an XSAVE component.
    ComponentSize,
    /// Its offset in the standard format.
    ComponentOffset,
    /// Its alignment in the compacted format.
    ComponentFlags,
    /// Width of addresses, the linear one at most 48.
    AddressWidths,
    /// Major and minor version.
    Version,
    /// Whether the TSC is emulated, reliable, read by `rdtscp`.
    TscFlags,
    /// Frequency of the TSC in kHz.
    TscKhz,
    /// Multiplier from TSC ticks to nanoseconds.
    TscMultiplier,
    /// Shift that goes with it.
    TscShift,
    /// Bits of a machine address.
    MachineAddressWidth,
}

/// What becomes of a register of the host's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// 0.
    Zero,
    /// The host's.
    Pass,
    /// The host's under a mask.
    Keep(u32),
    /// The host's features as far as listed, and bits that are always set.
    Features(&'static [Feature], u32),
    /// Always this.
    Const(u32),
    /// Computed.
    Fill(Computed),
}

/// To which subleaves a row applies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subleaves {
    /// The leaf has none: ECX of the question does not matter.
    Ignored,
    /// This one.
    One(u32),
    /// The inclusive range.
    Range(u32, u32),
}

/// One row of the policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// EAX of the question.
    pub leaf: u32,
    /// ECX of the question.
    pub subleaves: Subleaves,
    /// EAX, EBX, ECX, EDX of the answer.
    pub registers: [Rule; 4],
    /// Why.
    pub note: &'static str,
}

/// First leaf of the hypervisor's range.
pub const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// Last leaf of the hypervisor's range that has a meaning.
pub const HYPERVISOR_LAST: u32 = 0x4000_0005;
/// Highest basic leaf.
pub const MAX_BASIC: u32 = 0xd;
/// Highest extended leaf.
pub const MAX_EXTENDED: u32 = 0x8000_0021;
/// Leaf 1, ECX: a hypervisor is present.
pub const HYPERVISOR_PRESENT: u32 = 1 << 31;

macro_rules! features {
    ($($bit:literal $name:ident $(($needs:ident))?),* $(,)?) => {
        &[$(Feature { bit: $bit, name: stringify!($name), needs: features!(@ $($needs)?) }),*]
    };
    (@) => { Needs::Nothing };
    (@ $needs:ident) => { Needs::$needs };
}

const LEAF_1_ECX: &[Feature] = features![
    0 SSE3, 1 PCLMULQDQ, 9 SSSE3, 12 FMA (Avx), 13 CX16, 19 SSE4_1, 20 SSE4_2, 22 MOVBE, 23 POPCNT, 25 AES,
    26 XSAVE (Xsave), 28 AVX (Avx), 29 F16C (Avx), 30 RDRAND,
];
const LEAF_1_EDX: &[Feature] = features![
    0 FPU, 2 DE, 4 TSC, 5 MSR, 6 PAE, 7 MCE, 8 CX8, 9 APIC, 11 SEP, 14 MCA, 15 CMOV, 16 PAT, 19 CLFLUSH, 23 MMX,
    24 FXSR, 25 SSE, 26 SSE2, 27 SS, 28 HTT,
];
const LEAF_7_EBX: &[Feature] = features![
    0 FSGSBASE, 3 BMI1, 5 AVX2 (Avx), 6 FDP_EXCPTN_ONLY, 8 BMI2, 9 ERMS, 13 ZERO_FCS_FDS, 16 AVX512F (Avx512),
    17 AVX512DQ (Avx512), 18 RDSEED, 19 ADX, 21 AVX512_IFMA (Avx512), 23 CLFLUSHOPT, 24 CLWB,
    26 AVX512PF (Avx512), 27 AVX512ER (Avx512), 28 AVX512CD (Avx512), 29 SHA, 30 AVX512BW (Avx512),
    31 AVX512VL (Avx512),
];
const LEAF_7_ECX: &[Feature] = features![
    0 PREFETCHWT1, 1 AVX512_VBMI (Avx512), 6 AVX512_VBMI2 (Avx512), 8 GFNI, 9 VAES (Avx), 10 VPCLMULQDQ (Avx),
    11 AVX512_VNNI (Avx512), 12 AVX512_BITALG (Avx512), 14 AVX512_VPOPCNTDQ (Avx512), 25 CLDEMOTE, 27 MOVDIRI,
    28 MOVDIR64B,
];
const LEAF_7_EDX: &[Feature] = features![
    2 AVX512_4VNNIW (Avx512), 3 AVX512_4FMAPS (Avx512), 4 FSRM, 8 AVX512_VP2INTERSECT (Avx512), 10 MD_CLEAR,
    14 SERIALIZE, 23 AVX512_FP16 (Avx512),
];
const LEAF_7_1_EAX: &[Feature] = features![
    4 AVX_VNNI (Avx), 5 AVX512_BF16 (Avx512), 10 FZRM, 11 FSRS, 12 FSRCS, 23 AVX_IFMA (Avx),
];
const LEAF_7_1_EDX: &[Feature] =
    features![4 AVX_VNNI_INT8 (Avx), 5 AVX_NE_CONVERT (Avx), 14 PREFETCHI];
const LEAF_D_1_EAX: &[Feature] = features![0 XSAVEOPT (Xsave), 1 XSAVEC (Xsave), 2 XGETBV1 (Xsave)];
const EXTENDED_1_ECX: &[Feature] = features![
    0 LAHF, 1 CMP_LEGACY, 5 LZCNT, 6 SSE4A, 7 MISALIGNSSE, 8 PREFETCHW, 11 XOP (Avx), 16 FMA4 (Avx), 21 TBM,
    22 TOPOEXT,
];
const EXTENDED_1_EDX: &[Feature] = features![
    0 FPU, 2 DE, 4 TSC, 5 MSR, 6 PAE, 7 MCE, 8 CX8, 9 APIC, 11 SYSCALL, 14 MCA, 15 CMOV, 16 PAT, 20 NX, 22 MMXEXT,
    23 MMX, 24 FXSR, 27 RDTSCP, 29 LM, 30 _3DNOWEXT, 31 _3DNOW,
];
/// Leaf 0x80000007, EDX, for dom0 only: other domains may be moved to a host whose TSC runs at another rate.
pub const INVARIANT_TSC: u32 = 1 << 8;
const EXTENDED_8_EBX: &[Feature] = features![0 CLZERO, 2 RSTR_FP_ERR_PTRS];
const EXTENDED_21_EAX: &[Feature] =
    features![0 NO_NESTED_DATA_BP, 2 LFENCE_SERIALIZING, 6 NULL_SELECTOR_CLEARS_BASE];

use Computed::*;
use Rule::{Const, Features, Fill, Keep, Pass, Zero};
use Subleaves::{Ignored, One, Range};

const fn row(leaf: u32, subleaves: Subleaves, registers: [Rule; 4], note: &'static str) -> Row {
    Row {
        leaf,
        subleaves,
        registers,
        note,
    }
}

/// The policy, in ascending order. What is not here is 0.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    row(0, Ignored, [Fill(MaxBasic), Pass, Pass, Pass], "vendor"),
    row(1, Ignored, [Pass, Keep(0x00ff_ffff), Features(LEAF_1_ECX, HYPERVISOR_PRESENT), Features(LEAF_1_EDX, 0)],
        "APIC id 0; OSXSAVE (ecx 27) follows CR4, and is 1 for the forced form wherever XSAVE is"),
    row(2, Ignored, [Pass, Pass, Pass, Pass], "caches and TLBs"),
    row(4, Range(0, 7), [Pass, Pass, Pass, Pass], "caches and topology"),
    row(7, One(0), [Fill(MaxFeatureSubleaf), Features(LEAF_7_EBX, 0), Features(LEAF_7_ECX, 0), Features(LEAF_7_EDX, 0)],
        "no PKU, AMX, CET, LA57, TSX, RDPID; no speculation control while its MSRs are refused"),
    row(7, One(1), [Features(LEAF_7_1_EAX, 0), Zero, Zero, Features(LEAF_7_1_EDX, 0)], ""),
    row(0xd, One(0), [Fill(Xcr0Low), Fill(XsaveSize), Fill(XsaveMaxSize), Fill(Xcr0High)],
        "x87, SSE, AVX, AVX-512"),
    row(0xd, One(1), [Features(LEAF_D_1_EAX, 0), Fill(XsaveCompactSize), Zero, Zero], "no XSAVES, no supervisor state"),
    row(0xd, Range(2, 7), [Fill(ComponentSize), Fill(ComponentOffset), Fill(ComponentFlags), Zero],
        "components that the guest may use"),
    row(HYPERVISOR_BASE, Ignored,
        [Const(HYPERVISOR_LAST), Const(0x566e_6558), Const(0x6558_4d4d), Const(0x4d4d_566e)], "\"XenVMMXenVMM\""),
    row(0x4000_0001, Ignored, [Fill(Version), Zero, Zero, Zero], "version of the ABI"),
    row(0x4000_0002, Ignored, [Const(1), Const(0x4000_0000), Const(1), Zero],
        "hypercall pages, first MSR, MMU_PT_UPDATE_PRESERVE_AD"),
    row(0x4000_0003, One(0), [Fill(TscFlags), Zero, Fill(TscKhz), Zero], "TSC mode 0, never migrated"),
    row(0x4000_0003, One(1), [Zero, Zero, Fill(TscMultiplier), Fill(TscShift)], "TSC to nanoseconds"),
    row(0x4000_0003, One(2), [Fill(TscKhz), Zero, Zero, Zero], "the host's TSC"),
    row(0x4000_0005, One(0), [Zero, Fill(MachineAddressWidth), Zero, Zero], "paravirtual guests"),
    row(0x8000_0000, Ignored, [Fill(MaxExtended), Pass, Pass, Pass], "vendor"),
    row(0x8000_0001, Ignored, [Pass, Pass, Features(EXTENDED_1_ECX, 0), Features(EXTENDED_1_EDX, 0)],
        "no PAGE1GB, SVM, OSVW, performance counters"),
    row(0x8000_0002, Ignored, [Pass, Pass, Pass, Pass], "name"),
    row(0x8000_0003, Ignored, [Pass, Pass, Pass, Pass], "name"),
    row(0x8000_0004, Ignored, [Pass, Pass, Pass, Pass], "name"),
    row(0x8000_0005, Ignored, [Pass, Pass, Pass, Pass], "caches and TLBs"),
    row(0x8000_0006, Ignored, [Pass, Pass, Pass, Pass], "caches and TLBs"),
    row(0x8000_0007, Ignored, [Zero, Zero, Zero, Keep(INVARIANT_TSC)], "invariant TSC, for dom0 only"),
    row(0x8000_0008, Ignored, [Fill(AddressWidths), Features(EXTENDED_8_EBX, 0), Keep(0xf0ff), Zero], "linear addresses of 48 bits"),
    row(0x8000_001a, Ignored, [Keep(7), Zero, Zero, Zero], "width of the SSE unit"),
    row(0x8000_001d, Range(0, 7), [Pass, Pass, Pass, Pass], "caches and topology"),
    row(0x8000_001e, Ignored, [Pass, Pass, Pass, Zero], "topology"),
    row(0x8000_0021, Ignored, [Features(EXTENDED_21_EAX, 0), Zero, Zero, Zero], ""),
];
