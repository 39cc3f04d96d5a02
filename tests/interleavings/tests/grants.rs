//! Handles of grants that CPUs take, give back and end at the same time, in every order (I19): each is with one CPU, a map, or free once, and each
//! part of a map ends once.
#![forbid(unsafe_code)]

use interleavings::grant::track::Parts;
use interleavings::grant::{HANDLES, Mapper};
use loom::sync::Arc;
use loom::thread;

const HOST: Parts = Parts {
    host: true,
    device: false,
};
const DEVICE: Parts = Parts {
    host: false,
    device: true,
};
const BOTH: Parts = Parts {
    host: true,
    device: true,
};

/// Lets CPUs do these at the same time with handles that are free, but for one that is mapped; what they say, and who is left.
fn race<T: 'static, const COUNT: usize>(
    cpus: [fn(&Mapper, u32) -> T; COUNT],
    end: fn(&Mapper, u32, Vec<T>),
) {
    loom::model(move || {
        let mapper = Arc::new(Mapper::new());
        let map = mapper.map(7).unwrap();
        let (first, others) = cpus.split_first().unwrap();
        let others: Vec<_> = (others.iter())
            .map(|&cpu| {
                let mapper = mapper.clone();
                thread::spawn(move || cpu(&mapper, map))
            })
            .collect();
        let mut said = vec![first(&mapper, map)];
        said.extend(others.into_iter().map(|other| other.join().unwrap()));
        end(&mapper, map, said);
    });
}

/// Each handle is with one CPU or free.
fn each_is_once(mapper: &Mapper, map: u32, said: Vec<Vec<u32>>) {
    let mut all: Vec<u32> = said.into_iter().flatten().chain(mapper.free()).collect();
    all.push(map);
    all.sort_unstable();
    assert_eq!(all, (0..HANDLES).collect::<Vec<_>>());
}

#[test]
fn i19_a_handle_is_taken_once() {
    let take = |mapper: &Mapper, _| mapper.take().into_iter().collect();
    race([take, take, take], each_is_once);
}

#[test]
fn i19_one_that_comes_back_is_not_taken_for_one_that_stayed() {
    // The first is free again, but the one behind it is not.
    let gives_back = |mapper: &Mapper, _| {
        let first = mapper.take();
        let second = mapper.take();
        first.inspect(|first| mapper.put(*first));
        second.into_iter().collect()
    };
    let take = |mapper: &Mapper, _| mapper.take().into_iter().collect();
    race([take, gives_back], each_is_once);
}

/// Ends these parts, if nobody else does; whether the handle is free by that.
fn end(mapper: &Mapper, map: u32, parts: Parts) -> Option<bool> {
    let track = mapper.begin(map, parts)?;
    Some(mapper.end(map, track, parts))
}

#[test]
fn i19_a_part_ends_once() {
    let cpu = |mapper: &Mapper, map| end(mapper, map, BOTH);
    race([cpu, cpu, cpu], |mapper, _, said| {
        assert_eq!(said.iter().filter(|said| **said == Some(true)).count(), 1);
        assert_eq!(said.iter().filter(|said| said.is_some()).count(), 1);
        assert_eq!(mapper.free().len(), HANDLES as usize);
    });
}

#[test]
fn i19_the_last_of_two_parts_frees_the_handle() {
    // One that lost a race against the other part tries again, as a guest would.
    fn ends(mapper: &Mapper, map: u32, parts: Parts) -> bool {
        loop {
            if let Some(is_free) = end(mapper, map, parts) {
                return is_free;
            }
            thread::yield_now();
        }
    }
    race(
        [
            |mapper, map| ends(mapper, map, HOST),
            |mapper, map| ends(mapper, map, DEVICE),
        ],
        |mapper, _, said| {
            assert_eq!(said.iter().filter(|is_free| **is_free).count(), 1);
            assert_eq!(mapper.free().len(), HANDLES as usize);
        },
    );
}

#[test]
fn i19_an_end_that_is_undone_leaves_the_map_to_be_ended() {
    let tries = |mapper: &Mapper, map: u32| {
        let begun = mapper.begin(map, HOST);
        if begun.is_some() {
            mapper.undo(map, HOST);
        }
        None
    };
    race(
        [tries, |mapper, map| end(mapper, map, DEVICE)],
        |mapper, map, said| {
            let is_ended = said.contains(&Some(false));
            assert!(!said.contains(&Some(true)), "a part is mapped still");
            let rest = if is_ended { HOST } else { BOTH };
            assert_eq!(end(mapper, map, rest), Some(true));
            assert_eq!(mapper.free().len(), HANDLES as usize);
        },
    );
}

#[test]
fn i19_a_handle_that_is_a_new_map_is_not_ended_as_the_old_one() {
    // The second CPU ends the map and makes another one by the same handle: whoever found the old one does not touch that.
    let old = |mapper: &Mapper, map: u32| end(mapper, map, BOTH).map(|is_free| (is_free, 0));
    let new = |mapper: &Mapper, map: u32| {
        let ended = end(mapper, map, BOTH)?;
        Some((ended, mapper.map(8)?))
    };
    race([old, new], |mapper, _, said| {
        let is_old = |said: &Option<_>| *said == Some((true, 0));
        let left = mapper.free().len() as u32;
        match said[..] {
            [Some(_), None] => assert_eq!(left, HANDLES),
            [None, Some(_)] => assert_eq!(left, HANDLES - 1),
            // The new one was ended too, as a map that the guest had.
            [Some(_), Some(_)] => assert!(is_old(&said[0]) && left == HANDLES),
            _ => panic!("nobody ended it"),
        }
    });
}
