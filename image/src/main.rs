//! `portcullis-image`: the command line of the image builder.

mod arguments;

use anyhow::{Context, Result, bail};
use arguments::{
    Arguments, Build, Command, Compare, Inspect, LayOutBase, LegalInfo, MakeRelease, Modules,
    Programs, RunBuildroot, Size, buildroot_output, default_out,
};
use clap::Parser as _;
use portcullis_bundle::key_id;
use portcullis_image::architecture::X86_64;
use portcullis_image::buildroot::{self, Buildroot};
use portcullis_image::cache::Cache;
use portcullis_image::compile::{Compiler, Program};
use portcullis_image::pipeline::{self, BaseKind, Options};
use portcullis_image::release::{self, Release};
use portcullis_image::{base, compare, inspect, key, legal, output, sources};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

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
