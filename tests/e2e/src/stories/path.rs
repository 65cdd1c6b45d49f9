//! ICMP works through the NAT: echo, and the errors that traceroute lives from.

use anyhow::{Result, ensure};
use portcullis_qemu::addresses;

use crate::scene::Scene;

pub fn ping_and_traceroute(scene: &mut Scene) -> Result<()> {
    let host = scene.host();
    let site = addresses::SITE;
    host.run(&format!("ping -c 3 -i 0.2 -W 3 {site}"))?;
    host.run(&format!("ping -c 2 -i 0.2 -W 3 -s 1400 {site}"))?;
    for method in ["-I", "-U"] {
        let hops = host.run(&format!("traceroute -n {method} -q 1 -w 3 -m 5 {site}"))?;
        let shown: Vec<_> =
            hops.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        ensure!(
            shown == ["192.168.77.1", addresses::PROVIDER, site],
            "traceroute {method}:\n{hops}"
        );
    }
    Ok(())
}
