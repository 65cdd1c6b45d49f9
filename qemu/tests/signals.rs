//! A lab that is interrupted leaves nothing behind.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use portcullis_netns::Namespace;
use portcullis_qemu::{Scratch, clean_up_at_signals};
use rustix::process::{Pid, Signal, kill_process};

#[test]
#[ignore = "the process that the other test interrupts"]
fn interrupted() -> Result<()> {
    clean_up_at_signals()?;
    let scratch = Scratch::new("test")?;
    std::fs::write(scratch.path().join("disk.raw"), "large")?;
    let namespace = Namespace::new("sig")?;
    namespace.resolver("nameserver 192.0.2.1\n")?;
    let inside = namespace.start("sleep 60")?;
    println!("@{} {} {}", scratch.path().display(), namespace.name(), inside.id());
    loop {
        thread::park();
    }
}

#[test]
fn a_signal_takes_everything_along() -> Result<()> {
    let place = tempfile::tempdir()?;
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--exact", "interrupted", "--ignored", "--nocapture"])
            .env("TMPDIR", place.path())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(process.stdout.take().context("standard output")?);
        let line = output
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split_once('@').map(|(_, what)| what.to_owned()))
            .context("it did not start")?;
        let [scratch, namespace, inside] = line.split(' ').collect::<Vec<_>>()[..] else {
            anyhow::bail!("it said {line}");
        };
        let places = [
            Path::new(scratch).to_owned(),
            Path::new("/run/netns").join(namespace),
            Path::new("/etc/netns").join(namespace),
            Path::new("/proc").join(inside),
        ];
        assert!(places.iter().all(|place| place.exists()), "{places:?}");

        kill_process(Pid::from_child(&process), signal)?;
        assert_eq!(process.wait()?.code(), Some(128 + signal.as_raw()));
        for place in &places[..3] {
            assert!(!place.exists(), "{signal:?} left {}", place.display());
        }
        // Killed is not yet gone, and gone it may wait for somebody to ask how it ended.
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let status = std::fs::read_to_string(places[3].join("stat")).unwrap_or_default();
            if status.is_empty() || status.contains(") Z ") {
                break;
            }
            assert!(Instant::now() < end, "{signal:?} left {status}");
            thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}
