//! A process that was killed removes nothing; the next one does.

use std::{path::Path, process::Command, time::Duration};

use portcullis_netns::{Namespace, Running, execute, remove_leftovers};

#[test]
fn what_a_killed_process_left_is_removed_and_nothing_else() -> anyhow::Result<()> {
    let mine = Namespace::new("mine")?;
    mine.resolver("nameserver 192.0.2.1\n")?;
    let mut owner = Command::new("sleep").arg("60").spawn()?;
    let name = format!("pc-left-{}-0", owner.id());
    let (namespace, files) =
        (Path::new("/run/netns").join(&name), Path::new("/etc/netns").join(&name));
    execute(Command::new("ip").args(["netns", "add", &name]))?;
    std::fs::create_dir_all(&files)?;
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", &name, "sleep", "60"]);
    let mut inside = Running::start(inside)?;
    // Until `ip` is in the namespace and has become the program.
    while !Command::new("ip")
        .args(["netns", "pids", &name])
        .output()?
        .stdout
        .starts_with(inside.id().to_string().as_bytes())
    {
        inside.check()?;
    }

    remove_leftovers();
    assert!(namespace.exists() && files.exists(), "its owner lives");

    owner.kill()?;
    owner.wait()?;
    remove_leftovers();
    assert!(!namespace.exists() && !files.exists());
    assert!(!inside.wait(Duration::from_secs(10))?.success());
    assert!(mine.run("cat /etc/resolv.conf")?.contains("192.0.2.1"));
    Ok(())
}

#[test]
fn a_namespace_takes_its_files_with_it() -> anyhow::Result<()> {
    let namespace = Namespace::new("file")?;
    namespace.resolver("nameserver 192.0.2.1\n")?;
    let files = Path::new("/etc/netns").join(namespace.name());
    assert!(files.exists());
    drop(namespace);
    assert!(!files.exists());
    Ok(())
}
