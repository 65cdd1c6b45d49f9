//! Internet checksum arithmetic (RFC 1071, RFC 1624).
//!
//! Words are added as they stand in the packet, without swapping: one's complement sums do not
//! depend on the byte order (RFC 1071 section 2).

/// Sum of two one's complement words.
#[inline(always)]
pub const fn add(a: u16, b: u16) -> u16 {
    let sum = a as u32 + b as u32;
    (sum + (sum >> 16)) as u16
}

/// What a checksum's complement changes by when words of `old` become `new`: the sum of `~old + new`
/// (RFC 1624 equation 3).
#[inline(always)]
pub const fn delta(old: u32, new: u32) -> u16 {
    let old = !old;
    add(add(old as u16, (old >> 16) as u16), add(new as u16, (new >> 16) as u16))
}

/// The same for one 16-bit word.
#[inline(always)]
pub const fn delta16(old: u16, new: u16) -> u16 {
    add(!old, new)
}

/// `checksum` after a change of `delta`.
#[inline(always)]
pub const fn apply(checksum: u16, delta: u16) -> u16 {
    !add(!checksum, delta)
}

/// The same for the checksum of UDP, where 0 means that there is none (RFC 768): one that is there, so
/// not 0, never becomes it. Adding the complement of the difference gives the other of the two forms of
/// zero (RFC 1624 section 3).
#[inline(always)]
pub const fn apply_udp(checksum: u16, delta: u16) -> u16 {
    add(checksum, !delta)
}

/// What decrementing the TTL by one changes: the word of TTL and protocol loses 0x0100.
pub const TTL_DECREMENT: u16 = (!0x0100_u16).to_be();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_rfc_1624_section_4() {
        // HC = 0xDD2F, m = 0x5555, m' = 0x3285: HC' = 0x0000.
        assert_eq!(apply(0xDD2F, delta16(0x5555, 0x3285)), 0x0000);
    }

    #[test]
    fn a_udp_checksum_never_becomes_zero_and_is_right_otherwise() {
        let values = [1, 2, 0x1234, 0x7fff, 0x8000, 0xedcb, 0xfffe, 0xffff];
        for checksum in values {
            for delta in [0, 1, 0x1234, 0x8000, 0xedcb, 0xfffe, 0xffff]
                .into_iter()
                .chain(values.map(|other| delta16(!other, checksum)))
            {
                let expected = match apply(checksum, delta) {
                    0 => 0xffff,
                    other => other,
                };
                assert_eq!(apply_udp(checksum, delta), expected, "{checksum:04x} {delta:04x}");
            }
        }
    }

    #[test]
    fn ttl_decrement_equals_the_change_of_its_word() {
        let old = u16::from_ne_bytes([64, 17]);
        let new = u16::from_ne_bytes([63, 17]);
        assert_eq!(apply(0x1234, TTL_DECREMENT), apply(0x1234, delta16(old, new)));
    }
}
