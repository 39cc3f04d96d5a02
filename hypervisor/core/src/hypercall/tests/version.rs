//! `xen_version`.

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall::XenVersion;
use dom0_abi::xen::VmAssist;

use crate::domain::Capabilities;
use crate::testing::{DATA, DATA_END, Guest, failure};

/// The text at the start of the guest's buffer.
fn text(guest: &Guest) -> String {
    let bytes: [u8; 1024] = guest.get(DATA);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

/// Makes the call with a buffer full of ones, and returns how many bytes it wrote.
fn written(guest: &mut Guest, command: u64) -> usize {
    guest.put(DATA, &[0xa5_u8; 2048]);
    assert_eq!(guest.call(XenVersion, [command, DATA]), 0);
    let bytes: [u8; 2048] = guest.get(DATA);
    bytes
        .iter()
        .rposition(|byte| *byte != 0xa5)
        .map_or(0, |last| last + 1)
}

#[test]
fn numbers() {
    for mut guest in [Guest::dom0(), Guest::ordinary()] {
        assert_eq!(guest.call(XenVersion, [0, 0]), 0x0004_0011);
        assert_eq!(guest.call(XenVersion, [7, 0]), 4096);
        assert_eq!(guest.call(XenVersion, [7, DATA]), failure(Errno::EINVAL));
        for unknown in [11, 12, 0x7fff_ffff, 0xffff_ffff] {
            assert_eq!(
                guest.call(XenVersion, [unknown, DATA]),
                failure(Errno::ENOSYS)
            );
        }
    }
}

#[test]
fn i15_texts_are_written_whole_and_zero_behind_their_end() {
    let mut guest = Guest::dom0();
    for (command, size, expected) in [
        (1, 16, ".7"),
        (2, 144, "rustc"),
        (3, 1024, "xen-3.0-x86_64 "),
        (4, 64, "oxen 0.1.0"),
        (9, 1024, "com1=115200 console=com1 loglvl=all"),
    ] {
        assert_eq!(written(&mut guest, command), size, "command {command}");
        assert_eq!(text(&guest), expected);
    }
}

#[test]
fn structures() {
    let mut guest = Guest::dom0();
    assert_eq!(written(&mut guest, 5), 8);
    assert_eq!(guest.get::<u64>(DATA), 0xffff_8000_0000_0000);
    assert_eq!(written(&mut guest, 8), 16);
    assert_eq!(guest.get::<[u8; 16]>(DATA), [0; 16]);
}

#[test]
fn features_follow_from_domain_and_assists() {
    const COMMON: u32 = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 13 | 1 << 17;
    for (mut guest, own) in [(Guest::dom0(), 1 << 11), (Guest::ordinary(), 0)] {
        guest.put(DATA, &[0_u32, 0xffff_ffff]);
        assert_eq!(guest.call(XenVersion, [6, DATA]), 0);
        assert_eq!(guest.get::<[u32; 2]>(DATA), [0, COMMON | own]);
        guest.domain(|domain| domain.assists.set(VmAssist::PaeExtendedCr3, true));
        assert_eq!(guest.call(XenVersion, [6, DATA]), 0);
        assert_eq!(guest.get::<[u32; 2]>(DATA), [0, COMMON | own | 1 << 4]);
        guest.put(DATA, &[1_u32, 0x1234]);
        assert_eq!(guest.call(XenVersion, [6, DATA]), failure(Errno::EINVAL));
        assert_eq!(guest.get::<[u32; 2]>(DATA), [1, 0x1234]);
    }
}

#[test]
fn i28_what_is_the_hosts_is_denied_to_others() {
    let mut guest = Guest::new(dom0_abi::ids::DomId::new(3), Capabilities::CONSOLE);
    guest.put(DATA, &[0xa5_u8; 1024]);
    assert_eq!(guest.call(XenVersion, [9, DATA]), 0);
    assert_eq!(guest.get::<[u8; 10]>(DATA), *b"<denied>\0\xa5");
    // It needs no more room than that.
    assert_eq!(guest.call(XenVersion, [9, DATA_END - 9]), 0);
    assert_eq!(
        guest.call(XenVersion, [9, DATA_END - 8]),
        failure(Errno::EFAULT)
    );
    assert_eq!(guest.call(XenVersion, [10, 0]), failure(Errno::EPERM));
}

#[test]
fn there_is_no_build_id_but_its_checks() {
    let mut guest = Guest::dom0();
    assert_eq!(guest.call(XenVersion, [10, 0]), failure(Errno::ENODATA));
    guest.put(DATA, &20_u32);
    assert_eq!(guest.call(XenVersion, [10, DATA]), failure(Errno::ENODATA));
    guest.put(DATA, &0_u32);
    assert_eq!(guest.call(XenVersion, [10, DATA]), failure(Errno::EINVAL));
    assert_eq!(
        guest.call(XenVersion, [10, DATA_END - 3]),
        failure(Errno::EFAULT)
    );
}
