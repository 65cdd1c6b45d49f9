//! `capture`: copies of packets into a file, or one line for each.
//!
//! The firewall service hands over one end of a socket from which a pcapng file comes; closing it
//! ends the capture. Only whole blocks are passed on, so that a file is whole however it ends.

use std::{fs::File, io::Write, os::unix::net::UnixStream as Stream};

use pcap_file::{
    PcapError,
    pcapng::{Block, PcapNgParser},
};
use portcullis_bus::{
    firewall::{CaptureRequest, FirewallBusProxy},
    peer::PeerError,
};
use tokio::{io::AsyncReadExt, net::UnixStream};

use super::{Failure, READ_TIMEOUT, firewall, packet_line, print_json, print_json_line};
use crate::args::{Capture, Source};

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// A block may be as long as the longest packet with its options, and no longer.
const MAX_BLOCK: usize = 64 * 1024;

pub(super) async fn run(capture: &Capture, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    // The file first: a capture that cannot be kept need not begin.
    let to = match &capture.file {
        None => Target::Lines,
        Some(Source::StandardInput) => Target::Output,
        Some(Source::File(path)) => {
            let name = path.display().to_string();
            let file =
                File::create(path).map_err(|error| Failure::Input { name: name.clone(), error })?;
            Target::File(file, name)
        }
    };
    let request = request(capture);
    let connected = firewall(READ_TIMEOUT, async |firewall: FirewallBusProxy<'static>| {
        // The connection must outlive the answer only: the capture has a socket of its own.
        firewall.capture(request).await
    })
    .await?;
    let stream = Stream::from(std::os::fd::OwnedFd::from(connected));
    let mut stream = stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream))
        .map_err(|error| lost(error.to_string()))?;
    let mut blocks = Blocks::default();
    let mut sink = Sink { to, json, packets: 0, out };
    let interrupted = loop {
        let mut chunk = vec![0; CHUNK];
        // Ctrl-C ends the capture, not the program: what was captured is to be kept whole.
        let read = tokio::select! {
            read = stream.read(&mut chunk) => read.map_err(|error| lost(error.to_string()))?,
            _ = tokio::signal::ctrl_c() => break true,
        };
        if read == 0 {
            break false;
        }
        chunk.truncate(read);
        blocks.take(&chunk, &mut |bytes, block| sink.put(bytes, &block))?;
        sink.out.flush()?;
    };
    sink.finish(interrupted)
}

/// Where packets go.
enum Target {
    /// A line each.
    Lines,
    /// A pcapng file on standard output.
    Output,
    /// A pcapng file.
    File(File, String),
}

struct Sink<'a> {
    to: Target,
    json: bool,
    packets: u64,
    out: &'a mut dyn Write,
}

impl Sink<'_> {
    fn put(&mut self, bytes: &[u8], block: &Whole) -> Result<(), Failure> {
        if let Whole::Packet(_) = block {
            self.packets += 1;
        }
        match (&mut self.to, block) {
            (Target::File(file, name), _) => {
                file.write_all(bytes).map_err(|error| Failure::Input { name: name.clone(), error })
            }
            (Target::Output, _) => Ok(self.out.write_all(bytes)?),
            (Target::Lines, Whole::Packet(packet)) if self.json => {
                print_json_line(self.out, packet)
            }
            (Target::Lines, Whole::Packet(packet)) => {
                Ok(writeln!(self.out, "{}", packet_line::text(packet))?)
            }
            (Target::Lines, Whole::Other) => Ok(()),
        }
    }

    fn finish(self, interrupted: bool) -> Result<(), Failure> {
        let Target::File(file, name) = self.to else {
            return Ok(());
        };
        file.sync_all().map_err(|error| Failure::Input { name: name.clone(), error })?;
        if self.json {
            let summary = serde_json::json!({
                "file": name, "packets": self.packets, "interrupted": interrupted
            });
            return print_json(self.out, &summary);
        }
        let how = if interrupted { " (interrupted)" } else { "" };
        let packets = if self.packets == 1 { "packet" } else { "packets" };
        Ok(writeln!(self.out, "{} {packets} in {name}{how}", self.packets)?)
    }
}

fn lost(reason: String) -> Failure {
    Failure::Peer(PeerError::NotAnswering { service: "firewall", reason })
}

fn request(capture: &Capture) -> CaptureRequest {
    let matching = &capture.matching;
    CaptureRequest {
        dropped_only: capture.drops,
        reason: capture.reason.clone().unwrap_or_default(),
        zone: matching.zone.clone().unwrap_or_default(),
        host: matching.host.clone().unwrap_or_default(),
        port: matching.port.unwrap_or_default(),
        protocol: matching.protocol.clone().unwrap_or_default(),
        count: capture.count.unwrap_or_default(),
        seconds: capture.seconds.unwrap_or_default(),
        snap: capture.snap,
        sample: capture.sample.unwrap_or_default(),
    }
}

/// A whole block.
enum Whole {
    Packet(packet_line::Packet),
    Other,
}

/// Cuts what comes into whole blocks.
#[derive(Default)]
struct Blocks {
    waiting: Vec<u8>,
    parser: Option<PcapNgParser>,
}

impl Blocks {
    fn take(
        &mut self,
        bytes: &[u8],
        sink: &mut impl FnMut(&[u8], Whole) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.waiting.extend_from_slice(bytes);
        let mut done = 0;
        while let Some(rest) = self.waiting.get(done..).filter(|rest| !rest.is_empty()) {
            let found = match &mut self.parser {
                // The first block says how the others are to be read.
                None => match PcapNgParser::new(rest) {
                    Ok((after, parser)) => {
                        self.parser = Some(parser);
                        Ok((after.len(), Whole::Other))
                    }
                    Err(error) => Err(error),
                },
                Some(parser) => match parser.next_block(rest) {
                    Ok((after, Block::EnhancedPacket(packet))) => {
                        let left = after.len();
                        let interface = parser.packet_interface(&packet);
                        let packet = packet_line::Packet::of(&packet, interface);
                        Ok((left, Whole::Packet(packet)))
                    }
                    Ok((after, _)) => Ok((after.len(), Whole::Other)),
                    Err(error) => Err(error),
                },
            };
            match found {
                Ok((left, block)) => {
                    let length = rest.len() - left;
                    sink(rest.get(..length).unwrap_or_default(), block)?;
                    done += length;
                }
                Err(PcapError::IncompleteBuffer) if rest.len() <= MAX_BLOCK => break,
                Err(error) => return Err(lost(format!("what it sends is no capture: {error}"))),
            }
        }
        self.waiting.drain(..done);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_out_whole_however_they_come_in() {
        let file = portcullis_peers::capture().unwrap();
        for size in [1, 7, 28, 1000] {
            let mut blocks = Blocks::default();
            let (mut copy, mut packets) = (Vec::new(), Vec::new());
            for chunk in file.chunks(size) {
                blocks
                    .take(chunk, &mut |bytes, block| {
                        assert_eq!(bytes.len() % 4, 0, "a block is of whole words");
                        copy.extend_from_slice(bytes);
                        if let Whole::Packet(packet) = block {
                            packets.push(packet_line::text(&packet));
                        }
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!(copy, file);
            assert_eq!(packets.len(), 2);
        }
    }

    #[test]
    fn what_is_no_capture_is_refused() {
        let mut blocks = Blocks::default();
        let mut nothing = |_: &[u8], _| Ok(());
        assert!(blocks.take(&[0xff; 100], &mut nothing).is_err());
        let mut endless = Blocks::default();
        let mut file = portcullis_peers::capture().unwrap();
        // A block that claims gigabytes.
        file.truncate(28);
        file.extend([6, 0, 0, 0, 0xfc, 0xff, 0xff, 0x7f]);
        file.extend(vec![0; MAX_BLOCK]);
        assert!(endless.take(&file, &mut nothing).is_err());
    }
}
