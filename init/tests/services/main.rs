//! Real processes under the supervisor, in the real sandbox. Needs root and a kernel with
//! landlock.
//!
//! The sandbox confines a process with one thread, which a test of the usual harness is not; so
//! this program runs its tests itself and, called as `launch NAME FOLDER`, is the service NAME of
//! [`service`].

// A test program without the harness by which the lints know tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, clippy::print_stderr)]

mod service;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use portcullis_bus::init::{JournalQuery, ServiceStatus};
use portcullis_init::{
    journal::Journal,
    manifest::Manifest,
    places::Places,
    supervisor::{Handle, Settings, Supervisor, process::Program},
};

/// First port of the listening sockets of the test services.
const PORT: u16 = 24_310;

/// For what happens soon, on a machine that may be busy.
const LIMIT: Duration = Duration::from_secs(60);

type Test = (&'static str, fn() -> Result<()>);

const TESTS: [Test; 7] = [
    ("a_service_has_what_its_manifest_says_and_nothing_else", confinement),
    ("a_forbidden_system_call_ends_the_service_and_is_named", forbidden_call),
    ("a_killed_service_is_back_at_once_and_no_caller_is_refused", killed),
    ("a_silent_service_is_killed_by_the_watchdog", silent),
    ("services_end_in_order_and_the_stubborn_by_force", stopped),
    ("what_a_ready_service_has_still_to_do_is_a_problem_until_it_is_done", half),
    ("without_the_right_to_it_no_service_opens_a_bus_socket", strangers),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, launch, folder, name] = &arguments[..]
        && launch == "launch"
    {
        return service::run(Path::new(folder), name);
    }
    let filter = arguments.get(1).filter(|a| !a.starts_with('-')).cloned().unwrap_or_default();
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(&filter)) {
        match test() {
            Ok(()) => println!("test {name} ... ok"),
            Err(error) => {
                println!("test {name} ... FAILED: {error:?}");
                failed += 1;
            }
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A supervisor in a folder of its own, on a thread of its own.
struct Machine {
    /// For questions to the supervisor; it runs in one of its own.
    runtime: tokio::runtime::Runtime,
    handle: Handle,
    journal: Journal,
    places: Places,
    end: Option<(tokio::sync::oneshot::Sender<()>, std::thread::JoinHandle<()>)>,
    _folder: tempfile::TempDir,
}

impl Machine {
    fn start(names: &[&str]) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "the sandbox needs root: run as root");
        let folder = tempfile::tempdir()?;
        // The services' users must be able to pass.
        std::fs::set_permissions(
            folder.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        let places = service::places(folder.path());
        std::fs::create_dir_all(&places.data)?;
        std::fs::create_dir_all(&places.run)?;
        std::fs::write(folder.path().join("secret"), "for root and everybody")?;
        let manifests: Vec<Manifest> =
            service::manifests().into_iter().filter(|m| names.contains(&m.name.as_str())).collect();
        let runtime = runtime()?;
        let journal = Journal::start()?;
        let program = Program {
            path: std::env::current_exe()?,
            arguments: vec!["launch".into(), folder.path().into()],
        };
        let settings = Settings { manifests, places: places.clone(), program, console: None };
        let (supervisor, handle) = Supervisor::new(settings, journal.clone());
        let (end, ended) = tokio::sync::oneshot::channel();
        let own = self::runtime()?;
        let thread = std::thread::spawn(move || {
            own.block_on(async {
                tokio::select! { _ = supervisor.run(|| {}) => {}, _ = ended => {} }
            });
        });
        Ok(Self { runtime, handle, journal, places, end: Some((end, thread)), _folder: folder })
    }

    fn statuses(&self) -> Result<BTreeMap<String, ServiceStatus>> {
        let list = self.runtime.block_on(self.handle.services())?;
        Ok(list.into_iter().map(|s| (s.name.clone(), s)).collect())
    }

    fn status(&self, name: &str) -> Result<ServiceStatus> {
        self.statuses()?.remove(name).with_context(|| format!("no service {name}"))
    }

    /// Waits until `name` is as `wanted` says.
    fn until(&self, name: &str, wanted: impl Fn(&ServiceStatus) -> bool) -> Result<ServiceStatus> {
        let end = Instant::now() + LIMIT;
        loop {
            let status = self.status(name)?;
            if wanted(&status) {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("{name} stays {status:?}; journal: {}", self.journal_text()?);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn ready(&self, name: &str) -> Result<ServiceStatus> {
        self.until(name, |s| s.state == "ready")
    }

    /// Waits until the journal has `text`: what a process wrote may be read after its end is known.
    fn until_journal(&self, text: &str) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while !self.journal_text()?.contains(text) {
            ensure!(Instant::now() < end, "no `{text}` in {}", self.journal_text()?);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn journal_text(&self) -> Result<String> {
        let query = JournalQuery { limit: 1000, ..JournalQuery::default() };
        let page = self.runtime.block_on(self.journal.query(query))?;
        Ok(page.records.iter().map(|r| format!("{} {}\n", r.service, r.message)).collect())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.runtime.block_on(self.handle.stop_all());
        if let Some((end, thread)) = self.end.take() {
            let _ = end.send(());
            let _ = thread.join();
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn confinement() -> Result<()> {
    let machine = Machine::start(&["prober"])?;
    machine.ready("prober")?;
    let path = machine.places.state("prober").join("report");
    let report = std::fs::read_to_string(path)?;
    for line in [
        "uid 210 210 210",
        "gid 210 210 210",
        "groups 100",
        // NET_RAW is bit 13.
        "capabilities 2000 2000 0 0",
        "bounding 0",
        "no_new_privs 1",
        "seccomp 2",
        "umask 77",
        "write own: ok",
        "read other: Permission denied",
        "list root: Permission denied",
        "bind tcp: Permission denied",
        "signal init: Operation not permitted",
        "environment LISTEN_FDNAMES LISTEN_FDS LISTEN_PID JOURNAL_STREAM NOTIFY_SOCKET PORTCULLIS_BUS_CALLERS PORTCULLIS_BUS_CONTROLLERS WATCHDOG_USEC",
        "sockets bus",
    ] {
        ensure!(report.lines().any(|l| l == line), "no line `{line}` in:\n{report}");
    }
    Ok(())
}

fn forbidden_call() -> Result<()> {
    let machine = Machine::start(&["offender"])?;
    let status = machine.until("offender", |s| !s.last_exit.is_empty())?;
    ensure!(status.last_exit.starts_with("SIGSYS"), "{status:?}");
    machine.until_journal(
        "offender system call socket (of this address family) 41 is in none of the \
         service's system_calls sets",
    )
}

fn killed() -> Result<()> {
    let machine = Machine::start(&["echo"])?;
    let before = machine.ready("echo")?;
    ask(PORT).context("before")?;
    let pid = before.pid.context("no pid")?;
    machine.runtime.block_on(machine.handle.kill("echo".to_owned()))?;
    // At once, while it is away: the socket is there and the answer comes late, not never.
    ask(PORT).context("while it is away")?;
    let back = machine.until("echo", |s| s.state == "ready" && s.restarts == 1)?;
    // That its first pause is less than a second is for the core's tests, which have no clock.
    ensure!(back.pid != Some(pid) && back.last_exit == "SIGKILL", "{back:?}");
    Ok(())
}

fn ask(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"?")?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer)?;
    ensure!(&answer == b"!");
    Ok(())
}

fn silent() -> Result<()> {
    let start = Instant::now();
    let machine = Machine::start(&["silent"])?;
    machine.ready("silent")?;
    let status = machine.until("silent", |s| s.restarts >= 1)?;
    ensure!(status.last_exit == "SIGKILL", "{status:?}");
    // Not before its time, which began when it was ready.
    ensure!(start.elapsed() > Duration::from_secs(1), "{:?}", start.elapsed());
    Ok(())
}

fn stopped() -> Result<()> {
    let machine = Machine::start(&["echo", "stubborn"])?;
    machine.ready("echo")?;
    machine.ready("stubborn")?;
    let start = Instant::now();
    machine.runtime.block_on(machine.handle.stop_all())?;
    let took = start.elapsed();
    // stubborn comes after echo, so it is asked first, and only its death lets echo end.
    ensure!(took > Duration::from_secs(1), "{took:?}");
    let statuses = machine.statuses()?;
    ensure!(statuses.values().all(|s| s.state == "stopped"), "{statuses:?}");
    ensure!(statuses["stubborn"].last_exit == "SIGKILL", "{statuses:?}");
    ensure!(statuses["echo"].last_exit == "exit code 0", "{statuses:?}");
    Ok(())
}

fn half() -> Result<()> {
    let machine = Machine::start(&["half"])?;
    let mut health = machine.handle.health();
    let seen = machine.runtime.block_on(async {
        tokio::time::timeout(LIMIT, async {
            let ready = health.wait_for(|health| health.ready).await?.clone();
            std::fs::write(machine.places.state("half").join("other half"), "")?;
            let well = health.wait_for(|health| health.problems.is_empty()).await?.clone();
            anyhow::Ok((ready, well))
        })
        .await?
    });
    let (ready, well) = seen?;
    ensure!(
        ready.problems == ["essential service half is ready, but half of it is there"],
        "{ready:?}"
    );
    ensure!(well.ready, "{well:?}");
    Ok(())
}

fn strangers() -> Result<()> {
    let machine = Machine::start(&["echo", "caller", "stranger"])?;
    machine.ready("caller")?;
    machine.ready("stranger")?;
    let report = |name: &str| -> Result<String> {
        Ok(std::fs::read_to_string(machine.places.state(name).join("report"))?)
    };
    ensure!(report("caller")? == "bus of echo: ok", "{}", report("caller")?);
    ensure!(report("stranger")? == "bus of echo: Permission denied", "{}", report("stranger")?);
    // Root, which is init, may.
    let path: PathBuf = machine.places.bus_socket("echo");
    UnixStream::connect(path)?;
    Ok(())
}
