use super::super::sample::{note, numeric};
use super::*;
use proptest::prelude::*;
use std::string::ToString;
use std::vec::Vec;

fn parse(notes: &[Vec<u8>]) -> Result<Option<XenNotes<'static>>, KernelError> {
    XenNotes::parse(std::boxed::Box::leak(notes.concat().into_boxed_slice()))
}

/// The notes of Debian's 6.1 kernel.
fn debian() -> Vec<Vec<u8>> {
    std::vec![
        note(6, b"linux\0"),
        note(7, b"2.6\0"),
        note(5, b"xen-3.0\0"),
        numeric(3, 0xffff_ffff_8000_0000),
        numeric(15, 0x80_0000_0000),
        numeric(1, 0xffff_ffff_8307_91c0),
        note(10, b"!writable_page_tables|pae_pgdir_above_4gb\0"),
        note(17, &0x8801u32.to_le_bytes()),
        note(9, b"yes\0"),
        note(8, b"generic\0"),
        note(13, &[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
        note(14, &1u32.to_le_bytes()),
        numeric(16, 1),
        numeric(12, 0xffff_8000_0000_0000),
        numeric(4, 0),
        numeric(18, 0x100_0850),
    ]
}

#[test]
fn debian_notes_are_understood() {
    let notes = parse(&debian()).unwrap().unwrap();
    assert_eq!(notes.entry, Some(0xffff_ffff_8307_91c0));
    assert_eq!(notes.virt_base, 0xffff_ffff_8000_0000);
    assert_eq!(notes.paddr_offset, 0);
    assert_eq!(notes.init_p2m, Some(0x80_0000_0000));
    assert_eq!(notes.hypercall_page, None);
    assert!(notes.mod_start_pfn);
    assert_eq!(notes.hv_start_low, Some(0xffff_8000_0000_0000));
    assert_eq!(notes.required_features, FeatureSet(1));
    assert_eq!(notes.supported_features, FeatureSet(0x8811));
    assert_eq!(notes.guest_os.to_string(), "linux");
    assert_eq!(notes.guest_version.to_string(), "2.6");
    assert_eq!(notes.pae_mode.unwrap().to_string(), "yes");
    assert_eq!(notes.check(), Ok(()));
}

#[test]
fn other_owners_are_passed_over() {
    let mut foreign = note(1, &[1]);
    foreign[12..16].copy_from_slice(b"Xem\0");
    assert_eq!(parse(&[foreign.clone()]), Ok(None));
    let mut notes = debian();
    notes.insert(3, foreign);
    assert_eq!(parse(&notes), parse(&debian()));
}

#[test]
fn wrong_kernels_are_refused() {
    for (kind, desc, error) in [
        (5, b"xen-4.0\0".as_slice(), KernelError::WrongXenVersion),
        (8, b"special\0", KernelError::WrongLoader),
    ] {
        let mut notes = debian();
        notes.push(note(kind, desc));
        assert_eq!(parse(&notes).unwrap().unwrap().check(), Err(error));
    }
    let without = |kind: u8| -> Vec<Vec<u8>> {
        let notes = debian().into_iter();
        notes.filter(|note| note[8] != kind).collect()
    };
    assert_eq!(
        parse(&without(5)).unwrap().unwrap().check(),
        Err(KernelError::WrongXenVersion)
    );
    assert_eq!(
        parse(&without(8)).unwrap().unwrap().check(),
        Err(KernelError::WrongLoader)
    );
    // Old kernels have no such note and boot as dom0.
    assert_eq!(parse(&without(17)).unwrap().unwrap().check(), Ok(()));
    let mut domu = without(17);
    domu.push(numeric(17, 0x8001));
    assert_eq!(
        parse(&domu).unwrap().unwrap().check(),
        Err(KernelError::NotADom0)
    );
    // The string counts as well.
    domu.push(note(10, b"dom0\0"));
    assert_eq!(parse(&domu).unwrap().unwrap().check(), Ok(()));
}

#[test]
fn required_features_must_be_there() {
    let features = |list: &[u8]| parse(&[note(10, list)]).map(|notes| notes.unwrap());
    for list in [
        b"".as_slice(),
        b"!writable_page_tables",
        b"auto_translated_physmap|new_and_unknown",
        b"!dom0|!pae_pgdir_above_4gb\0|!behind_the_end",
    ] {
        assert!(features(list).is_ok());
    }
    for (list, name) in [
        (b"!new_and_unknown".as_slice(), "new_and_unknown"),
        (
            b"dom0|!auto_translated_physmap\0",
            "auto_translated_physmap",
        ),
        (b"!supervisor_mode_kernel", "supervisor_mode_kernel"),
        (b"!", ""),
        (b"!\xff", "(not text)"),
    ] {
        let error = features(list).unwrap_err();
        assert_eq!(
            error,
            KernelError::RequiredFeature(FeatureName::from(name).unwrap())
        );
        assert!(error.to_string().contains(name));
    }
}

#[test]
fn numbers_come_in_four_sizes() {
    for size in 0..=9 {
        let notes = parse(&[note(1, &[0x7f; 9][..size])]);
        match size {
            1 | 2 | 4 | 8 => {
                let expected = 0x7f7f_7f7f_7f7f_7f7f >> (64 - 8 * size);
                assert_eq!(notes.unwrap().unwrap().entry, Some(expected));
            }
            _ => assert_eq!(notes, Err(KernelError::BadNote(ElfNote::Entry))),
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_notes_do_not_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = XenNotes::parse(&data);
    }

    #[test]
    fn damaged_notes_do_not_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut data = debian().concat();
        for (at, value) in edits {
            let at = at.index(data.len());
            data[at] = value;
        }
        if let Ok(Some(notes)) = XenNotes::parse(&data) {
            let _ = notes.check();
        }
    }
}
