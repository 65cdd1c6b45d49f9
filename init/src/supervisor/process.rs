//! Starting a service's process and saying how it ended.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, WaitStatus};

use super::sockets::Named;

/// First descriptor of the socket hand-over (sd_listen_fds(3)).
const FIRST_SOCKET: i32 = 3;

/// The program that becomes a service.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// Arguments before the service's name.
    pub arguments: Vec<OsString>,
}

/// What a process gets from init.
#[derive(Debug)]
pub struct Surroundings {
    /// Name of the service.
    pub name: String,
    /// Its sockets.
    pub sockets: Vec<Named>,
    /// Where it says that it is ready.
    pub notify_socket: PathBuf,
    /// Longest time between two signs of life.
    pub watchdog: Duration,
    /// User ids that may call it.
    pub callers: String,
    /// Those of them that may give orders.
    pub controllers: String,
    /// The console, for the service that has it as standard input and output.
    pub console: Option<OwnedFd>,
}

/// A process just started.
#[derive(Debug)]
pub struct Started {
    /// Its id.
    pub pid: Pid,
    /// The read end of its standard output and error, of error alone if it has the console.
    pub output: OwnedFd,
}

/// Starts `program` with nothing of init's own: no environment, no descriptors but those named.
///
/// # Errors
/// If the process cannot be made or the program not be executed.
pub fn start(program: &Program, surroundings: Surroundings) -> io::Result<Started> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let journal = std::fs::File::from(write.as_fd().try_clone_to_owned()?).metadata()?;
    let mut command = Command::new(&program.path);
    command.arg0("portcullis").args(&program.arguments).arg(&surroundings.name);
    command.current_dir("/").env_clear();
    let names: Vec<&str> = surroundings.sockets.iter().map(|s| s.name.as_str()).collect();
    command.env("LISTEN_FDS", names.len().to_string());
    command.env("LISTEN_FDNAMES", names.join(":"));
    command.env("NOTIFY_SOCKET", &surroundings.notify_socket);
    command.env("WATCHDOG_USEC", surroundings.watchdog.as_micros().to_string());
    command.env("PORTCULLIS_BUS_CALLERS", &surroundings.callers);
    command.env("PORTCULLIS_BUS_CONTROLLERS", &surroundings.controllers);
    command.env("JOURNAL_STREAM", format!("{}:{}", journal.dev(), journal.ino()));
    match surroundings.console {
        Some(console) => {
            command.env("TERM", "linux");
            command.stdin(console.as_fd().try_clone_to_owned()?).stdout(console);
        }
        None => {
            command.stdin(Stdio::null()).stdout(write.as_fd().try_clone_to_owned()?);
        }
    }
    command.stderr(write);
    let mappings = (FIRST_SOCKET..)
        .zip(surroundings.sockets)
        .map(|(child_fd, socket)| FdMapping { parent_fd: socket.fd, child_fd })
        .collect();
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    // The handle is dropped: the process is reaped with all others, see the shell.
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the kernel gave no process id"))?;
    Ok(Started { pid, output: read })
}

/// How a process ended, in words.
pub fn words(status: WaitStatus) -> String {
    if let Some(signal) = status.terminating_signal() {
        let name = match signal {
            libc::SIGABRT => "SIGABRT (panic)",
            libc::SIGBUS => "SIGBUS",
            libc::SIGILL => "SIGILL",
            libc::SIGKILL => "SIGKILL",
            libc::SIGSEGV => "SIGSEGV",
            libc::SIGSYS => "SIGSYS (system call outside its system_calls sets)",
            libc::SIGTERM => "SIGTERM",
            _ => return format!("signal {signal}"),
        };
        return name.to_owned();
    }
    match status.exit_status() {
        Some(code) if code == i32::from(super::EXIT_LAUNCH) => {
            format!("exit code {code} (could not be launched)")
        }
        Some(code) => format!("exit code {code}"),
        None => "unknown".to_owned(),
    }
}
