//! Chains, and where packets enter them.

use super::Rule;

/// A chain of rules.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where packets enter; `None` for chains that others jump to.
    pub base: Option<Base>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// How a base chain hangs in the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Base {
    /// Kind.
    pub kind: ChainType,
    /// Hook.
    pub hook: Hook,
    /// Order at the hook, lower ones first.
    pub priority: i32,
    /// What happens to packets that reach its end.
    pub policy: BasePolicy,
}

/// Kind of a base chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChainType {
    /// Sees all packets.
    Filter,
    /// Sees the first packet of each connection.
    Nat,
}

impl ChainType {
    /// Its name in nft and in netlink.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// `NF_INET_*`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Hook {
    /// All that arrive.
    Prerouting = 0,
    /// What is for the router.
    Input = 1,
    /// What is forwarded.
    Forward = 2,
    /// What the router sends.
    Output = 3,
    /// All that leave.
    Postrouting = 4,
}

impl Hook {
    /// Its name in nft.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// Fate of packets at the end of a base chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BasePolicy {
    /// They pass.
    Accept,
    /// They are dropped.
    Drop,
}

/// Where a packet goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It passes this hook.
    Accept,
    /// It is gone.
    Drop,
    /// Back to the calling chain.
    Return,
    /// To a chain, and back from its end.
    Jump(String),
    /// To a chain; its end is the end of this one.
    Goto(String),
}

impl Verdict {
    /// Its number in netlink (`NF_*`, `NFT_*`).
    pub const fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
        }
    }

    /// The chain that it names.
    pub fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            Self::Accept | Self::Drop | Self::Return => None,
        }
    }
}
