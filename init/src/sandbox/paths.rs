//! Paths, by landlock: what is not named here cannot be opened, whatever its mode says.

use std::{
    fs::DirBuilder,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, chown},
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::SandboxError;

/// The landlock version relied on: 6 (Linux 6.12) also keeps signals and abstract sockets inside.
const VERSION: ABI = ABI::V6;

/// What every service may read.
const EVERYBODY_READS: &[&str] = &[
    "/proc/self",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/stat",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/random",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/usr/lib/os-release",
    "/dev/urandom",
    "/dev/random",
];

/// What every service may read and write: devices without content. Bus sockets need no entry:
/// connecting to a socket is a matter of its owner and mode.
const EVERYBODY_WRITES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full"];

/// The paths of one service.
#[derive(Clone, Debug, Default)]
pub struct PathRules {
    /// To be read; a missing one gives no right.
    pub read: Vec<PathBuf>,
    /// To be read and written; missing folders below /run and /sys/fs/bpf are made.
    pub write: Vec<PathBuf>,
    /// Owner of the folders that are made.
    pub owner: u32,
}

/// Confines this process and all its children to `rules`, to connecting and listening only with
/// the sockets' own permissions, and to signalling only itself. No TCP port can be bound: sockets
/// that listen come from init.
///
/// # Errors
/// If the kernel cannot enforce all of it; there is no weaker mode.
pub fn confine_paths(rules: &PathRules) -> Result<(), SandboxError> {
    for path in &rules.write {
        make_runtime_folder(path, rules.owner)?;
    }
    enforce(rules).map_err(SandboxError::Landlock)
}

fn enforce(rules: &PathRules) -> Result<(), String> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // Everything but executing and making devices: no service has a reason for either.
    let write = (AccessFs::from_all(VERSION) & !BitFlags::from(AccessFs::Execute))
        & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(VERSION))
        .and_then(|r| r.handle_access(AccessNet::BindTcp))
        .and_then(|r| r.scope(Scope::from_all(VERSION)))
        .and_then(|r| r.create())
        .map_err(|e| e.to_string())?;
    let reads =
        EVERYBODY_READS.iter().map(Path::new).chain(rules.read.iter().map(PathBuf::as_path));
    let writes =
        EVERYBODY_WRITES.iter().map(Path::new).chain(rules.write.iter().map(PathBuf::as_path));
    let all = reads.map(|p| (p, read)).chain(writes.map(|p| (p, write)));
    for (path, access) in all {
        let Some(handle) = open(path)? else { continue };
        // Rights of folders do not apply to files; landlock refuses such rules.
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(VERSION) };
        ruleset = ruleset
            .add_rule(PathBeneath::new(handle, access))
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let status = ruleset.restrict_self().map_err(|e| e.to_string())?;
    if status.ruleset == RulesetStatus::FullyEnforced {
        Ok(())
    } else {
        Err(format!("only {:?}", status.ruleset))
    }
}

/// A path that does not exist gives no right: not every kernel and machine has all of them.
fn open(path: &Path) -> Result<Option<PathFd>, String> {
    match path.try_exists() {
        Ok(true) => PathFd::new(path).map(Some).map_err(|e| format!("{}: {e}", path.display())),
        Ok(false) => {
            tracing::debug!(path = %path.display(), "path of the manifest does not exist");
            Ok(None)
        }
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

fn make_runtime_folder(path: &Path, owner: u32) -> Result<(), SandboxError> {
    if path.exists() || !(path.starts_with("/run") || path.starts_with("/sys/fs/bpf")) {
        return Ok(());
    }
    let failed =
        |e: std::io::Error| SandboxError::Path { path: path.to_owned(), message: e.to_string() };
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    chown(path, Some(owner), Some(owner)).map_err(failed)
}
