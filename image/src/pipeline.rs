//! The whole build, from the checkout to the files in the output folder.

use crate::architecture::{Architecture, X86_64};
use crate::assemble::{self, Parts};
use crate::base::{self, Base};
use crate::buildroot::{self, Buildroot};
use crate::cache::Cache;
use crate::compile::{Compiler, Program};
use crate::progress::{note, stage};
use crate::size::Report;
use crate::tool::Tools;
use crate::{disk, key, linked, output, qcow2, sbom, sources, version};
use anyhow::{Context, Result, bail};
use portcullis_bundle::Version;
use std::fs;
use std::path::{Path, PathBuf};

/// The disk image as it is written to a disk.
pub const RAW: &str = "portcullis.raw";
/// The disk image for QEMU.
pub const QCOW2: &str = "portcullis.qcow2";
/// The slot blob, as an update has it.
pub const SLOT: &str = "portcullis.slot";
/// Size by component.
pub const SIZE: &str = "size.json";
/// Software bill of materials.
pub const SBOM: &str = "sbom.json";

/// The Cargo profile of what is shipped.
pub const SHIPPED_PROFILE: &str = "release";

/// Where kernel, modules and stub come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseKind {
    /// The prebuilt kernel of the host's Debian release.
    Debian,
    /// Buildroot, run as far as its output folder is not finished.
    Buildroot {
        /// Its output folder.
        output: PathBuf,
    },
    /// What a Buildroot has handed over in this folder before.
    Folder(PathBuf),
}

impl BaseKind {
    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Buildroot { .. } | Self::Folder(_) => "buildroot",
        }
    }

    /// Gets it, with the programs that it brings for the work that follows.
    fn load(&self, options: &Options, architecture: &Architecture) -> Result<(Base, Tools)> {
        let Options { checkout, cache, .. } = options;
        let list = modules_list(checkout)?;
        match self {
            Self::Debian => Ok((base::debian::load(architecture, cache, &list)?, Tools::default())),
            Self::Buildroot { output } => {
                let buildroot = Buildroot::open(checkout, architecture, output.clone(), cache)?;
                stage("Buildroot", || buildroot.make.run(&buildroot::everything()))?;
                let pin = &buildroot.pinned.pin;
                let mut base = base::buildroot::load(architecture, &buildroot.base(), pin, &list)?;
                let info = stage("packages (show-info)", || buildroot.make.show_info())?;
                base.built_by = sbom::build_tools(&info, &base.origins)?;
                Ok((base, Tools { folders: buildroot.host_tools() }))
            }
            Self::Folder(folder) => {
                let pinned = buildroot::pin::read(&checkout.join("buildroot"))?;
                let base = base::buildroot::load(architecture, folder, &pinned.pin, &list)?;
                Ok((base, Tools::default()))
            }
        }
    }
}

/// What to build and where to put it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Top folder of the checkout.
    pub checkout: PathBuf,
    /// Output folder.
    pub out: PathBuf,
    /// The base to use.
    pub base: BaseKind,
    /// Version of the image; by default from the workspace and the commit.
    pub version: Option<Version>,
    /// The oldest version that may be installed over this one.
    pub min_version: Option<Version>,
    /// Private key; by default this user's development key.
    pub key: Option<PathBuf>,
    /// Public keys that the boot manager trusts besides that one.
    pub trust: Vec<[u8; 32]>,
    /// Cargo profile.
    pub profile: String,
    /// Where intermediate results are kept.
    pub cache: Cache,
}

impl Options {
    /// What is built when nothing more is said: on Debian's kernel, into no place yet.
    pub fn plain(checkout: PathBuf, cache: Cache, key: Option<PathBuf>) -> Self {
        Self {
            checkout,
            out: PathBuf::new(),
            base: BaseKind::Debian,
            version: None,
            min_version: None,
            key,
            trust: Vec::new(),
            profile: SHIPPED_PROFILE.to_owned(),
            cache,
        }
    }
}

/// Builds everything and gives the size report.
///
/// # Errors
/// When a tool is missing, a stage fails or a component is heavier than its bound; the message names the stage.
pub fn build(options: &Options) -> Result<Report> {
    let architecture = &X86_64;
    let commit = version::commit(&options.checkout)?;
    let metadata = stage("workspace (cargo metadata)", || {
        sources::metadata(&options.checkout, architecture.linux_target)
    })?;
    let workspace_version = workspace_version(&metadata)?;
    let version = match options.version {
        Some(version) => version,
        None => version::version(&workspace_version, commit.as_ref())?,
    };
    let epoch = version::epoch(commit.as_ref())?;
    note(&format!("Portcullis {version}"));

    let signing_key = key::load(options.key.as_deref(), &options.cache)?;
    let mut trusted = vec![*signing_key.verifying_key().as_bytes()];
    trusted.extend(&options.trust);

    let (base, tools) = options.base.load(options, architecture)?;
    let compiler = Compiler {
        checkout: &options.checkout,
        metadata: &metadata,
        architecture,
        profile: &options.profile,
        trusted: &trusted,
        cache: &options.cache,
    };
    let boot_manager = stage("boot manager (UEFI)", || compiler.program(Program::BootManager))?;
    let stage_one = stage("stage one (static)", || compiler.program(Program::StageOne))?;
    let program = stage("multi-call binary (static)", || compiler.program(Program::Portcullis))?;

    let parts = Parts {
        architecture,
        tools,
        base,
        program,
        stage_one,
        boot_manager,
        version,
        min_version: options.min_version,
        epoch,
    };
    let assembly = assemble::assemble(&parts, &signing_key)?;

    let summary = &assembly.slot.summary;
    let report = Report::of(
        version.as_str(),
        options.base.name(),
        &parts.base,
        &assembly,
        &parts.boot_manager,
    );
    let bill = stage("bill of materials (CycloneDX)", || {
        let mut origins = parts.base.origins.clone();
        origins.extend(linked::origins(&options.checkout, architecture)?);
        sbom::build(
            &options.checkout,
            architecture,
            &origins,
            version.as_str(),
            &parts.base.built_by,
            &summary.sha256,
        )
    })?;
    write(&options.out, &assembly, &report, &bill)?;
    if let Some(heavy) = report.too_heavy().first() {
        let message = format!(
            "{} has {} bytes, more than its bound of {}",
            heavy.name,
            heavy.bytes,
            heavy.bound.unwrap_or_default()
        );
        // The bounds are those of what is shipped; other profiles trade size for a quick build.
        if options.profile == SHIPPED_PROFILE {
            bail!("{message}");
        }
        note(&format!("{message}; the profile {} may", options.profile));
    }
    Ok(report)
}

/// Writes all output files; each appears whole or not at all.
fn write(out: &Path, assembly: &assemble::Assembly, report: &Report, bill: &[u8]) -> Result<()> {
    let raw = out.join(RAW);
    stage("disk image (raw)", || {
        output::write_with(&raw, |file| disk::write(file, &assembly.esp, &assembly.slot.blob))
    })?;
    stage("disk image (qcow2)", || {
        output::write_with(&out.join(QCOW2), |file| qcow2::convert(&raw, file))
    })?;
    output::write(&out.join(SLOT), &assembly.slot.blob)?;
    let mut size = serde_json::to_vec_pretty(report)?;
    size.push(b'\n');
    output::write(&out.join(SIZE), &size)?;
    output::write(&out.join(SBOM), bill)
}

/// The text of `modules.list`.
///
/// # Errors
/// When it cannot be read.
pub fn modules_list(checkout: &Path) -> Result<String> {
    let path = checkout.join("image/modules.list");
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn workspace_version(metadata: &cargo_metadata::Metadata) -> Result<String> {
    let package = metadata
        .workspace_packages()
        .into_iter()
        .find(|package| package.name.as_str() == "portcullis");
    Ok(package.context("the workspace has no package portcullis")?.version.to_string())
}
