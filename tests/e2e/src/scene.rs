//! What a story plays in: a lab around a fresh disk.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use portcullis_qemu::{Disk, Host, Lab, Scratch, Vm};
use serde_json::Value;

/// Size of the appliance's disk.
const DISK_MIB: u64 = 1280;

/// Makes scenes from one image.
pub struct Stage {
    image: PathBuf,
    base: String,
}

/// A lab with a disk of its own.
pub struct Scene {
    /// The lab; the appliance is off unless the story shares the scene.
    pub lab: Lab,
    /// The image that the disk was made from.
    pub image: PathBuf,
    /// The base that the image was built on.
    pub base: String,
    folder: Scratch,
}

impl Stage {
    pub fn new(image: &Path, base: &str) -> Result<Self> {
        ensure!(image.exists(), "{} does not exist: run `make image` first", image.display());
        Ok(Self { image: image.to_owned(), base: base.to_owned() })
    }

    pub fn scene(&self) -> Result<Scene> {
        let folder = Scratch::new("e2e")?;
        let disk = Disk::overlay(&self.image, &folder.path().join("disk.qcow2"), Some(DISK_MIB))?;
        let lab = Lab::new(folder.path(), disk)?;
        Ok(Scene { lab, image: self.image.clone(), base: self.base.clone(), folder })
    }
}

impl Scene {
    /// The first LAN host.
    pub fn host(&self) -> &Host {
        &self.lab.hosts[0]
    }

    /// The second LAN host.
    pub fn second_host(&self) -> &Host {
        &self.lab.hosts[1]
    }

    /// Replaces the disk by a raw copy that the story changes itself while the power is off.
    pub fn use_raw_disk(&mut self) -> Result<PathBuf> {
        let path = self.folder.path().join("disk.raw");
        let disk = Disk::raw_copy(&self.image, &path, Some(DISK_MIB))?;
        self.lab = Lab::new(self.folder.path(), disk)?;
        Ok(path)
    }

    /// Replaces the disk by one made from another image while the power is off.
    pub fn use_image(&mut self, image: &Path) -> Result<()> {
        let path = self.folder.path().join("other.qcow2");
        self.lab = Lab::new(self.folder.path(), Disk::overlay(image, &path, Some(DISK_MIB))?)?;
        Ok(())
    }

    /// Has `check` look at the router with this document in force, and puts the defaults in force
    /// again for the stories that follow, whatever comes out.
    ///
    /// # Errors
    /// What `check` found, with what the command that applied the document said.
    pub fn under(&self, document: &str, check: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let said = self.lab.pctl_with_document("config apply -", document)?;
        let outcome = check(self);
        let restored = self.lab.pctl_with_document("config apply -", "version = 1\n");
        outcome.with_context(|| format!("apply said:\n{said}"))?;
        restored.map(drop)
    }

    /// A folder for files of the story.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The services as the status page shows them.
    pub fn services(&self) -> Result<Vec<Value>> {
        let status = self.host().status()?;
        let services = status.pointer("/services").and_then(Value::as_array);
        services.cloned().with_context(|| format!("no services in {status:#}"))
    }

    /// A service as the status page shows it.
    pub fn service(&self, name: &str) -> Result<Value> {
        let services = self.services()?;
        let named = |service: &&Value| service.get("name").and_then(Value::as_str) == Some(name);
        services.iter().find(named).cloned().with_context(|| format!("no service {name}"))
    }

    /// Process id of a service that is ready.
    pub fn pid(&self, name: &str) -> Result<u64> {
        let service = self.service(name)?;
        let state = service.get("state").and_then(Value::as_str).unwrap_or_default();
        ensure!(state == "ready", "{name} is {state}");
        service.get("pid").and_then(Value::as_u64).with_context(|| format!("no process of {name}"))
    }

    /// What is wrong with the machine itself, if something is.
    pub fn trouble(&mut self) -> Option<String> {
        self.lab.vm().ok().and_then(Vm::trouble)
    }
}

/// Copies the logs of a scene, from its folder.
pub fn keep_logs(scene: &Path, folder: &Path) {
    let _ = std::fs::create_dir_all(folder);
    for name in ["console-before.log", "console.log", "provider.log", "qemu.log"] {
        let _ = std::fs::copy(scene.join(name), folder.join(name));
    }
}
