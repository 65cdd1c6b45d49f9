//! The console service: a banner, then the commands of `pctl` behind a prompt.
//!
//! The kernel's line discipline does the line editing (backspace, Ctrl-U, Ctrl-W), so nothing here
//! interprets key codes. A thread reads the lines; [`session`] only sees [`Input`] and an output,
//! which is what the tests give it.

use std::{
    collections::VecDeque,
    io::{BufRead, ErrorKind, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{CommandFactory, Parser};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, tcgetattr, tcsetattr,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    args::{Cli, Source},
    banner::Banner,
    commands::{self, Failure},
    read_document,
    text::clean,
};

/// Name on the bus.
const NAME: &str = "console";
/// What stands before a command.
const PROMPT: &str = "pctl> ";
/// What ends a document that is typed in.
const END_OF_DOCUMENT: &str = ".";
/// Longest document that is typed in, in bytes: minutes on a serial line.
const MAX_TYPED_BYTES: usize = 1024 * 1024;
/// How often the banner looks whether it is still true.
const BANNER_PERIOD: Duration = Duration::from_secs(5);
/// Pause before the end when there is no terminal (any more): init starts the service anew, and
/// must not be kept busy by it.
const LOST_PAUSE: Duration = Duration::from_secs(10);

/// What comes from the terminal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Input {
    /// A line without its end.
    Line(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D on an empty line.
    EndOfFile,
}

pub(crate) fn main() -> ExitCode {
    portcullis_runtime::run(NAME, |service| async move {
        service.ready("waiting for a key");
        let (sender, input) = mpsc::channel(16);
        set_modes();
        read_lines(sender.clone()).context("thread for the terminal")?;
        forward_interrupts(sender).context("handler of Ctrl-C")?;
        // Not `service.shutdown()`, which takes Ctrl-C for the end.
        let mut terminate = signal(SignalKind::terminate()).context("handler of SIGTERM")?;
        tokio::select! {
            _ = terminate.recv() => {}
            outcome = session(input, std::io::stdout()) => {
                if let Err(error) = outcome {
                    tracing::info!(%error, "console: output");
                }
                tokio::time::sleep(LOST_PAUSE).await;
            }
        }
        Ok(())
    })
}

/// What a terminal left by a crashed program may lack: line mode, echo, signals.
fn set_modes() {
    let stdin = std::io::stdin();
    let Ok(mut modes) = tcgetattr(&stdin) else {
        return;
    };
    modes.input_modes |= InputModes::ICRNL | InputModes::IXON | InputModes::IUTF8;
    modes.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
    modes.local_modes |= LocalModes::ICANON
        | LocalModes::ECHO
        | LocalModes::ECHOE
        | LocalModes::ECHOK
        | LocalModes::ECHOCTL
        | LocalModes::ECHOKE
        | LocalModes::ISIG
        | LocalModes::IEXTEN;
    // Serial terminals send DEL or BS for the backspace key; DEL is what most do.
    modes.special_codes[SpecialCodeIndex::VERASE] = 0x7f;
    if let Err(error) = tcsetattr(&stdin, OptionalActions::Now, &modes) {
        tracing::info!(%error, "console: terminal modes");
    }
}

/// Reads the terminal in a thread that ends with the process: a read cannot be cancelled.
fn read_lines(sender: mpsc::Sender<Input>) -> std::io::Result<()> {
    let read = move || {
        let mut stdin = std::io::stdin().lock();
        let mut empty_reads = 0;
        loop {
            let mut line = Vec::new();
            let input = match stdin.read_until(b'\n', &mut line) {
                // A terminal says so once per Ctrl-D, a lost one at once and for ever.
                Ok(0) if empty_reads < 3 => {
                    empty_reads += 1;
                    std::thread::sleep(Duration::from_millis(300));
                    Input::EndOfFile
                }
                Ok(0) => return,
                Ok(_) => {
                    empty_reads = 0;
                    let text = String::from_utf8_lossy(&line);
                    Input::Line(text.trim_end_matches(['\n', '\r']).to_owned())
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            if sender.blocking_send(input).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("terminal".to_owned()).spawn(read).map(drop)
}

fn forward_interrupts(sender: mpsc::Sender<Input>) -> std::io::Result<()> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        while interrupts.recv().await.is_some() {
            // Whoever presses it often while nothing reads has pressed it once.
            let _ = sender.try_send(Input::Interrupt);
        }
    });
    Ok(())
}

/// The terminal's input, with what was typed while a command ran.
struct Terminal {
    input: mpsc::Receiver<Input>,
    ahead: VecDeque<Input>,
}

impl Terminal {
    async fn next(&mut self) -> Option<Input> {
        match self.ahead.pop_front() {
            Some(input) => Some(input),
            None => self.input.recv().await,
        }
    }

    /// Lets `work` end, or ends it at Ctrl-C; a command that never ends by itself ends at Enter,
    /// too, since a serial line may have no Ctrl-C. None if it was broken off.
    async fn attend<T>(&mut self, endless: bool, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            let input = tokio::select! {
                outcome = &mut work => return Some(outcome),
                input = self.input.recv() => input,
            };
            match input {
                Some(Input::Interrupt) => return None,
                _ if endless => return None,
                Some(input) => self.ahead.push_back(input),
                None => return Some(work.await),
            }
        }
    }
}

/// Banner and commands until there is no more input.
pub(crate) async fn session<W: Write>(
    input: mpsc::Receiver<Input>,
    mut out: W,
) -> Result<(), Failure> {
    let mut input = Terminal { input, ahead: VecDeque::new() };
    while wait_for_key(&mut input, &mut out).await? {
        writeln!(out, "\nCommands: help lists them, exit goes back.")?;
        if !command_line(&mut input, &mut out).await? {
            break;
        }
    }
    Ok(())
}

/// Shows the banner, anew whenever something on it changes. False when the input has ended.
async fn wait_for_key(input: &mut Terminal, out: &mut dyn Write) -> Result<bool, Failure> {
    let mut shown = None;
    loop {
        let banner = Banner::gather().await;
        if shown.as_ref() != Some(&banner) {
            write!(out, "{}", banner.render())?;
            out.flush()?;
            shown = Some(banner);
        }
        match tokio::time::timeout(BANNER_PERIOD, input.next()).await {
            Ok(Some(Input::Line(_))) => return Ok(true),
            Ok(Some(Input::Interrupt | Input::EndOfFile)) | Err(_) => {}
            Ok(None) => return Ok(false),
        }
    }
}

/// Reads and runs commands until `exit`. False when the input has ended.
async fn command_line(input: &mut Terminal, out: &mut dyn Write) -> Result<bool, Failure> {
    loop {
        write!(out, "{PROMPT}")?;
        out.flush()?;
        let line = match input.next().await {
            Some(Input::Line(line)) => line,
            Some(Input::Interrupt) => {
                writeln!(out)?;
                continue;
            }
            Some(Input::EndOfFile) => {
                writeln!(out)?;
                return Ok(true);
            }
            None => return Ok(false),
        };
        let words = match shell_words::split(&line) {
            Ok(words) => words,
            Err(error) => {
                writeln!(out, "{error}: a quote is open")?;
                continue;
            }
        };
        match words.first().map(String::as_str) {
            None => {}
            Some("exit" | "quit" | "logout") => return Ok(true),
            Some("help" | "?") if words.len() == 1 => {
                write!(out, "{}", Cli::command().render_help())?;
            }
            Some(_) => run_words(&words, input, out).await?,
        }
    }
}

async fn run_words(
    words: &[String],
    input: &mut Terminal,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    // Who follows the manual may type the program's name, which stands in the prompt already.
    let words = match words {
        [name, words @ ..] if name == "pctl" => words,
        words => words,
    };
    let name = std::iter::once("pctl");
    let cli = match Cli::try_parse_from(name.chain(words.iter().map(String::as_str))) {
        Ok(cli) => cli,
        Err(error) => return Ok(write!(out, "{}", error.render())?),
    };
    if cli.command.writes_binary() {
        return Ok(writeln!(out, "{}", Failure::Binary)?);
    }
    let document = match cli.command.document() {
        None => None,
        Some(Source::StandardInput) => match typed_document(input, out).await? {
            None => return Ok(()),
            document => document,
        },
        Some(file) => match read_document(file) {
            Ok(document) => Some(document),
            Err(failure) => return Ok(writeln!(out, "{}", clean(&failure.to_string()))?),
        },
    };
    let endless = cli.command.is_endless();
    let Some(outcome) = input.attend(endless, commands::run(&cli, document, &mut *out)).await
    else {
        if !endless {
            writeln!(
                out,
                "\nNot waited for any longer; what was asked for may happen all the same."
            )?;
        }
        return Ok(writeln!(out)?);
    };
    match outcome {
        Ok(()) => Ok(()),
        // The terminal itself is gone.
        Err(Failure::Output(error)) => Err(Failure::Output(error)),
        Err(failure) => Ok(writeln!(out, "{}", clean(&failure.to_string()))?),
    }
}

/// Reads lines until one with a single dot; none if it was broken off.
async fn typed_document(
    input: &mut Terminal,
    out: &mut dyn Write,
) -> Result<Option<String>, Failure> {
    writeln!(
        out,
        "Type or paste the document; a line with a single . ends it, Ctrl-C breaks off."
    )?;
    out.flush()?;
    let mut document = String::new();
    loop {
        match input.next().await {
            Some(Input::Line(line)) if line == END_OF_DOCUMENT => return Ok(Some(document)),
            Some(Input::Line(line)) => {
                if document.len() + line.len() >= MAX_TYPED_BYTES {
                    writeln!(out, "longer than {MAX_TYPED_BYTES} bytes; broken off")?;
                    return Ok(None);
                }
                document.push_str(&line);
                document.push('\n');
            }
            Some(Input::Interrupt) | None => {
                writeln!(out, "\nbroken off")?;
                return Ok(None);
            }
            Some(Input::EndOfFile) => return Ok(Some(document)),
        }
    }
}
