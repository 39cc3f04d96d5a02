//! The CPUID that a paravirtual guest sees: derived once from the host's by a table, then looked up.
//!
//! INVARIANT: a bit that the table does not let through is 0, on every host; new features of new CPUs stay hidden until
//! somebody has thought about them.

mod table;
mod xsave;

use core::fmt;

use arrayvec::ArrayVec;
use dom0_abi::addr::{Mfn, PAGE_SHIFT};
use oxen_arch::CpuidResult;

use super::msr::Vendor;
use crate::domain::privileged_state::{OwnedBits, cr4};
use crate::version;
use table::{Computed, Feature, HYPERVISOR_BASE, Needs, Row, Rule, Subleaves, TABLE};
use xsave::Xsave;

/// What the policy needs to know of the host beside its CPUID.
#[derive(Clone, Copy, Debug)]
pub struct HostFacts {
    /// Frequency of the TSC.
    pub tsc_khz: u32,
    /// One past the last frame of RAM.
    pub max_mfn: Mfn,
}

/// Who asks, and in what state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuidView {
    /// The forced form of the instruction, which a kernel uses before it sets up anything.
    pub forced: bool,
    /// The asking domain is dom0.
    pub is_dom0: bool,
    /// The guest's CR4.OSXSAVE.
    pub osxsave: bool,
    /// The guest's XCR0.
    pub xcr0: u64,
}

/// The CPUID policy of all paravirtual guests on this host.
#[derive(Clone, Debug)]
pub struct CpuidPolicy {
    answers: ArrayVec<Answer, MAX_ANSWERS>,
    xsave: Xsave,
}

/// Rows of the table, its ranges counted one by one.
const MAX_ANSWERS: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Answer {
    leaf: u32,
    subleaf: u32,
    any_subleaf: bool,
    result: CpuidResult,
}

const OSXSAVE: u32 = 1 << 27;
const FSGSBASE: u32 = 1;
const DEBUGGING_EXTENSIONS: u32 = 1 << 2;
const RDTSCP: u32 = 1 << 27;
const NX: u32 = 1 << 20;
const XSAVEC: u32 = 1 << 1;

impl CpuidPolicy {
    /// Derives the policy from the host's own CPUID.
    pub fn derive(facts: &HostFacts, mut cpuid: impl FnMut(u32, u32) -> CpuidResult) -> Self {
        let host = Host::new(&mut cpuid);
        let xsave = Xsave::derive(host.max_basic, &mut cpuid);
        let mut answers = ArrayVec::new();
        for row in TABLE {
            if row.leaf > host.max(row.leaf) {
                continue;
            }
            let (first, last) = match row.subleaves {
                Subleaves::Ignored => (0, 0),
                Subleaves::One(subleaf) => (subleaf, subleaf),
                Subleaves::Range(first, last) => (first, last),
            };
            for subleaf in first..=last {
                let theirs = if is_hypervisor_leaf(row.leaf) {
                    CpuidResult::default()
                } else {
                    cpuid(row.leaf, subleaf)
                };
                let inputs = Inputs {
                    facts,
                    host: &host,
                    xsave: &xsave,
                    subleaf,
                };
                let answer = Answer {
                    leaf: row.leaf,
                    subleaf,
                    any_subleaf: row.subleaves == Subleaves::Ignored,
                    result: inputs.apply(row, theirs),
                };
                // A test shows that all rows fit; one that did not would be hidden, which is the safe side.
                let _ = answers.try_push(answer);
            }
        }
        Self { answers, xsave }
    }

    /// The answer to a guest. Total: leaves and subleaves that are not listed give 0.
    pub fn query(&self, leaf: u32, subleaf: u32, view: CpuidView) -> CpuidResult {
        let mut result = self.listed(leaf, subleaf);
        match (leaf, subleaf) {
            (1, _) if self.xsave.is_usable() && (view.forced || view.osxsave) => {
                result.ecx |= OSXSAVE;
            }
            (0xd, 0) => result.ebx = self.xsave.size(view.xcr0),
            (0xd, 1) if result.eax & XSAVEC != 0 => {
                result.ebx = self.xsave.compact_size(view.xcr0);
            }
            (0x8000_0007, _) if !view.is_dom0 => result.edx &= !table::INVARIANT_TSC,
            _ => {}
        }
        result
    }

    /// What of CR4 and XCR0 a guest may set, given the features that it sees.
    pub fn owned_bits(&self) -> OwnedBits {
        let when = |condition: bool, bit: u64| if condition { bit } else { 0 };
        OwnedBits {
            cr4: cr4::TSD
                | when(self.listed(1, 0).edx & DEBUGGING_EXTENSIONS != 0, cr4::DE)
                | when(self.listed(7, 0).ebx & FSGSBASE != 0, cr4::FSGSBASE)
                | when(self.xsave.is_usable(), cr4::OSXSAVE),
            xcr0: self.xsave.components(),
        }
    }

    /// Whether guests see `rdtscp`, and so TSC_AUX.
    pub fn has_rdtscp(&self) -> bool {
        self.listed(0x8000_0001, 0).edx & RDTSCP != 0
    }

    /// Whether guests see NX.
    pub fn has_nx(&self) -> bool {
        self.listed(0x8000_0001, 0).edx & NX != 0
    }

    /// Who made the CPU.
    pub fn vendor(&self) -> Vendor {
        let CpuidResult { ebx, ecx, edx, .. } = self.listed(0, 0);
        match (ebx, edx, ecx) {
            (0x756e_6547, 0x4965_6e69, 0x6c65_746e) => Vendor::Intel,
            (0x6874_7541, 0x6974_6e65, 0x444d_4163) => Vendor::Amd,
            (0x6f67_7948, 0x6e65_476e, 0x656e_6975) => Vendor::Amd,
            _ => Vendor::Other,
        }
    }

    fn listed(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let find = |subleaf: u32| {
            let position = self
                .answers
                .binary_search_by_key(&(leaf, subleaf), |answer| (answer.leaf, answer.subleaf))
                .ok()?;
            self.answers.get(position)
        };
        find(subleaf)
            .or_else(|| find(0).filter(|answer| answer.any_subleaf))
            .map(|answer| answer.result)
            .unwrap_or_default()
    }
}

fn is_hypervisor_leaf(leaf: u32) -> bool {
    (HYPERVISOR_BASE..=table::HYPERVISOR_LAST).contains(&leaf)
}

struct Host {
    max_basic: u32,
    max_extended: u32,
    max_feature_subleaf: u32,
    has_invariant_tsc: bool,
    has_rdtscp: bool,
}

impl Host {
    fn new(cpuid: &mut impl FnMut(u32, u32) -> CpuidResult) -> Self {
        let max_basic = cpuid(0, 0).eax.min(table::MAX_BASIC);
        let max_extended = match cpuid(0x8000_0000, 0).eax {
            max @ 0x8000_0000..=0x8000_ffff => max.min(table::MAX_EXTENDED),
            _ => 0,
        };
        let mut when = |condition: bool, leaf| {
            if condition {
                cpuid(leaf, 0)
            } else {
                CpuidResult::default()
            }
        };
        Self {
            max_basic,
            max_extended,
            max_feature_subleaf: when(max_basic >= 7, 7).eax.min(1),
            has_rdtscp: when(max_extended >= 0x8000_0001, 0x8000_0001).edx & RDTSCP != 0,
            has_invariant_tsc: when(max_extended >= 0x8000_0007, 0x8000_0007).edx
                & table::INVARIANT_TSC
                != 0,
        }
    }

    /// The highest leaf in the range of `leaf`.
    fn max(&self, leaf: u32) -> u32 {
        match leaf {
            0x8000_0000.. => self.max_extended,
            HYPERVISOR_BASE.. => table::HYPERVISOR_LAST,
            _ => self.max_basic,
        }
    }
}

struct Inputs<'a> {
    facts: &'a HostFacts,
    host: &'a Host,
    xsave: &'a Xsave,
    subleaf: u32,
}

impl Inputs<'_> {
    fn apply(&self, row: &Row, theirs: CpuidResult) -> CpuidResult {
        // A subleaf that the host does not have repeats other data on some CPUs.
        if row.leaf == 7 && self.subleaf > self.host.max_feature_subleaf {
            return CpuidResult::default();
        }
        let [eax, ebx, ecx, edx] = row.registers;
        CpuidResult {
            eax: self.rule(eax, theirs.eax),
            ebx: self.rule(ebx, theirs.ebx),
            ecx: self.rule(ecx, theirs.ecx),
            edx: self.rule(edx, theirs.edx),
        }
    }

    fn rule(&self, rule: Rule, theirs: u32) -> u32 {
        match rule {
            Rule::Zero => 0,
            Rule::Pass => theirs,
            Rule::Keep(mask) => theirs & mask,
            Rule::Features(features, always) => (theirs & self.mask(features)) | always,
            Rule::Const(value) => value,
            Rule::Fill(computed) => self.compute(computed, theirs),
        }
    }

    fn mask(&self, features: &[Feature]) -> u32 {
        features
            .iter()
            .filter(|feature| match feature.needs {
                Needs::Nothing => true,
                Needs::Xsave => self.xsave.is_usable(),
                Needs::Avx => self.xsave.has_avx(),
                Needs::Avx512 => self.xsave.has_avx512(),
            })
            .fold(0, |mask, feature| {
                mask | 1u32.checked_shl(feature.bit).unwrap_or(0)
            })
    }

    fn compute(&self, computed: Computed, theirs: u32) -> u32 {
        let low = |value: u64| value as u32;
        let component = self.xsave.component(self.subleaf);
        let (multiplier, shift) = tsc_to_ns(self.facts.tsc_khz);
        match computed {
            Computed::MaxBasic => self.host.max_basic,
            Computed::MaxExtended => self.host.max_extended,
            Computed::MaxFeatureSubleaf => self.host.max_feature_subleaf,
            Computed::Xcr0Low => low(self.xsave.components()),
            Computed::Xcr0High => low(self.xsave.components() >> 32),
            Computed::XsaveMaxSize => self.xsave.size(self.xsave.components()),
            // Depend on the guest's XCR0: filled in by each query.
            Computed::XsaveSize | Computed::XsaveCompactSize => 0,
            Computed::ComponentSize => component.size,
            Computed::ComponentOffset => component.offset,
            Computed::ComponentFlags => component.flags(),
            Computed::AddressWidths => {
                let linear = (theirs >> 8) & 0xff;
                (theirs & 0xff) | (linear.min(48) << 8)
            }
            Computed::Version => version::packed(),
            Computed::TscFlags => {
                (u32::from(self.host.has_invariant_tsc) << 1)
                    | (u32::from(self.host.has_rdtscp) << 2)
            }
            Computed::TscKhz => self.facts.tsc_khz,
            Computed::TscMultiplier => multiplier,
            Computed::TscShift => shift as u32,
            Computed::MachineAddressWidth => {
                let last = self.facts.max_mfn.get().saturating_sub(1);
                let bits = u64::BITS.saturating_sub(last.leading_zeros());
                bits.saturating_add(PAGE_SHIFT).min(64)
            }
        }
    }
}

/// The factors with which `ns = shift(ticks) * multiplier >> 32`, where a negative shift goes to the right.
fn tsc_to_ns(tsc_khz: u32) -> (u32, i32) {
    // Nanoseconds per tick, scaled until the multiplier has its top bit set.
    let Some(mut scaled) = (1_000_000u128 << 64).checked_div(u128::from(tsc_khz)) else {
        return (0, 0);
    };
    let mut shift = -32i32;
    while scaled > u128::from(u32::MAX) {
        scaled >>= 1;
        shift = shift.saturating_add(1);
    }
    (scaled as u32, shift)
}

/// Writes the policy as a page of the documentation.
pub fn markdown(out: &mut impl fmt::Write) -> fmt::Result {
    writeln!(
        out,
        "| leaf | subleaf | eax | ebx | ecx | edx | why |\n|---|---|---|---|---|---|---|"
    )?;
    for row in TABLE {
        write!(out, "| {:#x} | ", row.leaf)?;
        match row.subleaves {
            Subleaves::Ignored => write!(out, "any")?,
            Subleaves::One(subleaf) => write!(out, "{subleaf}")?,
            Subleaves::Range(first, last) => write!(out, "{first}-{last}")?,
        }
        for rule in row.registers {
            write!(out, " | ")?;
            match rule {
                Rule::Zero => write!(out, "0")?,
                Rule::Pass => write!(out, "host")?,
                Rule::Keep(mask) => write!(out, "host & {mask:#x}")?,
                Rule::Features(features, always) => {
                    for feature in features {
                        write!(out, "{} ", feature.name.trim_start_matches('_'))?;
                    }
                    if always != 0 {
                        write!(out, "and always {always:#x}")?;
                    }
                }
                Rule::Const(value) => write!(out, "{value:#x}")?,
                Rule::Fill(computed) => write!(out, "{computed:?}")?,
            }
        }
        writeln!(out, " | {} |", row.note)?;
    }
    writeln!(out, "\nEvery other leaf, subleaf and bit is 0.")
}

#[cfg(test)]
mod tests;
