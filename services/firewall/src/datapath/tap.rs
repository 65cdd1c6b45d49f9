//! Programs that copy packets, on the devices for as long as a capture runs.

use std::collections::BTreeMap;

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType, Xdp,
    tc::{SchedClassifierLink, TcAttachOptions},
};
use portcullis_datapath_abi::stage::{TCX_CAPTURE, XDP_CAPTURE};

use super::{Datapath, DatapathError, Device, Hook, Result, links::Place};

/// Where packets are copied. The tcx programs go with it; XDP's are replaced by [`Datapath::untap`],
/// or when this service starts the next time.
#[derive(Debug)]
pub struct Tap {
    _links: Vec<SchedClassifierLink>,
}

impl Datapath {
    /// Copies the packets of these devices from now on. Each is taken at one hook as it arrives: a
    /// packet that XDP leaves to tcx is not copied twice.
    ///
    /// # Errors
    /// If a program is refused, or not loaded yet; nothing is copied then.
    pub fn tap(&mut self, devices: &BTreeMap<u32, Device>) -> Result<Tap> {
        let tapped = self.put_taps(devices);
        if tapped.is_err() {
            // As it was; the first error says more than a second one.
            let _ = self.untap(devices);
        }
        tapped
    }

    fn put_taps(&mut self, devices: &BTreeMap<u32, Device>) -> Result<Tap> {
        let mut links = Vec::new();
        let [ingress, egress] = TCX_CAPTURE;
        for (index, device) in devices {
            links.push(self.put_before(egress, device, Hook::Egress)?);
            if self.choices().get(index).is_some_and(|choice| choice.xdp) {
                self.replace_xdp(*index, device, XDP_CAPTURE)?;
            } else {
                links.push(self.put_before(ingress, device, Hook::Ingress)?);
            }
        }
        Ok(Tap { _links: links })
    }

    /// Puts XDP's own programs back, after the [`Tap`] was dropped.
    ///
    /// # Errors
    /// What the kernel says; packets are forwarded as before, through a program that copies none.
    pub fn untap(&mut self, devices: &BTreeMap<u32, Device>) -> Result<()> {
        for (index, device) in devices {
            if self.choices().get(index).is_some_and(|choice| choice.xdp) {
                let place = Place {
                    folder: &self.folders.links,
                    index: *index,
                    device: &device.name,
                    hook: Hook::Xdp,
                };
                place.attach_xdp(self.programs.xdp()?)?;
            }
        }
        Ok(())
    }

    fn replace_xdp(&mut self, index: u32, device: &Device, name: &'static str) -> Result<()> {
        let folder = &self.folders.links;
        let place = Place { folder, index, device: &device.name, hook: Hook::Xdp };
        let program: &mut Xdp = self.programs.program(name)?;
        place.attach_xdp(program)
    }

    fn put_before(
        &mut self,
        name: &'static str,
        device: &Device,
        hook: Hook,
    ) -> Result<SchedClassifierLink> {
        let program: &mut SchedClassifier = self.programs.program(name)?;
        let direction = match hook {
            Hook::Egress => TcAttachType::Egress,
            Hook::Ingress | Hook::Xdp => TcAttachType::Ingress,
        };
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        program
            .attach_with_options(&device.name, direction, first)
            .and_then(|id| program.take_link(id))
            .map_err(|error| DatapathError::Attach {
                device: device.name.clone(),
                hook: hook.name(),
                message: error.to_string(),
            })
    }
}
