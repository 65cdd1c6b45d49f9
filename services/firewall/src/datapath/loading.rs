//! Threads that give programs to the kernel, in the order of their importance.
//!
//! Each program is pinned and put into its tables when the verifier has let it pass; from then on
//! packets that need it are not dropped any more. Who waits for programs is told of each.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{MapError, ProgramArray},
    programs::{Program, ProgramError, ProgramFd},
};
use tokio::sync::Notify;

use super::{
    DatapathError, Result, maps,
    order::{self, Group, Milestone},
};

/// Threads that load programs, at most: the manifest allows a few.
const WORKERS: usize = 4;

/// Longest time that what comes after [`Milestone::Filters`] is held back: as long as the network service
/// is waited for.
const HELD_BACK: Duration = Duration::from_secs(5);

/// How far the loading of a group is; shared by the threads that load and those who wait.
pub(super) struct Loading {
    group: Group,
    state: Mutex<State>,
    /// For those who wait on a thread.
    changed: Condvar,
    /// For those who wait in a task.
    news: Arc<Notify>,
}

#[derive(Default)]
struct State {
    loaded: BTreeSet<&'static str>,
    /// What the kernel refused first. The others are loaded all the same.
    failure: Option<(&'static str, String)>,
    /// What comes after [`Milestone::Filters`] waits.
    held_back: bool,
    /// Nobody needs the programs any more.
    cancelled: bool,
}

impl Loading {
    /// Nothing is loaded yet but the programs that are pinned.
    pub(super) fn new(group: Group, pins: &Path, news: Arc<Notify>) -> Arc<Self> {
        let pinned = |name: &&'static str| pins.join(name).exists();
        let loaded = group.programs().into_iter().filter(pinned).collect();
        let state = Mutex::new(State { loaded, ..State::default() });
        Arc::new(Self { group, state, changed: Condvar::new(), news })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Programs that are not loaded, in their order.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let state = self.lock();
        self.group.programs().into_iter().filter(|name| !state.loaded.contains(name)).collect()
    }

    /// Whether all of these are loaded.
    pub(super) fn has(&self, names: &[&'static str]) -> bool {
        let state = self.lock();
        names.iter().all(|name| state.loaded.contains(name))
    }

    /// Waits until all of these are loaded.
    pub(super) fn wait(&self, names: &[&'static str]) -> Result<()> {
        let mut state = self.lock();
        loop {
            if names.iter().all(|name| state.loaded.contains(name)) {
                return Ok(());
            }
            if let Some(failure) = failure(&state) {
                return Err(failure);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What the kernel refused, if anything.
    pub(super) fn failure(&self) -> Option<DatapathError> {
        failure(&self.lock())
    }

    /// Loads no further program.
    pub(super) fn cancel(&self) {
        self.lock().cancelled = true;
        self.changed.notify_all();
    }

    /// Has what comes after [`Milestone::Filters`] wait for [`Self::release`], though not for long: at the
    /// start all services want the processors, and the first programs have to be attached.
    pub(super) fn hold_back(&self) {
        self.lock().held_back = true;
    }

    /// Goes on with what was held back.
    pub(super) fn release(&self) {
        self.lock().held_back = false;
        self.changed.notify_all();
    }

    /// Waits until nothing is held back any more; after `limit` that is so.
    fn wait_for_release(&self, limit: Duration) {
        let held_back = |state: &mut State| state.held_back && !state.cancelled;
        let waited = self.changed.wait_timeout_while(self.lock(), limit, held_back);
        waited.unwrap_or_else(PoisonError::into_inner).0.held_back = false;
    }

    fn report(&self, outcome: std::result::Result<&'static str, (&'static str, String)>) {
        let mut state = self.lock();
        match outcome {
            Ok(name) => {
                state.loaded.insert(name);
                if let Some(milestone) = self.reached_with(name, &state.loaded) {
                    tracing::info!(group = ?self.group, ?milestone, "programs are loaded");
                }
            }
            // Of several the first.
            Err(failure) => drop(state.failure.get_or_insert(failure)),
        }
        drop(state);
        self.changed.notify_all();
        self.news.notify_one();
    }

    /// The milestone that a program was the last for.
    fn reached_with(&self, name: &str, loaded: &BTreeSet<&'static str>) -> Option<Milestone> {
        Milestone::ALL.into_iter().rfind(|milestone| {
            let needed = self.group.needed(*milestone);
            needed.contains(&name) && needed.iter().all(|name| loaded.contains(name))
        })
    }

    fn goes_on(&self) -> bool {
        !self.lock().cancelled
    }

    /// Begins to load what is missing, from an object file that is read on the new thread.
    pub(super) fn begin(
        self: &Arc<Self>,
        pins: &Path,
        read: impl FnOnce() -> Result<Ebpf> + Send + 'static,
    ) -> io::Result<()> {
        let (this, pins) = (self.clone(), pins.to_owned());
        std::thread::Builder::new()
            .name("programs".to_owned())
            .spawn(move || match read() {
                Ok(object) => this.load(object, &pins),
                Err(error) => this.report(Err(("object file", error.to_string()))),
            })
            .map(drop)
    }

    fn load(&self, mut object: Ebpf, pins: &Path) {
        let mut waiting: VecDeque<&'static str> = self.missing().into();
        let mut programs: Vec<(&'static str, &mut Program)> = Vec::new();
        for (name, program) in object.programs_mut() {
            if let Some(name) = waiting.iter().find(|wanted| **wanted == name) {
                programs.push((name, program));
            }
        }
        // The order of the first is that of their importance.
        waiting.retain(|name| {
            let found = programs.iter().any(|(known, _)| known == name);
            if !found {
                self.report(Err((name, "it is not in the object file".to_owned())));
            }
            found
        });
        let queue = Mutex::new((waiting, programs));
        let next = || {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            let (waiting, programs) = &mut *queue;
            let name = waiting.pop_front()?;
            let at = programs.iter().position(|(known, _)| *known == name)?;
            Some(programs.swap_remove(at))
        };
        let first = self.group.needed(Milestone::Filters);
        let work = || {
            while self.goes_on()
                && let Some((name, program)) = next()
            {
                if !first.contains(&name) {
                    self.wait_for_release(HELD_BACK);
                    if !self.goes_on() {
                        return;
                    }
                    give_way();
                }
                let done = load(name, program, pins);
                self.report(done.map(|()| name).map_err(|error| (name, reason(&error))));
            }
        };
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        std::thread::scope(|scope| {
            for _ in 1..processors.min(WORKERS) {
                // With one thread fewer it takes longer.
                let _ = std::thread::Builder::new()
                    .name("programs".to_owned())
                    .spawn_scoped(scope, work);
            }
            work();
        });
    }
}

/// Lowers the priority of this thread: at the start other services wait for the processors too. That
/// it keeps its priority where this is forbidden does no harm.
fn give_way() {
    const LOW: i32 = 10;
    let _ = rustix::process::setpriority_process(None, LOW);
}

fn failure(state: &State) -> Option<DatapathError> {
    let (name, message) = state.failure.as_ref()?;
    Some(DatapathError::Refused { name, message: message.clone() })
}

/// Why a program is not there, with the end of what the verifier said: it may say megabytes.
fn reason(error: &DatapathError) -> String {
    const LINES: usize = 30;
    let DatapathError::Program { source, .. } = error else { return error.to_string() };
    let ProgramError::LoadError { io_error, verifier_log } = source.as_ref() else {
        return error.to_string();
    };
    let log = verifier_log.to_string();
    let lines: Vec<_> = log.lines().collect();
    let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
    format!("{io_error}; the verifier: {}", last.join("\n"))
}

/// Hands a program to the verifier; then it is there for packets, and for this service's next run.
fn load(name: &'static str, program: &mut Program, pins: &Path) -> Result<()> {
    let refused = |source| DatapathError::Program { name, source: Box::new(source) };
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
    .map_err(refused)?;
    enter(name, program.fd().map_err(refused)?, pins)?;
    let path: PathBuf = pins.join(name);
    program.pin(&path).map_err(|error| DatapathError::Pin { path, source: io::Error::other(error) })
}

/// Puts a program into its places in the tables.
pub(super) fn enter(name: &'static str, descriptor: &ProgramFd, pins: &Path) -> Result<()> {
    for (table, number) in order::places(name) {
        let failed =
            |source: MapError| DatapathError::Map { name: table, source: Box::new(source) };
        let mut stages: ProgramArray<_> = maps::pinned(pins, table)?;
        stages.set(number, descriptor, 0).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_waits_until_it_is_released_or_not_needed_or_for_too_long() {
        let held = || {
            let loading = Loading::new(Group::Tcx, Path::new("/nonexistent"), Arc::default());
            loading.hold_back();
            loading
        };
        for free in [Loading::release, Loading::cancel] {
            let loading = held();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| loading.wait_for_release(Duration::MAX));
                assert!(!waiting.is_finished());
                free(&loading);
            });
        }
        let loading = held();
        loading.wait_for_release(Duration::ZERO);
        // Nor does the next thread wait.
        loading.wait_for_release(Duration::MAX);
    }
}
