//! What stands for `page_type`, as far as the twins of roots need it.

use dom0_abi::addr::Mfn;

/// A reference to the type of a root, which nobody counts here.
pub struct HeldType(Mfn);

impl HeldType {
    /// A reference to this root.
    pub fn to(root: Mfn) -> Self {
        Self(root)
    }

    /// As `HeldType::mfn`.
    pub fn mfn(&self) -> Mfn {
        self.0
    }
}

/// What stands for `page_type::entry`.
pub mod entry {
    /// An entry.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Entry(pub u64);
}
