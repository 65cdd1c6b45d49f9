//! Real traffic through the NAT.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use portcullis_qemu::{Host, Internet, SOON, addresses};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::scene::Scene;

const LENGTH: u64 = 100_000_000;

pub fn hundred_megabytes(scene: &mut Scene) -> Result<()> {
    let mut expected = Sha256::new();
    Internet::write_content(LENGTH, &mut Hashing(&mut expected))?;
    let mut curl = scene
        .host()
        .namespace()
        .command("curl")
        .args(["-sSf", "--max-time", "120", &format!("http://{}/bytes/{LENGTH}", addresses::SITE)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut received = Sha256::new();
    let length = std::io::copy(
        curl.stdout.as_mut().context("curl without output")?,
        &mut Hashing(&mut received),
    )?;
    ensure!(curl.wait()?.success(), "curl failed after {length} bytes");
    ensure!(length == LENGTH, "{length} of {LENGTH} bytes arrived");
    let (expected, received) = (hex::encode(expected.finalize()), hex::encode(received.finalize()));
    ensure!(expected == received, "checksum {received}, sent was {expected}");
    Ok(())
}

pub fn one_address(scene: &mut Scene) -> Result<()> {
    scene.second_host().lease_by_udhcpc("laptop", SOON)?;
    let ask = |host: &Host| host.get(&format!("http://{}/", addresses::SITE_NAME));
    let seen = [ask(scene.host())?, ask(scene.second_host())?];
    let [first, second] = seen.each_ref().map(|address| address.trim());
    ensure!(
        first == second && first.starts_with(addresses::WAN_PREFIX),
        "the site saw {first} and {second}"
    );
    let status = scene.host().status()?;
    let shown = status.pointer("/wan/0/address").and_then(Value::as_str).unwrap_or_default();
    ensure!(shown.starts_with(&format!("{first}/")), "the status shows {shown}, not {first}");
    let visitors = scene.lab.internet.visitors();
    ensure!(
        visitors.iter().all(|ip| ip.to_string().starts_with(addresses::WAN_PREFIX)),
        "untranslated visitors: {visitors:?}"
    );
    Ok(())
}

struct Hashing<'a>(&'a mut Sha256);

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
