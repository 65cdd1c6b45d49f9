//! Reading the kernel's tables while they change. Needs root and iproute2.

#![allow(missing_docs)]

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use portcullis_netns::Namespace;
use portcullis_network::kernel::netlink::{Kernel, KernelError};

const READS: usize = 30;

/// The kernel tells long tables in pieces; what is removed between two of them moves others out of
/// sight.
#[test]
fn a_table_that_changes_while_it_is_read_is_read_again() -> Result<()> {
    let namespace = Namespace::new("tables")?;
    namespace.run("ip link add one type veth peer name other")?;
    let folder = tempfile::tempdir()?;
    let batch = |name: &str, lines: &str| -> Result<String> {
        let path = folder.path().join(name);
        fs::write(&path, lines)?;
        Ok(format!("ip -batch {}", path.display()))
    };
    let staying: BTreeSet<String> =
        (0..2000).map(|host| format!("10.2.{}.{}/32", host / 250, host % 250)).collect();
    let mut lines = String::new();
    for address in &staying {
        writeln!(lines, "address add {address} dev one")?;
    }
    namespace.run(&batch("stay", &lines)?)?;
    // Addresses of the link stand before others.
    let (mut come, mut go) = (String::new(), String::new());
    for host in 0..8 {
        writeln!(come, "address add 10.1.0.{host}/32 dev one scope link")?;
        writeln!(go, "address del 10.1.0.{host}/32 dev one")?;
    }
    let (come, go) = (batch("come", &come)?, batch("go", &go)?);

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| -> Result<()> {
            while !done.load(Ordering::SeqCst) {
                for line in [&come, &go] {
                    namespace.run(line)?;
                    std::thread::sleep(Duration::from_millis(30));
                }
            }
            Ok(())
        });
        let read = namespace.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let kernel = Kernel::open()?;
                let mut complete = 0;
                for _ in 0..READS {
                    let links = kernel.links().await?;
                    let actual = match kernel.read(links, std::iter::empty()).await {
                        Err(KernelError::Unsteady(_)) => continue,
                        other => other?,
                    };
                    let found: BTreeSet<String> =
                        actual.addresses.iter().map(|one| one.address.to_string()).collect();
                    let missing = staying.difference(&found).count();
                    ensure!(missing == 0, "{missing} of {} are missing", staying.len());
                    complete += 1;
                }
                ensure!(complete > 0, "no table was read");
                Ok(())
            })
        });
        done.store(true, Ordering::SeqCst);
        churn.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the other thread panicked")))?;
        read
    })
}
