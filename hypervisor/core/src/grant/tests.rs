//! The words of grants and handles, in every state.

use dom0_abi::addr::Mfn;
use dom0_abi::grant_table::GrantStatus;
use dom0_abi::ids::{DomId, GrantRef, VcpuId};

use super::entry::{Access, Active, Shared};
use super::track::{Parts, Track};

const ME: DomId = DomId::new(7);
const ACCESSES: [Access; 2] = [Access::Read, Access::Write];

#[test]
fn i20_an_entry_of_every_flags_allows_what_the_abi_says() {
    for flags in 0..=u16::MAX {
        for domid in [7, 6, 0, 0xffff] {
            let entry = Shared(u64::from(flags) | domid << 16 | 0x1234 << 32);
            assert_eq!(entry.mfn(), Mfn::new(0x1234));
            for (access, is_new, is_map) in ACCESSES.iter().flat_map(|&access| {
                [(true, true), (true, false), (false, true), (false, false)]
                    .map(|(is_new, is_map)| (access, is_new, is_map))
            }) {
                let permits = flags & 3 == 1 && domid == 7 && !(is_map && flags & 0x100 != 0);
                let may_write = flags & 4 == 0;
                let allowed = (permits || !is_new) && (access == Access::Read || may_write);
                let marks = if access == Access::Write { 0x18 } else { 8 };
                let wanted = if allowed {
                    Ok(Shared(entry.0 | marks))
                } else {
                    Err(GrantStatus::GeneralError)
                };
                assert_eq!(
                    entry.claimed(ME, access, is_new, is_map),
                    wanted,
                    "{entry:x?}"
                );
            }
        }
    }
}

#[test]
fn i19_pins_are_counted_and_end_as_they_began() {
    for first in ACCESSES {
        let mut active = Active::first(ME, Mfn::new(0xffff_ffff), first, 1).unwrap();
        let mut taken = vec![first];
        // Every mix of both, as the bits of the number say.
        for step in 0..254_u32 {
            let access = ACCESSES[(step * 7 / 3) as usize % 2];
            active = active.more(access, 1).unwrap();
            taken.push(access);
            let writers = taken
                .iter()
                .filter(|&&taken| taken == Access::Write)
                .count();
            assert_eq!(usize::from(active.pins()), taken.len());
            assert_eq!(usize::from(active.writers()), writers);
            assert_eq!((active.mapper(), active.mfn()), (ME, Mfn::new(0xffff_ffff)));
        }
        assert_eq!(active.pins(), 255);
        for (access, count) in ACCESSES
            .into_iter()
            .flat_map(|a| [(a, 1), (a, 2), (a, 255)])
        {
            assert_eq!(active.more(access, count), None);
        }
        while let Some(access) = taken.pop() {
            assert!(active.is_used());
            active = active.less(access, 1).unwrap();
        }
        assert_eq!(active, Active::NONE);
    }
    assert_eq!(Active::first(ME, Mfn::new(1 << 32), Access::Read, 1), None);
    for access in ACCESSES {
        assert_eq!(Active::NONE.less(access, 1), None);
        let other = ACCESSES.into_iter().find(|&other| other != access).unwrap();
        let active = Active::first(ME, Mfn::new(1), access, 2).unwrap();
        assert_eq!(active.less(other, 1), None, "there is no such pin");
        assert_eq!(active.less(access, 3), None, "there are not so many");
        assert_eq!(active.less(access, 2), Some(Active::NONE));
        assert_eq!(active.less(access, 1).map(Active::pins), Some(1));
    }
}

fn all_parts() -> impl Iterator<Item = Parts> {
    (0..4).map(|bits| Parts {
        host: bits & 1 != 0,
        device: bits & 2 != 0,
    })
}

#[test]
fn i19_each_part_of_a_map_ends_once() {
    let reference = GrantRef::new(u32::MAX);
    for parts in all_parts().filter(|parts| parts.any()) {
        for (access, is_by_entry) in ACCESSES.iter().flat_map(|&a| [(a, false), (a, true)]) {
            let home = VcpuId::new(127);
            let track = Track::new(
                DomId::new(0x7fef),
                reference,
                parts,
                access,
                is_by_entry,
                home,
            );
            let same = |track: Track| {
                assert_eq!(track.granter(), DomId::new(0x7fef));
                assert_eq!((track.reference(), track.home()), (reference, home));
                assert_eq!((track.access(), track.is_by_entry()), (access, is_by_entry));
            };
            same(track);
            assert!(track.is_used());
            assert_eq!((track.parts(), track.pinned()), (parts, parts));
            for asked in all_parts().filter(|asked| asked.any()) {
                let Some(ending) = track.ending(asked) else {
                    assert_ne!(asked.and(parts), asked);
                    continue;
                };
                same(ending);
                assert_eq!(ending.ending(asked), None, "it has begun to end");
                assert_eq!(ending.pinned(), parts, "there are pins for it still");
                assert_eq!(ending.restored(asked), track);
                let ended = ending.ended(asked);
                same(ended);
                assert_eq!(ended.is_used(), asked != parts);
                assert_eq!(ended.ending(asked), None, "it has ended");
                assert_eq!(ended.parts().and(asked).count(), 0);
            }
        }
    }
    for next in [0, 1, 511, u32::MAX] {
        let free = Track::free(next);
        assert!(!free.is_used());
        assert_eq!(free.next(), next);
    }
}
