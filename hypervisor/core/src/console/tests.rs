use oxen_arch::SimConfig;

use super::*;

/// A machine whose console is set up by a command line.
struct Setup {
    machine: Machine,
    console: Console,
}

impl Setup {
    fn new(command_line: &str) -> Self {
        let (machine, _) = Machine::new(SimConfig::new(4 << 20));
        let console = Console::new(&machine).unwrap();
        let setup = Self { machine, console };
        let parsed = CommandLine::parse(command_line);
        assert!(parsed.warnings.is_empty());
        setup.out(0).configure(&parsed.settings, 0);
        setup
    }

    fn out(&self, tsc: u64) -> Out<'_> {
        self.console.on(&self.machine, tsc)
    }

    fn serial(&self) -> String {
        String::from_utf8(self.machine.serial_output()).unwrap()
    }

    fn screen(&self) -> String {
        String::from_utf8(self.machine.screen_output()).unwrap()
    }

    fn ring(&self) -> String {
        let mut buffer = vec![0; LOG_SIZE];
        let (len, _) = self.console.read_log(None, &mut buffer);
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }
}

#[test]
fn a_line_goes_where_the_command_line_says() {
    for (command_line, to_serial, to_screen) in [
        ("", false, true),
        ("console=com1", true, false),
        ("console=com1,vga", true, true),
        ("console=none", false, false),
        ("com1=115200", true, true),
    ] {
        let setup = Setup::new(command_line);
        crate::info!(setup.out(0), "{} pages", 7);
        assert_eq!(
            setup.serial() == "(OXEN) 7 pages\r\n",
            to_serial,
            "{command_line:?}"
        );
        assert_eq!(
            setup.screen() == "(OXEN) 7 pages\n",
            to_screen,
            "{command_line:?}"
        );
        assert_eq!(setup.serial().is_empty(), !to_serial);
        assert_eq!(setup.screen().is_empty(), !to_screen);
        assert_eq!(setup.ring(), "(OXEN) 7 pages\n");
    }
}

#[test]
fn lines_wait_for_the_command_line() {
    let (machine, _) = Machine::new(SimConfig::new(4 << 20));
    let console = Console::new(&machine).unwrap();
    let out = console.on(&machine, 0);
    crate::info!(out, "early");
    assert!(machine.serial_output().is_empty() && machine.screen_output().is_empty());
    out.configure(&CommandLine::parse("console=com1").settings, 0);
    assert_eq!(machine.serial_output(), b"(OXEN) early\r\n");
}

#[test]
fn each_line_of_a_message_has_its_prefix_and_long_ones_are_whole() {
    let setup = Setup::new("console=com1");
    crate::warn!(setup.out(0), "one\n\nthree\n");
    assert_eq!(setup.serial(), "(OXEN) one\r\n(OXEN) \r\n(OXEN) three\r\n");
    let long = "long ".repeat(100);
    crate::error!(setup.out(0), "{long}");
    assert!(setup.serial().ends_with(&format!("(OXEN) {long}\r\n")));
}

#[test]
fn nothing_but_printable_characters_is_logged() {
    let setup = Setup::new("console=com1");
    crate::info!(setup.out(0), "\x1b[2J\r\x07\0é\u{9b}\ttab~\x7f");
    assert_eq!(
        setup.serial(),
        "(OXEN) ?[2J????".to_owned() + "?\ttab~?\r\n"
    );
}

#[test]
fn levels() {
    for (command_line, wanted) in [
        ("", "ewi"),
        ("loglvl=none", ""),
        ("loglvl=error", "e"),
        ("loglvl=warning", "ew"),
        ("loglvl=all", "ewid"),
        ("loglvl=none/debug", "ewid"),
    ] {
        let setup = Setup::new(command_line);
        let out = setup.out(0);
        crate::error!(out, "e");
        crate::warn!(out, "w");
        crate::info!(out, "i");
        crate::debug!(out, "d");
        assert_eq!(
            setup.ring().replace("(OXEN) ", "").replace('\n', ""),
            wanted,
            "{command_line:?}"
        );
    }
}

#[test]
fn guests_cannot_flood_the_log() {
    let setup = Setup::new("guest_loglvl=none/warning");
    let second = u64::from(setup.machine.tsc_khz()) * 1000;
    let (noisy, quiet) = (DomId::new(1), DomId::new(2));
    let start = 100 * second;
    for n in 0..1000 {
        setup
            .out(start)
            .guest_log(noisy, Level::Warning, format_args!("line {n}"));
        setup
            .out(start)
            .guest_log(noisy, Level::Info, format_args!("unwanted"));
    }
    assert_eq!(setup.ring().lines().count(), 10);
    // Another guest is still heard, and so is Oxen.
    setup
        .out(start)
        .guest_log(quiet, Level::Error, format_args!("hello"));
    crate::info!(setup.out(start), "own");
    assert!(setup.ring().ends_with("(OXEN) d2: hello\n(OXEN) own\n"));
    // Two a second, and it is said how many are missing.
    setup
        .out(start + second)
        .guest_log(noisy, Level::Warning, format_args!("again"));
    assert!(
        setup
            .ring()
            .ends_with("(OXEN) 990 messages were left out\n(OXEN) d1: again\n")
    );

    let loud = Setup::new("guest_loglvl=all");
    (0..100).for_each(|n| {
        loud.out(start)
            .guest_log(noisy, Level::Debug, format_args!("{n}"))
    });
    assert_eq!(loud.ring().lines().count(), 100);
}

#[test]
fn timestamps() {
    let tsc = |setup: &Setup, us: u64| us * u64::from(setup.machine.tsc_khz()) / 1000 + 500;
    let setup = Setup::new("console_timestamps=boot");
    setup
        .out(0)
        .configure(&CommandLine::parse("console_timestamps=boot").settings, 500);
    crate::info!(setup.out(tsc(&setup, 12_345_678)), "x");
    crate::info!(setup.out(0), "before the start");
    assert_eq!(
        setup.ring(),
        "(OXEN) [    12.345678] x\n(OXEN) [     0.000000] before the start\n"
    );
    let setup = Setup::new("console_timestamps=raw");
    crate::info!(setup.out(0xabc), "x");
    assert_eq!(setup.ring(), "(OXEN) [0000000000000abc] x\n");
}

#[test]
fn output_of_dom0_passes_as_it_is_and_keeps_out_of_the_log() {
    let setup = Setup::new("console=com1,vga");
    setup.out(0).write_for_dom0(b"\x1b[1mlogin\x00: \xff");
    let passed = b"\x1b[1mlogin\x00: \xff";
    assert_eq!(setup.machine.serial_output(), passed);
    assert_eq!(setup.machine.screen_output(), passed);
    assert_eq!(setup.ring(), "");
    // A line of the log does not start in the middle of one of dom0.
    crate::info!(setup.out(0), "x");
    assert!(
        setup
            .machine
            .serial_output()
            .ends_with(b"\xff\r\n(OXEN) x\r\n")
    );
    assert_eq!(setup.ring(), "(OXEN) x\n");
}

#[test]
fn the_serial_line_gets_one_carriage_return_per_line() {
    let setup = Setup::new("console=com1");
    for part in [&b"a\nb\r\nc\r"[..], b"\nd"] {
        setup.out(0).write_for_dom0(part);
    }
    setup.out(0).write_for_dom0(&[b'\n'; 300]);
    assert_eq!(
        setup.serial(),
        "a\r\nb\r\nc\r\nd".to_owned() + &"\r\n".repeat(300)
    );
}

#[test]
fn dom0_takes_the_screen_over() {
    let setup = Setup::new("console=com1,vga");
    setup.out(0).release_screen();
    crate::info!(setup.out(0), "x");
    assert_eq!(setup.screen(), "");
    assert_eq!(setup.serial(), "(OXEN) x\r\n");
}

#[test]
fn what_is_typed_goes_to_the_listener() {
    let setup = Setup::new("console=com1");
    let out = setup.out(0);
    let typed = || {
        let mut buffer = [0; 64];
        let (len, seen) = setup.console.peek_input(&mut buffer);
        assert!(setup.console.take_input(seen));
        buffer[..len].to_vec()
    };
    // There is no dom0 yet.
    assert_eq!(out.input(b'm'), Input::Key(DebugKey::Memory));
    setup.console.dom0_starts();
    for byte in b"ls\n" {
        assert_eq!(out.input(*byte), Input::ForDom0);
    }
    assert_eq!(typed(), b"ls\n");

    assert_eq!(out.input(1), Input::Nothing);
    assert_eq!(out.input(b'x'), Input::ForDom0);
    assert_eq!(typed(), b"\x01x");

    for _ in 0..3 {
        assert_eq!(out.input(1), Input::Nothing);
    }
    assert!(
        setup.serial().ends_with(
            "(OXEN) input goes to Oxen, h lists the keys; Ctrl-a three times switches\r\n"
        )
    );
    assert_eq!(out.input(b'h'), Input::Key(DebugKey::Help));
    assert_eq!(out.input(b'z'), Input::Nothing);
    assert_eq!(typed(), b"");
    for _ in 0..3 {
        out.input(1);
    }
    assert!(
        setup
            .serial()
            .ends_with("(OXEN) input goes to dom0; Ctrl-a three times switches\r\n")
    );
    assert_eq!(out.input(b'h'), Input::ForDom0);
}

#[test]
fn the_list_of_keys_names_all() {
    let setup = Setup::new("loglvl=none");
    setup.out(0).write_keys();
    setup.out(0).answer(format_args!("answer"));
    let ring = setup.ring();
    assert_eq!(ring.lines().count(), KEYS.len() + 1);
    for &(key, _, meaning) in KEYS {
        assert!(ring.contains(&format!("(OXEN) {}: {meaning}\n", char::from(key))));
    }
}

#[test]
fn the_log_can_be_read_cleared_and_written_again() {
    let setup = Setup::new("console=com1");
    crate::info!(setup.out(0), "one");
    let mut buffer = [0; 64];
    let (_, next) = setup.console.read_log(None, &mut buffer);
    crate::info!(setup.out(0), "two");
    let (len, _) = setup.console.read_log(Some(next), &mut buffer);
    assert_eq!(&buffer[..len], b"(OXEN) two\n");
    setup.console.clear_log(next);
    assert_eq!(setup.ring(), "(OXEN) two\n");
    setup.out(0).write_log_again();
    assert_eq!(setup.serial(), "(OXEN) one\r\n(OXEN) two\r\n(OXEN) two\r\n");
    assert_eq!(setup.ring(), "(OXEN) two\n");
}

#[test]
fn a_panic_is_heard_even_while_the_console_is_held() {
    let setup = Setup::new("console=com1 loglvl=none");
    setup.out(0).panic_log(format_args!("first"));
    assert_eq!(setup.ring(), "(OXEN) first\n");
    let held = setup.console.state.lock();
    setup.out(0).panic_log(format_args!("second"));
    drop(held);
    assert!(setup.serial().ends_with("(OXEN) second\r\n"));
    assert_eq!(setup.screen(), "(OXEN) second\n");
    assert_eq!(setup.ring(), "(OXEN) first\n");
}

#[test]
fn a_panic_before_the_command_line_is_known_is_heard_too() {
    let (machine, _) = Machine::new(SimConfig::new(4 << 20));
    let console = Console::new(&machine).unwrap();
    let out = console.on(&machine, 0);
    crate::info!(out, "early");
    out.panic_log(format_args!("panic"));
    out.panic_log(format_args!("and why"));
    assert_eq!(
        machine.screen_output(),
        b"(OXEN) early\n(OXEN) panic\n(OXEN) and why\n"
    );
    assert_eq!(
        machine.serial_output(),
        b"(OXEN) early\r\n(OXEN) panic\r\n(OXEN) and why\r\n"
    );
}
