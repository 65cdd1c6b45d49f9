//! Options of a SYN: the window's scale, and the MSS that connections may use.

use portcullis_datapath_abi::{flow::NO_SCALE, nat::MSS_BY_MTU};

use super::MAX_SCALE;
use crate::{
    Frame, FrameMut,
    checksum::delta16,
    packet::tcp::{OPTION_END, OPTION_MSS, OPTION_NOTHING, OPTION_SCALE},
};

/// Words of options that a header has room for (RFC 9293 section 3.1).
const MAX_WORDS: u32 = 10;

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
    let Some([header]) = frame.copy::<1>(at + 12) else {
        return NO_SCALE.into();
    };
    let length = u32::from(header >> 4) << 2;
    let mut reader = Reader { state: KIND, found: NO_SCALE.into() };
    for word in 0..MAX_WORDS {
        let offset = 20 + word * 4;
        if offset >= length {
            break;
        }
        let Some([a, b, c, d]) = frame.copy::<4>(at + offset) else {
            break;
        };
        reader.read(a, offset);
        reader.read(b, offset + 1);
        reader.read(c, offset + 2);
        reader.read(d, offset + 3);
    }
    let found = reader.found;
    // The option may say that it is longer than the header.
    if (found >> 8) + 2 > length { found & 0xff } else { found }
}

/// An automaton that reads one byte after the other, by tables and without a branch: the kernel's verifier
/// would follow each kind of option in each place through all that comes.
struct Reader {
    state: u8,
    /// As `read_options` returns it.
    found: u32,
}

// States: what the next byte is. 1 to 38: so many bytes of an option are passed over.
const KIND: u8 = 0;
const ENDED: u8 = 40;
const LENGTH: u8 = 41;
const LENGTH_OF_MSS: u8 = 42;
const LENGTH_OF_SCALE: u8 = 43;
const SCALE: u8 = 44;
/// The first of the two bytes of the MSS.
const MSS: u8 = 45;

/// Room for states, and for bytes as [`Tables::class`] has them.
const ROOM: usize = 64;

struct Tables {
    /// A byte, those above 40 as 41: no kind that is known and no length that there is room for.
    class: [u8; 256],
    /// A byte as a scale.
    scale: [u8; 256],
    /// The state behind a byte, by state and class.
    next: [u8; ROOM * ROOM],
    /// Bits of `found` that a byte in this state is.
    is_scale: [u16; ROOM],
    /// Bits of `found` that the place of this state is.
    is_mss: [u16; ROOM],
}

static TABLES: Tables = Tables::new();

impl Tables {
    #[allow(clippy::indexing_slicing, reason = "made when the program is compiled, or not at all")]
    const fn new() -> Self {
        let mut tables = Self {
            class: [0; 256],
            scale: [0; 256],
            next: [ENDED; ROOM * ROOM],
            is_scale: [0; ROOM],
            is_mss: [0; ROOM],
        };
        let mut byte = 0;
        while byte < 256 {
            tables.class[byte] = if byte > 40 { 41 } else { byte as u8 };
            tables.scale[byte] = if byte > MAX_SCALE as usize { MAX_SCALE } else { byte as u8 };
            byte += 1;
        }
        let mut index = 0;
        while index < ROOM * ROOM {
            tables.next[index] = Self::next((index / ROOM) as u8, (index % ROOM) as u8);
            index += 1;
        }
        tables.is_scale[SCALE as usize] = 0xff;
        tables.is_mss[MSS as usize] = 0xff00;
        tables
    }

    const fn next(state: u8, class: u8) -> u8 {
        match (state, class) {
            (KIND, OPTION_END) => ENDED,
            (KIND, OPTION_NOTHING) => KIND,
            (KIND, OPTION_MSS) => LENGTH_OF_MSS,
            (KIND, OPTION_SCALE) => LENGTH_OF_SCALE,
            (KIND, _) => LENGTH,
            (1..=38, _) => state - 1,
            (LENGTH_OF_MSS, 4) => MSS,
            (LENGTH_OF_SCALE, 3) => SCALE,
            (LENGTH | LENGTH_OF_MSS | LENGTH_OF_SCALE, 2..=40) => class - 2,
            (SCALE, _) => KIND,
            (MSS, _) => 1,
            _ => ENDED,
        }
    }
}

impl Reader {
    /// Reads a byte at an offset behind the TCP header's beginning.
    #[inline(always)]
    #[allow(clippy::indexing_slicing, reason = "all indices are masked")]
    fn read(&mut self, byte: u8, offset: u32) {
        let state = usize::from(self.state) % ROOM;
        let class = usize::from(TABLES.class[usize::from(byte)]) % ROOM;
        let is_scale = u32::from(TABLES.is_scale[state]);
        let is_mss = u32::from(TABLES.is_mss[state]);
        let scale = u32::from(TABLES.scale[usize::from(byte)]);
        self.found = self.found & !(is_scale | is_mss) | scale & is_scale | offset << 8 & is_mss;
        self.state = TABLES.next[state * ROOM + class];
    }
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
