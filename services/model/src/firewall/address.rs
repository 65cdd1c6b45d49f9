//! Addresses of both families, as rules and sets name them.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::text::text_form;
use crate::Name;

/// Some addresses. Written `192.0.2.1`, `192.0.2.0/24`, `192.0.2.10-192.0.2.19` (both included),
/// the same for IPv6, or `@NAME` for an address set.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum AddressMatch {
    /// A prefix without host bits; an address is a prefix of full length.
    Net(IpNet),
    /// From the first to the last, of one family, the first not above the last.
    Range(IpAddr, IpAddr),
    /// The addresses of a set.
    Set(Name),
}

/// A named set of addresses.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AddressSet {
    /// Addresses, prefixes, ranges, other sets; both families.
    pub members: Vec<AddressMatch>,
}

/// Why a text is not an [`AddressMatch`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressMatchError {
    /// None of the forms.
    #[error(
        "`{0}` is not an address: allowed are 192.0.2.1, 192.0.2.0/24, 192.0.2.10-192.0.2.19, the same for IPv6, and @NAME for a set"
    )]
    Form(String),
    /// A prefix with host bits.
    #[error("`{0}` has bits behind its prefix length: the network is {1}")]
    HostBits(String, IpNet),
    /// A range from a higher to a lower address.
    #[error("`{0}` goes backwards: the first address must not be above the last")]
    Backwards(String),
    /// A range over both families.
    #[error("`{0}` begins in one address family and ends in the other")]
    Families(String),
}

impl FromStr for AddressMatch {
    type Err = AddressMatchError;

    fn from_str(text: &str) -> Result<Self, AddressMatchError> {
        let form = || AddressMatchError::Form(text.to_owned());
        if let Some(name) = text.strip_prefix('@') {
            return name.parse().map(Self::Set).map_err(|_| form());
        }
        if let Some((first, last)) = text.split_once('-') {
            let first: IpAddr = first.trim().parse().map_err(|_| form())?;
            let last: IpAddr = last.trim().parse().map_err(|_| form())?;
            if first.is_ipv4() != last.is_ipv4() {
                return Err(AddressMatchError::Families(text.to_owned()));
            }
            if first > last {
                return Err(AddressMatchError::Backwards(text.to_owned()));
            }
            return Ok(Self::Range(first, last));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(address.into()));
        }
        let net: IpNet = text.parse().map_err(|_| form())?;
        if net.trunc() != net {
            return Err(AddressMatchError::HostBits(text.to_owned(), net.trunc()));
        }
        Ok(Self::Net(net))
    }
}

impl fmt::Display for AddressMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::Set(name) => write!(f, "@{name}"),
        }
    }
}

text_form!(AddressMatch, AddressMatchError);
