//! A process in the background that ends with its handle.

use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

/// Has the kernel kill the process that `command` starts when the thread that starts it ends: if
/// this process is killed, nobody else does.
pub fn dies_with_us(command: &mut Command) {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    shown: String,
}

impl Running {
    /// Starts `command` with its output captured unless the caller directed it elsewhere.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let shown = format!("{command:?}").replace('"', "");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {shown}"))?;
        Ok(Self { child, shown })
    }

    /// Starts `command` with its standard error going to `log`, for one that writes more than a
    /// pipe holds.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_logged(mut command: Command, log: std::fs::File) -> Result<Self> {
        let shown = format!("{command:?}").replace('"', "");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {shown}"))?;
        Ok(Self { child, shown })
    }

    /// Process id (`ip netns exec` replaces itself by the program, so it is the program's).
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails, with what the process wrote to standard error, if it is no longer running.
    ///
    /// # Errors
    /// If it ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let mut text = String::new();
            if let Some(stderr) = &mut self.child.stderr {
                stderr.read_to_string(&mut text)?;
            }
            bail!("{} ended: {status}: {}", self.shown, text.trim());
        }
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("process id")?;
        rustix::process::kill_process(pid, signal).with_context(|| self.shown.clone())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("{} still runs after {limit:?}", self.shown);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
