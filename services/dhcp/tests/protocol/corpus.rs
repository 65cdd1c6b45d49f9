//! The corpus of the fuzz target `dhcp_server`, and messages of real clients.

use std::path::Path;

use dhcproto::v4::MessageType;
use portcullis_dhcp::core::{Arrival, Request};
use serde_json::json;

use crate::{lab::*, script};

fn files(folder: &str, ending: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder:?}: {e}"));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .map(|path| (path.display().to_string(), std::fs::read(&path).expect("a file")))
        .collect();
    files.sort();
    files
}

#[test]
fn the_fuzz_corpus_is_replayed() {
    let corpus = files("../../tests/fuzz/corpus/dhcp_server", "");
    assert!(corpus.len() >= 20, "only {} files", corpus.len());
    for (name, input) in corpus {
        println!("{name}");
        script::run(&input);
        // Cut anywhere it must hold too.
        for length in (0..input.len()).step_by(7) {
            script::run(input.get(..length).unwrap_or_default());
        }
    }
}

#[test]
fn messages_of_real_clients_are_answered() {
    let captures = files("tests/captures", ".bin");
    assert!(captures.len() >= 11, "only {} files", captures.len());
    for (name, bytes) in captures {
        let request = Request::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut lab = Lab::new(part(json!({})));
        let arrival = Arrival { interface: lan(), broadcast: true };
        let mut heard = lab.receive(&bytes, &arrival);
        heard.extend(lab.pass(1_000));
        let kinds: Vec<_> = heard.iter().map(Heard::kind).collect();
        let expected: &[MessageType] = match request.kind {
            MessageType::Discover => &[MessageType::Offer],
            MessageType::Request if request.server.is_none() => &[],
            _ => &[MessageType::Ack],
        };
        assert_eq!(kinds, expected, "{name}");
    }
}

#[test]
fn names_and_identifiers_of_real_clients_are_read() {
    let read = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures").join(name);
        Request::parse(&std::fs::read(path).expect("a file")).expect("a request")
    };
    let udhcpc = read("udhcpc-0.bin");
    assert_eq!(udhcpc.hostname.as_deref(), Some(&b"box"[..]));
    assert_eq!(udhcpc.hardware.to_string(), "02:00:00:00:00:21");
    let dhclient = read("dhclient-0.bin");
    assert_eq!(dhclient.hostname.as_deref(), Some(&b"debian"[..]));
    assert_eq!(read("dhclient-reboot-0.bin").requested, Some(ip(55)));
    let windows = read("windows-request.bin");
    assert_eq!(windows.client_identifier.map(|id| id.len()), Some(7));
    assert_eq!(windows.fqdn.as_deref(), Some(&b"\0\0\0DESKTOP-4F1Q2AB"[..]));
    assert_eq!(read("android-discover.bin").max_size, Some(1500));
}
