//! The client on a busy machine, between two hosts. Needs root and iproute2.

use dhcproto::v4::MessageType;
use portcullis_model::MacAddress;
use portcullis_netns::Namespace;

use super::*;
use crate::client::{
    frame::arp_request,
    test_server::{ADDRESS, MAC, answer, encode, frame, sent},
};

/// Who has the address that the server gives.
const SQUATTER: MacAddress = MacAddress([2, 0, 0, 0, 0, 0x99]);

fn index(namespace: &Namespace) -> anyhow::Result<u32> {
    Ok(namespace.run("cat /sys/class/net/wan0/ifindex")?.trim().parse()?)
}

impl Task {
    /// What the client sends next.
    fn next_frame(&mut self, input: Input<'_>) -> Option<Vec<u8>> {
        self.client.handle(now(), input).into_iter().find_map(|output| match output {
            Output::Frame(frame) => Some(frame),
            _ => None,
        })
    }

    /// Gets the client so far that it probes [`ADDRESS`].
    fn obtain(&mut self) -> Option<()> {
        self.next_frame(Input::LinkUp);
        std::thread::sleep(self.client.deadline()?.saturating_sub(now()));
        let (_, discover) = sent(&self.next_frame(Input::Timer)?)?;
        let offer = encode(&answer(&discover, MessageType::Offer));
        let (_, request) = sent(&self.next_frame(Input::Frame(&frame(&offer)))?)?;
        let ack = encode(&answer(&request, MessageType::Ack));
        self.next_frame(Input::Frame(&frame(&ack)));
        self.client.probes().then_some(())
    }
}

#[test]
fn an_answer_to_a_probe_counts_however_late_it_is_looked_at() -> anyhow::Result<()> {
    let (router, host) = (Namespace::new("router")?, Namespace::new("isp")?);
    router.join("wan0", &host, "wan0")?;
    let folder = tempfile::tempdir()?;
    let place = Place {
        interface: "wan".parse()?,
        device: "wan0".to_owned(),
        index: index(&router)?,
        identity: Identity { mac: MAC, hostname: "gate".parse()? },
    };
    let host_index = index(&host)?;
    router.enter(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let client = Client::new(place.identity.clone(), 1, None);
            let mut task = Task {
                path: store::path(folder.path(), &place.interface),
                place,
                view: watch::Sender::new(view(&client)),
                client,
                packets: None,
                datagrams: None,
                changed: Arc::new(Notify::new()),
            };
            anyhow::ensure!(task.obtain().is_some(), "{}", task.client.state());
            task.adjust_sockets();
            let claim = arp_request(SQUATTER, ADDRESS, ADDRESS);
            host.enter(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let _entered = runtime.enter();
                Ok(PacketSocket::sending(host_index)?.send(&claim)?)
            })?;
            // All probes are sent and their time is over before anybody looks for answers.
            while task.client.probes() {
                let wait = task.client.deadline().unwrap_or_default().saturating_sub(now());
                std::thread::sleep(wait);
                task.time_passed().await;
            }
            anyhow::ensure!(task.client.lease().is_none(), "{:?} is in use", task.client.lease());
            Ok(())
        })
    })
}
