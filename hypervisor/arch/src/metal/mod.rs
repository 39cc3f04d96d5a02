//! The machine.

/// The machine's memory.
pub mod memory {
    use crate::boot::MfnRange;

    /// What a loader put into memory.
    pub struct ModuleMemory {
        bytes: &'static [u8],
        frames: MfnRange,
    }

    impl ModuleMemory {
        pub(crate) fn bytes(&self) -> &[u8] {
            self.bytes
        }

        pub(crate) fn into_frames(self) -> MfnRange {
            self.frames
        }
    }
}
