use super::super::layout::Needs;
use super::*;
use oxen_arch::boot::ColourMask;
use std::string::String;
use zerocopy::IntoBytes;

fn layout(init_p2m: Option<u64>, initrd_mapped: bool) -> Layout {
    Layout::new(&Needs {
        virt_base: 0xffff_ffff_8000_0000,
        kernel_end: 0x4a0_0000,
        nr_pages: 0x2_0000,
        init_p2m,
        initrd: Some(0x1234),
        initrd_mapped,
    })
    .unwrap()
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn start_info_has_the_bytes_of_the_abi() {
    let layout = layout(Some(0x80_0000_0000), false);
    let contents = Contents {
        layout: &layout,
        shared_info: Mfn::new(0x1_2345),
        initrd_len: Some(0x1234),
        command_line: "console=hvc0 quiet",
        screen: None,
    };
    let info = contents.start_info();
    let bytes = info.as_bytes();
    assert_eq!(&bytes[..16], b"xen-3.0-x86_64p\0");
    assert_eq!(number(bytes, 32), 0x2_0000);
    assert_eq!(number(bytes, 40), 0x1234_5000);
    assert_eq!(number(bytes, 48), 1 | 2 | 8);
    assert_eq!((number(bytes, 56), number(bytes, 64)), (0, 0));
    assert_eq!((number(bytes, 72), number(bytes, 80)), (0, 0));
    assert_eq!(number(bytes, 88), 0xffff_ffff_84a0_1000);
    assert_eq!(number(bytes, 96), 0x29);
    assert_eq!(number(bytes, 104), 0x80_0000_0000);
    assert_eq!((number(bytes, 112), number(bytes, 120)), (0x4c00, 0x1234));
    assert_eq!(&bytes[128..147], b"console=hvc0 quiet\0");
    assert!(bytes[147..1152].iter().all(|byte| *byte == 0));
    assert_eq!((number(bytes, 1152), number(bytes, 1160)), (0x4c02, 0x103));
}

#[test]
fn an_old_kernel_gets_addresses() {
    let layout = layout(None, true);
    let long = String::from_iter(std::iter::repeat_n('x', 3000));
    let info = Contents {
        layout: &layout,
        shared_info: Mfn::new(1),
        initrd_len: Some(0x1234),
        command_line: &long,
        screen: screen_record(
            &Screen::Text {
                maddr: Maddr::new(0xb_8000),
                columns: 80,
                rows: 25,
            },
            Firmware::Bios,
        ),
    }
    .start_info();
    let bytes = info.as_bytes();
    assert_eq!(number(bytes, 48), 1 | 2);
    assert_eq!(number(bytes, 72), 1168 | 40 << 32);
    assert_eq!(number(bytes, 104), 0xffff_ffff_84a0_2000);
    assert_eq!(number(bytes, 112), 0xffff_ffff_84a0_0000);
    assert_eq!(&info.cmd_line[1020..], b"xxx\0");
    assert_eq!((number(bytes, 1152), number(bytes, 1160)), (0, 0));
}

#[test]
fn screens_are_described() {
    let text = Screen::Text {
        maddr: Maddr::new(0xb_8000),
        columns: 80,
        rows: 25,
    };
    let record = screen_record(&text, Firmware::Efi).unwrap();
    assert_eq!(
        &record.as_bytes()[..14],
        &[3, 0, 0, 0, 16, 0, 0, 0, 0, 0, 25, 0, 80, 0]
    );
    let mask = |position| ColourMask { position, size: 8 };
    let framebuffer = |width| Screen::Framebuffer {
        maddr: Maddr::new(0x40_8000_0000),
        width,
        height: 768,
        pitch: 4096,
        bpp: 32,
        masks: [mask(16), mask(8), mask(0)],
    };
    for (firmware, kind) in [(Firmware::Bios, 0x23), (Firmware::Efi, 0x70)] {
        let record = screen_record(&framebuffer(1024), firmware).unwrap();
        assert_eq!(record.video_type, kind);
        let lfb: VesaLfb = record.variant();
        assert_eq!((lfb.width, lfb.height), (1024, 768));
        assert_eq!((lfb.bytes_per_line, lfb.bits_per_pixel), (4096, 32));
        assert_eq!((lfb.lfb_base, lfb.ext_lfb_base), (0x8000_0000, 0x40));
        assert_eq!(lfb.lfb_size, 48);
        assert_eq!((lfb.red_pos, lfb.green_pos, lfb.blue_pos), (16, 8, 0));
        assert_eq!((lfb.rsvd_pos, lfb.rsvd_size), (24, 8));
    }
    assert_eq!(screen_record(&framebuffer(70_000), Firmware::Efi), None);
}
