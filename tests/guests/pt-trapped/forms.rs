//! The forms of writing instructions, each against what the CPU makes of it.

use kit::memory::{Page, pte};
use kit::page_tables::{Lab, READ_ONLY, page};
use kit::trap::vector;
use kit::{Report, Trap, probe};

use crate::SLOT;
use crate::table::FORMS;

/// What an instruction starts with and leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub operand: u64,
    pub rax: u64,
    pub flags: u64,
}

/// Runs an instruction on the eight bytes at an address, with flags as a comparison of 1 and 2 leaves them.
pub type Run = fn(u64, &mut State) -> Option<Trap>;

/// A [`Run`]: `{a}` is the address, `{v}` the operand; r8 and r9 are free.
#[macro_export]
macro_rules! form {
    ($code:literal) => {
        |address: u64, state: &mut $crate::forms::State| {
            let (operand, rax, flags): (u64, u64, u64);
            let trap = kit::probe!(
                concat!("mov r8d, 1\n cmp r8d, 2\n", $code, "\n pushfq\n pop {f} /* {v} {a} */");
                a = in(reg) address,
                v = inout(reg) state.operand => operand,
                f = inout(reg) state.flags => flags,
                inout("rax") state.rax => rax,
                out("rdi") _,
                out("rcx") _,
                out("r8") _,
                out("r9") _,
            );
            *state = $crate::forms::State { operand, rax, flags };
            trap
        }
    };
}

/// An instruction, and with what.
pub struct Form {
    /// How it is written.
    pub name: &'static str,
    /// The instruction.
    pub run: Run,
    /// The operand, from the entry.
    pub operand: fn(u64) -> u64,
    /// rax, from the entry.
    pub rax: fn(u64) -> u64,
    /// Which flags are defined afterwards.
    pub flags: u64,
    /// Whether it must be carried out.
    pub needed: bool,
}

/// An entry as a test starts with it, and what a page has in its place.
struct Bench {
    lab: Lab,
    plain: &'static Page,
    entry: u64,
}

pub fn check(report: &mut Report, lab: Lab) {
    let data = page();
    let bench = Bench {
        lab,
        plain: page(),
        // Software bits are the guest's; what the hypervisor adds to an entry is in it once it was written.
        entry: data.machine() | READ_ONLY | 1 << 10 | 1 << 54,
    };
    for form in FORMS {
        bench.run(report, form);
    }
}

impl Bench {
    fn run(&self, report: &mut Report, form: &Form) {
        let name = form.name;
        let table = self.lab.table(1);
        if self.lab.set(1, SLOT, self.entry).is_err() {
            return report.check(name, false, "the entry is refused");
        }
        let before = table.entry(SLOT);
        let _ = self.plain.set_word(SLOT, before);
        let start = State {
            operand: (form.operand)(before),
            rax: (form.rax)(before),
            flags: 0,
        };

        let mut right = start;
        let trapped = (form.run)(self.plain.address() + SLOT as u64 * 8, &mut right);
        if let Some(trap) = trapped {
            return report.skip(name, format_args!("the CPU: {trap}"));
        }
        let mut seen = start;
        let place = table.address + SLOT as u64 * 8;
        let trap = (form.run)(place, &mut seen);
        let words = [SLOT - 1, SLOT, SLOT + 1].map(|slot| table.entry(slot));
        if self.lab.set(1, SLOT, 0).is_err() {
            report.check(format_args!("{name}: cleared"), false, "refused");
        }

        if let Some(trap) = trap {
            // Where the bytes begin that were to be written.
            let cr2 = trap.cr2 & !7;
            let fault = (trap.vector, trap.error, cr2) == (vector::PF, Some(3), place);
            report.check(
                format_args!("{name}: a page fault that changes nothing"),
                fault && !form.needed && words == [0, before, 0],
                trap,
            );
            return;
        }
        let expected = self.plain.word(SLOT).unwrap_or(0);
        report.equal(
            format_args!("{name}: memory"),
            words.map(without_marks),
            [0, without_marks(expected), 0],
        );
        let defined = |state: State| State {
            flags: state.flags & form.flags,
            // What was in memory may carry marks of the hypervisor's; it was read from there.
            ..state
        };
        report.equal(
            format_args!("{name}: registers and flags"),
            defined(seen),
            defined(right),
        );
    }
}

/// A write that is carried out is one step: the single-step trap comes behind it.
pub fn stepped(report: &mut Report, lab: Lab) {
    let table = lab.table(1);
    let data = page();
    let entry = data.machine() | READ_ONLY;
    let address = table.address + SLOT as u64 * 8;
    let behind: u64;
    // The flag takes effect behind the instruction that follows popfq.
    let trap = probe!(
        "lea {b}, [rip + 77f]
         pushfq
         or qword ptr [rsp], {tf}
         popfq
         mov [{a}], {v}
         77: nop
         nop";
        a = in(reg) address,
        v = in(reg) entry,
        b = out(reg) behind,
        tf = const kit::registers::flags::TF,
    );
    report.equal(
        "single-stepped: the trap comes behind the write",
        (
            trap.map(|trap| (trap.vector, trap.frame.rip.wrapping_sub(behind))),
            table.entry(SLOT) & pte::MFN,
        ),
        (Some((vector::DB, 0)), data.machine()),
    );
    report.equal("single-stepped: cleared", lab.set(1, SLOT, 0), Ok(0));
}

/// An entry but for what a hypervisor may add to it: global, user, its own mark.
fn without_marks(entry: u64) -> u64 {
    if entry & pte::P == 0 {
        entry
    } else {
        entry & !(pte::G | pte::U | 1 << 52)
    }
}

/// The instructions that must be carried out, for those who try where they must not be.
pub fn needed() -> impl Iterator<Item = (&'static str, Run)> {
    FORMS
        .iter()
        .filter(|form| form.needed && form.name.contains("m64"))
        .map(|form| (form.name, form.run))
}

/// A plain eight-byte store.
pub fn store(address: u64, value: u64) -> Option<Trap> {
    probe!("mov [{a}], {v}"; a = in(reg) address, v = in(reg) value)
}
