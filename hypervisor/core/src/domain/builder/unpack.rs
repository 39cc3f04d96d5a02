//! Unpacks the payload of a bzImage into memory that the caller gives: gzip by `miniz_oxide`, xz by `xz4rust`.
//!
//! Nothing large is on the stack: decoder state and dictionary are made in the caller's scratch memory, whose size the
//! stream's own header tells. What either format has as a check (CRC-32, sizes) is checked.

use core::fmt;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use oxen_arch::scratch::Placed;
use xz4rust::{XzError, XzNextBlockResult, XzStaticDecoder};

use super::bzimage::{Packing, bytes_at};

const MIB: usize = 1 << 20;

/// Why a payload does not unpack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UnpackError {
    /// The stream ends too early.
    Truncated,
    /// The stream's header is not one that a kernel build writes.
    BadHeader,
    /// An xz stream needs a dictionary of this many bytes.
    HugeDictionary(u64),
    /// The packed data contradicts itself.
    Corrupt,
    /// The unpacked data does not have the stream's checksum.
    WrongChecksum,
    /// The stream does not unpack to the size that is written behind it.
    WrongSize {
        /// What is written.
        stated: usize,
    },
    /// Something follows the stream that does not belong to it.
    Trailing,
    /// The decoder of xz says so.
    Xz(XzError),
    /// The caller gave less output or scratch memory than was asked for.
    NoRoom,
}

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the packed data ends too early"),
            Self::BadHeader => f.write_str("the header of the packed data is wrong"),
            Self::HugeDictionary(size) => {
                write!(f, "it needs an xz dictionary of {} MiB", size >> 20)
            }
            Self::Corrupt => f.write_str("the packed data is corrupt"),
            Self::WrongChecksum => f.write_str("the checksum of the unpacked data is wrong"),
            Self::WrongSize { stated } => {
                write!(f, "it does not unpack to the stated {stated} bytes")
            }
            Self::Trailing => f.write_str("something follows the packed data"),
            Self::Xz(error) => write!(f, "xz: {error}"),
            Self::NoRoom => f.write_str("the memory for unpacking is too small"),
        }
    }
}

/// The dictionary sizes that there are decoders for; a stream gets the smallest that suffices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dictionary {
    Mib1,
    Mib8,
    Mib32,
    Mib128,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Method {
    Gzip,
    Xz(Dictionary),
}

/// A payload whose header has been read: what is needed to unpack it is known.
#[derive(Clone, Copy, Debug)]
pub struct Unpacking<'a> {
    stream: &'a [u8],
    method: Method,
    unpacked_size: usize,
}

impl<'a> Unpacking<'a> {
    /// Reads the header of `payload`, which ends in the four bytes of its unpacked size. Only gzip and xz have a decoder
    /// here; any other `packing` is answered with `BadHeader`.
    pub fn prepare(packing: Packing, payload: &'a [u8]) -> Result<Self, UnpackError> {
        let (body, size) = payload
            .split_last_chunk::<4>()
            .ok_or(UnpackError::Truncated)?;
        let unpacked_size =
            usize::try_from(u32::from_le_bytes(*size)).map_err(|_| UnpackError::NoRoom)?;
        let (stream, method) = match packing {
            // The size is the last field of the gzip format itself.
            Packing::Gzip => (payload, Method::Gzip),
            Packing::Xz => (body, Method::Xz(Dictionary::of(body)?)),
            _ => return Err(UnpackError::BadHeader),
        };
        Ok(Self {
            stream,
            method,
            unpacked_size,
        })
    }

    /// How many bytes come out.
    pub fn unpacked_size(&self) -> usize {
        self.unpacked_size
    }

    /// How many bytes of scratch memory [`unpack`](Self::unpack) needs.
    pub fn scratch_size(&self) -> usize {
        match self.method {
            Method::Gzip => Placed::<DecompressorOxide>::SIZE,
            Method::Xz(Dictionary::Mib1) => Placed::<XzStaticDecoder<MIB>>::SIZE,
            Method::Xz(Dictionary::Mib8) => Placed::<XzStaticDecoder<{ 8 * MIB }>>::SIZE,
            Method::Xz(Dictionary::Mib32) => Placed::<XzStaticDecoder<{ 32 * MIB }>>::SIZE,
            Method::Xz(Dictionary::Mib128) => Placed::<XzStaticDecoder<{ 128 * MIB }>>::SIZE,
        }
    }

    /// Unpacks into the first [`unpacked_size`](Self::unpacked_size) bytes of `output`, which hold rubbish after an error.
    /// What `scratch` holds before does not matter.
    pub fn unpack(&self, output: &mut [u8], scratch: &mut [u8]) -> Result<(), UnpackError> {
        let output = output
            .get_mut(..self.unpacked_size)
            .ok_or(UnpackError::NoRoom)?;
        match self.method {
            Method::Gzip => gunzip(self.stream, output, scratch),
            Method::Xz(Dictionary::Mib1) => unxz::<MIB>(self.stream, output, scratch),
            Method::Xz(Dictionary::Mib8) => unxz::<{ 8 * MIB }>(self.stream, output, scratch),
            Method::Xz(Dictionary::Mib32) => unxz::<{ 32 * MIB }>(self.stream, output, scratch),
            Method::Xz(Dictionary::Mib128) => unxz::<{ 128 * MIB }>(self.stream, output, scratch),
        }
    }
}

impl Dictionary {
    /// The dictionary that the first block of an xz stream asks for; all blocks of a kernel ask for the same.
    ///
    /// SPEC: The .xz File Format 1.2, sections 2.1.1, 3.1, 5.3.
    fn of(stream: &[u8]) -> Result<Self, UnpackError> {
        const STREAM_HEADER: usize = 12;
        const LZMA2: u8 = 0x21;
        let header_size = match bytes_at(stream, STREAM_HEADER).ok_or(UnpackError::Truncated)? {
            // An index instead of a block: the stream is empty.
            [0] => return Err(UnpackError::BadHeader),
            [size] => usize::from(size).saturating_add(1).saturating_mul(4),
        };
        let header = stream
            .get(STREAM_HEADER..STREAM_HEADER.saturating_add(header_size))
            .and_then(|header| header.split_last_chunk::<4>())
            .ok_or(UnpackError::Truncated)?
            .0;
        let mut fields = header.iter().copied().skip(1);
        let mut next = || fields.next().ok_or(UnpackError::BadHeader);
        let flags = next()?;
        for size_present in [0x40, 0x80] {
            if flags & size_present != 0 {
                while next()? & 0x80 != 0 {}
            }
        }
        // Only the last filter of a chain may be LZMA2, and it must be.
        for _ in 0..flags & 3 {
            let (id, nr_properties) = (next()?, next()?);
            if id >= 0x80 || id == LZMA2 {
                return Err(UnpackError::BadHeader);
            }
            for _ in 0..nr_properties {
                next()?;
            }
        }
        if (next()?, next()?) != (LZMA2, 1) {
            return Err(UnpackError::BadHeader);
        }
        let code = u32::from(next()?);
        if code > 40 {
            return Err(UnpackError::BadHeader);
        }
        // 2^12, 2^12 + 2^11, 2^13, 2^13 + 2^12, ...
        let size = (2 | u64::from(code & 1)) << (code / 2).saturating_add(11);
        [
            (Self::Mib1, 1 << 20),
            (Self::Mib8, 8 << 20),
            (Self::Mib32, 32 << 20),
            (Self::Mib128, 128 << 20),
        ]
        .into_iter()
        .find(|(_, capacity)| size <= *capacity)
        .map(|(dictionary, _)| dictionary)
        .ok_or(UnpackError::HugeDictionary(size))
    }
}

/// Unpacks one xz stream to exactly the length of `output`.
fn unxz<const DICTIONARY: usize>(
    stream: &[u8],
    output: &mut [u8],
    scratch: &mut [u8],
) -> Result<(), UnpackError> {
    Placed::<XzStaticDecoder<DICTIONARY>>::with_xz_decoder(scratch, |decoder| {
        unxz_by(decoder, stream, output)
    })
    .ok_or(UnpackError::NoRoom)?
}

fn unxz_by<const DICTIONARY: usize>(
    decoder: &mut XzStaticDecoder<DICTIONARY>,
    mut stream: &[u8],
    output: &mut [u8],
) -> Result<(), UnpackError> {
    let stated = output.len();
    let mut rest = output;
    loop {
        if stream.is_empty() {
            return Err(UnpackError::Truncated);
        }
        let step = decoder.decode(stream, rest).map_err(UnpackError::Xz)?;
        let has_moved = step.made_progress();
        stream = stream
            .get(step.input_consumed()..)
            .ok_or(UnpackError::Corrupt)?;
        rest = rest
            .get_mut(step.output_produced()..)
            .ok_or(UnpackError::Corrupt)?;
        match step {
            XzNextBlockResult::EndOfStream(..) if !rest.is_empty() => {
                return Err(UnpackError::WrongSize { stated });
            }
            XzNextBlockResult::EndOfStream(..) if !stream.is_empty() => {
                return Err(UnpackError::Trailing);
            }
            XzNextBlockResult::EndOfStream(..) => return Ok(()),
            XzNextBlockResult::NeedMoreData(..) if has_moved => {}
            XzNextBlockResult::NeedMoreData(..) if rest.is_empty() => {
                return Err(UnpackError::WrongSize { stated });
            }
            XzNextBlockResult::NeedMoreData(..) => return Err(UnpackError::Truncated),
        }
    }
}

/// Unpacks one gzip member to exactly the length of `output`.
fn gunzip(stream: &[u8], output: &mut [u8], scratch: &mut [u8]) -> Result<(), UnpackError> {
    let stated = output.len();
    let deflated = gzip_body(stream)?;
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (status, consumed, produced) = Placed::with(scratch, DecompressorOxide::new, |state| {
        decompress(state, deflated, output, 0, flags)
    })
    .ok_or(UnpackError::NoRoom)?;
    match status {
        TINFLStatus::Done if produced == stated => {}
        TINFLStatus::Done | TINFLStatus::HasMoreOutput => {
            return Err(UnpackError::WrongSize { stated });
        }
        TINFLStatus::FailedCannotMakeProgress | TINFLStatus::NeedsMoreInput => {
            return Err(UnpackError::Truncated);
        }
        _ => return Err(UnpackError::Corrupt),
    }
    let trailer = deflated.get(consumed..).unwrap_or_default();
    // The checksum, and the size that `stated` was read from.
    match trailer.len() {
        8 => {}
        0..8 => return Err(UnpackError::Truncated),
        _ => return Err(UnpackError::Trailing),
    }
    if bytes_at(trailer, 0).map(u32::from_le_bytes) != Some(crc32(output)) {
        return Err(UnpackError::WrongChecksum);
    }
    Ok(())
}

/// What follows the header of a gzip member. SPEC: RFC 1952, section 2.3.
fn gzip_body(stream: &[u8]) -> Result<&[u8], UnpackError> {
    const DEFLATE: u8 = 8;
    let [0x1f, 0x8b, DEFLATE, flags, _, _, _, _, _, _] =
        bytes_at::<10>(stream, 0).ok_or(UnpackError::Truncated)?
    else {
        return Err(UnpackError::BadHeader);
    };
    let [has_checksum, has_extra, has_name, has_comment] =
        [0x02, 0x04, 0x08, 0x10].map(|bit| flags & bit != 0);
    if flags & 0xe0 != 0 {
        return Err(UnpackError::BadHeader);
    }
    let mut body = stream.get(10..).unwrap_or_default();
    let mut skip = |count: usize| {
        body = body.get(count..).ok_or(UnpackError::Truncated)?;
        Ok(body)
    };
    if has_extra {
        let size = bytes_at(skip(0)?, 0).map(u16::from_le_bytes);
        skip(usize::from(size.ok_or(UnpackError::Truncated)?).saturating_add(2))?;
    }
    for _ in [has_name, has_comment].into_iter().filter(|has| *has) {
        let end = skip(0)?.iter().position(|byte| *byte == 0);
        skip(end.ok_or(UnpackError::Truncated)?.saturating_add(1))?;
    }
    skip(if has_checksum { 2 } else { 0 })
}

/// The CRC-32 of gzip. SPEC: RFC 1952, section 8.
fn crc32(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut rest: &mut [u32] = &mut table;
        let mut byte = 0u32;
        while let Some((entry, behind)) = rest.split_first_mut() {
            let mut bits: u32 = byte;
            let mut bit = 0;
            while bit < 8 {
                bits = (bits >> 1) ^ (0xedb8_8320 & (bits & 1).wrapping_neg());
                bit += 1;
            }
            *entry = bits;
            byte += 1;
            rest = behind;
        }
        table
    };
    !data.iter().fold(!0, |crc: u32, byte| {
        let [low, ..] = crc.to_le_bytes();
        // A `u8` cannot miss a table of 256.
        let step = TABLE.get(usize::from(low ^ byte)).copied().unwrap_or(0);
        (crc >> 8) ^ step
    })
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
