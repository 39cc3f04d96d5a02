use super::options::{MarkdownTable, OPTIONS};
use super::*;
use proptest::prelude::*;

fn settings(text: &str) -> CommandLine {
    let parsed = CommandLine::parse(text);
    assert!(
        parsed.warnings.is_empty(),
        "{text:?}: {:?}",
        parsed.warnings
    );
    parsed.settings
}

fn warnings(text: &str) -> Vec<(String, Problem)> {
    CommandLine::parse(text)
        .warnings
        .iter()
        .map(|warning| (warning.word.to_owned(), warning.problem))
        .collect()
}

#[test]
fn an_empty_line_is_all_defaults() {
    for text in ["", " ", "\t ", "--", " -- ", "-- "] {
        assert_eq!(settings(text), CommandLine::default(), "{text:?}");
    }
}

#[test]
fn a_usual_line() {
    let parsed = settings(
        "dom0_mem=512m,max:1g com1=115200,8n1 console=com1,vga loglvl=all guest_loglvl=all noreboot",
    );
    assert_eq!(parsed.dom0_mem.size, Some(Amount::bytes(512 * MIB)));
    assert_eq!(parsed.dom0_mem.max, Some(Amount::bytes(1024 * MIB)));
    assert_eq!(parsed.com1, Some(SerialPort::COM1));
    assert_eq!(
        parsed.consoles(),
        Consoles {
            com1: true,
            com2: false,
            screen: true
        }
    );
    assert_eq!(parsed.loglvl.always, Some(Level::Debug));
    assert_eq!(parsed.guest_loglvl.always, Some(Level::Debug));
    assert!(parsed.noreboot);
}

#[test]
fn every_option_changes_its_field() {
    type Change = fn(&mut CommandLine);
    let changes: [(&str, Change); 22] = [
        ("com1=9600", |c| {
            c.com1 = Some(SerialPort {
                baud: Some(9600),
                ..SerialPort::COM1
            })
        }),
        ("com2=9600", |c| {
            c.com2 = Some(SerialPort {
                baud: Some(9600),
                ..SerialPort::COM2
            })
        }),
        ("console=none", |c| c.console = Some(Consoles::default())),
        ("console_timestamps=boot", |c| {
            c.console_timestamps = Timestamps::Boot
        }),
        ("conswitch=bx", |c| {
            c.conswitch = ConSwitch {
                code: Some(2),
                keep: true,
            }
        }),
        ("dom0_max_vcpus=2", |c| {
            c.dom0_max_vcpus = Dom0Vcpus { min: 2, max: 2 }
        }),
        ("dom0_mem=1g", |c| {
            c.dom0_mem.size = Some(Amount::bytes(1 << 30))
        }),
        ("dom0_vcpus_pin", |c| c.dom0_vcpus_pin = true),
        ("gnttab_max_frames=0x200", |c| {
            c.grant_limits.max_grant_frames = 512
        }),
        ("gnttab_max_maptrack_frames=0", |c| {
            c.grant_limits.max_maptrack_frames = 0
        }),
        ("guest_loglvl=error", |c| {
            c.guest_loglvl = LogLevels {
                always: Some(Level::Error),
                limited: Some(Level::Error),
            }
        }),
        ("loglvl=none/debug", |c| {
            c.loglvl = LogLevels {
                always: None,
                limited: Some(Level::Debug),
            }
        }),
        ("maxcpus=2", |c| c.maxcpus = 2),
        ("mem=2g", |c| c.mem = Some(2 << 30)),
        ("noreboot=yes", |c| c.noreboot = true),
        ("nosmp", |c| c.nosmp = true),
        ("pcid", |c| c.pcid = true),
        ("reboot=no", |c| c.noreboot = true),
        ("no-smap", |c| c.smap = false),
        ("smep=off", |c| c.smep = false),
        ("sync_console", |c| c.sync_console = true),
        ("xpti=1", |c| c.xpti = Some(true)),
    ];
    for ((text, change), option) in changes.iter().zip(OPTIONS) {
        assert!(
            text.trim_start_matches("no-").starts_with(option.name),
            "{text} is not the row of {}",
            option.name
        );
        let mut wanted = CommandLine::default();
        change(&mut wanted);
        assert_ne!(wanted, CommandLine::default());
        assert_eq!(settings(text), wanted, "{text:?}");
    }
    assert_eq!(changes.len(), OPTIONS.len());
}

#[test]
fn xpti_is_for_all_for_none_or_as_the_cpu_is() {
    for (text, wanted) in [
        ("", None),
        ("xpti", Some(true)),
        ("xpti=on", Some(true)),
        ("xpti=off", Some(false)),
        ("no-xpti", Some(false)),
        ("xpti=default", None),
        ("xpti=on xpti=default", None),
    ] {
        assert_eq!(settings(text).xpti, wanted, "{text:?}");
    }
}

#[test]
fn a_wrong_word_is_named_and_the_rest_counts() {
    let parsed = CommandLine::parse("dom0_mem=lots frobnicate nosmp iommu=on");
    assert_eq!(
        parsed.settings,
        CommandLine {
            nosmp: true,
            ..CommandLine::default()
        }
    );
    assert_eq!(
        parsed
            .warnings
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [
            "command line: wrong value in \"dom0_mem=lots\", default used",
            "command line: unknown option \"frobnicate\" skipped",
            "command line: unknown option \"iommu=on\" skipped",
        ]
    );
}

#[test]
fn problems() {
    use Problem::*;
    for (word, problem) in [
        ("dom0_mem", MissingValue),
        ("dom0_mem=", MissingValue),
        ("no-dom0_mem", BadValue),
        ("noreboot=", MissingValue),
        ("noreboot=maybe", BadValue),
        ("no-noreboot=1", UnknownOption),
        ("no-", UnknownOption),
        ("no-frobnicate", UnknownOption),
        ("=", UnknownOption),
        ("=512m", UnknownOption),
        ("DOM0_MEM=512m", UnknownOption),
        ("reboot=triple", Unsupported),
        ("console=xhci", Unsupported),
        ("console_timestamps", Unsupported),
        ("maxcpus=0", BadValue),
        ("mem=0", BadValue),
        ("mem=16777216t", BadValue),
        ("gnttab_max_frames=0", BadValue),
        ("gnttab_max_frames=513", Unsupported),
        ("gnttab_max_frames", MissingValue),
        ("gnttab_max_maptrack_frames=1025", Unsupported),
        ("gnttab_max_maptrack_frames=-1", BadValue),
    ] {
        assert_eq!(warnings(word), [(word.to_owned(), problem)]);
        assert_eq!(
            CommandLine::parse(word).settings,
            CommandLine::default(),
            "{word:?}"
        );
    }
}

#[test]
fn the_last_of_several_counts() {
    assert!(!settings("noreboot noreboot=0").noreboot);
    assert!(settings("noreboot=0 noreboot").noreboot);
    assert!(!settings("noreboot no-noreboot").noreboot);
    // Also when it is wrong: the warning says that the default is used.
    let parsed = CommandLine::parse("dom0_mem=512m dom0_mem=bogus");
    assert_eq!(parsed.settings.dom0_mem, Dom0Memory::default());
    assert_eq!(parsed.warnings.len(), 1);
}

#[test]
fn what_follows_two_dashes_is_for_dom0() {
    for (text, own_words, dom0) in [
        ("nosmp -- root=/dev/sda1 ro", 0, "root=/dev/sda1 ro"),
        ("-- quiet", 0, "quiet"),
        ("nosmp --", 0, ""),
        ("nosmp -- a -- b", 0, "a -- b"),
        ("nosmp --quiet", 1, ""),
        ("nosmp --  quiet ", 0, "quiet"),
    ] {
        let parsed = CommandLine::parse(text);
        assert_eq!(parsed.dom0_arguments, dom0, "{text:?}");
        assert_eq!(parsed.warnings.len(), own_words, "{text:?}");
    }
}

#[test]
fn the_list_of_warnings_is_bounded() {
    let text = "wrong ".repeat(MAX_WARNINGS + 3);
    let parsed = CommandLine::parse(&text);
    assert_eq!(
        (parsed.warnings.len(), parsed.warnings_left_out),
        (MAX_WARNINGS, 3)
    );
}

#[test]
fn which_consoles_and_which_serial_line() {
    let consoles = |text| settings(text).consoles();
    assert_eq!(
        consoles(""),
        Consoles {
            com1: false,
            com2: false,
            screen: true
        }
    );
    assert_eq!(
        consoles("com1=115200"),
        Consoles {
            com1: true,
            com2: false,
            screen: true
        }
    );
    assert_eq!(
        consoles("com1=115200 console=vga"),
        Consoles {
            com1: false,
            com2: false,
            screen: true
        }
    );

    let line = |text| settings(text).serial_line();
    assert_eq!(line(""), None);
    assert_eq!(line("console=com1"), Some(SerialPort::COM1));
    assert_eq!(line("console=com2"), Some(SerialPort::COM2));
    assert_eq!(line("console=com1 com1=auto").unwrap().baud, None);
    assert_eq!(line("console=com2,com1"), Some(SerialPort::COM1));
}

#[test]
fn how_many_cpus() {
    assert_eq!(settings("").cpus(8), 8);
    assert_eq!(settings("maxcpus=4").cpus(8), 4);
    assert_eq!(settings("maxcpus=4").cpus(2), 2);
    assert_eq!(settings("nosmp maxcpus=4").cpus(8), 1);
    assert_eq!(settings("").cpus(0), 1);
}

#[test]
fn the_table_is_sorted_and_fits_its_page() {
    assert!(OPTIONS.is_sorted_by(|a, b| a.name < b.name));
    let page = MarkdownTable.to_string();
    assert_eq!(page.lines().count(), OPTIONS.len() + 2);
    for line in page.lines() {
        assert_eq!(line.matches('|').count(), 5, "{line}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        CommandLine::parse(&text);
    }

    #[test]
    fn no_value_panics(
        option in 0..OPTIONS.len(),
        value in "[-+0-9a-zA-Z,:/%é \\x00]{0,12}",
        free in any::<u64>(),
        reserve in any::<u64>(),
    ) {
        let text = format!("{}={value}", OPTIONS[option].name);
        let parsed = CommandLine::parse(&text);
        if let Ok(pages) = parsed.settings.dom0_mem.pages(free, reserve) {
            prop_assert!(pages.nr_pages > 0 && pages.nr_pages <= free - reserve);
            prop_assert!(pages.max_pages.is_none_or(|max| pages.nr_pages <= max));
        }
        prop_assert!(parsed.settings.serial_line().is_none_or(|line| line.baud.is_none() || line.divisor().is_some()));
    }

    #[test]
    fn every_size_is_read_back(number in 0..u64::MAX >> 40, hex in any::<bool>(), suffix in 0usize..9) {
        let (suffix, shift) = [("k", 10), ("K", 10), ("m", 20), ("M", 20), ("g", 30), ("G", 30), ("t", 40), ("T", 40),
            ("", 10)][suffix];
        let text = if hex { format!("{number:#x}{suffix}") } else { format!("{number}{suffix}") };
        prop_assert_eq!(value::size(&text), Ok(number << shift));
    }
}
