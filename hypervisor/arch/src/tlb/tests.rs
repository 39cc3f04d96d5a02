use std::collections::BTreeSet;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

fn tlb(cpus: usize) -> Tlb<Vec<CpuTlb>> {
    Tlb::new((0..cpus).map(|_| CpuTlb::new()).collect())
}

fn set(cpus: &[u32]) -> CpuSet {
    cpus.iter().copied().map(CpuId::new).collect()
}

const ME: CpuId = CpuId::new(0);
const OTHER: CpuId = CpuId::new(1);

#[test]
fn who_flushed_behind_a_stamp_is_not_stale() {
    let tlb = tlb(3);
    tlb.remember_again(ME);
    tlb.remember_again(OTHER);
    let first = tlb.stamp();
    assert_eq!(tlb.stale_since(first), set(&[0, 1]), "CPU 2 holds nothing");
    tlb.flush_all(OTHER, || ());
    assert_eq!(tlb.stale_since(first), set(&[0]));
    let second = tlb.stamp();
    assert!(second > first);
    assert_eq!(tlb.stale_since(second), set(&[0, 1]));
    tlb.flush_all(ME, || ());
    assert_eq!(tlb.stale_since(first), CpuSet::EMPTY);
    assert_eq!(tlb.stale_since(second), set(&[1]));
    assert_eq!(tlb.stale_since(TlbStamp::NEVER), CpuSet::EMPTY);
}

#[test]
fn who_holds_nothing_is_never_stale() {
    let tlb = tlb(1);
    let before = tlb.stamp();
    assert_eq!(tlb.stale_since(before), CpuSet::EMPTY);
    tlb.flush_all(ME, || ());
    assert_eq!(tlb.stale_since(tlb.stamp()), CpuSet::EMPTY);
    tlb.remember_again(ME);
    assert_eq!(tlb.stale_since(before), CpuSet::EMPTY, "removed before");
    assert_eq!(tlb.stale_since(tlb.stamp()), set(&[0]));
    tlb.remember_again(ME);
    let stamp = tlb.stamp();
    tlb.forget_everything(ME);
    assert_eq!(tlb.stale_since(stamp), CpuSet::EMPTY);
    assert_eq!(tlb.stale_since(TlbStamp::LAST), CpuSet::EMPTY);
}

#[test]
fn a_clock_beyond_the_bits_of_a_stamp_flushes_always() {
    let tlb = tlb(2);
    tlb.remember_again(ME);
    let early = tlb.stamp();
    tlb.clock
        .store(TlbStamp::LAST.bits() - 1, Ordering::Relaxed);
    for _ in 0..4 {
        tlb.flush_all(ME, || ());
        assert_eq!(tlb.stale_since(early), CpuSet::EMPTY);
        let stamp = tlb.stamp();
        tlb.flush_all(ME, || ());
        assert_eq!(stamp, TlbStamp::LAST);
        assert_eq!(tlb.stale_since(stamp), set(&[0]), "not known, so yes");
    }
    assert_eq!(TlbStamp::from_bits(u64::MAX), TlbStamp::LAST);
    assert_eq!(TlbStamp::from_bits(5).bits(), 5);
    assert!(TlbStamp::LAST.bits() < 1 << TlbStamp::BITS);
}

/// What CPU 1 does after these were posted to it, in one go.
fn served(posted: &[Flush]) -> Option<Flush> {
    let tlb = tlb(2);
    tlb.remember_again(OTHER);
    let mailbox = tlb.get(OTHER).unwrap();
    posted.iter().for_each(|what| mailbox.post(*what));
    let mut done = None;
    tlb.serve(OTHER, |what| done = Some(what));
    tlb.serve(OTHER, |_| panic!("that was all"));
    assert_eq!(mailbox.served.load(Ordering::Relaxed), posted.len() as u64);
    done
}

#[test]
fn requests_of_several_senders_become_one() {
    let page = |at| Flush::Page(GuestAddr::new(at));
    assert_eq!(served(&[]), None);
    assert_eq!(served(&[Flush::All]), Some(Flush::All));
    assert_eq!(served(&[page(0x7123)]), Some(page(0x7000)));
    assert_eq!(served(&[page(0)]), Some(page(0)));
    assert_eq!(served(&[page(u64::MAX)]), Some(page(0xffff_ffff_ffff_f000)));
    assert_eq!(served(&[page(0x7123), page(0x7fff)]), Some(page(0x7000)));
    assert_eq!(served(&[page(0x7123), page(0x8000)]), Some(Flush::All));
    assert_eq!(served(&[page(0x7123), Flush::All]), Some(Flush::All));
    assert_eq!(served(&[Flush::All, page(0x7123)]), Some(Flush::All));
}

#[test]
fn a_shootdown_reaches_those_who_hold_something() {
    let tlb = tlb(4);
    for id in [0, 1, 3] {
        tlb.remember_again(CpuId::new(id));
    }
    let (mut interrupted, mut own) = (Vec::new(), Vec::new());
    tlb.shoot(
        ME,
        &set(&[0, 1, 2, 3, 9]),
        Flush::All,
        |id| {
            interrupted.push(id.get());
            tlb.serve(id, |what| assert_eq!(what, Flush::All));
        },
        |what| own.push(what),
        || (),
    );
    assert_eq!(
        (interrupted, own),
        (Vec::from([1, 3]), Vec::from([Flush::All]))
    );
}

#[test]
fn two_that_wait_for_each_other_both_go_on() {
    let rounds = if cfg!(miri) { 5 } else { 200 };
    let tlb = tlb(3);
    (0..3).for_each(|id| tlb.remember_again(CpuId::new(id)));
    let left = AtomicU64::new(3);
    std::thread::scope(|scope| {
        for id in 0..3 {
            let (tlb, left) = (&tlb, &left);
            scope.spawn(move || {
                let me = CpuId::new(id);
                let serve = || tlb.serve(me, |_| tlb.flush_all(me, || ()));
                for _ in 0..rounds {
                    let stamp = tlb.stamp();
                    let stale = tlb.stale_since(stamp);
                    let flush = |_| tlb.flush_all(me, || ());
                    tlb.shoot(
                        me,
                        &stale,
                        Flush::All,
                        |_| (),
                        flush,
                        || {
                            serve();
                            std::thread::yield_now();
                        },
                    );
                    assert_eq!(tlb.stale_since(stamp), CpuSet::EMPTY);
                }
                left.fetch_sub(1, Ordering::Relaxed);
                while left.load(Ordering::Relaxed) > 0 {
                    serve();
                    std::thread::yield_now();
                }
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_set_of_cpus_is_a_set(
        steps in prop::collection::vec((any::<bool>(), 0..300_u32), 0..60),
        others in prop::collection::vec(0..256_u32, 0..20),
    ) {
        let (mut cpus, mut model) = (CpuSet::EMPTY, BTreeSet::new());
        for (is_in, number) in steps {
            if is_in {
                cpus.insert(CpuId::new(number));
                model.extend((number < CpuSet::CAPACITY).then_some(number));
            } else {
                cpus.remove(CpuId::new(number));
                model.remove(&number);
            }
        }
        prop_assert!(cpus.iter().map(CpuId::get).eq(model.iter().copied()));
        prop_assert_eq!(cpus.is_empty(), model.is_empty());
        for number in 0..300 {
            prop_assert_eq!(cpus.contains(CpuId::new(number)), model.contains(&number));
        }
        for from in [0, 63, 64, 100, 255, 300] {
            let next = model.range(from..).chain(&model).next();
            let first = cpus.first_from(CpuId::new(from));
            prop_assert_eq!(first.map(CpuId::get), next.copied());
        }
        prop_assert_eq!(CpuSet::from_words(*cpus.words()), cpus);
        let common = cpus.intersection(&set(&others));
        let wanted = others.iter().copied().filter(|cpu| model.contains(cpu));
        prop_assert_eq!(common, wanted.map(CpuId::new).collect());
        let both = cpus.union(&set(&others));
        model.extend(others);
        prop_assert!(both.iter().map(CpuId::get).eq(model));
        prop_assert_eq!(CpuSet::one(OTHER), set(&[1]));
    }
}

#[test]
fn cpus_of_a_set_come_in_their_order() {
    for cpus in [&[][..], &[0], &[5, 63, 64, 200, 255], &[254, 255], &[128]] {
        let set = set(cpus);
        let listed: Vec<u32> = set.iter().map(CpuId::get).collect();
        assert_eq!(listed, cpus);
        assert_eq!(set.first().map(CpuId::get), cpus.first().copied());
        for from in [
            0,
            5,
            6,
            63,
            64,
            65,
            127,
            128,
            199,
            200,
            201,
            255,
            256,
            u32::MAX,
        ] {
            let next = cpus.iter().find(|&&cpu| cpu >= from).or(cpus.first());
            let first = set.first_from(CpuId::new(from));
            assert_eq!(first.map(CpuId::get), next.copied(), "{cpus:?} from {from}");
        }
    }
}
