//! What must hold for any bytes in the place of a manifest or trailer. Shared by the fuzz target and
//! the test that replays its corpus.
use portcullis_bundle::manifest::MANIFEST_SIZE;
use portcullis_bundle::{
    Manifest, ManifestError, SigningKey, TRAILER_SIZE, TrailerError, sign_trailer, verify_trailer,
    verity,
};

pub fn run(data: &[u8]) {
    let key = SigningKey::from_bytes(&[1; 32]);
    let keys = [key.verifying_key().to_bytes()];

    // Nobody signed these bytes, so nothing may be believed.
    let mut trailer = data.to_vec();
    trailer.resize(TRAILER_SIZE, 0);
    assert!(verify_trailer(&trailer, &keys).is_err());
    assert!(verify_trailer(data, &keys).is_err());

    match Manifest::decode(data) {
        Err(ManifestError::TooShort(len)) => assert_eq!(len, data.len()),
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(manifest) => {
            assert_eq!(manifest.encode(), data[..MANIFEST_SIZE], "one manifest has one encoding");
            let end = manifest.uki.end().expect("checked");
            assert!(
                manifest.root.size <= manifest.tree.offset
                    && manifest.tree.offset <= manifest.uki.offset
            );
            assert_eq!(
                manifest.check_fits(u64::MAX).is_ok(),
                end <= u64::MAX - TRAILER_SIZE as u64
            );
            let table = verity::table(&manifest, "254:0").to_string();
            assert_eq!(
                table.split(' ').count(),
                12,
                "a field of the manifest broke the table: {table}"
            );
            // Signed, it is believed; a bit later it is not.
            let mut trailer = sign_trailer(&manifest, &key);
            let believed = verify_trailer(&trailer, &keys).expect("just signed");
            assert_eq!(Manifest { key_id: manifest.key_id, ..believed }, manifest);
            trailer[TRAILER_SIZE - 100] ^= 1;
            assert!(matches!(verify_trailer(&trailer, &keys), Err(TrailerError::Signature(_))));
        }
    }
}
