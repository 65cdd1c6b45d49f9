//! The datapath between real hosts: namespaces, veth pairs, real tools. Needs root.

mod site;

use anyhow::{Result, ensure};
use portcullis_datapath_abi::Counter;
use site::{SERVER, Site};

#[test]
fn ping_goes_through_and_is_masqueraded() -> Result<()> {
    let mut site = Site::new()?;
    let output = site.host.run(&format!("ping -c 3 -i 0.2 -W 2 {SERVER}"))?;
    ensure!(output.contains(" 0% packet loss"), "{output}");
    ensure!(site.count(Counter::Forwarded)? == 6);
    Ok(())
}
