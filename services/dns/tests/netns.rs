//! The service itself, between dig and real upstreams, in network namespaces. Needs root, and the
//! packages dnsmasq-base, unbound, bind9-dnsutils and dnsperf.

#[cfg(test)]
mod lab;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::Result;
use lab::{Lab, ROUTER, lease, part, queries, wan};

/// Not a test: what the tests start as the service.
#[test]
#[ignore = "started by the tests as the service's process"]
fn service_process() {
    assert!(std::env::var_os(lab::SERVICE_VARIABLE).is_some(), "started by hand");
    let code = portcullis_dns::main();
    std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
}

/// The time after which a client is told that nobody answers; what an upstream costs is less. How much
/// less is for [`upstreams`](../src/upstreams.rs), which has no clock: a busy machine is slow.
const DEADLINE: Duration = Duration::from_millis(4500);

/// For what happens soon, on a machine that may be busy.
const LIMIT: Duration = Duration::from_secs(30);

/// As after a restart, when others ask at once what is not known yet.
#[test]
fn nothing_is_answered_before_it_is_known() -> Result<()> {
    let laptop = lease("laptop", "192.168.77.100");
    let lab = Lab::start_slowly(wan(&["198.51.100.53"]), laptop, Duration::from_secs(1))?;
    assert_eq!(lab.dig("laptop.lan A")?.data(), ["192.168.77.100"]);
    // The upstream is known, though it is not there: 14 would be that there is none.
    assert_eq!(lab.dig("www.example.com A")?.after("EDE: "), "22");
    Ok(())
}

#[test]
fn names_that_are_known_do_not_wait_for_ever_for_others() -> Result<()> {
    let nobody = lease("nobody", "192.168.77.100");
    let lab = Lab::start_slowly(Vec::new(), nobody, Duration::from_secs(60))?;
    assert_eq!(lab.dig("nas.lan A")?.data(), ["192.168.77.10"]);
    Ok(())
}

const WWW: &[&str] = &[
    "--host-record=www.example.com,203.0.113.80",
    "--cname=alias.example.com,www.example.com",
    "--txt-record=text.example.com,hello",
    "--host-record=evil.example.com,192.168.77.5",
    "--host-record=private.example.com,10.20.30.40",
];

#[test]
fn sockets_that_init_made_are_served() -> Result<()> {
    let lab = Lab::start_with_sockets(&part(), Vec::new())?;
    for transport in ["+notcp", "+tcp"] {
        assert_eq!(lab.dig(&format!("{transport} nas.lan A"))?.data(), ["192.168.77.10"]);
    }
    Ok(())
}

#[test]
fn names_of_the_outside_by_udp_and_tcp() -> Result<()> {
    let mut lab = Lab::start(&part(), wan(&["198.51.100.53"]))?;
    lab.dnsmasq("198.51.100.53", WWW)?;
    for transport in ["+notcp", "+tcp"] {
        let answer = lab.dig(&format!("{transport} WwW.Example.com A"))?;
        assert_eq!((answer.code(), answer.flags()), ("NOERROR", "qr rd ra"), "{answer:?}");
        assert_eq!(answer.data(), ["203.0.113.80"]);
        assert_eq!(answer.records()[0][0], "WwW.Example.com.");
        assert!(answer.text.contains(";WwW.Example.com.\t"), "case of the question: {answer:?}");
        assert_eq!(answer.after("udp: "), "1232");
    }
    assert!(lab.dig("+noedns www.example.com A")?.text.lines().all(|l| !l.contains("EDNS")));
    let secure = lab.dig("+dnssec +cdflag text.example.com TXT")?;
    assert_eq!(secure.data(), ["\"hello\""]);
    assert_eq!((secure.flags(), secure.after("flags: do")), ("qr rd ra cd", "udp:"), "{secure:?}");
    let alias = lab.dig("alias.example.com A")?;
    assert_eq!(alias.data(), ["www.example.com.", "203.0.113.80"]);
    Ok(())
}

#[test]
fn answers_are_cached_with_falling_ttl_and_absence_too() -> Result<()> {
    let mut lab = Lab::start(&part(), wan(&["198.51.100.53"]))?;
    let log = lab.dnsmasq("198.51.100.53", WWW)?;
    let begin = Instant::now();
    let first = lab.dig("www.example.com A")?.ttl();
    std::thread::sleep(Duration::from_millis(2100));
    let later = lab.dig("+tcp WWW.EXAMPLE.COM A")?;
    let passed = u32::try_from(begin.elapsed().as_secs())?;
    assert!((2..=passed + 1).contains(&(first - later.ttl())), "{first}: {later:?}");
    assert_eq!(queries(&log), ["A www.example.com"]);
    assert_eq!(lab.status()?.cache_hits, 1);

    lab.unbound(
        "198.51.100.54",
        " local-zone: \"example.net.\" static\n \
         local-data: \"example.net. 3600 IN SOA ns.example.net. a.example.net. 1 2 3 4 40\"\n \
         local-data: \"example.net. 3600 IN NS ns.example.net.\"\n",
    )?;
    lab.change_wan(wan(&["198.51.100.54"]), 1)?;
    let absent = lab.dig("no.example.net A")?;
    assert_eq!(absent.code(), "NXDOMAIN", "{absent:?}");
    lab.stop_upstream(1);
    std::thread::sleep(Duration::from_millis(1100));
    let cached = lab.dig("no.example.net A")?;
    assert_eq!(cached.code(), "NXDOMAIN", "from the cache, the server is gone: {cached:?}");
    let ttl: u32 = cached.after("AUTHORITY SECTION:\nexample.net.\t\t").parse()?;
    assert!((1..40).contains(&ttl), "negative TTL counts down from 40: {cached:?}");
    Ok(())
}

#[test]
fn big_answers_are_truncated_by_udp_and_whole_by_tcp() -> Result<()> {
    let mut lab = Lab::start(&part(), wan(&["198.51.100.53"]))?;
    let records: String = (0..100)
        .map(|n| format!(" local-data: 'big.example.net. 300 IN A 203.0.113.{n}'\n"))
        .collect();
    lab.unbound("198.51.100.53", &records)?;
    let cut = lab.dig("+ignore +bufsize=4096 big.example.net A")?;
    assert!(cut.flags().contains("tc") && cut.records().is_empty(), "{cut:?}");
    let whole = lab.dig("big.example.net A")?;
    assert!(whole.text.contains("Truncated, retrying in TCP mode"), "{whole:?}");
    assert_eq!(whole.records().len(), 100);
    let small = lab.dig("+ignore +noedns big.example.net A")?;
    assert!(small.flags().contains("tc"));
    Ok(())
}

#[test]
fn local_names_and_their_reverse() -> Result<()> {
    let mut lab = Lab::start(&part(), wan(&["198.51.100.53"]))?;
    let log = lab.dnsmasq("198.51.100.53", WWW)?;
    lab.change_leases(vec![lease("laptop", "192.168.77.100")]);
    let end = Instant::now() + LIMIT;
    while lab.dig("laptop.lan A")?.code() != "NOERROR" {
        assert!(Instant::now() < end, "the lease's name does not appear");
    }
    for (arguments, code, data) in [
        ("laptop.lan A", "NOERROR", &["192.168.77.100"][..]),
        ("+tcp laptop.lan A", "NOERROR", &["192.168.77.100"]),
        ("laptop A", "NOERROR", &["192.168.77.100"]),
        ("laptop.lan AAAA", "NOERROR", &[]),
        ("laptop.lan HTTPS", "NOERROR", &[]),
        ("nas.lan A", "NOERROR", &["192.168.77.10"]),
        ("portcullis.lan A", "NOERROR", &["192.168.77.1"]),
        ("nobody.lan A", "NXDOMAIN", &[]),
        ("nobody A", "NXDOMAIN", &[]),
        ("-x 192.168.77.100", "NOERROR", &["laptop.lan."]),
        ("-x 192.168.77.1", "NOERROR", &["portcullis.lan."]),
        ("-x 192.168.77.99", "NXDOMAIN", &[]),
        ("-x 10.1.2.3", "NXDOMAIN", &[]),
        ("-x 172.20.0.1", "NXDOMAIN", &[]),
        ("-x fd00::1", "NXDOMAIN", &[]),
        ("localhost A", "NOERROR", &["127.0.0.1"]),
        ("host.local A", "NXDOMAIN", &[]),
        ("x.onion A", "NXDOMAIN", &[]),
        ("x.home.arpa A", "NXDOMAIN", &[]),
        ("x.test A", "NXDOMAIN", &[]),
        ("x.invalid A", "NXDOMAIN", &[]),
    ] {
        let answer = lab.dig(arguments)?;
        assert_eq!((answer.code(), answer.flags()), (code, "qr aa rd ra"), "{answer:?}");
        assert_eq!(answer.data(), data, "{arguments}");
        assert!(!data.is_empty() || answer.text.contains("\tSOA\t"), "{answer:?}");
    }
    assert_eq!(queries(&log), [""; 0], "nothing of this went outside");
    lab.change_leases(Vec::new());
    let end = Instant::now() + LIMIT;
    while lab.dig("laptop.lan A")?.code() != "NXDOMAIN" {
        assert!(Instant::now() < end, "the lease's name does not go");
    }
    Ok(())
}

#[test]
fn a_connection_takes_several_queries_in_pieces_and_ends_when_idle() -> Result<()> {
    let mut lab = Lab::start(&part(), wan(&["198.51.100.53"]))?;
    lab.dnsmasq("198.51.100.53", WWW)?;
    // Ids 1 to 3; the first needs the upstream, the others do not.
    let queries: Vec<u8> = ["www.example.com", "nas.lan", "nobody.lan"]
        .iter()
        .zip(1_u8..)
        .flat_map(|(name, id)| {
            let mut query = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            for label in name.split('.') {
                query.push(u8::try_from(label.len()).unwrap());
                query.extend(label.bytes());
            }
            query.extend([0, 0, 1, 0, 1]);
            [vec![0, u8::try_from(query.len()).unwrap()], query].concat()
        })
        .collect();
    lab.client.enter(|| {
        let mut stream = TcpStream::connect((ROUTER, 53))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let (first, rest) = queries.split_at(45);
        stream.write_all(first)?;
        std::thread::sleep(Duration::from_millis(100));
        let last_written = Instant::now();
        stream.write_all(rest)?;
        let mut codes = BTreeMap::new();
        for _ in 0..3 {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut reply)?;
            codes.insert(reply[1], reply[3] & 0x0f);
        }
        assert_eq!(codes, BTreeMap::from([(1, 0), (2, 0), (3, 3)]));
        // Within the time that reading may take.
        assert_eq!(stream.read(&mut [0])?, 0, "closed by the router");
        assert!(last_written.elapsed() >= Duration::from_secs(10), "{:?}", last_written.elapsed());
        Ok(())
    })
}

#[test]
fn odd_queries_get_the_code_that_their_rfc_says() -> Result<()> {
    let mut lab = Lab::start(&part(), wan(&["198.51.100.53"]))?;
    let log = lab.dnsmasq("198.51.100.53", WWW)?;
    assert_eq!(lab.dig("www.example.com ANY")?.data(), ["\"RFC8482\" \"\""]);
    assert_eq!(lab.dig("+opcode=notify example.com SOA")?.code(), "NOTIMP");
    assert_eq!(lab.dig("+opcode=update lan SOA")?.code(), "NOTIMP");
    assert_eq!(lab.dig("version.bind CH TXT")?.code(), "REFUSED");
    assert_eq!(lab.dig("+norecurse www.example.com A")?.code(), "REFUSED");
    assert_eq!(lab.dig("+edns=1 +noednsneg www.example.com A")?.code(), "BADVERS");
    assert_eq!(lab.dig("+header-only")?.code(), "FORMERR");
    assert_eq!(queries(&log), [""; 0]);
    Ok(())
}

#[test]
fn a_dead_first_server_costs_the_first_query_a_little_time() -> Result<()> {
    let mut lab = Lab::start(&part(), wan(&["198.51.100.54", "198.51.100.53"]))?;
    lab.dnsmasq("198.51.100.53", WWW)?;
    // A server that takes queries and says nothing.
    let dead = lab.provider.enter(|| Ok(UdpSocket::bind("198.51.100.54:53")?))?;
    let first = lab.dig("www.example.com A")?;
    assert_eq!(first.data(), ["203.0.113.80"]);
    assert!(first.took < DEADLINE, "{first:?}");
    let second = lab.dig("text.example.com TXT")?;
    assert_eq!(second.data(), ["\"hello\""]);
    assert!(second.took < DEADLINE / 2, "{second:?}");
    // At the deadline of the first query the server counts as silent.
    lab.wait_for(|status| !status.upstreams[1].healthy)?;
    let status = lab.status()?;
    assert_eq!(status.upstreams[0].address, "198.51.100.53:53");
    assert!(status.upstreams[0].healthy, "{status:?}");
    assert_eq!(status.upstreams[1].source, "wan");
    // It comes back: a probe finds it, no client waits.
    drop(dead);
    lab.dnsmasq("198.51.100.54", WWW)?;
    lab.wait_for(|status| status.upstreams.iter().all(|upstream| upstream.healthy))
}

#[test]
fn a_server_that_refuses_is_passed_over() -> Result<()> {
    let mut lab = Lab::start(&part(), wan(&["198.51.100.54", "198.51.100.53"]))?;
    lab.dnsmasq("198.51.100.53", WWW)?;
    let refusing = lab.dnsmasq("198.51.100.54", &[])?;
    let answer = lab.dig("www.example.com A")?;
    assert_eq!(answer.data(), ["203.0.113.80"]);
    assert!(answer.took < DEADLINE, "{answer:?}");
    assert_eq!(queries(&refusing), ["A www.example.com"]);
    Ok(())
}

#[test]
fn without_wan_failures_are_immediate_and_local_names_work() -> Result<()> {
    let mut lab = Lab::start(&part(), Vec::new())?;
    let answer = lab.dig("www.example.com A")?;
    assert_eq!((answer.code(), answer.after("EDE: ")), ("SERVFAIL", "14"), "{answer:?}");
    assert!(answer.took < DEADLINE, "{answer:?}");
    assert_eq!(lab.dig("nas.lan A")?.data(), ["192.168.77.10"]);
    // The WAN comes up.
    lab.dnsmasq("198.51.100.53", WWW)?;
    lab.change_wan(wan(&["198.51.100.53"]), 1)?;
    assert_eq!(lab.dig("www.example.com A")?.data(), ["203.0.113.80"]);
    // It goes again: what is cached is still given.
    lab.change_wan(Vec::new(), 0)?;
    assert_eq!(lab.dig("www.example.com A")?.data(), ["203.0.113.80"]);
    Ok(())
}

#[test]
fn an_outside_name_cannot_point_into_the_lan() -> Result<()> {
    let mut lab = Lab::start(&part(), wan(&["198.51.100.53"]))?;
    lab.dnsmasq("198.51.100.53", WWW)?;
    let answer = lab.dig("evil.example.com A")?;
    assert_eq!((answer.code(), answer.after("EDE: ")), ("NOERROR", "15"), "{answer:?}");
    assert_eq!(answer.data(), [""; 0]);
    assert_eq!(lab.dig("private.example.com A")?.data(), ["10.20.30.40"]);
    Ok(())
}

#[test]
fn only_the_lan_is_served_and_from_the_address_that_was_asked() -> Result<()> {
    let mut part = part();
    let name = "lan".parse().unwrap();
    part.networks.insert(name, vec!["192.168.77.1/24".parse()?, "192.168.77.2/24".parse()?]);
    let lab = Lab::start(&part, Vec::new())?;
    lab.router.address("lan", "192.168.77.2/24")?;
    // dig takes an answer only from the address that it asked.
    for server in [ROUTER, "192.168.77.2"] {
        assert_eq!(lab.dig(&format!("@{server} nas.lan A"))?.data(), ["192.168.77.10"]);
    }
    // From the WAN there is silence, also for an address of the LAN.
    lab.provider.run("ip route add 192.168.77.0/24 via 198.51.100.1")?;
    for server in ["198.51.100.1", ROUTER] {
        for transport in ["+notcp", "+tcp"] {
            let line = format!("dig @{server} {transport} +tries=1 +time=1 nas.lan A");
            assert!(lab.provider.run(&line).is_err(), "{server} {transport}");
        }
    }
    assert_eq!(lab.status()?.queries, 2);
    Ok(())
}

#[test]
fn a_new_configuration_takes_effect_at_once() -> Result<()> {
    let mut lab = Lab::start(&part(), wan(&["198.51.100.53"]))?;
    lab.dnsmasq("198.51.100.53", &[])?;
    lab.dnsmasq("198.51.100.54", WWW)?;
    let mut new = part();
    new.domain = "home.example".to_owned();
    new.upstreams = vec!["198.51.100.54".parse()?];
    lab.apply(&new)?;
    assert_eq!(lab.dig("nas.home.example A")?.data(), ["192.168.77.10"]);
    assert_eq!(lab.dig("www.example.com A")?.data(), ["203.0.113.80"]);
    assert_eq!(lab.status()?.upstreams[0].source, "configuration");
    new.domain = "a..b".to_owned();
    let error = lab.apply(&new).unwrap_err().to_string();
    assert!(error.contains("dns.domain"), "{error}");
    Ok(())
}

#[test]
fn under_load_nothing_is_lost_or_asked_twice_and_memory_stays_small() -> Result<()> {
    let mut lab = Lab::start(&part(), wan(&["198.51.100.53"]))?;
    let idle = lab.private_kib()?;
    let log = lab.dnsmasq("198.51.100.53", &["--address=/load.example/203.0.113.7"])?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("queries");
    let lines: String = (0..2000).map(|n| format!("n{n}.load.example A\nnas.lan A\n")).collect();
    fs::write(&file, lines)?;
    let file = file.display();
    let report = lab.client.run(&format!("dnsperf -s {ROUTER} -d {file} -n 3 -c 10 -q 50 -t 5"))?;
    let number = |mark: &str| {
        let line = report.lines().find(|line| line.contains(mark)).unwrap_or_default();
        line.split_whitespace().find_map(|word| word.parse::<u64>().ok())
    };
    assert_eq!(number("Queries completed:"), Some(12_000), "{report}");
    assert_eq!(number("Queries lost:"), Some(0), "{report}");
    assert!(report.contains("NOERROR 12000 (100.00%)"), "{report}");
    // Each name was asked for once, though three rounds came from ten clients at a time; some more
    // attempts are what a busy machine may cause, and three times as many are what it would be.
    let asked = queries(&log).len();
    assert!((2000..3000).contains(&asked), "{asked} queries at the upstream");
    let loaded = lab.private_kib()?;
    eprintln!("private memory: idle {idle} KiB, after 2000 names {loaded} KiB\n{report}");
    assert!(idle < 10 * 1024 && loaded < 16 * 1024, "{idle} KiB, {loaded} KiB");
    Ok(())
}

/// Replies to one client, as many as it may ask for at a time, none of which it takes.
#[test]
fn clients_that_do_not_read_cost_little_memory() -> Result<()> {
    let mut part = part();
    // A name with so many addresses that a reply has 45 KiB.
    let addresses = (0..2000_u32).map(|n| Ok(format!("10.50.{}.{}/16", n / 200, n % 200).parse()?));
    part.networks.insert("lab".parse()?, addresses.collect::<Result<_>>()?);
    let lab = Lab::start(&part, Vec::new())?;
    let begin = lab.private_kib()?;
    // One reply costs what it costs to make.
    assert_eq!(lab.dig("+tcp portcullis.lan A")?.records().len(), 2001);
    let made = lab.private_kib()?;
    let query = b"\0\x20\0\x01\x01\0\0\x01\0\0\0\0\0\0\x0aportcullis\x03lan\0\0\x01\0\x01";
    let most = lab.client.enter(|| {
        let mut streams = Vec::new();
        for _ in 0..8 {
            let mut stream = TcpStream::connect((ROUTER, 53))?;
            stream.write_all(&query.repeat(60))?;
            streams.push(stream);
        }
        let mut most = 0;
        let end = Instant::now() + Duration::from_secs(8);
        while Instant::now() < end {
            most = most.max(lab.private_kib()?);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(most)
    })?;
    eprintln!("private memory: {begin} KiB, {made} KiB after one reply, {most} KiB at most");
    assert!(most < made + 4 * 1024, "{begin} KiB, {made} KiB, {most} KiB");
    // Nobody else is the worse for it.
    assert_eq!(lab.dig("+tcp nas.lan A")?.data(), ["192.168.77.10"]);
    Ok(())
}
