//! What is told of packets and flows: log, drops, captures, explanations.

use std::collections::BTreeMap;

use aya::maps::{MapData, RingBuf};
use portcullis_bus::{
    firewall::{CaptureRequest, DropCount, Explanation, RuleFinding},
    network::InterfaceStatus,
};
use portcullis_datapath_abi::{
    event::Event,
    map,
    policy::{CAPTURE, EVENTS, ROUTER, fragment_flags},
};
use portcullis_runtime::unix_now_s;
use tokio::sync::oneshot;

use super::Firewall;
use crate::{
    ageing::{self},
    compile::{Standing, name_text, surroundings},
    datapath::{Result, Tap},
    explain::{findings, in_bus_terms},
    telemetry::{
        capture::{self, Running},
        drops,
        events::LogNames,
        pcapng::{Device as CapturedDevice, Names},
    },
};

/// Packets are copied for somebody.
pub(super) struct Capture {
    session: u32,
    /// Where they are copied, and what tells the one who carries them that they are.
    copies: Option<(Tap, oneshot::Sender<()>)>,
}

/// What is told of packets and flows.
impl Firewall {
    pub(super) fn configure_telemetry(&mut self) -> Result<()> {
        let names = LogNames {
            zones: self.zone_names()?,
            rules: self
                .desired
                .resolved
                .rules
                .iter()
                .map(|rule| (rule.number, rule.name.to_string()))
                .collect(),
        };
        self.telemetry.configure(&self.part.firewall, names);
        // Programs were replaced, or devices have come.
        let copies = self.capture.as_mut().and_then(|capture| capture.copies.take());
        if let Some((before, running)) = copies {
            match self.datapath.tap(&self.desired.devices) {
                Ok(tap) => {
                    if let Some(capture) = &mut self.capture {
                        capture.copies = Some((tap, running));
                    }
                }
                // What filters is not to suffer from it.
                Err(error) => tracing::warn!(%error, "a capture ends"),
            }
            drop(before);
        }
        let events = if self.part.firewall.log.flows { EVENTS } else { 0 };
        let copies = self.capture.as_ref().is_some_and(|capture| capture.copies.is_some());
        let capture = if copies { CAPTURE } else { 0 };
        let fragments = fragment_flags(ageing::ticks(self.part.firewall.timeouts.fragment_s));
        let flags = events | capture | fragments;
        if self.datapath.maps().config()?.flags != flags {
            self.datapath.maps().change_config(|config| config.flags = flags)?;
        }
        Ok(())
    }

    pub(super) fn zone_names(&mut self) -> Result<BTreeMap<u8, String>> {
        let zones = self.datapath.maps().zones()?;
        let name = |(id, zone): (u8, &portcullis_datapath_abi::Zone)| {
            (id, if id == ROUTER { "router".to_owned() } else { name_text(&zone.name) })
        };
        Ok((0_u8..).zip(&zones).map(name).filter(|(_, name)| !name.is_empty()).collect())
    }

    /// The ring of events of the packet path; it has one reader.
    ///
    /// # Errors
    /// If it is not there.
    pub fn events(&mut self) -> Result<RingBuf<MapData>> {
        self.datapath.maps().map(map::EVENTS)
    }

    /// An event of the packet path.
    pub fn event(&mut self, event: &Event) {
        self.telemetry.event(event);
    }

    /// Drops by reason and zones.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn drops(&mut self) -> Result<Vec<DropCount>> {
        Ok(drops::table(drops::read(self.datapath.maps())?, &self.zone_names()?))
    }

    /// What would become of a packet.
    ///
    /// # Errors
    /// If it is none, or says too little; or what the kernel says.
    pub fn explain(&mut self, packet: &str) -> std::result::Result<Explanation, String> {
        let ids = self.zone_names().map_err(|error| error.to_string())?;
        let zones = &self.part.firewall.zones;
        let ids = ids
            .into_iter()
            .filter_map(|(id, name)| Some((zones.get_key_value(name.as_str())?.0.clone(), id)))
            .collect();
        let standing = Standing {
            zones: &self.desired.zones,
            unix_s: unix_now_s(),
            before: Some(&self.desired),
        };
        let interfaces = self.interfaces.as_deref().unwrap_or_default();
        let surroundings = surroundings(&self.part, interfaces, &ids, &standing);
        portcullis_policy::explain(packet, &self.part, &surroundings)
            .map(in_bus_terms)
            .map_err(|error| error.to_string())
    }

    /// Rules that can never decide, and rules that were merged.
    pub fn findings(&self) -> Vec<RuleFinding> {
        findings(&self.desired.resolved)
    }

    /// The policy as a ruleset for `nft`.
    pub fn nftables(&self) -> String {
        crate::nftables::show(&self.part, self.interfaces.as_deref().unwrap_or_default())
    }

    /// Begins to copy packets; [`Self::end_capture`] ends it.
    ///
    /// # Errors
    /// What of the request is wrong, that another capture runs, that programs are still being loaded,
    /// or what the kernel says.
    pub fn begin_capture(
        &mut self,
        request: &CaptureRequest,
    ) -> std::result::Result<Running, String> {
        let text = |error: crate::datapath::DatapathError| error.to_string();
        if self.capture.is_some() {
            return Err("another capture is running".to_owned());
        }
        if !self.is_complete() && self.refused().is_none() {
            let pending = self.pending().unwrap_or_default();
            return Err(format!(
                "packets cannot be copied before all programs are loaded, as after a start of the \
                 router: {pending}; try again in some seconds"
            ));
        }
        let zones = self.zone_names().map_err(text)?;
        let filter = crate::telemetry::filter::capture(request, &zones)
            .map_err(|error| error.to_string())?;
        let device = |status: &InterfaceStatus| {
            let names =
                CapturedDevice { device: status.device.clone(), interface: status.name.clone() };
            (status.index, names)
        };
        let devices = self.interfaces.iter().flatten().map(device).collect();
        let (running, copies) =
            capture::begin(self.datapath.maps(), filter, request, Names { devices, zones })
                .map_err(|error| error.to_string())?;
        let tap = self.datapath.tap(&self.desired.devices).map_err(text)?;
        let session = running.session();
        self.capture = Some(Capture { session, copies: Some((tap, copies)) });
        if let Err(error) = self.datapath.maps().change_config(|config| config.flags |= CAPTURE) {
            // The first error says more than a second one.
            let _ = self.end_capture(session);
            return Err(text(error));
        }
        Ok(running)
    }

    /// Copies no more packets for this capture ([`Running::session`]); nothing if another one runs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn end_capture(&mut self, session: u32) -> Result<()> {
        if self.capture.take_if(|capture| capture.session == session).is_none() {
            return Ok(());
        }
        self.datapath.maps().change_config(|config| config.flags &= !CAPTURE)?;
        self.datapath.untap(&self.desired.devices)
    }
}
