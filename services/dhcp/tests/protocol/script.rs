//! A conversation out of any octets, watched by the witness: what the fuzz target `dhcp_server`
//! runs, and what replays its corpus.
//!
//! | octet | then                      | what happens                             |
//! |-------|---------------------------|------------------------------------------|
//! | 0     | length (2), octets        | a broadcast message                      |
//! | 1     | length (2), octets        | a message to our address                 |
//! | 2     | tenths of a second (2)    | time passes                              |
//! | 3     | last octet of an address  | somebody answers the probe for it        |
//! | 4     |                           | the service is restarted                 |

use portcullis_dhcp::core::{Action, Arrival, Now, Server};
use portcullis_model::{Document, MacAddress, part::DhcpPart};

use crate::witness::Witness;

/// Runs the script and panics where something does not hold.
pub fn run(mut input: &[u8]) {
    let part = DhcpPart::of(&Document::default());
    let Some(interface) = part.servers.keys().next().cloned() else { return };
    let mut now = Now { unix_ms: 1_800_000_000_000, up_ms: 0 };
    let mut server = Server::new(&part, Vec::new(), now);
    let mut witness = Witness::new(part.clone());
    while let Some(operation) = take(&mut input, 1) {
        let actions = match operation {
            [operation @ 0..=1] => {
                let Some(message) = take_message(&mut input) else { return };
                witness.heard(message);
                let arrival = Arrival { interface: interface.clone(), broadcast: *operation == 0 };
                server.receive(message, &arrival, now)
            }
            [2] => {
                let Some(&[high, low]) = take(&mut input, 2) else { return };
                let end = now.up_ms + i64::from(u16::from_be_bytes([high, low])) * 100;
                pass(&mut server, &mut witness, &mut now, end)
            }
            [3] => {
                let Some(&[last]) = take(&mut input, 1) else { return };
                server.in_use(&interface, [192, 168, 77, last].into(), MacAddress([6; 6]), now)
            }
            [4] => {
                server = Server::new(&part, server.records(now), now);
                witness.forget_offers();
                Vec::new()
            }
            _ => return,
        };
        witness.check(&actions, now);
    }
}

fn pass(server: &mut Server, witness: &mut Witness, now: &mut Now, end: i64) -> Vec<Action> {
    while let Some(next) = server.next_deadline().filter(|next| *next <= end) {
        set(now, next.max(now.up_ms));
        let actions = server.tick(*now);
        witness.check(&actions, *now);
    }
    set(now, end);
    server.tick(*now)
}

fn set(now: &mut Now, up_ms: i64) {
    *now = Now { unix_ms: now.unix_ms.saturating_add_signed(up_ms - now.up_ms), up_ms };
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(taken)
}

fn take_message<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let &[high, low] = take(input, 2)? else { return None };
    take(input, usize::from(u16::from_be_bytes([high, low])).min(input.len()))
}
