//! Host names as clients send them, made fit for DNS.

use portcullis_model::HostName;

use super::Request;

/// Longest label (RFC 1035 section 2.3.4), octets.
const LABEL: usize = 63;
/// FQDN option: flags and two result codes stand before the name (RFC 4702 section 2).
const FQDN_PREFIX: usize = 3;
/// FQDN flag E: the name is in DNS wire format.
pub(crate) const FQDN_WIRE: u8 = 0x04;

/// The name that a client asks for: of option 81, else of option 12.
pub(crate) fn wanted(request: &Request) -> Option<HostName> {
    let fqdn = request.fqdn.as_deref().and_then(fqdn_label);
    fqdn.or_else(|| request.hostname.as_deref().and_then(sanitise))
}

fn fqdn_label(option: &[u8]) -> Option<HostName> {
    let flags = *option.first()?;
    let name = option.get(FQDN_PREFIX..)?;
    if flags & FQDN_WIRE == 0 {
        return sanitise(name);
    }
    let (length, rest) = name.split_first()?;
    let length = usize::from(*length);
    // Compression is not allowed here; a longer "label" would be a pointer.
    if length > LABEL {
        return None;
    }
    // A label may hold any octet; what stands after a dot inside it is not another label.
    sanitise(rest.get(..length)?)
}

/// The first label of `text` as a valid host name: letters to lower case, everything else that a
/// host name cannot hold to single hyphens; none if nothing is left.
pub(crate) fn sanitise(text: &[u8]) -> Option<HostName> {
    let mut label = String::new();
    for octet in text.iter().take_while(|octet| !matches!(octet, 0 | b'.')) {
        if label.len() == LABEL {
            break;
        }
        if octet.is_ascii_alphanumeric() {
            label.push(char::from(octet.to_ascii_lowercase()));
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
    }
    let label = label.trim_end_matches('-');
    // What devices send that were never named; DNS must keep its own answer for it.
    if label == "localhost" { None } else { label.parse().ok() }
}

/// `name` with a number, for the second device of the same name: `printer-2`.
pub(crate) fn numbered(name: &HostName, number: u32) -> Option<HostName> {
    let suffix = format!("-{number}");
    let room = LABEL.saturating_sub(suffix.len());
    let stem: String = name.as_str().chars().take(room).collect();
    format!("{}{suffix}", stem.trim_end_matches('-')).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_real_devices_become_labels() {
        for (sent, label) in [
            ("DESKTOP-4F1Q2AB", Some("desktop-4f1q2ab")),
            ("Johns-iPhone", Some("johns-iphone")),
            ("android_dhcp 14", Some("android-dhcp-14")),
            ("J\u{fc}rgen's  iPad", Some("j-rgen-s-ipad")),
            ("printer.office.example", Some("printer")),
            ("ESP_0A1B2C\0", Some("esp-0a1b2c")),
            ("--x--", Some("x")),
            ("localhost", None),
            ("..", None),
            ("", None),
            ("\u{65e5}\u{672c}", None),
        ] {
            let name = sanitise(sent.as_bytes());
            assert_eq!(name.as_ref().map(HostName::as_str), label, "{sent:?}");
        }
        let long = sanitise(&[b'a'; 300]).expect("a name");
        assert_eq!(long.as_str().len(), LABEL);
        assert_eq!(numbered(&long, 12).map(|n| n.as_str().len()), Some(LABEL));
    }

    #[test]
    fn fqdn_is_read_in_both_encodings() {
        let wire = b"\x05\xff\xff\x05Myhst\x03lan\x00";
        assert_eq!(fqdn_label(wire).as_ref().map(HostName::as_str), Some("myhst"));
        let ascii = b"\x01\x00\x00myhst.lan.";
        assert_eq!(fqdn_label(ascii).as_ref().map(HostName::as_str), Some("myhst"));
        for bad in [&b""[..], b"\x04", b"\x04\0\0", b"\x04\0\0\xc0\x0c", b"\x04\0\0\x09abc"] {
            assert_eq!(fqdn_label(bad), None, "{bad:?}");
        }
    }
}
