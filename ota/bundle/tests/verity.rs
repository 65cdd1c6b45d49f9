//! Our hash trees against the reference: `veritysetup` of the Debian package cryptsetup-bin.
use portcullis_bundle::verity;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const SALT: [u8; 32] = [0xa7; 32];

/// Bytes that look random and are the same in every run.
#[cfg(test)]
fn noise(blocks: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(blocks * 4096);
    while bytes.len() < blocks * 4096 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
fn veritysetup(command: &str, data: &Path, tree: &Path, root_hash: Option<&str>) -> Output {
    let salt: String = SALT.iter().map(|byte| format!("{byte:02x}")).collect();
    Command::new("veritysetup")
        .args(["--no-superblock", "--format=1", "--hash=sha256"])
        .args(["--data-block-size=4096", "--hash-block-size=4096"])
        .arg(format!("--salt={salt}"))
        .arg(format!("--data-blocks={}", fs::metadata(data).unwrap().len() / 4096))
        .arg(command)
        .args([data, tree])
        .args(root_hash)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .expect("veritysetup (Debian package cryptsetup-bin) is needed")
}

#[test]
fn trees_are_those_of_veritysetup() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // One block has no tree; 128 hashes fill a block; 128 * 128 + 1 blocks need three levels.
    for blocks in [1, 2, 127, 128, 129, 1000, 16384, 16385] {
        let data = noise(blocks);
        fs::write(path("data"), &data).unwrap();
        fs::write(path("theirs"), []).unwrap();
        let tree = verity::build(&data[..], &SALT).unwrap();
        let root_hash: String = tree.root_hash.iter().map(|byte| format!("{byte:02x}")).collect();

        let theirs = veritysetup("format", &path("data"), &path("theirs"), None);
        assert!(theirs.status.success(), "{theirs:?}");
        let shown = String::from_utf8(theirs.stdout).unwrap();
        let shown = shown.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim();
        assert_eq!(root_hash, shown, "{blocks} blocks");
        assert!(fs::read(path("theirs")).unwrap() == tree.bytes, "{blocks} blocks: another tree");
        assert_eq!(tree.bytes.len() as u64, verity::tree_size(data.len() as u64));

        fs::write(path("ours"), &tree.bytes).unwrap();
        let verified = veritysetup("verify", &path("data"), &path("ours"), Some(&root_hash));
        assert!(verified.status.success(), "{blocks} blocks: {verified:?}");
    }

    // The check can fail: one bit of the last data block, then one of the tree.
    let tree = verity::build(&noise(16385)[..], &SALT).unwrap();
    let root_hash: String = tree.root_hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut data = noise(16385);
    *data.last_mut().unwrap() ^= 1;
    fs::write(path("data"), &data).unwrap();
    assert!(
        !veritysetup("verify", &path("data"), &path("ours"), Some(&root_hash)).status.success()
    );
    assert_ne!(verity::build(&data[..], &SALT).unwrap().root_hash, tree.root_hash);
}

#[test]
fn only_whole_blocks_have_a_tree() {
    for size in [0, 1, 4095, 4097] {
        let error = verity::build(&vec![1; size][..], &SALT).unwrap_err();
        assert!(error.to_string().contains(&format!("has {size} bytes")), "{error}");
    }
}

/// Gives a few bytes at a time, as a pipe does.
struct Trickle<'a>(&'a [u8]);

impl std::io::Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = buffer.len().min(1000);
        std::io::Read::read(&mut self.0, buffer.get_mut(..len).unwrap_or_default())
    }
}

#[test]
fn short_reads_do_not_matter() {
    let data = noise(300);
    assert_eq!(
        verity::build(Trickle(&data), &SALT).unwrap(),
        verity::build(&data[..], &SALT).unwrap()
    );
}
