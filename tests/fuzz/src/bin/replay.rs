//! `replay TARGET FILE…` carries out inputs and says what each of their steps is; `replay` names the targets.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(name) = args.next() else {
        for target in oxen_fuzz::TARGETS {
            println!("{:12} {}", target.name, target.what);
        }
        return ExitCode::SUCCESS;
    };
    let Some(target) = oxen_fuzz::target(&name) else {
        eprintln!("no such target: {name}");
        return ExitCode::FAILURE;
    };
    let mut result = ExitCode::SUCCESS;
    for file in args {
        println!("{file}:");
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) => {
                eprintln!("{file}: {error}");
                result = ExitCode::FAILURE;
                continue;
            }
        };
        if let Err(text) = oxen_fuzz::run(target, &bytes, true) {
            println!("{text}");
            result = ExitCode::FAILURE;
        }
    }
    result
}
