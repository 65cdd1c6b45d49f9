//! What services say to init: lines `KEY=VALUE` in a datagram (sd_notify(3)).

/// Longest datagram that is read; longer ones are cut.
pub const LONGEST: usize = 4096;

/// Longest status text that is kept.
const LONGEST_STATUS: usize = 256;

/// The lines that init understands; others are ignored, as by systemd.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Message {
    /// READY=1.
    pub ready: bool,
    /// WATCHDOG=1.
    pub alive: bool,
    /// STATUS=.
    pub status: Option<String>,
    /// X_PORTCULLIS_PENDING=, our own: what the service still has to do to be whole; empty if nothing.
    pub pending: Option<String>,
}

/// Reads a datagram.
pub fn parse(datagram: &[u8]) -> Message {
    let mut message = Message::default();
    for line in datagram.split(|&byte| byte == b'\n') {
        match line.split_at_checked(line.iter().position(|&b| b == b'=').unwrap_or(line.len())) {
            Some((b"READY", b"=1")) => message.ready = true,
            Some((b"WATCHDOG", b"=1")) => message.alive = true,
            Some((b"STATUS", text)) => message.status = Some(clean(text)),
            Some((b"X_PORTCULLIS_PENDING", text)) => message.pending = Some(clean(text)),
            _ => {}
        }
    }
    message
}

/// The text behind the sign, as it may be shown.
fn clean(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text.get(1..).unwrap_or_default());
    text.chars().filter(|c| !c.is_control()).take(LONGEST_STATUS).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_lines_are_read_and_others_ignored() {
        let message = parse(b"READY=1\nSTATUS=8 leases\x1b[2J\nMAINPID=1\n");
        let status = Some("8 leases[2J".to_owned());
        assert_eq!(message, Message { ready: true, status, ..Message::default() });
        let message = parse(b"X_PORTCULLIS_PENDING=7 of 9\nREADY=1");
        let pending = Some("7 of 9".to_owned());
        assert_eq!(message, Message { ready: true, pending, ..Message::default() });
        assert_eq!(parse(b"X_PORTCULLIS_PENDING=").pending.as_deref(), Some(""));
        assert_eq!(parse(b"WATCHDOG=1"), Message { alive: true, ..Message::default() });
        assert_eq!(parse(b"READY=0\nREADY\n=1\nWATCHDOG=trigger"), Message::default());
    }

    proptest! {
        #[test]
        fn no_datagram_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let status = parse(&bytes).status.unwrap_or_default();
            prop_assert!(status.chars().count() <= LONGEST_STATUS);
            prop_assert!(!status.contains(|c: char| c.is_control()));
        }
    }
}
