//! `portcullis-kernel-config`: checks the fragments of our kernel configuration.

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use portcullis_image::cache::Cache;
use portcullis_kernel_config::check::{self, Report};
use portcullis_kernel_config::config::Config;
use portcullis_kernel_config::plan::{AARCH64, Architecture, Plan, X86_64};
use portcullis_kernel_config::source::Tree;
use portcullis_kernel_config::{explain, hardening};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Checks the fragments of the kernel configuration against a kernel's sources, without Buildroot.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every wanted option must come out as wanted, and nothing else may come in by default
    Check {
        #[command(flatten)]
        kernel: Kernel,
        /// Check a finished .config (that of a Buildroot build) instead of making one
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print the .config that the fragments give
    Show(Kernel),
    /// Write off-ARCH.config anew
    Off(Kernel),
    /// Hold what kernel-hardening-checker finds against the answers in docs/kernel.md
    Hardening {
        #[command(flatten)]
        kernel: Kernel,
        /// A checkout of kernel-hardening-checker, of the version that docs/kernel.md names
        #[arg(long, value_name = "FOLDER")]
        checker: PathBuf,
    },
}

#[derive(Args)]
struct Kernel {
    /// Architecture of the appliance
    #[arg(long, value_enum, default_value_t = Name::X86_64)]
    arch: Name,
    /// Sources of a kernel; by default Debian's source package of 6.12, of which the cache keeps what is needed
    #[arg(long, value_name = "FOLDER")]
    sources: Option<PathBuf>,
    /// Our Buildroot tree
    #[arg(long, value_name = "FOLDER", default_value = "buildroot")]
    buildroot: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// 64-bit PCs
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit Arm
    Aarch64,
}

impl Kernel {
    fn plan(&self) -> Result<Plan> {
        let architecture: &'static Architecture = match self.arch {
            Name::X86_64 => &X86_64,
            Name::Aarch64 => &AARCH64,
        };
        Plan::read(&self.buildroot, architecture)
    }

    fn tree(&self) -> Result<Tree> {
        match &self.sources {
            Some(path) => Tree::at(path),
            None => Tree::of_debian(&Cache::of_user()?),
        }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "kernel-config: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Check { kernel, config: None } => {
            let plan = kernel.plan()?;
            let report = check::run(&plan, &kernel.tree()?)?;
            say(&format!(
                "{}: {} options wanted, {} answered with no, {} built in",
                plan.architecture.name,
                plan.fragments.iter().map(|it| it.options.len()).sum::<usize>(),
                plan.off.options.len(),
                report.config.built_in()
            ))?;
            none_left(&report.findings)
        }
        Command::Check { kernel, config: Some(path) } => check_finished(&kernel, &path),
        Command::Show(kernel) => {
            let Report { text, .. } = check::run(&kernel.plan()?, &kernel.tree()?)?;
            write!(io::stdout(), "{text}")?;
            Ok(())
        }
        Command::Off(kernel) => {
            let plan = kernel.plan()?;
            let text = check::off_fragment(&plan, &kernel.tree()?)?;
            fs::write(&plan.off_path, text)
                .with_context(|| format!("cannot write {}", plan.off_path.display()))
        }
        Command::Hardening { kernel, checker } => examine(&kernel, &checker),
    }
}

/// What was built must be as wanted too: another compiler may answer otherwise.
fn check_finished(kernel: &Kernel, path: &Path) -> Result<()> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = Config::parse(&text);
    let why = |option: &str| match &kernel.sources {
        Some(sources) => explain::why(sources, option, &config),
        None => "--sources FOLDER says what it depends on".to_owned(),
    };
    none_left(&check::missing(&kernel.plan()?, &config, why))
}

fn examine(kernel: &Kernel, checker: &Path) -> Result<()> {
    let plan = kernel.plan()?;
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let config = folder.path().join("config");
    fs::write(&config, check::run(&plan, &kernel.tree()?)?.text)?;
    let findings = hardening::examine(checker, &config)?;
    let page = kernel.buildroot.join("../docs/kernel.md");
    let page =
        fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let answered = hardening::answered(&page, plan.architecture.name);
    say(&format!(
        "{}: {} recommendations met, {} not",
        plan.architecture.name,
        findings.met,
        findings.failed.len()
    ))?;
    none_left(&hardening::compare(&findings, &answered))
}

fn none_left(findings: &[String]) -> Result<()> {
    for finding in findings {
        say(finding)?;
    }
    match findings.len() {
        0 => Ok(()),
        1 => bail!("1 finding"),
        count => bail!("{count} findings"),
    }
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
