//! `modules.dep`, `modules.alias` and `modules.softdep`, in the text form of kmod.

use super::Module;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// `PATH: PATH...`: a module and everything to load before it, the nearest first.
///
/// As in kmod's table the list is complete, so a reader loads it from the last to the first and then the module.
pub fn dep<'a>(modules: impl Iterator<Item = &'a Module> + Clone) -> String {
    let by_name: BTreeMap<&str, &Module> =
        modules.clone().map(|module| (module.name.as_str(), module)).collect();
    let mut table = String::new();
    for module in modules {
        let mut order = Vec::new();
        collect(module, &by_name, &mut BTreeSet::new(), &mut order);
        order.pop();
        let _ = write!(table, "{}:", module.path);
        for dependency in order.iter().rev() {
            let _ = write!(table, " {}", dependency.path);
        }
        table.push('\n');
    }
    table
}

/// Depth first, so that a module comes after all it needs.
fn collect<'a>(
    module: &'a Module,
    by_name: &BTreeMap<&str, &'a Module>,
    seen: &mut BTreeSet<&'a str>,
    order: &mut Vec<&'a Module>,
) {
    if !seen.insert(&module.name) {
        return;
    }
    for dependency in &module.info.depends {
        if let Some(dependency) = by_name.get(dependency.as_str()) {
            collect(dependency, by_name, seen, order);
        }
    }
    order.push(module);
}

/// `alias PATTERN NAME`: which module drives the hardware whose modalias matches the pattern.
pub fn alias<'a>(modules: impl Iterator<Item = &'a Module>) -> String {
    let mut table = String::new();
    for module in modules {
        for alias in &module.info.aliases {
            let _ = writeln!(table, "alias {alias} {}", module.name);
        }
    }
    table
}

/// `softdep NAME pre: NAME... post: NAME...`: what else to load, if it is there.
pub fn softdep<'a>(modules: impl Iterator<Item = &'a Module>) -> String {
    let mut table = String::new();
    for module in modules {
        for softdep in &module.info.softdeps {
            let _ = writeln!(table, "softdep {} {softdep}", module.name);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{alias, dep, softdep};
    use crate::modules::{Module, info::Info};

    fn module(name: &str, depends: &[&str]) -> Module {
        Module {
            name: name.to_owned(),
            path: format!("kernel/{name}.ko"),
            info: Info {
                depends: depends.iter().map(|&name| name.to_owned()).collect(),
                ..Info::default()
            },
            bytes: Vec::new(),
            boot: false,
        }
    }

    #[test]
    fn every_module_lists_all_it_needs_in_unloading_order() {
        let modules = [
            module("mod", &[]),
            module("bufio", &["mod"]),
            module("solomon", &["not_here"]),
            module("verity", &["mod", "bufio", "solomon"]),
        ];
        assert_eq!(
            dep(modules.iter()),
            "kernel/mod.ko:\n\
             kernel/bufio.ko: kernel/mod.ko\n\
             kernel/solomon.ko:\n\
             kernel/verity.ko: kernel/solomon.ko kernel/bufio.ko kernel/mod.ko\n"
        );
    }

    #[test]
    fn a_circle_ends() {
        let modules = [module("a", &["b"]), module("b", &["a"])];
        assert_eq!(dep(modules.iter()), "kernel/a.ko: kernel/b.ko\nkernel/b.ko: kernel/a.ko\n");
    }

    #[test]
    fn aliases_and_soft_dependencies_name_the_module() {
        let mut module = module("r8169", &[]);
        module.info.aliases = vec!["pci:v000010ECd00008168*".into()];
        module.info.softdeps = vec!["pre: realtek".into()];
        assert_eq!(alias([&module].into_iter()), "alias pci:v000010ECd00008168* r8169\n");
        assert_eq!(softdep([&module].into_iter()), "softdep r8169 pre: realtek\n");
    }
}
