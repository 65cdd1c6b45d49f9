//! The messages are those that `nft` itself sends: `captures/sample.hex` is what version 1.0.6
//! gave to the kernel for `captures/sample.nft`, taken by
//! `strace -e trace=sendmsg -e write=3 nft -f sample.nft` in an empty namespace.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "they fail the test")]

mod sample;

use portcullis_nftables::netlink;

const TEXT: &str = include_str!("captures/sample.nft");
const CAPTURE: &str = include_str!("captures/sample.hex");

/// Kind and content of each message, without flags and sequence numbers.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut messages = Vec::new();
    while let Some((header, _)) = bytes.split_at_checked(16) {
        let length = u32::from_ne_bytes(header[..4].try_into().expect("four bytes")) as usize;
        let kind = u16::from_ne_bytes(header[4..6].try_into().expect("two bytes"));
        messages.push((kind, &bytes[16..length]));
        bytes = &bytes[length.next_multiple_of(4)..];
    }
    messages
}

#[test]
fn the_text_is_what_was_captured() {
    assert_eq!(sample::table().to_string(), TEXT);
}

#[test]
fn the_messages_are_those_of_nft() {
    let capture = hex::decode(CAPTURE.split_whitespace().collect::<String>()).expect("hex");
    let batch = netlink::create(&sample::table()).expect("a batch");
    let (theirs, ours) = (messages(&capture), messages(&batch.bytes));
    for (number, (theirs, ours)) in theirs.iter().zip(&ours).enumerate() {
        let what = batch.contents.get(number).map_or("", String::as_str);
        assert_eq!(
            (theirs.0, hex::encode(theirs.1)),
            (ours.0, hex::encode(ours.1)),
            "message {number}: {what}"
        );
    }
    assert_eq!(theirs.len(), ours.len());
}
