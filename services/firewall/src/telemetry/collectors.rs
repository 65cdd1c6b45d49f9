//! Sending flow records to collectors over UDP.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use tokio::{net::UdpSocket, sync::mpsc};

/// Batches of messages that may wait to be sent, of a thousand records each: the ends of all flows of a
/// table of a million. Beyond, records are lost, as they may be on the way (RFC 7011 section 10.3: that
/// is what UDP is chosen for).
const WAITING: usize = 1024;

/// Sends to some collectors for as long as it lives.
#[derive(Debug)]
pub struct Collectors {
    addresses: Vec<SocketAddr>,
    queue: mpsc::Sender<Arc<Vec<Vec<u8>>>>,
    /// Messages that found no room.
    lost: u64,
}

impl Collectors {
    /// Starts to send to these; call it inside a runtime.
    pub fn start(addresses: Vec<SocketAddr>) -> Self {
        let (queue, receiver) = mpsc::channel(WAITING);
        tokio::spawn(send_all(addresses.clone(), receiver));
        Self { addresses, queue, lost: 0 }
    }

    /// Where it sends to.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Sends messages to all collectors, soon.
    pub fn send(&mut self, messages: Vec<Vec<u8>>) {
        let count = messages.len() as u64;
        if count != 0 && self.queue.try_send(Arc::new(messages)).is_err() {
            if self.lost == 0 {
                tracing::warn!("flow records come faster than they can be sent; some are lost");
            }
            self.lost += count;
        }
    }
}

async fn send_all(addresses: Vec<SocketAddr>, mut queue: mpsc::Receiver<Arc<Vec<Vec<u8>>>>) {
    let mut sockets: Vec<Destination> = addresses.into_iter().map(Destination::new).collect();
    while let Some(messages) = queue.recv().await {
        for destination in &mut sockets {
            destination.send(&messages).await;
        }
    }
}

/// A collector.
struct Destination {
    address: SocketAddr,
    socket: Option<UdpSocket>,
    /// The last attempt failed, and that was said.
    failing: bool,
}

impl Destination {
    fn new(address: SocketAddr) -> Self {
        Self { address, socket: None, failing: false }
    }

    async fn send(&mut self, messages: &[Vec<u8>]) {
        let outcome = self.try_send(messages).await;
        match outcome {
            Ok(()) if self.failing => {
                tracing::info!(collector = %self.address, "flow records are sent again");
                self.failing = false;
            }
            Ok(()) => {}
            // With the same socket the next time: to a collector another port is another exporter, whose
            // templates it would have to wait for (RFC 7011 section 10.3.6). The kernel chooses way and
            // address for each message.
            Err(error) => {
                if !self.failing {
                    tracing::warn!(collector = %self.address, %error, "flow records are not sent");
                    self.failing = true;
                }
            }
        }
    }

    async fn try_send(&mut self, messages: &[Vec<u8>]) -> std::io::Result<()> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => {
                let any: SocketAddr = match self.address {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any).await?;
                self.socket.insert(socket)
            }
        };
        for message in messages {
            // Not connected: a collector that is down for a while is no reason to stop.
            socket.send_to(message, self.address).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_collector_knows_the_exporter_again_after_a_failure() {
        let collector = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut destination = Destination::new(collector.local_addr().unwrap());
        let mut ports = Vec::new();
        for message in [vec![1], vec![0; 70_000], vec![2]] {
            let fits = message.len() < 70_000;
            destination.send(&[message]).await;
            assert_eq!(destination.failing, !fits, "no datagram is that long");
            if fits {
                let (_, from) = collector.recv_from(&mut [0; 10]).await.unwrap();
                ports.push(from.port());
            }
        }
        assert_eq!(ports.first(), ports.last());
    }

    #[tokio::test]
    async fn every_collector_gets_every_message() {
        let [first, second] = [
            UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            UdpSocket::bind("[::1]:0").await.unwrap(),
        ];
        let addresses = vec![first.local_addr().unwrap(), second.local_addr().unwrap()];
        let mut collectors = Collectors::start(addresses);
        collectors.send(vec![vec![1, 2, 3], vec![4; 1232]]);
        collectors.send(Vec::new());
        for socket in [first, second] {
            let mut bytes = [0; 2000];
            for expected in [3, 1232] {
                let received =
                    tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut bytes));
                assert_eq!(received.await.unwrap().unwrap(), expected);
            }
        }
    }
}
