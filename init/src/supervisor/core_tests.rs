use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn rules(name: &str, after: &[&str]) -> Rules {
    Rules {
        name: name.to_owned(),
        after: after.iter().map(|s| (*s).to_owned()).collect(),
        essential: true,
        start_timeout: Duration::from_secs(20),
        watchdog: Duration::from_secs(30),
        stop_timeout: Duration::from_secs(5),
    }
}

const fn s(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Time {
    Duration::from_millis(milliseconds)
}

/// Number of the run that `actions` start for `id`.
fn started(actions: &[Action], id: Id) -> Option<u64> {
    actions.iter().find_map(|a| match a {
        Action::Start { id: i, run } if *i == id => Some(*run),
        _ => None,
    })
}

fn killed(actions: &[Action]) -> Option<&'static str> {
    actions.iter().find_map(|a| match a {
        Action::Kill { reason, .. } => Some(*reason),
        _ => None,
    })
}

/// Lets time pass as the shell does: it looks once a second. What is to be done at each look.
fn pass(core: &mut Core, from: Time, to: Time) -> Vec<Action> {
    let mut now = from;
    let mut actions = Vec::new();
    while now < to {
        now = (now + s(1)).min(to);
        actions.extend(core.handle(now, &Event::Tick));
    }
    actions
}

#[test]
fn a_service_starts_when_those_before_it_are_ready() {
    let mut core = Core::new(vec![rules("b", &["a"]), rules("a", &[])], s(0));
    let first = core.handle(s(0), &Event::Tick);
    assert_eq!(started(&first, 0), None);
    let run = started(&first, 1).unwrap();
    assert_eq!(core.missing().count(), 2);
    let second = core.handle(s(1), &Event::Ready { id: 1, run });
    let run_b = started(&second, 0).unwrap();
    core.handle(s(1), &Event::Ready { id: 0, run: run_b });
    assert_eq!(core.missing().count(), 0);
    // Later the order does not matter: b goes on and is restarted while a is away.
    core.handle(s(2), &Event::Ended { id: 1, run });
    core.handle(s(2), &Event::Ended { id: 0, run: run_b });
    assert!(started(&core.handle(s(3), &Event::Tick), 0).is_some());
}

#[test]
fn pauses_double_up_to_the_limit_and_ten_failures_in_a_row_are_a_crash_loop() {
    let mut core = Core::new(vec![rules("a", &[])], s(0));
    let mut now = s(0);
    let mut actions = core.handle(now, &Event::Tick);
    let mut pauses = Vec::new();
    for _ in 0..10 {
        let run = started(&actions, 0).unwrap();
        core.handle(now, &Event::Ended { id: 0, run });
        let due = core.deadline().unwrap();
        pauses.push((due - now).as_millis());
        now = due;
        actions = core.handle(now, &Event::Tick);
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 60_000]);
    // The try of a failed service ends its failures only if the run is a good one.
    let run = started(&actions, 0).unwrap();
    core.handle(now, &Event::Ready { id: 0, run });
    core.handle(now + s(29), &Event::Alive { id: 0, run });
    core.handle(now + s(31), &Event::Ended { id: 0, run });
    assert_eq!(core.state(0), Some(State::BackingOff));
    assert_eq!(core.deadline(), Some(now + s(31) + ms(100)));
}

#[test]
fn what_is_silent_or_late_is_killed_once_and_again_if_it_stays() {
    let mut core = Core::new(vec![rules("a", &[])], s(0));
    let run = started(&core.handle(s(0), &Event::Tick), 0).unwrap();
    assert_eq!(killed(&pass(&mut core, s(0), ms(19_999))), None);
    assert!(killed(&core.handle(s(20), &Event::Tick)).unwrap().contains("start_timeout"));
    assert_eq!(killed(&core.handle(s(21), &Event::Tick)), None);
    assert!(killed(&core.handle(s(22), &Event::Tick)).is_some());
    core.handle(s(23), &Event::Ended { id: 0, run });

    let run = started(&core.handle(s(24), &Event::Tick), 0).unwrap();
    core.handle(s(25), &Event::Ready { id: 0, run });
    assert_eq!(killed(&pass(&mut core, s(25), s(50))), None);
    core.handle(s(50), &Event::Alive { id: 0, run });
    assert_eq!(killed(&pass(&mut core, s(50), s(79))), None);
    assert!(killed(&core.handle(s(80), &Event::Tick)).unwrap().contains("watchdog"));
}

/// The time that the watchdog takes to notice is as long as a good run.
#[test]
fn a_service_that_hangs_each_time_it_is_ready_is_a_crash_loop() {
    let mut core = Core::new(vec![rules("a", &[])], s(0));
    let mut now = s(0);
    let mut actions = core.handle(now, &Event::Tick);
    for failure in 1..=10 {
        let run = started(&actions, 0).unwrap();
        core.handle(now, &Event::Ready { id: 0, run });
        assert!(killed(&pass(&mut core, now, now + s(30))).unwrap().contains("watchdog"));
        now += s(30);
        core.handle(now, &Event::Ended { id: 0, run });
        let failed = core.state(0) == Some(State::Failed);
        assert_eq!(failed, failure == 10, "after {failure} failures");
        let due = core.deadline().unwrap();
        actions = pass(&mut core, now, due);
        now = due;
    }
    // One that worked for long before it hung begins anew.
    let run = started(&actions, 0).unwrap();
    core.handle(now, &Event::Ready { id: 0, run });
    pass(&mut core, now, now + s(29));
    core.handle(now + s(30), &Event::Alive { id: 0, run });
    assert!(killed(&pass(&mut core, now + s(30), now + s(60))).is_some());
    core.handle(now + s(60), &Event::Ended { id: 0, run });
    assert_eq!(core.state(0), Some(State::BackingOff));
}

/// A laptop closed over a virtual router, or a host that stops it for a snapshot.
#[test]
fn nobody_is_killed_for_a_time_in_which_the_supervisor_itself_stood_still() {
    let mut core = Core::new(vec![rules("lives", &[]), rules("hangs", &[])], s(0));
    let actions = core.handle(s(0), &Event::Tick);
    let (lives, hangs) = (started(&actions, 0).unwrap(), started(&actions, 1).unwrap());
    core.handle(s(0), &Event::Ready { id: 0, run: lives });
    core.handle(s(0), &Event::Ready { id: 1, run: hangs });
    // What they said meanwhile is read later than the clock.
    assert_eq!(killed(&core.handle(s(3600), &Event::Tick)), None);
    assert_eq!(core.deadline(), Some(s(3605)));
    core.handle(s(3601), &Event::Alive { id: 0, run: lives });
    assert_eq!(killed(&pass(&mut core, s(3601), ms(3_604_999))), None);
    let actions = core.handle(s(3605), &Event::Tick);
    assert!(matches!(actions[..], [Action::Kill { id: 1, .. }]), "{actions:?}");
}

#[test]
fn words_of_an_earlier_process_do_not_count_for_its_successor() {
    let mut core = Core::new(vec![rules("a", &[])], s(0));
    let old = started(&core.handle(s(0), &Event::Tick), 0).unwrap();
    core.handle(s(1), &Event::Ended { id: 0, run: old });
    let new = started(&core.handle(s(2), &Event::Tick), 0).unwrap();
    assert_ne!(old, new);
    core.handle(s(2), &Event::Ready { id: 0, run: old });
    assert_eq!(core.state(0), Some(State::Starting));
    core.handle(s(2), &Event::Ended { id: 0, run: old });
    assert_eq!(core.state(0), Some(State::Starting));
}

#[test]
fn a_restart_on_request_has_no_pause_and_is_no_failure() {
    let mut core = Core::new(vec![rules("a", &[])], s(0));
    let run = started(&core.handle(s(0), &Event::Tick), 0).unwrap();
    core.handle(s(0), &Event::Ready { id: 0, run });
    let actions = core.handle(s(1), &Event::Restart { id: 0 });
    assert!(actions.contains(&Action::Terminate { id: 0 }));
    // It does not end: killed after the deadline.
    assert_eq!(killed(&pass(&mut core, s(1), s(5))), None);
    assert!(killed(&core.handle(s(6), &Event::Tick)).unwrap().contains("stop_timeout"));
    let actions = core.handle(s(6), &Event::Ended { id: 0, run });
    assert!(started(&actions, 0).is_some());
    assert_eq!(core.restarts(0), 1);
}

#[test]
fn services_end_in_the_reverse_of_their_order() {
    let mut core = Core::new(vec![rules("a", &[]), rules("b", &["a"])], s(0));
    let a = started(&core.handle(s(0), &Event::Tick), 0).unwrap();
    let b = started(&core.handle(s(0), &Event::Ready { id: 0, run: a }), 1).unwrap();
    core.handle(s(0), &Event::Ready { id: 1, run: b });
    let actions = core.handle(s(1), &Event::StopAll);
    assert!(actions.contains(&Action::Terminate { id: 1 }));
    assert!(!actions.contains(&Action::Terminate { id: 0 }));
    let actions = core.handle(s(2), &Event::Ended { id: 1, run: b });
    assert!(actions.contains(&Action::Terminate { id: 0 }));
    let actions = core.handle(s(3), &Event::Ended { id: 0, run: a });
    assert!(actions.contains(&Action::AllStopped));
    assert!(core.handle(s(100), &Event::Restart { id: 0 }).is_empty());
}

/// A world in which services end, hang and recover at random.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    HeldUp(u64),
    Ready(Id),
    Alive(Id),
    End(Id),
    Restart(Id),
    StopAll,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0..3_usize;
    proptest::collection::vec(
        prop_oneof![
            8 => (1_u64..40_000).prop_map(Step::Pass),
            1 => (1_u64..40_000).prop_map(Step::HeldUp),
            8 => id.clone().prop_map(Step::Ready),
            4 => id.clone().prop_map(Step::Alive),
            8 => id.clone().prop_map(Step::End),
            2 => id.prop_map(Step::Restart),
            1 => Just(Step::StopAll),
        ],
        0..120,
    )
}

/// The processes as the actions make them.
#[derive(Default)]
struct World {
    running: BTreeMap<Id, u64>,
    stopping: bool,
    ended_all: bool,
}

impl World {
    fn obey(&mut self, actions: &[Action]) {
        for action in actions {
            match *action {
                Action::Start { id, run } => {
                    assert!(!self.stopping, "nothing starts once everything is to end");
                    assert!(self.running.insert(id, run).is_none(), "two processes of one service");
                }
                Action::Terminate { id } | Action::Kill { id, .. } => {
                    assert!(self.running.contains_key(&id), "signal without a process");
                }
                Action::AllStopped => {
                    assert!(self.running.is_empty() && self.stopping && !self.ended_all);
                    self.ended_all = true;
                }
                Action::Changed { .. } => {}
            }
        }
    }
}

proptest! {
    #[test]
    fn every_service_comes_back_and_everything_ends(steps in steps()) {
        let mut core =
            Core::new(vec![rules("a", &[]), rules("b", &["a"]), rules("c", &["a", "b"])], s(0));
        let mut world = World::default();
        let mut now = s(0);
        world.obey(&core.handle(now, &Event::Tick));
        for step in steps {
            let event = match step {
                Step::Pass(t) => {
                    world.obey(&pass(&mut core, now, now + ms(t)));
                    now += ms(t);
                    Event::Tick
                }
                Step::HeldUp(t) => {
                    now += ms(t);
                    Event::Tick
                }
                Step::Ready(id) => Event::Ready { id, run: world.running.get(&id).copied().unwrap_or(0) },
                Step::Alive(id) => Event::Alive { id, run: world.running.get(&id).copied().unwrap_or(0) },
                Step::End(id) => Event::Ended { id, run: world.running.remove(&id).unwrap_or(0) },
                Step::Restart(id) => Event::Restart { id },
                Step::StopAll => {
                    world.stopping = true;
                    Event::StopAll
                }
            };
            world.obey(&core.handle(now, &event));
            // Whatever exists is watched and whatever does not is going to be started.
            if !world.stopping {
                for id in 0..3 {
                    let idle = core.state(id) == Some(State::Waiting);
                    prop_assert!(idle || world.running.contains_key(&id) || core.deadline().is_some());
                }
            }
        }
        // From any state: when processes obey, all are ready within 90 s (the pause of a crash
        // loop and a start); when told to end, all have ended within the deadlines.
        if !world.stopping {
            for _ in 0..10 {
                for (id, run) in world.running.clone() {
                    if core.state(id) == Some(State::Stopping) {
                        world.running.remove(&id);
                        world.obey(&core.handle(now, &Event::Ended { id, run }));
                    } else {
                        world.obey(&core.handle(now, &Event::Ready { id, run }));
                        world.obey(&core.handle(now, &Event::Alive { id, run }));
                    }
                }
                world.obey(&pass(&mut core, now, now + s(10)));
                now += s(10);
            }
            prop_assert_eq!(core.missing().count(), 0);
            world.stopping = true;
            world.obey(&core.handle(now, &Event::StopAll));
        }
        let mut waited = 0;
        while !world.ended_all {
            now += s(1);
            waited += 1;
            prop_assert!(waited <= 3 * 6 + INDULGENCE.as_secs());
            let actions = core.handle(now, &Event::Tick);
            world.obey(&actions);
            for action in actions {
                if let Action::Kill { id, .. } = action {
                    let run = world.running.remove(&id).unwrap_or(0);
                    world.obey(&core.handle(now, &Event::Ended { id, run }));
                }
            }
        }
    }

    #[test]
    fn the_first_kill_costs_less_than_a_second(at in 0_u64..1_000_000) {
        let mut core = Core::new(vec![rules("a", &[])], s(0));
        let run = started(&core.handle(s(0), &Event::Tick), 0).unwrap();
        core.handle(s(0), &Event::Ready { id: 0, run });
        core.handle(ms(at), &Event::Ended { id: 0, run });
        let due = core.deadline().unwrap();
        prop_assert!(due - ms(at) < s(1));
        prop_assert!(started(&core.handle(due, &Event::Tick), 0).is_some());
    }
}
