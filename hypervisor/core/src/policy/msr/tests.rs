use std::string::String;
use std::vec::Vec;

use dom0_abi::addr::Mfn;
use oxen_arch::boot::CpuId;
use oxen_arch::{CpuidResult, Machine, SimConfig};

use super::*;
use crate::domain::privileged_state::OwnedBits;
use crate::policy::cpuid::HostFacts;

const INTEL: CpuidResult = CpuidResult {
    eax: 0xd,
    ebx: 0x756e_6547,
    ecx: 0x6c65_746e,
    edx: 0x4965_6e69,
};
const AMD: CpuidResult = CpuidResult {
    eax: 0xd,
    ebx: 0x6874_7541,
    ecx: 0x444d_4163,
    edx: 0x6974_6e65,
};
const OTHER: CpuidResult = CpuidResult {
    ebx: 0x7765_6e20,
    ..INTEL
};
const VCPU: VcpuId = VcpuId::new(0);

struct Bench {
    cpu: Cpu,
    policy: MsrPolicy,
    state: PrivilegedState,
}

fn bench(vendor: CpuidResult) -> Bench {
    let (machine, _) = Machine::new(SimConfig::new(64 << 20));
    let cpu = machine.cpu(CpuId::new(0));
    let facts = HostFacts {
        tsc_khz: 2_000_000,
        max_mfn: Mfn::new(0x4000),
    };
    let cpuid = CpuidPolicy::derive(&facts, |leaf, subleaf| match leaf {
        0 => vendor,
        _ => cpu.cpuid(leaf, subleaf),
    });
    // A host on which every register holds all ones.
    let policy = MsrPolicy::derive(&cpuid, |_| Some(u64::MAX));
    let state = PrivilegedState::new(cpuid.owned_bits());
    Bench { cpu, policy, state }
}

impl Bench {
    fn read(&self, msr: u32) -> Result<u64, Refused> {
        self.policy.read(&self.cpu, &self.state, VCPU, msr)
    }

    fn write(&mut self, msr: u32, value: u64) -> Result<(), Refused> {
        self.policy
            .write(&self.cpu, &mut self.state, VCPU, msr, value)
    }
}

/// The registers of the ABI, written down once more.
fn expected(vendor: Vendor) -> Vec<u32> {
    let mut all = Vec::from([0x10, 0x1b, 0x8b, 0x179, 0x17a, 0x17b, 0x1a0, 0x277]);
    all.extend(0x400..=0x407);
    all.extend([
        0xc000_0080,
        0xc000_0100,
        0xc000_0101,
        0xc000_0102,
        0xc000_0103,
    ]);
    match vendor {
        Vendor::Intel => all.extend([0x17, 0xce]),
        Vendor::Amd => {
            all.extend(0xc001_0000..=0xc001_0007);
            all.extend([0xc001_0010, 0xc001_0015, 0xc001_001d, 0xc001_1029]);
        }
        Vendor::Other => {}
    }
    all
}

#[test]
fn what_is_not_listed_is_refused() {
    for (vendor, leaf) in [
        (Vendor::Intel, INTEL),
        (Vendor::Amd, AMD),
        (Vendor::Other, OTHER),
    ] {
        let mut bench = bench(leaf);
        assert_eq!(bench.policy.vendor, vendor);
        let listed = expected(vendor);
        let before = bench.cpu.registers();
        let architectural = (0..0x2000u32)
            .chain(0x4000_0000..0x4000_2000)
            .chain(0xc000_0000..0xc000_2000)
            .chain(0xc001_0000..0xc001_2000)
            .chain((0..32).map(|bit| u32::MAX << bit));
        for msr in architectural {
            let is_listed = listed.contains(&msr);
            assert_eq!(
                bench.read(msr).is_ok(),
                is_listed,
                "{vendor:?} read {msr:#x}"
            );
            if !is_listed {
                for value in [0, 1, u64::MAX] {
                    assert_eq!(
                        bench.write(msr, value),
                        Err(Refused),
                        "{vendor:?} write {msr:#x}"
                    );
                }
            }
        }
        assert_eq!(
            std::format!("{before:?}"),
            std::format!("{:?}", bench.cpu.registers())
        );
    }
}

#[test]
fn only_one_row_for_each_register() {
    for msr in expected(Vendor::Intel)
        .into_iter()
        .chain(expected(Vendor::Amd))
    {
        let rows = TABLE.iter().filter(|row| {
            (row.first..=row.last).contains(&msr) && (msr - row.first) % row.step == 0
        });
        assert_eq!(rows.count(), 1, "{msr:#x}");
    }
    assert!(TABLE.is_sorted_by(|a, b| a.first < b.first));
}

#[test]
fn constants_of_the_abi() {
    let intel = bench(INTEL);
    assert_eq!(intel.read(0x277), Ok(0x0000_0501_0007_0406));
    assert_eq!(intel.read(0x1b), Ok(0xfee0_0900));
    assert_eq!(
        intel
            .policy
            .read(&intel.cpu, &intel.state, VcpuId::new(1), 0x1b),
        Ok(0xfee0_0800)
    );
    assert_eq!(intel.read(0xc000_0080), Ok(0xd01));
    assert_eq!(intel.read(0x1a0), Ok(0x1801));
    assert_eq!(intel.read(0x179), Ok(2));
    assert_eq!(intel.read(0xce), Ok(0));
    let amd = bench(AMD);
    assert_eq!(amd.read(0xc001_1029), Ok(2));
    assert_eq!(amd.read(0xc001_0003), Ok(0));
}

#[test]
fn bases_are_checked_and_reach_the_cpu() {
    let mut bench = bench(INTEL);
    for (msr, get) in [
        (0xc000_0100, Cpu::fs_base as fn(&Cpu) -> u64),
        (0xc000_0101, Cpu::gs_base),
        (0xc000_0102, Cpu::user_gs_base),
    ] {
        for base in [0x1234, 0x7fff_ffff_ffff, 0xffff_8880_0000_1000, u64::MAX] {
            assert_eq!(bench.write(msr, base), Ok(()));
            assert_eq!(bench.read(msr), Ok(base));
            assert_eq!(get(&bench.cpu), base);
        }
        for base in [1 << 47, 0xffff_7fff_ffff_ffff, 1 << 63] {
            assert_eq!(bench.write(msr, base), Err(Refused));
            assert_eq!(get(&bench.cpu), u64::MAX);
        }
    }
}

#[test]
fn writes_that_change_nothing() {
    for leaf in [INTEL, AMD] {
        let mut bench = bench(leaf);
        for msr in [0x1b, 0x277, 0xc000_0080, 0x1a0, 0xc001_0015, 0xc001_1029] {
            let Ok(value) = bench.read(msr) else { continue };
            assert_eq!(bench.write(msr, value), Ok(()));
            for bit in 0..64 {
                assert_eq!(
                    bench.write(msr, value ^ (1 << bit)),
                    Err(Refused),
                    "{msr:#x} {bit}"
                );
            }
        }
        for msr in [0x17a, 0x401, 0x402, 0x403, 0x405, 0x406, 0x407] {
            assert_eq!(bench.write(msr, 0), Ok(()));
            assert_eq!(bench.write(msr, 1), Err(Refused));
        }
        for msr in [0x17b, 0x400, 0x404, 0x8b] {
            let before = bench.read(msr);
            assert_eq!(bench.write(msr, 0x5555), Ok(()));
            assert_eq!(bench.read(msr), before);
        }
        assert_eq!(bench.write(0x10, 0), Err(Refused));
        assert_eq!(bench.write(0x179, 2), Err(Refused));
    }
}

#[test]
fn tsc_aux_has_32_bits_and_needs_rdtscp() {
    let mut bench = bench(INTEL);
    assert_eq!(bench.write(0xc000_0103, 0xffff_ffff), Ok(()));
    assert_eq!(bench.read(0xc000_0103), Ok(0xffff_ffff));
    assert_eq!(bench.write(0xc000_0103, 1 << 32), Err(Refused));
    let facts = HostFacts {
        tsc_khz: 0,
        max_mfn: Mfn::new(1),
    };
    let poor = CpuidPolicy::derive(&facts, |_, _| CpuidResult::default());
    let policy = MsrPolicy::derive(&poor, |_| None);
    let state = PrivilegedState::new(OwnedBits { cr4: 0, xcr0: 0 });
    assert_eq!(
        policy.read(&bench.cpu, &state, VCPU, 0xc000_0103),
        Err(Refused)
    );
    assert_eq!(
        policy.read(&bench.cpu, &state, VCPU, 0xc000_0080),
        Ok(0x501),
        "no NX"
    );
}

#[test]
fn time_goes_on() {
    let bench = bench(INTEL);
    let first = bench.read(0x10).unwrap();
    assert!(bench.read(0x10).unwrap() > first);
}

#[test]
fn the_page_lists_every_row() {
    let mut page = String::new();
    markdown(&mut page).unwrap();
    assert_eq!(
        page.lines().filter(|line| line.starts_with("| 0x")).count(),
        TABLE.len()
    );
    assert!(page.contains("| 0xc0000102 | KERNEL_GS_BASE |"));
}
