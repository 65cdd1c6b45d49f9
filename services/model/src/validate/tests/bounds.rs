//! What is said stays short, however much is wrong.

use proptest::{collection, prelude::*};

use super::{super::MOST_PROBLEMS, check, problems};

#[test]
fn of_many_problems_the_first_are_told() {
    let rule = |n: usize| {
        format!("[[firewall.rules]]\nname = \"r{n}\"\nfrom = \"gone\"\naction = \"allow\"\n")
    };
    let told = problems(&(0..MOST_PROBLEMS + 150).map(rule).collect::<String>());
    assert_eq!(told.len(), MOST_PROBLEMS + 1);
    assert_eq!(
        told[0],
        "firewall.rules[0].from: `gone` is not a zone; firewall.zones has: lan, wan"
    );
    assert_eq!(told[MOST_PROBLEMS], "150 more problems are not listed");
    let exactly = problems(&(0..MOST_PROBLEMS).map(rule).collect::<String>());
    assert_eq!(exactly.len(), MOST_PROBLEMS);
}

#[test]
fn a_message_lists_some_names() {
    let zones: String = (10..40).map(|n| format!("[firewall.zones.z{n}]\n")).collect();
    check(
        &format!("{zones}[interfaces.a]\nzone = \"gone\"\nports = [\"eth1\"]"),
        &[
            "interfaces.a.zone: `gone` is not a zone; firewall.zones has: z10, z11, z12, z13, z14, z15, z16, z17, z18, z19, z20, z21, z22, z23, z24, z25, and 14 more",
        ],
    );
}

#[test]
fn a_long_value_is_quoted_by_its_ends() {
    let told = problems(&format!("[dns]\ndomain = \"{}\"", "\u{e4}".repeat(50_000)));
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("dns.domain: `\u{e4}\u{e4}"), "{}", told[0]);
    assert!(told[0].ends_with(" as in lan or home.example.org"), "{}", told[0]);
    assert!(told[0].len() < 700, "{} bytes", told[0].len());
}

proptest! {
    /// Against the definition: two networks of different interfaces, one of which contains the other.
    #[test]
    fn overlaps_are_found(
        networks in collection::vec((0..4_usize, any::<[u8; 2]>(), 9..30_u8), 0..12)
    ) {
        let nets: Vec<(usize, ipnet::Ipv4Net)> = networks
            .iter()
            .map(|(owner, [b, c], length)| {
                let address = std::net::Ipv4Addr::new(10, b & 3, c & 0xc3, 1);
                (*owner, ipnet::Ipv4Net::new_assert(address, *length))
            })
            .collect();
        let toml: String = (0..4)
            .map(|owner| {
                let own = nets.iter().filter(|(of, _)| *of == owner);
                let own: Vec<String> = own.map(|(_, net)| format!("\"{net}\"")).collect();
                format!(
                    "[interfaces.i{owner}]\nzone = \"lan\"\nports = [\"eth{owner}\"]\n\
                     ipv4 = {{ method = \"static\", addresses = [{}] }}\n",
                    own.join(", ")
                )
            })
            .collect();
        // A network is told of at the interface that comes later.
        let overlapping = nets.iter().filter(|(owner, net)| {
            nets.iter().any(|(other, taken)| {
                other < owner && (net.contains(taken) || taken.contains(net))
            })
        });
        let told = problems(&toml).into_iter().filter(|told| told.contains("overlaps with")).count();
        prop_assert_eq!(told, overlapping.count(), "{}", toml);
    }
}
