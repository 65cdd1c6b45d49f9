//! The serial console: everything that the appliance printed, with the time it did, and a way to
//! type.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// One line of output.
#[derive(Clone, Debug)]
pub struct Line {
    /// When its first character came, since power-on.
    pub at: Duration,
    /// Its text without control sequences.
    pub text: String,
}

/// The serial console of a machine.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
    input: UnixStream,
}

#[derive(Debug, Default)]
struct Shared {
    output: Mutex<Output>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct Output {
    lines: Vec<Line>,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console {
    /// Takes over the machine's end of the serial line; copies what comes into `log`.
    pub(crate) fn new(stream: UnixStream, log: &Path, power_on: Instant) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut output = stream.try_clone()?;
        let mut log = File::create(log).with_context(|| log.display().to_string())?;
        let thread_shared = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length) = output.read(&mut chunk) {
                let Some(bytes) = chunk.get(..length).filter(|bytes| !bytes.is_empty()) else {
                    break;
                };
                let _ = log.write_all(bytes);
                thread_shared.lock().append(bytes, power_on.elapsed());
                thread_shared.grown.notify_all();
            }
            thread_shared.lock().ended = true;
            thread_shared.grown.notify_all();
        });
        Ok(Self { shared, input: stream })
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<Line> {
        self.shared.lock().lines.clone()
    }

    /// Number of lines so far: a mark for [`Self::wait_after`].
    pub fn mark(&self) -> usize {
        self.shared.lock().lines.len().saturating_sub(1)
    }

    /// Characters so far.
    pub fn length(&self) -> usize {
        self.shared.lock().lines.iter().map(|line| line.text.len() + 1).sum()
    }

    /// Waits for a line that contains `text`, from the beginning.
    ///
    /// # Errors
    /// If none came within `limit` or the machine ended; with the last lines.
    pub fn wait(&self, text: &str, limit: Duration) -> Result<Line> {
        self.wait_after(0, text, limit)
    }

    /// Waits for a line from number `mark` on that contains `text`.
    ///
    /// # Errors
    /// If none came within `limit` or the machine ended; with the last lines.
    pub fn wait_after(&self, mark: usize, text: &str, limit: Duration) -> Result<Line> {
        let end = Instant::now() + limit;
        let mut output = self.shared.lock();
        loop {
            let found = output.lines.iter().skip(mark).find(|line| line.text.contains(text));
            if let Some(line) = found {
                return Ok(line.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || output.ended {
                let why = if output.ended { "the machine ended" } else { "not in time" };
                bail!(
                    "console: no `{text}` ({why}, limit {limit:?}); last lines:\n{}",
                    tail(&output)
                );
            }
            output = self
                .shared
                .grown
                .wait_timeout(output, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Types `text`.
    ///
    /// # Errors
    /// If the machine ended.
    pub fn send(&self, text: &str) -> Result<()> {
        (&self.input).write_all(text.as_bytes()).context("serial console")
    }

    /// The last lines, for an error message.
    pub fn tail(&self) -> String {
        tail(&self.shared.lock())
    }
}

fn tail(output: &Output) -> String {
    let skip = output.lines.len().saturating_sub(40);
    output
        .lines
        .iter()
        .skip(skip)
        .map(|line| format!("  {:8.3} {}\n", line.at.as_secs_f64(), line.text))
        .collect()
}

impl Output {
    /// Splits into lines and leaves out what only moves the cursor or sets colours (ECMA-48).
    fn append(&mut self, bytes: &[u8], at: Duration) {
        if self.lines.is_empty() {
            self.lines.push(Line { at, text: String::new() });
        }
        for byte in bytes {
            let Some(line) = self.lines.last_mut() else { return };
            match byte {
                b'\n' => self.lines.push(Line { at, text: String::new() }),
                b'\r' => {}
                _ => {
                    if line.text.is_empty() {
                        line.at = at;
                    }
                    line.text.push(char::from(*byte));
                    strip_sequence(&mut line.text);
                }
            }
        }
    }
}

/// Removes a control sequence (`ESC [ ... letter`) that has just been completed at the end.
fn strip_sequence(text: &mut String) {
    let Some(start) = text.rfind('\u{1b}') else { return };
    let mut sequence = text.chars().skip(text.get(..start).map_or(0, |t| t.chars().count()) + 1);
    let done = match sequence.next() {
        None => false,
        Some('[') => sequence.last().is_some_and(|c| ('@'..='~').contains(&c)),
        Some(_) => true,
    };
    if done {
        text.truncate(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_are_left_out_and_lines_are_timed() {
        let mut output = Output::default();
        output.append(b"\x1b[2J\x1b[01;01Hfirst\r\nsec", Duration::from_secs(1));
        output.append(b"ond \x1b[1mbold\x1b[0m\n", Duration::from_secs(2));
        let lines: Vec<_> =
            output.lines.iter().map(|l| (l.text.as_str(), l.at.as_secs())).collect();
        assert_eq!(lines, [("first", 1), ("second bold", 1), ("", 2)]);
    }
}
