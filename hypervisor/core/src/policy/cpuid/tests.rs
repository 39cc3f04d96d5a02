use std::string::String;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::domain::privileged_state::xcr0;

const FACTS: HostFacts = HostFacts {
    tsc_khz: 2_300_000,
    max_mfn: Mfn::new(0x14_0000),
};
const VIEW: CpuidView = CpuidView {
    forced: false,
    is_dom0: false,
    osxsave: false,
    xcr0: 1,
};
/// A host that has every leaf and every bit.
fn rich(leaf: u32, _: u32) -> CpuidResult {
    match leaf {
        0x8000_0000 => CpuidResult {
            eax: 0x8000_ffff,
            ..ALL_ONES
        },
        _ => ALL_ONES,
    }
}

const ALL_ONES: CpuidResult = CpuidResult {
    eax: !0,
    ebx: !0,
    ecx: !0,
    edx: !0,
};

fn registers(result: CpuidResult) -> [u32; 4] {
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// A server CPU with AVX-512 and AMX.
fn server(leaf: u32, subleaf: u32) -> CpuidResult {
    let of = |eax, ebx, ecx, edx| CpuidResult { eax, ebx, ecx, edx };
    match (leaf, subleaf) {
        (0, _) => of(0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69),
        (0xd, 0) => of(0x602e7, 0x2b00, 0x2b00, 0),
        (0xd, 1) => of(0x1f, 0x2b00, 0, 0),
        (0xd, 2) => of(256, 576, 0, 0),
        (0xd, 5) => of(64, 1088, 0, 0),
        (0xd, 6) => of(512, 1152, 0, 0),
        (0xd, 7) => of(1024, 1664, 0, 0),
        (0xd, 9) => of(8, 2688, 0, 0),
        (0xd, 17) => of(64, 2752, 2, 0),
        (0xd, 18) => of(8192, 2816, 6, 0),
        (7, 0) => of(2, !0, !0, !0),
        (0x8000_0000, _) => of(0x8000_0008, 0, 0, 0),
        (0x8000_0008, _) => of(0x0000_392e, 0, 0, 0),
        (1 | 4 | 7 | 0xa | 0xb | 0x14..=0x1f, _) | (0x8000_0001..=0x8000_0007, _) => ALL_ONES,
        _ => CpuidResult::default(),
    }
}

fn policy_of_server() -> CpuidPolicy {
    CpuidPolicy::derive(&FACTS, server)
}

#[test]
fn the_table_is_sorted_and_fits() {
    let keys: Vec<(u32, u32)> = TABLE
        .iter()
        .flat_map(|row| {
            let (first, last) = match row.subleaves {
                Subleaves::Ignored => (0, 0),
                Subleaves::One(subleaf) => (subleaf, subleaf),
                Subleaves::Range(first, last) => (first, last),
            };
            (first..=last).map(|subleaf| (row.leaf, subleaf))
        })
        .collect();
    assert!(keys.is_sorted_by(|a, b| a < b));
    assert!(keys.len() <= MAX_ANSWERS);
    let policy = CpuidPolicy::derive(&FACTS, rich);
    assert_eq!(policy.answers.len(), keys.len(), "all rows of a rich host");
    for row in TABLE {
        for rule in row.registers {
            if let Rule::Features(features, always) = rule {
                assert!(features.iter().all(|feature| feature.bit < 32));
                assert!(
                    features.is_sorted_by(|a, b| a.bit < b.bit),
                    "{:#x}",
                    row.leaf
                );
                assert!(
                    features
                        .iter()
                        .all(|feature| always & (1 << feature.bit) == 0)
                );
            }
        }
    }
}

/// Leaf, subleaf, register and bits that no guest may ever see: a privilege, a register or a mechanism stands behind
/// each that Oxen does not lend.
const NEVER: &[(u32, u32, usize, &[u32])] = &[
    // DTES64, MONITOR, VMX, SMX, EST, TM2, CNXT_ID, SDBG, XTPR, PDCM, PCID, DCA, X2APIC, TSC_DEADLINE
    (1, 0, 2, &[2, 3, 5, 6, 7, 8, 10, 11, 14, 15, 17, 18, 21, 24]),
    // VME, PSE, MTRR, PGE, PSE36, PSN, DS, ACPI, TM, PBE
    (1, 0, 3, &[1, 3, 12, 13, 17, 18, 21, 22, 29, 31]),
    // TSC_ADJUST, SGX, HLE, SMEP, INVPCID, RTM, PQM, MPX, PQE, SMAP, PT
    (7, 0, 1, &[1, 2, 4, 7, 10, 11, 12, 14, 15, 20, 25]),
    // UMIP, PKU, OSPKE, WAITPKG, CET_SS, TME, LA57, MAWAU, RDPID, KL, BUS_LOCK_DETECT, ENQCMD, SGX_LC, PKS
    (
        7,
        0,
        2,
        &[
            2, 3, 4, 5, 7, 13, 16, 17, 18, 19, 20, 21, 22, 23, 24, 29, 30, 31,
        ],
    ),
    // UINTR, TSXLDTRK, PCONFIG, LBR, CET_IBT, AMX, IBRS, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, CORE_CAPABILITIES, SSBD
    (
        7,
        0,
        3,
        &[5, 16, 18, 19, 20, 22, 24, 25, 26, 27, 28, 29, 30, 31],
    ),
    // LASS, FRED, LKGS, WRMSRNS, AMX_FP16, HRESET, LAM, MSRLIST
    (7, 1, 0, &[6, 17, 18, 19, 21, 22, 26, 27]),
    // XSAVES, XFD
    (0xd, 1, 0, &[3, 4]),
    // SVM, EXTAPIC, CR8 without privilege, OSVW, IBS, SKINIT, WDT, LWP, NODEID, PERFCTR, DBEXT, PERFTSC, MONITORX
    (
        0x8000_0001,
        0,
        2,
        &[2, 3, 4, 9, 10, 12, 13, 15, 19, 23, 24, 26, 27, 28, 29],
    ),
    // VME, PSE, MTRR, PGE, PSE36, FFXSR, PAGE1GB
    (0x8000_0001, 0, 3, &[1, 3, 12, 13, 17, 25, 26]),
    // WBNOINVD, IBPB and what follows
    (
        0x8000_0008,
        0,
        1,
        &[9, 12, 14, 15, 16, 17, 18, 23, 24, 25, 26],
    ),
];

#[test]
fn dangerous_features_stay_hidden_on_any_host() {
    for host in [rich, server as fn(u32, u32) -> CpuidResult] {
        let policy = CpuidPolicy::derive(&FACTS, host);
        for forced in [false, true] {
            for is_dom0 in [false, true] {
                let view = CpuidView {
                    forced,
                    is_dom0,
                    osxsave: true,
                    xcr0: !0,
                };
                for &(leaf, subleaf, register, bits) in NEVER {
                    let value = registers(policy.query(leaf, subleaf, view))[register];
                    for &bit in bits {
                        assert_eq!(
                            value & (1 << bit),
                            0,
                            "{leaf:#x}.{subleaf} {register} bit {bit}"
                        );
                    }
                }
                for leaf in [
                    3, 5, 6, 8, 9, 0xa, 0xb, 0xc, 0xe, 0xf, 0x10, 0x12, 0x14, 0x1f,
                ] {
                    assert_eq!(policy.query(leaf, 0, view), CpuidResult::default());
                }
                assert_eq!(policy.query(0x8000_000a, 0, view), CpuidResult::default());
                assert_eq!(policy.query(0x8000_001f, 0, view), CpuidResult::default());
            }
        }
    }
}

#[test]
fn what_linux_needs_is_there() {
    let policy = policy_of_server();
    let one = policy.query(1, 0, VIEW);
    assert_eq!(
        one.ecx & (1 << 31 | 1 << 13 | 1 << 26),
        1 << 31 | 1 << 13 | 1 << 26
    );
    assert_eq!(
        one.edx & (1 << 24 | 1 << 26 | 1 << 11),
        1 << 24 | 1 << 26 | 1 << 11
    );
    assert_eq!(one.ebx >> 24, 0, "APIC id");
    assert_eq!(policy.query(7, 0, VIEW).ebx & 1, 1, "FSGSBASE");
    let extended = policy.query(0x8000_0001, 0, VIEW).edx;
    for bit in [11, 20, 27, 29] {
        assert_ne!(extended & (1 << bit), 0, "bit {bit}");
    }
    assert!(policy.has_rdtscp());
    // 57 bits of linear address need LA57, which is hidden.
    assert_eq!(policy.query(0x8000_0008, 0, VIEW).eax, 0x302e);
    let owned = policy.owned_bits();
    assert_eq!(owned.cr4, cr4::TSD | cr4::DE | cr4::FSGSBASE | cr4::OSXSAVE);
    assert_eq!(owned.xcr0, 0xe7);
}

#[test]
fn osxsave_follows_cr4_but_the_forced_form_shows_it_at_once() {
    let policy = policy_of_server();
    let osxsave = |policy: &CpuidPolicy, forced, osxsave| {
        let view = CpuidView {
            forced,
            osxsave,
            ..VIEW
        };
        policy.query(1, 99, view).ecx & OSXSAVE != 0
    };
    assert!(!osxsave(&policy, false, false));
    assert!(osxsave(&policy, false, true));
    assert!(osxsave(&policy, true, false));
    let old = CpuidPolicy::derive(&FACTS, |leaf, subleaf| {
        let mut answer = server(leaf, subleaf);
        if leaf == 1 {
            answer.ecx &= !(1 << 26);
        }
        answer
    });
    assert!(!osxsave(&old, true, true));
    assert_eq!(old.query(1, 0, VIEW).ecx & (1 << 28 | 1 << 12 | 1 << 29), 0);
    assert_eq!(old.query(7, 0, VIEW).ebx & (1 << 5 | 1 << 16), 0);
    assert_eq!(old.query(0xd, 0, VIEW), CpuidResult::default());
    assert_eq!(old.owned_bits().cr4 & cr4::OSXSAVE, 0);
    assert_eq!(old.owned_bits().xcr0, 0);
}

#[test]
fn xsave_sizes() {
    let policy = policy_of_server();
    let standard = [(0x1, 576), (0x3, 576), (0x7, 832), (0xe7, 2688)];
    let compact = [(0x1, 576), (0x3, 576), (0x7, 832), (0xe7, 2432)];
    for ((xcr0, size), (_, compact)) in standard.into_iter().zip(compact) {
        let view = CpuidView { xcr0, ..VIEW };
        let main = policy.query(0xd, 0, view);
        assert_eq!(registers(main), [0xe7, size, 2688, 0]);
        assert_eq!(registers(policy.query(0xd, 1, view)), [7, compact, 0, 0]);
    }
    assert_eq!(registers(policy.query(0xd, 7, VIEW)), [1024, 1664, 0, 0]);
    for hidden in [3, 4, 8, 9, 17, 18, 62, 63] {
        assert_eq!(policy.query(0xd, hidden, VIEW), CpuidResult::default());
    }
}

#[test]
fn incomplete_avx512_is_not_offered() {
    let policy = CpuidPolicy::derive(&FACTS, |leaf, subleaf| {
        let mut answer = server(leaf, subleaf);
        if (leaf, subleaf) == (0xd, 0) {
            answer.eax = 0x67;
        }
        answer
    });
    assert_eq!(policy.owned_bits().xcr0, xcr0::X87 | xcr0::SSE | xcr0::AVX);
    assert_eq!(policy.query(7, 0, VIEW).ebx & (1 << 16 | 1 << 5), 1 << 5);
    assert_eq!(policy.query(7, 1, VIEW).eax & (1 << 4 | 1 << 5), 1 << 4);
    assert_eq!(registers(policy.query(0xd, 5, VIEW)), [0; 4]);
}

#[test]
fn leaves_of_the_hypervisor() {
    let policy = policy_of_server();
    let ask = |leaf, subleaf| registers(policy.query(leaf, subleaf, VIEW));
    let name: Vec<u8> = ask(0x4000_0000, 0)[1..]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    assert_eq!(name, b"XenVMMXenVMM");
    assert_eq!(ask(0x4000_0000, 7)[0], 0x4000_0005);
    assert_eq!(ask(0x4000_0001, 0), [0x0004_0011, 0, 0, 0]);
    assert_eq!(ask(0x4000_0002, 0), [1, 0x4000_0000, 1, 0]);
    assert_eq!(ask(0x4000_0003, 0), [0b110, 0, 2_300_000, 0]);
    assert_eq!(ask(0x4000_0003, 2), [2_300_000, 0, 0, 0]);
    assert_eq!(ask(0x4000_0003, 3), [0; 4]);
    assert_eq!(ask(0x4000_0004, 0), [0; 4]);
    // 5 GiB: 33 bits.
    assert_eq!(ask(0x4000_0005, 0), [0, 33, 0, 0]);
    assert_eq!(ask(0x4000_0005, 1), [0; 4]);
    for leaf in 0x4000_0006..0x4001_0000 {
        assert_eq!(ask(leaf, 0), [0; 4], "{leaf:#x}");
    }
    // The host's own hypervisor must not shine through.
    let nested = CpuidPolicy::derive(&FACTS, |_, _| ALL_ONES);
    assert_eq!(
        registers(nested.query(0x4000_0001, 0, VIEW)),
        [0x0004_0011, 0, 0, 0]
    );
    assert_eq!(registers(nested.query(0x4000_0004, 0, VIEW)), [0; 4]);
}

#[test]
fn tsc_factors_give_nanoseconds() {
    for khz in [1, 999, 1_000_000, 2_300_000, 3_999_999, u32::MAX] {
        let (multiplier, shift) = tsc_to_ns(khz);
        assert!(multiplier >= 1 << 31);
        let ticks = u128::from(khz) * 1000 * 100;
        let shifted = if shift < 0 {
            ticks >> -shift
        } else {
            ticks << shift
        };
        let ns = (shifted * u128::from(multiplier)) >> 32;
        let expected = 100_000_000_000u128;
        assert!(ns.abs_diff(expected) < 10_000, "{khz} kHz: {ns}");
    }
    assert_eq!(tsc_to_ns(0), (0, 0));
}

#[test]
fn invariant_tsc_is_for_dom0() {
    let policy = policy_of_server();
    let dom0 = CpuidView {
        is_dom0: true,
        ..VIEW
    };
    assert_eq!(
        registers(policy.query(0x8000_0007, 0, dom0)),
        [0, 0, 0, 1 << 8]
    );
    assert_eq!(registers(policy.query(0x8000_0007, 0, VIEW)), [0; 4]);
}

#[test]
fn sweep_of_all_leaves() {
    let hosts: [fn(u32, u32) -> CpuidResult; 4] = [
        server,
        rich,
        |_, _| CpuidResult::default(),
        |leaf, subleaf| {
            let mix = |salt: u32| (leaf ^ subleaf.rotate_left(9) ^ salt).wrapping_mul(0x9e37_79b9);
            CpuidResult {
                eax: mix(1),
                ebx: mix(2),
                ecx: mix(3),
                edx: mix(4),
            }
        },
    ];
    for host in hosts {
        let policy = CpuidPolicy::derive(&FACTS, host);
        let listed = |leaf, subleaf| {
            TABLE.iter().any(|row| {
                row.leaf == leaf
                    && match row.subleaves {
                        Subleaves::Ignored => true,
                        Subleaves::One(one) => subleaf == one,
                        Subleaves::Range(first, last) => (first..=last).contains(&subleaf),
                    }
            })
        };
        let leaves = (0..0x100)
            .chain(0x4000_0000..0x4000_0100)
            .chain(0x8000_0000..0x8000_0100);
        for leaf in leaves.chain([0x2000_0000, 0x8086_0000, 0xc000_0000, u32::MAX]) {
            for subleaf in (0..70).chain([255, 256, u32::MAX]) {
                for xcr0 in [0, 1, 3, 7, 0xe7, u64::MAX] {
                    let view = CpuidView {
                        forced: false,
                        is_dom0: true,
                        osxsave: true,
                        xcr0,
                    };
                    let result = policy.query(leaf, subleaf, view);
                    if !listed(leaf, subleaf) {
                        assert_eq!(result, CpuidResult::default(), "{leaf:#x}.{subleaf}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_page_lists_every_row() {
    let mut page = String::new();
    markdown(&mut page).unwrap();
    assert_eq!(
        page.lines().filter(|line| line.starts_with("| 0x")).count(),
        TABLE.len()
    );
    for name in ["FSGSBASE", "XenVMMXenVMM", "AVX512F", "3DNOW"] {
        assert!(page.contains(name));
    }
}

proptest! {
    #[test]
    fn never_more_than_the_host_has(seed: u64, leaf in prop::sample::select(&[1u32, 7, 0x8000_0001][..])) {
        let host = |leaf: u32, subleaf: u32| {
            let mix = |salt: u64| {
                let x = (seed ^ (u64::from(leaf) << 32 | u64::from(subleaf)) ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (x >> 29) as u32
            };
            match leaf {
                0 => CpuidResult { eax: 0x20, ..server(0, 0) },
                0x8000_0000 => CpuidResult { eax: 0x8000_0021, ..server(0, 0) },
                _ => CpuidResult { eax: mix(1), ebx: mix(2), ecx: mix(3), edx: mix(4) },
            }
        };
        let policy = CpuidPolicy::derive(&FACTS, host);
        let ours = policy.query(leaf, 0, VIEW);
        let theirs = host(leaf, 0);
        let always = if leaf == 1 { 1 << 31 } else { 0 };
        if leaf != 7 {
            prop_assert_eq!(ours.eax, theirs.eax);
        }
        prop_assert_eq!(ours.ebx & !theirs.ebx, 0);
        prop_assert_eq!(ours.ecx & !(theirs.ecx | always), 0);
        prop_assert_eq!(ours.edx & !theirs.edx, 0);
    }
}
