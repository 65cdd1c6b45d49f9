//! The supervisor's rules as a state machine: events and the time go in, actions come out. It
//! knows no process, socket or clock.
//!
//! ```text
//!            all of `after` ready          READY=1
//!  waiting ------------------> starting ------------> ready
//!                                 ^  | end, timeout     | end, watchdog
//!                    pause over   |  v                  v
//!                              backing-off  <-----------+      stopping -> stopped
//!                                 |  (10th failure in a row)
//!                                 v
//!                               failed: tried again once a minute
//! ```

use std::{collections::BTreeSet, time::Duration};

/// First pause before a restart; doubled by every further failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A service that was ready this long, and gave signs of life, begins its failures anew.
const GOOD_RUN: Duration = Duration::from_secs(30);

/// Failures in a row after which a service counts as failed.
const CRASH_LOOP: u32 = 10;

/// Pause between the tries of a failed service: it may come back when its surroundings do.
const FAILED_PAUSE: Duration = Duration::from_secs(60);

/// How long the end of a killed process may take before it is killed again.
const KILL_REPEAT: Duration = Duration::from_secs(2);

/// The supervisor looks once a second; if it did not for this long, it was itself held up: a machine
/// that was suspended, a virtual one that its host stopped, a processor or disk that hung.
const HELD_UP: Duration = Duration::from_secs(3);

/// How long nothing is held against services after that: they were held up as well, and what they said
/// before is still to be read.
const INDULGENCE: Duration = Duration::from_secs(5);

/// Time since the kernel started.
pub type Time = Duration;

/// Position of a service in the supervisor.
pub type Id = usize;

/// What the supervisor needs to know of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Name.
    pub name: String,
    /// Services that must be ready before its first start.
    pub after: BTreeSet<String>,
    /// Whether the box is unhealthy without it.
    pub essential: bool,
    /// Longest time from start to ready.
    pub start_timeout: Duration,
    /// Longest time between two signs of life, from start to end.
    pub watchdog: Duration,
    /// Longest time from SIGTERM to the end.
    pub stop_timeout: Duration,
}

impl From<&crate::manifest::Manifest> for Rules {
    fn from(manifest: &crate::manifest::Manifest) -> Self {
        let seconds = |s: u32| Duration::from_secs(s.into());
        Self {
            name: manifest.name.clone(),
            after: manifest.after.clone(),
            essential: manifest.essential,
            start_timeout: seconds(manifest.start_timeout_s),
            watchdog: seconds(manifest.watchdog_s),
            stop_timeout: seconds(manifest.stop_timeout_s),
        }
    }
}

/// Where a service is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// For the first start, until others are ready.
    Waiting,
    /// Started, not ready yet.
    Starting,
    /// Does its work.
    Ready,
    /// Ended; started again at the end of the pause.
    BackingOff,
    /// Asked to end.
    Stopping,
    /// Ended, as asked.
    Stopped,
    /// Ended too often; tried again once a minute.
    Failed,
}

impl State {
    /// As on the bus.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::BackingOff => "backing-off",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// What happened. `run` is the number from [`Action::Start`]: what an earlier process still had
/// to say does not count for its successor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// READY=1.
    Ready {
        /// Service.
        id: Id,
        /// Run.
        run: u64,
    },
    /// WATCHDOG=1.
    Alive {
        /// Service.
        id: Id,
        /// Run.
        run: u64,
    },
    /// The process ended, or could not be started.
    Ended {
        /// Service.
        id: Id,
        /// Run.
        run: u64,
    },
    /// A user wants it stopped and started.
    Restart {
        /// Service.
        id: Id,
    },
    /// Everything is to end; nothing is started from now on.
    StopAll,
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Start the process of a service.
    Start {
        /// Service.
        id: Id,
        /// Number of this run, for its events.
        run: u64,
    },
    /// SIGTERM to the process.
    Terminate {
        /// Service.
        id: Id,
    },
    /// SIGKILL to the whole cgroup.
    Kill {
        /// Service.
        id: Id,
        /// Why, for the journal.
        reason: &'static str,
    },
    /// The state changed, for status and journal.
    Changed {
        /// Service.
        id: Id,
        /// The state that it is in now.
        state: State,
    },
    /// After [`Event::StopAll`]: no service runs any more.
    AllStopped,
}

/// One service.
#[derive(Debug)]
struct Service {
    rules: Rules,
    state: State,
    run: u64,
    /// Whether a process of it exists.
    running: bool,
    /// Starts so far.
    starts: u32,
    /// Failures since the last good run.
    failures: u32,
    /// When the present state began.
    since: Time,
    /// Last sign of life.
    alive: Time,
    /// When it was last killed, while its process still exists.
    killed: Option<Time>,
    /// Whether it starts again when it has ended on request.
    again: bool,
}

/// All services.
#[derive(Debug)]
pub struct Core {
    services: Vec<Service>,
    stopping: bool,
    all_stopped: bool,
    runs: u64,
    /// When the time was last told.
    looked: Time,
    /// Until when no limit is enforced.
    indulgent: Time,
}

impl Core {
    /// Services that were never started; the first [`Event::Tick`] starts what waits for nothing.
    pub fn new(rules: Vec<Rules>, now: Time) -> Self {
        let services = rules
            .into_iter()
            .map(|rules| Service {
                rules,
                state: State::Waiting,
                run: 0,
                running: false,
                starts: 0,
                failures: 0,
                since: now,
                alive: now,
                killed: None,
                again: false,
            })
            .collect();
        Self {
            services,
            stopping: false,
            all_stopped: false,
            runs: 0,
            looked: now,
            indulgent: Time::ZERO,
        }
    }

    /// State of a service.
    pub fn state(&self, id: Id) -> Option<State> {
        self.services.get(id).map(|s| s.state)
    }

    /// Whether [`Action::AllStopped`] was given.
    pub fn all_stopped(&self) -> bool {
        self.all_stopped
    }

    /// Starts after the first.
    pub fn restarts(&self, id: Id) -> u32 {
        self.services.get(id).map_or(0, |s| s.starts.saturating_sub(1))
    }

    /// Essential services that are not ready, with their states.
    pub fn missing(&self) -> impl Iterator<Item = (&str, State)> {
        self.services
            .iter()
            .filter(|s| s.rules.essential && s.state != State::Ready)
            .map(|s| (s.rules.name.as_str(), s.state))
    }

    /// Takes an event at time `now`, which must not go backwards. To be called once a second at
    /// least, with [`Event::Tick`] if nothing happens.
    pub fn handle(&mut self, now: Time, event: &Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if now.saturating_sub(self.looked) >= HELD_UP {
            self.indulgent = now + INDULGENCE;
        }
        self.looked = now;
        match *event {
            Event::Ready { id, run } => {
                if let Some(service) = self.current(id, run) {
                    service.alive = now;
                    if service.state == State::Starting {
                        service.enter(State::Ready, now, id, &mut actions);
                    }
                }
            }
            Event::Alive { id, run } => {
                if let Some(service) = self.current(id, run) {
                    service.alive = now;
                }
            }
            Event::Ended { id, run } => {
                if let Some(service) = self.current(id, run) {
                    service.ended(now, id, &mut actions);
                }
            }
            Event::Restart { id } => {
                if !self.stopping
                    && let Some(service) = self.services.get_mut(id)
                {
                    service.restart(now, id, &mut actions);
                }
            }
            Event::StopAll => self.stopping = true,
            Event::Tick => {}
        }
        self.advance(now, &mut actions);
        actions
    }

    /// When [`Event::Tick`] is due at the latest, if nothing else happens.
    pub fn deadline(&self) -> Option<Time> {
        let due = |service: &Service| {
            let deadline = service.deadline()?;
            Some(if service.running { deadline.max(self.indulgent) } else { deadline })
        };
        self.services.iter().filter_map(due).min()
    }

    /// The service, if `run` is its present process.
    fn current(&mut self, id: Id, run: u64) -> Option<&mut Service> {
        self.services.get_mut(id).filter(|s| s.run == run && s.running)
    }

    /// Does what is due at `now`.
    fn advance(&mut self, now: Time, actions: &mut Vec<Action>) {
        if now >= self.indulgent {
            for (id, service) in self.services.iter_mut().enumerate() {
                service.enforce_limits(now, id, actions);
            }
        }
        if self.stopping {
            self.stop_in_order(now, actions);
        } else {
            self.start_what_may(now, actions);
        }
    }

    fn start_what_may(&mut self, now: Time, actions: &mut Vec<Action>) {
        let ready: BTreeSet<String> = self
            .services
            .iter()
            .filter(|s| s.state == State::Ready)
            .map(|s| s.rules.name.clone())
            .collect();
        for (id, service) in self.services.iter_mut().enumerate() {
            let due = match service.state {
                State::Waiting => service.rules.after.is_subset(&ready),
                State::BackingOff | State::Failed => service.pause_end().is_some_and(|t| now >= t),
                State::Stopped => service.again,
                State::Starting | State::Ready | State::Stopping => false,
            };
            if due && !service.running {
                self.runs += 1;
                service.start(now, id, self.runs, actions);
            }
        }
    }

    /// Asks a service to end as soon as nobody who waits for it is left.
    fn stop_in_order(&mut self, now: Time, actions: &mut Vec<Action>) {
        let needed: BTreeSet<String> = self
            .services
            .iter()
            .filter(|s| s.running)
            .flat_map(|s| s.rules.after.iter().cloned())
            .collect();
        for (id, service) in self.services.iter_mut().enumerate() {
            service.again = false;
            if !service.running && service.state != State::Stopped {
                service.enter(State::Stopped, now, id, actions);
            }
            if service.running
                && service.state != State::Stopping
                && !needed.contains(&service.rules.name)
            {
                service.enter(State::Stopping, now, id, actions);
                actions.push(Action::Terminate { id });
            }
        }
        if !self.all_stopped && self.services.iter().all(|s| !s.running) {
            self.all_stopped = true;
            actions.push(Action::AllStopped);
        }
    }
}

impl Service {
    fn enter(&mut self, state: State, now: Time, id: Id, actions: &mut Vec<Action>) {
        self.state = state;
        self.since = now;
        actions.push(Action::Changed { id, state });
    }

    fn start(&mut self, now: Time, id: Id, run: u64, actions: &mut Vec<Action>) {
        self.run = run;
        self.running = true;
        self.starts = self.starts.saturating_add(1);
        self.alive = now;
        self.killed = None;
        self.again = false;
        actions.push(Action::Start { id, run });
        self.enter(State::Starting, now, id, actions);
    }

    fn ended(&mut self, now: Time, id: Id, actions: &mut Vec<Action>) {
        self.running = false;
        // Of one that was killed for its silence nobody knows that it did its work any longer.
        let good_until = if self.killed.take().is_some() { self.alive } else { now };
        if self.state == State::Stopping {
            self.enter(State::Stopped, now, id, actions);
            return;
        }
        if self.state == State::Ready && good_until.saturating_sub(self.since) >= GOOD_RUN {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let state = if self.failures >= CRASH_LOOP { State::Failed } else { State::BackingOff };
        self.enter(state, now, id, actions);
    }

    /// A wish of a user: also ends a pause and a crash loop.
    fn restart(&mut self, now: Time, id: Id, actions: &mut Vec<Action>) {
        self.failures = 0;
        match self.state {
            State::Starting | State::Ready => {
                self.again = true;
                self.enter(State::Stopping, now, id, actions);
                actions.push(Action::Terminate { id });
            }
            State::Stopping | State::Stopped => self.again = true,
            State::BackingOff | State::Failed => {
                self.again = true;
                self.enter(State::Stopped, now, id, actions);
            }
            State::Waiting => {}
        }
    }

    /// Kills what is beyond its time.
    fn enforce_limits(&mut self, now: Time, id: Id, actions: &mut Vec<Action>) {
        if !self.running {
            return;
        }
        if let Some(killed) = self.killed {
            if now >= killed + KILL_REPEAT {
                self.killed = Some(now);
                actions.push(Action::Kill { id, reason: "did not end when killed" });
            }
            return;
        }
        let reason = match self.limit() {
            Some((limit, reason)) if now >= limit => reason,
            _ => return,
        };
        self.killed = Some(now);
        actions.push(Action::Kill { id, reason });
    }

    /// Until when the present state may last without being killed, and the reason then.
    fn limit(&self) -> Option<(Time, &'static str)> {
        let silent = self.alive + self.rules.watchdog;
        match self.state {
            State::Starting => {
                Some((self.since + self.rules.start_timeout, "not ready in start_timeout_s"))
            }
            State::Ready => Some((silent, "no sign of life in watchdog_s")),
            State::Stopping => {
                Some((self.since + self.rules.stop_timeout, "did not end in stop_timeout_s"))
            }
            _ => None,
        }
    }

    fn pause_end(&self) -> Option<Time> {
        match self.state {
            State::BackingOff => Some(self.since + pause(self.failures)),
            State::Failed => Some(self.since + FAILED_PAUSE),
            _ => None,
        }
    }

    fn deadline(&self) -> Option<Time> {
        if !self.running {
            return self.pause_end();
        }
        match self.killed {
            Some(killed) => Some(killed + KILL_REPEAT),
            None => self.limit().map(|(limit, _)| limit),
        }
    }
}

/// Pause after the `failures`th failure in a row.
fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE)
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
