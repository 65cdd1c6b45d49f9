//! What forwards: ours, and who it is compared with.

use serde::{Deserialize, Serialize};

/// What forwards.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Our datapath on XDP.
    Xdp,
    /// Our datapath on tcx.
    Tcx,
    /// nftables: stateful filter and masquerade.
    Masquerade,
    /// The same with a software flowtable.
    Flowtable,
    /// The kernel, without filter and NAT.
    Plain,
    /// An XDP program that only redirects: the limit.
    Redirect,
}

impl Mode {
    /// For tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "Portcullis XDP",
            Self::Tcx => "Portcullis tcx",
            Self::Masquerade => "nftables masquerade",
            Self::Flowtable => "nftables flowtable",
            Self::Plain => "plain kernel forwarding",
            Self::Redirect => "bare XDP redirect",
        }
    }

    /// In front of what is measured.
    pub const fn short(self) -> &'static str {
        match self {
            Self::Xdp => "XDP",
            Self::Tcx => "tcx",
            _ => self.name(),
        }
    }

    /// Whether it is ours.
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::Xdp | Self::Tcx)
    }

    /// Whether packets leave with the address of the WAN.
    pub const fn translates(self) -> bool {
        !matches!(self, Self::Plain | Self::Redirect)
    }

    /// What `nft` is told.
    pub fn ruleset(self) -> Option<String> {
        let (flowtable, offload) = match self {
            Self::Masquerade => ("", ""),
            Self::Flowtable => (
                "flowtable ft { hook ingress priority 0; devices = { lan, wan }; }",
                "ip protocol { tcp, udp } flow add @ft",
            ),
            Self::Xdp | Self::Tcx | Self::Plain | Self::Redirect => return None,
        };
        Some(format!(
            "table ip router {{
                {flowtable}
                chain forward {{
                    type filter hook forward priority 0; policy drop;
                    {offload}
                    ct state established,related accept
                    iifname lan oifname wan accept
                }}
                chain postrouting {{
                    type nat hook postrouting priority 100;
                    oifname wan masquerade
                }}
            }}"
        ))
    }
}
