//! `portcullis-image`: the command line of the image builder.

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use portcullis_bundle::{Version, key_id};
use portcullis_image::architecture::{self, Architecture, X86_64};
use portcullis_image::buildroot::{self, Buildroot};
use portcullis_image::cache::Cache;
use portcullis_image::compile::{Compiler, Program};
use portcullis_image::pipeline::{self, BaseKind, Options};
use portcullis_image::release::{self, Release};
use portcullis_image::{base, compare, inspect, key, legal, output, sources};
use std::env;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Builds the Portcullis appliance: a disk image, a slot blob and a bill of materials.
///
/// Needs neither root nor loop devices. Everything that takes long is kept in $XDG_CACHE_HOME/portcullis (by default
/// ~/.cache/portcullis) under a hash of what it was made from. The same inputs give the same bytes.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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
struct Checkout {
    /// Top folder of the checkout; by default the one around the working folder
    #[arg(long, value_name = "FOLDER")]
    checkout: Option<PathBuf>,
}

#[derive(Args)]
struct Keys {
    /// Private Ed25519 key in PKCS#8 PEM; by default this user's development key, made at first use
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A further public key to trust, 64 hexadecimal digits; may be given several times
    #[arg(long, value_name = "HEX", value_parser = key::parse_public)]
    trust: Vec<[u8; 32]>,
}

#[derive(Args)]
struct Profile {
    /// Cargo profile: release for what is shipped, image-dev for a quick build while developing
    #[arg(long, env = "PORTCULLIS_IMAGE_PROFILE", default_value = pipeline::SHIPPED_PROFILE)]
    profile: String,
}

#[derive(Args)]
struct Build {
    #[command(flatten)]
    checkout: Checkout,
    #[command(flatten)]
    base: Base,
    /// Output folder; by default target/image in the checkout, or target/image-buildroot for that base
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Version of the image; by default the workspace's with the commit, as in 0.1.0+g0123456789ab
    #[arg(long = "image-version", visible_alias = "set-version", value_name = "VERSION")]
    version: Option<Version>,
    /// The oldest version that a device running this image may install
    #[arg(long, value_name = "VERSION")]
    min_version: Option<Version>,
    #[command(flatten)]
    keys: Keys,
    #[command(flatten)]
    profile: Profile,
}

#[derive(Args)]
struct Base {
    /// Where kernel, modules and EFI stub come from
    #[arg(long = "base", value_enum, default_value_t = BaseName::Debian)]
    name: BaseName,
    /// Output folder of Buildroot; by default target/buildroot/ARCHITECTURE in the checkout
    #[arg(long, value_name = "FOLDER", env = "BUILDROOT_OUTPUT")]
    buildroot_output: Option<PathBuf>,
    /// Take what Buildroot has handed over in this folder (images/portcullis-base) instead of running it
    #[arg(long, value_name = "FOLDER", conflicts_with = "buildroot_output")]
    base_folder: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BaseName {
    /// The prebuilt 6.12 kernel of the host's Debian release
    Debian,
    /// Our own kernel, built by the pinned Buildroot
    Buildroot,
}

#[derive(Args)]
struct MakeRelease {
    #[command(flatten)]
    checkout: Checkout,
    #[command(flatten)]
    base: Base,
    /// Its version, Semantic Versioning 2.0.0
    version: String,
    /// The oldest version that a device running this release may install; the release must be newer
    #[arg(long, value_name = "VERSION")]
    min_version: Option<String>,
    /// Private Ed25519 key in PKCS#8 PEM
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A further public key that devices shall trust, 64 hexadecimal digits; may be given several times
    #[arg(long, value_name = "HEX", value_parser = key::parse_public)]
    trust: Vec<[u8; 32]>,
    /// Allow BR2_PACKAGE_OVERRIDE_FILE
    #[arg(long)]
    allow_overrides: bool,
    /// Folder of releases; by default target/releases in the checkout
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

#[derive(Args)]
struct LegalInfo {
    #[command(flatten)]
    checkout: Checkout,
    #[command(flatten)]
    base: Base,
    /// The folder to write
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

#[derive(Args)]
struct Compare {
    /// Output folders of two builds
    #[arg(num_args = 2, required = true, value_name = "FOLDER")]
    images: Vec<PathBuf>,
    /// Folder with boot.json of each base in a folder named as it
    #[arg(long, value_name = "FOLDER")]
    bench: Option<PathBuf>,
    /// Write the table as JSON as well
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Args)]
struct RunBuildroot {
    #[command(flatten)]
    checkout: Checkout,
    /// Output folder of Buildroot; by default target/buildroot/ARCHITECTURE in the checkout
    #[arg(long, value_name = "FOLDER", env = "BUILDROOT_OUTPUT")]
    buildroot_output: Option<PathBuf>,
    /// The processor to build for: x86_64 or aarch64 (of which there is no image yet)
    #[arg(long, value_name = "NAME", default_value = X86_64.name, value_parser = architecture::by_name)]
    architecture: &'static Architecture,
    /// What to make: nothing for everything, source for the downloads, legal-info, linux-rebuild, ...
    targets: Vec<String>,
}

#[derive(Args)]
struct Programs {
    #[command(flatten)]
    checkout: Checkout,
    #[command(flatten)]
    keys: Keys,
    #[command(flatten)]
    profile: Profile,
}

#[derive(Args)]
struct Modules {
    #[command(flatten)]
    checkout: Checkout,
}

#[derive(Args)]
struct LayOutBase {
    /// The folder to write
    folder: PathBuf,
    #[command(flatten)]
    checkout: Checkout,
}

#[derive(Args)]
struct Keygen {
    /// Where to write the private key; an existing file is never overwritten
    file: PathBuf,
}

#[derive(Args)]
struct Size {
    /// Output folder of the build; by default target/image in the checkout
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    #[command(flatten)]
    checkout: Checkout,
}

#[derive(Args)]
struct Inspect {
    /// A portcullis.slot or portcullis.raw, or the disk itself
    file: PathBuf,
    #[command(flatten)]
    keys: Keys,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "image: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Build(arguments) => build(*arguments),
        Command::Release(arguments) => make_release(*arguments),
        Command::LegalInfo(arguments) => legal_info(arguments),
        Command::Compare(arguments) => compare(&arguments),
        Command::Buildroot(arguments) => run_buildroot(arguments),
        Command::Programs(arguments) => programs(&arguments),
        Command::Modules(arguments) => modules(&arguments),
        Command::LayOutBase(arguments) => lay_out_base(&arguments),
        Command::Keygen(arguments) => keygen(&arguments.file),
        Command::Size(arguments) => size(&arguments),
        Command::Inspect(arguments) => inspect_file(&arguments),
    }
}

fn build(arguments: Build) -> Result<()> {
    let checkout = arguments.checkout.folder()?;
    let base = arguments.base.kind(&checkout)?;
    let out = arguments.out.unwrap_or_else(|| default_out(&checkout, base.name()));
    let options = Options {
        base,
        version: arguments.version,
        min_version: arguments.min_version,
        key: arguments.keys.key,
        trust: arguments.keys.trust,
        profile: arguments.profile.profile,
        cache: Cache::of_user()?,
        checkout,
        out,
    };
    let report = pipeline::build(&options)?;
    write!(io::stdout(), "{}", report.table())?;
    writeln!(io::stdout(), "output in {}", options.out.display())?;
    Ok(())
}

fn make_release(arguments: MakeRelease) -> Result<()> {
    let checkout = arguments.checkout.folder()?;
    let folder = arguments.out.unwrap_or_else(|| checkout.join("target/releases"));
    let folder = release::make(&Release {
        version: arguments.version,
        min_version: arguments.min_version,
        allow_overrides: arguments.allow_overrides,
        options: Options {
            base: arguments.base.kind(&checkout)?,
            trust: arguments.trust,
            ..Options::plain(checkout, Cache::of_user()?, arguments.key)
        },
        folder,
    })?;
    writeln!(io::stdout(), "release in {}", folder.display())?;
    Ok(())
}

fn legal_info(arguments: LegalInfo) -> Result<()> {
    let checkout = arguments.checkout.folder()?;
    let base = arguments.base.kind(&checkout)?;
    let options = Options { base, ..Options::plain(checkout, Cache::of_user()?, None) };
    if arguments.out.exists() {
        std::fs::remove_dir_all(&arguments.out)
            .with_context(|| format!("cannot remove {}", arguments.out.display()))?;
    }
    legal::write(&options, &X86_64, &arguments.out)?;
    writeln!(io::stdout(), "licences in {}", arguments.out.display())?;
    Ok(())
}

fn compare(arguments: &Compare) -> Result<()> {
    let [one, other] = arguments.images.as_slice() else { bail!("two folders are needed") };
    let table = compare::of([one, other], arguments.bench.as_deref())?;
    write!(io::stdout(), "{}", table.text())?;
    if let Some(path) = &arguments.out {
        output::write(path, &table.json()?)?;
    }
    Ok(())
}

fn run_buildroot(arguments: RunBuildroot) -> Result<()> {
    let checkout = arguments.checkout.folder()?;
    let architecture = arguments.architecture;
    let output = buildroot_output(arguments.buildroot_output, &checkout, architecture)?;
    let buildroot = Buildroot::open(&checkout, architecture, output, &Cache::of_user()?)?;
    let targets = match arguments.targets {
        targets if targets.is_empty() => buildroot::everything(),
        targets => targets,
    };
    buildroot.make.run(&targets)
}

fn programs(arguments: &Programs) -> Result<()> {
    let checkout = arguments.checkout.folder()?;
    let cache = Cache::of_user()?;
    let metadata = sources::metadata(&checkout, X86_64.linux_target)?;
    let trusted = arguments.keys.trusted(&cache)?;
    let compiler = Compiler {
        checkout: &checkout,
        metadata: &metadata,
        architecture: &X86_64,
        profile: &arguments.profile.profile,
        trusted: &trusted,
        cache: &cache,
    };
    for program in [Program::BootManager, Program::StageOne, Program::Portcullis] {
        let path = compiler.program_path(program)?;
        writeln!(io::stdout(), "{} {}", program.binary(), path.display())?;
    }
    Ok(())
}

fn modules(arguments: &Modules) -> Result<()> {
    let list = pipeline::modules_list(&arguments.checkout.folder()?)?;
    let base = base::debian::load(&X86_64, &Cache::of_user()?, &list)?;
    let mut out = io::stdout();
    for module in &base.modules {
        let place = if module.boot { "boot" } else { "root" };
        writeln!(out, "{place} {:>9} {:<24} {}", module.bytes.len(), module.name, module.path)?;
    }
    Ok(())
}

fn lay_out_base(arguments: &LayOutBase) -> Result<()> {
    let checkout = arguments.checkout.folder()?;
    let list = pipeline::modules_list(&checkout)?;
    let base = base::debian::load(&X86_64, &Cache::of_user()?, &list)?;
    let pinned = buildroot::pin::read(&checkout.join("buildroot"))?;
    base::buildroot::write(&arguments.folder, &base, &X86_64, &pinned.pin)
}

fn keygen(file: &Path) -> Result<()> {
    let public = *key::generate(file)?.verifying_key().as_bytes();
    writeln!(
        io::stdout(),
        "public key {}key id     {}",
        key::public_lines(&[public]),
        key_id(&public)
    )?;
    Ok(())
}

fn size(arguments: &Size) -> Result<()> {
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => default_out(&arguments.checkout.folder()?, BaseKind::Debian.name()),
    };
    let path = out.join(pipeline::SIZE);
    let text = std::fs::read(&path).with_context(|| {
        format!("cannot read {}: run portcullis-image build first", path.display())
    })?;
    let report: portcullis_image::size::Report = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a size report", path.display()))?;
    write!(io::stdout(), "{}", report.table())?;
    Ok(())
}

fn inspect_file(arguments: &Inspect) -> Result<()> {
    let keys = arguments.keys.trusted(&Cache::of_user()?)?;
    let inspection = inspect::inspect(&arguments.file, &keys)?;
    write!(io::stdout(), "{}", inspection.text)?;
    if !inspection.sound {
        bail!("{} is not sound", arguments.file.display());
    }
    Ok(())
}

impl Keys {
    /// The public half of the signing key, and the further ones.
    fn trusted(&self, cache: &Cache) -> Result<Vec<[u8; 32]>> {
        let mut trusted = self.trust.clone();
        if self.key.is_some() || trusted.is_empty() {
            trusted.insert(0, *key::load(self.key.as_deref(), cache)?.verifying_key().as_bytes());
        }
        Ok(trusted)
    }
}

impl Checkout {
    fn folder(&self) -> Result<PathBuf> {
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
    fn kind(self, checkout: &Path) -> Result<BaseKind> {
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
fn buildroot_output(
    given: Option<PathBuf>,
    checkout: &Path,
    architecture: &Architecture,
) -> Result<PathBuf> {
    let folder = given.unwrap_or_else(|| buildroot::default_output(checkout, architecture));
    Ok(std::path::absolute(folder)?)
}

/// Each base has a folder of its own, so that neither image overwrites the other.
fn default_out(checkout: &Path, base: &str) -> PathBuf {
    let folder = match base {
        "debian" => "target/image".to_owned(),
        other => format!("target/image-{other}"),
    };
    checkout.join(folder)
}
