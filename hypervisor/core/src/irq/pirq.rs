//! The numbers of interrupts, as domains know them: lines first, messages behind those.

/// The most lines that are used.
pub(super) const MAX_LINES: u32 = 1024;
/// How many messages can be mapped.
pub(super) const MESSAGES: u32 = 256;

/// The number of an interrupt as a domain knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pirq(u32);

impl Pirq {
    /// The interrupt of this number, if there can be one: it fits where ports keep it.
    pub const fn new(number: u32) -> Option<Self> {
        if number < MAX_LINES.saturating_add(MESSAGES) {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The bare number.
    pub const fn get(self) -> u32 {
        self.0
    }
}
