//! An XDP program that writes a frame of one of many flows and hands it on.
//!
//! It writes all headers each time: the kernel uses the pages of live frames again as they were left
//! by whoever had them last.

use anyhow::{Context, Result, ensure};

use super::{
    bpf::{TailCall, Words, XdpProgram, instruction, load_map, load_value},
    frame::{FIRST_PORT, HEADER_CHECKSUM, PORTS, SEQUENCE, Template},
};

/// Which flow a frame is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// A random one.
    Random,
    /// One after the other, from the first on.
    InTurn,
    /// One after the other, in an order without neighbours.
    Scattered,
    /// One after the other, this many (a power of two) segments of each in a row.
    Runs(u32),
}

/// Which end's port numbers the flow; beyond [`PORTS`] flows the address of the other end does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Numbered {
    /// The source's port.
    Source,
    /// The destination's port.
    Destination,
}

/// What happens to the frame then.
pub enum Then<'a> {
    /// To the stack of the device that it came in by.
    Pass,
    /// To this program.
    Call(&'a XdpProgram),
    /// Out by this device.
    Redirect(u32),
}

/// The program.
pub struct Generator {
    program: XdpProgram,
    template: Template,
    in_a_row: u32,
    // Kept for as long as the program runs.
    next: Words<1>,
    _call: Option<TailCall>,
}

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const CONTEXT: u8 = 6;
const NUMBER: u8 = 7;
const DATA: u8 = 8;
const SEGMENT: u8 = 9;

impl Generator {
    /// For frames like this one, of a number of flows (a power of two). `low` is the lower half of
    /// the address that numbers flows beyond [`PORTS`], as in the first.
    pub fn new(
        template: Template,
        low: u16,
        numbered: Numbered,
        order: Order,
        flows: u32,
        then: &Then<'_>,
    ) -> Result<Self> {
        ensure!(flows.is_power_of_two(), "the number of flows is a power of two");
        if let Order::Runs(length) = order {
            let room = u32::from(!low).max(u32::from(template.header_checksum()));
            ensure!(
                flows <= PORTS
                    && room + length <= 0xffff
                    && template.header_checksum() as u32 > length,
                "the identification of these frames cannot count up"
            );
        }
        let last = u32::from(low) + (flows - 1) / PORTS;
        ensure!(last <= 0xffff, "too many flows for the addresses from .{low:#x} on");
        let next = Words::new()?;
        let call = match then {
            Then::Call(program) => Some(TailCall::to(*program)?),
            Then::Pass | Then::Redirect(_) => None,
        };
        let mut program = vec![instruction(0xbf, CONTEXT, R1, 0, 0)];
        program.extend(choose(order, flows, &next));
        let write = write(&template, low, numbered, order)?;
        program.extend([
            instruction(0x61, DATA, CONTEXT, 0, 0), // data
            instruction(0x61, R3, CONTEXT, 4, 0),   // data_end
            instruction(0xbf, R4, DATA, 0, 0),
            instruction(0x07, R4, 0, 0, write.reach),
            instruction(0x3d, R3, R4, 2, 0), // if data_end >= data + reach, go on
            instruction(0xb7, R0, 0, 0, 0),  // XDP_ABORTED
            instruction(0x95, 0, 0, 0, 0),
        ]);
        program.extend(write.instructions);
        match then {
            Then::Pass => program.push(instruction(0xb7, R0, 0, 0, 2)),
            Then::Redirect(device) => program.extend([
                instruction(0xb7, R1, 0, 0, *device),
                instruction(0xb7, R2, 0, 0, 0),
                instruction(0x85, 0, 0, 0, 23), // bpf_redirect
            ]),
            Then::Call(_) => {
                program.push(instruction(0xbf, R1, CONTEXT, 0, 0));
                program.extend(load_map(R2, call.as_ref().context("tail call")?));
                program.extend([
                    instruction(0xb7, R3, 0, 0, 0),
                    instruction(0x85, 0, 0, 0, 12), // bpf_tail_call
                    instruction(0xb7, R0, 0, 0, 0),
                ]);
            }
        }
        program.push(instruction(0x95, 0, 0, 0, 0));
        let program = XdpProgram::load("generator", &program)?;
        let in_a_row = if let Order::Runs(length) = order { length } else { 1 };
        Ok(Self { program, template, in_a_row, next, _call: call })
    }

    /// Sends `count` frames as if they came in by the device of this index, in the caller's network
    /// namespace.
    pub fn send(&self, device: u32, count: u32) -> Result<()> {
        self.program.run_live(&self.template.bytes, device, count)
    }

    /// The flow of the next frame, for those that come in turn.
    pub fn start_at(&self, flow: u32) -> Result<()> {
        self.next.set([u64::from(flow)])
    }

    /// Frames of the same flow in a row.
    pub fn in_a_row(&self) -> u32 {
        self.in_a_row
    }
}

/// Puts the number of the flow into `NUMBER`, and that of the segment into `SEGMENT`.
fn choose(order: Order, flows: u32, next: &Words<1>) -> Vec<u64> {
    let mask = instruction(0x57, NUMBER, 0, 0, flows - 1);
    if order == Order::Random {
        // get_prandom_u32
        return vec![instruction(0x85, 0, 0, 0, 7), instruction(0xbf, NUMBER, R0, 0, 0), mask];
    }
    let mut program = load_value(R1, next).to_vec();
    program.extend([
        instruction(0x79, NUMBER, R1, 0, 0),
        instruction(0xbf, R2, NUMBER, 0, 0),
        instruction(0x07, R2, 0, 0, 1),
        instruction(0x7b, R1, R2, 0, 0),
    ]);
    if let Order::Runs(length) = order {
        program.extend([
            instruction(0xbf, SEGMENT, NUMBER, 0, 0),
            instruction(0x57, SEGMENT, 0, 0, length - 1),
            instruction(0x77, NUMBER, 0, 0, length.trailing_zeros()),
        ]);
    }
    if order == Order::Scattered {
        // An odd factor, so that each flow has its turn.
        program.push(instruction(0x27, NUMBER, 0, 0, 0x5851_f42d));
    }
    program.push(mask);
    program
}

/// Instructions that write the headers, and how far into the frame they write.
struct Write {
    instructions: Vec<u64>,
    reach: u32,
}

fn write(template: &Template, low: u16, numbered: Numbered, order: Order) -> Result<Write> {
    let runs = matches!(order, Order::Runs(_));
    let varying =
        if runs { template.sequence_complement + 4 } else { template.port_complement + 4 };
    let words = usize::try_from(varying)?.div_ceil(4);
    let mut instructions = Vec::new();
    for (word, offset) in template.bytes.chunks_exact(4).take(words).zip((0_i16..).step_by(4)) {
        let word = word.try_into().map(u32::from_ne_bytes)?;
        instructions.push(instruction(0x62, DATA, 0, offset, word));
    }
    ensure!(instructions.len() == words, "the frame is shorter than its headers");
    let (port, address) = match numbered {
        Numbered::Source => (template.source_port, template.destination_address),
        Numbered::Destination => (template.destination_port, template.source_address),
    };
    let complement = template.port_complement;
    instructions.extend([
        instruction(0xbf, R0, NUMBER, 0, 0),
        instruction(0x57, R0, 0, 0, PORTS - 1),
        instruction(0x07, R0, 0, 0, u32::from(FIRST_PORT)),
        instruction(0xdc, R0, 0, 0, 16), // to network order
        instruction(0x6b, DATA, R0, port, 0),
        instruction(0xa7, R0, 0, 0, u32::MAX), // complement
        instruction(0x6b, DATA, R0, complement, 0),
        instruction(0x77, NUMBER, 0, 0, PORTS.trailing_zeros()),
        instruction(0x07, NUMBER, 0, 0, u32::from(low)),
        instruction(0xdc, NUMBER, 0, 0, 16),
        instruction(0x6b, DATA, NUMBER, address, 0),
        instruction(0xa7, NUMBER, 0, 0, u32::MAX),
        instruction(0x6b, DATA, NUMBER, complement + 2, 0),
        instruction(0x6b, DATA, NUMBER, template.identification, 0),
    ]);
    if runs {
        let payload = template.bytes.len() - usize::try_from(template.sequence_complement)?;
        let identification = u32::from(!low);
        let checksum = template.header_checksum();
        instructions.extend([
            // The identification counts up, as senders do it, and the IP header's checksum down.
            instruction(0xbf, R0, SEGMENT, 0, 0),
            instruction(0x07, R0, 0, 0, identification),
            instruction(0xdc, R0, 0, 0, 16),
            instruction(0x6b, DATA, R0, template.identification, 0),
            instruction(0xb7, R0, 0, 0, u32::from(checksum)),
            instruction(0x1f, R0, SEGMENT, 0, 0),
            instruction(0xdc, R0, 0, 0, 16),
            instruction(0x6b, DATA, R0, HEADER_CHECKSUM as i16, 0),
            instruction(0x27, SEGMENT, 0, 0, u32::try_from(payload)?),
            instruction(0x07, SEGMENT, 0, 0, SEQUENCE),
            instruction(0xdc, SEGMENT, 0, 0, 32),
            instruction(0x63, DATA, SEGMENT, template.sequence, 0),
            instruction(0xa7, SEGMENT, 0, 0, u32::MAX),
            instruction(0x63, DATA, SEGMENT, template.sequence_complement, 0),
        ]);
    }
    Ok(Write { instructions, reach: u32::try_from(words * 4)? })
}
