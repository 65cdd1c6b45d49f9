//! The document on the disk: which one is taken at a start, and what of it survives.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_without_a_stored_document() -> Result<()> {
    let lab = Lab::new()?;
    let (_process, config) = lab.start().await?;
    assert_eq!(Document::parse(&config.document().await?)?, Document::default());
    let ConfigStatus { generation, source, problem, .. } = config.status().await?;
    assert_eq!((generation, source.as_str(), problem.as_str()), (0, "defaults", ""));
    let part: part::DhcpPart = serde_json::from_str(&config.part("dhcp".into()).await?)?;
    assert_eq!(part, part::DhcpPart::of(&Document::default()));
    match config.part("nobody".into()).await {
        Err(Error::NotFound(text)) => assert!(text.contains("network, firewall"), "{text}"),
        other => bail!("{other:?}"),
    }
    assert_eq!(lab.counts(), [0; 5]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_document_gives_way_to_the_last_good_one() -> Result<()> {
    let lab = Lab::new()?;
    let (process, config) = lab.start().await?;
    config.apply(MORE_FLOWS.into()).await?;
    process.kill()?;

    fs::write(lab.file("config.toml"), b"[firewall]\nmax_fl\xff")?;
    let (process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!((status.generation, status.source.as_str()), (2, "last-good"));
    for words in ["config.toml cannot be used", "not UTF-8"] {
        assert!(status.problem.contains(words), "{status:?}");
    }
    assert!(config.document().await?.contains("max_flows = 2048"));
    process.kill()?;

    // The same at the next start: still said, not counted again.
    let (process, config) = lab.start().await?;
    assert_eq!(config.status().await?, status);

    // A new document ends it; the damaged one is kept.
    config.apply(OTHER_NETWORK.into()).await?;
    let status = config.status().await?;
    assert_eq!((status.source.as_str(), status.problem.as_str()), ("stored", ""));
    assert_eq!(fs::read(lab.file("config.damaged-1.toml"))?, b"[firewall]\nmax_fl\xff");
    config.apply(OTHER_NETWORK.into()).await?;
    assert!(!lab.file("config.damaged-2.toml").exists(), "the one before could be used");
    process.kill()?;

    // One that is readable but not valid any more, and a last good one that is damaged, too.
    fs::write(lab.file("config.toml"), "[firewall]\nmax_flows = 3")?;
    fs::write(lab.file("last-good.toml"), "[")?;
    let (process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!(status.source, "defaults");
    assert!(status.problem.contains("firewall.max_flows: 3 is not allowed"), "{status:?}");
    assert!(status.problem.contains("last-good.toml cannot be used"), "{status:?}");
    assert_eq!(Document::parse(&config.document().await?)?, Document::default());
    process.kill()?;

    // Damaged files are kept, but not without end.
    for round in 0..8 {
        fs::write(lab.file("config.toml"), format!("damaged {round}"))?;
        let (process, config) = lab.start().await?;
        config.apply(OTHER_NETWORK.into()).await?;
        process.kill()?;
    }
    let mut aside: Vec<String> = fs::read_dir(lab.file(""))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .filter(|name: &Result<String>| name.as_ref().is_ok_and(|n| n.contains("damaged")))
        .collect::<Result<_>>()?;
    aside.sort();
    assert_eq!(aside.len(), 5, "{aside:?}");
    let newest = fs::read_to_string(lab.file("config.damaged-9.toml"))?;
    assert_eq!(newest, "damaged 7");
    Ok(())
}

/// The router tries a release that cannot read the document, and goes back to the one that can: a
/// slot on trial must not take away what the other one needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_of_another_release_is_in_force_again_with_that_release() -> Result<()> {
    let lab = Lab::new()?;
    let (process, config) = lab.start().await?;
    config.apply(MORE_FLOWS.into()).await?;
    process.kill()?;
    let newer = format!("{MORE_FLOWS}field_of_a_newer_release = true\n");
    for file in ["config.toml", "last-good.toml"] {
        fs::write(lab.file(file), &newer)?;
    }
    let (process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!((status.generation, status.source.as_str()), (2, "defaults"));
    assert!(status.problem.contains("field_of_a_newer_release"), "{status:?}");
    process.kill()?;
    for file in ["config.toml", "last-good.toml"] {
        assert_eq!(fs::read_to_string(lab.file(file))?, newer, "{file} is as it was");
    }

    // What the other release would read in the same place.
    fs::write(lab.file("config.toml"), MORE_FLOWS)?;
    let (process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!((status.generation, status.source.as_str()), (3, "stored"));
    assert_eq!(status.problem, "");
    assert!(config.document().await?.contains("max_flows = 2048"));
    process.kill()?;
    let (_process, config) = lab.start().await?;
    assert_eq!(config.status().await?, status, "nothing new");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_stored_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new()?;
    let (_process, config) = lab.start().await?;
    config.apply(MORE_FLOWS.into()).await?;
    // Cannot be renamed over, as on a disk that is full at the wrong moment.
    fs::remove_file(lab.file("last-good.toml"))?;
    fs::create_dir(lab.file("last-good.toml"))?;
    assert!(config.apply(OTHER_NETWORK.into()).await?.accepted);
    let left: Vec<_> = fs::read_dir(lab.file(""))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .filter(|name: &Result<String>| name.as_ref().is_ok_and(|name| name.ends_with(".new")))
        .collect::<Result<_>>()?;
    assert_eq!(left, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_stays_while_nothing_takes_its_place() -> Result<()> {
    let lab = Lab::new()?;
    fs::create_dir_all(lab.file(""))?;
    fs::write(lab.file("config.toml"), "of a newer release")?;
    // No document can be written, as on a full disk.
    fs::create_dir(lab.file(".config.toml.new"))?;
    let (_process, config) = lab.start().await?;
    let refused = config.apply(MORE_FLOWS.into()).await.unwrap_err().to_string();
    assert!(refused.contains("config.toml"), "{refused}");
    assert_eq!(fs::read(lab.file("config.toml"))?, b"of a newer release");
    assert!(!lab.file("config.damaged-1.toml").exists());

    fs::remove_dir(lab.file(".config.toml.new"))?;
    assert!(config.apply(MORE_FLOWS.into()).await?.accepted);
    assert_eq!(fs::read(lab.file("config.damaged-1.toml"))?, b"of a newer release");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_boot_takes_the_volume() -> Result<()> {
    let lab = Lab::new()?;
    let volume = lab.router.run_dir().join("volume");
    fs::create_dir_all(&volume)?;

    fs::write(volume.join("config.toml"), "[firewall]\nmax_flows = 3")?;
    let (process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!((status.generation, status.source.as_str()), (0, "defaults"));
    assert!(status.problem.contains("volume PORTCULLIS"), "{status:?}");
    assert!(status.problem.contains("firewall.max_flows: 3"), "{status:?}");
    process.kill()?;

    fs::write(volume.join("config.toml"), MORE_FLOWS)?;
    let (process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!((status.generation, status.source.as_str()), (1, "volume"));
    assert_eq!(status.problem, "");
    assert!(config.document().await?.contains("max_flows = 2048"));
    process.kill()?;

    // From then on there is a configuration, and the volume is not looked at.
    fs::write(volume.join("config.toml"), OTHER_NETWORK)?;
    let (process, config) = lab.start().await?;
    assert_eq!(config.status().await?.source, "stored");
    assert_eq!(config.status().await?.generation, 1);
    assert!(config.document().await?.contains("max_flows = 2048"));
    process.kill()?;

    // Not even if the stored one is damaged: the last good one is nearer to what was meant.
    fs::write(lab.file("config.toml"), "")?;
    fs::remove_file(lab.file("config.toml"))?;
    let (_process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!(status.source, "last-good");
    assert_eq!(status.problem, "config.toml was missing");
    assert!(config.document().await?.contains("max_flows = 2048"));
    Ok(())
}

/// Who takes the volume away must know that the router needs it still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_could_not_be_stored_is_told_of() -> Result<()> {
    let lab = Lab::new()?;
    let volume = lab.router.run_dir().join("volume");
    fs::create_dir_all(&volume)?;
    fs::write(volume.join("config.toml"), MORE_FLOWS)?;
    fs::create_dir_all(lab.file(""))?;
    // No document can be written, as on a full disk.
    fs::create_dir(lab.file(".config.toml.new"))?;
    let (_process, config) = lab.start().await?;
    let status = config.status().await?;
    assert_eq!(status.source, "volume");
    assert!(config.document().await?.contains("max_flows = 2048"));
    assert!(status.problem.starts_with("in force, but not stored"), "{status:?}");
    assert!(status.problem.contains("config.toml"), "{status:?}");

    fs::remove_dir(lab.file(".config.toml.new"))?;
    config.apply(MORE_FLOWS.into()).await?;
    assert_eq!(config.status().await?.problem, "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_stored_is_not_applied() -> Result<()> {
    let lab = Lab::new()?;
    let (_process, config) = lab.start().await?;
    fs::remove_dir_all(lab.file(""))?;
    match config.apply(MORE_FLOWS.into()).await {
        Err(Error::Failed(text)) => {
            assert!(text.contains("not stored and not applied"), "{text}");
            assert!(text.contains("No such file"), "{text}");
        }
        other => bail!("{other:?}"),
    }
    assert_eq!(config.status().await?.generation, 0);
    assert_eq!(lab.counts(), [0; 5]);
    Ok(())
}

/// The service dies at random instants while documents come in. Whatever was acknowledged is
/// there after the restart, or something newer; it is never damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_during_write_loses_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let mut acknowledged = 0_u32;
    let mut submitted = 0_u32;
    for round in 0..30_u64 {
        let (process, config) = lab.start().await?;
        let status = config.status().await?;
        assert_eq!(status.problem, "", "round {round}");
        let document = Document::parse(&config.document().await?)?;
        if acknowledged > 0 {
            let flows = document.firewall.max_flows;
            assert!(
                (2000 + acknowledged..=2000 + submitted).contains(&flows),
                "round {round}: {flows}, acknowledged {acknowledged}, submitted {submitted}"
            );
            assert_eq!(status.source, "stored");
        }
        let end = Duration::from_millis(3 + round * 37 % 190);
        let killer = tokio::task::spawn_blocking(move || {
            std::thread::sleep(end);
            process.kill()
        });
        loop {
            submitted += 1;
            // A long document needs more than one write.
            let padding = "# padding\n".repeat(2_000);
            let text = format!("{padding}[firewall]\nmax_flows = {}", 2000 + submitted);
            match tokio::time::timeout(LIMIT, config.apply(text)).await? {
                Ok(report) => {
                    assert!(report.accepted);
                    acknowledged = submitted;
                }
                Err(_) => break,
            }
        }
        killer.await??;
    }
    assert!(acknowledged > 10, "hardly an apply was fast enough: the test proves nothing");
    Ok(())
}
