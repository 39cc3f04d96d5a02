//! Recognises what the boot loader handed over as dom0's kernel: an ELF file, or a bzImage around a packed one.
//!
//! Follows the Linux x86 boot protocol, which names where in a bzImage the packed kernel lies since version 2.08. Knows
//! nothing of what is inside an ELF file; `kernel` does.

use core::fmt;

use super::error::KernelError;

/// How the kernel inside a bzImage is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packing {
    /// gzip (RFC 1952).
    Gzip,
    /// The .xz format.
    Xz,
    /// Zstandard.
    Zstd,
    /// The legacy frame format of LZ4.
    Lz4,
    /// The .lzma format.
    Lzma,
    /// bzip2.
    Bzip2,
    /// The format of lzop.
    Lzo,
}

impl Packing {
    /// Every packing a Linux kernel build offers, with the bytes each begins with.
    const SIGNATURES: [(Self, &'static [u8]); 7] = [
        (Self::Gzip, &[0x1f, 0x8b]),
        (Self::Xz, &[0xfd, b'7', b'z', b'X', b'Z', 0]),
        (Self::Zstd, &[0x28, 0xb5, 0x2f, 0xfd]),
        (Self::Lz4, &[0x02, 0x21, 0x4c, 0x18]),
        (Self::Lzma, &[0x5d, 0x00, 0x00]),
        (Self::Bzip2, b"BZh"),
        (Self::Lzo, &[0x89, b'L', b'Z', b'O', 0]),
    ];

    /// The packing of `stream`, by its first bytes.
    pub fn recognise(stream: &[u8]) -> Option<Self> {
        Self::SIGNATURES
            .iter()
            .find(|(_, signature)| stream.starts_with(signature))
            .map(|(packing, _)| *packing)
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Lzma => "lzma",
            Self::Bzip2 => "bzip2",
            Self::Lzo => "lzo",
        })
    }
}

/// What dom0's kernel module turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelModule<'a> {
    /// An ELF file, the module itself or the unpacked payload of a bzImage.
    Elf(&'a [u8]),
    /// A packed ELF file, for [`unpack`](super::unpack).
    Packed {
        /// How it is packed.
        packing: Packing,
        /// The payload: the packed stream and, last, the four bytes of its unpacked size.
        payload: &'a [u8],
    },
}

const ELF_MAGIC: &[u8] = b"\x7fELF";

// SPEC: Linux x86 boot protocol, "The Real-Mode Kernel Header".
const SETUP_SECTS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The first version of the protocol whose header has the two payload fields.
const FIRST_WITH_PAYLOAD: u16 = 0x0208;
const SECTOR: usize = 512;

impl<'a> KernelModule<'a> {
    /// Recognises a kernel by the first bytes of its file. The error names what the file is instead, or where it ends
    /// too early.
    pub fn recognise(file: &'a [u8]) -> Result<Self, KernelError> {
        if file.starts_with(ELF_MAGIC) {
            return Ok(Self::Elf(file));
        }
        if let Some(packing) = Packing::recognise(file) {
            return Err(KernelError::BarePacked(packing));
        }
        if bytes_at::<4>(file, HEADER_MAGIC) != Some(*b"HdrS") {
            let first = bytes_at::<4>(file, 0).map(u32::from_be_bytes);
            return Err(first.map_or(KernelError::Empty, KernelError::NotAKernel));
        }
        let truncated = |needed| KernelError::TruncatedImage {
            needed,
            found: file.len(),
        };
        let version = bytes_at(file, VERSION).map(u16::from_le_bytes);
        let version = version.ok_or(truncated(VERSION.saturating_add(2)))?;
        if version < FIRST_WITH_PAYLOAD {
            return Err(KernelError::OldBootProtocol(version));
        }
        let header = |at: usize| {
            bytes_at(file, at)
                .map(u32::from_le_bytes)
                .and_then(|value| usize::try_from(value).ok())
                .ok_or(truncated(at.saturating_add(4)))
        };
        let setup_sectors = match bytes_at(file, SETUP_SECTS) {
            // Means 4, for the sake of loaders older than the field.
            Some([0]) => 4,
            Some([sectors]) => usize::from(sectors),
            None => return Err(truncated(SETUP_SECTS)),
        };
        let start = setup_sectors
            .saturating_add(1)
            .saturating_mul(SECTOR)
            .saturating_add(header(PAYLOAD_OFFSET)?);
        let end = start.saturating_add(header(PAYLOAD_LENGTH)?);
        let payload = file.get(start..end).ok_or(truncated(end))?;
        if payload.starts_with(ELF_MAGIC) {
            return Ok(Self::Elf(payload));
        }
        match Packing::recognise(payload) {
            Some(packing @ (Packing::Gzip | Packing::Xz)) => Ok(Self::Packed { packing, payload }),
            Some(packing) => Err(KernelError::UnsupportedPacking(packing)),
            None => Err(KernelError::UnknownPacking),
        }
    }
}

/// The `N` bytes of `data` at `at`.
pub(super) fn bytes_at<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk::<N>().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec::Vec;

    pub(crate) fn bzimage(version: u16, payload: &[u8]) -> Vec<u8> {
        let mut file = std::vec![0; 3 * SECTOR + 0x40];
        file[SETUP_SECTS] = 2;
        file[HEADER_MAGIC..][..4].copy_from_slice(b"HdrS");
        file[VERSION..][..2].copy_from_slice(&version.to_le_bytes());
        file[PAYLOAD_OFFSET..][..4].copy_from_slice(&0x40u32.to_le_bytes());
        file[PAYLOAD_LENGTH..][..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        file.extend_from_slice(payload);
        // What follows the payload (start code, signature) is none of our business.
        file.extend_from_slice(b"behind");
        file
    }

    #[test]
    fn elf_is_taken_as_it_is() {
        let file = b"\x7fELFrest";
        assert_eq!(KernelModule::recognise(file), Ok(KernelModule::Elf(file)));
        let image = bzimage(0x20f, b"\x7fELFinside");
        assert_eq!(
            KernelModule::recognise(&image),
            Ok(KernelModule::Elf(b"\x7fELFinside"))
        );
    }

    #[test]
    fn every_packing_is_named() {
        for (packing, signature) in Packing::SIGNATURES {
            let mut payload = signature.to_vec();
            payload.extend_from_slice(b"....");
            let image = bzimage(0x20f, &payload);
            let found = KernelModule::recognise(&image);
            match packing {
                Packing::Gzip | Packing::Xz => assert_eq!(
                    found,
                    Ok(KernelModule::Packed {
                        packing,
                        payload: &payload
                    })
                ),
                _ => {
                    let error = found.unwrap_err();
                    assert_eq!(error, KernelError::UnsupportedPacking(packing));
                    assert!(error.to_string().contains(&packing.to_string()));
                }
            }
            assert_eq!(
                KernelModule::recognise(&payload),
                Err(KernelError::BarePacked(packing))
            );
        }
    }

    #[test]
    fn what_is_not_a_kernel_is_named() {
        assert_eq!(KernelModule::recognise(b""), Err(KernelError::Empty));
        assert_eq!(
            KernelModule::recognise(b"#!/bin/sh\n"),
            Err(KernelError::NotAKernel(0x2321_2f62))
        );
        assert_eq!(
            KernelModule::recognise(&bzimage(0x207, b"payload")),
            Err(KernelError::OldBootProtocol(0x207))
        );
        assert_eq!(
            KernelModule::recognise(&bzimage(0x208, b"what is this")),
            Err(KernelError::UnknownPacking)
        );
    }

    #[test]
    fn truncation_anywhere_is_an_error() {
        let image = bzimage(0x20f, b"\x1f\x8bpayload of some length");
        let whole = image.len() - b"behind".len();
        for length in 0..whole {
            let error = KernelModule::recognise(&image[..length]).unwrap_err();
            if length > HEADER_MAGIC + 4 {
                assert!(
                    matches!(error, KernelError::TruncatedImage { found, .. } if found == length)
                );
            }
        }
        assert!(KernelModule::recognise(&image[..whole]).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_headers_do_not_panic(
            edits in prop::collection::vec((0usize..0x260, any::<u8>()), 0..16),
        ) {
            let mut image = bzimage(0x20f, b"\x1f\x8bpayload");
            for (at, value) in edits {
                image[at] = value;
            }
            let _ = KernelModule::recognise(&image);
        }
    }
}
