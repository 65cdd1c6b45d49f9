//! One line per stage on standard error, with the seconds it took.

use anyhow::Result;
use std::io::{self, Write as _};
use std::time::Instant;

/// Runs one stage of the build and says how long it took.
///
/// # Errors
/// The stage's own, with its name in front.
pub fn stage<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    use anyhow::Context as _;
    let started = Instant::now();
    let result = work().with_context(|| format!("stage \"{name}\""))?;
    note(&format!("{name:<44} {:>7.1} s", started.elapsed().as_secs_f64()));
    Ok(result)
}

/// A line for the person who waits.
pub fn note(line: &str) {
    // Nobody reading our progress is no reason to stop the build.
    let _ = writeln!(io::stderr(), "image: {line}");
}
