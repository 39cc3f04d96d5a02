//! How long an entry of a guest may keep a CPU (I18).

/// What an entry may still do before it must give way. The unit is about a hundred instructions: what checking one entry of
/// a page table costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(u32);

impl Budget {
    /// What every entry begins with.
    pub const FULL: Self = Self(640);
    /// What is left to an entry that has waited for a device: no further step.
    pub const SPENT: Self = Self(0);
    /// For work before there are guests that could wait.
    pub const ENDLESS: Self = Self(u32::MAX);

    /// What a step costs, which is anything that takes about a microsecond.
    const STEP: u32 = 10;

    /// How many units are left.
    pub const fn units(self) -> u32 {
        self.0
    }

    /// A budget of so many units.
    pub const fn new(units: u32) -> Self {
        Self(units)
    }

    /// Takes one step; `false`, and nothing taken, if there was not enough left.
    pub fn spend(&mut self) -> bool {
        self.take(Self::STEP)
    }

    /// Takes what one request of a list costs, beside what it does; `false` if there was not enough left.
    pub fn spend_request(&mut self) -> bool {
        self.take(3)
    }

    /// Takes what looking at a table costs, beside its entries; `false` if there was not enough left.
    pub fn spend_table(&mut self) -> bool {
        self.take(20)
    }

    /// Takes what an entry of a table costs that is not empty; `false` if there was not enough left.
    pub fn spend_entry(&mut self) -> bool {
        self.take(1)
    }

    /// Takes so many units; `false`, and nothing taken, if there were fewer left.
    pub fn take(&mut self, units: u32) -> bool {
        match self.0.checked_sub(units) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }
}
