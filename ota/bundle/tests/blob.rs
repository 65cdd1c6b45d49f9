//! Whole blobs: what is written is opened and checked again, and every change is found.
use ed25519_dalek::Signer as _;
use portcullis_bundle::blob::{self, BlobError, Meta, Summary};
use portcullis_bundle::{
    Architecture, Manifest, ManifestError, PublicKey, SigningKey, TRAILER_SIZE, TrailerError,
    key_id, sign_trailer, verify_trailer, verity,
};
use std::io::{Cursor, Read as _};

const SALT: [u8; 32] = [9; 32];

#[cfg(test)]
fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

#[cfg(test)]
fn public(seed: u8) -> PublicKey {
    key(seed).verifying_key().to_bytes()
}

#[cfg(test)]
fn root() -> Vec<u8> {
    (0..300 * 4096).map(|at| (at / 4096 + at) as u8).collect()
}

#[cfg(test)]
fn uki() -> Vec<u8> {
    (0..50_001).map(|at| (at * 7) as u8).collect()
}

#[cfg(test)]
fn written() -> (Vec<u8>, Summary) {
    let meta = Meta {
        version: "1.0".parse().unwrap(),
        min_version: Some("0.9".parse().unwrap()),
        architecture: Architecture::X86_64,
    };
    let tree = verity::build(&root()[..], &SALT).unwrap();
    let mut bytes = Vec::new();
    let summary = blob::write(&root(), &tree, &uki(), &meta, &key(1), &mut bytes).unwrap();
    (bytes, summary)
}

#[test]
fn what_is_written_is_opened_and_checked() {
    let (bytes, summary) = written();
    assert_eq!(summary.size, bytes.len() as u64);
    assert!(summary.size.is_multiple_of(4096));
    let mut blob = Cursor::new(&bytes);
    let manifest = blob::open(&mut blob, &[public(2), public(1)]).unwrap();
    assert_eq!(manifest, summary.manifest);
    assert_eq!(blob::check(&mut blob, &[public(1)]).unwrap(), manifest);

    let mut part = Vec::new();
    blob::part(&mut blob, manifest.uki).unwrap().read_to_end(&mut part).unwrap();
    assert!(part == uki());
    assert_eq!(verify_trailer(&bytes[bytes.len() - TRAILER_SIZE..], &[public(1)]), Ok(manifest));
    assert_eq!((bytes, summary), written(), "same input, same bytes");
}

#[test]
fn a_slot_partition_may_be_larger_than_the_blob() {
    let (bytes, summary) = written();
    let (body, trailer) = bytes.split_at(bytes.len() - TRAILER_SIZE);
    let mut partition = body.to_vec();
    partition.resize(body.len() + 5 * 4096, 0xee);
    partition.extend_from_slice(trailer);
    assert_eq!(blob::check(&mut Cursor::new(partition), &[public(1)]).unwrap(), summary.manifest);
}

#[test]
fn every_changed_bit_that_counts_is_found() {
    let (bytes, Summary { manifest, .. }) = written();
    let check = |at: u64| {
        let mut bytes = bytes.clone();
        bytes[usize::try_from(at).unwrap()] ^= 0x10;
        blob::check(&mut Cursor::new(bytes), &[public(1)]).unwrap_err()
    };
    for at in [0, 4096, manifest.root.size - 1] {
        assert!(matches!(check(at), BlobError::Root));
    }
    for at in [manifest.tree.offset, manifest.uki.offset - 1] {
        assert!(matches!(check(at), BlobError::Tree));
    }
    for at in [manifest.uki.offset, manifest.uki.end().unwrap() - 1] {
        assert!(matches!(check(at), BlobError::Uki));
    }
    let trailer = (bytes.len() - TRAILER_SIZE) as u64;
    for at in [72, 200, 511, 512, 40_000, 65_471, 65_472, 65_535] {
        assert!(
            matches!(check(trailer + at), BlobError::Trailer(TrailerError::Signature(_))),
            "{at}"
        );
    }
    assert!(matches!(check(trailer), BlobError::Trailer(TrailerError::Empty)));
    assert!(matches!(check(trailer + 16), BlobError::Trailer(TrailerError::UnknownKey(_))));
}

#[test]
fn only_trusted_keys_count() {
    let (bytes, _) = written();
    let opened =
        |keys: &[PublicKey]| blob::open(&mut Cursor::new(&bytes), keys).unwrap_err().to_string();
    let id = key_id(&public(1));
    assert_eq!(opened(&[]), format!("trailer: signed by key {id}, which is not trusted here"));
    assert_eq!(opened(&[public(2)]), opened(&[]));
}

#[test]
fn a_signed_manifest_must_still_make_sense() {
    let (bytes, Summary { manifest, .. }) = written();
    let (body, _) = bytes.split_at(bytes.len() - TRAILER_SIZE);

    // The rest of the trailer must be zero even if it is signed.
    let mut trailer = sign_trailer(&manifest, &key(1));
    trailer[600] = 1;
    let signature = key(1).sign(&trailer[..TRAILER_SIZE - 64]).to_bytes();
    trailer[TRAILER_SIZE - 64..].copy_from_slice(&signature);
    assert_eq!(verify_trailer(&trailer, &[public(1)]), Err(ManifestError::Reserved.into()));

    let mut wrong = manifest;
    wrong.uki.offset = 4096;
    let trailer = sign_trailer(&wrong, &key(1));
    let error = verify_trailer(&trailer, &[public(1)]).unwrap_err();
    assert!(error.to_string().contains("UKI starts at 4096"), "{error}");

    // Parts beyond the end of the file.
    let larger =
        Manifest { uki: portcullis_bundle::Extent { size: 1 << 40, ..manifest.uki }, ..manifest };
    let blob = [body, &sign_trailer(&larger, &key(1))].concat();
    let error = blob::open(&mut Cursor::new(blob), &[public(1)]).unwrap_err();
    assert!(matches!(error, BlobError::Manifest(ManifestError::NoRoom { .. })), "{error}");
}

#[test]
fn other_files_are_refused_with_a_reason() {
    let open =
        |bytes: &[u8]| blob::open(&mut Cursor::new(bytes), &[public(1)]).unwrap_err().to_string();
    assert_eq!(open(b"short"), "blob has 5 bytes, a trailer alone has 65536");
    assert_eq!(open(&[0; TRAILER_SIZE]), "trailer: empty (no manifest)");
    assert_eq!(verify_trailer(&[0; 9], &[]), Err(TrailerError::Size(9)));

    let other = verity::build(&root()[4096..], &SALT).unwrap();
    let meta = Meta {
        version: "1".parse().unwrap(),
        min_version: None,
        architecture: Architecture::Aarch64,
    };
    let error = blob::write(&root(), &other, &uki(), &meta, &key(1), Vec::new()).unwrap_err();
    assert!(error.to_string().contains("hash tree is of"), "{error}");
}

#[test]
fn the_table_line_is_the_kernels() {
    let (_, Summary { manifest, .. }) = written();
    let table = verity::table(&manifest, "254:3");
    assert_eq!(table.sectors(), 300 * 8);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (root_hash, salt) = (hex(&manifest.root_hash), hex(&SALT));
    assert_eq!(
        table.to_string(),
        format!("1 254:3 254:3 4096 4096 300 300 sha256 {root_hash} {salt} 1 panic_on_corruption")
    );
}
