//! The memory image of the x87, SSE and AVX registers.
#![forbid(unsafe_code)]

use core::fmt;

/// Bytes of the standard XSAVE form up to protection keys, the last component that a guest may be given (tile registers
/// are withheld). SPEC: Intel SDM volume 1, 13.4 and 13.5.
const LEN: usize = 2752;

/// One vCPU's floating-point and vector registers, in the standard form of `XSAVE`, or that of `FXSAVE` in its first 512
/// bytes on a CPU without `XSAVE`.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct FpuArea {
    pub(crate) bytes: [u8; LEN],
    /// The components that the vCPU has ever had in XCR0, when it last left a CPU: what they hold is kept while they are off.
    pub(crate) components: u64,
}

impl FpuArea {
    /// How many bytes an image may have; components of the CPU that lie behind this are not given to guests.
    pub const LEN: usize = LEN;

    /// The components of XCR0 that an image has room for: x87, SSE, AVX, MPX, AVX-512, protection keys.
    pub const COMPONENTS: u64 = 0x2ff;

    /// The state after a reset: no component but the legacy control words, which say that exceptions are masked.
    pub const fn new() -> Self {
        let mut bytes = [0; LEN];
        // FCW at 0 and MXCSR at 24. SPEC: Intel SDM volume 1, 13.6: a component that XSTATE_BV lacks is loaded with its
        // initial value, but MXCSR is loaded from here.
        let [low, high] = 0x037f_u16.to_le_bytes();
        bytes[0] = low;
        bytes[1] = high;
        let [low, high] = 0x1f80_u16.to_le_bytes();
        bytes[24] = low;
        bytes[25] = high;
        Self {
            bytes,
            components: 0,
        }
    }

    /// The part that is the image of `FXSAVE`, to be written: it describes the state then, and nothing else is set. What a CPU refuses of
    /// it is replaced when it is loaded.
    pub fn as_legacy_mut(&mut self) -> &mut [u8] {
        /// Behind the legacy part, which of its components are there. SPEC: Intel SDM volume 1, 13.4.2.
        const XSTATE_BV: usize = 512;
        const X87_AND_SSE: u8 = 0b11;
        self.components = X87_AND_SSE.into();
        let (legacy, rest) = self.bytes.split_at_mut(XSTATE_BV);
        if let Some(components) = rest.first_mut() {
            *components = X87_AND_SSE;
        }
        legacy
    }

    /// The image.
    pub fn as_bytes(&self) -> &[u8; LEN] {
        &self.bytes
    }
}

impl Default for FpuArea {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FpuArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The content is a guest's secret.
        f.write_str("FpuArea { .. }")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reset_image_is_what_the_manual_says() {
        let area = FpuArea::new();
        assert_eq!(align_of::<FpuArea>(), 64);
        assert!(size_of::<FpuArea>() >= FpuArea::LEN);
        assert_eq!(core::mem::offset_of!(FpuArea, bytes), 0);
        let words: [u8; 32] = area.as_bytes()[..32].try_into().unwrap();
        assert_eq!(words[..2], [0x7f, 0x03]);
        assert_eq!(words[24..28], [0x80, 0x1f, 0, 0]);
        assert_eq!(area.as_bytes().iter().filter(|byte| **byte != 0).count(), 4);
    }
}
