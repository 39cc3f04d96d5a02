use super::super::packed_samples::{GZIP, XZ};
use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

fn plain() -> Vec<u8> {
    (0..400)
        .flat_map(|n| std::format!("line {n} of a kernel that is not one\n").into_bytes())
        .collect()
}

fn xz_payload(stream: &[u8], size: usize) -> Vec<u8> {
    [stream, &(size as u32).to_le_bytes()].concat()
}

fn unpack(packing: Packing, payload: &[u8]) -> Result<Vec<u8>, UnpackError> {
    let unpacking = Unpacking::prepare(packing, payload)?;
    // Corrupt sizes must not make the test itself run out of memory.
    let mut output = vec![0xa5; unpacking.unpacked_size().min(1 << 20)];
    let mut scratch = vec![0xa5; unpacking.scratch_size()];
    unpacking.unpack(&mut output, &mut scratch)?;
    Ok(output)
}

#[test]
fn xz_with_the_x86_filter_unpacks() {
    let payload = xz_payload(XZ, plain().len());
    assert_eq!(unpack(Packing::Xz, &payload), Ok(plain()));
}

#[test]
fn gzip_unpacks() {
    assert_eq!(unpack(Packing::Gzip, GZIP), Ok(plain()));
}

#[test]
fn gzip_header_fields_are_skipped() {
    let mut fields = GZIP[..10].to_vec();
    fields[3] = 0x1e;
    fields.extend_from_slice(&[3, 0, 1, 2, 3]);
    fields.extend_from_slice(b"name\0comment\0");
    fields.extend_from_slice(&[9, 9]);
    let header = fields.len();
    fields.extend_from_slice(&GZIP[10..]);
    assert_eq!(unpack(Packing::Gzip, &fields), Ok(plain()));
    for length in 0..header {
        assert_eq!(
            gzip_body(&fields[..length]),
            Err(UnpackError::Truncated),
            "{length}"
        );
    }
    fields[3] = 0x80;
    assert_eq!(unpack(Packing::Gzip, &fields), Err(UnpackError::BadHeader));
}

#[test]
fn a_wrong_size_is_an_error() {
    for size in [plain().len() - 1, plain().len() + 1, 0] {
        let wrong = Err(UnpackError::WrongSize { stated: size });
        assert_eq!(unpack(Packing::Xz, &xz_payload(XZ, size)), wrong);
        let mut gzip = GZIP.to_vec();
        let end = gzip.len();
        gzip[end - 4..].copy_from_slice(&(size as u32).to_le_bytes());
        assert_eq!(unpack(Packing::Gzip, &gzip), wrong);
    }
}

#[test]
fn a_wrong_checksum_is_an_error() {
    let mut gzip = GZIP.to_vec();
    let end = gzip.len();
    gzip[end - 8] ^= 1;
    assert_eq!(
        unpack(Packing::Gzip, &gzip),
        Err(UnpackError::WrongChecksum)
    );
}

#[test]
fn truncation_anywhere_is_an_error() {
    for length in 0..XZ.len() {
        assert!(unpack(Packing::Xz, &xz_payload(&XZ[..length], plain().len())).is_err());
    }
    for length in 0..GZIP.len() {
        assert!(unpack(Packing::Gzip, &GZIP[..length]).is_err());
    }
}

#[test]
fn trailing_bytes_are_an_error() {
    let mut stream = XZ.to_vec();
    stream.push(0);
    assert_eq!(
        unpack(Packing::Xz, &xz_payload(&stream, plain().len())),
        Err(UnpackError::Trailing)
    );
}

#[test]
fn dictionary_comes_from_the_stream() {
    // The one property of LZMA2 follows its id (0x21) and the count 1.
    let at = XZ.windows(2).position(|pair| pair == [0x21, 1]).unwrap() + 2;
    let mut stream = XZ.to_vec();
    for (code, expected) in [
        (0, Ok(Dictionary::Mib1)),
        (16, Ok(Dictionary::Mib1)),
        (17, Ok(Dictionary::Mib8)),
        (22, Ok(Dictionary::Mib8)),
        (26, Ok(Dictionary::Mib32)),
        (27, Ok(Dictionary::Mib128)),
        (30, Ok(Dictionary::Mib128)),
        (31, Err(UnpackError::HugeDictionary(192 << 20))),
        (40, Err(UnpackError::HugeDictionary(4 << 30))),
        (41, Err(UnpackError::BadHeader)),
    ] {
        stream[at] = code;
        assert_eq!(Dictionary::of(&stream), expected, "{code}");
    }
}

#[test]
fn too_little_memory_is_an_error() {
    for (packing, payload) in [
        (Packing::Xz, xz_payload(XZ, plain().len())),
        (Packing::Gzip, GZIP.to_vec()),
    ] {
        let unpacking = Unpacking::prepare(packing, &payload).unwrap();
        let mut output = vec![0; unpacking.unpacked_size()];
        let mut scratch = vec![0; unpacking.scratch_size()];
        let mut unpack =
            |out: usize, used: usize| unpacking.unpack(&mut output[..out], &mut scratch[..used]);
        let (out, used) = (unpacking.unpacked_size(), unpacking.scratch_size());
        assert_eq!(unpack(out - 1, used), Err(UnpackError::NoRoom));
        assert_eq!(unpack(out, used / 2), Err(UnpackError::NoRoom));
        assert_eq!(unpack(out, used), Ok(()));
    }
}

#[test]
fn crc32_has_the_known_check_value() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

proptest! {
    #[test]
    fn damaged_streams_do_not_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        for (packing, payload) in [
            (Packing::Xz, xz_payload(XZ, plain().len())),
            (Packing::Gzip, GZIP.to_vec()),
        ] {
            let mut damaged = payload.clone();
            for (at, value) in &edits {
                damaged[at.index(payload.len())] = *value;
            }
            if let Ok(unpacked) = unpack(packing, &damaged) {
                prop_assert_eq!(unpacked, plain());
            }
        }
    }
}

/// The kernel of a distribution, unpacked by us and by `xz`. Its path comes in `OXEN_TEST_VMLINUZ`.
#[test]
fn a_distribution_kernel_unpacks_as_xz_does() {
    use super::super::bzimage::KernelModule;
    use std::io::Write;
    use std::process::{Command, Stdio};

    let Some(path) = std::env::var_os("OXEN_TEST_VMLINUZ") else {
        std::eprintln!("skipped: OXEN_TEST_VMLINUZ does not name a kernel");
        return;
    };
    let file = std::fs::read(path).unwrap();
    let KernelModule::Packed { packing, payload } = KernelModule::recognise(&file).unwrap() else {
        panic!("not a packed kernel");
    };
    let ours = {
        let unpacking = Unpacking::prepare(packing, payload).unwrap();
        let mut output = vec![0; unpacking.unpacked_size()];
        let mut scratch = vec![0; unpacking.scratch_size()];
        unpacking.unpack(&mut output, &mut scratch).unwrap();
        output
    };
    let tool = match packing {
        Packing::Xz => "xz",
        _ => "gzip",
    };
    let mut child = Command::new(tool)
        .args(["-dc"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let stream = match packing {
        Packing::Xz => payload[..payload.len() - 4].to_vec(),
        _ => payload.to_vec(),
    };
    let feeder = std::thread::spawn(move || stdin.write_all(&stream).unwrap());
    let theirs = child.wait_with_output().unwrap().stdout;
    feeder.join().unwrap();
    assert_eq!(ours.len(), theirs.len());
    assert!(ours == theirs, "contents differ");
}
