//! Programs under test.

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
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
    written: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command`, its log on this test's standard error.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut stdout = child.stdout.take().context("standard output")?;
        let written = Arc::new(Mutex::new(Vec::new()));
        let text = written.clone();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                let part = bytes.get(..count).unwrap_or_default();
                text.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(part);
            }
        });
        Ok(Self { child, written, reader: Some(reader) })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to its standard output so far.
    pub fn written(&self) -> String {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&written).into_owned()
    }

    /// Waits until it has written `text` to its standard output.
    ///
    /// # Errors
    /// If it has not within `limit`.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while !self.written().contains(text) {
            if Instant::now() > end {
                bail!("no {text:?} after {limit:?} in {:?}", self.written());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
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
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                let reader = self.reader.take().context("the end was waited for twice")?;
                reader.join().map_err(|_| anyhow::anyhow!("reader panicked"))?;
                return Ok((status.code(), self.written()));
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
