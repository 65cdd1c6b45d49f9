//! Stage two, `/sbin/init` of the verified root: prepares the machine, then supervises until it is
//! told to end.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use portcullis_bootstate::disk;
use portcullis_bus::{
    init::Init1,
    server::{Callers, Notifier, Server},
};
use rustix::system::{RebootCommand, reboot};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tracing_subscriber::layer::SubscriberExt;

use crate::{
    api::{Api, Boot, Ending, Parts},
    clock::{self, since_start},
    console::{Console, DEVICE, alarm},
    data,
    health::{self, BootStateError, Confirmation, LIMITS, Running},
    journal::{self, Journal, JournalLayer, Limits},
    manifest::{self, INIT, INIT_BUS_GROUP, Manifest},
    modules::{Loader, OnRequest},
    mounts, nics, places,
    places::Places,
    power, report,
    report::Facts,
    seed,
    stage_one::Handover,
    supervisor::{Settings, Supervisor, cgroup, process::Program, sockets},
    sysctl, volume,
    watchdog::{Patience, Watchdog},
};

/// How long everything before the first service may take: a slow disk that brings its journal in
/// order, a stick that starts. A driver that never comes back is no reason to stand still for ever: the
/// boot manager tries something else.
const PREPARATION_LIMIT: Duration = Duration::from_secs(5 * 60);

/// How long services and journal may take to end: more than all their deadlines together.
const STOP_LIMIT: Duration = Duration::from_secs(90);

/// How long the disk may take to note down, at the end of the machine, that the boot was a good one.
const CONFIRM_LIMIT: Duration = Duration::from_secs(5);

/// Least time between two `Changed` signals.
const SIGNAL_PAUSE: Duration = Duration::from_millis(200);

/// What the preparation found out.
struct Prepared {
    handover: Option<Handover>,
    manifests: Vec<Manifest>,
    running: Option<Running>,
    data_mounted: bool,
    problems: Vec<String>,
    loader: Option<Loader>,
}

/// PID 1; returns only if the kernel cannot be told to end.
pub fn main() -> ExitCode {
    let began = since_start();
    let watchdog = Watchdog::default();
    let patience = Patience::new(watchdog.clone(), PREPARATION_LIMIT, || {
        alarm("Portcullis: init stands still before the first service; restarting");
        let _ = reboot(RebootCommand::Restart);
    });
    let mut problems = mounts::mount_all();
    let console = Console::open(Path::new(DEVICE));
    let outcome = Journal::start().and_then(|journal| {
        let layer = JournalLayer::new(journal.clone(), console.clone());
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
        problems.iter().for_each(|problem| tracing::error!("{problem}"));
        let prepared = prepare(&mut problems, &journal, &watchdog);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(4)
            .thread_stack_size(256 * 1024)
            .build()?;
        finish(runtime, supervise((began, patience), prepared, &journal, &console, &watchdog))
    });
    let ending = outcome.unwrap_or_else(|error| {
        alarm(&format!("Portcullis: init cannot work: {error}; restarting in 10 s"));
        std::thread::sleep(Duration::from_secs(10));
        Ending::Reboot
    });
    power::end(ending, Path::new("/data"), &seed_path(), watchdog);
    ExitCode::FAILURE
}

/// Runs `work` to its end and does not wait for what it has left to threads: one that hangs at a
/// disk must not keep the machine from restarting.
fn finish<T>(runtime: tokio::runtime::Runtime, work: impl Future<Output = T>) -> T {
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

fn seed_path() -> PathBuf {
    Path::new(places::INIT_STATE).join("random-seed")
}

/// Everything before the first service.
fn prepare(problems: &mut Vec<String>, journal: &Journal, watchdog: &Watchdog) -> Prepared {
    let handover = fs::read(places::HANDOVER)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Handover>(&bytes).ok());
    let _ = fs::remove_file(places::HANDOVER);
    if handover.as_ref().is_some_and(|h| h.other_disk) {
        problems.push("the disk that was booted is not there; a copy of it is used".to_owned());
    }
    let mut steps = Steps::default();
    let start_watchdogs = || watchdog.start(Path::new("/sys"), Path::new("/dev"));
    // Those whose drivers are part of the kernel also guard the loading of the others.
    start_watchdogs();
    read_ahead_program();
    sysctl::harden();
    set_clock();
    steps.done("settings");
    let sys = Path::new("/sys");
    let loader = Loader::new(Path::new(places::MODULES))
        .inspect_err(|error| tracing::warn!(%error, "no kernel modules"))
        .ok();
    let manifests = manifest::built_in().unwrap_or_else(|errors| {
        problems.extend(errors.iter().map(ToString::to_string));
        Vec::new()
    });
    let running = handover.as_ref().and_then(|h| {
        Running::find(sys, &h.slot_device)
            .inspect_err(|error| tracing::error!(%error, "the running slot is not known"))
            .ok()
    });
    steps.done("tables");
    // The disk is at work while drivers are loaded.
    let data = std::thread::scope(|scope| {
        let data = scope.spawn(|| {
            if let Some(Err(error)) = loader.as_ref().map(|l| l.load("ext4")) {
                tracing::warn!(%error, "ext4");
            }
            open_data(running.as_ref())?;
            use_data(Path::new(places::INIT_STATE), journal);
            Ok(())
        });
        if let Some(loader) = &loader {
            load_drivers(loader, sys, &manifests);
        }
        start_watchdogs();
        steps.done("drivers");
        match nics::order(sys) {
            Ok(renamed) if renamed.is_empty() => {}
            Ok(renamed) => tracing::info!(devices = renamed.join(" "), "network devices renamed"),
            Err(error) => tracing::error!(%error, "network devices keep their names"),
        }
        data.join().unwrap_or_else(|_| Err("opening the data partition failed".to_owned()))
    });
    let data_mounted = data.is_ok();
    if let Err(problem) = data {
        problems.push(problem);
        // Services need their folders, kept or not.
        if let Err(error) = data::in_memory(Path::new("/data")) {
            problems.push(format!("mounting /data: {error}"));
        }
    }
    steps.done("names and data");
    if let Some(loader) = &loader {
        let target = Places::appliance().run.join("volume");
        // A boot with a configuration of its own does not wait for sticks.
        let found = if places::CONFIGURATIONS.iter().any(|path| Path::new(path).exists()) {
            volume::fetch(sys, &target, loader)
        } else {
            volume::wait_and_fetch(sys, &target, loader)
        };
        match found {
            Ok(Some(device)) => tracing::info!(device, "configuration volume found"),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "configuration volume is not used"),
        }
    }
    steps.done("volume");
    tracing::info!(milliseconds = steps.line(), "prepared");
    let problems = std::mem::take(problems);
    Prepared { handover, manifests, running, data_mounted, problems, loader }
}

/// How long each step of the preparation took.
struct Steps {
    since: Duration,
    taken: Vec<(&'static str, Duration)>,
}

impl Default for Steps {
    fn default() -> Self {
        Self { since: since_start(), taken: Vec::new() }
    }
}

impl Steps {
    fn done(&mut self, step: &'static str) {
        let now = since_start();
        self.taken.push((step, now.saturating_sub(self.since)));
        self.since = now;
    }

    fn line(&self) -> String {
        let parts: Vec<String> =
            self.taken.iter().map(|(step, took)| format!("{step} {}", took.as_millis())).collect();
        parts.join(", ")
    }
}

/// Drivers of the hardware, and the modules that manifests name.
fn load_drivers(loader: &Loader, sys: &Path, manifests: &[Manifest]) {
    let named: Vec<String> = manifests.iter().flat_map(|m| m.modules.iter().cloned()).collect();
    for error in loader.coldplug_and(sys, &named) {
        tracing::warn!(%error, "driver not loaded");
    }
}

/// Reads the program that init and all services are into the page cache: it is compressed and
/// verified, and a processor is idle while drivers wait for their hardware.
fn read_ahead_program() {
    let work = || {
        let mut program = fs::File::open(places::PROGRAM)?;
        std::io::copy(&mut program, &mut std::io::sink())
    };
    let thread = std::thread::Builder::new().name("read-ahead".to_owned()).spawn(move || {
        // Nothing depends on it: whoever needs a page reads it.
        let _ = work();
    });
    if let Err(error) = thread {
        tracing::warn!(%error, "the program is not read ahead");
    }
}

/// Never before the image was built, which is the time stamp of all its files.
fn set_clock() {
    let built = fs::metadata(places::OS_RELEASE).map_or(0, |m| m.mtime());
    match clock::not_before(u64::try_from(built).unwrap_or(0)) {
        Ok(true) => tracing::warn!("the clock was before the image's build time and was set to it"),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "clock not set"),
    }
}

/// Mounts the data partition; the error is what the box lacks then.
fn open_data(running: Option<&Running>) -> Result<(), String> {
    let Some(partition) = running.and_then(|r| r.partition(disk::DATA.name)) else {
        return Err("there is no data partition; nothing is kept over a restart".to_owned());
    };
    match data::open(partition, Path::new(places::DATA_TEMPLATE), Path::new("/data")) {
        Ok(outcome) => {
            if outcome.partition_grown {
                tracing::info!(device = partition.device, "data partition grown");
            }
            if let Some(reason) = outcome.made {
                tracing::warn!(device = partition.device, reason, "data file system made");
            }
            Ok(())
        }
        Err(error) => {
            tracing::error!(%error, "no data partition");
            Err(format!("nothing is kept over a restart: {error}"))
        }
    }
}

/// What init itself keeps on the data partition.
fn use_data(folder: &Path, journal: &Journal) {
    use std::os::unix::fs::DirBuilderExt;
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            tracing::error!(%error, path = %folder.display(), "init keeps nothing");
            return;
        }
        _ => {}
    }
    match seed::restore(&seed_path()) {
        Ok(true) => tracing::info!("random seed restored"),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "random seed"),
    }
    journal.open(folder.join("journal"), Limits::default());
}

/// Runs the services until the machine is to end, and ends them. The patience with the preparation
/// ends when the supervisor feeds the watchdog itself.
async fn supervise(
    (began, patience): (Duration, std::io::Result<Patience>),
    prepared: Prepared,
    journal: &Journal,
    console: &Console,
    watchdog: &Watchdog,
) -> std::io::Result<Ending> {
    let places = Places::appliance();
    let Prepared { handover, manifests, running, data_mounted, mut problems, loader } = prepared;
    if let Some(Err(error)) = places.cgroup.as_deref().map(cgroup::prepare) {
        tracing::error!(%error, "no cgroups: services are not limited");
        problems.push(format!("services are not limited: {error}"));
    }
    tokio::spawn(kernel_messages(journal.clone()));
    if data_mounted
        && let Some(partition) = running.as_ref().and_then(|r| r.partition(disk::DATA.name))
    {
        tokio::task::spawn_blocking({
            let partition = partition.clone();
            move || {
                // The old seed is gone; without a new one a power cut would leave none.
                if let Err(error) = seed::save(&seed_path()) {
                    tracing::info!(%error, "random seed not saved yet");
                }
                grow_data(&partition);
            }
        });
    }
    let settings = Settings {
        manifests: manifests.clone(),
        places: places.clone(),
        program: Program { path: places::PROGRAM.into(), arguments: vec!["launch".into()] },
        console: Some(DEVICE.into()),
    };
    let (supervisor, handle) = Supervisor::new(settings, journal.clone());
    let supervising = since_start();
    let (ending_sender, mut endings) = mpsc::channel(4);
    let version = handover
        .as_ref()
        .map(|h| h.version.clone())
        .or_else(|| report::version(&fs::read_to_string(places::OS_RELEASE).unwrap_or_default()));
    let parts = Parts {
        supervisor: handle.clone(),
        journal: journal.clone(),
        facts: Arc::new(Facts {
            version: version.unwrap_or_else(|| "unknown".to_owned()),
            running: running.clone(),
            data: places.data.clone(),
        }),
        boot: Arc::new(Mutex::new(Boot {
            phases: report::boot_phases(handover.as_ref(), (began, supervising), None),
            problems,
        })),
        modules: Arc::new(OnRequest::new(&manifests, loader)),
        ending: ending_sender.clone(),
    };
    serve_bus(&places, &manifests, &parts);
    let parts_at_end = parts.clone();
    tokio::spawn(watch_health(parts.clone(), console.clone(), handover, (began, supervising)));
    let watchdog = watchdog.clone();
    tokio::spawn(async move {
        drop(patience);
        // Ends only if the kernel refuses a signal handler; nothing would be supervised then.
        let Err(error) = supervisor.run(move || watchdog.feed()).await;
        tracing::error!(%error, "supervisor");
        let _ = ending_sender.send(Ending::Reboot).await;
    });
    // Ctrl-Alt-Del, as the kernel signals it to PID 1; and SIGTERM, of which it makes nothing itself.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ending = tokio::select! {
        ending = endings.recv() => ending.unwrap_or(Ending::Reboot),
        _ = interrupt.recv() => Ending::Reboot,
        _ = terminate.recv() => Ending::PowerOff,
    };
    // Who orders another one is told that the machine ends already.
    endings.close();
    console.say(match ending {
        Ending::Reboot => "Portcullis: restarting",
        Ending::PowerOff => "Portcullis: switching off",
    });
    if tokio::time::timeout(STOP_LIMIT, stop(&parts_at_end, ending)).await.is_err() {
        console.say("Portcullis: not all services have ended; going on without them");
    }
    Ok(ending)
}

/// Ends all services, and then the journal.
async fn stop(parts: &Parts, ending: Ending) {
    // Whoever ends a healthy boot before it has settled must not cost the slot a try.
    let well = {
        let mut health = parts.supervisor.health();
        let now = health.borrow_and_update();
        now.changes > 0 && now.problems.is_empty()
    };
    if well {
        // Said in the journal if it fails; the machine ends all the same, and its services in order,
        // also if the disk does not answer.
        let _ = tokio::time::timeout(CONFIRM_LIMIT, confirm_slot(parts)).await;
    }
    tracing::info!(?ending, "stopping all services");
    let _ = parts.supervisor.stop_all().await;
    tracing::info!("all services have ended");
    parts.journal.close().await;
}

async fn kernel_messages(journal: Journal) {
    if let Err(error) = journal::kernel::follow(Path::new("/dev/kmsg"), journal).await {
        tracing::warn!(%error, "kernel messages are not kept");
    }
}

fn grow_data(partition: &crate::disk::Partition) {
    match data::grow_file_system(partition, Path::new("/data")) {
        Ok(Some(bytes)) => tracing::info!(mib = bytes >> 20, "data file system grown"),
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "data file system keeps its size"),
    }
}

/// Serves `Init1` on its socket.
fn serve_bus(places: &Places, manifests: &[Manifest], parts: &Parts) {
    let controllers: BTreeSet<u32> =
        manifests.iter().filter(|m| m.control).map(|m| m.user).chain([0]).collect();
    let object = {
        let parts = parts.clone();
        move |caller: u32| {
            Init1(Arc::new(Api::new(parts.clone(), caller, controllers.contains(&caller))))
        }
    };
    // Callers say names of services and what to look for in the journal; PID 1 has no memory limit,
    // and a page of the journal has a MiB.
    let server = Server::per_caller(object, Callers::Only(manifest::callers(manifests, INIT)))
        .with_longest_message(4096)
        .with_most_calls(4);
    let notifier = server.notifier();
    let listener =
        sockets::bus_listener(&places.bus_socket(INIT), INIT_BUS_GROUP).and_then(|socket| {
            socket.set_nonblocking(true)?;
            tokio::net::UnixListener::from_std(socket)
        });
    match listener {
        Ok(listener) => {
            tokio::spawn(server.run(listener));
            tokio::spawn(tell_changes(parts.clone(), notifier));
        }
        Err(error) => tracing::error!(%error, "init is not on the bus"),
    }
}

/// Emits `Changed` when services or the journal changed, with pauses.
async fn tell_changes(parts: Parts, notifier: Notifier<Init1>) {
    let mut health = parts.supervisor.health();
    let mut newest = parts.journal.newest();
    loop {
        let ended = tokio::select! {
            changed = health.changed() => changed.is_err(),
            changed = newest.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
        notifier.changed();
        tokio::time::sleep(SIGNAL_PAUSE).await;
    }
}

/// Reports the first time that all essential services are ready, confirms the slot when all is well,
/// and gives an unconfirmed slot up when that does not come.
async fn watch_health(
    parts: Parts,
    console: Console,
    handover: Option<Handover>,
    stage_two: (Duration, Duration),
) {
    let mut health = parts.supervisor.health();
    let report = async {
        // What a service has to do beyond being ready delays health, not this.
        if health.wait_for(|h| h.changes > 0 && h.ready).await.is_err() {
            return;
        }
        let ready = since_start();
        let phases = report::boot_phases(handover.as_ref(), stage_two, Some(ready));
        console.say(&format!(
            "Portcullis {}: {}",
            parts.facts.version,
            report::phases_line(&phases)
        ));
        tracing::info!(
            seconds_since_start = ready.as_secs_f64(),
            "all essential services are ready"
        );
        parts.boot.lock().unwrap_or_else(PoisonError::into_inner).phases = phases;
    };
    let confirm = || confirm_slot(&parts);
    let late = || give_up_if_unconfirmed(&parts);
    tokio::join!(report, health::watch(parts.supervisor.health(), LIMITS, confirm, late));
}

async fn confirm_slot(parts: &Parts) -> Result<Confirmation, BootStateError> {
    let Some(running) = parts.facts.running.clone() else { return Ok(Confirmation::Known) };
    let problems = parts.boot.lock().unwrap_or_else(PoisonError::into_inner).problems.join("; ");
    let complete = problems.is_empty();
    let confirmed = tokio::task::spawn_blocking(move || running.confirm(complete)).await;
    let confirmed = confirmed.map_err(BootStateError::from).flatten();
    match &confirmed {
        Ok(Confirmation::Written) => tracing::info!("slot confirmed: this boot is healthy"),
        Ok(Confirmation::Known) => {}
        Ok(Confirmation::Refused) => {
            tracing::error!(problems, "slot not confirmed: the other one may be better");
        }
        Err(error) => tracing::error!(%error, "slot not confirmed"),
    }
    confirmed
}

async fn give_up_if_unconfirmed(parts: &Parts) {
    let Some(running) = parts.facts.running.clone() else { return };
    let read = tokio::task::spawn_blocking(move || {
        running.boot_state().map(|state| state.get(running.slot).confirmed)
    });
    if let Ok(Ok(false)) = read.await {
        tracing::error!(
            minutes = LIMITS.late.as_secs() / 60,
            "not healthy in time, and this slot was never confirmed: restarting"
        );
        let _ = parts.ending.send(Ending::Reboot).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_thread_that_hangs_at_a_disk_does_not_keep_the_machine_running() {
        let (disk, waits) = channel::<()>();
        let (ended, end) = channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let work = async {
                let (begun, begin) = tokio::sync::oneshot::channel();
                tokio::task::spawn_blocking(move || {
                    let _ = begun.send(());
                    waits.recv()
                });
                begin.await
            };
            let _ = ended.send(finish(runtime, work).is_ok());
        });
        assert_eq!(end.recv_timeout(Duration::from_secs(60)), Ok(true), "it waits for the thread");
        drop(disk);
    }
}
