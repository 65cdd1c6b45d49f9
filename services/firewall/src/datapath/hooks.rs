//! Which hook an interface's packets are taken at. Pure.
//!
//! XDP is the fastest way from one network card to another. But a frame that comes from a virtual
//! machine or a bridge is an assembled one of up to 64 KiB, with its checksum still to be made; XDP
//! sees no such frames, so attaching it makes such devices give up what makes them fast. And a frame
//! that XDP sends passes by the queueing discipline. So: XDP between cards whose drivers have it, tcx
//! for everything else.

use std::collections::BTreeMap;

use portcullis_model::firewall::Hook as Wish;

use super::features::Features;

/// A device that the datapath shall be on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Device {
    /// Name in the kernel.
    pub name: String,
    /// What it is: the driver's name for a network card.
    pub kind: Kind,
    /// What the configuration says.
    pub wish: Wish,
}

/// What a device is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Kind {
    /// A network card with this driver.
    Card(String),
    /// A bridge of network cards.
    Bridge,
    /// Something else that the kernel makes up.
    #[default]
    Virtual,
}

/// What was chosen for a device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Choice {
    /// Whether XDP takes its packets before tcx does.
    pub xdp: bool,
    /// Why, for people: `xdp: ixgbe receives, redirects and transmits`.
    pub reason: String,
    /// Whether the configuration asked for something else.
    pub refused: bool,
}

/// Chooses for all devices by index. `features` says nothing of devices that have none.
pub fn choose(
    devices: &BTreeMap<u32, Device>,
    features: &BTreeMap<u32, Features>,
) -> BTreeMap<u32, Choice> {
    let able = |index: &u32| {
        features.get(index).is_some_and(|features| features.receives && features.redirects)
    };
    let suitable = |index: &u32, device: &Device| match device.wish {
        Wish::Xdp => able(index),
        Wish::Tcx => false,
        Wish::Auto => able(index) && device.kind.gains(),
    };
    let count = devices.iter().filter(|(index, device)| suitable(index, device)).count();
    let choice = |(index, device): (&u32, &Device)| {
        let features = features.get(index).copied().unwrap_or_default();
        let name = device.kind.name();
        let (xdp, reason) = match device.wish {
            Wish::Tcx => (false, "set by firewall.hooks".to_owned()),
            _ if !features.receives => (false, format!("{name} has no native XDP")),
            _ if !features.redirects => (false, format!("{name} does not redirect from XDP")),
            Wish::Xdp => (true, "set by firewall.hooks".to_owned()),
            Wish::Auto if !device.kind.gains() => {
                (false, format!("{name}, XDP costs its offloads"))
            }
            Wish::Auto if count < 2 => (false, format!("{name} would be alone in having XDP")),
            Wish::Auto if features.transmits => {
                (true, format!("{name} receives, redirects and transmits"))
            }
            Wish::Auto => (true, format!("{name} receives and redirects")),
        };
        let hook = if xdp { "xdp" } else { "tcx" };
        let refused = device.wish == Wish::Xdp && !xdp;
        (*index, Choice { xdp, reason: format!("{hook}: {reason}"), refused })
    };
    devices.iter().map(choice).collect()
}

/// Whether XDP of another device may send by this one.
pub fn transmits(device: &Device, choice: &Choice, features: Features) -> bool {
    // Where XDP was refused to a device for its own sake, the same holds for what it sends. What the
    // configuration says is about the hook that frames arrive at: XDP in one direction and tcx in
    // the other may be what is wanted.
    features.transmits && (choice.xdp || device.wish == Wish::Tcx)
}

impl Kind {
    /// Whether its packets pass faster by XDP.
    fn gains(&self) -> bool {
        match self {
            Self::Card(driver) => driver != "virtio_net",
            Self::Bridge | Self::Virtual => false,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Card(driver) => driver,
            Self::Bridge => "bridge device",
            Self::Virtual => "virtual device",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Features = Features { receives: true, redirects: true, transmits: true };

    fn card(driver: &str, wish: Wish) -> Device {
        Device { name: "eth".to_owned(), kind: Kind::Card(driver.to_owned()), wish }
    }

    fn reasons(devices: &[(Device, Option<Features>)]) -> Vec<String> {
        let by_index = || (1..).zip(devices);
        let all = by_index().map(|(index, (device, _))| (index, device.clone())).collect();
        let features =
            by_index().filter_map(|(index, (_, features))| Some((index, (*features)?))).collect();
        choose(&all, &features).into_values().map(|choice| choice.reason).collect()
    }

    #[test]
    fn two_cards_with_native_xdp_use_it() {
        let before = Features { transmits: false, ..FULL };
        assert_eq!(
            reasons(&[
                (card("ixgbe", Wish::Auto), Some(FULL)),
                (card("igb", Wish::Auto), Some(before)),
            ]),
            ["xdp: ixgbe receives, redirects and transmits", "xdp: igb receives and redirects"]
        );
    }

    #[test]
    fn what_gains_nothing_stays_with_tcx_and_says_why() {
        let bridge = Device { kind: Kind::Bridge, ..Device::default() };
        let ppp = Device::default();
        assert_eq!(
            reasons(&[
                (bridge, None),
                (ppp, Some(Features::default())),
                (card("virtio_net", Wish::Auto), Some(FULL)),
                (card("e1000e", Wish::Auto), Some(Features::default())),
                (card("odd", Wish::Auto), Some(Features { receives: true, ..Features::default() })),
                (card("ixgbe", Wish::Auto), Some(FULL)),
            ]),
            [
                "tcx: bridge device has no native XDP",
                "tcx: virtual device has no native XDP",
                "tcx: virtio_net, XDP costs its offloads",
                "tcx: e1000e has no native XDP",
                "tcx: odd does not redirect from XDP",
                "tcx: ixgbe would be alone in having XDP",
            ]
        );
    }

    #[test]
    fn the_configuration_forces_either_and_hears_what_cannot_be() {
        let devices = [
            (1, card("virtio_net", Wish::Xdp)),
            (2, card("ixgbe", Wish::Tcx)),
            (3, card("e1000e", Wish::Xdp)),
        ];
        let features = [(1, FULL), (2, FULL), (3, Features::default())].into();
        let devices = BTreeMap::from(devices);
        let choices: Vec<_> = choose(&devices, &features).into_values().collect();
        let [virtio, ixgbe, e1000e] = choices.try_into().unwrap_or_else(|_| panic!("three"));
        assert!(virtio.xdp && virtio.reason == "xdp: set by firewall.hooks");
        assert!(!ixgbe.xdp && !ixgbe.refused && ixgbe.reason == "tcx: set by firewall.hooks");
        assert!(!e1000e.xdp && e1000e.refused);
        assert_eq!(e1000e.reason, "tcx: e1000e has no native XDP");
    }

    #[test]
    fn xdp_sends_by_devices_of_xdp_and_by_those_that_shall_only_receive_with_tcx() {
        let sends = |device: &Device| {
            let index = 1;
            let choices = choose(&[(index, device.clone())].into(), &[(index, FULL)].into());
            choices.get(&index).is_some_and(|choice| transmits(device, choice, FULL))
        };
        assert!(sends(&card("virtio_net", Wish::Xdp)));
        assert!(sends(&card("ixgbe", Wish::Tcx)), "hybrid");
        assert!(!sends(&card("virtio_net", Wish::Auto)));
        assert!(!sends(&Device { wish: Wish::Auto, ..Device::default() }));
    }
}
