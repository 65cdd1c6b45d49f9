//! A service that does nothing but use everything that the runtime offers; for the tests.

use std::io::Write;

fn main() -> std::process::ExitCode {
    portcullis_runtime::run("probe", |mut service| async move {
        let udp = service.sockets().udp("datagrams")?;
        let tcp = service.sockets().tcp("stream")?;
        let missing = service.sockets().udp("absent").err().map(|error| error.to_string());
        writeln!(std::io::stdout(), "{} {}", udp.local_addr()?, tcp.local_addr()?)?;
        writeln!(std::io::stdout(), "{}", missing.unwrap_or_default())?;
        service.ready("probing");
        if std::env::var_os("PROBE_FAILS").is_some() {
            return Err(anyhow::anyhow!("inner").context("outer").into());
        }
        if std::env::var_os("PROBE_HANGS").is_some() {
            std::thread::sleep(std::time::Duration::from_secs(30));
        }
        service.status("waiting for the end");
        service.shutdown().await;
        Ok(())
    })
}
