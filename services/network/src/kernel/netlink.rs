//! Reads and changes the kernel's state by rtnetlink.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::pin,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream::BoxStream};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use portcullis_model::MacAddress;
use rtnetlink::{
    Handle, LinkBridge, LinkUnspec, MulticastGroup, RouteMessageBuilder,
    packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol},
        link::{
            BridgeStpState, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo,
            LinkLayerType, LinkMessage,
        },
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
            RouteScope, RouteType,
        },
    },
};

use tokio::task::JoinSet;

use super::{
    ALIAS, Actual, Address, Link, LinkKind, PROTOCOL, Route, Way,
    plan::{Change, Step},
    sysctl::Sysctls,
    sysfs,
};

/// Times that a table is asked for because it changed meanwhile, with pauses in between that double.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// Why the kernel's state cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No netlink socket or no `/proc/sys/net`.
    #[error("cannot open {what}: {source}")]
    Open {
        /// Which.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A netlink socket failed.
    #[error("the netlink socket ended")]
    Ended,
    /// A dump failed.
    #[error("cannot read the {what}: {source}")]
    Read {
        /// Which table.
        what: &'static str,
        /// What the kernel said.
        source: Box<rtnetlink::Error>,
    },
    /// A table cannot be read as it is at one moment.
    #[error("cannot read the {0}: they change all the time")]
    Unsteady(&'static str),
    /// Kernel parameters cannot be read.
    #[error("cannot read /proc/sys/{0}")]
    ReadSysctl(io::Error),
    /// One change was refused.
    #[error("{step}: {reason}")]
    Change {
        /// Device and change.
        step: Step,
        /// What the kernel said.
        reason: String,
    },
}

/// The kernel's network state of this network namespace.
pub struct Kernel {
    handle: Handle,
    sysctls: Sysctls,
    events: BoxStream<'static, ()>,
    /// The tasks that read the sockets; they end with this value, or when a socket fails.
    connections: JoinSet<()>,
}

impl Kernel {
    /// Opens the netlink sockets; the kernel's messages of changes are collected from now on.
    ///
    /// # Errors
    /// [`KernelError::Open`].
    pub fn open() -> Result<Self, KernelError> {
        let open = |what| move |source| KernelError::Open { what, source };
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(open("the netlink socket"))?;
        let (monitor, _, events) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
        ])
        .map_err(open("the netlink monitor"))?;
        let sysctls = Sysctls::open().map_err(open("/proc/sys/net"))?;
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        connections.spawn(monitor);
        let events = events.map(drop).boxed();
        Ok(Self { handle, sysctls, events, connections })
    }

    /// Waits for a change by anybody, this process included; swallows all that are already here.
    /// An overrun of the kernel's buffer counts as a change, too.
    ///
    /// # Errors
    /// [`KernelError::Ended`]; nothing works from then on.
    pub async fn changed(&mut self) -> Result<(), KernelError> {
        tokio::select! {
            Some(()) = self.events.next() => {
                while let Some(Some(())) = self.events.next().now_or_never() {}
                Ok(())
            }
            _ = self.connections.join_next() => Err(KernelError::Ended),
        }
    }

    /// Completes the state of `links`; of the kernel parameters only `sysctls` (paths under
    /// `/proc/sys`) are read.
    ///
    /// # Errors
    /// Reading failed.
    pub async fn read(
        &self,
        links: BTreeMap<u32, Link>,
        sysctls: impl Iterator<Item = &str>,
    ) -> Result<Actual, KernelError> {
        let mut addresses = self.addresses(AddressFamily::Inet).await?;
        let addresses6 = self.addresses(AddressFamily::Inet6).await?;
        let (mut reported, mut duplicates) = (Vec::new(), Vec::new());
        for (address, certainty) in addresses6.iter().filter_map(address6) {
            match certainty {
                Certainty::Own => reported.push(address),
                Certainty::Unknown => {}
                Certainty::Duplicate => duplicates.push(address),
            }
        }
        addresses.extend(addresses6);
        let addresses = addresses.iter().filter_map(address).collect();
        let mut routes = self.routes(RouteMessageBuilder::<Ipv4Addr>::new().build()).await?;
        routes.extend(self.routes(RouteMessageBuilder::<Ipv6Addr>::new().build()).await?);
        Ok(Actual {
            links,
            addresses,
            addresses6: reported,
            duplicates,
            routes: routes.iter().filter_map(route).collect(),
            sysctls: self.sysctls.read(sysctls).map_err(KernelError::ReadSysctl)?,
        })
    }

    /// Reads the devices.
    ///
    /// # Errors
    /// Reading failed.
    pub async fn links(&self) -> Result<BTreeMap<u32, Link>, KernelError> {
        let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let links = self
            .list("devices", question, |answer| match answer {
                RouteNetlinkMessage::NewLink(message) => link(&message),
                _ => None,
            })
            .await?;
        Ok(links.into_iter().map(|link| (link.index, link)).collect())
    }

    async fn addresses(&self, family: AddressFamily) -> Result<Vec<AddressMessage>, KernelError> {
        let mut question = AddressMessage::default();
        question.header.family = family;
        self.list("addresses", RouteNetlinkMessage::GetAddress(question), |answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => Some(message),
            _ => None,
        })
        .await
    }

    async fn routes(&self, question: RouteMessage) -> Result<Vec<RouteMessage>, KernelError> {
        self.list("routes", RouteNetlinkMessage::GetRoute(question), |answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => Some(message),
            _ => None,
        })
        .await
    }

    /// Asks for a table. The kernel tells it in pieces, and if it changes between two of them it says
    /// so: entries may be missing, and what was made of that would be wrong.
    async fn list<T>(
        &self,
        what: &'static str,
        question: RouteNetlinkMessage,
        read: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        let failed = |source| KernelError::Read { what, source: Box::new(source) };
        let mut pause = FIRST_PAUSE;
        for _ in 0..ATTEMPTS {
            let mut request = NetlinkMessage::from(question.clone());
            request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
            let mut answers = pin!(self.handle.clone().request(request).map_err(failed)?);
            let mut list = Vec::new();
            let mut steady = true;
            while let Some(NetlinkMessage { header, payload, .. }) = answers.next().await {
                steady &= header.flags & NLM_F_DUMP_INTR == 0;
                match payload {
                    NetlinkPayload::InnerMessage(answer) => list.extend(read(answer)),
                    NetlinkPayload::Error(error) => {
                        return Err(failed(rtnetlink::Error::NetlinkError(error)));
                    }
                    _ => steady = false,
                }
            }
            if steady {
                return Ok(list);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(KernelError::Unsteady(what))
    }

    /// Makes one change. What is already so, or already gone, is no error.
    ///
    /// # Errors
    /// [`KernelError::Change`].
    pub async fn apply(&self, step: &Step) -> Result<(), KernelError> {
        let failed = |reason: String| KernelError::Change { step: step.clone(), reason };
        if let Change::SetSysctl { path, value } = &step.change {
            return self.sysctls.write(path, value).map_err(|error| failed(error.to_string()));
        }
        let result = match &step.change {
            Change::CreateBridge { mac } => {
                let mut builder = LinkBridge::new(&step.device)
                    .stp_state(BridgeStpState::Disabled)
                    .forward_delay(0);
                if let Some(mac) = mac {
                    builder = builder.address(mac.0.to_vec());
                }
                self.handle.link().add(as_it_is(builder.build())).execute().await
            }
            change => match self.index(&step.device).await {
                Ok(index) => self.change(index, change).await,
                Err(error) => Err(error),
            },
        };
        match result {
            Ok(()) => Ok(()),
            Err(rtnetlink::Error::NetlinkError(error)) => {
                let code = -error.raw_code();
                let harmless = match step.change {
                    Change::RemoveAddress(_) => code == libc::EADDRNOTAVAIL,
                    Change::RemoveRoute(_) => code == libc::ESRCH,
                    _ => false,
                };
                if harmless {
                    return Ok(());
                }
                Err(failed(error.to_io().to_string()))
            }
            Err(error) => Err(failed(error.to_string())),
        }
    }

    async fn index(&self, device: &str) -> Result<u32, rtnetlink::Error> {
        let mut links = pin!(self.handle.link().get().match_name(device).execute());
        match links.try_next().await? {
            Some(link) => Ok(link.header.index),
            None => Err(rtnetlink::Error::RequestFailed),
        }
    }

    async fn change(&self, index: u32, change: &Change) -> Result<(), rtnetlink::Error> {
        let handle = &self.handle;
        let set = LinkUnspec::new_with_index(index);
        match change {
            // Both are handled by `apply`, before a device is looked up.
            Change::SetSysctl { .. } | Change::CreateBridge { .. } => Ok(()),
            Change::DeleteBridge => handle.link().del(index).execute().await,
            Change::ConfigureBridge => {
                // One after the other: no delay is refused while the spanning tree is on.
                let bridge = || LinkBridge::new("").index(index);
                for setting in
                    [bridge().stp_state(BridgeStpState::Disabled), bridge().forward_delay(0)]
                {
                    let message = as_it_is(without_name(setting.build()));
                    handle.link().change(message).execute().await?;
                }
                Ok(())
            }
            Change::SetAlias => handle.link().set(set.alias(ALIAS).build()).execute().await,
            Change::ClearAlias => handle.link().set(set.alias("").build()).execute().await,
            Change::SetMac(mac) => {
                handle.link().set(set.address(mac.0.to_vec()).build()).execute().await
            }
            Change::SetMtu(mtu) => handle.link().set(set.mtu(*mtu).build()).execute().await,
            Change::SetMaster(None) => {
                handle.link().set(set.nocontroller().build()).execute().await
            }
            Change::SetMaster(Some(bridge)) => {
                let bridge = self.index(bridge).await?;
                handle.link().set(set.controller(bridge).build()).execute().await
            }
            Change::SetUp => handle.link().set(set.up().build()).execute().await,
            Change::SetDown => handle.link().set(set.down().build()).execute().await,
            Change::AddAddress(net) => {
                let mut request = handle.address().add(index, net.addr(), net.prefix_len());
                request
                    .message_mut()
                    .attributes
                    .push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
                request.execute().await
            }
            Change::RemoveAddress(net) => {
                let message = match net {
                    IpNet::V4(net) => rtnetlink::AddressMessageBuilder::<Ipv4Addr>::new()
                        .index(index)
                        .address(net.addr(), net.prefix_len())
                        .build(),
                    IpNet::V6(net) => rtnetlink::AddressMessageBuilder::<Ipv6Addr>::new()
                        .index(index)
                        .address(net.addr(), net.prefix_len())
                        .build(),
                };
                handle.address().del(message).execute().await
            }
            Change::AddRoute(way) => handle.route().add(route_message(index, way)).execute().await,
            Change::ReplaceRoute(way) => {
                handle.route().add(route_message(index, way)).replace().execute().await
            }
            Change::RemoveRoute(way) => {
                handle.route().del(route_message(index, way)).execute().await
            }
        }
    }
}

/// A change of an existing device is addressed by index; a name would rename it.
fn without_name(mut message: LinkMessage) -> LinkMessage {
    message.attributes.retain(|attribute| !matches!(attribute, LinkAttribute::IfName(_)));
    message
}

/// Does not bring a bridge up, which rtnetlink's messages about bridges do by themselves.
fn as_it_is(mut message: LinkMessage) -> LinkMessage {
    message.header.flags.remove(LinkFlags::Up);
    message.header.change_mask.remove(LinkFlags::Up);
    message
}

fn route_message(index: u32, way: &Way) -> RouteMessage {
    match way.destination {
        IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .with(index, way),
        IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .with(index, way),
    }
}

/// What both families have in common.
trait With {
    fn with(self, index: u32, way: &Way) -> RouteMessage;
}

impl<T> With for RouteMessageBuilder<T> {
    fn with(self, index: u32, way: &Way) -> RouteMessage {
        let mut message = self
            .output_interface(index)
            .priority(way.metric)
            .protocol(RouteProtocol::Other(PROTOCOL))
            .kind(RouteType::Unicast)
            .scope(if way.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link })
            .build();
        message.attributes.extend(way.gateway.map(|to| RouteAttribute::Gateway(to.into())));
        message.attributes.extend(way.source.map(|from| RouteAttribute::PrefSource(from.into())));
        if way.onlink {
            message.header.flags.insert(RouteFlags::Onlink);
        }
        message
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let header = &message.header;
    let mut link = Link {
        index: header.index,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        kind: match header.link_layer_type {
            LinkLayerType::Ether => LinkKind::Ethernet,
            LinkLayerType::Loopback => LinkKind::Loopback,
            _ => LinkKind::Other,
        },
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name.clone(),
            LinkAttribute::Address(bytes) => link.mac = mac(bytes),
            LinkAttribute::PermAddress(bytes) => link.permanent_mac = mac(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::MaxMtu(mtu) => link.max_mtu = *mtu,
            LinkAttribute::CarrierUpCount(times) => link.carrier_ups = *times,
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Stats64(stats) => {
                link.rx_bytes = stats.rx_bytes;
                link.tx_bytes = stats.tx_bytes;
            }
            LinkAttribute::LinkInfo(infos) if infos.contains(&LinkInfo::Kind(InfoKind::Bridge)) => {
                link.kind = bridge(infos);
            }
            _ => {}
        }
    }
    let hardware = sysfs::hardware(&link.name);
    link.bus_path = hardware.bus_path;
    link.driver = hardware.driver;
    link.mac_set = hardware.mac_set;
    if hardware.wireless {
        link.kind = LinkKind::Wireless;
    }
    Some(link)
}

fn bridge(infos: &[LinkInfo]) -> LinkKind {
    let mut stp = false;
    let mut delay = 0;
    for info in infos {
        let LinkInfo::Data(InfoData::Bridge(data)) = info else { continue };
        for setting in data {
            match setting {
                InfoBridge::StpState(state) => stp = *state != BridgeStpState::Disabled,
                InfoBridge::ForwardDelay(hundredths) => delay = *hundredths,
                _ => {}
            }
        }
    }
    LinkKind::Bridge { stp, forward_delay: delay }
}

fn mac(bytes: &[u8]) -> Option<MacAddress> {
    <[u8; 6]>::try_from(bytes).ok().filter(|mac| *mac != [0; 6]).map(MacAddress)
}

fn address(message: &AddressMessage) -> Option<Address> {
    let mut own = None;
    let mut ours = false;
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point link the other one is the peer's; IPv6 has only the other one
            // elsewhere.
            AddressAttribute::Local(address) => own = Some(*address),
            AddressAttribute::Address(address @ IpAddr::V6(_)) if own.is_none() => {
                own = Some(*address);
            }
            AddressAttribute::Protocol(protocol) => {
                ours = *protocol == AddressProtocol::Other(PROTOCOL);
            }
            _ => {}
        }
    }
    let address = IpNet::new(own?, message.header.prefix_len).ok()?;
    Some(Address { index: message.header.index, address, ours })
}

/// Whether an IPv6 address is nobody else's (RFC 4862 section 5.4).
enum Certainty {
    Own,
    Unknown,
    Duplicate,
}

fn address6(message: &AddressMessage) -> Option<((u32, Ipv6Net), Certainty)> {
    let header = &message.header;
    let mut address = None;
    let mut certainty = Certainty::Own;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(IpAddr::V6(found)) if address.is_none() => {
                address = Some(*found);
            }
            // Of a point-to-point link, where the other is the peer's.
            AddressAttribute::Local(IpAddr::V6(found)) => address = Some(*found),
            AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Dadfailed) => {
                certainty = Certainty::Duplicate;
            }
            AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Tentative) => {
                certainty = Certainty::Unknown;
            }
            _ => {}
        }
    }
    let address = Ipv6Net::new(address?, header.prefix_len).ok()?;
    Some(((header.index, address), certainty))
}

fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let length = header.destination_prefix_length;
    let everywhere = match header.address_family {
        AddressFamily::Inet => IpNet::V4(Ipv4Net::default()),
        AddressFamily::Inet6 => IpNet::V6(Ipv6Net::default()),
        _ => return None,
    };
    let mut table = u32::from(header.table);
    let mut index = 0;
    let mut way = Way {
        destination: everywhere,
        gateway: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        source: None,
        metric: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => {
                way.destination = IpNet::new(ip(to)?, length).ok()?;
            }
            RouteAttribute::Gateway(gateway) => way.gateway = ip(gateway),
            RouteAttribute::PrefSource(source) => way.source = ip(source),
            RouteAttribute::Priority(metric) => way.metric = *metric,
            RouteAttribute::Oif(oif) => index = *oif,
            RouteAttribute::Table(id) => table = *id,
            _ => {}
        }
    }
    let main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
    (main && header.kind == RouteType::Unicast).then(|| Route {
        index,
        way,
        ours: header.protocol == RouteProtocol::Other(PROTOCOL),
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
