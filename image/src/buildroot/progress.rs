//! Lines for people of what Buildroot prints: it announces each step as `>>> PACKAGE VERSION STEP`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Shorter pieces of work get no line.
const WORTH_A_LINE: Duration = Duration::from_secs(1);
/// Lines of the table of times.
const TABLE: usize = 12;

/// What Buildroot is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Package with its version, or nothing for work on the whole.
    pub package: String,
    /// What it does: `Building`, `Installing to target`.
    pub step: String,
}

/// Follows the output and adds up the time of each package.
#[derive(Debug, Default)]
pub struct Progress {
    current: Option<(Step, Duration)>,
    /// When the current package began without another in between.
    began: Duration,
    seconds: BTreeMap<String, Duration>,
}

impl Progress {
    /// Takes a line of output, printed at `now` since the start; gives a line to show when a package has ended.
    pub fn line(&mut self, line: &str, now: Duration) -> Option<String> {
        let next = announcement(line)?;
        let ended = self.end_step(now);
        let same = self.current.as_ref().is_some_and(|(step, _)| step.package == next.package);
        let shown = if same { None } else { ended.and_then(|package| self.shown(&package, now)) };
        if !same {
            self.began = now;
        }
        self.current = Some((next, now));
        shown
    }

    /// The output has ended at `now`; gives the last line to show.
    pub fn end(&mut self, now: Duration) -> Option<String> {
        let package = self.end_step(now)?;
        self.shown(&package, now)
    }

    /// What it is at, or was when it failed.
    pub fn current(&self) -> Option<&Step> {
        self.current.as_ref().map(|(step, _)| step)
    }

    /// The packages that took longest, and the sum of all.
    pub fn table(&self) -> String {
        let mut packages: Vec<_> = self.seconds.iter().collect();
        packages.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let mut table = String::new();
        let line = |table: &mut String, name: &str, time: Duration| {
            let _ = writeln!(table, "  {name:<42} {:>8.1} s", time.as_secs_f64());
        };
        for (package, time) in packages.iter().take(TABLE) {
            line(&mut table, name(package), **time);
        }
        let rest: Duration = packages.iter().skip(TABLE).map(|(_, time)| **time).sum();
        if packages.len() > TABLE {
            line(&mut table, &format!("{} others", packages.len() - TABLE), rest);
        }
        line(&mut table, "all", self.seconds.values().sum());
        table
    }

    /// Counts the time of the current step for its package, which it gives.
    fn end_step(&mut self, now: Duration) -> Option<String> {
        let (step, since) = self.current.as_mut()?;
        *self.seconds.entry(step.package.clone()).or_default() += now.saturating_sub(*since);
        *since = now;
        Some(step.package.clone())
    }

    fn shown(&self, package: &str, now: Duration) -> Option<String> {
        let time = now.saturating_sub(self.began);
        (time >= WORTH_A_LINE)
            .then(|| format!("{:<44} {:>7.1} s", name(package), time.as_secs_f64()))
    }
}

/// For the work that belongs to no package.
fn name(package: &str) -> &str {
    if package.is_empty() { "target folder, images" } else { package }
}

/// Reads `>>> PACKAGE VERSION STEP`; package and version are empty for work on the whole.
fn announcement(line: &str) -> Option<Step> {
    // It stands out on a terminal: the codes are there without one too.
    let text = line.strip_prefix("\u{1b}[7m").unwrap_or(line).strip_prefix(">>> ")?;
    let text = text.split('\u{1b}').next().unwrap_or(text);
    let mut words = text.splitn(3, ' ');
    let (package, version, step) = (words.next()?, words.next()?, words.next()?);
    let package =
        if version.is_empty() { package.to_owned() } else { format!("{package} {version}") };
    Some(Step { package, step: step.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::{Progress, Step, announcement};
    use std::time::Duration;

    /// From the log of a build, two small packages; in front of each line the seconds since the first.
    const LOG: &str = include_str!("testdata/build-log.txt");

    fn follow(log: &str) -> (Progress, Vec<String>) {
        let mut progress = Progress::default();
        let mut shown = Vec::new();
        let mut now = Duration::ZERO;
        for line in log.lines() {
            let (seconds, text) = line.split_once('|').unwrap();
            now = Duration::from_secs_f64(seconds.trim().parse().unwrap());
            shown.extend(progress.line(text, now));
        }
        shown.extend(progress.end(now));
        (progress, shown)
    }

    #[test]
    fn reads_the_announcements_of_a_real_log() {
        let step = |package: &str, step: &str| Step { package: package.into(), step: step.into() };
        for (line, expected) in [
            ("\u{1b}[7m>>> host-m4 1.4.20 Building\u{1b}[27m", step("host-m4 1.4.20", "Building")),
            (
                "\u{1b}[7m>>> host-skeleton  Installing to host directory\u{1b}[27m",
                step("host-skeleton", "Installing to host directory"),
            ),
            (">>>   Finalizing target directory", step("", "Finalizing target directory")),
        ] {
            assert_eq!(announcement(line), Some(expected));
        }
        for line in ["", ">>> ", "checking for >>> m4 1.4 Building", "gcc -c a.c"] {
            assert_eq!(announcement(line), None, "{line}");
        }
    }

    #[test]
    fn every_package_of_a_real_log_has_a_line_and_its_time() {
        let (progress, shown) = follow(LOG);
        let expected = [("host-autoconf 2.72 ", " 5.9 s"), ("host-automake 1.16.5 ", " 7.4 s")];
        assert_eq!(shown.len(), expected.len(), "{shown:?}");
        for (line, (start, end)) in shown.iter().zip(expected) {
            assert!(line.starts_with(start) && line.ends_with(end), "{line}");
        }
        assert_eq!(progress.current().unwrap().step, "Installing to host directory");
        let table = progress.table();
        assert!(table.lines().next().unwrap().contains("host-automake"), "{table}");
        assert!(table.ends_with(" 13.3 s\n"), "{table}");
    }

    #[test]
    fn time_is_counted_over_interruptions_and_short_work_has_no_line() {
        let log = "0.0|>>> host-libtool 2.4.7 Extracting\n\
                   0.5|>>> host-m4 1.4.20 Building\n\
                   31.5|>>> host-libtool 2.4.7 Configuring\n\
                   40.0|make[1]: Leaving directory\n";
        let (progress, shown) = follow(log);
        assert_eq!(shown.len(), 2, "{shown:?}");
        assert!(shown[0].starts_with("host-m4 1.4.20 ") && shown[0].ends_with(" 31.0 s"));
        assert!(shown[1].starts_with("host-libtool 2.4.7 ") && shown[1].ends_with(" 8.5 s"));
        let table = progress.table();
        assert!(table.contains(" 9.0 s") && table.ends_with(" 40.0 s\n"), "{table}");
    }

    #[test]
    fn no_output_is_no_progress() {
        let mut progress = Progress::default();
        assert_eq!(progress.line("make: *** No rule", Duration::ZERO), None);
        assert_eq!(progress.end(Duration::from_secs(5)), None);
        assert!(progress.current().is_none());
    }
}
