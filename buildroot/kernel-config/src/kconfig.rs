//! The kernel's own Kconfig, run on a merged configuration.

use crate::config::Config;
use crate::plan::Architecture;
use crate::source::Tree;
use anyhow::{Context, Result};
use portcullis_image::tool::Tool;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const MAKE: Tool = Tool { program: "make", package: "make" };

/// Programs that Kconfig is built with or asks for their abilities.
const ASKED: [Tool; 4] = [
    Tool { program: "gcc", package: "gcc" },
    Tool { program: "flex", package: "flex" },
    Tool { program: "bison", package: "bison" },
    // Without it the answer to DEBUG_INFO_BTF is no.
    Tool { program: "pahole", package: "dwarves" },
];

/// Kconfig of one kernel for one architecture.
#[derive(Debug)]
pub struct Kconfig<'a> {
    tree: &'a Tree,
    architecture: &'a Architecture,
    output: TempDir,
}

/// A question that nobody has answered, with Kconfig's own answer: `("NET_VENDOR_3COM", "y")`.
pub type Question = (String, String);

impl<'a> Kconfig<'a> {
    /// Kconfig of the kernel in `tree`.
    ///
    /// # Errors
    /// When a program that it needs is missing.
    pub fn new(tree: &'a Tree, architecture: &'a Architecture) -> Result<Self> {
        for tool in ASKED {
            tool.run(tool.command(["--version"]))?;
        }
        if let Some(prefix) = cross_compile(architecture) {
            let compiler = format!("{prefix}gcc");
            let output = Command::new(&compiler).arg("--version").output();
            output.ok().filter(|it| it.status.success()).with_context(|| {
                format!(
                    "the compiler {compiler} is missing; it is in the Debian package {0}: apt-get install {0}",
                    architecture.package
                )
            })?;
        }
        let output = tempfile::tempdir().context("cannot create a temporary folder")?;
        Ok(Self { tree, architecture, output })
    }

    /// `fragments`, and no to everything else.
    ///
    /// # Errors
    /// When Kconfig fails.
    pub fn everything_else_off(&self, fragments: &str) -> Result<Config> {
        let all = self.output.path().join("fragments");
        fs::write(&all, fragments)?;
        self.make("allnoconfig", &[format!("KCONFIG_ALLCONFIG={}", all.display())])?;
        self.result()
    }

    /// `fragments`, and Kconfig's defaults for everything else. This is what Buildroot does.
    ///
    /// # Errors
    /// When Kconfig fails.
    pub fn defaults(&self, fragments: &str) -> Result<Config> {
        self.start_from(fragments)?;
        self.make("olddefconfig", &[])?;
        self.result()
    }

    /// What `fragments` leave open.
    ///
    /// # Errors
    /// When Kconfig fails.
    pub fn open_questions(&self, fragments: &str) -> Result<Vec<Question>> {
        self.start_from(fragments)?;
        let text = self.make("listnewconfig", &[])?;
        let question = |line: &str| {
            let (option, answer) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            Some((option.to_owned(), answer.to_owned()))
        };
        Ok(text.lines().filter_map(question).collect())
    }

    fn start_from(&self, fragments: &str) -> Result<()> {
        let path = self.config();
        fs::write(&path, fragments).with_context(|| format!("cannot write {}", path.display()))
    }

    fn config(&self) -> std::path::PathBuf {
        self.output.path().join(".config")
    }

    fn result(&self) -> Result<Config> {
        let path = self.config();
        let text = fs::read_to_string(&path)
            .with_context(|| format!("Kconfig wrote no {}", path.display()))?;
        Ok(Config::parse(&text))
    }

    /// The text of the last configuration, as a kernel is built with.
    ///
    /// # Errors
    /// When there is none yet.
    pub fn text(&self) -> Result<String> {
        Ok(fs::read_to_string(self.config())?)
    }

    fn make(&self, target: &str, variables: &[String]) -> Result<String> {
        let mut command = MAKE.command(["--silent", "--no-print-directory", "-C"]);
        // Those of a make around us are not for this one.
        for name in ["MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"] {
            command.env_remove(name);
        }
        command.arg(self.tree.path()).arg(output_variable(self.output.path()));
        command.arg(format!("ARCH={}", self.architecture.kernel));
        if let Some(prefix) = cross_compile(self.architecture) {
            command.arg(format!("CROSS_COMPILE={prefix}"));
        }
        command.args(variables).arg(target);
        MAKE.text(command)
            .with_context(|| format!("Kconfig cannot do {target} for {}", self.architecture.name))
    }
}

fn output_variable(folder: &Path) -> String {
    format!("O={}", folder.display())
}

/// The compiler of the machine itself has no prefix.
fn cross_compile(architecture: &Architecture) -> Option<&str> {
    (std::env::consts::ARCH != architecture.name).then_some(architecture.cross_compile)
}
