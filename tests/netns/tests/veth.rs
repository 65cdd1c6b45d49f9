//! Two hosts on a wire.

use portcullis_netns::Namespace;

#[test]
fn two_hosts_reach_each_other() -> anyhow::Result<()> {
    let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
    a.join("eth0", &b, "eth0")?;
    a.address("eth0", "10.9.0.1/24")?;
    b.address("eth0", "10.9.0.2/24")?;
    a.run("ping -c 1 -W 2 10.9.0.2")?;
    Ok(())
}

#[test]
fn a_tap_carries_frames() -> anyhow::Result<()> {
    let host = Namespace::new("t")?;
    let _tap = host.tap("tap0", false)?;
    assert!(host.run("ip link show tap0")?.contains("tap0"));
    Ok(())
}
