//! Single cases, each from the RFC or the stack that it names.

use portcullis_datapath::tcp::Judgement::{Anew, InWindow, OutOfWindow};
use portcullis_datapath_abi::flow;
use proptest::prelude::*;

use crate::gate::*;

const CLIENT: u32 = 1000;
const SERVER: u32 = 9000;

fn syn(sequence: u32) -> Sent {
    Sent { flags: SYN, sequence, window: 64_240, scale: Some(7), ..Sent::default() }
}

fn syn_ack(sequence: u32, acknowledgment: u32) -> Sent {
    Sent { flags: SYN | ACK, acknowledgment, ..syn(sequence) }
}

fn data(sequence: u32, acknowledgment: u32, length: u32) -> Sent {
    Sent { flags: ACK, sequence, acknowledgment, length, window: 65_535, scale: None }
}

fn with(flags: u8, sent: Sent) -> Sent {
    Sent { flags, ..sent }
}

#[test]
fn a_connection_opens_carries_data_and_closes() {
    let gate = Gate::new();
    for (direction, sent) in [
        (0, syn(CLIENT)),
        (0, syn(CLIENT)),
        (1, syn_ack(SERVER, CLIENT + 1)),
        (1, syn_ack(SERVER, CLIENT + 1)),
        (0, data(CLIENT + 1, SERVER + 1, 0)),
        (0, data(CLIENT + 1, SERVER + 1, 100)),
        (1, data(SERVER + 1, CLIENT + 101, 5000)),
        (0, data(CLIENT + 101, SERVER + 5001, 0)),
        (0, with(FIN | ACK, data(CLIENT + 101, SERVER + 5001, 0))),
        (1, with(FIN | ACK, data(SERVER + 5001, CLIENT + 102, 0))),
        (0, data(CLIENT + 102, SERVER + 5002, 0)),
    ] {
        assert_eq!(gate.judge(direction, &sent), InWindow, "{sent:?}");
    }
    let bits = flow::SYN | flow::ACK | flow::FIN;
    assert!(gate.sides().iter().all(|side| side.seen & bits == bits && side.seen & flow::RST == 0));
    // The same port again (RFC 9293 section 3.6.1): a new connection.
    assert_eq!(gate.judge(0, &syn(77_777)), Anew);
    assert_eq!(gate.judge(1, &syn(77_777)), OutOfWindow, "from the other side it is none of these");
}

#[test]
fn without_a_syn_there_is_no_connection() {
    for sent in [
        data(1, 1, 0),
        data(1, 1, 10),
        with(FIN | ACK, data(1, 1, 0)),
        with(RST, data(1, 0, 0)),
        with(RST | ACK, data(1, 1, 0)),
        syn_ack(1, 1),
        with(0, data(1, 1, 0)),
        with(FIN, data(1, 1, 0)),
        with(SYN | FIN, data(1, 1, 0)),
        with(SYN | RST, data(1, 1, 0)),
        with(FIN | SYN | RST | ACK, data(1, 1, 0)),
    ] {
        for direction in [0, 1] {
            assert_eq!(Gate::new().judge(direction, &sent), OutOfWindow, "{direction} {sent:?}");
        }
    }
}

#[test]
fn an_answer_must_acknowledge_the_syn() {
    let gate = Gate::new();
    assert_eq!(gate.judge(0, &syn(CLIENT)), InWindow);
    for wrong in [0, CLIENT, CLIENT + 2, CLIENT.wrapping_sub(70_000), u32::MAX] {
        assert_eq!(gate.judge(1, &syn_ack(SERVER, wrong)), OutOfWindow, "{wrong}");
        let refusal = with(RST | ACK, data(0, wrong, 0));
        assert_eq!(gate.judge(1, &refusal), OutOfWindow, "{wrong}");
    }
    assert_eq!(gate.judge(1, &with(RST, data(0, CLIENT + 1, 0))), OutOfWindow, "RST without ACK");
    assert_eq!(gate.judge(1, &with(RST | ACK, data(0, CLIENT + 1, 0))), InWindow, "refused");
    assert_eq!(gate.judge(0, &syn(CLIENT + 5)), Anew);
}

#[test]
fn a_simultaneous_open_is_a_connection() {
    // RFC 9293 figure 7; RFC 5382 REQ-2.
    let gate = Gate::new();
    for (direction, sent) in [
        (0, syn(100)),
        (1, syn(300)),
        (0, syn_ack(100, 301)),
        (1, syn_ack(300, 101)),
        (0, data(101, 301, 10)),
        (1, data(301, 111, 10)),
        (0, data(111, 311, 0)),
    ] {
        assert_eq!(gate.judge(direction, &sent), InWindow, "{sent:?}");
    }
}

#[test]
fn a_server_with_syn_cookies_may_answer_twice_differently() {
    let gate = Gate::new();
    for (direction, sent) in [
        (0, syn(CLIENT)),
        (1, syn_ack(SERVER, CLIENT + 1)),
        (0, syn(CLIENT)),
        (1, syn_ack(SERVER + 123_456, CLIENT + 1)),
        (0, data(CLIENT + 1, SERVER + 123_457, 20)),
        (1, data(SERVER + 123_457, CLIENT + 21, 20)),
    ] {
        assert_eq!(gate.judge(direction, &sent), InWindow, "{sent:?}");
    }
}

#[test]
fn data_in_the_syn_is_carried_and_may_be_left_unacknowledged() {
    // TCP Fast Open (RFC 7413 section 3): the server may take all of it or nothing.
    for accepted in [0, 500] {
        let gate = Gate::new();
        let first = Sent { length: 500, ..syn(CLIENT) };
        for (direction, sent) in [
            (0, first),
            (1, syn_ack(SERVER, CLIENT + 1 + accepted)),
            (0, data(CLIENT + 1 + accepted, SERVER + 1, 500)),
            (1, data(SERVER + 1, CLIENT + 501 + accepted, 1)),
        ] {
            assert_eq!(gate.judge(direction, &sent), InWindow, "{sent:?}");
        }
    }
}

#[test]
fn keepalives_and_probes_of_a_closed_window_pass() {
    let gate = established(CLIENT, SERVER);
    // RFC 1122 section 4.2.3.6, both forms.
    assert_eq!(gate.judge(0, &data(CLIENT, SERVER + 1, 0)), InWindow);
    assert_eq!(gate.judge(0, &data(CLIENT, SERVER + 1, 1)), InWindow);
    assert_eq!(gate.judge(1, &data(SERVER + 1, CLIENT + 1, 0)), InWindow);
    // The server fills the client's window, which the client then closes.
    assert_eq!(gate.judge(1, &data(SERVER + 1, CLIENT + 1, 65_535)), InWindow);
    let closed = Sent { window: 0, ..data(CLIENT + 1, SERVER + 65_536, 0) };
    assert_eq!(gate.judge(0, &closed), InWindow);
    // Linux probes with an old number, BSD with one byte beyond the window.
    assert_eq!(gate.judge(1, &data(SERVER + 65_535, CLIENT + 1, 0)), InWindow);
    assert_eq!(gate.judge(1, &data(SERVER + 65_536, CLIENT + 1, 1)), InWindow);
    assert_eq!(gate.judge(1, &data(SERVER + 65_537, CLIENT + 1, 0)), InWindow, "behind that byte");
    assert_eq!(gate.judge(1, &data(SERVER + 65_538, CLIENT + 1, 1)), OutOfWindow, "not two");
}

#[test]
fn windows_are_scaled_only_if_both_sides_offer_it() {
    for (mine, theirs, shift) in
        [(Some(7), Some(3), 7), (Some(7), None, 0), (None, Some(7), 0), (Some(200), Some(0), 14)]
    {
        let gate = Gate::new();
        let window = 1000_u16;
        let last = Sent { window, ..data(CLIENT + 1, SERVER + 1, 0) };
        for (direction, sent) in [
            (0, Sent { scale: mine, window, ..syn(CLIENT) }),
            (1, Sent { scale: theirs, ..syn_ack(SERVER, CLIENT + 1) }),
            (0, last),
        ] {
            assert_eq!(gate.judge(direction, &sent), InWindow, "{sent:?}");
        }
        // The server may send to the end of the client's window, and one byte as a probe.
        let end = SERVER + 2 + (u32::from(window) << shift);
        assert_eq!(gate.judge(1, &data(end, CLIENT + 1, 0)), InWindow, "{mine:?} {theirs:?}");
        assert_eq!(gate.judge(1, &data(end + 1, CLIENT + 1, 0)), OutOfWindow);
    }
}

#[test]
fn a_host_that_forgot_its_connection_opens_a_new_one_with_the_same_port() {
    // RFC 9293 figure 9: the peer remembers. Its challenge leads to a RST that ends the old one.
    let gate = established(CLIENT, SERVER);
    assert_eq!(gate.judge(0, &syn(500_000_000)), InWindow);
    assert_eq!(gate.judge(1, &data(SERVER + 1, CLIENT + 1, 0)), InWindow);
    assert_eq!(gate.judge(0, &with(RST, data(CLIENT + 1, 0, 0))), InWindow);
    assert_eq!(gate.judge(0, &syn(500_000_000)), Anew);

    // The peer has forgotten it too and accepts.
    let gate = established(CLIENT, SERVER);
    assert_eq!(gate.judge(0, &syn(500_000_000)), InWindow);
    assert_eq!(
        gate.judge(1, &syn_ack(700_000_000, 500_000_002)),
        OutOfWindow,
        "not what was asked"
    );
    for (direction, sent) in [
        (1, syn_ack(700_000_000, 500_000_001)),
        (0, data(500_000_001, 700_000_001, 10)),
        (1, data(700_000_001, 500_000_011, 10)),
    ] {
        assert_eq!(gate.judge(direction, &sent), InWindow, "{sent:?}");
    }
    assert_eq!(
        gate.judge(0, &data(CLIENT + 1, SERVER + 1, 10)),
        OutOfWindow,
        "the old one is over"
    );

    // Without that SYN nobody can make a connection begin anew.
    let gate = established(CLIENT, SERVER);
    assert_eq!(gate.judge(1, &syn_ack(700_000_000, 500_000_001)), OutOfWindow);
    assert_eq!(gate.judge(1, &syn(700_000_000)), OutOfWindow);
}

#[test]
fn late_copies_of_its_syns_do_not_make_a_connection_begin_anew() {
    let gate = established(CLIENT, SERVER);
    for (direction, sent) in [
        (0, data(CLIENT + 1, SERVER + 1, 1460)),
        (1, data(SERVER + 1, CLIENT + 1461, 1460)),
        (0, syn(CLIENT)),
        (1, syn_ack(SERVER, CLIENT + 1)),
        // Begun anew, the connection would have sent nothing yet that this could acknowledge.
        (0, data(CLIENT + 1461, SERVER + 1461, 1460)),
        (1, data(SERVER + 1461, CLIENT + 2921, 0)),
    ] {
        assert_eq!(gate.judge(direction, &sent), InWindow, "{sent:?}");
    }
}

#[test]
fn a_peer_that_knows_an_older_connection_is_made_to_forget_it() {
    // RFC 9293 figure 9 again, but here the router has forgotten it as well.
    let gate = Gate::new();
    for (direction, sent, judgement) in [
        (0, syn(CLIENT), InWindow),
        (0, with(RST, data(555, 0, 0)), OutOfWindow),
        (1, data(SERVER, 555, 10), OutOfWindow),
        (1, data(SERVER, 555, 0), InWindow),
        (0, with(RST, data(556, 0, 0)), OutOfWindow),
        (0, with(RST, data(555, 0, 0)), InWindow),
        (0, syn(CLIENT), InWindow),
        (1, syn_ack(SERVER + 50_000, CLIENT + 1), InWindow),
        (0, data(CLIENT + 1, SERVER + 50_001, 1), InWindow),
    ] {
        assert_eq!(gate.judge(direction, &sent), judgement, "{sent:?}");
    }
}

#[test]
fn options_after_padding_are_found_and_malformed_ones_end_the_list() {
    let scale_of = |options: &[u8]| {
        let gate = Gate::new();
        let judged = gate.judge_frame(0, &frame(&syn(CLIENT), options), 0);
        assert_eq!(judged, InWindow);
        gate.sides()[0].scale
    };
    assert_eq!(scale_of(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 9]), 9, "nine paddings");
    let mut padded = vec![1; 36];
    padded.extend([1, 3, 3, 9]);
    assert_eq!(scale_of(&padded), 9, "thirty-seven");
    // Linux: MSS, SACK, timestamps, padding, scale.
    let linux = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    assert_eq!(scale_of(&linux), 7);
    for malformed in [
        [0, 3, 3, 7],
        [3, 0, 0, 0],
        [3, 1, 0, 0],
        [3, 4, 7, 7],
        [3, 2, 3, 3],
        [8, 10, 0, 0],
        [1, 1, 3, 3],
        [1, 1, 1, 3],
        [255, 255, 255, 255],
    ] {
        assert_eq!(scale_of(&malformed), flow::NO_SCALE, "{malformed:?}");
    }
}

/// Before the handshake is done too: without the option a window is what the header says.
#[test]
fn a_blind_reset_of_a_connection_without_scale_does_not_pass_during_the_handshake() {
    let gate = Gate::new();
    let opening = Sent { flags: SYN, sequence: 5_000_000, window: 65_535, ..Sent::default() };
    let answer = Sent {
        flags: SYN | ACK,
        sequence: 9_000_000,
        acknowledgment: 5_000_001,
        window: 65_535,
        ..Sent::default()
    };
    assert_eq!(gate.judge(0, &opening), InWindow);
    assert_eq!(gate.judge(1, &answer), InWindow);
    let reset = |sequence| Sent { flags: RST, sequence, ..Sent::default() };
    assert_eq!(gate.judge(0, &reset(5_000_001 - 65_536)), OutOfWindow, "a window and one before");
    assert_eq!(gate.judge(0, &reset(5_000_001 - 1_000_000)), OutOfWindow);
    assert_eq!(gate.judge(0, &reset(5_000_001)), InWindow);
}

/// What must hold for any segment with these numbers, on an established connection at rest.
fn acceptable(sequence: u32, length: u32, acknowledgment: u32, sender: u32, receiver: u32) -> bool {
    let offset = |number: u32, from: u32| i64::from(number.wrapping_sub(from) as i32);
    let (first, acknowledged) = (offset(sequence, sender), offset(acknowledgment, receiver));
    let in_sequence = first <= 65_536 && first + i64::from(length) >= -65_535;
    in_sequence && (-66_000..=0).contains(&acknowledged)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    /// RFC 5961 sections 3 to 5: what an attacker sends who does not see the connection.
    #[test]
    fn blind_segments_outside_the_window_never_pass(
        client: u32, server: u32, direction in 0..2_usize,
        // Anywhere, and around the edges of the window.
        sequence in prop_oneof![
            any::<u32>(),
            (-70_000..70_000_i32).prop_map(|offset| offset as u32),
        ],
        acknowledgment in prop_oneof![
            any::<u32>(),
            (-70_000..1000_i32).prop_map(|offset| offset as u32),
        ],
        length in 0..1460_u32,
        flags in prop_oneof![
            Just(ACK), Just(RST), Just(RST | ACK), Just(FIN | ACK), Just(FIN), Just(0),
            Just(SYN | ACK),
        ],
    ) {
        let gate = established(client, server);
        let rest = gate.sides();
        let (mine, theirs) =
            if direction == 0 { (client, server) } else { (server, client) };
        let (mine, theirs) = (mine.wrapping_add(1), theirs.wrapping_add(1));
        let sent = Sent {
            flags,
            sequence: mine.wrapping_add(sequence),
            acknowledgment: theirs.wrapping_add(acknowledgment),
            window: 100,
            length: if flags == ACK { length } else { 0 },
            scale: None,
        };
        let taken = sent.end().wrapping_sub(sent.sequence);
        let judgement = gate.judge(direction, &sent);
        let numbers = acceptable(
            sent.sequence, taken, if flags & RST != 0 { theirs } else { sent.acknowledgment },
            mine, theirs,
        );
        let expected = flags & (ACK | RST) != 0 && numbers;
        prop_assert_eq!(judgement == InWindow, expected, "{:?}", sent);
        if !expected {
            prop_assert_eq!(gate.sides(), rest, "nothing was noted");
        }
    }

    /// What passes the entry is in the window, and noted the same way; what does not is unchanged, and
    /// once both sides have answered, it is not in the window.
    #[test]
    fn the_entry_judges_plain_segments_as_the_whole_tracking_does(
        numbers: [u32; 2], direction in 0..2_usize,
        ends in prop::array::uniform2(0..3000_u32),
        limits in prop::array::uniform2(-2000..200_000_i32),
        windows: [u16; 2], scales in prop::array::uniform2(0..15_u8),
        seen in prop::array::uniform2(prop::sample::select(
            vec![0, flow::SYN, flow::SYN | 16, flow::SYN | flow::ACK, flow::SYN | flow::ACK | 16,
                 flow::SYN | flow::ACK | flow::FIN],
        )),
        sequence in prop_oneof![-3000..3000_i32, -200_000..200_000_i32, any::<i32>()],
        acknowledgment in prop_oneof![-3000..3000_i32, -200_000..200_000_i32, any::<i32>()],
        window: u16, length in prop_oneof![Just(0_u32), 0..1500_u32, 0..65_000_u32],
    ) {
        let side = |index: usize| flow::Side {
            end: numbers[index].wrapping_add(ends[index]),
            max_end: numbers[index].wrapping_add_signed(limits[index]),
            window: windows[index],
            scale: scales[index],
            seen: seen[index],
            ..flow::Side::default()
        };
        let rest = [side(0), side(1)];
        let sent = Sent {
            flags: ACK,
            sequence: numbers[direction].wrapping_add_signed(sequence),
            acknowledgment: numbers[1 - direction].wrapping_add_signed(acknowledgment),
            window,
            length,
            scale: None,
        };
        let (entry, whole) = (Gate::at(rest), Gate::at(rest));
        let passes = entry.passes_entry(direction, &sent);
        let judgement = whole.judge(direction, &sent);
        if passes {
            prop_assert_eq!(judgement, InWindow);
            prop_assert_eq!(entry.sides(), whole.sides());
        } else {
            prop_assert_eq!(entry.sides(), rest);
            let established = seen[direction] & flow::ACK != 0
                && seen[1 - direction] & (flow::ACK | 16) != 0;
            prop_assert!(!established || judgement == OutOfWindow);
        }
    }

    /// Nobody but the initiator can start anything with a SYN on an established connection.
    #[test]
    fn a_syn_changes_nothing_of_an_established_connection(
        client: u32, server: u32, sequence: u32, direction in 0..2_usize, length in 0..100_u32,
    ) {
        let gate = established(client, server);
        let judgement = gate.judge(direction, &Sent { length, ..syn(sequence) });
        prop_assert_eq!(judgement == InWindow, direction == 0 && length == 0);
        for (direction, mine, theirs) in [(0, client, server), (1, server, client)] {
            let sent = data(mine.wrapping_add(1), theirs.wrapping_add(1), 100);
            prop_assert_eq!(gate.judge(direction, &sent), InWindow);
            let far = data(mine.wrapping_add(100_000), theirs.wrapping_add(1), 100);
            prop_assert_eq!(gate.judge(direction, &far), OutOfWindow);
        }
    }

    /// Any segments whatever: no panic, a judgement that is not "in window" notes nothing (which
    /// `Gate::judge` asserts), and the same segment twice is as once: XDP may judge one that it then
    /// leaves to tcx.
    #[test]
    fn anything_in_any_order_is_judged(
        segments in prop::collection::vec(
            (0..2_usize, any::<u8>(), 0..8_u32, 0..8_u32, any::<u16>(), 0..3_u32,
             prop::option::of(any::<u8>())),
            0..40,
        ),
    ) {
        let gate = Gate::new();
        for (direction, flags, sequence, acknowledgment, window, length, scale) in segments {
            let sent = Sent { flags, sequence, acknowledgment, window, length, scale };
            if gate.judge(direction, &sent) == InWindow {
                let sides = gate.sides();
                prop_assert_eq!(gate.judge(direction, &sent), InWindow, "twice: {:?}", sent);
                prop_assert_eq!(gate.sides(), sides);
            }
        }
    }
}
