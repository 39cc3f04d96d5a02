//! Whatever devices and a kernel do in whatever order: nothing is lost, and nobody hears of what is not his.

use proptest::prelude::*;

use super::*;

/// Lines that devices use: an edge, and two levels; and two that none uses.
const LINES: [u32; 5] = [5, 17, 18, 6, 19];
const USED: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Hold(usize, bool),
    Interrupts,
    Map(usize),
    Unmap(usize),
    Bind(usize),
    Close(usize),
    Take(usize),
    Eoi(usize),
    Setup(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let (used, each) = (0..USED, 0..LINES.len());
    prop_oneof![
        12 => (used.clone(), any::<bool>()).prop_map(|(line, held)| Step::Hold(line, held)),
        8 => Just(Step::Interrupts),
        3 => each.clone().prop_map(Step::Map),
        1 => each.clone().prop_map(Step::Unmap),
        3 => each.clone().prop_map(Step::Bind),
        1 => each.clone().prop_map(Step::Close),
        8 => each.clone().prop_map(Step::Take),
        5 => each.prop_map(Step::Eoi),
        1 => (used, any::<bool>()).prop_map(|(line, level)| Step::Setup(line, level)),
    ]
}

/// What the kernel, and somebody who sees everything, know of a line.
#[derive(Clone, Copy, Default)]
struct Known {
    port: Option<Port>,
    is_mapped: bool,
    /// The port is told of it: it was bound since the line was mapped.
    is_bound: bool,
    is_held: bool,
    is_level: bool,
    /// There was an edge since the kernel looked last.
    is_due: bool,
}

struct Play {
    kernel: Kernel,
    lines: [Known; LINES.len()],
}

impl Play {
    fn new() -> Self {
        Self {
            kernel: Kernel::new(),
            lines: LINES.map(|gsi| Known {
                is_level: gsi >= 16,
                ..Known::default()
            }),
        }
    }

    fn happen(&mut self, step: Step) {
        let kernel = &mut self.kernel;
        match step {
            Step::Hold(index, is_held) => {
                let line = &mut self.lines[index];
                let is_edge = is_held && !line.is_held && !line.is_level;
                line.is_held = is_held;
                line.is_due |= is_edge && line.is_bound;
                kernel.guest.host.machine.hold_line(LINES[index], is_held);
            }
            Step::Interrupts => {
                // Of each line one that waits, and one that comes as it is opened; each is heard at most twice until the answer.
                assert!(kernel.interrupts() <= 2 * LINES.len());
            }
            Step::Map(index) => {
                assert_eq!(kernel.map(LINES[index]), 0);
                self.lines[index].is_mapped = true;
            }
            Step::Unmap(index) => {
                let line = &mut self.lines[index];
                assert_eq!(kernel.unmap(LINES[index]) == 0, line.is_mapped);
                (line.is_mapped, line.is_bound, line.is_due) = (false, false, false);
            }
            Step::Bind(index) => {
                let line = &mut self.lines[index];
                let result = kernel.bind(LINES[index]);
                let may_bind = line.is_mapped && !line.is_bound;
                // The port of an interrupt that was unmapped is bound to nothing.
                if let Ok(port) = result {
                    assert!(may_bind);
                    if let Some(old) = line.port.replace(port) {
                        kernel.close(old);
                    }
                    (line.is_bound, line.is_due) = (true, false);
                } else {
                    assert!(!may_bind, "{result:?}");
                }
            }
            Step::Close(index) => {
                let line = &mut self.lines[index];
                if let Some(port) = line.port.take() {
                    kernel.close(port);
                    (line.is_bound, line.is_due) = (false, false);
                }
            }
            Step::Take(index) => {
                let line = &mut self.lines[index];
                if let Some(port) = line.port
                    && kernel.take(port)
                {
                    line.is_due = false;
                }
            }
            Step::Eoi(index) => {
                let result = kernel.eoi(LINES[index]);
                assert_eq!(result == 0, self.lines[index].is_mapped);
            }
            Step::Setup(index, is_level) => {
                let line = &mut self.lines[index];
                if kernel.setup(LINES[index], is_level.into(), 0) == 0 {
                    (line.is_level, line.is_due) = (is_level, false);
                }
            }
        }
        for line in &self.lines[USED..] {
            let is_told = line.port.is_some_and(|port| self.kernel.is_pending(port));
            assert!(!is_told, "an interrupt of another");
        }
    }

    /// The kernel answers what it may owe an answer to, and hears of all that is to be heard.
    fn end(&mut self) {
        for (gsi, line) in LINES.into_iter().zip(self.lines) {
            let kernel = &mut self.kernel;
            kernel.interrupts();
            let Some(port) = line.port.filter(|_| line.is_bound) else {
                continue;
            };
            let mut is_told = false;
            for _ in 0..3 {
                is_told |= kernel.is_pending(port);
                assert_eq!(kernel.eoi(gsi), 0);
                kernel.interrupts();
                is_told |= kernel.is_pending(port);
            }
            if line.is_level && line.is_held || line.is_due {
                assert!(is_told, "line {gsi} is not heard: {line:?}");
            }
        }
    }
}

impl core::fmt::Debug for Known {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self {
            is_level,
            is_held,
            is_due,
            ..
        } = self;
        write!(f, "level {is_level}, held {is_held}, due {is_due}")
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 300 }))]
    #[test]
    fn nothing_is_lost_and_nobody_hears_of_what_is_not_his(
        steps in prop::collection::vec(step(), 1..200)
    ) {
        let mut play = Play::new();
        let begin = (0..LINES.len()).flat_map(|line| [Step::Map(line), Step::Bind(line)]);
        for step in begin.chain(steps) {
            play.happen(step);
        }
        play.end();
    }
}
