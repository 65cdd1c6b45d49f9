//! Instructions per packet: the same measurements in an emulated machine with the appliance's kernel.
//!
//! QEMU translates the guest's code and counts its instructions; with `-icount shift=0` the guest's
//! clock advances by one nanosecond for each, and by nothing else while the guest is busy. So a
//! reading of its clock is a reading of its instructions, kernel and BPF programs included, and the
//! same run gives the same numbers on any machine.
//!
//! The guest is the kernel of the image and this same program as `/init` (`portcullis_guest`); what it
//! does there is in [`inside`].

pub mod bounds;
pub mod inside;
pub mod profile;

use std::time::Duration;

use anyhow::Result;
use portcullis_guest::Guest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::mode::Mode;

/// Drivers and what nftables is made of.
const MODULES: &str = "\
boot crc32c_generic?
boot veth
boot tun
boot nf_tables
boot nft_ct
boot nft_masq
boot nft_chain_nat
boot nft_flow_offload
boot nf_flow_table_inet
";

/// What this program calls inside.
const TOOLS: [&str; 5] = ["ip", "tc", "sysctl", "nft", "ethtool"];

/// One processor that counts its instructions.
const MACHINE: [&str; 6] =
    ["-cpu", "max,la57=off,erms=off", "-icount", "shift=0,sleep=off", "-smp", "1"];

/// The clock of the CPU is taken as it is, and interrupts' work counts as the thread's that they
/// interrupt.
const CLOCK: &str = "tsc=reliable tsc=noirqtime";

/// Longest life of the guest.
const PATIENCE: Duration = Duration::from_secs(1200);

/// What a packet cost.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Figure {
    /// Under which circumstances.
    pub scene: String,
    /// Whom.
    pub mode: Mode,
    /// Instructions for each packet.
    pub instructions: f64,
}

/// What the guest does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Task {
    /// Counts what the gate compares; its result are [`Figure`]s.
    Count,
    /// Says where the instructions go; its result are [`Profile`]s.
    Profile,
}

impl Task {
    /// In the environment of the guest's first process.
    const VARIABLE: &str = "bench_task";

    const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Profile => "profile",
        }
    }
}

/// Where the instructions of a packet go.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Profile {
    /// What a packet takes altogether.
    pub figure: Figure,
    /// By function.
    pub shares: Vec<profile::Share>,
}

/// Runs the guest.
///
/// # Errors
/// If it cannot be built or started, or fails; with the end of what it said.
pub fn run<T: DeserializeOwned>(task: Task) -> Result<T> {
    let guest = Guest {
        modules: MODULES,
        tools: &TOOLS,
        machine: &MACHINE,
        parameters: &format!("{CLOCK} {}={}", Task::VARIABLE, task.name()),
        memory_mib: 2048,
        patience: PATIENCE,
    };
    guest.run()
}
