//! Sets and their elements as messages.

use super::{attribute::Writer, expression::write_verdict};
use crate::ruleset::{Element, Set, SetData, SetKind, Value};

/// `NFT_SET_*`.
const INTERVAL: u32 = 0x4;
const MAP: u32 = 0x8;
const TIMEOUT: u32 = 0x10;
const EVAL: u32 = 0x20;
/// Number of verdicts as a data type (`NFT_DATA_VERDICT`).
const VERDICT_TYPE: u32 = 0xffff_ff00;
/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;
/// Bytes of elements in one message: their list is one attribute, of less than 65,536.
const ELEMENTS: usize = 48 * 1024;

/// Writes the attributes of `NFT_MSG_NEWSET`.
pub(super) fn write_set(writer: &mut Writer, table: &str, set: &Set, id: u32) {
    // NFTA_SET_TABLE, _NAME, _FLAGS, _KEY_TYPE, _KEY_LEN.
    writer.text(1, table);
    writer.text(2, &set.name);
    writer.number(3, flags(set));
    writer.number(4, set.key as u32);
    writer.number(5, length(set.key.length()));
    // NFTA_SET_DATA_TYPE, _DATA_LEN.
    match set.data {
        None => {}
        Some(SetData::Verdicts) => {
            writer.number(6, VERDICT_TYPE);
            writer.number(7, 0);
        }
        Some(SetData::Values(kind)) => {
            writer.number(6, kind as u32);
            writer.number(7, length(kind.length()));
        }
    }
    // NFTA_SET_ID.
    writer.number(10, id);
    if let SetKind::Dynamic { size, timeout_s } = set.kind {
        // NFTA_SET_DESC with NFTA_SET_DESC_SIZE.
        writer.nested(9, |writer| writer.number(1, size));
        if let Some(seconds) = timeout_s {
            // NFTA_SET_TIMEOUT, milliseconds.
            writer.long(11, u64::from(seconds) * 1000);
        }
    }
    writer.bytes(13, &user_data(set));
}

fn flags(set: &Set) -> u32 {
    let kind = match set.kind {
        SetKind::Values => 0,
        SetKind::Intervals => INTERVAL,
        SetKind::Dynamic { timeout_s: None, .. } => EVAL,
        SetKind::Dynamic { timeout_s: Some(_), .. } => EVAL | TIMEOUT,
    };
    if set.data.is_some() { kind | MAP } else { kind }
}

/// What nft notes for itself, so that it lists values in the right byte order: key's order (0),
/// data's order (1), whether data are ranges (6); one byte kind, one byte length, a number.
fn user_data(set: &Set) -> Vec<u8> {
    let mut bytes = vec![0, 4];
    bytes.extend(set.key.byte_order().to_ne_bytes());
    if let Some(data) = set.data {
        let order = match data {
            SetData::Verdicts => 0,
            SetData::Values(kind) => kind.byte_order(),
        };
        bytes.extend([1, 4]);
        bytes.extend(order.to_ne_bytes());
        bytes.extend([6, 4, 0, 0, 0, 0]);
    }
    bytes
}

/// One entry of a list of elements.
struct Entry<'a> {
    key: Value,
    /// A gap begins here.
    end: bool,
    /// No gap follows: the range goes to the greatest value.
    open: bool,
    data: Option<&'a Element>,
}

/// Writes elements as the content of messages `NFT_MSG_NEWSETELEM`; `message` begins each.
pub(super) fn write_elements(
    table: &str,
    set: &Set,
    id: u32,
    mut message: impl FnMut(&mut dyn FnMut(&mut Writer)),
) {
    let entries = entries(set);
    let each = set.key.length() + 64;
    for part in entries.chunks((ELEMENTS / each).max(1)) {
        message(&mut |writer| {
            // NFTA_SET_ELEM_LIST_TABLE, _SET, _SET_ID, _ELEMENTS.
            writer.text(1, table);
            writer.text(2, &set.name);
            writer.number(4, id);
            writer.nested(3, |writer| {
                for (entry, number) in part.iter().zip(1_u16..) {
                    writer.nested(number, |writer| write_entry(writer, entry));
                }
            });
        });
    }
}

fn write_entry(writer: &mut Writer, entry: &Entry<'_>) {
    // NFTA_SET_ELEM_FLAGS, _KEY, _DATA; inside the latter NFTA_DATA_VALUE or a verdict.
    if entry.end {
        writer.number(3, INTERVAL_END);
    }
    writer.nested(1, |writer| writer.bytes(1, &entry.key.bytes()));
    match entry.data {
        Some(Element::Verdict(_, verdict)) => {
            writer.nested(2, |writer| write_verdict(writer, verdict));
        }
        Some(Element::Mapped(_, data)) => {
            writer.nested(2, |writer| writer.bytes(1, &data.bytes()));
        }
        _ => {}
    }
    if entry.open {
        // NFTA_SET_ELEM_USERDATA, of kind 1: a number with a flag.
        let [a, b, c, d] = 1_u32.to_ne_bytes();
        writer.bytes(6, &[1, 4, a, b, c, d]);
    }
}

/// Ranges are written as where they begin and where the next gap begins, the first gap included.
fn entries(set: &Set) -> Vec<Entry<'_>> {
    let mut entries = Vec::with_capacity(set.elements.len() * 2 + 1);
    let intervals = set.kind == SetKind::Intervals;
    for element in &set.elements {
        let (first, last) = match element {
            Element::Value(value) | Element::Verdict(value, _) | Element::Mapped(value, _) => {
                (value, value)
            }
            Element::Range(first, last) => (first, last),
        };
        if intervals && entries.is_empty() && *first != first.least() {
            let key = first.least();
            entries.push(Entry { key, end: true, open: false, data: None });
        }
        let next = if intervals { last.successor() } else { None };
        let open = intervals && next.is_none();
        entries.push(Entry { key: first.clone(), end: false, open, data: Some(element) });
        if let Some(key) = next {
            entries.push(Entry { key, end: true, open: false, data: None });
        }
    }
    entries
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
