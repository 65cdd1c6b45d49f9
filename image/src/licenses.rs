//! The texts of all licences of what is in the image: crates, the C library and the base.
//!
//! A crate's own files come first, since they name its authors; for a crate without any, the canonical texts of the
//! licences that it declares.

use crate::architecture::Architecture;
use crate::base::Notice;
use crate::{debian, linked, sources};
use anyhow::{Context, Result, bail};
use cargo_metadata::Package;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// How the files begin in which crates keep their licences, in upper case.
const PREFIXES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// Files by their path below the folder of licences.
pub type Texts = BTreeMap<String, Vec<u8>>;

/// All texts, with a table of crates (`crates.csv`).
///
/// # Errors
/// When a crate or package from elsewhere has no licence that can be told.
pub fn collect(checkout: &Path, architecture: &Architecture, notices: &[Notice]) -> Result<Texts> {
    let mut texts = Texts::new();
    let mut table = String::from("crate,version,license,files\n");
    for package in sources::shipped(checkout, architecture)? {
        if package.source.is_none() {
            continue; // Our own.
        }
        let name = format!("{}-{}", package.name, package.version);
        let files = of_crate(&package).with_context(|| format!("licence of the crate {name}"))?;
        let license = package.license.clone().unwrap_or_default();
        let list: Vec<&str> = files.keys().map(String::as_str).collect();
        let _ = writeln!(
            table,
            "{},{},{},{}",
            package.name,
            package.version,
            license.replace('/', " OR "),
            list.join(" ")
        );
        texts.extend(files.into_iter().map(|(file, text)| (format!("crates/{name}/{file}"), text)));
    }
    texts.insert("crates.csv".to_owned(), table.into_bytes());
    for notice in notices {
        texts.insert(format!("packages/{}/copyright", notice.package), notice.text.clone());
    }
    for origin in linked::origins(checkout, architecture)? {
        let folder = format!("packages/{}", origin.name);
        if origin.purl.starts_with("pkg:deb/") {
            texts.insert(format!("{folder}/copyright"), debian::notice(&origin.name)?.text);
        } else {
            let files = canonical(&origin.license)
                .with_context(|| format!("licence of {}", origin.name))?;
            texts.extend(files.into_iter().map(|(file, text)| (format!("{folder}/{file}"), text)));
        }
    }
    Ok(texts)
}

/// Writes the texts below `folder`.
///
/// # Errors
/// When a file cannot be written.
pub fn write(texts: &Texts, folder: &Path) -> Result<()> {
    for (name, text) in texts {
        let path = folder.join(name);
        let above = path.parent().unwrap_or(folder);
        fs::create_dir_all(above)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn of_crate(package: &Package) -> Result<Texts> {
    let folder = package.manifest_path.as_std_path().parent().context("no folder")?;
    let mut files = Texts::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let upper = name.to_ascii_uppercase();
        if PREFIXES.iter().any(|prefix| upper.starts_with(prefix)) && entry.path().is_file() {
            files.insert(name, fs::read(entry.path())?);
        }
    }
    if let Some(path) = package.license_file() {
        let path = path.into_std_path_buf();
        let name = path.file_name().and_then(|name| name.to_str()).context("a name in UTF-8")?;
        files.insert(name.to_owned(), fs::read(&path)?);
    }
    if files.is_empty() {
        let license = package.license.as_deref().context("it declares none")?;
        files = canonical(license)?;
    }
    Ok(files)
}

/// The canonical texts of the licences in an expression.
fn canonical(expression: &str) -> Result<Texts> {
    let parsed =
        spdx::Expression::parse_mode(expression, spdx::ParseMode::LAX).map_err(|error| {
            anyhow::anyhow!("{expression:?} is no SPDX expression: {}", error.reason)
        })?;
    let mut texts = Texts::new();
    for requirement in parsed.requirements() {
        let Some(id) = requirement.req.license.id() else {
            bail!("{expression:?} names a licence that SPDX does not have");
        };
        texts.insert(format!("{}.txt", id.name), id.text().as_bytes().to_vec());
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::{canonical, collect};
    use crate::architecture::X86_64;
    use crate::base::Notice;
    use std::path::Path;

    #[test]
    fn nothing_that_is_shipped_is_without_a_text() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let kernel = Notice { package: "linux-image".into(), text: b"GPL".to_vec() };
        let texts = collect(checkout, &X86_64, &[kernel]).unwrap();
        let table = String::from_utf8(texts["crates.csv"].clone()).unwrap();
        assert!(table.lines().any(|line| line.starts_with("aya-ebpf,")), "{table}");
        assert!(!table.contains("portcullis"), "{table}");
        for line in table.lines().skip(1) {
            let mut fields = line.split(',');
            let (name, version) = (fields.next().unwrap(), fields.next().unwrap());
            let folder = format!("crates/{name}-{version}/");
            assert!(texts.keys().any(|file| file.starts_with(&folder)), "{line}");
        }
        for file in ["linux-image/copyright", "libc6-dev/copyright", "rust-std/Apache-2.0.txt"] {
            assert!(!texts[&format!("packages/{file}")].is_empty());
        }
    }

    #[test]
    fn canonical_texts_are_those_of_all_alternatives() {
        let names: Vec<String> = canonical("MIT/Apache-2.0").unwrap().into_keys().collect();
        assert_eq!(names, ["Apache-2.0.txt", "MIT.txt"]);
        assert!(canonical("our own words").is_err());
    }
}
