//! Everything that keeps a hypervisor busy for long, each as often as one call can ask for it (XSA-45, 290).
//!
//! A list of a thousand operations, of which each is dear: pages cleared, trees pinned and let go, frames given back with
//! their last use. The hypervisor must stop in between; what the guest sees is that all is done, each time. How long the
//! longest entry was says `cargo xtask bench entries`.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

mod batches;
mod frames;
mod lists;
mod tables;

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::xen::MmuextCommand;
use guest_pv_drivers::hypercall;
use kit::Report;
use kit::memory::Page;

kit::guest!("long-entry", main);

/// Words of a list.
const LIST_PAGES: usize = 48;
static LIST: [Page; LIST_PAGES] = [const { Page::new() }; LIST_PAGES];
/// A second one, for what the calls of a batch name.
static INNER: [Page; 2] = [const { Page::new() }; 2];
const SELF: u64 = DomId::SELF.get() as u64;

type Answer = Result<u64, Errno>;

fn main(report: &mut Report) {
    lists::check(report);
    tables::check(report);
    frames::check(report);
    batches::check(report);
}

/// Fills pages that lie one behind the other with words; returns where they are.
fn fill(pages: &'static [Page], words: impl Iterator<Item = u64>) -> u64 {
    for (index, word) in words.enumerate() {
        let trap = pages[index / 512].set_word(index % 512, word);
        assert!(trap.is_none(), "the list is the guest's own");
    }
    pages[0].address()
}

/// Carries out operations of `mmuext_op` in one call; all of them must be done.
fn operations(
    report: &mut Report,
    name: &str,
    count: usize,
    operation: impl Fn(usize) -> (MmuextCommand, u64, u64),
) {
    let words = (0..count).flat_map(|index| {
        let (command, first, second) = operation(index);
        [command as u64, first, second]
    });
    let list = fill(&LIST, words);
    call_list(report, name, Hypercall::MmuextOp, list, count);
}

/// Carries out requests of `mmu_update` in one call; all of them must be done.
fn updates(report: &mut Report, name: &str, count: usize, request: impl Fn(usize) -> (u64, u64)) {
    let words = (0..count).flat_map(|index| <[u64; 2]>::from(request(index)));
    let list = fill(&LIST, words);
    call_list(report, name, Hypercall::MmuUpdate, list, count);
}

fn call_list(report: &mut Report, name: &str, call: Hypercall, list: u64, count: usize) {
    let mut done = u32::MAX;
    let told = (&raw mut done).expose_provenance() as u64;
    // SAFETY: the lists change nothing that Rust knows of.
    let answer = unsafe { hypercall::call(call, [list, count as u64, told, SELF, 0]) };
    report.equal(name, (answer, done), (Ok(0), count as u32));
}

/// Makes calls in one batch; each must return what `right` says.
fn batch(
    report: &mut Report,
    name: &str,
    count: usize,
    right: Answer,
    call: impl Fn(usize) -> (Hypercall, [u64; 5]),
) {
    const WORDS: usize = 8;
    let words = (0..count).flat_map(|index| {
        let (call, [a, b, c, d, e]) = call(index);
        [call.number(), u64::MAX, a, b, c, d, e, 0]
    });
    let list = fill(&LIST, words);
    // SAFETY: the calls change nothing that Rust knows of.
    let answer = unsafe { hypercall::call(Hypercall::Multicall, [list, count as u64, 0, 0, 0]) };
    let result = |index: usize| {
        let word = index * WORDS + 1;
        hypercall::decode(LIST[word / 512].word(word % 512).unwrap_or(u64::MAX))
    };
    let wrong = (0..count).find(|&index| result(index) != right);
    report.equal(
        name,
        (answer, wrong.map(|index| (index, result(index)))),
        (Ok(0), None),
    );
}
