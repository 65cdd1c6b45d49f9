//! The fragments of every architecture against the newest 6.12 kernel that Debian has.

use portcullis_image::cache::Cache;
use portcullis_kernel_config::check;
use portcullis_kernel_config::plan::{ARCHITECTURES, Plan};
use portcullis_kernel_config::source::Tree;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn buildroot() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn every_wanted_option_comes_out_and_nothing_else_comes_in() {
    let tree = Tree::of_debian(&Cache::of_user().unwrap()).unwrap();
    for architecture in ARCHITECTURES {
        let plan = Plan::read(buildroot(), architecture).unwrap();
        let report = check::run(&plan, &tree).unwrap();
        assert!(
            report.findings.is_empty(),
            "{}:\n{}",
            architecture.name,
            report.findings.join("\n")
        );
        assert_eq!(report.config.get("NET_XGRESS"), "y", "tcx has no option of its own");
        assert_eq!(report.config.get("MODULES"), "n");
    }
}

#[test]
fn an_option_that_cannot_be_is_found_and_explained() {
    let tree = Tree::of_debian(&Cache::of_user().unwrap()).unwrap();
    let mut plan = Plan::read(buildroot(), ARCHITECTURES[0]).unwrap();
    let net = plan.fragments.iter_mut().find(|it| it.name == "net.config").unwrap();
    net.options.retain(|wanted| wanted.setting.option != "PPP");
    let findings = check::run(&plan, &tree).unwrap().findings;
    let dropped = findings.iter().find(|it| it.contains("PPPOE is n and not y")).unwrap();
    assert!(dropped.starts_with("net.config:") && dropped.contains("PPP(n)"), "{dropped}");
}

#[test]
fn every_fragment_file_is_used() {
    let used: BTreeSet<String> = ARCHITECTURES
        .iter()
        .flat_map(|architecture| {
            let plan = Plan::read(buildroot(), architecture).unwrap();
            plan.fragments.into_iter().chain([plan.off]).map(|it| it.name)
        })
        .collect();
    let files: BTreeSet<String> = fs::read_dir(buildroot().join("board/portcullis/linux"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(used, files);
}
