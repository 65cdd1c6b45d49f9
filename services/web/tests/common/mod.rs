//! An HTTPS client that accepts any certificate and remembers it.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, body::Bytes, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Remembers the certificate; checks the handshake's signatures, not who signed it.
#[derive(Debug, Default)]
pub struct Remember(pub Mutex<Vec<u8>>);

impl ServerCertVerifier for Remember {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = certificate.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let provider = aws_lc_rs::default_provider();
        let algorithms = &provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let provider = aws_lc_rs::default_provider();
        let algorithms = &provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS connection with this ALPN, and the server's certificate (DER).
pub async fn connect(
    address: SocketAddr,
    alpn: Option<&str>,
) -> Result<(TlsStream<TcpStream>, Vec<u8>)> {
    let remember = Arc::new(Remember::default());
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(remember.clone())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("portcullis.lan")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let certificate = remember.0.lock().unwrap().clone();
    Ok((stream, certificate))
}

/// One request over HTTP/1.1 or HTTP/2; the body as text.
pub async fn request(
    address: SocketAddr,
    alpn: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<(Response<()>, String)> {
    request_to("portcullis.lan", address, alpn, method, path, headers).await
}

/// The same for a router of this name.
pub async fn request_to(
    name: &str,
    address: SocketAddr,
    alpn: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<(Response<()>, String)> {
    let (stream, _) = connect(address, Some(alpn)).await?;
    let negotiated = stream.get_ref().1.alpn_protocol().context("no ALPN")?;
    anyhow::ensure!(negotiated == alpn.as_bytes(), "{negotiated:?}");
    let io = TokioIo::new(stream);
    let uri = match alpn {
        "h2" => format!("https://{name}{path}"),
        _ => path.to_owned(),
    };
    let mut request = Request::builder().method(method).uri(uri).header("host", name);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let response = if alpn == "h2" {
        let (mut sender, connection) = conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    };
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok((Response::from_parts(head, ()), String::from_utf8(body.to_vec())?))
}
