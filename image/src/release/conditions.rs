//! What must be true before anything is released.

use crate::cache::Cache;
use crate::key;
use crate::tool::GIT;
use anyhow::{Result, bail};
use semver::Version;
use std::path::Path;

/// What is to be released, as far as it decides whether it may.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// Version as typed.
    pub version: &'a str,
    /// The oldest version that a device running it may install, as typed.
    pub min_version: Option<&'a str>,
    /// State of the checkout.
    pub tree: Tree,
    /// Whether there is a key, or why not.
    pub key: Result<(), String>,
    /// Buildroot's packages come from folders of this machine, and nobody has allowed that.
    pub overrides: bool,
}

/// State of the checkout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// It is a Git checkout.
    pub is_git: bool,
    /// Files that differ from the commit or are not in it, as `git status` lists them.
    pub changes: String,
    /// The commit it is at.
    pub commit: String,
    /// The commit that carries the tag of this version, if there is one.
    pub tagged: Option<String>,
}

impl Candidate<'_> {
    /// Checks all conditions.
    ///
    /// # Errors
    /// Lists every one that is not met.
    pub fn check(&self) -> Result<()> {
        let problems = self.problems();
        if problems.is_empty() {
            return Ok(());
        }
        bail!("no release:\n- {}", problems.join("\n- "))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let version =
            semantic("VERSION", self.version).map_err(|problem| problems.push(problem)).ok();
        let minimum = self.min_version.and_then(|text| {
            semantic("MIN_VERSION", text).map_err(|problem| problems.push(problem)).ok()
        });
        if let (Some(version), Some(minimum)) = (&version, &minimum)
            && version.cmp_precedence(minimum).is_le()
        {
            problems.push(format!("VERSION {version} is not newer than MIN_VERSION {minimum}"));
        }
        let Tree { is_git, changes, commit, tagged } = &self.tree;
        if !is_git {
            problems
                .push("the checkout is not a Git checkout, so its commit is not known".to_owned());
        }
        if !changes.is_empty() {
            problems.push(format!(
                "the checkout has changes that are in no commit:\n{}",
                beginning(changes)
            ));
        }
        if let Some(tagged) = tagged
            && tagged != commit
        {
            problems.push(format!(
                "the tag v{} is at commit {tagged}, the checkout is at {commit}",
                self.version
            ));
        }
        if let Err(problem) = &self.key {
            problems.push(problem.clone());
        }
        if self.overrides {
            problems.push(
                "BR2_PACKAGE_OVERRIDE_FILE replaces packages by folders of this machine; \
                 ALLOW_OVERRIDES=1 allows that, and release.json says so"
                    .to_owned(),
            );
        }
        problems
    }
}

impl Tree {
    /// Checks that the checkout is, `after` the build, what it was before.
    ///
    /// # Errors
    /// Names the other commit or the changes: nobody can say what the files were built from.
    pub fn check_unchanged(&self, after: &Self) -> Result<()> {
        if after == self {
            return Ok(());
        }
        let what = if after.commit != self.commit {
            format!("it was at commit {}, it is at {}", self.commit, after.commit)
        } else if after.changes != self.changes {
            format!("it has changes that are in no commit:\n{}", beginning(&after.changes))
        } else {
            "the tag of this version was moved".to_owned()
        };
        bail!("no release: the checkout changed while it was built: {what}")
    }
}

/// The first lines of a list that may be long.
fn beginning(list: &str) -> String {
    const SHOWN: usize = 10;
    let mut lines: Vec<String> = list.lines().take(SHOWN).map(str::to_owned).collect();
    match list.lines().count().saturating_sub(SHOWN) {
        0 => {}
        more => lines.push(format!("and {more} more")),
    }
    lines.join("\n")
}

/// Semantic Versioning 2.0.0, strictly.
fn semantic(name: &str, text: &str) -> Result<Version, String> {
    Version::parse(text).map_err(|error| {
        format!(
            "{name} is {text:?}: {error}; a semantic version such as 1.2.3 or 1.3.0-rc.1 is needed"
        )
    })
}

/// Looks at the checkout; `version` is the one to be released.
///
/// # Errors
/// When Git is missing or fails.
pub fn tree(checkout: &Path, version: &str) -> Result<Tree> {
    if !checkout.join(".git").exists() {
        return Ok(Tree::default());
    }
    let git = |arguments: &[&str]| {
        let mut command = GIT.command(["-C"]);
        command.arg(checkout).args(arguments);
        GIT.text(command).map(|text| text.trim_end().to_owned())
    };
    let tag = format!("refs/tags/v{version}");
    // A text that is no version may be no name of a tag either.
    let tagged = git(&[
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        &format!("{tag}^{{commit}}"),
    ]);
    Ok(Tree {
        is_git: true,
        changes: git(&["status", "--porcelain", "--untracked-files=normal"])?,
        commit: git(&["rev-parse", "HEAD"])?,
        tagged: tagged.ok().filter(|commit| !commit.is_empty()),
    })
}

/// Whether `path` is a key that may sign a release: one that was made for it.
///
/// # Errors
/// Says what is missing.
pub fn key(path: Option<&Path>, cache: &Cache) -> Result<(), String> {
    let how = "make one by `portcullis-image keygen FILE` and keep it safe";
    let path = path
        .filter(|path| !path.as_os_str().is_empty())
        .ok_or_else(|| format!("KEY names no signing key; {how}"))?;
    let own = key::read(path).map_err(|error| format!("KEY: {error:#}; {how}"))?;
    let development = key::development_key_path(cache);
    match key::read(&development) {
        Ok(development) if development.to_bytes() == own.to_bytes() => {
            Err(format!("KEY {} is this user's development key; {how}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Tree, key, tree};
    use crate::cache::Cache;
    use crate::key as keys;
    use crate::tool::GIT;
    use std::fs;
    use std::path::Path;

    fn good() -> Candidate<'static> {
        let tree = Tree { is_git: true, commit: "abc".into(), ..Tree::default() };
        Candidate {
            version: "1.2.3",
            min_version: Some("1.2.2"),
            tree,
            key: Ok(()),
            overrides: false,
        }
    }

    fn refused(change: impl FnOnce(&mut Candidate<'static>)) -> String {
        let mut candidate = good();
        change(&mut candidate);
        candidate.check().unwrap_err().to_string()
    }

    #[test]
    fn what_is_as_it_should_be_is_released() {
        good().check().unwrap();
        for (version, minimum) in
            [("1.0.0", None), ("1.0.0", Some("1.0.0-rc.1")), ("1.10.0", Some("1.9.9"))]
        {
            Candidate { version, min_version: minimum, ..good() }.check().unwrap();
        }
        let tagged = Tree { tagged: Some("abc".into()), ..good().tree };
        Candidate { tree: tagged, ..good() }.check().unwrap();
    }

    #[test]
    fn versions_are_semantic_and_newer_than_the_minimum() {
        for bad in ["", "1.2", "v1.2.3", "1.2.3 ", "01.2.3", "1.2.3-", "latest"] {
            let error = refused(|candidate| candidate.version = bad);
            assert!(error.contains(&format!("VERSION is {bad:?}")), "{error}");
        }
        assert!(
            refused(|candidate| candidate.min_version = Some("1")).contains("MIN_VERSION is \"1\"")
        );
        // What stands behind the plus does not make a version newer.
        for minimum in ["1.2.3", "1.2.4", "2.0.0-rc.1", "1.2.3+a"] {
            let error = refused(|candidate| candidate.min_version = Some(minimum));
            assert!(error.contains("is not newer than"), "{minimum}: {error}");
        }
        assert!(refused(|candidate| candidate.version = "1.2.2-rc.1").contains("is not newer"));
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let error = refused(|candidate| {
            candidate.version = "one";
            candidate.tree.changes = " M image/src/main.rs".into();
            candidate.tree.tagged = Some("def".into());
            candidate.key = Err("KEY names no signing key".into());
            candidate.overrides = true;
        });
        for part in ["VERSION", "M image/src/main.rs", "commit def", "KEY", "ALLOW_OVERRIDES"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let error = refused(|candidate| candidate.tree.changes = "?? file\n".repeat(13));
        assert!(error.matches("?? file").count() == 10 && error.ends_with("and 3 more"), "{error}");
        assert!(refused(|candidate| candidate.tree.is_git = false).contains("not a Git checkout"));
    }

    fn git(folder: &Path, arguments: &[&str]) {
        let mut command = GIT.command(["-C"]);
        command.arg(folder).args(["-c", "user.name=x", "-c", "user.email=x@example.org"]);
        GIT.run({
            command.args(arguments);
            command
        })
        .unwrap();
    }

    #[test]
    fn a_dirty_checkout_shows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(tree(path, "1.0.0").unwrap(), Tree::default());
        git(path, &["init", "--quiet"]);
        fs::write(path.join("file"), "1").unwrap();
        git(path, &["add", "."]);
        git(path, &["commit", "--quiet", "-m", "x"]);
        let clean = tree(path, "1.0.0").unwrap();
        assert!(clean.is_git && clean.changes.is_empty() && clean.tagged.is_none(), "{clean:?}");
        git(path, &["tag", "v1.0.0"]);
        assert_eq!(tree(path, "1.0.0").unwrap().tagged, Some(clean.commit));
        fs::write(path.join("other"), "1").unwrap();
        assert_eq!(tree(path, "--bad").unwrap().changes, "?? other");
        fs::write(path.join("file"), "2").unwrap();
        assert!(tree(path, "1.0.0").unwrap().changes.contains(" M file"));
    }

    #[test]
    fn a_checkout_that_changes_under_the_build_is_no_release() {
        let before = good().tree;
        before.check_unchanged(&before.clone()).unwrap();
        let refused = |change: fn(&mut Tree)| {
            let mut after = before.clone();
            change(&mut after);
            before.check_unchanged(&after).unwrap_err().to_string()
        };
        let error = refused(|tree| tree.commit = "def".into());
        assert!(error.contains("was at commit abc, it is at def"), "{error}");
        assert!(refused(|tree| tree.changes = " M file".into()).contains(" M file"));
        assert!(refused(|tree| tree.tagged = Some("abc".into())).contains("tag"));
    }

    #[test]
    fn only_a_key_that_was_made_for_it_signs() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("cache"));
        let path = folder.path().join("release.pem");
        assert!(key(None, &cache).unwrap_err().contains("KEY names no"));
        assert!(key(Some(Path::new("")), &cache).unwrap_err().contains("KEY names no"));
        assert!(key(Some(&path), &cache).unwrap_err().contains("release.pem"));
        fs::write(&path, "no key").unwrap();
        assert!(key(Some(&path), &cache).unwrap_err().contains("PKCS#8"));
        fs::remove_file(&path).unwrap();
        keys::generate(&path).unwrap();
        key(Some(&path), &cache).unwrap();
        keys::load(None, &cache).unwrap();
        let development = keys::development_key_path(&cache);
        assert!(key(Some(&development), &cache).unwrap_err().contains("development key"));
        key(Some(&path), &cache).unwrap();
    }
}
