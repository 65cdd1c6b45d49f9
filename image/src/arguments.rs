//! What the command line says.

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use portcullis_bundle::Version;
use portcullis_image::architecture::{self, Architecture, X86_64};
use portcullis_image::cache::Cache;
use portcullis_image::pipeline::{self, BaseKind};
use portcullis_image::{buildroot, key};
use std::env;
use std::path::{Path, PathBuf};

/// Builds the Portcullis appliance: a disk image, a slot blob and a bill of materials.
///
/// Needs neither root nor loop devices. Everything that takes long is kept in $XDG_CACHE_HOME/portcullis (by default
/// ~/.cache/portcullis) under a hash of what it was made from. The same inputs give the same bytes.
#[derive(Parser)]
#[command(version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Build everything: portcullis.raw, portcullis.qcow2, portcullis.slot, size.json and sbom.json
    Build(Box<Build>),
    /// Build a signed release: blob, disks, bill of materials, licences, checksums
    Release(Box<MakeRelease>),
    /// Collect the licences of all that is in the image
    LegalInfo(LegalInfo),
    /// Show two size reports, and boot times measured by the benchmark, side by side
    Compare(Compare),
    /// Run the pinned Buildroot: BUILDROOT_DIR, or fetched; BR2_DL_DIR, BR2_PRIMARY_SITE and the like are respected
    Buildroot(RunBuildroot),
    /// Build our programs alone and print where they are in the cache
    Programs(Programs),
    /// List the kernel modules of the image, with their sizes in bytes
    Modules(Modules),
    /// Write the base debian as Buildroot hands over its own, for tests of what comes after it
    LayOutBase(LayOutBase),
    /// Make an Ed25519 key to sign slots with, and print its public half
    Keygen(Keygen),
    /// Print the size report of the last build
    Size(Size),
    /// Show what is in a slot blob or raw disk image, and check every byte against its signature
    Inspect(Inspect),
}

#[derive(Args)]
pub struct Checkout {
    /// Top folder of the checkout; by default the one around the working folder
    #[arg(long, value_name = "FOLDER")]
    pub checkout: Option<PathBuf>,
}

#[derive(Args)]
pub struct Keys {
    /// Private Ed25519 key in PKCS#8 PEM; by default this user's development key, made at first use
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// A further public key to trust, 64 hexadecimal digits; may be given several times
    #[arg(long, value_name = "HEX", value_parser = key::parse_public)]
    pub trust: Vec<[u8; 32]>,
}

#[derive(Args)]
pub struct Profile {
    /// Cargo profile: release for what is shipped, image-dev for a quick build while developing
    #[arg(long, env = "PORTCULLIS_IMAGE_PROFILE", default_value = pipeline::SHIPPED_PROFILE)]
    pub profile: String,
}

#[derive(Args)]
pub struct Build {
    #[command(flatten)]
    pub checkout: Checkout,
    #[command(flatten)]
    pub base: Base,
    /// Output folder; by default target/image in the checkout, or target/image-buildroot for that base
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Version of the image; by default the workspace's with the commit, as in 0.1.0+g0123456789ab
    #[arg(long = "image-version", visible_alias = "set-version", value_name = "VERSION")]
    pub version: Option<Version>,
    /// The oldest version that a device running this image may install
    #[arg(long, value_name = "VERSION")]
    pub min_version: Option<Version>,
    #[command(flatten)]
    pub keys: Keys,
    #[command(flatten)]
    pub profile: Profile,
}

#[derive(Args)]
pub struct Base {
    /// Where kernel, modules and EFI stub come from
    #[arg(long = "base", value_enum, default_value_t = BaseName::Debian)]
    pub name: BaseName,
    /// Output folder of Buildroot; by default target/buildroot/ARCHITECTURE in the checkout
    #[arg(long, value_name = "FOLDER", env = "BUILDROOT_OUTPUT")]
    pub buildroot_output: Option<PathBuf>,
    /// Take what Buildroot has handed over in this folder (images/portcullis-base) instead of running it
    #[arg(long, value_name = "FOLDER")]
    pub base_folder: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BaseName {
    /// The prebuilt 6.12 kernel of the host's Debian release
    Debian,
    /// Our own kernel, built by the pinned Buildroot
    Buildroot,
}

#[derive(Args)]
pub struct MakeRelease {
    #[command(flatten)]
    pub checkout: Checkout,
    #[command(flatten)]
    pub base: Base,
    /// Its version, Semantic Versioning 2.0.0
    pub version: String,
    /// The oldest version that a device running this release may install; the release must be newer
    #[arg(long, value_name = "VERSION")]
    pub min_version: Option<String>,
    /// Private Ed25519 key in PKCS#8 PEM
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// A further public key that devices shall trust, 64 hexadecimal digits; may be given several times
    #[arg(long, value_name = "HEX", value_parser = key::parse_public)]
    pub trust: Vec<[u8; 32]>,
    /// Allow BR2_PACKAGE_OVERRIDE_FILE
    #[arg(long)]
    pub allow_overrides: bool,
    /// Folder of releases; by default target/releases in the checkout
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
}

#[derive(Args)]
pub struct LegalInfo {
    #[command(flatten)]
    pub checkout: Checkout,
    #[command(flatten)]
    pub base: Base,
    /// The folder to write
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
}

#[derive(Args)]
pub struct Compare {
    /// Output folders of two builds
    #[arg(num_args = 2, required = true, value_name = "FOLDER")]
    pub images: Vec<PathBuf>,
    /// Folder with boot.json of each base in a folder named as it
    #[arg(long, value_name = "FOLDER")]
    pub bench: Option<PathBuf>,
    /// Write the table as JSON as well
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Args)]
pub struct RunBuildroot {
    #[command(flatten)]
    pub checkout: Checkout,
    /// Output folder of Buildroot; by default target/buildroot/ARCHITECTURE in the checkout
    #[arg(long, value_name = "FOLDER", env = "BUILDROOT_OUTPUT")]
    pub buildroot_output: Option<PathBuf>,
    /// The processor to build for: x86_64 or aarch64 (of which there is no image yet)
    #[arg(long, value_name = "NAME", default_value = X86_64.name, value_parser = architecture::by_name)]
    pub architecture: &'static Architecture,
    /// What to make: nothing for everything, source for the downloads, legal-info, linux-rebuild, ...
    pub targets: Vec<String>,
}

#[derive(Args)]
pub struct Programs {
    #[command(flatten)]
    pub checkout: Checkout,
    #[command(flatten)]
    pub keys: Keys,
    #[command(flatten)]
    pub profile: Profile,
}

#[derive(Args)]
pub struct Modules {
    #[command(flatten)]
    pub checkout: Checkout,
}

#[derive(Args)]
pub struct LayOutBase {
    /// The folder to write
    pub folder: PathBuf,
    #[command(flatten)]
    pub checkout: Checkout,
}

#[derive(Args)]
pub struct Keygen {
    /// Where to write the private key; an existing file is never overwritten
    pub file: PathBuf,
}

#[derive(Args)]
pub struct Size {
    /// Output folder of the build; by default target/image in the checkout
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub checkout: Checkout,
}

#[derive(Args)]
pub struct Inspect {
    /// A portcullis.slot or portcullis.raw, or the disk itself
    pub file: PathBuf,
    #[command(flatten)]
    pub keys: Keys,
}

impl Keys {
    /// The public half of the signing key, and the further ones.
    pub fn trusted(&self, cache: &Cache) -> Result<Vec<[u8; 32]>> {
        let mut trusted = self.trust.clone();
        if self.key.is_some() || trusted.is_empty() {
            trusted.insert(0, *key::load(self.key.as_deref(), cache)?.verifying_key().as_bytes());
        }
        Ok(trusted)
    }
}

impl Checkout {
    pub fn folder(&self) -> Result<PathBuf> {
        let start = match &self.checkout {
            Some(folder) => {
                folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?
            }
            None => env::current_dir()?,
        };
        match start.ancestors().find(|folder| folder.join("image/modules.list").exists()) {
            Some(folder) => Ok(folder.to_owned()),
            None => bail!(
                "{} is not in a checkout of Portcullis; give one with --checkout",
                start.display()
            ),
        }
    }
}

impl Base {
    pub fn kind(self, checkout: &Path) -> Result<BaseKind> {
        match (self.name, self.base_folder) {
            (BaseName::Debian, None) => Ok(BaseKind::Debian),
            (BaseName::Debian, Some(_)) => bail!("--base-folder needs --base buildroot"),
            (BaseName::Buildroot, Some(folder)) => Ok(BaseKind::Folder(folder)),
            (BaseName::Buildroot, None) => {
                let output = buildroot_output(self.buildroot_output, checkout, &X86_64)?;
                Ok(BaseKind::Buildroot { output })
            }
        }
    }
}

/// Where Buildroot builds: absolute, since it is called in its own folder.
pub fn buildroot_output(
    given: Option<PathBuf>,
    checkout: &Path,
    architecture: &Architecture,
) -> Result<PathBuf> {
    let folder = given.unwrap_or_else(|| buildroot::default_output(checkout, architecture));
    Ok(std::path::absolute(folder)?)
}

/// Each base has a folder of its own, so that neither image overwrites the other.
pub fn default_out(checkout: &Path, base: &str) -> PathBuf {
    let folder = match base {
        "debian" => "target/image".to_owned(),
        other => format!("target/image-{other}"),
    };
    checkout.join(folder)
}
