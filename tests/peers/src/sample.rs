//! Records of a router in an ordinary home, for tests and for working on the page.

use portcullis_bus::{
    dhcp::Lease,
    dns::{DnsStatus, Upstream},
    firewall::{
        Attachment, Counter, DatapathStatus, DropCount, Explanation, FlowPage, FlowRecord,
        RuleFinding,
    },
    init::{BootPhase, JournalRecord, ServiceStatus, SlotStatus, SystemStatus},
    network::{InterfaceStatus, PortStatus, WanLease},
    web::CertificateStatus,
};

/// 2026-11-22 10:00:00 UTC.
pub(crate) const NOW: u64 = 1_795_341_600;

const MIB: u64 = 1024 * 1024;

fn text(text: &str) -> String {
    text.to_owned()
}

/// System status, healthy.
pub fn system() -> SystemStatus {
    let slot = |name: &str, version: Option<&str>, running, priority| SlotStatus {
        name: text(name),
        version: version.map(text),
        running,
        confirmed: running,
        priority,
        tries_left: if running { 0 } else { 3 },
    };
    let phase = |name: &str, seconds| BootPhase { name: text(name), seconds };
    SystemStatus {
        version: text("0.1.0"),
        kernel: text("6.12.48-amd64"),
        uptime_s: 11_532,
        healthy: true,
        problems: Vec::new(),
        memory_total_bytes: 486 * MIB,
        memory_available_bytes: 401 * MIB,
        data_total_bytes: 950 * MIB,
        data_free_bytes: 921 * MIB,
        slots: vec![slot("a", Some("0.1.0"), true, 15), slot("b", None, false, 0)],
        boot: vec![
            phase("firmware", 3.7),
            phase("kernel", 2.2),
            phase("stage-one", 0.6),
            phase("services", 1.1),
        ],
    }
}

/// All services, ready.
pub fn services() -> Vec<ServiceStatus> {
    [
        (
            "config",
            "Configuration: loads, validates, stores and hands out the one document",
            "generation 4, stored",
            5,
        ),
        ("console", "Serial and VGA console: banner and pctl, no shell", "waiting for a key", 4),
        ("dhcp", "DHCP server for the LAN", "3 leases", 7),
        ("dns", "DNS forwarder for the LAN", "2 upstreams", 9),
        ("firewall", "Firewall: the packet path", "2 devices attached", 8),
        ("network", "Network: links, addresses, routes", "wan bound", 6),
        ("web", "HTTPS: status page and API", "serving HTTPS", 9),
    ]
    .map(|(name, description, status, mib)| ServiceStatus {
        name: text(name),
        description: text(description),
        state: text("ready"),
        pid: Some(100 + mib as u32),
        restarts: 0,
        since_unix_s: NOW - 11_520,
        memory_bytes: mib * MIB,
        cpu_ms: mib * 130,
        essential: name != "console",
        last_exit: String::new(),
        status_text: text(status),
    })
    .into()
}

/// WAN on eth0, LAN as a bridge of two ports.
pub fn interfaces() -> Vec<InterfaceStatus> {
    let port = |device: &str, index: u32, carrier| PortStatus {
        device: text(device),
        index,
        mac: format!("52:54:00:12:34:{index:02x}"),
        carrier,
        driver: text("virtio_net"),
    };
    vec![
        InterfaceStatus {
            name: text("lan"),
            device: text("lan"),
            index: 5,
            zone: text("lan"),
            mac: text("52:54:00:12:34:03"),
            carrier: true,
            mtu: 1500,
            addresses: vec![text("192.168.77.1/24")],
            gateway: None,
            rx_bytes: 812 * MIB,
            tx_bytes: 9_310 * MIB,
            ports: vec![port("eth1", 3, true), port("eth2", 4, false)],
        },
        InterfaceStatus {
            name: text("wan"),
            device: text("eth0"),
            index: 2,
            zone: text("wan"),
            mac: text("52:54:00:12:34:02"),
            carrier: true,
            mtu: 1500,
            addresses: vec![text("203.0.113.57/24")],
            gateway: Some(text("203.0.113.1")),
            rx_bytes: 9_305 * MIB,
            tx_bytes: 815 * MIB,
            ports: vec![port("eth0", 2, true)],
        },
    ]
}

/// One WAN lease, bound.
pub fn wan() -> Vec<WanLease> {
    vec![WanLease {
        interface: text("wan"),
        state: text("bound"),
        address: Some(text("203.0.113.57/24")),
        gateway: Some(text("203.0.113.1")),
        server: Some(text("203.0.113.1")),
        dns: vec![text("203.0.113.53"), text("203.0.113.54")],
        ntp: Vec::new(),
        domain: None,
        mtu: None,
        obtained_unix_s: NOW - 600,
        lease_s: 3_600,
    }]
}

/// Three clients, one of them with a name that no terminal should obey, and one gone.
pub fn leases() -> Vec<Lease> {
    let lease = |host: u8, hostname: Option<&str>, state: &str, reserved| Lease {
        interface: text("lan"),
        address: format!("192.168.77.{host}"),
        mac: format!("52:54:00:aa:00:{host:02x}"),
        hostname: hostname.map(text),
        state: text(state),
        expires_unix_s: NOW + 40_000,
        reserved,
    };
    vec![
        lease(10, Some("nas"), "bound", true),
        lease(100, Some("laptop"), "bound", false),
        lease(101, None, "bound", false),
        lease(102, Some("phone"), "expired", false),
    ]
}

/// Two flows.
pub fn flows() -> FlowPage {
    let flow = |protocol: &str, port: u16, state: &str| FlowRecord {
        protocol: text(protocol),
        source: format!("192.168.77.100:{port}"),
        destination: text("198.51.100.7:443"),
        translated_source: format!("203.0.113.57:{port}"),
        from_zone: text("lan"),
        to_zone: text("wan"),
        state: text(state),
        packets_out: 900,
        bytes_out: 120_000,
        packets_in: 4_000,
        bytes_in: 5_300_000,
        idle_s: 3,
        timeout_s: 7_440,
    };
    FlowPage {
        total: 214,
        capacity: 65_536,
        flows: vec![flow("tcp", 50_112, "established"), flow("udp", 41_000, "unreplied")],
    }
}

/// Two counters.
pub fn counters() -> Vec<Counter> {
    let counter = |name: &str, description: &str, packets| Counter {
        name: text(name),
        description: text(description),
        packets,
        bytes: packets * 800,
    };
    vec![
        counter("forwarded", "passed from one interface to another", 12_700_311),
        counter("drop.policy", "refused because no policy allows it", 5_120),
    ]
}

/// WAN by XDP and tcx, LAN by tcx.
pub fn attachments() -> Vec<Attachment> {
    let attachment =
        |interface: &str, device: &str, hook: &str, program_id, reason: &str| Attachment {
            interface: text(interface),
            device: text(device),
            hook: text(hook),
            program_id,
            wanted: text("auto"),
            reason: text(reason),
        };
    let bridge = "a bridge has no XDP of its own";
    vec![
        attachment("lan", "lan", "tcx-egress", 40, bridge),
        attachment("lan", "lan", "tcx-ingress", 41, bridge),
        attachment("wan", "eth0", "xdp", 42, "the driver has native XDP"),
    ]
}

/// A table in which there is room.
pub fn datapath() -> DatapathStatus {
    DatapathStatus {
        kind: text("ebpf"),
        flows: 214,
        flow_capacity: 65_536,
        mappings: 120,
        mapping_capacity: 65_536,
        index_entries: 668,
        index_capacity: 262_144,
        route_generation: 17,
        bank: 1,
        rules: 12,
        programs: 26,
        programs_wanted: 26,
        problems: Vec::new(),
    }
}

/// Drops of two reasons.
pub fn drops() -> Vec<DropCount> {
    let drop = |reason: &str, description: &str, from: &str, to: &str, packets| DropCount {
        reason: text(reason),
        description: text(description),
        from_zone: text(from),
        to_zone: text(to),
        packets,
        bytes: packets * 60,
    };
    vec![
        drop("drop.policy", "No policy allows the flow.", "wan", "router", 5_000),
        drop("drop.policy", "No policy allows the flow.", "wan", "lan", 120),
        drop("drop.malformed", "Headers contradict themselves.", "wan", "", 3),
    ]
}

/// A rule that never decides.
pub fn findings() -> Vec<RuleFinding> {
    vec![RuleFinding {
        rule: "no-mail".to_owned(),
        kind: "shadowed".to_owned(),
        message: "`no-mail` never decides: `all-tcp` before it always does".to_owned(),
    }]
}

/// What would become of a connection.
pub fn explanation() -> Explanation {
    Explanation {
        verdict: text("allow"),
        from_zone: text("lan"),
        to_zone: text("wan"),
        rule: text("web"),
        steps: vec![
            text("Rule `web` fits: TCP to port 443."),
            text("Zone wan masquerades: the source becomes 203.0.113.57."),
        ],
    }
}

/// A pcapng file: a DNS query that passed, and a SYN that was dropped.
///
/// # Errors
/// None that can happen in memory.
pub fn capture() -> anyhow::Result<Vec<u8>> {
    use pcap_file::{
        DataLink,
        pcapng::{
            PcapNgWriter,
            blocks::{
                enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
                interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
            },
        },
    };

    let packet = |ip: &[u8], comment: Option<&'static str>| {
        let ethernet = [&[2; 12][..], &[8, 0], ip].concat();
        EnhancedPacketBlock {
            interface_id: 0,
            timestamp: std::time::Duration::from_millis(NOW * 1000 + 25),
            original_len: u32::try_from(ethernet.len()).unwrap_or_default(),
            data: ethernet.into(),
            options: comment
                .map(|text| EnhancedPacketOption::Comment(text.into()))
                .into_iter()
                .collect(),
        }
    };
    let query = [
        &[0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 77, 100, 192, 168, 77, 1][..],
        &[0x30, 0x39, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4],
    ]
    .concat();
    let syn = [
        &[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 198, 51, 100, 7, 203, 0, 113, 57][..],
        &[0x30, 0x39, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0],
    ]
    .concat();
    let mut file = PcapNgWriter::new(Vec::new())?;
    file.write_pcapng_block(InterfaceDescriptionBlock {
        linktype: DataLink::ETHERNET,
        snaplen: 0,
        options: vec![
            InterfaceDescriptionOption::IfName("eth0".into()),
            InterfaceDescriptionOption::IfTsResol(9),
        ],
    })?;
    file.write_pcapng_block(packet(&query, None))?;
    file.write_pcapng_block(packet(&syn, Some("drop.policy, wan > router")))?;
    Ok(file.into_inner())
}

/// Two upstreams, one of them down.
pub fn dns_status() -> DnsStatus {
    let upstream = |address: &str, healthy, rtt_ms| Upstream {
        address: text(address),
        source: text("wan"),
        healthy,
        rtt_ms,
    };
    DnsStatus {
        queries: 18_440,
        cache_hits: 11_020,
        local: 310,
        forwarded: 7_100,
        refused: 8,
        failed: 2,
        upstreams: vec![
            upstream("203.0.113.53:53", true, Some(12)),
            upstream("203.0.113.54:53", false, None),
        ],
    }
}

/// A certificate.
pub fn certificate() -> CertificateStatus {
    CertificateStatus {
        sha256: "0123456789abcdef".repeat(4),
        not_after_unix_s: NOW + 820 * 86_400,
        names: vec![text("portcullis.lan"), text("portcullis"), text("192.168.77.1")],
    }
}

/// Four records of three services.
pub fn journal() -> Vec<JournalRecord> {
    let record = |cursor, service: &str, level: &str, message: &str, fields: &str| JournalRecord {
        cursor,
        unix_ms: NOW * 1000 + cursor * 250,
        service: text(service),
        level: text(level),
        message: text(message),
        fields: text(fields),
    };
    vec![
        record(1, "init", "info", "service ready", r#"{"name":"dhcp","seconds":0.4}"#),
        record(2, "dhcp", "info", "lease given", r#"{"address":"192.168.77.100"}"#),
        record(3, "dhcp", "warn", "name \u{1b}[31mrefused", "{}"),
        record(4, "dns", "error", "no upstream answers", r#"{"tried":2}"#),
    ]
}
