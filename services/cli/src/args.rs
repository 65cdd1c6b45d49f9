//! The command line.

use std::{convert::Infallible, fmt, path::PathBuf, str::FromStr};

use clap::{Parser, Subcommand, ValueEnum};

/// Look at the router and control it.
#[derive(Debug, Parser)]
#[command(
    name = "pctl",
    version,
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage or unreadable file, \
                  3 a service does not answer, 4 applied but not by every service."
)]
pub struct Cli {
    /// Print JSON instead of text (one object per line for `log`)
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Health, versions, slots, interfaces and the internet connection
    Status,
    /// Services: state, restarts, memory
    Services,
    /// Leases given to clients by DHCP
    Leases,
    /// Connections through the router, most recently active first
    Flows {
        /// Most flows to show
        #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=65_536))]
        limit: u32,
    },
    /// Counters of the packet path
    Counters,
    /// The journal: what the services, PID 1 and the kernel say
    Log {
        /// Go on with new records until interrupted
        #[arg(long, short)]
        follow: bool,
        /// Only records of this service (`init` is PID 1, `kernel` the kernel)
        #[arg(long, short)]
        service: Option<String>,
        /// Only records at least this severe
        #[arg(long, short)]
        level: Option<Level>,
        /// How many of the newest records to begin with
        #[arg(long, short = 'n', default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        lines: u32,
    },
    /// The configuration document
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Stop and start one service
    Restart {
        /// Name as in `pctl services`
        service: String,
    },
    /// End one service at once (SIGKILL); it is started anew
    Kill {
        /// Name as in `pctl services`
        service: String,
    },
    /// Reboot in good order
    Reboot,
    /// Power off in good order
    Shutdown,
}

/// What to do with the configuration document.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the document in force, with all defaults written out
    Show,
    /// Where the document in force came from
    Status,
    /// Say everything that is wrong with a document, without applying it
    Check {
        /// File, or `-` for standard input
        file: Source,
    },
    /// Validate, store and apply a document
    Apply {
        /// File, or `-` for standard input
        file: Source,
    },
}

/// Severity of a journal record.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Level {
    /// Something is broken.
    Error,
    /// Something is wrong, and the service goes on.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// As the journal names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Where a document comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// `-`
    StandardInput,
    /// A path.
    File(PathBuf),
}

impl FromStr for Source {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "-" { Self::StandardInput } else { Self::File(text.into()) })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandardInput => f.write_str("standard input"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl Command {
    /// The document that must be read before the command runs, if it is about one.
    pub fn document(&self) -> Option<&Source> {
        match self {
            Self::Config(ConfigCommand::Check { file } | ConfigCommand::Apply { file }) => {
                Some(file)
            }
            _ => None,
        }
    }
}
