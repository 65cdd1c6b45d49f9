//! `pctl`: what a person does with the router from a command line, over the bus.
//!
//! ```text
//! arguments -> args::Cli (clap) -> commands::run -> peer::call each service -> text or JSON
//! ```
//!
//! [`main`] is the program `pctl`; [`console()`] is the same commands behind a banner on the serial
//! and VGA console, where no shell exists.
//!
//! Exit codes: 0 done; 1 refused or failed, by the service's own account; 2 wrong usage, or a file
//! that cannot be read; 3 a service does not answer; 4 the document is in force, but not every
//! service took its part.

pub mod args;
pub mod banner;
pub mod commands;
mod console;
pub mod text;

use std::{
    ffi::OsString,
    io::{ErrorKind, IsTerminal, Read, Write},
    process::ExitCode,
};

use clap::Parser;

use crate::{
    args::{Cli, Source},
    commands::Failure,
};

/// Longest document that is read from a file or standard input, in bytes.
const MAX_DOCUMENT_BYTES: u64 = portcullis_model::Document::MAX_BYTES as u64;

/// Runs `pctl`; the first argument is the program's name.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" for standard output.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::Output(error)),
    };
    let outcome = runtime.block_on(async {
        let document = cli.command.document().map(read_document).transpose()?;
        let mut out = std::io::stdout().lock();
        if cli.command.writes_binary() && out.is_terminal() {
            return Err(Failure::Binary);
        }
        commands::run(&cli, document, &mut out).await?;
        out.flush().map_err(Failure::Output)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

/// Runs the console service: banner and commands on standard input and output.
pub fn console() -> ExitCode {
    console::main()
}

fn report(failure: &Failure) -> ExitCode {
    // The reader of a pipe that has enough (`pctl log | head`) is no failure.
    if matches!(failure, Failure::Output(error) if error.kind() == ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(std::io::stderr(), "pctl: {}", text::clean(&failure.to_string()));
    ExitCode::from(failure.exit_code())
}

/// Reads the document that a command is about.
fn read_document(source: &Source) -> Result<String, Failure> {
    let error = |error| Failure::Input { name: source.to_string(), error };
    let mut bytes = Vec::new();
    let read = match source {
        Source::StandardInput => {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                let _ = writeln!(std::io::stderr(), "Reading the document; end it with Ctrl-D.");
            }
            stdin.lock().take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes)
        }
        Source::File(path) => std::fs::File::open(path)
            .and_then(|file| file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes)),
    };
    read.map_err(error)?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        let message = format!("longer than {MAX_DOCUMENT_BYTES} bytes");
        return Err(error(std::io::Error::new(ErrorKind::InvalidData, message)));
    }
    String::from_utf8(bytes)
        .map_err(|e| error(std::io::Error::new(ErrorKind::InvalidData, e.utf8_error().to_string())))
}
