//! What an order to take a document does: who gets parts, what is said, what comes of an interruption.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_reaches_only_who_is_concerned() -> Result<()> {
    let lab = Lab::new()?;
    let (_process, config) = lab.start().await?;

    let report = config.apply(MORE_FLOWS.into()).await?;
    assert_eq!(accepted(&report), [("firewall", true)]);
    assert_eq!(report.generation, 1);
    assert_eq!(lab.counts(), [0, 1, 0, 0, 0]);
    let part: part::FirewallPart = serde_json::from_str(&lab.firewall.parts()[0])?;
    assert_eq!(part.firewall.max_flows, 2048);

    let report = config.apply(OTHER_NETWORK.into()).await?;
    let all = ["network", "firewall", "dhcp", "dns", "web"].map(|service| (service, true));
    assert_eq!(accepted(&report), all, "in this order");
    let part: part::WebPart = serde_json::from_str(&lab.web.parts()[0])?;
    assert_eq!(part.networks, ["10.0.0.0/24".parse()?]);

    let report = config.apply(OTHER_NETWORK.into()).await?;
    assert_eq!(accepted(&report), []);
    assert_eq!(report.generation, 3);
    assert_eq!(config.status().await?.generation, 3);
    assert_eq!(fs::read_to_string(lab.file("config.toml"))?, OTHER_NETWORK, "as written");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_document_changes_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let (_process, config) = lab.start().await?;
    config.apply(MORE_FLOWS.into()).await?;
    for (text, path, words) in [
        ("[firewall]\nmax_flows = 1\n[dns]\ndomain = \"\"", "dns.domain", "is not a domain"),
        ("[firewall]\nmax_flow = 1", "firewall.max_flow", "unknown field `max_flow`"),
        ("[firewall", "", "line 1"),
    ] {
        let problems = config.check(text.into()).await?;
        assert_eq!(problems[0].path, path);
        assert!(problems[0].message.contains(words), "{problems:?}");
        let report = config.apply(text.into()).await?;
        assert!(!report.accepted);
        assert_eq!(report.problems, problems);
        assert_eq!(report.generation, 1);
    }
    let long = "#".repeat(Document::MAX_BYTES + 1);
    assert!(config.check(long).await?[0].message.contains("at most 8388608"));
    assert_eq!(config.check(OTHER_NETWORK.into()).await?, []);
    assert_eq!(config.status().await?.generation, 1);
    assert_eq!(fs::read_to_string(lab.file("config.toml"))?, MORE_FLOWS);
    assert_eq!(lab.counts(), [0, 1, 0, 0, 0]);
    Ok(())
}

/// One wrong name in thousands of places: what is said of it goes into the journal, the status and a
/// file, and must be read again at the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_very_many_problems_some_are_told() -> Result<()> {
    let lab = Lab::new()?;
    let (process, config) = lab.start().await?;
    config.apply(MORE_FLOWS.into()).await?;
    let rule =
        |n| format!("[[firewall.rules]]\nname = \"r{n}\"\nfrom = \"gone\"\naction = \"allow\"\n");
    let wrong: String = (0..12_000).map(rule).collect();
    let problems = config.check(wrong.clone()).await?;
    assert_eq!(problems.len(), 101);
    assert_eq!(problems[100].message, "11900 more problems are not listed");
    assert_eq!(config.apply(wrong.clone()).await?.problems, problems);
    process.kill()?;

    fs::write(lab.file("config.toml"), &wrong)?;
    let (process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!((status.generation, status.source.as_str()), (2, "last-good"));
    assert!(status.problem.len() < 2_000, "{} bytes", status.problem.len());
    assert!(status.problem.ends_with("and 91 more"), "{}", status.problem);
    process.kill()?;
    let (_process, config) = lab.start().await?;
    assert_eq!(config.status().await?, status, "the same at the next start, not counted again");
    Ok(())
}

/// What the limits of the firewall allow can be given to the router, also with all defaults written
/// out, as `pctl firewall import` does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_rules_and_a_hundred_thousand_prefixes_are_a_document() -> Result<()> {
    let lab = Lab::new()?;
    let (process, config) = lab.start().await?;
    let mut text = String::from("[firewall.protection]\nblocklist = [\n");
    for n in 0..100_000_u32 {
        // Every other /24, so that none touches another.
        let [_, a, b, c] = (n << 1).to_be_bytes();
        text.push_str(&format!("\"{}.{b}.{c}.0/24\",\n", 100 + a));
    }
    text.push_str("]\n");
    for n in 0..10_000_u32 {
        let [_, _, a, b] = n.to_be_bytes();
        text.push_str(&format!(
            "[[firewall.rules]]\nname = \"rule-{n}\"\nfrom = \"lan\"\nto = \"wan\"\n\
             sources = [\"10.0.{a}.{b}\"]\nprotocols = [\"tcp\"]\ndestination_ports = [443]\n\
             action = \"reject\"\n"
        ));
    }
    let report = config.apply(text).await?;
    assert_eq!(accepted(&report), [("firewall", true)]);
    let written_out = config.document().await?;
    assert!(written_out.len() > 4 << 20, "{} bytes", written_out.len());
    assert_eq!(accepted(&config.apply(written_out.clone()).await?), [], "nothing changed");
    let peak = peak_memory(process.id())?;
    assert!(peak < 200 << 20, "{} MiB, and the manifest allows 256", peak >> 20);
    process.kill()?;
    let (_process, config) = lab.start().await?;
    assert_eq!(config.status().await?.source, "stored");
    assert_eq!(config.document().await?, written_out);
    Ok(())
}

/// The most memory that a process had, in bytes.
fn peak_memory(id: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Who only asks for its part has no documents checked: a long one takes memory and time.
#[tokio::test]
async fn documents_are_for_the_console() -> Result<()> {
    let everybody = Config1(Arc::new(FakeConfig::default())).restricted().0;
    for outcome in [
        everybody.check(MORE_FLOWS.into()).await.map(drop),
        everybody.apply(MORE_FLOWS.into()).await.map(drop),
    ] {
        assert!(matches!(outcome, Err(Error::Denied(_))), "{outcome:?}");
    }
    assert_eq!(everybody.status().await?.generation, 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_reported_and_tried_again() -> Result<()> {
    let lab = Lab::new()?;
    let (process, config) = lab.start().await?;
    config.apply(MORE_FLOWS.into()).await?;
    lab.dhcp.refuse(Some("no room"));
    fs::remove_file(lab.router.socket("dns"))?;
    let report = config.apply(OTHER_NETWORK.into()).await?;
    let expected =
        [("network", true), ("firewall", true), ("dhcp", false), ("dns", false), ("web", true)];
    assert_eq!(accepted(&report), expected, "the others go on");
    assert!(report.services[2].message.contains("no room"), "{report:?}");
    assert!(report.services[3].message.contains("dns.sock"), "{report:?}");
    let last_good = fs::read_to_string(lab.file("last-good.toml"))?;
    assert_eq!(last_good, MORE_FLOWS, "a document that somebody refused is not known to be good");

    // The service itself starts anew, and knows still whom to ask again.
    process.kill()?;
    let (process, config) = lab.start().await?;
    let more = OTHER_NETWORK.to_owned() + MORE_FLOWS;
    let report = config.apply(more).await?;
    assert_eq!(accepted(&report), [("firewall", true), ("dhcp", false), ("dns", false)]);
    assert_eq!(fs::read_to_string(lab.file("last-good.toml"))?, MORE_FLOWS);
    let report = config.apply(OTHER_NETWORK.into()).await?;
    assert_eq!(accepted(&report), [("firewall", true), ("dhcp", false), ("dns", false)]);

    // The same document again: only those who do not run with it are asked.
    lab.dhcp.refuse(None);
    let _dns = lab.router.serve("dns", Dns1(lab.dns.clone()))?;
    let report = config.apply(OTHER_NETWORK.into()).await?;
    assert_eq!(accepted(&report), [("dhcp", true), ("dns", true)]);
    assert_eq!(fs::read_to_string(lab.file("last-good.toml"))?, OTHER_NETWORK);
    process.kill()?;
    let (_process, config) = lab.start().await?;
    assert_eq!(config.status().await?.source, "stored");
    assert_eq!(config.status().await?.generation, 5);
    let unfinished = fs::read_to_string(lab.file("state.json"))?.contains("unfinished");
    assert!(!unfinished, "nobody is left to be asked again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applies_are_one_after_the_other() -> Result<()> {
    let lab = Lab::new()?;
    let (_process, config) = lab.start().await?;
    lab.firewall.hesitate(Duration::from_millis(20));
    let applies = (0..12_u32).map(|number| {
        let config = config.clone();
        tokio::spawn(async move {
            config.apply(format!("[firewall]\nmax_flows = {}", 2000 + number)).await
        })
    });
    let mut generations = Vec::new();
    for apply in applies.collect::<Vec<_>>() {
        let report = apply.await??;
        assert_eq!(accepted(&report), [("firewall", true)]);
        generations.push(report.generation);
    }
    generations.sort_unstable();
    assert_eq!(generations, (1..=12).collect::<Vec<_>>());
    let in_force = config.part("firewall".into()).await?;
    assert_eq!(lab.firewall.parts().last(), Some(&in_force), "the last one counts everywhere");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apply_outlives_its_caller_and_signals() -> Result<()> {
    use futures_util::StreamExt;
    let lab = Lab::new()?;
    let (_process, config) = lab.start().await?;
    let mut changes = config.receive_changed().await?;
    lab.firewall.hesitate(Duration::from_secs(2));
    let connection = connect_at(&lab.router.socket("config"), LIMIT).await?;
    let caller = ConfigBusProxy::new(&connection).await?;
    let halfway = async {
        while config.status().await?.generation == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        outcome = caller.apply(MORE_FLOWS.into()) => bail!("the firewall hesitates longer: {outcome:?}"),
        outcome = halfway => outcome?,
    }
    connection.close().await?;
    tokio::time::timeout(LIMIT, changes.next()).await?.context("no signal")?;
    assert_eq!(lab.counts(), [0, 1, 0, 0, 0]);
    assert_eq!(fs::read_to_string(lab.file("last-good.toml"))?, MORE_FLOWS);
    Ok(())
}

/// The document is in force, and half of the services know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_apply_that_was_cut_off_is_finished() -> Result<()> {
    let lab = Lab::new()?;
    let (process, config) = lab.start().await?;
    lab.dhcp.hesitate(LIMIT);
    let caller = config.clone();
    let apply = tokio::spawn(async move { caller.apply(OTHER_NETWORK.into()).await });
    let end = tokio::time::Instant::now() + LIMIT;
    while lab.network.received.parts().is_empty() {
        anyhow::ensure!(tokio::time::Instant::now() < end, "nobody got a part");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.kill()?;
    assert!(apply.await?.is_err());
    assert_eq!(lab.counts()[3..], [0; 2], "cut off at the DHCP server");
    lab.dhcp.hesitate(Duration::ZERO);

    let (_process, config) = lab.start().await?;
    while !lab.file("last-good.toml").exists() {
        anyhow::ensure!(tokio::time::Instant::now() < end, "{:?}", lab.counts());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(lab.counts()[3..], [1; 2]);
    assert_eq!(config.status().await?.generation, 1);
    assert_eq!(fs::read_to_string(lab.file("last-good.toml"))?, OTHER_NETWORK);
    Ok(())
}
