//! Finds or fetches the pinned Buildroot and checks that it is that and nothing else, to the last byte.

use super::pin::Pinned;
use crate::cache::Cache;
use crate::progress::note;
use crate::tool::GIT;
use anyhow::{Context, Result, bail, ensure};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Buildroot's own repository.
const UPSTREAM: &str = "https://gitlab.com/buildroot.org/buildroot.git";

/// Where to get Buildroot from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This folder, as it is.
    Folder(PathBuf),
    /// The cache, fetched from this repository when it is not there yet.
    Repository(String),
}

impl Source {
    /// What `BUILDROOT_DIR` (a folder) or `BUILDROOT_URL` (a mirror) says, by default Buildroot's own repository.
    pub fn of_environment() -> Self {
        let given = |name| env::var_os(name).filter(|value| !value.is_empty());
        match (
            given("BUILDROOT_DIR"),
            given("BUILDROOT_URL").and_then(|url| url.into_string().ok()),
        ) {
            (Some(folder), _) => Self::Folder(folder.into()),
            (None, Some(url)) => Self::Repository(url),
            (None, None) => Self::Repository(UPSTREAM.to_owned()),
        }
    }
}

/// A folder with the pinned Buildroot in it.
///
/// # Errors
/// When it is not the pinned one (says in what it differs) or cannot be fetched.
pub fn provide(pinned: &Pinned, source: &Source, cache: &Cache) -> Result<PathBuf> {
    let url = match source {
        Source::Folder(folder) => {
            let shown = || format!("BUILDROOT_DIR={}", folder.display());
            let folder = folder.canonicalize().with_context(shown)?;
            check(pinned, &folder).with_context(shown)?;
            return Ok(folder);
        }
        Source::Repository(url) => url,
    };
    let folder = cache.folder().join("buildroot").join(&pinned.pin.commit);
    if !folder.exists() {
        fetch(pinned, url, &folder)?;
    }
    check(pinned, &folder)
        .with_context(|| format!("{}: remove it, and it is fetched again", folder.display()))?;
    Ok(folder)
}

/// What comes from a mirror is checked like everything else.
fn fetch(pinned: &Pinned, url: &str, folder: &Path) -> Result<()> {
    let above = folder.parent().context("the cache has no folder")?;
    fs::create_dir_all(above).with_context(|| format!("cannot create {}", above.display()))?;
    let temporary = tempfile::tempdir_in(above)?;
    let clone = temporary.path().join("buildroot");
    note(&format!("fetching Buildroot {} from {url}", pinned.pin.version));
    let mut command = GIT.command(["-c", "advice.detachedHead=false", "clone", "--quiet"]);
    command
        .args(["--depth=1", "--branch", &pinned.pin.version, "--", url])
        .arg(&clone)
        .env("GIT_TERMINAL_PROMPT", "0");
    GIT.run(command).with_context(|| {
        format!(
            "cannot fetch Buildroot {} from {url}; give a mirror by BUILDROOT_URL, or a folder with it by BUILDROOT_DIR",
            pinned.pin.version
        )
    })?;
    check(pinned, &clone).with_context(|| format!("what {url} gave as Buildroot"))?;
    fs::rename(&clone, folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Checks that `folder` is the pinned Buildroot: a Git checkout by commit, tag and cleanness, anything else by the tree
/// id of its files. What Buildroot itself ignores (downloads, output) may lie there.
///
/// # Errors
/// Says in what it differs.
pub fn check(pinned: &Pinned, folder: &Path) -> Result<()> {
    let makefile = folder.join("Makefile");
    let text = fs::read_to_string(&makefile).context("there is no Buildroot: no Makefile")?;
    let version =
        version(&text).context("there is no Buildroot: its Makefile has no BR2_VERSION")?;
    let Pinned { pin, tree } = pinned;
    ensure!(version == pin.version, "it is Buildroot {version}, pinned is {}", pin.version);
    if folder.join(".git").exists() { check_git(pinned, folder) } else { check_files(tree, folder) }
}

/// The version as its Makefile says.
fn version(makefile: &str) -> Option<&str> {
    makefile.lines().find_map(|line| Some(line.strip_prefix("export BR2_VERSION := ")?.trim()))
}

fn check_git(pinned: &Pinned, folder: &Path) -> Result<()> {
    let git = |arguments: &[&str]| {
        let mut command = GIT.command(["-C"]);
        command.arg(folder).args(arguments);
        GIT.text(command).map(|text| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    let pin = &pinned.pin;
    ensure!(commit == pin.commit, "it is at commit {commit}, pinned is {}", pin.commit);
    // A checkout of the commit alone has no tag; one that is there must be the right one.
    let tag = format!("refs/tags/{}", pin.version);
    if !git(&["for-each-ref", &tag])?.is_empty() {
        let tagged = git(&["rev-parse", &format!("{tag}^{{commit}}")])?;
        ensure!(
            tagged == pin.commit,
            "its tag {} is commit {tagged}, pinned is {}",
            pin.version,
            pin.commit
        );
    }
    let changes = git(&["status", "--porcelain"])?;
    ensure!(changes.is_empty(), "files differ from commit {}:\n{changes}", pin.commit);
    Ok(())
}

/// The files of an unpacked archive, as the Git tree that they would be.
fn check_files(expected: &str, folder: &Path) -> Result<()> {
    let repository = tempfile::tempdir().context("cannot create a temporary folder")?;
    let git = |arguments: &[&str]| {
        let mut command = GIT.command(["--git-dir"]);
        command.arg(repository.path()).arg("--work-tree").arg(folder);
        // Settings of the person who builds must not change what is hashed.
        command.args(["-c", "core.autocrlf=false", "-c", "core.excludesFile=/dev/null"]);
        command.args(["-c", "core.attributesFile=/dev/null", "-c", "core.fileMode=true"]);
        command.current_dir(folder).args(arguments);
        GIT.text(command)
    };
    let mut init = GIT.command(["init", "--quiet", "--bare"]);
    init.arg(repository.path());
    GIT.run(init)?;
    git(&["add", "--all", "."])?;
    let found = git(&["write-tree"])?;
    let found = found.trim();
    if found != expected {
        bail!(
            "it is no Git checkout, and its files are not those of the pinned commit (tree {found}, pinned {expected}): \
             unpack it anew, or give a Git checkout"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Source, check, provide};
    use crate::base::buildroot::Pin;
    use crate::buildroot::pin::Pinned;
    use crate::cache::Cache;
    use crate::tool::GIT;
    use std::fs;
    use std::path::Path;

    fn git(folder: &Path, arguments: &[&str]) -> String {
        let mut command = GIT.command(["-C"]);
        command.arg(folder).args(["-c", "user.name=x", "-c", "user.email=x@example.org"]);
        command.args(arguments);
        GIT.text(command).unwrap().trim().to_owned()
    }

    /// A repository with one commit that looks like a Buildroot, and its pin.
    fn repository(folder: &Path) -> Pinned {
        git(folder, &["init", "--quiet", "--initial-branch=main"]);
        fs::write(folder.join("Makefile"), "export BR2_VERSION := 2026.05.1\nall:\n").unwrap();
        fs::write(folder.join(".gitignore"), "/dl\n").unwrap();
        git(folder, &["add", "."]);
        git(folder, &["commit", "--quiet", "-m", "x"]);
        git(folder, &["tag", "2026.05.1"]);
        Pinned {
            pin: Pin { version: "2026.05.1".into(), commit: git(folder, &["rev-parse", "HEAD"]) },
            tree: git(folder, &["rev-parse", "HEAD^{tree}"]),
        }
    }

    #[test]
    fn a_checkout_must_be_the_pinned_commit_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let pinned = repository(folder.path());
        let error = |pinned: &Pinned| format!("{:#}", check(pinned, folder.path()).unwrap_err());
        check(&pinned, folder.path()).unwrap();
        fs::create_dir(folder.path().join("dl")).unwrap();
        fs::write(folder.path().join("dl/archive"), "downloaded").unwrap();
        check(&pinned, folder.path()).unwrap();

        let mut other = pinned.clone();
        other.pin.version = "2026.08".into();
        assert!(error(&other).contains("it is Buildroot 2026.05.1, pinned is 2026.08"));
        other = pinned.clone();
        other.pin.commit = "0".repeat(40);
        assert!(error(&other).contains("it is at commit"));

        fs::write(folder.path().join("package"), "new").unwrap();
        assert!(error(&pinned).contains("files differ"), "{}", error(&pinned));
        git(folder.path(), &["add", "."]);
        git(folder.path(), &["commit", "--quiet", "-m", "y"]);
        other = pinned.clone();
        other.pin.commit = git(folder.path(), &["rev-parse", "HEAD"]);
        assert!(error(&other).contains("its tag 2026.05.1 is commit"), "{}", error(&other));
    }

    #[test]
    fn an_unpacked_archive_is_known_by_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let pinned = repository(folder.path());
        fs::remove_dir_all(folder.path().join(".git")).unwrap();
        check(&pinned, folder.path()).unwrap();
        let mut makefile = fs::read_to_string(folder.path().join("Makefile")).unwrap();
        makefile.push('\n');
        fs::write(folder.path().join("Makefile"), makefile).unwrap();
        let error = format!("{:#}", check(&pinned, folder.path()).unwrap_err());
        assert!(error.contains("not those of the pinned commit"), "{error}");
    }

    #[test]
    fn it_is_fetched_once_by_its_tag() {
        let (upstream, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut pinned = repository(upstream.path());
        let cache = Cache::at(folder.path().to_owned());
        let upstream = Source::Repository(format!("file://{}", upstream.path().display()));
        let gone = Source::Repository("/no/such/repository".into());
        let fetched = provide(&pinned, &upstream, &cache).unwrap();
        assert!(fetched.join("Makefile").exists() && fetched.ends_with(&pinned.pin.commit));
        assert_eq!(provide(&pinned, &gone, &cache).unwrap(), fetched);

        pinned.pin.commit = "0".repeat(40);
        let error = format!("{:#}", provide(&pinned, &gone, &cache).unwrap_err());
        assert!(
            error.contains("BUILDROOT_URL") && error.contains("/no/such/repository"),
            "{error}"
        );
        // As if the tag had been moved to another commit.
        let error = format!("{:#}", provide(&pinned, &upstream, &cache).unwrap_err());
        assert!(error.contains("pinned is 0000"), "{error}");
        assert!(!folder.path().join("buildroot").join(&pinned.pin.commit).exists());
    }

    #[test]
    fn a_given_folder_is_named_in_the_error() {
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let other = tempfile::tempdir().unwrap();
        let pinned = repository(other.path());
        let cache = Cache::at(cache.path().to_owned());
        let given = |folder: &Path| Source::Folder(folder.to_owned());
        let error = provide(&pinned, &given(folder.path()), &cache).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("BUILDROOT_DIR=") && error.contains("no Makefile"), "{error}");
        assert_eq!(
            provide(&pinned, &given(other.path()), &cache).unwrap(),
            other.path().canonicalize().unwrap()
        );
    }
}
