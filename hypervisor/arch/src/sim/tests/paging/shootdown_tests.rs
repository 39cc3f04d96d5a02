//! Stamps, flushes of other CPUs, PCIDs, and roots without a guest.

use super::*;
use crate::tlb::{CpuSet, Flush, Pcid, TlbMode, TlbStamp};

const HERE: u64 = 0x40_0000_5000;

fn set(cpus: &[u32]) -> CpuSet {
    cpus.iter().copied().map(CpuId::new).collect()
}

fn pcid(number: u8) -> Pcid {
    Pcid::new(number).unwrap()
}

/// Whether a CPU can reach the frame without asking memory.
fn holds(bench: &Bench, cpu: u32, mfn: Mfn) -> bool {
    let cached = bench.machine.cached_frames(CpuId::new(cpu));
    cached.iter().any(|cached| cached.frames.contains(mfn))
}

/// Several CPUs that have used the same page, which is unmapped since.
struct Removed {
    bench: Bench,
    root: Mfn,
    page: Mfn,
    stamp: TlbStamp,
}

fn removed(seed: u64, cpus: &[Cpu], mut bench: Bench) -> Removed {
    let (root, page) = (bench.frame(), bench.page(seed));
    let slot = bench.map(root, HERE, page, FULL | GLOBAL);
    for cpu in cpus {
        cpu.load_root(root);
        assert_eq!(read(cpu, HERE), Some(seed));
    }
    bench.machine.mem().store_u64(slot, 0).unwrap();
    let stamp = bench.machine.tlb_stamp();
    Removed {
        bench,
        root,
        page,
        stamp,
    }
}

fn cpus(bench: &Bench, count: u32) -> Vec<Cpu> {
    (0..count)
        .map(|id| bench.machine.cpu(CpuId::new(id)))
        .collect()
}

#[test]
fn only_who_may_hold_it_is_flushed() {
    let bench = Bench::new(3, 4);
    let cpus = cpus(&bench, 4);
    let Removed {
        bench, page, stamp, ..
    } = removed(3, &cpus[..3], bench);
    assert_eq!(bench.machine.stale_cpus(stamp), set(&[0, 1, 2]));
    cpus[1].flush_tlb();
    assert_eq!(bench.machine.stale_cpus(stamp), set(&[0, 2]));
    assert!(holds(&bench, 0, page) && !holds(&bench, 1, page) && holds(&bench, 2, page));
    let flushes = |id: usize| cpus[id].registers().full_flushes;
    let before = [0, 1, 2, 3].map(flushes);
    bench.machine.flush_stale(&cpus[0], stamp);
    let done: Vec<_> = [0, 1, 2, 3]
        .map(flushes)
        .iter()
        .zip(before)
        .map(|(now, before)| now - before)
        .collect();
    assert_eq!(done, [1, 0, 1, 0]);
    assert!((0..4).all(|id| !holds(&bench, id, page)));
    assert_eq!(bench.machine.stale_cpus(stamp), CpuSet::EMPTY);
    bench.machine.flush_stale(&cpus[0], stamp);
    assert_eq!(
        [0, 1, 2, 3].map(flushes)[0],
        before[0] + 1,
        "and never again"
    );
    assert!(cpus.iter().all(|cpu| read(cpu, HERE).is_none()));
}

#[test]
fn a_page_is_flushed_where_it_is_asked_for() {
    let bench = Bench::new(3, 3);
    let cpus = cpus(&bench, 3);
    let Removed { bench, page, .. } = removed(3, &cpus, bench);
    let here = Flush::Page(GuestAddr::new(HERE + 5));
    let there = Flush::Page(GuestAddr::new(HERE + 0x1000));
    bench.machine.flush_cpus(&cpus[0], &set(&[0, 1, 2]), there);
    assert!((0..3).all(|id| holds(&bench, id, page)));
    bench.machine.flush_cpus(&cpus[0], &set(&[0, 2]), here);
    assert_eq!(
        [0, 1, 2].map(|id| holds(&bench, id, page)),
        [false, true, false]
    );
    assert!(cpus.iter().all(|cpu| cpu.registers().full_flushes == 0));
    bench.machine.flush_cpus(&cpus[0], &set(&[1]), Flush::All);
    assert!(!holds(&bench, 1, page));
}

#[test]
fn without_a_guest_root_nothing_is_held() {
    let bench = Bench::new(3, 2);
    let cpus = cpus(&bench, 2);
    let Removed {
        bench,
        page,
        root,
        stamp,
    } = removed(3, &cpus, bench);
    cpus[1].load_idle_root();
    assert!(!holds(&bench, 1, page));
    assert_eq!(read(&cpus[1], HERE), None);
    bench.machine.agitate();
    assert_eq!(bench.machine.cached_frames(CpuId::new(1)), []);
    let now = bench.machine.tlb_stamp();
    assert_eq!(bench.machine.stale_cpus(now), set(&[0]));
    let flushes = cpus[1].registers().full_flushes;
    bench
        .machine
        .flush_cpus(&cpus[0], &set(&[0, 1]), Flush::All);
    assert_eq!(cpus[1].registers().full_flushes, flushes, "left alone");
    cpus[1].load_root(root);
    assert_eq!(bench.machine.stale_cpus(stamp), CpuSet::EMPTY);
    assert_eq!(
        bench.machine.stale_cpus(bench.machine.tlb_stamp()),
        set(&[0, 1])
    );
}

/// A machine with PCIDs, with `INVPCID` or without.
fn with_pcids(has_invpcid: bool) -> Bench {
    let mut config = SimConfig {
        cpus: 2,
        pcid: true,
        ..SimConfig::new(4 * MIB)
    };
    if !has_invpcid {
        config.cpuid.get_mut(&(7, 0)).unwrap().ebx &= !(1 << 10);
    }
    Bench::of(config)
}

#[test]
fn a_page_is_dropped_from_every_address_space() {
    for has_invpcid in [true, false] {
        let mut bench = with_pcids(has_invpcid);
        assert_eq!(bench.machine.tlb_mode(), TlbMode::Pcid);
        let (root, page) = (bench.frame(), bench.page(1));
        let slot = bench.map(root, HERE, page, FULL);
        let cpu = bench.cpu();
        for number in [1, 2, 63] {
            cpu.load_root_pcid(root, pcid(number), true);
            assert_eq!(read(&cpu, HERE), Some(1));
        }
        bench.machine.mem().store_u64(slot, 0).unwrap();
        cpu.load_root_pcid(root, pcid(2), true);
        assert_eq!(cpu.flush_page(GuestAddr::new(HERE)), 3, "each has its own");
        assert!(!holds(&bench, 0, page));
        let is_full = cpu.registers().full_flushes > 0;
        assert_eq!(is_full, !has_invpcid);
        for number in [1, 2, 63] {
            cpu.load_root_pcid(root, pcid(number), true);
            assert_eq!(read(&cpu, HERE), None);
        }
    }
}

#[test]
fn one_address_space_is_dropped_alone() {
    for has_invpcid in [true, false] {
        let mut bench = with_pcids(has_invpcid);
        let roots = [bench.frame(), bench.frame()];
        let pages = [bench.page(1), bench.page(2)];
        let cpu = bench.cpu();
        for (n, number) in [(0, 7), (1, 8)] {
            bench.map(roots[n], HERE, pages[n], FULL);
            cpu.load_root_pcid(roots[n], pcid(number), false);
            assert!(read(&cpu, HERE).is_some());
        }
        cpu.flush_pcid(pcid(9));
        assert!(holds(&bench, 0, pages[0]) && holds(&bench, 0, pages[1]));
        cpu.flush_pcid(pcid(7));
        assert!(!holds(&bench, 0, pages[0]));
        // A full flush drops the other too, but the CPU may have filled it again.
        assert!(holds(&bench, 0, pages[1]) || !has_invpcid);
        // A PCID that gets another root is flushed by its load.
        cpu.load_root_pcid(roots[0], pcid(8), false);
        assert_eq!(read(&cpu, HERE), Some(1));
    }
}

#[test]
fn a_full_flush_drops_every_address_space() {
    let mut bench = with_pcids(true);
    let (root, page) = (bench.frame(), bench.page(1));
    bench.map(root, HERE, page, FULL);
    let cpus = cpus(&bench, 2);
    for cpu in &cpus {
        for number in 0..4 {
            cpu.load_root_pcid(root, pcid(number), true);
            assert_eq!(read(cpu, HERE), Some(1));
        }
    }
    let slot = Bench::slot(bench.table(root, 1, HERE), 1, HERE);
    bench.machine.mem().store_u64(slot, 0).unwrap();
    let stamp = bench.machine.tlb_stamp();
    bench.machine.flush_stale(&cpus[1], stamp);
    assert!((0..2).all(|id| !holds(&bench, id, page)));
}

#[test]
fn pcids_are_used_only_where_they_are() {
    let mut config = SimConfig {
        pcid: true,
        ..SimConfig::new(4 * MIB)
    };
    config.cpuid.get_mut(&(1, 0)).unwrap().ecx &= !(1 << 17);
    let mut bench = Bench::of(config);
    assert_eq!(bench.machine.tlb_mode(), TlbMode::Global);
    let (root, page) = (bench.frame(), bench.page(1));
    let slot = bench.map(root, HERE, page, FULL);
    let cpu = bench.cpu();
    cpu.load_root(root);
    assert_eq!(read(&cpu, HERE), Some(1));
    bench.machine.mem().store_u64(slot, 0).unwrap();
    cpu.load_root_pcid(root, pcid(1), true);
    assert_eq!(read(&cpu, HERE), None, "nothing is kept");
}

#[test]
#[should_panic(expected = "is global while PCIDs are in use")]
fn a_global_entry_beside_pcids_is_a_broken_invariant() {
    let mut bench = with_pcids(true);
    let (root, page) = (bench.frame(), bench.page(1));
    bench.map(root, HERE, page, FULL | GLOBAL);
    let cpu = bench.cpu();
    cpu.load_root(root);
    read(&cpu, HERE);
}

/// A machine on whose twins guests run.
fn with_twins() -> Bench {
    Bench::of(SimConfig {
        xpti: Some(true),
        ..SimConfig::new(4 * MIB)
    })
}

/// A root's twin as it should be.
fn twin(bench: &mut Bench, root: Mfn) -> Mfn {
    let twin = bench.frame();
    let mem = bench.machine.mem();
    mem.copy_frame(root, twin).unwrap();
    for slot in 256..=271 {
        let entry = bench.machine.twin_entry(slot).unwrap();
        mem.store_u64(twin.at(slot * 8), entry).unwrap();
    }
    twin
}

#[test]
fn a_twin_shows_little_of_the_hypervisor() {
    let bench = with_twins();
    assert!(bench.machine.uses_twins());
    assert_eq!(bench.machine.twin_entry(255), None);
    assert_eq!(bench.machine.twin_entry(272), None);
    for slot in 256..=271 {
        let (full, twin) = (
            bench.machine.root_entry(slot),
            bench.machine.twin_entry(slot),
        );
        match slot {
            256 | 259 => assert_eq!(twin, full),
            257 => assert!(twin != full && twin != Some(0)),
            _ => assert_eq!(twin, Some(0)),
        }
    }
    let without = Bench::new(1, 1);
    assert!(!without.machine.uses_twins() && without.machine.twin_entry(256).is_none());
    let as_needed = |leaks_supervisor| {
        let mut config = SimConfig::new(4 * MIB);
        let facts = config.paging_facts();
        config.pcid = true;
        config.xpti = None;
        config.paging = Some(crate::PagingFacts {
            leaks_supervisor,
            ..facts
        });
        let machine = Bench::of(config).machine;
        (machine.uses_twins(), machine.tlb_mode())
    };
    assert_eq!(as_needed(true), (true, TlbMode::Global));
    assert_eq!(as_needed(false), (false, TlbMode::Pcid));
}

#[test]
fn a_twin_that_was_forgotten_is_walked() {
    let mut filled = 0;
    for seed in 0..64 {
        let mut bench = Bench::of(SimConfig {
            seed,
            xpti: Some(true),
            ..SimConfig::new(4 * MIB)
        });
        let (root, page) = (bench.frame(), bench.page(1));
        bench.map(root, HERE, page, FULL);
        let twin = twin(&mut bench, root);
        let cpu = bench.cpu();
        cpu.load_roots(root, twin);
        assert_eq!(read(&cpu, HERE), Some(1));
        // The root's entry goes, the twin's stays.
        let slot = Bench::slot(root, 4, HERE);
        bench.machine.mem().store_u64(slot, 0).unwrap();
        let stamp = bench.machine.tlb_stamp();
        bench.machine.flush_stale(&cpu, stamp);
        bench.machine.agitate();
        filled += u32::from(holds(&bench, 0, page));
        // Another root ends the use of the twin.
        cpu.load_root(root);
        cpu.flush_tlb();
        bench.machine.agitate();
        assert!(!holds(&bench, 0, page));
    }
    assert!(filled > 0);
}

#[test]
#[should_panic(expected = "slot 262 of twin")]
fn a_twin_with_the_direct_map_is_a_broken_invariant() {
    let mut bench = with_twins();
    let root = bench.frame();
    let twin = twin(&mut bench, root);
    let entry = bench.machine.root_entry(262).unwrap();
    bench
        .machine
        .mem()
        .store_u64(twin.at(262 * 8), entry)
        .unwrap();
    bench.cpu().load_roots(root, twin);
}

/// Frees and uses one page again and again, on several threads, as `core` does: unmap, stamp, flush who is stale, look.
#[test]
fn what_was_flushed_is_nowhere() {
    const CPUS: u32 = 3;
    let mut bench = Bench::new(5, CPUS);
    let roots: Vec<_> = (0..CPUS).map(|_| bench.frame()).collect();
    let pages: Vec<_> = (0..CPUS).map(|id| bench.page(id.into())).collect();
    // Every root maps every page, each at its own address.
    let at = |id: usize| HERE + id as u64 * 0x1000;
    let slots: Vec<Vec<_>> = (0..pages.len())
        .map(|id| {
            let roots = roots.iter().copied();
            roots
                .map(|root| bench.map(root, at(id), pages[id], 0))
                .collect()
        })
        .collect();
    let bench = &bench;
    std::thread::scope(|scope| {
        for id in 0..CPUS as usize {
            let (slots, roots, pages) = (&slots, &roots, &pages);
            scope.spawn(move || {
                let machine = &bench.machine;
                let cpu = machine.cpu(CpuId::new(id as u32));
                for round in 0..100 {
                    match round % 7 {
                        3 => cpu.load_idle_root(),
                        5 => cpu.flush_tlb(),
                        _ => cpu.load_root(roots[(id + round) % roots.len()]),
                    }
                    slots[id]
                        .iter()
                        .for_each(|slot| bench.set(*slot, pages[id], FULL));
                    (0..pages.len()).for_each(|page| _ = read(&cpu, at(page)));
                    machine.agitate();
                    let mem = machine.mem();
                    slots[id]
                        .iter()
                        .for_each(|slot| mem.store_u64(*slot, 0).unwrap());
                    let stamp = machine.tlb_stamp();
                    if round % 2 == 0 {
                        machine.flush_stale(&cpu, stamp);
                        assert_eq!(machine.stale_cpus(stamp), CpuSet::EMPTY);
                    }
                    let stale = machine.stale_cpus(stamp);
                    for other in (0..CPUS).filter(|other| !stale.contains(CpuId::new(*other))) {
                        assert!(!holds(bench, other, pages[id]), "CPU {other}");
                    }
                }
            });
        }
    });
}
