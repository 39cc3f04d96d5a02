//! Who gets what is typed on the serial line.

use crate::cmdline::ConSwitch;

/// Typed so often in a row, the switch character moves the input.
const REPEAT: u8 = 3;

/// Who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Dom0's console.
    Dom0,
    /// The debug keys.
    Oxen,
}

/// What a character leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// It may be a part of the switch sequence.
    Held,
    /// The listener gets `held` switch characters that turned out to be none of the sequence, and then the character.
    Deliver {
        /// Who listens.
        to: Listener,
        /// How many switch characters come before it.
        held: u8,
    },
    /// The sequence is complete: there is a new listener.
    Switched(Listener),
}

/// The state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    code: Option<u8>,
    keep: bool,
    listener: Listener,
    /// Switch characters in a row so far.
    held: u8,
}

impl Switch {
    /// Starts with Oxen listening: there is no dom0 yet.
    pub const fn new(settings: ConSwitch) -> Self {
        Self {
            code: settings.code,
            keep: settings.keep,
            listener: Listener::Oxen,
            held: 0,
        }
    }

    /// The character that switches, if one does.
    pub fn code(&self) -> Option<u8> {
        self.code
    }

    /// Dom0 runs from now on, and listens unless the command line says otherwise.
    pub fn dom0_starts(&mut self) {
        if !self.keep {
            self.listener = Listener::Dom0;
        }
    }

    /// Takes one character.
    pub fn typed(&mut self, byte: u8) -> Typed {
        if self.code != Some(byte) {
            return Typed::Deliver {
                to: self.listener,
                held: core::mem::take(&mut self.held),
            };
        }
        self.held = self.held.saturating_add(1);
        if self.held < REPEAT {
            return Typed::Held;
        }
        self.held = 0;
        self.listener = match self.listener {
            Listener::Dom0 => Listener::Oxen,
            Listener::Oxen => Listener::Dom0,
        };
        Typed::Switched(self.listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CTRL_A: u8 = 1;

    fn with_dom0() -> Switch {
        let mut switch = Switch::new(ConSwitch {
            code: Some(CTRL_A),
            keep: false,
        });
        switch.dom0_starts();
        switch
    }

    #[test]
    fn three_in_a_row_switch_and_three_more_switch_back() {
        let mut switch = with_dom0();
        for listener in [Listener::Oxen, Listener::Dom0, Listener::Oxen] {
            assert_eq!(switch.typed(CTRL_A), Typed::Held);
            assert_eq!(switch.typed(CTRL_A), Typed::Held);
            assert_eq!(switch.typed(CTRL_A), Typed::Switched(listener));
            assert_eq!(
                switch.typed(b'x'),
                Typed::Deliver {
                    to: listener,
                    held: 0
                }
            );
        }
    }

    #[test]
    fn fewer_than_three_are_delivered() {
        let mut switch = with_dom0();
        for held in 0..3 {
            for _ in 0..held {
                assert_eq!(switch.typed(CTRL_A), Typed::Held);
            }
            assert_eq!(
                switch.typed(b'x'),
                Typed::Deliver {
                    to: Listener::Dom0,
                    held
                }
            );
        }
    }

    #[test]
    fn dom0_listens_once_it_runs_unless_told_otherwise() {
        for (keep, listener) in [(false, Listener::Dom0), (true, Listener::Oxen)] {
            let mut switch = Switch::new(ConSwitch {
                code: Some(CTRL_A),
                keep,
            });
            assert_eq!(
                switch.typed(b'h'),
                Typed::Deliver {
                    to: Listener::Oxen,
                    held: 0
                }
            );
            switch.dom0_starts();
            assert_eq!(
                switch.typed(b'h'),
                Typed::Deliver {
                    to: listener,
                    held: 0
                }
            );
        }
    }

    #[test]
    fn without_a_switch_character_nothing_is_held() {
        let mut switch = Switch::new(ConSwitch {
            code: None,
            keep: false,
        });
        switch.dom0_starts();
        for byte in (0..=u8::MAX).chain([CTRL_A; 9]) {
            assert_eq!(
                switch.typed(byte),
                Typed::Deliver {
                    to: Listener::Dom0,
                    held: 0
                }
            );
        }
    }
}
