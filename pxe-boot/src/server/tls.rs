// SPDX-License-Identifier: Apache-2.0
//! TLS, in which agents show their keys: a certificate that nobody signed says no name, but its key is proved by the handshake.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::Request;
use axum_server::accept::Accept;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tower_service::Service;
use unmoor_images::{Error, ErrorKind, Result};

use super::certs::Identity;
use super::limits::{Limits, Permit};
use super::store::PeerKey;
use crate::client::short_code;

/// How long shaking hands may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes of a client's certificate: agents' have 400.
const LONGEST: usize = 8192;

/// Who is at the other end; every request has it as an extension.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// The key that it has shown, and its short code.
    pub(crate) key: Option<(PeerKey, Arc<str>)>,
}

/// Bytes that passed, TLS and all.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
}

/// How the server talks TLS.
pub(super) fn config(identity: &Identity) -> Result<ServerConfig> {
    let failed = |error| Error::new(ErrorKind::Io, "preparing TLS").source(error);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Anybody { provider: provider.clone() });
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let mut config = builder
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(failed)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// Asks for a certificate, takes any or none; whoever shows one has its key.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        if certificate.len() > LONGEST {
            return Err(CertificateError::BadEncoding.into());
        }
        // Times are not looked at: machines without an operating system may have wrong clocks.
        ParsedCertificate::try_from(certificate)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Lets connections in.
#[derive(Clone)]
pub(crate) struct Acceptor {
    pub(crate) tls: tokio_rustls::TlsAcceptor,
    pub(crate) limits: Arc<Limits>,
    pub(crate) traffic: Arc<Traffic>,
}

impl<S: Send + 'static> Accept<TcpStream, S> for Acceptor {
    type Stream = TlsStream<Counted>;
    type Service = Known<S>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let address =
                stream.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
            let address = address.to_canonical();
            let permit = this.limits.connect(address);
            let permit = permit.ok_or_else(|| io::Error::other("there are too many connections"))?;
            stream.set_nodelay(true)?;
            let counted = Counted { stream, traffic: this.traffic.clone(), _permit: permit };
            let stream = tokio::time::timeout(HANDSHAKE, this.tls.accept(counted))
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            let key = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).and_then(peer_key);
            Ok((stream, Known { service, peer: Peer { address, key } }))
        })
    }
}

fn peer_key(certificate: &CertificateDer<'_>) -> Option<(PeerKey, Arc<str>)> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let spki = parsed.subject_public_key_info();
    Some((PeerKey(Sha256::digest(&spki).into()), short_code(&spki).into()))
}

/// A connection's service that tells requests who asks.
#[derive(Clone)]
pub(crate) struct Known<S> {
    service: S,
    peer: Peer,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Known<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some((key, _)) = &self.peer.key {
            request.extensions_mut().insert(*key);
        }
        // By which the web page counts wrong tokens.
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((self.peer.address, 0))));
        request.extensions_mut().insert(self.peer.clone());
        self.service.call(request)
    }
}

/// A connection whose bytes are counted.
pub(crate) struct Counted {
    stream: TcpStream,
    traffic: Arc<Traffic>,
    _permit: Permit,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let bytes = buffer.filled().len().saturating_sub(before);
        self.traffic.received.fetch_add(bytes as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            self.traffic.sent.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
