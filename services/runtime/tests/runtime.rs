//! What init hands over and hears, with a real process: sockets, readiness, watchdog, log, end.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

use std::{
    io::Read,
    net::{TcpListener, UdpSocket},
    os::{
        fd::AsRawFd,
        unix::{net::UnixDatagram, process::CommandExt},
    },
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use portcullis_model::{Document, part::DnsPart};
use portcullis_peers::example;
use portcullis_runtime::parse_part;

const LIMIT: Duration = Duration::from_secs(60);

struct Probe {
    child: Child,
    notify: UnixDatagram,
    udp: UdpSocket,
    tcp: TcpListener,
    _folder: tempfile::TempDir,
}

impl Probe {
    fn start(environment: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("notify");
        let notify = UnixDatagram::bind(&path)?;
        notify.set_read_timeout(Some(LIMIT))?;
        let udp = UdpSocket::bind("127.0.0.1:0")?;
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let (first, second) = (udp.as_raw_fd(), tcp.as_raw_fd());
        // LISTEN_PID is the process's own id, which only the process knows; the shell execs.
        let mut command = Command::new("sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$0\""])
            .arg(example("probe")?)
            .env("LISTEN_FDS", "2")
            .env("LISTEN_FDNAMES", "datagrams:stream")
            .env("NOTIFY_SOCKET", &path)
            .env("JOURNAL_STREAM", "1:1")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: dup2 is async-signal-safe. Both go above 4 first: 3 or 4 may be one of them.
        unsafe {
            command.pre_exec(move || {
                for (from, to) in [(first, 200), (second, 201), (200, 3), (201, 4)] {
                    if libc::dup2(from, to) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                libc::close(200);
                libc::close(201);
                Ok(())
            });
        }
        Ok(Self { child: command.spawn()?, notify, udp, tcp, _folder: folder })
    }

    fn heard(&self) -> Result<String> {
        let mut bytes = [0; 512];
        let count = self.notify.recv(&mut bytes).context("nothing from the service")?;
        Ok(String::from_utf8_lossy(&bytes[..count]).trim_end().to_owned())
    }

    /// Exit code, standard output, standard error.
    fn end(mut self) -> Result<(Option<i32>, String, String)> {
        let status = self.child.wait()?;
        let (mut out, mut error) = (String::new(), String::new());
        self.child.stdout.take().context("stdout")?.read_to_string(&mut out)?;
        self.child.stderr.take().context("stderr")?.read_to_string(&mut error)?;
        Ok((status.code(), out, error))
    }

    /// Sends SIGTERM once the process handles it; before, it would end without a word.
    fn terminate(&self) -> Result<()> {
        let id = self.child.id();
        let end = Instant::now() + LIMIT;
        loop {
            let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = u64::from_str_radix(caught.context("SigCgt")?.trim(), 16)?;
            if caught & (1 << (libc::SIGTERM - 1)) != 0 {
                break;
            }
            anyhow::ensure!(Instant::now() < end, "SIGTERM is not handled");
            std::thread::sleep(Duration::from_millis(5));
        }
        anyhow::ensure!(Command::new("kill").arg(id.to_string()).status()?.success());
        Ok(())
    }
}

#[test]
fn sockets_readiness_and_end() -> Result<()> {
    let probe = Probe::start(&[])?;
    assert_eq!(probe.heard()?, "READY=1\nSTATUS=probing");
    assert_eq!(probe.heard()?, "STATUS=waiting for the end");
    probe.terminate()?;
    assert_eq!(probe.heard()?, "STOPPING=1");
    let addresses = format!("{} {}", probe.udp.local_addr()?, probe.tcp.local_addr()?);
    let (code, out, _) = probe.end()?;
    assert_eq!(code, Some(0));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], addresses, "the sockets that were handed over, by name");
    assert!(lines[1].contains("no socket named `absent`"), "{out}");
    Ok(())
}

#[test]
fn an_error_is_logged_with_its_causes_and_ends_the_process() -> Result<()> {
    let (code, _, error) = Probe::start(&[("PROBE_FAILS", "1")])?.end()?;
    assert_eq!(code, Some(1));
    assert!(error.contains(r#""level":"ERROR""#), "a JSON line for the journal: {error}");
    assert!(error.contains("outer: inner"), "{error}");
    Ok(())
}

#[test]
fn the_watchdog_is_fed_while_the_service_lives_and_only_then() -> Result<()> {
    let probe = Probe::start(&[("WATCHDOG_USEC", "300000")])?;
    for _ in 0..5 {
        while probe.heard()? != "WATCHDOG=1" {}
    }
    probe.terminate()?;
    assert_eq!(probe.end()?.0, Some(0));

    let mut hanging = Probe::start(&[("WATCHDOG_USEC", "300000"), ("PROBE_HANGS", "1")])?;
    while hanging.heard()? != "READY=1\nSTATUS=probing" {}
    hanging.notify.set_read_timeout(Some(Duration::from_millis(900)))?;
    let mut fed = 0;
    while hanging.heard().is_ok_and(|text| text == "WATCHDOG=1") {
        fed += 1;
    }
    assert!(fed <= 1, "fed {fed} times by a service that hangs");
    hanging.child.kill()?;
    hanging.child.wait()?;
    Ok(())
}

#[test]
fn parts_are_read_or_refused_by_name() -> Result<()> {
    let part = DnsPart::of(&Document::default());
    let json = serde_json::to_string(&part)?;
    assert_eq!(parse_part::<DnsPart>("dns", &json)?, part);
    let error = parse_part::<DnsPart>("dns", "{}").unwrap_err().to_string();
    assert!(error.starts_with("part `dns` of the configuration: missing field"), "{error}");
    Ok(())
}
