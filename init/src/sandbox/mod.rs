//! What a service's process is confined to, applied by the process itself before the service's
//! first line runs and before it has a second thread: identity (user, groups, capabilities),
//! paths (landlock), system calls (seccomp).

mod identity;
mod paths;
mod system_calls;

pub use identity::{Identity, drop_privileges};
pub use paths::{PathRules, confine_paths};
pub use system_calls::{SystemCallSet, confine_system_calls};

/// Why a process could not be confined; it must not go on.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// User, groups, capabilities or limits.
    #[error("{what}: {source}")]
    Identity {
        /// Which step.
        what: &'static str,
        /// What the kernel said.
        source: rustix::io::Errno,
    },
    /// A path of the manifest cannot be opened.
    #[error("landlock: path {path}: {message}")]
    Path {
        /// As in the manifest.
        path: std::path::PathBuf,
        /// Why.
        message: String,
    },
    /// The kernel has no landlock, or an older one than this program relies on.
    #[error("landlock: {0} (needs Linux 6.12 with landlock in its lsm= list)")]
    Landlock(String),
    /// The system-call filter cannot be made or installed.
    #[error("seccomp: {0}")]
    Seccomp(String),
}
