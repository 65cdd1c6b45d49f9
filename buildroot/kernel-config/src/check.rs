//! What is wrong with a configuration: wanted options that are not there, and unwanted ones that are.

use crate::config::Config;
use crate::explain;
use crate::kconfig::{Kconfig, Question};
use crate::plan::Plan;
use crate::source::Tree;
use anyhow::Result;
use std::collections::BTreeSet;

/// What the fragments give.
#[derive(Debug)]
pub struct Report {
    /// The configuration that Buildroot will make.
    pub config: Config,
    /// The same as Kconfig wrote it.
    pub text: String,
    /// What is wrong, a line each; none if all is well.
    pub findings: Vec<String>,
}

/// Lets Kconfig answer both ways and compares.
///
/// # Errors
/// When Kconfig fails.
pub fn run(plan: &Plan, tree: &Tree) -> Result<Report> {
    let kconfig = Kconfig::new(tree, plan.architecture)?;
    let off = kconfig.everything_else_off(&plan.wanted())?;
    let defaults = kconfig.defaults(&plan.merged())?;
    let text = kconfig.text()?;
    let mut findings =
        missing(plan, &defaults, |option| explain::why(tree.path(), option, &defaults));
    findings.extend(unwanted(plan, &off, &defaults));
    Ok(Report { config: defaults, text, findings })
}

/// Options that `config` has otherwise than the fragments want them; `why` says the reason for one.
pub fn missing(plan: &Plan, config: &Config, why: impl Fn(&str) -> String) -> Vec<String> {
    let fragments = plan.fragments.iter().chain([&plan.off]);
    let options = fragments.flat_map(|fragment| {
        fragment.options.iter().map(move |option| (fragment.name.as_str(), option))
    });
    options
        .filter_map(|(fragment, wanted)| {
            let option = wanted.setting.option.as_str();
            let value = config.get(option);
            (value != wanted.setting.value).then(|| {
                format!(
                    "{fragment}:{}: {option} is {value} and not {}: {}",
                    wanted.line,
                    wanted.setting.value,
                    why(option)
                )
            })
        })
        .collect()
}

/// Where Kconfig's defaults differ from "no": the last fragment does not answer a question.
fn unwanted(plan: &Plan, off: &Config, defaults: &Config) -> Vec<String> {
    let architecture = plan.architecture.name;
    let line = |(option, no, default): (&str, &str, &str)| {
        format!(
            "{}: {option} would be {default} by default and is {no} without: want it in a fragment, or run \
             `portcullis-kernel-config off --arch {architecture}`",
            plan.off.name
        )
    };
    off.differences(defaults).into_iter().map(line).collect()
}

/// The last fragment of an architecture, made anew: every question whose default is yes although nobody wants it.
///
/// # Errors
/// When Kconfig fails.
pub fn off_fragment(plan: &Plan, tree: &Tree) -> Result<String> {
    let kconfig = Kconfig::new(tree, plan.architecture)?;
    let wanted = plan.wanted();
    let off = kconfig.everything_else_off(&wanted)?;
    let mut options: BTreeSet<String> = BTreeSet::new();
    // Each no may bring questions of its own, but none of them comes twice.
    loop {
        let questions = kconfig.open_questions(&format!("{wanted}{}", lines(&options)))?;
        let before = options.len();
        options.extend(questions.into_iter().filter_map(|question| unasked(question, &off)));
        if options.len() == before {
            break;
        }
    }
    Ok(format!(
        "# What Kconfig would say yes to on {} if nobody answered: hardware and features that we did not choose. Made by\n\
         # `portcullis-kernel-config off`; what is wanted after all goes into a fragment with its reason, and out of here.\n\
         \n{}",
        plan.architecture.name,
        lines(&options)
    ))
}

/// The option of a question whose default is yes, where no is possible.
fn unasked((option, answer): Question, off: &Config) -> Option<String> {
    (matches!(answer.as_str(), "y" | "m") && off.get(&option) == "n").then_some(option)
}

fn lines(options: &BTreeSet<String>) -> String {
    options.iter().map(|option| format!("# CONFIG_{option} is not set\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::{missing, unasked, unwanted};
    use crate::config::Config;
    use crate::fragment;
    use crate::plan::{Plan, X86_64};
    use std::path::PathBuf;

    fn plan() -> Plan {
        let net = "# Why.\nCONFIG_NET=y\n# CONFIG_WLAN is not set\nCONFIG_HZ=250\n";
        Plan {
            architecture: &X86_64,
            fragments: vec![fragment::parse("net.config", net).unwrap()],
            off: fragment::parse("off-x86_64.config", "").unwrap(),
            off_path: PathBuf::new(),
        }
    }

    #[test]
    fn each_option_that_is_not_as_wanted_is_named_with_its_place() {
        let config = Config::parse("CONFIG_NET=y\nCONFIG_HZ=250\n");
        assert!(missing(&plan(), &config, |_| unreachable!()).is_empty());

        let config = Config::parse("CONFIG_WLAN=y\nCONFIG_HZ=100\n");
        let expected = [
            "net.config:2: NET is n and not y: because",
            "net.config:3: WLAN is y and not n: because",
            "net.config:4: HZ is 100 and not 250: because",
        ];
        assert_eq!(missing(&plan(), &config, |_| "because".to_owned()), expected);
    }

    #[test]
    fn what_comes_by_default_is_named() {
        let off = Config::parse("CONFIG_NET=y\n");
        let defaults = Config::parse("CONFIG_NET=y\nCONFIG_MOUSE=y\n");
        let findings = unwanted(&plan(), &off, &defaults);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].starts_with("off-x86_64.config: MOUSE would be y"), "{findings:?}");
    }

    #[test]
    fn a_choice_stays_open_and_a_no_needs_no_line() {
        let off = Config::parse("CONFIG_HZ_250=y\n");
        let ask =
            |option: &str, answer: &str| unasked((option.to_owned(), answer.to_owned()), &off);
        assert_eq!(ask("HZ_250", "y"), None);
        assert_eq!(ask("MOUSE", "n"), None);
        assert_eq!(ask("BITS", "5"), None);
        assert_eq!(ask("MOUSE", "m").as_deref(), Some("MOUSE"));
    }
}
