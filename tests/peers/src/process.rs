//! Programs under test.

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// An example of the crate under test, which `cargo test` has built beside the tests.
///
/// # Errors
/// If it is not there.
pub fn example(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(|deps| deps.parent()).context("no target folder")?;
    let path = folder.join("examples").join(name);
    if !path.exists() {
        bail!("{} is missing; build it with `cargo build --example {name}`", path.display());
    }
    Ok(path)
}

/// A process that ends with the test.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command`, its log on this test's standard error.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Self { child })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its standard input.
    ///
    /// # Errors
    /// If it has closed it.
    pub fn write(&mut self, text: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("standard input is closed")?;
        stdin.write_all(text.as_bytes())?;
        Ok(stdin.flush()?)
    }

    /// Ends it as a power cut does (SIGKILL).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Closes its standard input and waits for the end; returns exit code and standard output.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<(Option<i32>, String)> {
        drop(self.child.stdin.take());
        let mut stdout = self.child.stdout.take().context("standard output is gone")?;
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stdout.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                let text = reader.join().map_err(|_| anyhow::anyhow!("reader panicked"))?;
                return Ok((status.code(), text));
            }
            if Instant::now() > end {
                bail!("process {} runs after {limit:?}", self.child.id());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
