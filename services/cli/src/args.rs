//! The command line.

use std::{convert::Infallible, fmt, net::IpAddr, path::PathBuf, str::FromStr};

use clap::{Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

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
        /// Which
        #[command(flatten)]
        matching: Matching,
    },
    /// Counters of the packet path
    Counters,
    /// The packet path: programs on the interfaces and why they are there, use of its tables
    Datapath,
    /// What the packet path dropped: reason, zones, how much
    Drops {
        /// Show what is dropped from now on, every two seconds
        #[arg(long, short)]
        watch: bool,
    },
    /// Copies of packets, with the reason for those that are dropped
    Capture(Capture),
    /// Rules: show, import, try out
    #[command(subcommand)]
    Firewall(FirewallCommand),
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

/// Which flows or packets: what is left out does not matter.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Matching {
    /// Address or prefix of either end, IPv4 or IPv6
    #[arg(long, value_name = "ADDRESS", value_parser = address_or_prefix)]
    pub host: Option<String>,
    /// TCP or UDP port of either end
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Name of a zone, on either side
    #[arg(long)]
    pub zone: Option<String>,
    /// tcp, udp, icmp, icmpv6 or a number
    #[arg(long)]
    pub protocol: Option<String>,
}

/// Which packets to copy, and where to.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Packets are copied as they arrive, before they are translated, and as the \
                        kernel sends them, after. What XDP sends on by itself is seen as it \
                        arrives only."
)]
pub struct Capture {
    /// A pcapng file for Wireshark, `-` for standard output; without it one line is printed for each
    /// packet
    pub file: Option<Source>,
    /// Only packets that are dropped
    #[arg(long)]
    pub drops: bool,
    /// Only packets dropped for this reason, as in `pctl drops`
    #[arg(long)]
    pub reason: Option<String>,
    /// Which
    #[command(flatten)]
    pub matching: Matching,
    /// End after so many packets
    #[arg(long, short, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: Option<u32>,
    /// Bytes of each packet
    #[arg(long, default_value_t = 9216, value_parser = clap::value_parser!(u32).range(14..=9216))]
    pub snap: u32,
    /// One packet of so many, by chance
    #[arg(long, value_name = "1/N", value_parser = sample)]
    pub sample: Option<u32>,
}

/// What to do with the firewall.
#[derive(Clone, Debug, Subcommand)]
pub enum FirewallCommand {
    /// Print the firewall's part of the configuration, or the ruleset for nft that does the same
    Show {
        /// As what
        #[arg(long = "as", value_name = "FORMAT", default_value = "toml")]
        format: Format,
    },
    /// Put rules, sets and translations from a YAML or JSON file into the configuration, and apply it
    #[command(
        after_help = "Tables are those of the document's [firewall]: addresses, ports, schedules, \
                      policies, rules, port_forwards, static_nat, source_nat. What has the name of \
                      something that is there replaces it, all else is added."
    )]
    Import {
        /// File, or `-` for standard input; JSON if its name ends in .json, else YAML
        file: Source,
        /// Only say what is wrong, and change nothing
        #[arg(long)]
        check: bool,
        /// Tables of the file replace those of the document as a whole
        #[arg(long)]
        replace: bool,
    },
    /// Say what would become of a packet that opens a flow, without sending anything
    #[command(
        after_help = "Example: pctl firewall explain tcp 192.168.77.5:1234 -> 203.0.113.5:443 in lan"
    )]
    Explain {
        /// PROTOCOL SOURCE -> DESTINATION in ZONE
        #[arg(required = true, num_args = 1.., allow_hyphen_values = true)]
        packet: Vec<String>,
    },
    /// Say which rules can never decide, since others before them always do
    Check,
    /// Ask the rules again about all flows, and end those that they would not let in now
    Reevaluate,
    /// End all flows of an address or prefix
    Purge {
        /// Address or prefix
        #[arg(value_parser = address_or_prefix)]
        addresses: String,
    },
}

/// How the firewall is printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// As in the document.
    Toml,
    /// The same, for programs.
    Json,
    /// Rules, sets and translations as `import` reads them.
    Yaml,
    /// A ruleset for nft.
    Nft,
}

fn address_or_prefix(text: &str) -> Result<String, String> {
    let fits = text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok();
    if fits {
        Ok(text.to_owned())
    } else {
        Err("an address or prefix is needed, as in 192.168.77.5, 10.0.0.0/8 or 2001:db8::/32"
            .into())
    }
}

fn sample(text: &str) -> Result<u32, String> {
    text.strip_prefix("1/")
        .and_then(|number| number.parse().ok())
        .filter(|number| (1..=1_000_000).contains(number))
        .ok_or_else(|| "one of N is needed, as in 1/100; N is 1 to 1000000".to_owned())
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
    /// Whether the command goes on until it is interrupted.
    pub fn is_endless(&self) -> bool {
        match self {
            Self::Log { follow, .. } => *follow,
            Self::Drops { watch } => *watch,
            Self::Capture(capture) => capture.count.is_none() && capture.seconds.is_none(),
            _ => false,
        }
    }

    /// Whether the command writes a file to its output, which is nothing for a terminal: packets
    /// that strangers send could hold what controls it.
    pub fn writes_binary(&self) -> bool {
        matches!(self, Self::Capture(Capture { file: Some(Source::StandardInput), .. }))
    }

    /// The document that must be read before the command runs, if it is about one.
    pub fn document(&self) -> Option<&Source> {
        match self {
            Self::Config(ConfigCommand::Check { file } | ConfigCommand::Apply { file })
            | Self::Firewall(FirewallCommand::Import { file, .. }) => Some(file),
            _ => None,
        }
    }
}
