//! How long an entry of a guest may keep a CPU (I18).

/// What an entry may still do before it must give way. The unit is about a hundred instructions: what checking one entry of
/// a page table costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(u32);

impl Budget {
    /// What every entry begins with: 70,000 instructions, and the way in and out. No entry may take 100,000; what lies between
    /// is for steps that begin with little left, and for what a step costs more than it says. `cargo xtask bench entries`
    /// shows how long entries get.
    ///
    /// A step may need more than is left, even more than this: then it is the first of an entry, which always goes through, or
    /// it asks for all of an entry (`memory_op::afford`).
    pub const FULL: Self = Self(700);
    /// What is left to an entry that has waited for a device: no further step.
    pub const SPENT: Self = Self(0);
    /// For work before there are guests that could wait.
    pub const ENDLESS: Self = Self(u32::MAX);

    /// What it costs to interrupt another CPU and to wait for it: a microsecond or two.
    pub const OTHER_CPU: u32 = 20;

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
        self.take(5)
    }

    /// Takes what looking at a table costs, beside its entries; `false` if there was not enough left.
    pub fn spend_table(&mut self) -> bool {
        self.take(20)
    }

    /// Takes what an entry of a table costs that is not empty; `false` if there was not enough left.
    pub fn spend_entry(&mut self) -> bool {
        self.take(1)
    }

    /// Takes what a step has cost that could not be known before; all that is left, if that is less. So a step that is gone
    /// through gets on, however little there was.
    pub fn pay(&mut self, units: u32) {
        self.0 = self.0.saturating_sub(units);
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
