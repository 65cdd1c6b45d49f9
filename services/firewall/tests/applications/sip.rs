//! SIP (RFC 3261) with symmetric response routing (RFC 3581): sipp as telephones, kamailio as
//! registrar and proxy. Media by symmetric RTP (RFC 4961).

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use portcullis_datapath_abi::Counter;
use portcullis_netns::{Namespace, Running};
use portcullis_site::{
    HOST, OTHER, SERVER, SERVER_TOO, Site, WAN, at_server,
    sockets::{reaches, udp},
    wait_listening,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A registrar that answers to where a request came from, remembers that place, and relays calls to
/// it: what every provider does with telephones behind a NAT.
const KAMAILIO: &str = r#"#!KAMAILIO
debug=0
log_stderror=yes
children=1
disable_tcp=yes
auto_aliases=no
listen=udp:203.0.113.10:5060
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "pv.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "nathelper.so"
modparam("nathelper|registrar", "received_avp", "$avp(received)")

request_route {
    force_rport();
    if (is_method("REGISTER")) {
        fix_nated_register();
        save("location");
        exit;
    }
    if (!lookup("location")) {
        sl_send_reply("404", "Not Found");
        exit;
    }
    t_relay();
}
"#;

/// Registers a user and holds the Via header of the answer against two expressions: where the
/// registrar saw the request come from.
fn registration(user: &str, rport: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="register">
  <send retrans="500"><![CDATA[

    REGISTER sip:[remote_ip] SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];rport;branch=[branch]
    From: <sip:{user}@[remote_ip]>;tag=[call_number]
    To: <sip:{user}@[remote_ip]>
    Call-ID: [call_id]
    CSeq: 1 REGISTER
    Contact: <sip:{user}@[local_ip]:[local_port]>
    Max-Forwards: 70
    Expires: 300
    Content-Length: 0

  ]]></send>
  <recv response="200">
    <action>
      <ereg regexp="received=198\.51\.100\.2" search_in="hdr" header="Via:" check_it="true" assign_to="1"/>
      <ereg regexp="rport=5060" search_in="hdr" header="Via:" {rport}="true" assign_to="2"/>
    </action>
  </recv>
  <Reference variables="1,2"/>
</scenario>
"#
    )
}

/// sipp with one call, in `folder` for what it writes.
fn sipp(namespace: &Namespace, folder: &Path, arguments: &str) -> Result<Running> {
    let mut command = namespace.command("sipp");
    command.current_dir(folder).args(arguments.split_whitespace()).args([
        "-m",
        "1",
        "-nostdin",
        "-timeout",
        "25s",
        "-timeout_error",
        "-trace_err",
    ]);
    Running::start_logged(command, fs::File::create(folder.join("sipp.log"))?)
}

/// Waits for the end of a call; what sipp complained about, if it was none.
fn ends_well(mut running: Running, what: &str, folder: &Path) -> Result<()> {
    let status = running.wait(PATIENCE)?;
    let mut errors = String::new();
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "log") {
            errors += &fs::read_to_string(entry.path())?;
        }
    }
    ensure!(status.success(), "{what}: sipp {status}: {errors}");
    Ok(())
}

fn registrar(namespace: &Namespace, folder: &Path) -> Result<Running> {
    let config = folder.join("kamailio.cfg");
    fs::write(&config, KAMAILIO)?;
    let mut command = namespace.command("kamailio");
    command.args(["-DD", "-E", "-m", "32", "-M", "4", "-f"]).arg(config);
    command.arg("-P").arg(folder.join("pid")).arg("-Y").arg(folder);
    let log = folder.join("kamailio.log");
    let mut running = Running::start_logged(command, fs::File::create(&log)?)?;
    let listens = wait_listening(namespace, 5060);
    running.check()?;
    listens.with_context(|| fs::read_to_string(log).unwrap_or_default())?;
    Ok(running)
}

#[test]
fn telephones_register_and_are_called_through_their_mappings() -> Result<()> {
    let mut site = Site::new("")?;
    let folder = tempfile::tempdir()?;
    let _registrar = registrar(&site.server, folder.path())?;

    // Both use the port of SIP; only the first one keeps it outside, so an answer to the port that
    // the other one names in its Via would go to the wrong telephone.
    let phones: [(&Namespace, Ipv4Addr, &str, &str); 2] =
        [(&site.host, HOST, "alice", "check_it"), (&site.other, OTHER, "bob", "check_it_inverse")];
    for (namespace, address, user, rport) in phones {
        let place = tempfile::tempdir()?;
        fs::write(place.path().join("register.xml"), registration(user, rport))?;
        let call = format!("-sf register.xml -i {address} -p 5060 {SERVER}:5060");
        let running = sipp(namespace, place.path(), &call)?;
        ends_well(running, &format!("{user} registers"), place.path())?;
    }
    // Each is called by way of the registrar, and answers; nothing is forwarded or allowed for it.
    for (namespace, address, user, _) in phones {
        let (here, there) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let phone = sipp(namespace, here.path(), &format!("-sn uas -i {address} -p 5060"))?;
        wait_listening(namespace, 5060)?;
        let line = format!("-sn uac -s {user} -i {SERVER_TOO} -p 5070 {SERVER}:5060");
        let caller = sipp(&site.server, there.path(), &line)?;
        ends_well(caller, &format!("{user} is called"), there.path())?;
        ends_well(phone, &format!("{user} answers"), here.path())?;
    }
    ensure!(site.count(Counter::DropPolicy)? == 0, "{}", site.counters()?);

    // A caller that the telephone has never written to does not get in, whatever address it knows.
    let place = tempfile::tempdir()?;
    let line = format!("-sn uac -i {SERVER_TOO} -p 5071 -max_retrans 1 {WAN}:5060");
    let stranger = sipp(&site.server, place.path(), &line)?;
    ensure!(ends_well(stranger, "a stranger", place.path()).is_err());
    ensure!(site.count(Counter::DropPolicy)? > 0, "{}", site.counters()?);
    Ok(())
}

#[test]
fn media_flows_once_the_telephone_inside_has_sent_some() -> Result<()> {
    let mut site = Site::new("")?;
    let folder = tempfile::tempdir()?;
    // The far end answers media to where it comes from.
    let line = format!("-sn uas -i {SERVER} -p 5060 -rtp_echo -mi {SERVER} -mp 30000");
    let _far = sipp(&site.server, folder.path(), &line)?;
    wait_listening(&site.server, 30_000)?;
    let phone = udp(&site.host, (HOST, 40_000))?;

    // What the far end sends by itself to the port of the telephone's offer is nobody's.
    let stream = udp(&site.server, (SERVER, 30_100))?;
    ensure!(reaches(&stream, (WAN, 40_000), &phone)?.is_none());
    ensure!(site.count(Counter::DropPolicy)? > 0, "{}", site.counters()?);

    // RTP version 2, payload type 0 (G.711), 20 ms.
    for sequence in 0..50_u16 {
        let mut packet = vec![0x80, 0];
        packet.extend(sequence.to_be_bytes());
        packet.extend((u32::from(sequence) * 160).to_be_bytes());
        packet.extend(0x5043_u32.to_be_bytes());
        packet.extend([0xff; 160]);
        phone.send_to(&packet, at_server(30_000))?;
        let mut buffer = [0; 256];
        let (length, from) = phone.recv_from(&mut buffer).context("no media came back")?;
        ensure!(from == at_server(30_000) && buffer.get(..length) == Some(&packet[..]));
    }
    Ok(())
}
