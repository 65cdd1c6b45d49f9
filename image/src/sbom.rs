//! The software bill of materials: CycloneDX 1.6, from the dependency graph of the shipped programs and the origins of
//! the base. Without serial number and time stamp, so that the same image has the same bill.

use crate::architecture::Architecture;
use crate::base::{BuildTool, Origin};
use crate::sources;
use anyhow::{Context, Result};
use cargo_metadata::Package;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Writes the bill as JSON. `slot_sha256` is the hash of the slot blob it describes.
///
/// # Errors
/// When the lock file cannot be read or a program is not in the workspace.
pub fn build(
    checkout: &Path,
    architecture: &Architecture,
    origins: &[Origin],
    version: &str,
    tools: &[BuildTool],
    slot_sha256: &[u8; 32],
) -> Result<Vec<u8>> {
    let lock_path = checkout.join("Cargo.lock");
    let lock = fs::read_to_string(&lock_path)
        .with_context(|| format!("cannot read {}", lock_path.display()))?;
    let checksums = checksums(&lock)?;

    let mut components = BTreeMap::new();
    for package in sources::shipped(checkout, architecture)? {
        let purl = purl(&package);
        components.insert(purl.clone(), crate_component(&package, &purl, &checksums));
    }
    for origin in origins {
        components.insert(origin.purl.clone(), origin_component(origin));
    }
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "operating-system",
                "bom-ref": "portcullis",
                "name": "portcullis",
                "version": version,
                "hashes": [{ "alg": "SHA-256", "content": hex::encode(slot_sha256) }],
            },
        },
        "components": components.into_values().chain(tools.iter().map(tool_component)).collect::<Vec<Value>>(),
    });
    let mut text = serde_json::to_vec_pretty(&bill)?;
    text.push(b'\n');
    Ok(text)
}

fn crate_component(
    package: &Package,
    purl: &str,
    checksums: &BTreeMap<(String, String), String>,
) -> Value {
    let key = (package.name.to_string(), package.version.to_string());
    let mut component = json!({
        "type": "library",
        "bom-ref": purl,
        "name": key.0,
        "version": key.1,
        "purl": purl,
    });
    if let Some(license) = &package.license {
        // Old crates separate alternatives with a slash, which is no SPDX expression.
        set(&mut component, "licenses", json!([{ "expression": license.replace('/', " OR ") }]));
    }
    if let Some(checksum) = checksums.get(&key) {
        set(&mut component, "hashes", json!([{ "alg": "SHA-256", "content": checksum }]));
    }
    component
}

fn origin_component(origin: &Origin) -> Value {
    json!({
        "type": "operating-system",
        "bom-ref": origin.purl,
        "name": origin.name,
        "version": origin.version,
        "description": origin.role,
        "licenses": [{ "expression": origin.license }],
        "hashes": [{ "alg": "SHA-256", "content": origin.sha256 }],
        "purl": origin.purl,
    })
}

/// Reads what Buildroot's `show-info` says: all packages but those of `shipped`, our own and virtual ones.
///
/// # Errors
/// When it is not such a report.
pub fn build_tools(show_info: &[u8], shipped: &[Origin]) -> Result<Vec<BuildTool>> {
    #[derive(Deserialize)]
    struct Package {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default, rename = "virtual")]
        is_virtual: bool,
        #[serde(default)]
        version: String,
        #[serde(default)]
        licenses: String,
    }
    let packages: BTreeMap<String, Package> =
        serde_json::from_slice(show_info).context("Buildroot's show-info cannot be read")?;
    Ok(packages
        .into_iter()
        .filter(|(name, package)| {
            matches!(package.kind.as_str(), "host" | "target")
                && !package.is_virtual
                && name != "portcullis"
                && !shipped.iter().any(|origin| origin.name == *name)
        })
        .map(|(name, Package { version, licenses, .. })| BuildTool {
            name,
            version,
            licenses: Some(licenses).filter(|licenses| !licenses.is_empty()),
        })
        .collect())
}

/// CycloneDX: `excluded` is a component that is documented but not part of what is delivered.
fn tool_component(tool: &BuildTool) -> Value {
    let reference = format!("buildroot:{}@{}", tool.name, tool.version);
    let mut component = json!({
        "type": "application",
        "bom-ref": reference,
        "name": tool.name,
        "scope": "excluded",
        "description": "used by the build",
    });
    if !tool.version.is_empty() {
        set(&mut component, "version", json!(tool.version));
    }
    if let Some(licenses) = &tool.licenses {
        set(&mut component, "licenses", json!([{ "license": { "name": licenses } }]));
    }
    component
}

fn set(component: &mut Value, field: &str, value: Value) {
    if let Some(fields) = component.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
}

fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version.to_string().replace('+', "%2B"))
}

/// The hashes of the crates in a lock file, by name and version.
fn checksums(lock: &str) -> Result<BTreeMap<(String, String), String>> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Locked>,
    }
    #[derive(Deserialize)]
    struct Locked {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(lock).context("Cargo.lock cannot be read")?;
    let with_checksum =
        |package: Locked| Some(((package.name, package.version), package.checksum?));
    Ok(lock.package.into_iter().filter_map(with_checksum).collect())
}

#[cfg(test)]
mod tests {
    use super::{build, build_tools, tool_component};
    use crate::architecture::X86_64;
    use crate::base::Origin;
    use serde_json::Value;
    use std::path::Path;

    #[test]
    fn every_crate_from_elsewhere_has_licence_and_hash() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let kernel = Origin {
            name: "linux".into(),
            version: "6.12".into(),
            license: "GPL-2.0-only".into(),
            purl: "pkg:deb/debian/linux@6.12".into(),
            sha256: "00".into(),
            role: "kernel".into(),
        };
        let text = build(checkout, &X86_64, &[kernel], "1.2.3", &[], &[7; 32]).unwrap();
        let bill: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(bill["bomFormat"], "CycloneDX");
        assert_eq!(bill["metadata"]["component"]["version"], "1.2.3");
        let components = bill["components"].as_array().unwrap();
        assert!(components.iter().any(|component| component["name"] == "linux"));
        assert!(components.iter().any(|component| component["name"] == "portcullis-bootstate"));
        for component in components {
            let name = component["name"].as_str().unwrap();
            if !name.starts_with("portcullis") {
                assert!(
                    component["licenses"][0]["expression"].is_string(),
                    "{name} has no licence"
                );
                assert!(component["hashes"][0]["content"].is_string(), "{name} has no hash");
            }
        }
        assert!(components.iter().any(|component| component["name"] == "aya-ebpf"), "the datapath");
        assert!(!components.iter().any(|component| component["name"] == "proptest"));
    }

    #[test]
    fn what_built_it_is_listed_as_not_delivered() {
        let info = br#"{
            "host-gcc-final": { "type": "host", "name": "gcc-final", "virtual": false, "version": "14.4.0",
                                "licenses": "GPL-2.0, GPL-3.0", "dependencies": [] },
            "linux": { "type": "target", "virtual": false, "version": "6.12.107", "licenses": "GPL-2.0" },
            "portcullis": { "type": "target", "virtual": false, "licenses": "see sbom.json" },
            "skeleton": { "type": "target", "virtual": true },
            "rootfs-tar": { "type": "rootfs" },
            "host-fakedate": { "type": "host", "virtual": false, "version": "", "licenses": "" } }"#;
        let linux = Origin {
            name: "linux".into(),
            version: "6.12.107".into(),
            license: "GPL-2.0-only".into(),
            purl: "pkg:generic/linux@6.12.107".into(),
            sha256: "00".into(),
            role: "kernel".into(),
        };
        let tools = build_tools(info, &[linux]).unwrap();
        let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, ["host-fakedate", "host-gcc-final"]);
        let gcc = tool_component(&tools[1]);
        assert_eq!(gcc["scope"], "excluded");
        assert_eq!(gcc["licenses"][0]["license"]["name"], "GPL-2.0, GPL-3.0");
        assert!(tool_component(&tools[0])["version"].is_null());
        assert!(build_tools(b"make: nothing", &[]).is_err());
    }
}
