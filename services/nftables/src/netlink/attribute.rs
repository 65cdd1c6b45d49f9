//! Writing netlink attributes: length, kind, value, padding to four bytes.

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// Length and kind.
const HEADER: usize = 4;

/// Bytes of messages while they are written.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    /// Something did not fit the length field of its attribute or message.
    overflow: bool,
}

impl Writer {
    /// Length so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes, unless something was too long.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        (!self.overflow).then_some(self.bytes)
    }

    /// Bytes without a header.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Puts `value` at `place`, which was written before.
    pub(crate) fn overwrite(&mut self, place: usize, value: &[u8]) {
        match self.bytes.get_mut(place..place + value.len()) {
            Some(target) => target.copy_from_slice(value),
            None => self.overflow = true,
        }
    }

    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.begin(kind);
        self.raw(value);
        self.end(start);
    }

    pub(crate) fn byte(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    /// A number in network byte order, as nf_tables has them.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// The same with 64 bits.
    pub(crate) fn long(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A text that ends with a zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let start = self.begin(kind);
        self.raw(value.as_bytes());
        self.raw(&[0]);
        self.end(start);
    }

    /// Attributes inside an attribute.
    pub(crate) fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.begin(kind | NESTED);
        content(self);
        self.end(start);
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.raw(&[0, 0]);
        self.raw(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.overwrite(start, &length.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(HEADER), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_are_padded() {
        let mut writer = Writer::default();
        writer.nested(4, |inner| {
            inner.text(1, "ab");
            inner.number(2, 7);
        });
        let expected = [
            20, 0, 4, 0x80, // nested, 20 bytes
            7, 0, 1, 0, b'a', b'b', 0, 0, // padded text
            8, 0, 2, 0, 0, 0, 0, 7,
        ];
        assert_eq!(writer.finish(), Some(expected.to_vec()));
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let mut writer = Writer::default();
        writer.bytes(1, &[0; 70_000]);
        assert_eq!(writer.finish(), None);
    }
}
