//! `ebpf/RFC.md` against the sources: each row names tests that exist, and each requirement has a row.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A row of one of the tables.
struct Row {
    table: String,
    requirement: String,
    line: usize,
    /// What stands in the columns "state" and "test".
    state: String,
    tests: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rows() -> Vec<Row> {
    let page = fs::read_to_string(root().join("ebpf/RFC.md")).unwrap();
    let mut table = String::new();
    let mut rows = Vec::new();
    for (number, line) in page.lines().enumerate() {
        if let Some(title) = line.strip_prefix("## ") {
            table = title.to_owned();
        }
        let Some(cells) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else {
            continue;
        };
        let cells: Vec<&str> = cells.split(" | ").collect();
        assert_eq!(cells.len(), 4, "line {}: four columns", number + 1);
        if cells[3] != "test" {
            rows.push(Row {
                table: table.clone(),
                requirement: cells[0].to_owned(),
                line: number + 1,
                state: cells[2].to_owned(),
                tests: cells[3].to_owned(),
            });
        }
    }
    rows
}

/// Where the tests of a crate may be.
fn folder(crate_name: &str) -> PathBuf {
    let inside = if crate_name == "datapath" { "ebpf" } else { "services" };
    root().join(inside).join(crate_name)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
    {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Names of the functions of a source that are tests.
fn tests_of(source: &str) -> BTreeSet<&str> {
    let mut tests = BTreeSet::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        if line == "#[test]" || line == "#[tokio::test]" {
            marked = true;
        } else if let Some(rest) = line.strip_prefix("fn ").or(line.strip_prefix("async fn ")) {
            if marked {
                tests.insert(rest.split(['(', '<']).next().unwrap());
            }
            marked = false;
        }
    }
    tests
}

/// All tests of a crate, with the parts of their file's path from the crate's folder on.
fn tests_in(crate_name: &str) -> Vec<(Vec<String>, String)> {
    let folder = folder(crate_name);
    let mut files = Vec::new();
    for kind in ["src", "tests"] {
        sources(&folder.join(kind), &mut files);
    }
    let mut tests = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let place: Vec<String> = file
            .strip_prefix(&folder)
            .unwrap()
            .with_extension("")
            .components()
            .map(|part| part.as_os_str().to_str().unwrap().to_owned())
            .collect();
        tests.extend(tests_of(&text).into_iter().map(|name| (place.clone(), name.to_owned())));
    }
    tests
}

/// What the last column names: crates with their tests. Crates are separated by semicolons.
fn named(tests: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let mut all = Vec::new();
    for part in tests.split("; ") {
        let Some((crate_name, names)) = part.split_once(' ') else {
            return Err(format!("`{part}` names no test of a crate"));
        };
        let names: Vec<String> = names
            .split(", ")
            .map(|name| name.strip_prefix('`').and_then(|name| name.strip_suffix('`')))
            .map(|name| name.map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| format!("`{part}`: tests stand in backticks, with commas between"))?;
        all.push((crate_name.to_owned(), names));
    }
    Ok(all)
}

/// Whether `name`, modules and function, is that of a test in the file at `place`.
fn is_at(name: &str, place: &[String], function: &str) -> bool {
    let mut modules: Vec<&str> = name.split("::").collect();
    if modules.pop() != Some(function) {
        return false;
    }
    let mut place = place.iter();
    modules.iter().all(|module| place.any(|part| part == module))
}

#[test]
fn every_row_names_tests_that_exist() {
    let mut crates: BTreeMap<String, Vec<(Vec<String>, String)>> = BTreeMap::new();
    let mut problems = Vec::new();
    let rows = rows();
    for row in &rows {
        let place = format!("line {}, {} {}", row.line, row.table, row.requirement);
        let named = match named(&row.tests) {
            Ok(named) => named,
            Err(problem) => {
                problems.push(format!("{place}: {problem}"));
                continue;
            }
        };
        for (crate_name, names) in named {
            if !folder(&crate_name).is_dir() {
                problems.push(format!("{place}: there is no crate `{crate_name}`"));
                continue;
            }
            let tests = crates.entry(crate_name.clone()).or_insert_with(|| tests_in(&crate_name));
            for name in names {
                if !tests.iter().any(|(file, function)| is_at(&name, file, function)) {
                    problems.push(format!("{place}: {crate_name} has no test `{name}`"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    assert!(rows.len() > 150, "{} rows", rows.len());
    assert!(crates["datapath"].len() > 100);
}

#[test]
fn every_row_says_what_it_is() {
    for row in rows() {
        assert!(row.state.len() > 2, "line {}: {}", row.line, row.requirement);
    }
}

/// The requirements as the RFCs number them.
#[test]
fn every_requirement_has_a_row() {
    let wanted: [(&str, Vec<String>); 8] = [
        ("RFC 4787", requirements(14, "3a 5a 5b 5c 6a 8a 9a 10a 12a 12b 13a 14a")),
        ("RFC 5382", requirements(10, "2a 3a 3b 4a 5a 8a")),
        (
            "RFC 5508",
            requirements(11, "1a 2a 3a 3b 3c 3d 4a 4b 4c 5a 5b 5c 7a 10a 10b 10c 10d 10e 10f")
                .into_iter()
                // All of it is in its parts.
                .filter(|requirement| requirement != "REQ-10")
                .collect(),
        ),
        ("RFC 7857", words("2 2.1 2.2 3 4 5 6 7 7.1 8 9 10 11 12")),
        ("RFC 6146", words("3.4 3.5.1 3.5.1.1 3.5.2 3.5.2.2 3.5.2.3 3.5.3 3.8 5.3")),
        ("RFC 4890", words("4.3.1 4.3.2 4.3.3 4.3.4 4.3.5 4.4.1 4.4.2 4.4.3 4.4.4 4.4.5")),
        ("RFC 7084", words("S-1 S-2 S-3 L-14")),
        (
            "RFC 6092",
            (1..=50).filter(|number| *number != 13).map(|number| format!("REC-{number}")).collect(),
        ),
    ];
    let mut there: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows() {
        let title = row.table.split(':').next().unwrap().to_owned();
        let requirements = row.requirement.split(", ").map(str::to_owned);
        there.entry(title).or_default().extend(requirements);
    }
    for (title, requirements) in wanted {
        let there = &there[title];
        let missing: Vec<_> =
            requirements.iter().filter(|requirement| !there.contains(*requirement)).collect();
        assert!(missing.is_empty(), "{title}: no row for {missing:?}");
    }
}

fn requirements(count: u32, parts: &str) -> Vec<String> {
    let whole = (1..=count).map(|number| number.to_string());
    whole.chain(words(parts)).map(|number| format!("REQ-{number}")).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[test]
fn tests_are_recognized_by_their_mark_and_place() {
    let source = "fn helper() {}\n#[test]\nfn one() {\n}\n    #[test]\n    fn two(\n";
    assert_eq!(tests_of(source), BTreeSet::from(["one", "two"]));
    let place = ["tests", "nat", "main"].map(str::to_owned);
    assert!(is_at("nat::one", &place, "one") && is_at("one", &place, "one"));
    assert!(!is_at("path::one", &place, "one") && !is_at("nat::one", &place, "two"));
    assert!(named("the same").is_err() && named("n/a").is_err() && named("none").is_err());
    let named = named("datapath `a::b`, `c`; model `d`").unwrap();
    assert_eq!(named[0], ("datapath".to_owned(), vec!["a::b".to_owned(), "c".to_owned()]));
    assert_eq!(named[1].0, "model");
}
