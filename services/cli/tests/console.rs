//! The console on a real pseudo-terminal, with stand-ins for the services.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use portcullis_bus::{
    config::Config1, firewall::Firewall1, init::Init1, network::Network1, web::Web1,
};
use portcullis_peers::{
    Control, FakeConfig, FakeInit, FakeNetwork, Receiver, Router, Running, example,
};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

const LIMIT: Duration = Duration::from_secs(60);

struct Lab {
    router: Router,
    init: Arc<FakeInit>,
    config: Arc<FakeConfig>,
    network: Arc<FakeNetwork>,
    _running: (Running<Init1>, Running<Config1>, Running<Network1>, Running<Web1>),
}

impl Lab {
    fn new() -> Result<Self> {
        let router = Router::new()?;
        let init = Arc::new(FakeInit::default());
        let config = Arc::new(FakeConfig::default());
        let part = r#"{"hostname":"portcullis","domain":"lan","addresses":["192.168.77.1"]}"#;
        config.parts.lock().unwrap().push(("web".into(), part.into()));
        let network = Arc::new(FakeNetwork::default());
        let running = (
            router.serve("init", Init1(init.clone()))?,
            router.serve("config", Config1(config.clone()))?,
            router.serve("network", Network1(network.clone()))?,
            router.serve("web", Web1(Arc::new(Receiver::default())))?,
        );
        Ok(Self { router, init, config, network, _running: running })
    }

    fn terminal(&self) -> Result<Terminal> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let path = ptsname(&master, Vec::new())?;
        let open = || OpenOptions::new().read(true).write(true).open(path.to_str().unwrap_or(""));
        let program = self.router.command(&example("console")?);
        // A session of its own with the terminal as the controlling one, as init makes it.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(program.get_program());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::from(open()?)).stdout(Stdio::from(open()?));
        let child = command.spawn().context("setsid of util-linux")?;
        Ok(Terminal::new(master, child)?)
    }
}

struct Terminal {
    master: File,
    shown: Arc<Mutex<String>>,
    read_until: usize,
    child: Child,
}

impl Terminal {
    fn new(master: OwnedFd, child: Child) -> std::io::Result<Self> {
        let shown = Arc::new(Mutex::new(String::new()));
        let mut reader = File::from(master.as_fd().try_clone_to_owned()?);
        let all = shown.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                all.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Ok(Self { master: master.into(), shown, read_until: 0, child })
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.master.write_all(keys.as_bytes())?)
    }

    /// Waits for `text` after what was waited for before; returns what came until then.
    async fn wait_for(&mut self, text: &str) -> Result<String> {
        let end = Instant::now() + LIMIT;
        loop {
            {
                let shown = self.shown.lock().unwrap();
                let fresh = &shown[self.read_until..];
                if let Some(at) = fresh.find(text) {
                    let before = fresh[..at].to_owned();
                    self.read_until += at + text.len();
                    return Ok(before);
                }
                if Instant::now() > end {
                    bail!("no {text:?} in {fresh:?}");
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // setsid --wait passes no signal on; the hang-up of the terminal ends the console.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PROMPT: &str = "pctl> ";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn banner_tells_what_a_person_needs_and_stays_true() -> Result<()> {
    let lab = Lab::new()?;
    let mut terminal = lab.terminal()?;
    let banner = terminal.wait_for("Press Enter for the command line.").await?;
    assert_eq!(
        banner.replace('\r', ""),
        "
  Portcullis   0.1.0

  Web page     https://192.168.77.1/
  Certificate  SHA-256 01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF
                       01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF
  Internet     203.0.113.57/24 by wan
  Health       ok

  "
    );
    lab.network.wan.lock().unwrap()[0].address = None;
    lab.network.wan.lock().unwrap()[0].state = "selecting".into();
    terminal.wait_for("Internet     no address by wan yet (selecting)").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_behind_a_prompt() -> Result<()> {
    let lab = Lab::new()?;
    let mut terminal = lab.terminal()?;
    terminal.wait_for("Press Enter").await?;
    terminal.press("\n")?;
    terminal.wait_for(PROMPT).await?;

    // The kernel's line editing: two characters wrong, two erased.
    terminal.press("serviXX\u{7f}\u{7f}ces\n")?;
    assert!(terminal.wait_for(PROMPT).await?.contains("3 leases"));
    terminal.press("config status\n")?;
    assert!(terminal.wait_for(PROMPT).await?.contains("Generation  4"));
    terminal.press("help\n")?;
    assert!(terminal.wait_for(PROMPT).await?.contains("Usage: pctl"));
    terminal.press("nonsense\n")?;
    assert!(terminal.wait_for(PROMPT).await?.contains("unrecognized subcommand 'nonsense'"));
    terminal.press("restart \"dh\n")?;
    assert!(terminal.wait_for(PROMPT).await?.contains("a quote is open"));
    terminal.press("flows\n")?;
    assert!(terminal.wait_for(PROMPT).await?.contains("service `firewall` does not answer"));

    // Typed ahead: both run.
    terminal.press("restart dhcp\nrestart \"dns\"\n")?;
    terminal.wait_for("dhcp is restarting").await?;
    terminal.wait_for("dns is restarting").await?;
    assert_eq!(
        *lab.init.controls.lock().unwrap(),
        [Control::Restart("dhcp".into()), Control::Restart("dns".into())]
    );

    terminal.wait_for(PROMPT).await?;
    terminal.press("exit\n")?;
    terminal.wait_for("Press Enter").await?;
    terminal.press("\n")?;
    terminal.wait_for(PROMPT).await?;
    terminal.press("\u{4}")?;
    terminal.wait_for("Press Enter").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_breaks_off_and_nothing_more() -> Result<()> {
    let lab = Lab::new()?;
    let mut terminal = lab.terminal()?;
    terminal.wait_for("Press Enter").await?;
    terminal.press("\n")?;
    terminal.wait_for(PROMPT).await?;
    terminal.press("log -f\n")?;
    terminal.wait_for("no upstream answers").await?;
    terminal.press("\u{3}")?;
    terminal.wait_for(PROMPT).await?;
    terminal.press("log -f\n")?;
    terminal.wait_for("no upstream answers").await?;
    terminal.press("\n")?;
    terminal.wait_for(PROMPT).await?;
    terminal.press("half a comm\u{3}")?;
    terminal.wait_for(PROMPT).await?;
    terminal.press("config status\n")?;
    assert!(terminal.wait_for(PROMPT).await?.contains("Generation  4"), "the half one is gone");
    Ok(())
}

/// As the manual writes commands, with the name of the program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_of_the_program_may_be_typed() -> Result<()> {
    let lab = Lab::new()?;
    let mut terminal = lab.terminal()?;
    terminal.wait_for("Press Enter").await?;
    terminal.press("\n")?;
    terminal.wait_for(PROMPT).await?;
    terminal.press("pctl config status\n")?;
    assert!(terminal.wait_for(PROMPT).await?.contains("Generation  4"));
    terminal.press("pctl\n")?;
    assert!(terminal.wait_for(PROMPT).await?.contains("Usage: pctl"));
    Ok(())
}

/// What strangers send must not reach the terminal as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_is_not_poured_onto_the_terminal() -> Result<()> {
    let lab = Lab::new()?;
    let receiver = Arc::new(Receiver::default());
    let _firewall = lab.router.serve("firewall", Firewall1(receiver))?;
    let mut terminal = lab.terminal()?;
    terminal.wait_for("Press Enter").await?;
    terminal.press("\n")?;
    terminal.wait_for(PROMPT).await?;
    terminal.press("capture - --seconds 1\n")?;
    let shown = terminal.wait_for(PROMPT).await?;
    assert!(shown.contains("a capture is a binary file and not for a terminal"), "{shown:?}");
    terminal.press("capture --seconds 1\n")?;
    let shown = terminal.wait_for(PROMPT).await?;
    assert!(shown.contains(" bytes"), "{shown:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_waited_for_may_happen_all_the_same() -> Result<()> {
    let lab = Lab::new()?;
    // It listens and never answers.
    let _silent = lab.router.listen("firewall")?;
    let mut terminal = lab.terminal()?;
    terminal.wait_for("Press Enter").await?;
    terminal.press("\n")?;
    terminal.wait_for(PROMPT).await?;
    terminal.press("firewall purge 192.0.2.1\n")?;
    terminal.wait_for("192.0.2.1").await?;
    terminal.press("\u{3}")?;
    let shown = terminal.wait_for(PROMPT).await?;
    assert!(shown.contains("what was asked for may happen all the same"), "{shown:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_can_be_typed_in() -> Result<()> {
    let lab = Lab::new()?;
    let mut terminal = lab.terminal()?;
    terminal.wait_for("Press Enter").await?;
    terminal.press("\n")?;
    terminal.wait_for(PROMPT).await?;
    terminal.press("config apply -\n")?;
    terminal.wait_for("a line with a single . ends it").await?;
    terminal.press("[dns]\ndomain = \"office\"\n.\n")?;
    terminal.wait_for("in force as generation 5").await?;
    assert_eq!(*lab.config.received.lock().unwrap(), ["[dns]\ndomain = \"office\"\n"]);
    terminal.wait_for(PROMPT).await?;
    terminal.press("config apply -\n")?;
    terminal.wait_for("a line with a single . ends it").await?;
    // Ctrl-C also throws away what the program has not read yet.
    terminal.press("[dns]\n\u{3}")?;
    terminal.wait_for("broken off").await?;
    terminal.wait_for(PROMPT).await?;
    assert_eq!(lab.config.received.lock().unwrap().len(), 1);
    Ok(())
}

/// No terminal at all: the console neither spins nor ends at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_terminal_it_waits() -> Result<()> {
    let lab = Lab::new()?;
    let mut command = lab.router.command(&example("console")?);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let running = child.try_wait()?.is_none();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
    child.kill()?;
    child.wait()?;
    assert!(running);
    let ticks: u64 = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(11))
        .context("stat")?
        .parse()?;
    assert!(ticks < 50, "{ticks} ticks of CPU time in 4 s");
    Ok(())
}
