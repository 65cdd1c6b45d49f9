//! `portcullis launch NAME`: from a process that init has just started as root to the service,
//! confined to what its manifest says, without executing anything in between.

use std::{collections::BTreeSet, ffi::OsStr, path::PathBuf, process::ExitCode};

use rustix::{
    fs::Mode,
    process::{Resource, Rlimit, ioctl_tiocsctty, setrlimit, setsid, umask},
};

use crate::{
    manifest::{self, INIT, Manifest},
    places::Places,
    sandbox::{self, Identity, PathRules, SandboxError},
};

/// A service's main function.
pub type ServiceMain = fn() -> ExitCode;

/// Most open files of a service.
const OPEN_FILES: u64 = 4096;

/// Why a service could not be launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Nothing of this name in the image.
    #[error("no service `{name}`; there are: {known}")]
    Unknown {
        /// As asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Its cgroup cannot be joined.
    #[error("cgroup {path}: {source}")]
    Cgroup {
        /// Folder of the cgroup.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Limits, session or terminal.
    #[error("{what}: {source}")]
    Process {
        /// Which step.
        what: &'static str,
        /// What the kernel said.
        source: rustix::io::Errno,
    },
    /// The process could not be confined.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// Confines this process to `name`'s manifest of the image and runs `main` in it. Does not return
/// to root: the process ends with what `main` returns.
pub fn launch(name: &OsStr, main: impl FnOnce(&str) -> Option<ServiceMain>) -> ExitCode {
    let outcome = manifest::built_in()
        .map_err(|problems| problems.iter().map(|p| format!("{p}; ")).collect::<String>())
        .and_then(|manifests| {
            let (manifest, main) = find(&manifests, &name.to_string_lossy(), main)
                .map_err(|error| error.to_string())?;
            confine(manifest, &manifests, &Places::appliance()).map_err(|e| e.to_string())?;
            Ok(main)
        });
    match outcome {
        Ok(main) => main(),
        Err(error) => {
            complain(&format!("cannot launch {}: {error}", name.to_string_lossy()));
            ExitCode::from(crate::supervisor::EXIT_LAUNCH)
        }
    }
}

/// The service's own log is not set up yet: a record as init reads them from standard error.
fn complain(message: &str) {
    use std::io::Write;
    let record = serde_json::json!({ "level": "ERROR", "message": message });
    let _ = std::io::stderr().write_all(format!("{record}\n").as_bytes());
}

fn find<'a>(
    manifests: &'a [Manifest],
    name: &str,
    main: impl FnOnce(&str) -> Option<ServiceMain>,
) -> Result<(&'a Manifest, ServiceMain), LaunchError> {
    let manifest = manifests.iter().find(|m| m.name == name);
    manifest.and_then(|manifest| Some((manifest, main(name)?))).ok_or_else(|| {
        LaunchError::Unknown {
            name: name.to_owned(),
            known: manifests.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "),
        }
    })
}

/// Turns this process, which must be root's and have one thread, into the service of `manifest`.
///
/// # Errors
/// The step that failed; the process must end then.
pub fn confine(
    manifest: &Manifest,
    manifests: &[Manifest],
    places: &Places,
) -> Result<(), LaunchError> {
    if let Some(path) = places.service_cgroup(&manifest.name) {
        std::fs::write(path.join("cgroup.procs"), "0")
            .map_err(|source| LaunchError::Cgroup { path, source })?;
    }
    let step = |what| move |source| LaunchError::Process { what, source };
    setsid().map_err(step("new session"))?;
    if manifest.console {
        // A failure leaves the console without job control, which it does not use.
        let _ = ioctl_tiocsctty(std::io::stdin());
    }
    umask(Mode::RWXG | Mode::RWXO);
    limit(Resource::Nofile, OPEN_FILES).map_err(step("limit of open files"))?;
    limit(Resource::Core, 0).map_err(step("limit of core dumps"))?;
    claim_sockets();

    sandbox::confine_paths(&path_rules(manifest, places))?;
    sandbox::drop_privileges(&Identity {
        user: manifest.user,
        groups: groups(manifest, manifests),
        capabilities: manifest.capabilities,
    })?;
    sandbox::confine_system_calls(&manifest.system_calls)?;
    Ok(())
}

fn limit(resource: Resource, most: u64) -> rustix::io::Result<()> {
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
}

/// Completes the socket hand-over: LISTEN_PID, which init could not know before the process was.
fn claim_sockets() {
    // SAFETY: the process has one thread; nobody else reads the environment.
    unsafe { std::env::set_var("LISTEN_PID", std::process::id().to_string()) };
}

fn path_rules(manifest: &Manifest, places: &Places) -> PathRules {
    let mut write = manifest.write.clone();
    if manifest.state {
        write.push(places.state(&manifest.name));
    }
    PathRules { read: manifest.read.clone(), write, owner: manifest.user }
}

/// Groups that open the bus sockets of all whom it calls.
fn groups(manifest: &Manifest, manifests: &[Manifest]) -> Vec<u32> {
    let groups: BTreeSet<u32> = manifest
        .calls
        .iter()
        .filter_map(|callee| {
            debug_assert!(callee == INIT || manifests.iter().any(|m| m.name == *callee));
            manifest::bus_group(manifests, callee)
        })
        .collect();
    groups.into_iter().collect()
}
