//! What is said of texts that are no documents.

use portcullis_model::Document;

#[test]
fn errors_have_path_line_and_column() {
    for (text, path, position, message) in [
        (
            "[interfaces.lan]\nzone = \"lan\"\nports = [\"eth1\", \"a:b\"]",
            "interfaces.lan.ports[1]",
            (3, 18),
            "`a:b` is not a port",
        ),
        (
            "[dhcp.lan]\npool = { start = \"x\", end = \"192.168.77.9\" }",
            "dhcp.lan.pool.start",
            (2, 18),
            "`x` is not an IPv4 address: allowed are those as 192.168.77.5",
        ),
        (
            "[firewall.timeouts]\nudp_s = -1",
            "firewall.timeouts.udp_s",
            (2, 9),
            "-1`, expected a whole number from 0 to 4294967295",
        ),
        (
            "[dns]\n\n  domains = \"lan\"",
            "dns.domains",
            (3, 3),
            "unknown field `domains`, expected one of `domain`, `upstreams`, `cache_entries`",
        ),
        (
            "[firewall]\nzone = 1",
            "firewall.zone",
            (2, 1),
            "unknown field `zone`, expected one of `datapath`, `max_flows`, `hooks`, `zones`, `policies`",
        ),
        ("[nonsense]", "nonsense", (1, 2), "unknown field `nonsense`"),
        // Of the forms told apart by `method`, also the ones that have no fields.
        (
            "[interfaces.a]\nzone = \"lan\"\nports = [\"eth1\"]\nipv6 = { method = \"none\", addresses = [\"2001:db8::1/64\"] }",
            "interfaces.a.ipv6",
            (4, 8),
            "unknown field `addresses`, there are no fields",
        ),
        (
            "[interfaces.a]\nzone = \"lan\"\nports = [\"eth1\"]\nipv4 = { method = \"dhcp\", gateway = \"192.0.2.1\" }",
            "interfaces.a.ipv4",
            (4, 8),
            "unknown field `gateway`",
        ),
        ("[dns\n", "", (1, 5), ""),
        ("[system]\nhostname = \"-\"", "system.hostname", (2, 12), "`-` is not a host name"),
    ] {
        let error = Document::parse(text).expect_err(text);
        assert_eq!(error.path, path, "{error}");
        assert_eq!(error.position, Some(position), "{error}");
        assert!(error.message.contains(message), "{error}");
        let shown = error.to_string();
        assert!(
            shown.starts_with(&format!("line {}, column {}: ", position.0, position.1)),
            "{shown}"
        );
    }
}

fn errors(text: &str) -> Vec<String> {
    let errors = Document::read(text).expect_err(text);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn all_errors_of_form_are_told_at_once() {
    assert_eq!(
        errors(
            r#"
[interfaces.lan]
zone = 5
ports = "eth1"
mtu = 70000
[interfaces.GUESTS]
zone = "lan"
ports = ["eth2"]
[dns]
upstream = ["9.9.9.9"]
cache_entries = true
"#
        ),
        [
            "line 3, column 8: interfaces.lan.zone: invalid type: integer `5`, expected a string",
            "line 4, column 9: interfaces.lan.ports: invalid type: string \"eth1\", expected a list",
            "line 5, column 7: interfaces.lan.mtu: invalid value: integer `70000`, expected a whole number from 0 to 65535",
            "line 6, column 13: interfaces.GUESTS: `GUESTS` is not a name: allowed are 1 to 15 of a-z, 0-9, - and _, beginning with a letter",
            "line 10, column 1: dns.upstream: unknown field `upstream`, expected one of `domain`, `upstreams`, `cache_entries`",
            "line 11, column 17: dns.cache_entries: invalid type: boolean `true`, expected a whole number from 0 to 4294967295",
        ]
    );
}

/// What is taken out of a list to read on moves the rest of it.
#[test]
fn items_of_lists_keep_their_numbers() {
    assert_eq!(
        errors(
            r#"
[[firewall.rules]]
name = "without-action"
[[firewall.rules]]
name = "Two Words"
action = "allow"
[[firewall.rules]]
name = "sources"
action = "allow"
sources = ["192.0.2.1", "x", "10.0.0.1/8", "192.0.2.2"]
from = ["lan", 5]
"#
        ),
        [
            "line 2, column 1: firewall.rules[0]: missing field `action`",
            "line 5, column 8: firewall.rules[1].name: `Two Words` is not a name: allowed are 1 to 63 of a-z, 0-9, -, _ and ., beginning with a letter or digit",
            "line 10, column 25: firewall.rules[2].sources[1]: `x` is not an address: allowed are 192.0.2.1, 192.0.2.0/24, 192.0.2.10-192.0.2.19, the same for IPv6, and @NAME for a set",
            "line 10, column 30: firewall.rules[2].sources[2]: `10.0.0.1/8` has bits behind its prefix length: the network is 10.0.0.0/8",
            "line 11, column 16: firewall.rules[2].from[1]: invalid type: integer `5`, expected a string",
        ]
    );
}

#[test]
fn errors_are_told_up_to_a_number_and_a_length() {
    let many: String = (0..500).map(|n| format!("field_{n} = 1\n")).collect();
    assert_eq!(errors(&many).len(), 20);
    // Reading a long document again takes its time.
    let padded = many + &"# padding\n".repeat(400_000);
    assert!((2..12).contains(&errors(&padded).len()));
    let long = "x".repeat(100_000);
    for text in [format!("{long} = 1"), format!("[system]\nhostname = \"{long}\"")] {
        let told = errors(&text);
        assert_eq!(told.len(), 1);
        assert!(told[0].len() < 1_500, "{} bytes", told[0].len());
    }
    assert!(
        errors(&format!("[system]\nhostname = \"{long}\""))[0].ends_with("(RFC 1123 section 2.1)")
    );
}

#[test]
fn a_document_of_another_version_is_one() {
    let text = "version = 2\n[something.new]\nfield = 1\n";
    let told = "line 1, column 11: version: 2 is not known; this release reads version 1";
    assert_eq!(errors(text), [told]);
    assert_eq!(Document::parse(text).expect_err(text).to_string(), told);
}

#[test]
fn errors_are_in_the_words_of_the_manual() {
    let interface = "[interfaces.a]\nzone = \"lan\"\nports = [\"eth1\"]\n";
    for (text, told) in [
        (
            format!("{interface}ipv4 = {{ method = \"static\", addresses = [\"192.168.77.1\"] }}"),
            "one of its values is not an address with the length of its prefix: allowed are those as 192.168.77.1/24",
        ),
        (format!("{interface}ipv4 = \"dhcp\""), "invalid type: string \"dhcp\", expected a table"),
        ("interfaces = []".to_owned(), "invalid type: list, expected a table"),
        ("dns = 5".to_owned(), "invalid type: integer `5`, expected a table"),
        ("[firewall.log]\nflows = \"yes\"".to_owned(), "expected true or false"),
        ("[dns]\ndomain = \"a\"\ndomain = \"b\"".to_owned(), "duplicate key `domain`"),
    ] {
        let all = errors(&text);
        assert!(all.len() == 1 && all[0].contains(told), "{all:?}");
    }
}
