//! What a model machine is made of.

use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

use crate::CalendarTime;
use crate::boot::{EfiTables, MemoryKind, MemoryMap, MemoryRange, Screen};
use crate::paging_facts::{ARCH_CAPABILITIES, PagingFacts};
use crate::registers::CpuidResult;

/// The description of a model machine. [`SimConfig::new`] describes a plain one; what differs is set afterwards.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// What firmware says about memory, in any state.
    pub memory_map: MemoryMap,
    /// How many CPUs there are; at least one.
    pub cpus: u32,
    /// The loader's name.
    pub loader: String,
    /// The options.
    pub command_line: String,
    /// What the loader brings: the command line of each and its bytes.
    pub modules: Vec<(String, Vec<u8>)>,
    /// What the loader says about the screen.
    pub screen: Option<Screen>,
    /// The answers of `CPUID` by leaf and subleaf. What is missing is all zeros. The APIC id of leaf 1 and the sizes of
    /// leaf 0xd that follow from XCR0 are filled in by the CPU.
    pub cpuid: BTreeMap<(u32, u32), CpuidResult>,
    /// The model-specific registers that exist, and what they hold.
    pub msrs: BTreeMap<u32, u64>,
    /// Address spaces have PCIDs in the TLB, if the CPU has them and there are no twins of roots.
    pub pcid: bool,
    /// Guests run on twins of their roots; `None`: where the CPU needs them.
    pub xpti: Option<bool>,
    /// What the CPUs make of page tables; `None`: as `CPUID` and the registers say.
    pub paging: Option<PagingFacts>,
    /// How fast the time-stamp counter runs.
    pub tsc_khz: u32,
    /// What the real-time clock says, if there is one.
    pub real_time_clock: Option<CalendarTime>,
    /// ACPI names the registers by which power is switched off.
    pub has_switch: bool,
    /// What EFI's tables say, if firmware is EFI.
    pub efi: Option<EfiTables>,
    /// From where the adversary's choices follow.
    pub seed: u64,
    /// Flushes that follow from stamps are left out: a machine on which nothing is safe, to show that tests notice.
    pub forgets_flushes: bool,
}

impl SimConfig {
    /// Describes a machine with so much RAM, laid out as in a PC: a gap below 1 MiB, one below 4 GiB. It has one CPU
    /// with the features of the middle of the 2010s, no modules, no options.
    pub fn new(memory_bytes: u64) -> Self {
        Self {
            memory_map: pc_memory(memory_bytes),
            cpus: 1,
            loader: String::from("sim"),
            command_line: String::new(),
            modules: Vec::new(),
            screen: None,
            cpuid: cpuid(),
            msrs: msrs(),
            pcid: false,
            xpti: Some(false),
            paging: None,
            tsc_khz: 2_000_000,
            real_time_clock: CalendarTime::new((2024, 2, 29), (12, 34, 56)),
            has_switch: true,
            efi: None,
            seed: 1,
            forgets_flushes: false,
        }
    }

    /// What the CPUs make of page tables.
    pub(super) fn paging_facts(&self) -> PagingFacts {
        let cpuid = |leaf, subleaf| {
            let answer = self.cpuid.get(&(leaf, subleaf));
            answer.copied().unwrap_or_default()
        };
        let capabilities = || self.msrs.get(&ARCH_CAPABILITIES).copied();
        self.paging
            .unwrap_or_else(|| PagingFacts::of(cpuid, capabilities))
    }

    /// Whether guests run on twins of their roots.
    pub(super) fn uses_twins(&self) -> bool {
        self.xpti.unwrap_or(self.paging_facts().leaks_supervisor)
    }

    /// Whether PCIDs are wanted and there.
    pub(super) fn uses_pcids(&self) -> bool {
        const PCID: u32 = 1 << 17;
        let features = self.cpuid.get(&(1, 0)).map_or(0, |leaf| leaf.ecx);
        self.pcid && features & PCID != 0 && !self.uses_twins()
    }
}

fn pc_memory(bytes: u64) -> MemoryMap {
    const LOW: u64 = 0x9_fc00;
    const MIB: u64 = 1 << 20;
    const GAP: u64 = 3 << 30;
    const HIGH: u64 = 1 << 32;
    let mut map = MemoryMap::new();
    let mut push = |start, end, kind| map.push(MemoryRange { start, end, kind });
    push(0, LOW.min(bytes), MemoryKind::Ram);
    push(LOW, 0xa_0000, MemoryKind::Reserved);
    push(0xf_0000, MIB, MemoryKind::Reserved);
    push(MIB, bytes.min(GAP), MemoryKind::Ram);
    push(0xfec0_0000, HIGH, MemoryKind::Reserved);
    push(
        HIGH,
        HIGH.saturating_add(bytes.saturating_sub(GAP)),
        MemoryKind::Ram,
    );
    map
}

/// The bits of these numbers.
fn bits(numbers: &[u32]) -> u32 {
    numbers.iter().fold(0, |bits, number| bits | 1 << number)
}

/// SPEC: Intel SDM volume 2, CPUID.
fn cpuid() -> BTreeMap<(u32, u32), CpuidResult> {
    let leaf = |eax, ebx, ecx, edx| CpuidResult { eax, ebx, ecx, edx };
    let text = |text: &[u8; 16]| {
        let word = |n: usize| u32::from_le_bytes([text[n], text[n + 1], text[n + 2], text[n + 3]]);
        leaf(word(0), word(4), word(8), word(12))
    };
    BTreeMap::from([
        ((0, 0), leaf(0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69)),
        (
            (1, 0),
            leaf(
                0x0005_06e3,
                0x0000_0800,
                // SSE3, PCLMULQDQ, SSSE3, FMA, CX16, PCID, SSE4.1, SSE4.2, x2APIC, MOVBE, POPCNT, TSC deadline, AES,
                // XSAVE, OSXSAVE, AVX, F16C, RDRAND
                bits(&[
                    0, 1, 9, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30,
                ]),
                // FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE-36, CLFSH, MMX,
                // FXSR, SSE, SSE2
                bits(&[
                    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26,
                ]),
            ),
        ),
        // FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, INVPCID, RDSEED, ADX, SMAP
        (
            (7, 0),
            leaf(0, bits(&[0, 3, 5, 7, 8, 9, 10, 18, 19, 20]), 0, 0),
        ),
        ((0xd, 0), leaf(0b111, 0, 832, 0)),
        // XSAVEOPT, XSAVEC
        ((0xd, 1), leaf(0b11, 0, 0, 0)),
        ((0xd, 2), leaf(256, 576, 0, 0)),
        ((0x8000_0000, 0), leaf(0x8000_0008, 0, 0, 0)),
        // LAHF, LZCNT; SYSCALL, NX, 1 GiB pages, RDTSCP, long mode
        (
            (0x8000_0001, 0),
            leaf(0, 0, bits(&[0, 5]), bits(&[11, 20, 26, 27, 29])),
        ),
        ((0x8000_0002, 0), text(b"Oxen model CPU\0\0")),
        ((0x8000_0006, 0), leaf(0, 0, 0x0100_6040, 0)),
        // Invariant TSC
        ((0x8000_0007, 0), leaf(0, 0, 0, 1 << 8)),
        // 46 bits of machine, 48 of virtual address
        ((0x8000_0008, 0), leaf(0x302e, 0, 0, 0)),
    ])
}

/// SPEC: Intel SDM volume 4.
fn msrs() -> BTreeMap<u32, u64> {
    BTreeMap::from([
        (0x1b, 0xfee0_0900),            // IA32_APIC_BASE
        (0x3a, 1),                      // IA32_FEATURE_CONTROL: locked, no VMX
        (0xfe, 0x508),                  // IA32_MTRRCAP
        (0x1a0, 1),                     // IA32_MISC_ENABLE: fast strings
        (0x277, 0x0007_0406_0007_0406), // IA32_PAT at reset
        (0x2ff, 0xc06),                 // IA32_MTRR_DEF_TYPE
        (0xc000_0080, 0xd01),           // IA32_EFER: SYSCALL, long mode, NX
    ])
}
