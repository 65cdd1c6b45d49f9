//! The bus over real sockets: many peers, the `Changed` signal, restarts, refusals, limits.
//!
//! `follow` and `connect` find their socket by an environment variable, which a process has only
//! one of: all tests share one folder, and each has a service name of its own.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

use std::{
    collections::BTreeSet,
    os::unix::{fs::PermissionsExt, net::UnixListener, process::CommandExt},
    process::Output,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use portcullis_bus::{
    Error, connect, connect_at,
    dhcp::{Dhcp1, DhcpApi, DhcpBusProxy, Lease},
    follow,
    peer::{PeerError, call},
    server::{Callers, Notifier, Server},
    socket_path,
};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(20);

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("temporary folder");
    std::fs::create_dir(folder.path().join("bus")).expect("folder of the sockets");
    // SAFETY: the first thing that every test does, through `bind`; nothing in this process reads
    // the environment before, and LazyLock lets one thread in.
    unsafe { std::env::set_var("PORTCULLIS_RUN_DIR", folder.path()) };
    folder
});

fn bind(service: &str) -> Result<UnixListener> {
    LazyLock::force(&FOLDER);
    let path = socket_path(service);
    let _ = std::fs::remove_file(&path);
    Ok(UnixListener::bind(path)?)
}

/// Its one lease has the number of the last change as address.
struct Counter {
    number: AtomicU32,
    parts: Mutex<Vec<String>>,
    /// Calls that are held, until there are permits.
    held: AtomicU32,
    release: tokio::sync::Semaphore,
}

impl Default for Counter {
    fn default() -> Self {
        Self {
            number: AtomicU32::default(),
            parts: Mutex::default(),
            held: AtomicU32::default(),
            release: tokio::sync::Semaphore::new(0),
        }
    }
}

#[async_trait]
impl DhcpApi for Counter {
    async fn apply(&self, part: String) -> portcullis_bus::Result<()> {
        if part == "slow" {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        if part == "held" {
            self.held.fetch_add(1, Ordering::SeqCst);
            self.release.acquire().await.map_err(|e| Error::Failed(e.to_string()))?.forget();
        }
        if part == "wrong" {
            return Err(Error::InvalidArgument("part: `wrong` is not allowed".into()));
        }
        self.parts.lock().unwrap().push(part);
        Ok(())
    }

    async fn leases(&self) -> portcullis_bus::Result<Vec<Lease>> {
        let address = self.number.load(Ordering::SeqCst).to_string();
        Ok(vec![Lease { address, ..Lease::default() }])
    }
}

struct Running {
    counter: Arc<Counter>,
    notifier: Notifier<Dhcp1>,
    task: JoinHandle<std::convert::Infallible>,
}

impl Running {
    fn start(listener: &UnixListener, callers: Callers) -> Result<Self> {
        Self::start_with(listener, callers, |server| server)
    }

    fn start_with(
        listener: &UnixListener,
        callers: Callers,
        limits: impl FnOnce(Server<Dhcp1>) -> Server<Dhcp1>,
    ) -> Result<Self> {
        let listener = listener.try_clone()?;
        listener.set_nonblocking(true)?;
        let counter = Arc::new(Counter::default());
        let server = limits(Server::new(Dhcp1(counter.clone()), callers));
        let notifier = server.notifier();
        let task = tokio::spawn(server.run(tokio::net::UnixListener::from_std(listener)?));
        Ok(Self { counter, notifier, task })
    }

    async fn change(&self, number: u32) {
        self.counter.number.store(number, Ordering::SeqCst);
        self.notifier.changed();
    }
}

async fn proxy(service: &str) -> Result<DhcpBusProxy<'static>> {
    Ok(DhcpBusProxy::new(&connect(service).await?).await?)
}

async fn until(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !condition() {
        if Instant::now() > end {
            bail!("not within {LIMIT:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Follows a service; the list holds what it read.
fn follower(service: &'static str) -> (Arc<Mutex<Vec<u32>>>, JoinHandle<std::convert::Infallible>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = seen.clone();
    let task = tokio::spawn(follow::<DhcpBusProxy<'static>, _, _>(service, move |connection| {
        let list = list.clone();
        async move {
            let leases = DhcpBusProxy::new(&connection).await?.leases().await?;
            list.lock().unwrap().push(leases[0].address.parse().unwrap());
            Ok(())
        }
    }));
    (seen, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_peers_at_once() -> Result<()> {
    let listener = bind("many")?;
    let server = Running::start(&listener, Callers::SocketModeDecides)?;
    let mut calls = Vec::new();
    for peer in 0..20 {
        calls.push(tokio::spawn(async move {
            let proxy = proxy("many").await?;
            for round in 0..10 {
                proxy.apply(format!("{peer} {round}")).await?;
                assert_eq!(proxy.leases().await?.len(), 1);
            }
            anyhow::Ok(())
        }));
    }
    for call in calls {
        call.await??;
    }
    let parts: BTreeSet<String> = server.counter.parts.lock().unwrap().iter().cloned().collect();
    assert_eq!(parts.len(), 200, "every call arrived once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_keep_their_kind_and_words() -> Result<()> {
    let listener = bind("errors")?;
    let _server = Running::start(&listener, Callers::SocketModeDecides)?;
    match proxy("errors").await?.apply("wrong".into()).await {
        Err(Error::InvalidArgument(text)) => assert_eq!(text, "part: `wrong` is not allowed"),
        other => bail!("{other:?}"),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_reach_all_who_follow() -> Result<()> {
    let listener = bind("follow")?;
    let server = Running::start(&listener, Callers::SocketModeDecides)?;
    let followers = [follower("follow"), follower("follow"), follower("follow")];
    for (seen, _) in &followers {
        until("first reading", || *seen.lock().unwrap() == [0]).await?;
    }
    for number in 1..=5 {
        server.change(number).await;
        for (seen, _) in &followers {
            until("reading of the change", || seen.lock().unwrap().last() == Some(&number)).await?;
        }
    }
    for (_, task) in followers {
        task.abort();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_changes_ends_with_the_last_one() -> Result<()> {
    let listener = bind("burst")?;
    let server = Running::start(&listener, Callers::SocketModeDecides)?;
    let (seen, task) = follower("burst");
    until("first reading", || !seen.lock().unwrap().is_empty()).await?;
    let begin = Instant::now();
    for number in 1..=500 {
        server.change(number).await;
    }
    until("the last change", || seen.lock().unwrap().last() == Some(&500)).await?;
    // A queue of signals that nobody empties holds up answers until calls fail (20 s).
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(!task.is_finished());
    task.abort();
    Ok(())
}

/// A peer that is stopped in a debugger, or hangs: connected, and its socket full before long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_reads_nothing_holds_up_neither_the_service_nor_others() -> Result<()> {
    let listener = bind("stuck")?;
    let server = Running::start(&listener, Callers::SocketModeDecides)?;
    // Its connection belongs to a runtime that does nothing any more.
    let (stuck, _connection) = tokio::task::spawn_blocking(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connection = runtime.block_on(connect("stuck"))?;
        anyhow::Ok((runtime, connection))
    })
    .await??;
    let (seen, task) = follower("stuck");
    until("first reading", || !seen.lock().unwrap().is_empty()).await?;
    for number in 1..=5000 {
        tokio::time::timeout(LIMIT, server.change(number))
            .await
            .context("the service is held up")?;
    }
    until("the last change", || seen.lock().unwrap().last() == Some(&5000)).await?;
    task.abort();
    tokio::task::spawn_blocking(move || drop(stuck)).await?;
    Ok(())
}

/// The socket stays over a restart, as init keeps it; so the follower waits in its queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_outlives_restarts() -> Result<()> {
    let listener = bind("restart")?;
    let (seen, task) = follower("restart");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(seen.lock().unwrap().is_empty(), "nobody answers yet");
    for round in 1..=3_u32 {
        let process = std::thread::spawn({
            let listener = listener.try_clone()?;
            let seen = seen.clone();
            move || {
                // A runtime of its own: dropping it closes all connections, as a crash does.
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()?;
                runtime.block_on(async {
                    let server = Running::start(&listener, Callers::SocketModeDecides)?;
                    server.change(round * 10).await;
                    until("reading after the start", || {
                        seen.lock().unwrap().last() == Some(&(round * 10))
                    })
                    .await?;
                    server.change(round * 10 + 1).await;
                    until("reading of the change", || {
                        seen.lock().unwrap().last() == Some(&(round * 10 + 1))
                    })
                    .await
                })
            }
        });
        tokio::task::spawn_blocking(move || process.join())
            .await?
            .map_err(|_| anyhow::anyhow!("panicked"))??;
    }
    assert!(!task.is_finished());
    task.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_another_user_id_is_refused() -> Result<()> {
    let listener = bind("refuse")?;
    let path = socket_path("refuse");
    std::fs::set_permissions(FOLDER.path(), std::fs::Permissions::from_mode(0o755))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
    let _server = Running::start(&listener, Callers::Only(BTreeSet::from([65_533])))?;

    // This test runs as root, who is init and always may.
    proxy("refuse").await?.leases().await.context("root; this test needs to be root")?;

    // The same call as another user: a process of its own, which starts this test binary again.
    let caller = Caller::new()?;
    for (uid, expected) in [(65_533, true), (65_534, false)] {
        let output = caller.run(uid, &path, "").await?;
        assert_eq!(output.status.success(), expected, "uid {uid}: {output:?}");
    }
    Ok(())
}

/// A service that is open to the network may ask others, and was taken over: it gives no orders.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_controllers_give_orders() -> Result<()> {
    let listener = bind("control")?;
    let path = socket_path("control");
    std::fs::set_permissions(FOLDER.path(), std::fs::Permissions::from_mode(0o755))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
    listener.set_nonblocking(true)?;
    let counter = Arc::new(Counter::default());
    let server = Server::with_controllers(
        Dhcp1(counter.clone()),
        Callers::Only(BTreeSet::from([65_533, 65_534])),
        Callers::Only(BTreeSet::from([65_533])),
    );
    tokio::spawn(server.run(tokio::net::UnixListener::from_std(listener)?));
    let caller = Caller::new()?;
    for (uid, allowed) in [(65_533, true), (65_534, false)] {
        assert!(caller.run(uid, &path, "").await?.status.success(), "uid {uid} may ask");
        let output = caller.run(uid, &path, "order").await?;
        assert_eq!(output.status.success(), allowed, "uid {uid}: {output:?}");
        let told = String::from_utf8_lossy(&output.stderr).contains("is not for this caller");
        assert_eq!(told, !allowed, "{output:?}");
    }
    assert_eq!(*counter.parts.lock().unwrap(), ["order"]);
    Ok(())
}

/// This test binary, where other users may start it again as [`caller`].
struct Caller(tempfile::TempDir);

impl Caller {
    fn new() -> Result<Self> {
        let reachable = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()?;
        std::fs::copy(std::env::current_exe()?, reachable.path().join("caller"))?;
        Ok(Self(reachable))
    }

    /// Asks, or with a `part` orders, as this user.
    async fn run(&self, uid: u32, socket: &std::path::Path, part: &str) -> Result<Output> {
        let mut command = std::process::Command::new(self.0.path().join("caller"));
        command
            .args(["--exact", "caller", "--ignored", "--nocapture"])
            .env("BUS_TEST_SOCKET", socket)
            .env("BUS_TEST_PART", part);
        command.uid(uid).gid(uid);
        Ok(tokio::task::spawn_blocking(move || command.output()).await??)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that tests with other users start"]
async fn caller() -> Result<()> {
    let path = std::env::var("BUS_TEST_SOCKET")?;
    let connection = connect_at(path.as_ref(), LIMIT).await?;
    let proxy = DhcpBusProxy::new(&connection).await?;
    match std::env::var("BUS_TEST_PART")? {
        part if part.is_empty() => drop(proxy.leases().await?),
        part => proxy.apply(part).await?,
    }
    Ok(())
}

/// Through zbus as it is, a caller could have a service, PID 1 too, make room for 128 MiB at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_has_a_longest_length() -> Result<()> {
    let listener = bind("long")?;
    let server = Running::start(&listener, Callers::SocketModeDecides)?;
    let greedy = proxy("long").await?;
    let parts = || server.counter.parts.lock().unwrap().len();
    greedy.apply("x".repeat(15 << 20)).await.context("a long document")?;
    assert_eq!(parts(), 1);
    assert!(greedy.apply("x".repeat(17 << 20)).await.is_err());
    assert!(greedy.leases().await.is_err(), "its connection is closed");
    assert_eq!(parts(), 1);
    assert_eq!(proxy("long").await?.leases().await?.len(), 1, "others are served");

    let listener = bind("short")?;
    let _server = Running::start_with(&listener, Callers::SocketModeDecides, |server| {
        server.with_longest_message(1000)
    })?;
    let peer = proxy("short").await?;
    peer.apply("x".repeat(500)).await?;
    assert!(peer.apply("x".repeat(1000)).await.is_err());
    Ok(())
}

/// Each call is a task with its arguments and its answer, in PID 1 too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_so_many_calls_under_way_over_all_of_its_connections() -> Result<()> {
    let listener = bind("calls")?;
    let server = Running::start_with(&listener, Callers::SocketModeDecides, |server| {
        server.with_most_calls(3)
    })?;
    let peers = [proxy("calls").await?, proxy("calls").await?];
    let mut calls = Vec::new();
    for number in 0..10 {
        let peer = peers[number % 2].clone();
        calls.push(tokio::spawn(async move { peer.apply("held".to_owned()).await }));
    }
    let held = || server.counter.held.load(Ordering::SeqCst);
    until("three calls", || held() >= 3).await?;
    // Connections are taken while calls wait: a handshake is no call.
    let late = proxy("calls").await?;
    assert_eq!(held(), 3, "more than may be");
    for answered in 1..=7 {
        server.counter.release.add_permits(1);
        until("an answer makes room for the next call", || held() >= 3 + answered).await?;
        assert_eq!(held(), 3 + answered);
    }
    server.counter.release.add_permits(3);
    for call in calls {
        call.await??;
    }
    assert_eq!(late.leases().await?.len(), 1);
    Ok(())
}

/// Where the byte before a line feed is looked for although there is none, PID 1 would end, and with
/// it the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_handshake_is_too_strange() -> Result<()> {
    static PANICS: AtomicU32 = AtomicU32::new(0);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.location().is_some_and(|l| l.file().contains("zbus")) {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }
        before(info);
    }));
    let listener = bind("strange")?;
    let _server = Running::start(&listener, Callers::SocketModeDecides)?;
    let endless = vec![b'x'; 1 << 20];
    for strange in [
        &b"\n"[..],
        b"\0\n",
        b"\0AUTH EXTERNAL 30\r\n\n",
        // At the wrong place: the handshake is not over.
        b"\0BEGIN\r\n\n",
        b"\0BEGIN\r\n\r\n",
        b"\xff\r\n",
        &endless,
    ] {
        let mut stream = std::os::unix::net::UnixStream::connect(socket_path("strange"))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let strange = strange.to_vec();
        // Closed before all of it is written, some of it being unread, or after an answer.
        let closed = tokio::task::spawn_blocking(move || {
            use std::io::{Read, Write};
            let written = stream.write_all(&strange);
            let read = stream.read_to_end(&mut Vec::new());
            written.is_err()
                || read.is_ok()
                || read.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
        });
        let start = Instant::now();
        assert!(closed.await?, "not closed");
        assert!(start.elapsed() < Duration::from_secs(8), "only closed by the handshake's time");
    }
    assert_eq!(proxy("strange").await?.leases().await?.len(), 1, "others are served");

    // The other way round: a service that was taken over, and who asks it.
    let listener = bind("strange-service")?;
    let service = std::thread::spawn(move || {
        for strange in [&b"\n"[..], b"OK\r\n\n", &[b'x'; 1 << 20]] {
            let (mut stream, _) = listener.accept()?;
            let _ = std::io::Write::write_all(&mut stream, strange);
        }
        std::io::Result::Ok(())
    });
    for _ in 0..3 {
        assert!(connect("strange-service").await.is_err());
    }
    service.join().unwrap()?;
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
    Ok(())
}

/// A service that fails for an hour: each call to it that was given up stays in the queue.
#[test]
fn a_full_queue_of_connections_does_not_hold_up_the_caller() -> Result<()> {
    use std::os::fd::AsRawFd;
    let listener = bind("full")?;
    // SAFETY: listen(2) on an open socket; it sets the length of the queue anew.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let _waiting = std::os::unix::net::UnixStream::connect(socket_path("full"))?;
    let (sender, outcome) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let path = socket_path("full");
        let call = connect_at(&path, Duration::from_millis(200));
        let _ = sender.send(runtime.map(|runtime| runtime.block_on(call).map(drop)));
    });
    match outcome.recv_timeout(LIMIT).context("the caller is held up")?? {
        Err(Error::Failed(text)) => assert!(text.contains("bus/full.sock"), "{text}"),
        other => bail!("{other:?}"),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_and_says_nothing_is_closed() -> Result<()> {
    let listener = bind("silent")?;
    let _server = Running::start_with(&listener, Callers::SocketModeDecides, |server| {
        server.with_handshake(Duration::from_millis(300))
    })?;
    let mut silent = std::os::unix::net::UnixStream::connect(socket_path("silent"))?;
    silent.set_read_timeout(Some(LIMIT))?;
    let read = move || std::io::Read::read(&mut silent, &mut [0; 64]);
    assert_eq!(tokio::task::spawn_blocking(read).await??, 0, "closed");
    assert_eq!(proxy("silent").await?.leases().await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_a_caller_are_counted() -> Result<()> {
    let listener = bind("count")?;
    let _server = Running::start_with(&listener, Callers::SocketModeDecides, |server| {
        server.with_handshake(10 * LIMIT)
    })?;
    let connect = || std::os::unix::net::UnixStream::connect(socket_path("count"));
    let mut held: Vec<_> = (0..64).map(|_| connect()).collect::<Result<_, _>>()?;
    let call = async || {
        let connection = connect_at(&socket_path("count"), LIMIT).await?;
        DhcpBusProxy::new(&connection).await?.leases().await
    };
    assert!(call().await.is_err(), "the 65th is closed");
    held.pop();
    let end = Instant::now() + LIMIT;
    while call().await.is_err() {
        anyhow::ensure!(Instant::now() < end, "a closed connection gives its place back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_socket_is_named() -> Result<()> {
    LazyLock::force(&FOLDER);
    match connect("nobody").await {
        Err(Error::Failed(text)) => {
            assert!(text.contains("bus/nobody.sock"), "{text}");
            assert!(text.contains("No such file"), "{text}");
        }
        other => bail!("{:?}", other.map(drop)),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_bounded_and_say_who_is_missing() -> Result<()> {
    let listener = bind("bounded")?;
    let short = Duration::from_millis(300);
    let leases = async |connection| DhcpBusProxy::new(&connection).await?.leases().await;
    // The socket is there and nobody answers: a service that is starting or hangs.
    match call("bounded", short, leases).await {
        Err(PeerError::NotAnswering { service: "bounded", .. }) => {}
        other => bail!("{other:?}"),
    }
    let server = Running::start(&listener, Callers::SocketModeDecides)?;
    assert_eq!(call("bounded", LIMIT, leases).await?.len(), 1);
    let apply = async |connection, part: &str| {
        DhcpBusProxy::new(&connection).await?.apply(part.to_owned()).await
    };
    match call("bounded", short, async |connection| apply(connection, "slow").await).await {
        Err(PeerError::NotAnswering { .. }) => {}
        other => bail!("{other:?}"),
    }
    match call("bounded", LIMIT, async |connection| apply(connection, "wrong").await).await {
        Err(PeerError::Refused { message, .. }) => assert!(message.contains("wrong")),
        other => bail!("{other:?}"),
    }
    server.task.abort();
    match call("nowhere", LIMIT, leases).await {
        Err(error @ PeerError::NotAnswering { .. }) => {
            assert!(error.to_string().starts_with("service `nowhere` does not answer"), "{error}");
        }
        other => bail!("{other:?}"),
    }
    Ok(())
}
