//! Whether a part can be applied at all. The config service has validated the document; a part
//! that comes another way is not believed.

use std::collections::BTreeMap;

use portcullis_model::{Interface, InterfaceKind, Ipv4, Ipv6, PortSelector, part::NetworkPart};

/// The first thing that is wrong with `part`, with the path of the field.
///
/// # Errors
/// A text for people.
pub fn check(part: &NetworkPart) -> Result<(), String> {
    let mut users: BTreeMap<String, String> = BTreeMap::new();
    for (name, interface) in &part.interfaces {
        let path = format!("interfaces.{name}");
        fields(&path, interface)?;
        for port in &interface.ports {
            let named = matches!(port, PortSelector::Device(_) | PortSelector::Mac(_));
            if named && let Some(other) = users.insert(port.to_string(), path.clone()) {
                return Err(format!("{path}.ports: `{port}` is already a port of {other}"));
            }
        }
    }
    Ok(())
}

fn fields(path: &str, interface: &Interface) -> Result<(), String> {
    if interface.kind == InterfaceKind::Ethernet && interface.ports.len() != 1 {
        return Err(format!(
            "{path}.ports: has {}; an `ethernet` interface has exactly one (a `bridge` any number)",
            interface.ports.len()
        ));
    }
    if let Some(mtu) = interface.mtu
        && !(576..=9216).contains(&mtu)
    {
        return Err(format!("{path}.mtu: {mtu} is not allowed; 576 to 9216 are"));
    }
    fields6(path, &interface.ipv6)?;
    match &interface.ipv4 {
        Ipv4::None => Ok(()),
        Ipv4::Dhcp { metric } | Ipv4::Static { metric, .. } if *metric == 0 => {
            Err(format!("{path}.ipv4.metric: 0 is not allowed; 1 to 4294967295 are"))
        }
        Ipv4::Dhcp { .. } => Ok(()),
        Ipv4::Static { addresses, .. } => {
            let bad = addresses.iter().find(|address| {
                let [first, ..] = address.addr().octets();
                first == 0 || first == 127 || first >= 224 || address.prefix_len() == 0
            });
            match bad {
                Some(address) => {
                    Err(format!("{path}.ipv4.addresses: {address} cannot be the address of a host"))
                }
                None if addresses.is_empty() => Err(format!(
                    "{path}.ipv4.addresses: at least one is needed, as in [\"192.168.77.1/24\"]"
                )),
                None => Ok(()),
            }
        }
    }
}

fn fields6(path: &str, ipv6: &Ipv6) -> Result<(), String> {
    let Ipv6::Static { addresses, metric, .. } = ipv6 else { return Ok(()) };
    if *metric == 0 {
        return Err(format!("{path}.ipv6.metric: 0 is not allowed; 1 to 4294967295 are"));
    }
    let bad = addresses.iter().find(|net| {
        let address = net.addr();
        address.is_unspecified() || address.is_loopback() || address.is_multicast()
    });
    match bad {
        Some(address) => {
            Err(format!("{path}.ipv6.addresses: {address} cannot be the address of a host"))
        }
        None if addresses.is_empty() => Err(format!(
            "{path}.ipv6.addresses: at least one is needed, as in [\"2001:db8:77::1/64\"]"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use portcullis_model::Document;

    fn checked(toml: &str) -> Result<(), String> {
        check(&NetworkPart::of(&Document::parse(toml).unwrap()))
    }

    #[test]
    fn defaults_pass() {
        assert_eq!(checked(""), Ok(()));
    }

    /// What the configuration service lets pass, this one takes: one that it refused would keep the
    /// service from starting at every boot from then on.
    #[test]
    fn what_is_valid_passes() {
        let mut valid = 0;
        for metric in ["", ", metric = 0", ", metric = 1", ", metric = 4294967295"] {
            for form in [
                "ipv4 = { method = \"dhcp\" }",
                "ipv4 = { method = \"static\", addresses = [\"192.0.2.1/24\"] }",
                "ipv4 = { method = \"static\", addresses = [\"0.0.0.1/8\"] }",
                "ipv4 = { method = \"static\", addresses = [\"224.0.0.1/8\"] }",
                "ipv4 = { method = \"static\", addresses = [] }",
                "ipv4 = { method = \"static\", addresses = [\"192.0.2.2/24\"], gateway = \"192.0.2.1\" }",
                "ipv6 = { method = \"static\", addresses = [\"2001:db8::1/64\"] }",
                "ipv6 = { method = \"static\", addresses = [\"ff02::1/64\"] }",
                "ipv6 = { method = \"static\", addresses = [\"2001:db8::2/64\"], gateway = \"fe80::1\" }",
            ] {
                for more in ["", "mtu = 576", "mtu = 575", "mtu = 1280", "mtu = 9217"] {
                    let form = form.replace(" }", &format!("{metric} }}"));
                    let toml = format!(
                        "[interfaces.a]\nzone = \"lan\"\nports = [\"eth0\"]\n{more}\n{form}"
                    );
                    let document = Document::parse(&toml).unwrap();
                    if portcullis_model::validate::validate(&document).is_empty() {
                        valid += 1;
                        assert_eq!(check(&NetworkPart::of(&document)), Ok(()), "{toml}");
                    }
                }
            }
        }
        assert!(valid > 20, "{valid}");
    }

    #[test]
    fn messages_name_the_field() {
        let with = |rest: &str| format!("[interfaces.a]\nzone = \"lan\"\n{rest}");
        for (rest, start) in [
            ("ports = []", "interfaces.a.ports: has 0;"),
            ("ports = [\"eth0\", \"eth1\"]", "interfaces.a.ports: has 2;"),
            ("ports = [\"eth0\"]\nmtu = 100", "interfaces.a.mtu: 100"),
            (
                "ports = [\"eth0\"]\nipv4 = { method = \"static\", addresses = [] }",
                "interfaces.a.ipv4.addresses: at least one",
            ),
            (
                "ports = [\"eth0\"]\nipv4 = { method = \"static\", addresses = [\"127.0.0.1/8\"] }",
                "interfaces.a.ipv4.addresses: 127.0.0.1/8",
            ),
            (
                "ports = [\"eth0\"]\nipv4 = { method = \"dhcp\", metric = 0 }",
                "interfaces.a.ipv4.metric: 0",
            ),
            (
                "ports = [\"eth0\"]\n[interfaces.b]\nzone = \"lan\"\nports = [\"eth0\"]",
                "interfaces.b.ports: `eth0` is already a port of interfaces.a",
            ),
        ] {
            let error = checked(&with(rest)).unwrap_err();
            assert!(error.starts_with(start), "{error}");
        }
    }
}
