//! Shows what is in a slot blob or on a disk image, and whether it is what was signed.

use crate::digest::Digest;
use crate::disk;
use anyhow::{Context, Result};
use portcullis_bootstate::{PAIR_SIZE, Slot, decode_pair};
use portcullis_bundle::{BLOCK_SIZE, Manifest, PublicKey, blob, key_id};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;

/// A description of the file, and whether every slot in it that is not empty can be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// For people.
    pub text: String,
    /// No slot is damaged or signed by a stranger, and there is at least one.
    pub sound: bool,
}

/// Looks at a slot blob or a raw disk image and checks every byte that the manifests answer for.
///
/// # Errors
/// When the file cannot be read.
pub fn inspect(path: &Path, keys: &[PublicKey]) -> Result<Inspection> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut signature = [0; 8];
    file.seek(SeekFrom::Start(512))?;
    let is_disk = file.read_exact(&mut signature).is_ok() && &signature == b"EFI PART";
    let mut text = String::new();
    let sound = if is_disk {
        inspect_disk(&mut file, keys, &mut text)?
    } else {
        describe(&mut file, keys, &mut text)
    };
    Ok(Inspection { text, sound })
}

fn inspect_disk(file: &mut File, keys: &[PublicKey], text: &mut String) -> Result<bool> {
    let mut verdicts = Vec::new();
    for (name, offset, size) in disk::read_table(file)? {
        let _ = writeln!(text, "{name:<8} at {:>5} MiB, {:>4} MiB", offset >> 20, size >> 20);
        file.seek(SeekFrom::Start(offset))?;
        if Slot::from_partition(&name).is_some() {
            let mut content = Vec::new();
            file.take(size).read_to_end(&mut content)?;
            if content.iter().all(|byte| *byte == 0) {
                let _ = writeln!(text, "  empty");
            } else {
                verdicts.push(describe(&mut Cursor::new(content), keys, text));
            }
        } else if name == portcullis_bootstate::disk::STATE.name {
            let mut records = vec![0; PAIR_SIZE];
            file.read_exact(&mut records)?;
            let (first, second) = records.split_at(PAIR_SIZE / 2);
            let loaded = decode_pair(first, second);
            for slot in Slot::ALL {
                let state = loaded.state.get(slot);
                let _ = writeln!(
                    text,
                    "  {slot}: priority {}, tries left {}, confirmed {}, boot failures {}",
                    state.priority, state.tries_left, state.confirmed, state.boot_failures
                );
            }
        }
    }
    Ok(!verdicts.is_empty() && verdicts.iter().all(|sound| *sound))
}

fn describe(blob: &mut (impl Read + Seek), keys: &[PublicKey], text: &mut String) -> bool {
    match blob::check(blob, keys) {
        Ok(manifest) => {
            describe_manifest(&manifest, text);
            match content_digest(blob, &manifest) {
                Ok(digest) => {
                    let _ =
                        writeln!(text, "  content       {digest} (without manifest and signature)");
                    true
                }
                Err(error) => {
                    let _ = writeln!(text, "  NOT READABLE: {error}");
                    false
                }
            }
        }
        Err(error) => {
            let trusted: Vec<String> = keys.iter().map(|key| key_id(key).to_string()).collect();
            let _ = writeln!(text, "  NOT SOUND: {error} (trusted: {})", trusted.join(", "));
            false
        }
    }
}

/// SHA-256 of all that comes before the trailer of a blob: the same for everybody who builds the same, whoever signs.
fn content_digest(blob: &mut (impl Read + Seek), manifest: &Manifest) -> Result<Digest> {
    let end = manifest.uki.end().context("the manifest's parts have no end")?;
    let mut content = Vec::new();
    blob.seek(SeekFrom::Start(0))?;
    blob.take(end.next_multiple_of(BLOCK_SIZE)).read_to_end(&mut content)?;
    Ok(Digest::of(&content))
}

fn describe_manifest(manifest: &Manifest, text: &mut String) {
    let Manifest {
        version,
        min_version,
        architecture,
        key_id,
        root,
        tree,
        uki,
        root_hash,
        salt,
        uki_sha256,
    } = manifest;
    let min_version = min_version.map_or_else(|| "none".to_owned(), |version| version.to_string());
    let _ = writeln!(text, "  version       {version} ({architecture:?}), minimum {min_version}");
    let _ = writeln!(text, "  signed by     {key_id}, signature and all parts verified");
    for (name, extent) in [("root", root), ("hash tree", tree), ("UKI", uki)] {
        let _ = writeln!(text, "  {name:<13} {:>9} bytes at {}", extent.size, extent.offset);
    }
    let _ = writeln!(text, "  root hash     {}", hex::encode(root_hash));
    let _ = writeln!(text, "  salt          {}", hex::encode(salt));
    let _ = writeln!(text, "  UKI SHA-256   {}", hex::encode(uki_sha256));
}
