//! Limits of the server, with short times, inside the test's process.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach the functions beside them"
)]

mod common;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use common::{connect, request};
use portcullis_model::{Document, part::WebPart};
use portcullis_web::{
    api::Web,
    identity::{self, Certificate, Renewal},
    routes,
    server::{Limits, Server},
    status,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// A limit that runs out soon, and that a request on a busy machine still keeps.
const SHORT: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(60);

async fn server(limits: Limits) -> Result<(SocketAddr, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let store = identity::Store::new(folder.path().to_owned());
    let web = Arc::new(Web::new(store, WebPart::of(&Document::default()))?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = routes::router(status::Cache::new(web.clone()));
    let server = Server::new(web.tls()?, web.access(), router).with_limits(limits);
    tokio::spawn(server.run(listener));
    Ok((address, folder))
}

/// Reads until the server closes.
async fn closed(stream: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let mut rest = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn who_says_nothing_is_closed() -> Result<()> {
    let (address, _folder) = server(Limits { handshake: SHORT, ..Limits::default() }).await?;
    let begin = Instant::now();
    let mut silent = TcpStream::connect(address).await?;
    assert!(closed(&mut silent).await, "no handshake");
    assert!(begin.elapsed() >= SHORT);

    let limits = Limits { handshake: LIMIT, request_head: SHORT, ..Limits::default() };
    let (address, _folder) = server(limits).await?;
    let (mut silent, _) = connect(address, Some("http/1.1")).await?;
    assert!(closed(&mut silent).await, "no request");

    let (mut slow, _) = connect(address, Some("http/1.1")).await?;
    let mut wrote = 0;
    for byte in b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".iter() {
        if slow.write_all(&[*byte]).await.is_err() || slow.flush().await.is_err() {
            break;
        }
        wrote += 1;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(closed(&mut slow).await, "slow loris after {wrote} bytes");

    let (head, _) = request(address, "h2", "GET", "/", &[]).await?;
    assert_eq!(head.status(), 200, "others are served");
    Ok(())
}

#[tokio::test]
async fn a_connection_has_an_end() -> Result<()> {
    let limits = Limits { connection: SHORT, ..Limits::default() };
    let (address, _folder) = server(limits).await?;
    for alpn in ["http/1.1", "h2"] {
        let (mut stream, _) = connect(address, Some(alpn)).await?;
        assert!(closed(&mut stream).await, "{alpn}");
    }
    Ok(())
}

#[tokio::test]
async fn connections_are_counted() -> Result<()> {
    let limits = Limits { connections_of_address: 3, handshake: LIMIT, ..Limits::default() };
    let (address, _folder) = server(limits).await?;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(connect(address, None).await?);
    }
    let refused = timeout(LIMIT, connect(address, None)).await?;
    assert!(refused.is_err(), "the fourth one is closed");
    held.pop();
    let end = Instant::now() + LIMIT;
    while connect(address, None).await.is_err() {
        assert!(Instant::now() < end, "a closed connection gives its place back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Many clients that read slowly cost the memory of one answer.
#[tokio::test]
async fn an_answer_is_there_once_however_many_read_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = identity::Store::new(folder.path().to_owned());
    let web = Arc::new(Web::new(store, WebPart::of(&Document::default()))?);
    let cache = status::Cache::new(web);
    let (first, second) = tokio::join!(cache.json(), cache.json());
    assert!(first.starts_with(b"{"));
    assert_eq!(first.as_ptr(), second.as_ptr());
    Ok(())
}

#[test]
fn certificates_are_renewed_in_time() {
    let names = ["gate.lan".to_owned()];
    let certificate = Certificate {
        sha256: String::new(),
        not_after_unix_s: 100 * 86_400,
        names: names.to_vec(),
        der: String::new(),
    };
    let decide = |names: &[String], day: u64| identity::decide(&certificate, names, day * 86_400);
    assert_eq!(decide(&names, 0), None);
    assert_eq!(decide(&names, 69), None);
    assert_eq!(decide(&names, 70), Some(Renewal::Ending));
    assert_eq!(decide(&names, 200), Some(Renewal::Ending));
    assert_eq!(decide(&["other.lan".to_owned()], 0), Some(Renewal::NamesChanged));
    assert_eq!(identity::decide(&certificate, &names, u64::MAX), Some(Renewal::Ending));

    // The clock was years ahead when the router made it, as without a battery, and is right now.
    let made =
        |day: u64| Certificate { not_after_unix_s: (day + 820) * 86_400, ..certificate.clone() };
    assert_eq!(identity::decide(&made(0), &names, 0), None);
    assert_eq!(identity::decide(&made(101), &names, 100 * 86_400), None, "backdated by a day");
    assert_eq!(identity::decide(&made(102), &names, 100 * 86_400), Some(Renewal::NotYetValid));
    assert_eq!(identity::decide(&made(9999), &names, 100 * 86_400), Some(Renewal::NotYetValid));
}

#[test]
fn two_certificates_of_one_key_differ_in_number() -> Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let names = ["gate.lan".to_owned(), "192.168.77.1".to_owned()];
    let make = || Certificate::make(&key, &names, 1_800_000_000);
    assert_ne!(make()?.der, make()?.der, "equal numbers would lock browsers out");
    Ok(())
}
