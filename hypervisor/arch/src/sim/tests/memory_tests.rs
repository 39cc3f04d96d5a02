use std::sync::Arc;
use std::vec;

use proptest::prelude::*;

use super::*;
use crate::memory::{BadFrame, FrameBox, FrameBuf};
use dom0_abi::addr::Pfn;

/// The frames 0x100 to 0x3ff are free RAM.
fn machine() -> Machine {
    Machine::new(SimConfig::new(4 * MIB)).0
}

fn at(mfn: u64, offset: usize) -> Maddr {
    Mfn::new(mfn).at(offset)
}

#[test]
fn only_ram_is_reached_and_no_access_crosses() {
    let machine = machine();
    let mem = machine.mem();
    assert_eq!(mem.load_u8(at(0x9f, 0)), Err(BadFrame), "firmware's");
    assert_eq!(mem.load_u8(at(0xb8, 0)), Err(BadFrame), "a hole");
    assert_eq!(mem.load_u8(at(0x400, 0)), Err(BadFrame), "behind the end");
    assert_eq!(mem.zero_frame(Mfn::new(u64::MAX)), Err(BadFrame));
    assert_eq!(mem.write_bytes(at(0x100, 0xfff), &[1, 2]), Err(BadFrame));
    assert_eq!(mem.read::<[u8; 4097]>(at(0x100, 0)), Err(BadFrame));
    assert_eq!(mem.load_u32(at(0x100, 2)), Err(BadFrame), "not aligned");
    assert_eq!(
        mem.compare_exchange_u64(at(0x100, 4), 0, 0),
        Err(BadFrame),
        "not aligned"
    );
    assert_eq!(
        mem.copy_frame(Mfn::new(0x100), Mfn::new(0xb8)),
        Err(BadFrame)
    );
    assert_eq!(
        mem.copy_frame(Mfn::new(0xb8), Mfn::new(0x100)),
        Err(BadFrame)
    );
    let untouched: [u8; 4096] = mem.read(at(0x100, 0)).unwrap();
    assert!(
        untouched.iter().all(|byte| *byte != 0),
        "memory that nobody wrote is not zero"
    );
}

#[test]
fn words_change_at_once() {
    let machine = machine();
    let mem = machine.mem();
    mem.store_u64(at(0x100, 8), 0x1111_2222_3333_4444).unwrap();
    mem.store_u16(at(0x100, 10), 0xaaaa).unwrap();
    assert_eq!(mem.load_u32(at(0x100, 8)), Ok(0xaaaa_4444));
    assert_eq!(
        mem.swap_u64(at(0x100, 8), 0b1100),
        Ok(0x1111_2222_aaaa_4444)
    );
    assert_eq!(mem.fetch_or_u64(at(0x100, 8), 0b0011), Ok(0b1100));
    assert_eq!(mem.fetch_and_u64(at(0x100, 8), 0b0110), Ok(0b1111));
    assert_eq!(
        mem.compare_exchange_u64(at(0x100, 8), 1, 2),
        Ok(Err(0b0110))
    );
    assert_eq!(
        mem.compare_exchange_u64(at(0x100, 8), 0b0110, 2),
        Ok(Ok(0b0110))
    );
    assert_eq!(mem.load_u8(at(0x100, 8)), Ok(2));
    mem.copy_frame(Mfn::new(0x100), Mfn::new(0x101)).unwrap();
    assert_eq!(mem.read::<[u32; 2]>(at(0x101, 8)), Ok([2, 0]));
}

#[test]
fn halves_of_words_change_at_once_and_alone() {
    let machine = machine();
    let mem = machine.mem();
    let whole = 0x1111_2222_3333_4444;
    mem.store_u64(at(0x100, 8), whole).unwrap();
    assert_eq!(mem.fetch_or_u32(at(0x100, 12), 0xf), Ok(0x1111_2222));
    assert_eq!(mem.fetch_and_u32(at(0x100, 12), 0xff), Ok(0x1111_222f));
    assert_eq!(mem.fetch_and_u32(at(0x100, 8), 0xff), Ok(0x3333_4444));
    assert_eq!(mem.load_u64(at(0x100, 8)), Ok(0x2f_0000_0044));
    let exchange = |offset, old, new| mem.compare_exchange_u32(at(0x100, offset), old, new);
    assert_eq!(exchange(12, 0x2e, 1), Ok(Err(0x2f)));
    assert_eq!(exchange(12, 0x2f, u32::MAX), Ok(Ok(0x2f)));
    assert_eq!(exchange(8, 0x44, 7), Ok(Ok(0x44)));
    assert_eq!(mem.load_u64(at(0x100, 8)), Ok(0xffff_ffff_0000_0007));
    assert_eq!(mem.fetch_or_u32(at(0x100, 10), 1), Err(BadFrame));
}

#[test]
fn neighbours_in_a_word_do_not_disturb_each_other() {
    let machine = machine();
    let mem = machine.mem();
    mem.zero_frame(Mfn::new(0x100)).unwrap();
    let rounds = if cfg!(miri) { 10 } else { 250 };
    std::thread::scope(|scope| {
        for byte in 0..8 {
            scope.spawn(move || {
                for value in 1..=rounds {
                    mem.store_u8(at(0x100, byte), value).unwrap();
                    mem.write_bytes(at(0x100, byte), &[value]).unwrap();
                    assert_eq!(mem.load_u8(at(0x100, byte)), Ok(value));
                }
            });
        }
    });
    assert_eq!(
        mem.load_u64(at(0x100, 0)),
        Ok(u64::from_le_bytes([rounds; 8]))
    );
}

#[test]
fn an_object_keeps_everybody_out_of_its_frames() {
    let machine = machine();
    let mem = machine.mem();
    let value = Arc::new(7);
    let boxed = FrameBox::new(mem, range(0x110, 0x112), (value.clone(), [0u8; 5000]))
        .ok()
        .unwrap();
    assert_eq!(*boxed.0, 7);
    assert_eq!(mem.load_u8(at(0x110, 0)), Err(BadFrame));
    assert_eq!(mem.load_u8(at(0x111, 4095)), Err(BadFrame));
    assert!(mem.load_u8(at(0x112, 0)).is_ok());
    assert!(
        FrameBox::new(mem, range(0x111, 0x113), 0u8).is_err(),
        "one frame is taken"
    );
    assert!(
        mem.load_u8(at(0x112, 0)).is_ok(),
        "the other one stays ordinary"
    );
    assert!(FrameBuf::new(mem, range(0x10f, 0x111)).is_none());
    assert_eq!(boxed.into_frames(), range(0x110, 0x112));
    assert_eq!(Arc::strong_count(&value), 1, "the value is dropped");
    assert_eq!(mem.read::<[u64; 512]>(at(0x111, 0)), Ok([0; 512]));

    assert_eq!(
        FrameBox::new(mem, range(0x110, 0x111), [0u8; 4097]).err(),
        Some([0u8; 4097]),
        "too few"
    );
    assert!(
        FrameBox::new(mem, range(0xb8, 0xb9), 0u8).is_err(),
        "no RAM"
    );
    let mut buffer = FrameBuf::new(mem, range(0x110, 0x112)).unwrap();
    buffer[8191] = 1;
    assert_eq!(
        (buffer.len(), mem.load_u8(at(0x111, 0))),
        (8192, Err(BadFrame))
    );
    drop(buffer);
    assert_eq!(mem.load_u64(at(0x111, 4088)), Ok(0));
}

#[test]
fn one_of_many_gets_the_frame() {
    let machine = machine();
    let rounds = if cfg!(miri) { 3 } else { 50 };
    // The bits of the two frames are in different words.
    for _ in 0..rounds {
        let won: Vec<_> = std::thread::scope(|scope| {
            let take = || FrameBuf::new(machine.mem(), range(0x13f, 0x141));
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(take)).collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(won.len() <= 1);
    }
    assert!(FrameBuf::new(machine.mem(), range(0x13f, 0x141)).is_some());
}

#[test]
fn the_table_of_names_has_an_entry_for_each_frame() {
    let machine = machine();
    let m2p = machine.m2p();
    assert_eq!(machine.max_mfn(), Mfn::new(0x400));
    assert_eq!(m2p.get(Mfn::new(0x3ff)), None);
    m2p.set(Mfn::new(0x3ff), Some(Pfn::new(0)));
    m2p.set(Mfn::new(0x400), Some(Pfn::new(1)));
    assert_eq!(
        (m2p.get(Mfn::new(0x3ff)), m2p.get(Mfn::new(0x400))),
        (Some(Pfn::new(0)), None)
    );
    m2p.set(Mfn::new(0x3ff), None);
    assert_eq!(m2p.get(Mfn::new(0x3ff)), None);
    let frames = machine.m2p_frames();
    assert_eq!(frames.len(), 2);
    assert!(
        frames
            .iter()
            .all(|mfn| machine.mem().load_u8(mfn.start()).is_err())
    );
}

#[test]
fn the_model_counts_cache_flushes_by_frame() {
    let machine = machine();
    let (one, other) = (Mfn::new(0x200), Mfn::new(0x201));
    assert_eq!(machine.mem().flush_cache(one), Ok(()));
    assert_eq!(machine.mem().flush_cache(one), Ok(()));
    assert_eq!(
        [one, other].map(|mfn| machine.mem().cache_flushes(mfn)),
        [2, 0]
    );
    let private = machine.m2p_frames().start;
    assert_eq!(machine.mem().flush_cache(private), Err(BadFrame));
    assert_eq!(machine.mem().flush_cache(Mfn::new(0x400)), Err(BadFrame));
}

#[test]
#[cfg_attr(
    miri,
    ignore = "a bit for each of five million frames takes an interpreter too long"
)]
fn a_large_machine_costs_what_is_touched() {
    let (machine, _) = Machine::new(SimConfig::new(20 << 30));
    assert_eq!(machine.memory_map().ram_bytes(), (20 << 30) - 0x6_1000);
    let frames = machine
        .zeroed_boot_slice::<[u64; 3]>(machine.max_mfn().get() as usize)
        .unwrap();
    assert_eq!(frames.last(), Some(&[0; 3]));
    let first = Mfn::new(0x10_0000);
    machine.mem().store_u64(first.start(), 1).unwrap();
    assert_eq!(machine.mem().load_u64(first.start()), Ok(1));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn memory_is_bytes(
        steps in prop::collection::vec((any::<bool>(), 0..64usize, prop::collection::vec(any::<u8>(), 0..40)), 0..60),
    ) {
        let machine = machine();
        let mem = machine.mem();
        mem.zero_frame(Mfn::new(0x100)).unwrap();
        let mut naive = vec![0u8; 4096];
        for (write, distance, bytes) in steps {
            let offset = 4096 - 64 + distance;
            let fits = offset + bytes.len() <= 4096;
            let mut got = vec![0; bytes.len()];
            if write {
                prop_assert_eq!(mem.write_bytes(at(0x100, offset), &bytes).is_ok(), fits);
                if fits {
                    naive[offset..offset + bytes.len()].copy_from_slice(&bytes);
                }
            } else {
                prop_assert_eq!(mem.read_bytes(at(0x100, offset), &mut got).is_ok(), fits);
                if fits {
                    prop_assert_eq!(&got, &naive[offset..offset + bytes.len()]);
                }
            }
        }
        prop_assert_eq!(mem.read::<[u8; 4096]>(at(0x100, 0)).unwrap().to_vec(), naive);
    }
}
