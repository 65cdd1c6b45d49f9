//! What the kernel answers.

use netlink_packet_core::{NLM_F_DUMP_INTR, NetlinkBuffer, NlaBuffer, NlasIterator};

use crate::ruleset::Counter;

/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Family, version and resource behind netlink's header.
const FAMILY: usize = 4;

/// A message of the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer<'a> {
    /// Of the message of this sequence number: success (0) or the number of an error.
    Outcome {
        /// Sequence number of what is answered.
        sequence: u32,
        /// `errno`.
        error: i32,
    },
    /// One of the things that were asked for.
    Entry {
        /// Its attributes.
        content: &'a [u8],
        /// The list changed while it was made: it has to be asked for again.
        interrupted: bool,
    },
    /// There are no more.
    Done {
        /// `errno` of a list that ended early.
        error: i32,
        /// As of [`Self::Entry`].
        interrupted: bool,
    },
}

/// The messages of one datagram; what cannot be read ends it.
pub fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(bytes).ok()?;
        let length = usize::try_from(message.length()).ok()?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let payload = message.payload();
        let interrupted = message.flags() & NLM_F_DUMP_INTR != 0;
        Some(match message.message_type() {
            ERROR => Answer::Outcome {
                sequence: message.sequence_number(),
                error: error_number(payload)?,
            },
            DONE => Answer::Done { error: error_number(payload).unwrap_or(0), interrupted },
            _ => Answer::Entry { content: payload.get(FAMILY..)?, interrupted },
        })
    })
}

fn error_number(payload: &[u8]) -> Option<i32> {
    let bytes = payload.get(..4)?.try_into().ok()?;
    Some(i32::from_ne_bytes(bytes).saturating_neg())
}

/// Attributes: kind and value. What cannot be read ends them.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|attribute: NlaBuffer<&[u8]>| {
        let kind = attribute.kind();
        let length = usize::from(attribute.length());
        (kind, attribute.into_inner().get(4..length).unwrap_or_default())
    })
}

/// A number of 32 bits in network byte order.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

/// A number of 64 bits in network byte order.
pub(crate) fn long(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.get(..8)?.try_into().ok()?))
}

/// A named counter, from an entry of its list.
pub fn counter(entry: &[u8]) -> Option<Counter> {
    let mut counter = Counter::default();
    // NFTA_OBJ_NAME, NFTA_OBJ_DATA with NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS.
    for (kind, value) in attributes(entry) {
        match kind {
            2 => {
                let name = value.split(|byte| *byte == 0).next()?;
                counter.name = String::from_utf8_lossy(name).into_owned();
            }
            4 => {
                for (kind, value) in attributes(value) {
                    match kind {
                        1 => counter.bytes = long(value)?,
                        2 => counter.packets = long(value)?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (!counter.name.is_empty()).then_some(counter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn outcomes_carry_the_error_and_what_it_is_about() {
        let mut bytes = Vec::new();
        bytes.extend(20_u32.to_ne_bytes());
        bytes.extend(ERROR.to_ne_bytes());
        bytes.extend([0, 0]);
        bytes.extend(7_u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend((-2_i32).to_ne_bytes());
        let all: Vec<_> = answers(&bytes).collect();
        assert_eq!(all, [Answer::Outcome { sequence: 7, error: 2 }]);
    }

    proptest! {
        #[test]
        fn nothing_that_comes_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for answer in answers(&bytes) {
                if let Answer::Entry { content: entry, .. } = answer {
                    let _ = counter(entry);
                }
            }
            let _ = counter(&bytes);
        }
    }
}
