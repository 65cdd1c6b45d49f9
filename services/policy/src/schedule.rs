//! Which schedules hold at a time, and when that changes. Times are seconds since 1970, UTC.

use std::collections::BTreeMap;

use portcullis_model::{
    Name,
    firewall::{Day, Schedule},
};

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;

/// Whether `schedule` holds at `unix_s`.
pub fn holds(schedule: &Schedule, unix_s: u64) -> bool {
    let day = unix_s / DAY;
    // One that began yesterday may go on today.
    [Some(day), day.checked_sub(1)]
        .into_iter()
        .flatten()
        .any(|day| span(schedule, day).is_some_and(|(from, to)| from <= unix_s && unix_s < to))
}

/// When the next of `schedules` begins or ends after `unix_s`; `None` if none ever does.
pub fn next_boundary(schedules: &BTreeMap<Name, Schedule>, unix_s: u64) -> Option<u64> {
    let day = unix_s / DAY;
    // The same week comes again.
    let days = day.saturating_sub(1)..=day + 8;
    let ends = schedules.values().flat_map(|schedule| {
        days.clone().filter_map(|day| span(schedule, day)).flat_map(|(from, to)| [from, to])
    });
    ends.filter(|end| *end > unix_s).min()
}

/// The time for which what the schedules say stays as it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Steady {
    since: u64,
    /// None without schedules.
    until: Option<u64>,
}

impl Steady {
    /// From `unix_s` on.
    pub fn from(schedules: &BTreeMap<Name, Schedule>, unix_s: u64) -> Self {
        Self { since: unix_s, until: next_boundary(schedules, unix_s) }
    }

    /// Whether it is so at `unix_s`. What was found before the clock was set back says nothing of now.
    pub fn holds(&self, unix_s: u64) -> bool {
        self.until.is_none_or(|until| (self.since..until).contains(&unix_s))
    }
}

/// From when to when the schedule that begins on a day (counted from 1970-01-01) holds.
fn span(schedule: &Schedule, day: u64) -> Option<(u64, u64)> {
    // 1970-01-01 was a Thursday.
    let weekday = Day::ALL.get(((day + 3) % 7) as usize)?;
    if !schedule.days.contains(weekday) {
        return None;
    }
    let at = |day: u64, minutes: u16| day * DAY + u64::from(minutes) * MINUTE;
    let next_day = u64::from(schedule.to <= schedule.from);
    Some((at(day, schedule.from.minutes()), at(day + next_day, schedule.to.minutes())))
}

#[cfg(test)]
mod tests {
    use portcullis_model::firewall::TimeOfDay;

    use super::*;

    // 2026-11-22 00:00 UTC, a Sunday.
    const SUNDAY: u64 = 1_795_305_600;
    const HOUR: u64 = 3600;

    fn schedule(days: &[Day], from: &str, to: &str) -> Schedule {
        let time = |text: &str| text.parse::<TimeOfDay>().unwrap();
        Schedule { days: days.iter().copied().collect(), from: time(from), to: time(to) }
    }

    #[test]
    fn days_and_hours() {
        let work = schedule(&[Day::Mon, Day::Tue], "08:00", "17:30");
        let monday = SUNDAY + DAY;
        for (time, expected) in [
            (SUNDAY + 9 * HOUR, false),
            (monday + 8 * HOUR - 1, false),
            (monday + 8 * HOUR, true),
            (monday + 17 * HOUR + 1799, true),
            (monday + 17 * HOUR + 1800, false),
            (monday + DAY + 12 * HOUR, true),
            (monday + 2 * DAY + 12 * HOUR, false),
        ] {
            assert_eq!(holds(&work, time), expected, "{time}");
        }
    }

    #[test]
    fn a_night_belongs_to_the_day_it_begins_on() {
        let night = schedule(&[Day::Sun], "22:00", "06:00");
        for (time, expected) in [
            (SUNDAY + 5 * HOUR, false),
            (SUNDAY + 22 * HOUR, true),
            (SUNDAY + DAY + 6 * HOUR - 1, true),
            (SUNDAY + DAY + 6 * HOUR, false),
            (SUNDAY + DAY + 23 * HOUR, false),
        ] {
            assert_eq!(holds(&night, time), expected, "{time}");
        }
        assert!(holds(&Schedule::default(), SUNDAY + DAY - 1));
        // The whole day round.
        let round = schedule(&[Day::Sun], "12:00", "12:00");
        assert!(holds(&round, SUNDAY + 12 * HOUR) && holds(&round, SUNDAY + 36 * HOUR - 1));
        assert!(!holds(&round, SUNDAY + 36 * HOUR));
    }

    #[test]
    fn a_clock_that_is_set_makes_the_schedules_be_asked_again() {
        let schedules =
            BTreeMap::from([("work".parse().unwrap(), schedule(&[Day::Mon], "08:00", "17:00"))]);
        let monday = SUNDAY + DAY;
        // A machine whose clock was two weeks ahead.
        let steady = Steady::from(&schedules, monday + 14 * DAY + 7 * HOUR);
        assert!(steady.holds(monday + 14 * DAY + 7 * HOUR + 1800));
        assert!(!steady.holds(monday + 14 * DAY + 8 * HOUR), "it begins");
        assert!(!steady.holds(monday + 9 * HOUR), "set back, into a time when it holds");
        assert!(!steady.holds(monday + 100 * DAY), "set forward");
        let never = Steady::from(&BTreeMap::new(), SUNDAY);
        assert!(never.holds(0) && never.holds(u64::MAX) && Steady::default().holds(SUNDAY));
    }

    #[test]
    fn nothing_changes_before_the_next_boundary() {
        let schedules = BTreeMap::from([
            ("work".parse().unwrap(), schedule(&[Day::Mon, Day::Fri], "08:00", "17:00")),
            ("night".parse().unwrap(), schedule(&[Day::Sat], "22:15", "06:30")),
        ]);
        let mut time = SUNDAY;
        for _ in 0..40 {
            let next = next_boundary(&schedules, time).unwrap();
            let now: Vec<bool> = schedules.values().map(|s| holds(s, time)).collect();
            for between in (time..next).step_by(60).chain([next - 1]) {
                let then: Vec<bool> = schedules.values().map(|s| holds(s, between)).collect();
                assert_eq!(then, now, "{time} {between} {next}");
            }
            let changed: Vec<bool> = schedules.values().map(|s| holds(s, next)).collect();
            assert_ne!(changed, now, "{next}");
            time = next;
        }
        assert_eq!(next_boundary(&BTreeMap::new(), SUNDAY), None);
        // The first day there is.
        assert_eq!(next_boundary(&schedules, 0), Some(DAY + 8 * HOUR), "1970-01-02 was a Friday");
    }
}
