//! The service over real maps, with devices that are not there; its programs are not waited for. Needs
//! root.

use std::{fs, net::Ipv4Addr, path::PathBuf};

use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use portcullis_datapath_abi::{FlowKey, FlowRecord, address, counter::Count, map};
use portcullis_model::{
    Document,
    firewall::{AddressMatch, ForwardProtocol},
};
use portcullis_site::Pins;

use super::*;
use crate::datapath::{Sizes, scratch::tcp};

struct Lab {
    firewall: Firewall,
    pins: Pins,
}

impl Lab {
    fn new(document: &str) -> Self {
        Self::after(document, |_| {})
    }

    /// After an earlier run has left this in the maps.
    fn after(document: &str, earlier: impl FnOnce(&mut Datapath)) -> Self {
        let pins = Pins::new().unwrap_or_else(|error| panic!("these tests need root: {error}"));
        let part = part(document);
        let sizes = Sizes { flows: part.firewall.max_flows, ..replacement::usual_sizes() };
        let datapath = Datapath::begin(pins.path(), sizes, Arc::default());
        let mut datapath = datapath.unwrap_or_else(|error| panic!("{error}"));
        datapath.hold_back();
        earlier(&mut datapath);
        let firewall =
            Firewall::begin(pins.path().to_owned(), part, Some(datapath), Arc::default());
        Self { firewall: firewall.unwrap_or_else(|error| panic!("{error}")), pins }
    }

    /// Has a map out of reach while `act` runs.
    fn without<T>(&mut self, name: &str, act: impl FnOnce(&mut Firewall) -> T) -> T {
        let is_maps = |path: &PathBuf| path.to_string_lossy().contains("/maps-");
        let mut folders = fs::read_dir(self.pins.path()).into_iter().flatten().flatten();
        let folder = folders.find_map(|entry| Some(entry.path()).filter(is_maps));
        let folder = folder.unwrap_or_default();
        let (pin, away) = (folder.join(name), folder.join(format!("{name}-away")));
        fs::rename(&pin, &away).unwrap_or_else(|error| panic!("{}: {error}", pin.display()));
        let done = act(&mut self.firewall);
        fs::rename(&away, &pin).unwrap_or_else(|error| panic!("{}: {error}", pin.display()));
        done
    }

    fn has(&mut self, flow: &FlowRecord) -> bool {
        self.firewall.datapath.maps().flows().number_of(flow).is_some()
    }

    fn problems(&mut self) -> Vec<String> {
        let status = self.firewall.status().unwrap_or_else(|error| panic!("{error}"));
        status.problems
    }

    /// A whole pass over the flow table; whether the next one is urgent.
    fn pass(&mut self) -> bool {
        loop {
            let step = self.firewall.sweep().unwrap_or_else(|error| panic!("{error}"));
            if let Some(urgent) = step {
                return urgent;
            }
        }
    }
}

fn part(document: &str) -> FirewallPart {
    let document = format!("[firewall]\nmax_flows = 1024\n{document}");
    FirewallPart::of(&Document::parse(&document).unwrap_or_else(|error| panic!("{error}")))
}

fn interfaces(wan: Ipv4Addr) -> Vec<InterfaceStatus> {
    let interface = |name: &str, index, address: String| InterfaceStatus {
        name: name.to_owned(),
        zone: name.to_owned(),
        device: format!("pcnone{index}"),
        index,
        addresses: vec![address],
        ..InterfaceStatus::default()
    };
    vec![
        interface("lan", 1001, "192.168.77.1/24".to_owned()),
        interface("wan", 1002, format!("{wan}/24")),
    ]
}

/// A masqueraded flow, and the address that it has outside.
fn masqueraded() -> (FlowRecord, Ipv4Addr) {
    let mut flow = tcp(1);
    flow.last_seen = now_ticks();
    let [_, FlowKey { destination, .. }] = flow.ends4().keys;
    (flow, address(destination))
}

#[test]
fn flows_of_a_lost_address_end_though_another_table_cannot_be_written() {
    let (flow, wan) = masqueraded();
    let mut lab = Lab::new("");
    lab.firewall.set_interfaces(interfaces(wan)).unwrap_or_else(|error| panic!("{error}"));
    assert!(lab.firewall.datapath.maps().flows().adopt(&flow, None));
    let other = interfaces(Ipv4Addr::new(198, 51, 100, 9));
    // What it answers is another question.
    let _ = lab.without("NAT_SOURCES", |firewall| firewall.set_interfaces(other));
    assert!(!lab.has(&flow), "its address is gone");
    assert!(lab.firewall.is_incomplete(), "it is to be tried again");
    assert!(lab.problems().iter().any(|problem| problem.contains("map NAT_SOURCES")));
    lab.firewall.retry().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(lab.problems(), Vec::<String>::new());
}

#[test]
fn a_part_that_the_kernel_refuses_leaves_the_one_before_in_force() {
    let (flow, wan) = masqueraded();
    let mut lab = Lab::new("");
    lab.firewall.set_interfaces(interfaces(wan)).unwrap_or_else(|error| panic!("{error}"));
    assert!(lab.firewall.datapath.maps().flows().adopt(&flow, None));
    let forward = "[[firewall.port_forwards]]\nname = \"web\"\nzone = \"wan\"\nprotocol = \"tcp\"\n\
                   ports = [8080]\nto = \"192.168.77.9\"\n\
                   [[firewall.rules]]\nname = \"no\"\nfrom = \"lan\"\naction = \"deny\"\n";
    let wanted = part(forward);
    let applied = lab.without("NAT_SOURCES", |firewall| firewall.apply(wanted.clone()));
    assert!(applied.is_err_and(|error| error.to_string().contains("map NAT_SOURCES")));
    lab.firewall.retry().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(lab.problems(), Vec::<String>::new());
    let rules = |lab: &mut Lab| lab.firewall.status().map_or(u64::MAX, |status| status.rules);
    assert_eq!(rules(&mut lab), 0, "the rule is of the part that was refused");
    assert!(lab.has(&flow));
    lab.firewall.apply(wanted).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(rules(&mut lab), 1);
    assert_eq!(
        lab.firewall.part.firewall.port_forwards.first().map(|forward| forward.protocol),
        Some(ForwardProtocol::Tcp)
    );
}

#[test]
fn a_blocklist_without_room_is_a_problem_and_keeps_nothing_else_from_being_in_force() {
    let mut lab = Lab::new("");
    let range = |number: u32| {
        let first = Ipv4Addr::from((20 << 24) + (number << 8) + 1);
        let last = Ipv4Addr::from((20 << 24) + (number << 8) + 254);
        format!("{first}-{last}").parse::<AddressMatch>().unwrap_or_else(|error| panic!("{error}"))
    };
    // 14 prefixes each.
    lab.firewall.part.firewall.protection.blocklist = (0..40_000).map(range).collect();
    let (_, wan) = masqueraded();
    let reported = lab.firewall.set_interfaces(interfaces(wan));
    assert!(
        reported.is_ok_and(|changed| changed),
        "policy, addresses and translations are in force"
    );
    let datapath = &lab.firewall.datapath;
    assert!(datapath.is_waiting() || datapath.is_in_force(), "it went on to attach the programs");
    let problems = lab.problems();
    let told = |problem: &String| {
        problem.contains("map PREFIXES")
            && problem.contains("come to 5600")
            && problem.contains("524288")
    };
    assert!(problems.iter().any(told), "{problems:?}");
    lab.firewall.part.firewall.protection.blocklist.truncate(1);
    lab.firewall.retry().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(lab.problems(), Vec::<String>::new());
}

#[test]
fn flows_that_an_earlier_run_had_no_room_for_are_no_flood_now() {
    let mut lab = Lab::after("", |datapath| refused(datapath, 7));
    assert!(!lab.pass());
    refused(&mut lab.firewall.datapath, 8);
    assert!(lab.pass(), "one now");
    assert!(!lab.pass());
}

/// So many packets have found no room.
fn refused(datapath: &mut Datapath, packets: u64) {
    let mut counters: PerCpuArray<MapData, Count> =
        datapath.maps().map(map::COUNTERS).unwrap_or_else(|error| panic!("{error}"));
    let mut cpus =
        vec![Count::default(); aya::util::nr_cpus().unwrap_or_else(|error| panic!("{error:?}"))];
    if let Some(first) = cpus.first_mut() {
        first.packets = packets;
    }
    let cpus = PerCpuValues::try_from(cpus).unwrap_or_else(|error| panic!("{error}"));
    let set = counters.set(Counter::DropFull as u32, cpus, 0);
    set.unwrap_or_else(|error| panic!("{error}"));
}
