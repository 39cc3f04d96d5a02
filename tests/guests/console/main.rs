//! The console from a guest's side: what is typed arrives, in order and once; until then nothing does.
//!
//! The guest says `ready`, and the runner types [`LINE`] then (`types` in `guests.toml`). Other tests of the host boot it
//! for its patience: it stays there until the line comes.
#![no_std]
#![no_main]

use guest_pv_drivers::hypercall;
use kit::{Report, println};

kit::guest!("console", main);

/// What is typed.
const LINE: &[u8] = b"typed by hand\r";

fn main(report: &mut Report) {
    let mut line = [0; LINE.len()];
    report.equal(
        "nothing typed yet",
        hypercall::console_read(&mut line),
        Ok(0),
    );
    println!("ready");
    let mut length = 0;
    while length < line.len() {
        // Few at a time, so that the rest has to wait its turn.
        let end = line.len().min(length + 3);
        match hypercall::console_read(&mut line[length..end]) {
            Ok(read) => length += read as usize,
            Err(errno) => return report.check("console read", false, format_args!("{errno:?}")),
        }
        if let Err(errno) = hypercall::sched_yield() {
            return report.check("yield", false, format_args!("{errno:?}"));
        }
    }
    report.equal("the line", &line[..], LINE);
    report.equal("nothing more", hypercall::console_read(&mut line), Ok(0));
}
