//! Kernel modules that only some configurations need. Services cannot load any; they ask for those
//! that their manifest names.

use std::collections::BTreeMap;

use super::{Loader, ModuleError};
use crate::manifest::Manifest;

/// Who may have which modules loaded.
#[derive(Debug, Default)]
pub struct OnRequest {
    loader: Option<Loader>,
    /// By the user id of the service.
    names: BTreeMap<u32, Vec<String>>,
}

impl OnRequest {
    /// Of all manifests; without a loader nothing but what is there already can be had.
    pub fn new(manifests: &[Manifest], loader: Option<Loader>) -> Self {
        let named = manifests.iter().filter(|m| !m.modules_on_request.is_empty());
        Self { loader, names: named.map(|m| (m.user, m.modules_on_request.clone())).collect() }
    }

    /// Loads the modules of the service that runs as `user`.
    ///
    /// # Errors
    /// The first that the image does not have or the kernel does not take.
    pub fn load_for(&self, user: u32) -> Result<(), ModuleError> {
        for name in self.names.get(&user).into_iter().flatten() {
            match &self.loader {
                Some(loader) => loader.load(name)?,
                None if super::present(name) => {}
                None => return Err(ModuleError::Unknown(name.clone())),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(user: u32, modules: &str) -> Manifest {
        let text = format!(
            "description = \"x\"\nuser = {user}\nmemory_mib = 16\nmodules_on_request = {modules}\n"
        );
        Manifest::parse("x", &text).unwrap()
    }

    #[test]
    fn nobody_gets_what_is_not_in_the_manifest() {
        let manifests = [manifest(200, "[\"no_such_module\"]"), manifest(201, "[]")];
        let modules = OnRequest::new(&manifests, None);
        assert!(modules.load_for(201).is_ok() && modules.load_for(0).is_ok(), "nothing to load");
        let error = modules.load_for(200).unwrap_err().to_string();
        assert!(error.contains("no_such_module"), "{error}");
    }
}
