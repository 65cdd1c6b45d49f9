//! The services under test.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{TcpListener, UdpSocket},
    os::{
        fd::{FromRawFd, RawFd},
        unix::net::{UnixDatagram, UnixStream},
    },
    path::Path,
    process::ExitCode,
    time::Duration,
};

use portcullis_init::{launch, manifest::Manifest, places::Places};

use crate::PORT;

/// Folders of a test; cgroups are tested in the image, as a development machine may not have
/// those of version 2.
pub fn places(folder: &Path) -> Places {
    Places { data: folder.join("data"), run: folder.join("run"), cgroup: None }
}

/// Their manifests.
pub fn manifests() -> Vec<Manifest> {
    let common =
        "description = \"under test\"\nmemory_mib = 64\nstate = true\nstop_timeout_s = 1\n";
    let echo = format!(
        "user = 213\n[[listen]]\nname = \"tcp\"\nkind = \"tcp\"\naddress = \"127.0.0.1:{PORT}\"\n"
    );
    [
        ("prober", "user = 210\ncapabilities = [\"NET_RAW\"]\ncalls = [\"init\"]\nsystem_calls = [\"base\", \"network\"]\n"),
        ("offender", "user = 211\nsystem_calls = [\"base\", \"netlink\"]\n"),
        ("silent", "user = 212\nwatchdog_s = 1\n"),
        ("echo", &echo),
        ("stubborn", "user = 214\nafter = [\"echo\"]\n"),
        ("caller", "user = 215\nafter = [\"echo\"]\ncalls = [\"echo\"]\n"),
        ("stranger", "user = 216\nafter = [\"echo\"]\n"),
        ("half", "user = 217\nessential = true\n"),
    ]
    .into_iter()
    .map(|(name, text)| Manifest::parse(name, &format!("{common}{text}")).unwrap())
    .collect()
}

/// Becomes the service `name`.
pub fn run(folder: &Path, name: &str) -> ExitCode {
    let manifests = manifests();
    let manifest = manifests.iter().find(|m| m.name == name).unwrap();
    let places = places(folder);
    if let Err(error) = launch::confine(manifest, &manifests, &places) {
        eprintln!("cannot be confined: {error}");
        return ExitCode::FAILURE;
    }
    match name {
        "prober" => report(&places, name, &probe(folder)),
        "offender" => {
            let _ = UdpSocket::bind("127.0.0.1:0");
            return ExitCode::SUCCESS;
        }
        "echo" => return echo(),
        "half" => notify("X_PORTCULLIS_PENDING=half of it is there"),
        "stubborn" => ignore_sigterm(),
        "caller" | "stranger" => {
            let connected = UnixStream::connect(places.bus_socket("echo")).map(drop);
            report(&places, name, &format!("bus of echo: {}", outcome(connected)));
        }
        _ => {}
    }
    notify("READY=1");
    loop {
        std::thread::sleep(Duration::from_millis(300));
        if name == "half" && places.state(name).join("other half").exists() {
            notify("X_PORTCULLIS_PENDING=");
        }
        if name != "silent" {
            notify("WATCHDOG=1");
        }
    }
}

fn report(places: &Places, name: &str, text: &str) {
    fs::write(places.state(name).join("report"), text).unwrap();
}

fn notify(text: &str) {
    let path = std::env::var("NOTIFY_SOCKET").unwrap();
    UnixDatagram::unbound().unwrap().send_to(text.as_bytes(), path).unwrap();
}

/// `ok` or the error's text without its number.
fn outcome<T>(result: std::io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.to_string().split(" (os").next().unwrap().to_owned(),
    }
}

/// What the process is and can do.
fn probe(folder: &Path) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let bits = |name: &str| format!("{:x}", u64::from_str_radix(&field(name)[0], 16).unwrap());
    let mut text = String::new();
    writeln!(text, "uid {}", field("Uid")[..3].join(" ")).unwrap();
    writeln!(text, "gid {}", field("Gid")[..3].join(" ")).unwrap();
    writeln!(text, "groups {}", field("Groups").join(" ")).unwrap();
    let sets = ["CapEff", "CapPrm", "CapInh", "CapAmb"].map(bits);
    writeln!(text, "capabilities {}", sets.join(" ")).unwrap();
    writeln!(text, "bounding {}", bits("CapBnd")).unwrap();
    writeln!(text, "no_new_privs {}", field("NoNewPrivs")[0]).unwrap();
    writeln!(text, "seccomp {}", field("Seccomp")[0]).unwrap();
    let umask = u32::from_str_radix(&field("Umask")[0], 8).unwrap();
    writeln!(text, "umask {umask:o}").unwrap();
    let own = places(folder).state("prober").join("own");
    writeln!(text, "write own: {}", outcome(fs::write(own, "x"))).unwrap();
    writeln!(text, "read other: {}", outcome(fs::read(folder.join("secret")))).unwrap();
    writeln!(text, "list root: {}", outcome(fs::read_dir("/"))).unwrap();
    writeln!(text, "bind tcp: {}", outcome(TcpListener::bind("127.0.0.1:0"))).unwrap();
    let init = rustix::process::Pid::INIT;
    let signal = rustix::process::test_kill_process(init);
    writeln!(text, "signal init: {}", outcome(signal.map_err(Into::into))).unwrap();
    let mut names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
    names.sort_by_key(|name| (!name.starts_with("LISTEN"), name.clone()));
    writeln!(text, "environment {}", names.join(" ")).unwrap();
    writeln!(text, "sockets {}", std::env::var("LISTEN_FDNAMES").unwrap()).unwrap();
    text
}

/// Answers on the socket from init.
fn echo() -> ExitCode {
    let names = std::env::var("LISTEN_FDNAMES").unwrap();
    let position = names.split(':').position(|n| n == "tcp").unwrap();
    let fd = 3 + RawFd::try_from(position).unwrap();
    // SAFETY: init handed this descriptor over, and it is taken once.
    let listener = unsafe { TcpListener::from_raw_fd(fd) };
    listener.set_nonblocking(true).unwrap();
    end_on_sigterm();
    notify("READY=1");
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let _ = stream.set_nonblocking(false);
                let mut question = [0; 1];
                if stream.read_exact(&mut question).is_ok() {
                    let _ = stream.write_all(b"!");
                }
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        notify("WATCHDOG=1");
    }
}

fn end_on_sigterm() {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(0) }
    }
    // SAFETY: the handler has the right signature and only calls _exit.
    unsafe { libc::signal(libc::SIGTERM, end as *const () as usize) };
}

fn ignore_sigterm() {
    // SAFETY: SIG_IGN is a valid disposition.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
}
