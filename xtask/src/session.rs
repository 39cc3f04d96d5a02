//! A machine under test: its serial console is read and compared with what is expected, within a hard limit of time.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use regex_lite::Regex;

use crate::mapping;
use crate::picture::Picture;

/// What a machine must show, in this order.
#[derive(Clone, Debug)]
pub enum Expect {
    /// A line that holds this text, after what was seen so far.
    Line(String),
    /// A line that this pattern matches, anywhere in the log, also before what was seen so far.
    Pattern(String),
    /// The micro-guest's verdict `GUEST name: PASS`, and no `: FAIL` before it.
    Pass(String),
    /// Nothing: this is typed on the serial console.
    Type(String),
    /// Nothing: this is a command for QEMU's monitor.
    Monitor(String),
    /// This text on the VGA text screen.
    Screen(String),
    /// This text on a screen of pixels, in the font that Oxen draws.
    Picture(String),
    /// No page of the hypervisor can be both written and executed, and none but the machine-to-physical table be reached
    /// by a guest.
    WriteXorExecute,
    /// Every CPU is halted, and no interrupt will wake it.
    AllStopped,
    /// Every CPU but the first is halted until an interrupt comes, not once but for a while.
    OthersAsleep,
    /// The machine resets or powers off.
    End,
    /// The machine shows no line that this pattern matches, until it ends or stays silent for a while.
    Never(String),
}

/// How long a machine must be silent for `Expect::Never` to hold.
const SILENCE: Duration = Duration::from_secs(3);
/// How often sleeping CPUs are looked at.
const LOOKS_AT_SLEEPERS: u32 = 20;
/// The VGA text buffer.
const SCREEN: (u32, usize) = (0xb8000, 80 * 25 * 2);

/// A running machine. It ends with this value.
pub struct Session {
    child: Child,
    output: Receiver<Vec<u8>>,
    log: File,
    errors: PathBuf,
    monitor: PathBuf,
    text: String,
    seen: usize,
    ended: bool,
    deadline: Instant,
    limit: Duration,
}

impl Session {
    /// Starts the machine; all that it shows goes to the file `log` too.
    pub fn start(mut command: Command, log: &Path, limit: Duration) -> Result<Session> {
        // The path of a socket must be short; that of the project need not be.
        let monitor = std::env::temp_dir().join(format!(
            "oxen-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        // A reset ends it: that can be waited for.
        command.args(["-no-reboot", "-display", "none"]);
        command.args(["-serial", "stdio", "-monitor"]);
        command.arg(format!("unix:{},server=on,wait=off", monitor.display()));
        let errors = log.with_extension("qemu.log");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?)
            .spawn()
            .context("cannot start QEMU")?;
        let mut console = child.stdout.take().context("QEMU has no output")?;
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = console.read(&mut buffer) {
                let Some(bytes) = buffer.get(..length) else {
                    break;
                };
                if sender.send(bytes.to_vec()).is_err() {
                    break;
                }
            }
        });
        let log = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let deadline = Instant::now() + limit;
        Ok(Session {
            child,
            output,
            log,
            errors,
            monitor,
            text: String::new(),
            seen: 0,
            ended: false,
            deadline,
            limit,
        })
    }

    /// Waits until the machine has shown all of it.
    pub fn expect(&mut self, expectations: &[Expect]) -> Result<()> {
        for expectation in expectations {
            match expectation {
                Expect::Line(text) => self
                    .wait_for(&format!("a line with {text:?}"), |session| {
                        session.find(text)
                    })?,
                Expect::Pattern(pattern) => {
                    let regex =
                        Regex::new(pattern).with_context(|| format!("bad pattern {pattern}"))?;
                    self.wait_for(&format!("a line that matches {pattern:?}"), |session| {
                        Ok(session.text.lines().any(|line| regex.is_match(line)))
                    })?;
                }
                Expect::Pass(guest) => self
                    .wait_for(&format!("the verdict of the guest {guest}"), |session| {
                        session.find_verdict(guest)
                    })?,
                Expect::Screen(text) => {
                    self.wait_for(&format!("{text:?} on the screen"), |session| {
                        // The monitor takes a moment to appear.
                        Ok(session.monitor.exists() && session.screen()?.contains(text))
                    })?
                }
                Expect::Picture(text) => self
                    .wait_for(&format!("{text:?} drawn on the screen"), |session| {
                        Ok(session.monitor.exists() && session.picture()?.contains(text))
                    })?,
                Expect::Monitor(command) => {
                    self.ask(command)?;
                }
                Expect::Type(text) => {
                    let console = self.child.stdin.as_mut().context("QEMU takes no input")?;
                    console.write_all(text.as_bytes())?;
                    console.flush()?;
                }
                Expect::WriteXorExecute => {
                    let pages = self.ask("info tlb")?;
                    mapping::check(&pages)?;
                }
                Expect::AllStopped => self.wait_for("every CPU to stop", |session| {
                    let states = halted(&session.ask("info registers -a")?, false);
                    Ok(!states.is_empty() && states.into_iter().all(|is_halted| is_halted))
                })?,
                Expect::OthersAsleep => {
                    let are_asleep = |session: &mut Session| -> Result<bool> {
                        let states = halted(&session.ask("info registers -a")?, true);
                        // One of them runs the guest, whichever that is.
                        let awake = states.iter().filter(|is_halted| !**is_halted).count();
                        Ok(states.len() > 1 && awake <= 1)
                    };
                    self.wait_for("the other CPUs to sleep", are_asleep)?;
                    for _ in 0..LOOKS_AT_SLEEPERS {
                        ensure!(are_asleep(self)?, "a CPU wakes that has nothing to do");
                    }
                }
                Expect::End => {
                    self.wait_for("the end of the machine", |session| Ok(session.ended))?
                }
                Expect::Never(pattern) => self.stays_without(pattern)?,
            }
        }
        Ok(())
    }

    /// All that the machine has shown so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Waits until `condition` holds, which is asked whenever something has changed.
    fn wait_for(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&mut Session) -> Result<bool>,
    ) -> Result<()> {
        loop {
            if condition(self)? {
                return Ok(());
            }
            if self.ended {
                let errors = fs::read_to_string(&self.errors).unwrap_or_default();
                bail!(
                    "the machine ended before {what}{}{}",
                    if errors.is_empty() {
                        ""
                    } else {
                        "; QEMU says: "
                    },
                    errors.trim()
                );
            }
            if Instant::now() >= self.deadline {
                bail!("no sign of {what} within {} s", self.limit.as_secs());
            }
            self.read(Duration::from_millis(500))?;
        }
    }

    fn stays_without(&mut self, pattern: &str) -> Result<()> {
        let regex = Regex::new(pattern).with_context(|| format!("bad pattern {pattern}"))?;
        loop {
            if let Some(line) = self.text.lines().find(|line| regex.is_match(line)) {
                bail!("the machine shows {:?}", line.trim());
            }
            if self.ended || Instant::now() >= self.deadline || !self.read(SILENCE)? {
                return Ok(());
            }
        }
    }

    /// Takes what the machine shows within `time`; false when that is nothing.
    fn read(&mut self, time: Duration) -> Result<bool> {
        match self.output.recv_timeout(time) {
            Ok(bytes) => {
                self.log.write_all(&bytes)?;
                self.text.push_str(&String::from_utf8_lossy(&bytes));
                Ok(true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                Ok(false)
            }
        }
    }

    fn find(&mut self, text: &str) -> Result<bool> {
        let found = self.text.get(self.seen..).and_then(|rest| rest.find(text));
        if let Some(at) = found {
            self.seen += at + text.len();
        }
        Ok(found.is_some())
    }

    fn find_verdict(&mut self, guest: &str) -> Result<bool> {
        let verdict = verdict(&self.text, guest)?;
        if verdict {
            self.seen = self.text.len();
        }
        Ok(verdict)
    }

    /// What the VGA text buffer shows.
    fn screen(&mut self) -> Result<String> {
        let (at, size) = SCREEN;
        let bytes = self.dump(|file| format!("pmemsave {at:#x} {size} {file}"))?;
        let characters: String = bytes
            .chunks_exact(2)
            .filter_map(|cell| cell.first())
            .map(|&byte| char::from(byte))
            .collect();
        Ok(characters)
    }

    fn picture(&mut self) -> Result<String> {
        let bytes = self.dump(|file| format!("screendump {file}"))?;
        Picture::read(&bytes).map(|picture| picture.text())
    }

    /// Has the monitor write a file, and returns what is in it.
    fn dump(&mut self, command: impl FnOnce(&str) -> String) -> Result<Vec<u8>> {
        let dump = self.monitor.with_extension("screen");
        let answer = self.ask(&command(&format!("\"{}\"", dump.display())))?;
        let bytes =
            fs::read(&dump).with_context(|| format!("no screen from the monitor: {answer}"))?;
        fs::remove_file(&dump)?;
        Ok(bytes)
    }

    /// What the monitor answers to a command.
    fn ask(&mut self, command: &str) -> Result<String> {
        const PROMPT: &[u8] = b"(qemu)";
        let mut monitor = UnixStream::connect(&self.monitor)?;
        writeln!(monitor, "{command}")?;
        // The monitor has done it when it prompts again.
        monitor.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut answer = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        let prompts = |answer: &[u8]| {
            answer
                .windows(PROMPT.len())
                .filter(|at| *at == PROMPT)
                .count()
        };
        while prompts(&answer) < 2 {
            match monitor.read(&mut buffer)? {
                0 => break,
                length => answer.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// Tells the monitors of a process' machines apart.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Whether the guest has passed; an error when any check of it has failed.
fn verdict(text: &str, guest: &str) -> Result<bool> {
    let pass = format!("GUEST {guest}: PASS");
    // The last line may still grow.
    for line in text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
    {
        if line.contains(": FAIL") {
            bail!("the guest says: {}", line.trim());
        }
        if line.contains(&pass) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Drop for Session {
    fn drop(&mut self) {
        // Nothing is left to do when these fail: the machine has ended, or there never was a monitor.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.monitor);
    }
}

/// Of each CPU, in the order in which QEMU's monitor has shown the registers, whether it is halted, with interrupts on or off.
fn halted(registers: &str, takes_interrupts: bool) -> Vec<bool> {
    const INTERRUPTS: u32 = 1 << 9;
    let is_halted = |line: &str| {
        let flags = line.split("FL=").nth(1).and_then(|text| text.get(..8));
        let flags = flags.and_then(|text| u32::from_str_radix(text, 16).ok());
        let is_so = |flags| (flags & INTERRUPTS != 0) == takes_interrupts;
        line.contains("HLT=1") && flags.is_some_and(is_so)
    };
    let states = registers.lines().filter(|line| line.contains("HLT="));
    states.map(is_halted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell script in the place of a machine.
    fn machine(script: &str, limit_ms: u64, expectations: &[Expect]) -> Result<(), String> {
        let log = std::env::temp_dir().join(format!(
            "oxen-session-{}-{}.log",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        let mut command = Command::new("sh");
        command.args(["-c", script, "machine"]);
        let mut session = Session::start(command, &log, Duration::from_millis(limit_ms)).unwrap();
        let result = session
            .expect(expectations)
            .map_err(|error| error.to_string());
        for file in [log.with_extension("qemu.log"), log] {
            fs::remove_file(file).unwrap();
        }
        result
    }

    fn line(text: &str) -> Expect {
        Expect::Line(text.into())
    }

    #[test]
    fn lines_are_expected_in_order() {
        let script = "echo one; echo two";
        assert_eq!(
            machine(script, 5000, &[line("one"), line("two"), Expect::End]),
            Ok(())
        );
        assert_eq!(
            machine(script, 5000, &[line("two"), line("one")]),
            Err("the machine ended before a line with \"one\"".into())
        );
        assert_eq!(
            machine(
                script,
                5000,
                &[line("two"), Expect::Pattern("^o.e$".into())]
            ),
            Ok(())
        );
        assert_eq!(
            machine(script, 5000, &[Expect::Never("three".into())]),
            Ok(())
        );
        assert!(machine(script, 5000, &[Expect::Never("three|tw[o]".into())]).is_err());
    }

    #[test]
    fn a_machine_that_hangs_is_ended_at_its_limit() {
        let start = Instant::now();
        assert_eq!(
            machine("exec sleep 60", 700, &[line("one")]),
            Err("no sign of a line with \"one\" within 0 s".into())
        );
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_failed_check_spoils_a_later_pass() {
        assert!(verdict("GUEST a: PASS\n", "a").unwrap());
        assert!(verdict("(d0) GUEST a: PASS\r\n", "a").unwrap());
        assert!(!verdict("GUEST ab: PASS\nGUEST a: PASS", "a").unwrap());
        assert!(verdict("check x: FAIL\nGUEST a: PASS\n", "a").is_err());
    }

    #[test]
    fn a_cpu_that_sleeps_is_not_one_that_has_stopped() {
        let cpu = |flags: &str, halted: u32| {
            format!(
                "RIP=ffff808000001000 RFL={flags} [-------] CPL=0 II=0 A20=1 SMM=0 HLT={halted}\n"
            )
        };
        let states = [
            cpu("00000046", 1),
            cpu("00000246", 1),
            cpu("00000046", 0),
            cpu("00000246", 0),
        ];
        assert_eq!(halted(&states.concat(), false), [true, false, false, false]);
        assert_eq!(halted(&states.concat(), true), [false, true, false, false]);
        assert!(halted("CR0=80050033 CR2=0", false).is_empty());
    }
}
