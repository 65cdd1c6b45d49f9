//! Where things are: the one list of paths that parts of init share with each other, with the
//! services and with the image.

use std::path::{Path, PathBuf};

/// Folders of a run: the appliance's, or a test's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Places {
    /// Persistent files; one folder per service.
    pub data: PathBuf,
    /// Sockets and other things that end with the run.
    pub run: PathBuf,
    /// Parent of the services' cgroups; none where there are no cgroups of version 2.
    pub cgroup: Option<PathBuf>,
}

impl Places {
    /// Those of the appliance.
    pub fn appliance() -> Self {
        Self {
            data: PathBuf::from("/data"),
            run: PathBuf::from("/run/portcullis"),
            cgroup: Some(PathBuf::from("/sys/fs/cgroup/services")),
        }
    }

    /// Folder of the bus sockets.
    pub fn bus(&self) -> PathBuf {
        self.run.join("bus")
    }

    /// Bus socket of `service`.
    pub fn bus_socket(&self, service: &str) -> PathBuf {
        self.bus().join(format!("{service}.sock"))
    }

    /// Socket on which `service` says that it is ready and alive.
    pub fn notify_socket(&self, service: &str) -> PathBuf {
        self.run.join("notify").join(format!("{service}.sock"))
    }

    /// Persistent folder of `service`.
    pub fn state(&self, service: &str) -> PathBuf {
        self.data.join(service)
    }

    /// Cgroup of `service`.
    pub fn service_cgroup(&self, service: &str) -> Option<PathBuf> {
        self.cgroup.as_ref().map(|parent| parent.join(service))
    }
}

/// The one program of the image.
pub const PROGRAM: &str = "/usr/bin/portcullis";

/// Kernel modules, with modules.dep and modules.alias, below a folder named as the kernel release.
pub const MODULES: &str = "/usr/lib/modules";

/// Version and build time of the image (os-release(5)).
pub const OS_RELEASE: &str = "/usr/lib/os-release";

/// The file system that a new data partition starts as.
pub const DATA_TEMPLATE: &str = "/usr/lib/portcullis/data.ext4";

/// Init's own folder on the data partition.
pub const INIT_STATE: &str = "/data/init";

/// Documents that the config service has stored: with one of them this is not the first boot.
pub const CONFIGURATIONS: [&str; 2] = ["/data/config/config.toml", "/data/config/last-good.toml"];

/// What stage one found out, for stage two.
pub const HANDOVER: &str = "/run/portcullis/stage-one.json";

/// Whether `path` is mounted, by its device number differing from its parent's.
pub fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    match (device(path), path.parent().and_then(device)) {
        (Some(own), Some(parent)) => own != parent,
        _ => false,
    }
}
