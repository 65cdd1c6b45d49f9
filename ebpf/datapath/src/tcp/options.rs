//! Options of a SYN: the window's scale, and the MSS that connections may use.

use portcullis_datapath_abi::{flow::NO_SCALE, nat::MSS_BY_MTU};

use super::MAX_SCALE;
use crate::{
    Frame, FrameMut,
    checksum::delta16,
    packet::tcp::{OPTION_END, OPTION_MSS, OPTION_NOTHING, OPTION_SCALE},
};

/// Steps through the options of a SYN: one for each option, and one for each pair of paddings. Hosts need
/// five to seven; the kernel's verifier walks each of them for each way that leads here.
const MAX_STEPS: u32 = 10;

/// What the options of a SYN say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options {
    /// Shift of the window, at most 14; [`NO_SCALE`] if it is not offered.
    pub scale: u8,
    /// Offset of the maximum segment size behind the TCP header's beginning, 0 if there is none.
    pub mss_at: u8,
}

/// Reads the options of a SYN whose header is at `at`. Those behind a malformed one do not count,
/// as hosts do not read them either.
#[inline(always)]
pub fn options<F: Frame>(frame: &F, at: u32) -> Options {
    let word = read_options(frame, at);
    Options { scale: word as u8, mss_at: (word >> 8) as u8 }
}

/// The scale in the low byte, the offset of the MSS in the next: functions in the kernel return
/// integers.
#[inline(never)]
fn read_options<F: Frame>(frame: &F, at: u32) -> u32 {
    let mut found = u32::from(NO_SCALE);
    let Some([header]) = frame.copy::<1>(at + 12) else {
        return found;
    };
    let Some([again]) = frame.copy::<1>(at + 12) else {
        return found;
    };
    // Nothing, but the kernel's verifier does not know: it would follow each kind of option in each
    // place through the rest of the program.
    let nothing = u32::from(header).wrapping_sub(again.into());
    let end = at + (u32::from(header >> 4) << 2);
    let mut place = at + 20;
    let mut steps = 0;
    while steps < MAX_STEPS {
        steps += 1;
        place = read_option(frame, at, (place, end), &mut found);
        place = place.wrapping_add(nothing);
        found = found.wrapping_add(nothing);
        if place >= end {
            break;
        }
    }
    if place < end {
        // More options than are looked at (no host sends them, and twenty of two bytes would fit): a scale
        // may be among them, whatever it is. The window counts as the largest that it may be.
        found = found & !0xff | u32::from(MAX_SCALE);
    }
    found
}

/// Reads the option at a place before `end`; where the next one is, `end` if there is none.
#[inline(always)]
fn read_option<F: Frame>(frame: &F, at: u32, (place, end): (u32, u32), found: &mut u32) -> u32 {
    let Some([kind, size]) = frame.copy::<2>(place) else {
        return end;
    };
    if kind == OPTION_NOTHING {
        // Two at once, without a branch.
        return place + 1 + u32::from(size == OPTION_NOTHING);
    }
    let next = place + u32::from(size);
    if kind == OPTION_END || size < 2 || next > end {
        return end;
    }
    if kind == OPTION_MSS && size == 4 {
        *found = *found & 0xff | (place + 2 - at) << 8;
    }
    if kind == OPTION_SCALE
        && size == 3
        && let Some([shift]) = frame.copy::<1>(place + 2)
    {
        let shift = if shift > MAX_SCALE { MAX_SCALE } else { shift };
        *found = *found & !0xff | u32::from(shift);
    }
    next
}

/// Lowers the maximum segment size in a SYN to `limit`, if it is larger; `at` is the offset of its
/// header. `None` if the frame is cut short, which may leave it half changed: it must be dropped.
#[inline(always)]
pub fn clamp_mss<F: FrameMut>(frame: &mut F, at: u32, limit: u16) -> Option<()> {
    let offset = u32::from(options(frame, at).mss_at);
    if offset == 0 {
        return Some(());
    }
    let old = frame.copy::<2>(at + offset)?;
    if u16::from_be_bytes(old) <= limit {
        return Some(());
    }
    let new = limit.to_be_bytes();
    let change = delta16(u16::from_ne_bytes(old), u16::from_ne_bytes(new));
    // At an odd offset its bytes belong to two words of the sum (RFC 1071 section 2 (B)).
    let change = if offset & 1 == 1 { change.swap_bytes() } else { change };
    frame.set(at + offset, &new)?;
    frame.update_transport_checksum(at as usize + 16, 0, change, false)
}

/// The largest MSS that fits both ways of a connection, between zones whose settings are `from` and
/// `to` ([`portcullis_datapath_abi::nat::mss`]); 0 if neither zone wants it lowered. The MTUs are
/// those of the devices on both sides, 0 if one is not known.
#[inline(always)]
pub fn mss_limit(settings: (u16, u16), mtus: (u16, u16), ipv6: bool) -> u16 {
    let (mine, theirs) = mtus;
    let mtu = if theirs != 0 && (mine == 0 || theirs < mine) { theirs } else { mine };
    let headers = if ipv6 { 60 } else { 40 };
    let by_mtu = mtu.saturating_sub(headers);
    let mut limit = 0;
    for setting in [settings.0, settings.1] {
        if setting == 0 {
            continue;
        }
        for wanted in [setting, by_mtu] {
            if wanted != 0 && wanted != MSS_BY_MTU && (limit == 0 || wanted < limit) {
                limit = wanted;
            }
        }
    }
    limit
}
