//! The commands: each reads from services and writes text or JSON.

mod capture;
mod config;
mod datapath;
mod firewall;
mod lists;
mod log;
mod packet_line;
mod status;

use std::{io::Write, time::Duration};

use portcullis_bus::{
    firewall::FirewallBusProxy,
    init::InitBusProxy,
    peer::{PeerError, call},
};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

use crate::{
    args::{Cli, Command},
    text::Harmless,
};

/// How long a call that only reads may take, with connecting.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a command did not do all that it should.
#[derive(Debug)]
pub enum Failure {
    /// A service did not answer or refused.
    Peer(PeerError),
    /// Some parts are missing in what was printed.
    Incomplete(Vec<PeerError>),
    /// The document is not valid; its problems are printed.
    Invalid(usize),
    /// The document is in force, but these services did not take their part.
    NotEverywhere(Vec<String>),
    /// A file cannot be read or written.
    Input {
        /// Its file.
        name: String,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// The command would write a binary file to a terminal.
    Binary,
    /// The output cannot be written.
    Output(std::io::Error),
}

impl Failure {
    /// The program's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Peer(PeerError::Refused { .. }) | Self::Invalid(_) | Self::Output(_) => 1,
            Self::Input { .. } | Self::Binary => 2,
            Self::Peer(PeerError::NotAnswering { .. }) | Self::Incomplete(_) => 3,
            Self::NotEverywhere(_) => 4,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Peer(error) => error.fmt(f),
            Self::Incomplete(errors) => {
                let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
                f.write_str(&errors.join("; "))
            }
            Self::Invalid(1) => f.write_str("the document is not valid: 1 problem"),
            Self::Invalid(problems) => write!(f, "the document is not valid: {problems} problems"),
            Self::NotEverywhere(services) => {
                write!(f, "in force, but not everywhere: {}", services.join(", "))
            }
            Self::Input { name, error } => write!(f, "{name}: {error}"),
            Self::Binary => f.write_str(
                "a capture is a binary file and not for a terminal: name a file, send it to a program, or leave out the - for one line for each packet",
            ),
            Self::Output(error) => write!(f, "output: {error}"),
        }
    }
}

impl From<PeerError> for Failure {
    fn from(error: PeerError) -> Self {
        Self::Peer(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

/// Runs one command; `document` is the text of [`Command::document`].
///
/// # Errors
/// If a service does not answer or refuses, or the output cannot be written.
pub async fn run(cli: &Cli, document: Option<String>, out: &mut dyn Write) -> Result<(), Failure> {
    let json = cli.json;
    match &cli.command {
        Command::Status => status::run(json, out).await,
        Command::Services => lists::services(json, out).await,
        Command::Leases => lists::leases(json, out).await,
        Command::Flows { limit, matching } => lists::flows(*limit, matching, json, out).await,
        Command::Counters => lists::counters(json, out).await,
        Command::Datapath => datapath::show(json, out).await,
        Command::Drops { watch: false } => datapath::drops(json, out).await,
        Command::Drops { watch: true } => datapath::watch_drops(json, out).await,
        Command::Capture(capture) => capture::run(capture, json, out).await,
        Command::Firewall(command) => firewall::run(command, document, json, out).await,
        Command::Log { follow, service, level, lines } => {
            let query = log::Query { follow: *follow, service: service.as_deref(), level: *level };
            log::run(query, *lines, json, out).await
        }
        Command::Config(command) => config::run(command, document, json, out).await,
        Command::Restart { service } => {
            let name = service.clone();
            init(|init| async move { init.restart(name).await }).await?;
            done(json, out, &format!("{service} is restarting"))
        }
        Command::Kill { service } => {
            let name = service.clone();
            init(|init| async move { init.kill(name).await }).await?;
            done(json, out, &format!("{service} is killed"))
        }
        Command::Reboot => {
            init(|init| async move { init.reboot().await }).await?;
            done(json, out, "rebooting")
        }
        Command::Shutdown => {
            init(|init| async move { init.shutdown().await }).await?;
            done(json, out, "shutting down")
        }
    }
}

async fn firewall<T, F>(limit: Duration, ask: F) -> Result<T, PeerError>
where
    F: AsyncFnOnce(FirewallBusProxy<'static>) -> portcullis_bus::Result<T>,
{
    call("firewall", limit, async |connection| ask(FirewallBusProxy::new(&connection).await?).await)
        .await
}

async fn init<T, F, Fut>(ask: F) -> Result<T, PeerError>
where
    F: FnOnce(InitBusProxy<'static>) -> Fut,
    Fut: Future<Output = portcullis_bus::Result<T>>,
{
    call("init", READ_TIMEOUT, async |connection| ask(InitBusProxy::new(&connection).await?).await)
        .await
}

fn done(json: bool, out: &mut dyn Write, text: &str) -> Result<(), Failure> {
    if json {
        print_json(out, &serde_json::json!({ "done": text }))
    } else {
        Ok(writeln!(out, "{text}")?)
    }
}

fn print_json<T: Serialize + ?Sized>(out: &mut dyn Write, value: &T) -> Result<(), Failure> {
    json(out, value, PrettyFormatter::new())
}

/// JSON in one line, for what goes on and on.
fn print_json_line<T: Serialize + ?Sized>(out: &mut dyn Write, value: &T) -> Result<(), Failure> {
    json(out, value, CompactFormatter)
}

fn json<T: Serialize + ?Sized>(
    mut out: &mut dyn Write,
    value: &T,
    form: impl Formatter,
) -> Result<(), Failure> {
    let mut writer = serde_json::Serializer::with_formatter(&mut out, Harmless(form));
    value.serialize(&mut writer).map_err(|error| Failure::Output(error.into()))?;
    Ok(writeln!(out)?)
}
