//! Reading and writing rules as YAML and JSON.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

use portcullis_model::Document;
use portcullis_policy::{Format, Mode, export, import};

const YAML: &str = r#"
# A comment.
addresses:
  servers: { members: [192.168.77.20, "2001:db8::/64"] }
ports:
  web: { members: [80, 443, 8000-8100] }
schedules:
  night: { days: [fri, sat], from: 22:00, to: 06:00 }
rules:
  - name: web
    from: wan
    to: lan
    destinations: ["@servers"]
    protocols: [tcp]
    destination_ports: ["@web"]
    action: allow
    rate_limit: { per_second: 10 }
  - name: sleep
    from: lan
    to: [wan]
    schedule: night
    action: reject
    log: true
port_forwards:
  - { name: ssh, zone: wan, protocol: tcp, ports: [2222], to: 192.168.77.20, to_port: 22 }
"#;

fn read(text: &str, mode: Mode) -> Result<Document, Vec<String>> {
    import(text, Format::Yaml, mode, &Document::default())
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn yaml_is_the_document_in_other_words() {
    let read = read(YAML, Mode::Replace).unwrap();
    let toml = r#"
[firewall.addresses.servers]
members = ["192.168.77.20", "2001:db8::/64"]
[firewall.ports.web]
members = [80, 443, "8000-8100"]
[firewall.schedules.night]
days = ["fri", "sat"]
from = "22:00"
to = "06:00"
[[firewall.rules]]
name = "web"
from = "wan"
to = "lan"
destinations = ["@servers"]
protocols = ["tcp"]
destination_ports = ["@web"]
action = "allow"
rate_limit = { per_second = 10 }
[[firewall.rules]]
name = "sleep"
from = "lan"
to = "wan"
schedule = "night"
action = "reject"
log = true
[[firewall.port_forwards]]
name = "ssh"
zone = "wan"
protocol = "tcp"
ports = [2222]
to = "192.168.77.20"
to_port = 22
"#;
    assert_eq!(read, Document::parse(toml).unwrap());
}

#[test]
fn what_is_exported_is_imported_again() {
    let example = include_str!("../../../docs/configuration-example.toml");
    let document = Document::parse(example).unwrap();
    for format in [Format::Yaml, Format::Json] {
        let text = export(&document.firewall, format).unwrap();
        let mut bare = document.clone();
        bare.firewall.rules.clear();
        bare.firewall.port_forwards.clear();
        bare.firewall.schedules.clear();
        let again = import(&text, format, Mode::Replace, &bare)
            .unwrap_or_else(|errors| panic!("{errors:?}\n{text}"));
        assert_eq!(again, document, "{text}");
        // Under a table `firewall` too, as the API writes it.
        if format == Format::Json {
            let text = format!("{{\"firewall\": {text}}}");
            assert_eq!(import(&text, format, Mode::Replace, &bare), Ok(document.clone()));
        }
    }
}

#[test]
fn merging_keeps_what_is_there() {
    let before = import(YAML, Format::Yaml, Mode::Replace, &Document::default()).unwrap();
    let more = r#"
rules:
  - { name: web, from: wan, to: lan, action: deny }
  - { name: new, action: deny }
ports:
  mail: { members: [25] }
"#;
    let merged = import(more, Format::Yaml, Mode::Merge, &before).unwrap();
    let names: Vec<_> = merged.firewall.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["web", "sleep", "new"]);
    assert!(merged.firewall.rules[0].destinations.is_empty(), "it is another rule now");
    assert_eq!(merged.firewall.ports.len(), 2);
    assert_eq!(merged.firewall.port_forwards, before.firewall.port_forwards);
    let replaced = import(more, Format::Yaml, Mode::Replace, &before).map_err(|e| e[0].to_string());
    assert_eq!(replaced.unwrap().firewall.rules.len(), 2);
}

#[test]
fn all_errors_are_told_with_their_paths() {
    let text = r#"
rules:
  - name: Web
    sources: [10.0.0.1/24, 10.0.0.1]
    protocols: [tcp, xyz]
    action: maybe
    nonsense: 1
  - name: fine
    action: allow
  - from: wan
ports:
  web: { members: [0] }
  UPPER: { members: [1] }
zones: {}
policies: 7
"#;
    let errors = read(text, Mode::Replace).unwrap_err();
    for (path, what) in [
        ("rules[0].name", "`Web` is not a name"),
        ("rules[0].sources[0]", "the network is 10.0.0.0/24"),
        ("rules[0].protocols[1]", "`xyz` is not a protocol"),
        ("rules[0].action", "unknown variant `maybe`, expected one of `allow`, `deny`, `reject`"),
        ("rules[0].nonsense", "unknown field `nonsense`"),
        ("rules[2]", "missing field `name`"),
        ("ports.web.members[0]", "`0` is not a port"),
        ("ports.UPPER", "`UPPER` is not a name"),
        ("zones", "`zones` is not a table of rules; allowed are addresses, ports"),
        ("policies", "a list is needed"),
    ] {
        assert!(
            errors.iter().any(|e| e.starts_with(&format!("{path}: ")) && e.contains(what)),
            "{path}: {what}\n{errors:#?}"
        );
    }
    assert_eq!(errors.len(), 10, "{errors:#?}");
}

#[test]
fn a_document_that_would_not_be_valid_is_refused() {
    let text = "rules: [{ name: a, from: moon, action: allow }, { name: a, action: deny }]";
    assert_eq!(
        read(text, Mode::Replace).unwrap_err(),
        [
            "firewall.rules[0].from: `moon` is not a zone; firewall.zones has: lan, wan",
            "firewall.rules[1].name: `a` is already the name of rules[0]",
        ]
    );
}

#[test]
fn texts_that_are_no_tables() {
    for (text, format) in [
        ("- 1\n- 2\n", Format::Yaml),
        ("{", Format::Json),
        ("a: [", Format::Yaml),
        ("firewall: 3", Format::Yaml),
        ("firewall: {}\nrules: []\n", Format::Yaml),
        ("[]", Format::Json),
        ("a: &a [*a]", Format::Yaml),
    ] {
        let errors = import(text, format, Mode::Replace, &Document::default()).unwrap_err();
        assert_eq!(errors.len(), 1, "{text}: {errors:?}");
        assert!(errors[0].message.len() > 8, "{errors:?}");
    }
    let nothing = import("", Format::Yaml, Mode::Merge, &Document::default());
    assert_eq!(nothing, Ok(Document::default()));
}

/// Ten levels of ten aliases each are ten milliards of addresses.
#[test]
fn aliases_do_not_blow_up() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..10 {
        let aliases = [format!("*a{}", n - 1).as_str(); 10].join(", ");
        text += &format!("a{n}: &a{n} [{aliases}]\n");
    }
    let begin = std::time::Instant::now();
    assert!(read(&text, Mode::Replace).is_err());
    assert!(begin.elapsed().as_secs() < 60, "{:?}", begin.elapsed());
}

#[test]
fn corpus_of_the_fuzzer() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/corpus/policy_import");
    let mut files = 0;
    for entry in std::fs::read_dir(&corpus).expect("the corpus is in the repository") {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        portcullis_policy::fuzz::import(&bytes);
        files += 1;
    }
    assert!(files >= 5, "{files} files in {}", corpus.display());
}
