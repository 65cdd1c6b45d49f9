//! The programs in this kernel: the verifier takes them, and BPF_PROG_TEST_RUN shows what they do
//! to single frames. Needs root.
#![allow(clippy::indexing_slicing, reason = "an index out of bounds fails the test, as it should")]

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, ensure};
use aya::programs::{TestRun, TestRunOptions, XdpMode};
use portcullis_bus::firewall::CaptureRequest;
use portcullis_datapath_abi::{Counter, policy::XDP_TRANSMIT};
use portcullis_firewall::{
    compile::{Standing, compile},
    datapath::{Hook, Milestone},
    service::Firewall,
};
use portcullis_model::{Document, part::FirewallPart};
use portcullis_site::{HOST, Plan, SERVER, Site, WAN};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// A UDP frame from the LAN host to the server; checksum absent (zero).
fn frame(mac: &str, ttl: u8, destination: Ipv4Addr) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    for byte in mac.split(':') {
        frame.push(u8::from_str_radix(byte, 16)?);
    }
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    let mut ip = vec![0x45, 0, 0, 46, 0, 1, 0x40, 0, ttl, 17, 0, 0];
    ip.extend(HOST.octets());
    ip.extend(destination.octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    ip[10..12].copy_from_slice(&(!folded as u16).to_be_bytes());
    frame.extend(ip);
    frame.extend(4000_u16.to_be_bytes());
    frame.extend(5000_u16.to_be_bytes());
    frame.extend([0, 26, 0, 0]);
    frame.extend([0x55; 18]);
    Ok(frame)
}

#[test]
fn xdp_carries_established_flows_and_leaves_the_rest_to_tcx() -> Result<()> {
    let mut site = Site::build(&Plan { bridge: false, ..Plan::default() })?;
    let interfaces = site.interfaces()?;
    let lan = interfaces.iter().find(|status| status.name == "lan").context("lan")?.clone();
    let wan = interfaces.iter().find(|status| status.name == "wan").context("wan")?.clone();
    // The neighbours are known then.
    site.host.run(&format!("ping -c 2 -i 0.2 -W 2 {SERVER}"))?;

    let Site { topology, datapath, part, .. } = &mut site;
    topology.router.enter(|| {
        let zones = datapath.maps().zones()?;
        let desired =
            compile(part, &interfaces, &Standing { zones: &zones, ..Standing::default() });
        for (slot, interface) in &desired.interfaces {
            let mut interface = *interface;
            interface.flags |= XDP_TRANSMIT;
            datapath.maps().set_interface(*slot, &interface)?;
        }
        let program = datapath.xdp()?;
        let link = program.attach(&lan.device, XdpMode::Driver)?;
        let run = |input: &[u8]| -> Result<(u32, Vec<u8>)> {
            #[repr(C)]
            struct Context {
                data: u32,
                data_end: u32,
                data_meta: u32,
                ingress_ifindex: u32,
                rx_queue_index: u32,
                egress_ifindex: u32,
            }
            let context = Context {
                data: 0,
                data_end: u32::try_from(input.len())?,
                data_meta: 0,
                ingress_ifindex: lan.index,
                rx_queue_index: 0,
                egress_ifindex: 0,
            };
            // SAFETY: plain integers without padding, read as bytes while `context` lives.
            let context = unsafe {
                std::slice::from_raw_parts((&raw const context).cast::<u8>(), size_of::<Context>())
            };
            let mut output = vec![0; input.len()];
            let mut options = TestRunOptions::new();
            options.data_in = Some(input);
            options.data_out = Some(&mut output);
            options.ctx_in = Some(context);
            let result = program.test_run(options)?;
            Ok((result.return_value, output))
        };

        let sent = frame(&lan.mac, 64, SERVER)?;
        let (action, out) = run(&sent)?;
        ensure!(action == XDP_REDIRECT, "{action}");
        ensure!(out[26..30] == WAN.octets() && out[30..34] == SERVER.octets());
        ensure!(out[22] == 63, "TTL");
        ensure!(out[40..42] == [0, 0], "no UDP checksum stays none");
        ensure!(out[34..40] == sent[34..40] && out[42..] == sent[42..]);
        let wan_mac: Vec<u8> = wan
            .mac
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16))
            .collect::<Result<_, _>>()?;
        ensure!(out[6..12] == wan_mac[..], "leaves with the address of the device");
        let checksum: u32 =
            out[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        ensure!((checksum & 0xffff) + (checksum >> 16) == 0xffff, "IP checksum");

        // What needs the kernel passes unmodified: an ICMP error to send, a service of the router,
        // a frame for another host.
        for input in [
            frame(&lan.mac, 1, SERVER)?,
            frame("02:00:00:00:00:77", 64, SERVER)?,
            [&sent[..12], &[0x08, 0x06], &sent[14..]].concat(),
        ] {
            let (action, out) = run(&input)?;
            ensure!(action == XDP_PASS && out == input, "{action}");
        }
        // What the policy refuses is dropped unmodified.
        let refused = frame(&lan.mac, 64, Ipv4Addr::new(224, 0, 0, 1))?;
        let (action, out) = run(&refused)?;
        ensure!(action == XDP_DROP && out == refused, "{action}");
        datapath.xdp()?.detach(link)?;
        Ok(())
    })?;
    ensure!(site.count(Counter::DropMulticast)? >= 1);
    Ok(())
}

#[test]
fn the_verifier_takes_all_programs() -> Result<()> {
    let mut site = Site::new("")?;
    site.datapath.xdp()?;
    for hook in Hook::ALL {
        for (name, program) in site.datapath.programs(hook)? {
            let info = program.info()?;
            let translated = info.size_translated().unwrap_or_default();
            println!(
                "{} {name}: {translated} bytes, {:?} instructions verified",
                hook.name(),
                info.verified_instruction_count()
            );
            ensure!(translated > 100, "{name}");
            ensure!(info.size_jitted() > 0, "{name} is not compiled for this CPU");
        }
    }
    Ok(())
}

#[test]
fn what_was_foreseen_is_used_if_the_sizes_are_the_usual_ones() -> Result<()> {
    struct Pins(PathBuf);
    impl Drop for Pins {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
    let usual = FirewallPart::of(&Document::parse("")?);
    let mut smaller = usual.clone();
    smaller.firewall.max_flows = 8192;
    // Mounts the BPF file system if need be.
    let _site = Site::new("")?;
    for (part, fits) in [(usual, true), (smaller, false)] {
        let flows = part.firewall.max_flows;
        let name = format!("pc-foreseen-{}-{flows}", std::process::id());
        let pins = Pins(PathBuf::from("/sys/fs/bpf").join(name));
        let mut foreseen = Firewall::foresee(&pins.0, Arc::default())?.context("no tables yet")?;
        foreseen.wait()?;
        ensure!(foreseen.has(Milestone::Complete) && foreseen.attachments().is_empty());
        ensure!(Firewall::foresee(&pins.0, Arc::default())?.is_none(), "there are tables");
        let mut firewall = Firewall::begin(pins.0.clone(), part, Some(foreseen), Arc::default())?;
        ensure!(firewall.is_complete() == fits, "{flows} flows: {:?}", firewall.pending());
        if !fits {
            let refused = firewall.begin_capture(&CaptureRequest::default()).err();
            ensure!(refused.is_some_and(|why| why.ends_with("try again in some seconds")));
        }
        firewall.wait()?;
        ensure!(firewall.status()?.flow_capacity == u64::from(flows));
    }
    Ok(())
}
