// SPDX-License-Identifier: Apache-2.0
//! Who the server is: the one that has a certificate of one CA, which is known by its hash or lies in a file. The system's CAs
//! count for nothing here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use unmoor_images::{Error, ErrorKind, Result};

use super::{Identity, body, builder, send};

/// Most bytes of a file with a CA.
const MOST: u64 = 1 << 20;
/// How long the server may take to tell its CA.
const FETCH: Duration = Duration::from_secs(15);

/// SHA-256 of a CA's certificate (DER).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// From 64 hex digits; colons between bytes, as openssl prints them, are no harm.
    pub fn parse(text: &str) -> Result<Self> {
        let digits: Vec<u8> = text
            .chars()
            .filter(|c| *c != ':')
            .filter_map(|c| c.to_digit(16))
            .map(|digit| digit as u8)
            .collect();
        let letters = text.chars().filter(|c| *c != ':').count();
        let bytes: Vec<u8> =
            digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
        match <[u8; 32]>::try_from(bytes) {
            Ok(hash) if letters == 64 && digits.len() == 64 => Ok(Self(hash)),
            _ => Err(Error::new(ErrorKind::Usage, "reading the pin")
                .because("it is the SHA-256 of the server's CA: 64 hex digits")),
        }
    }

    /// The pin of a certificate.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

/// How the server is recognized.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Its CA has this hash.
    Pin {
        /// The hash.
        pin: Pin,
        /// Where the CA is; `http://HOST/ca.pem` where nothing is said.
        url: Option<String>,
    },
    /// Its CA lies in a file (PEM).
    File(PathBuf),
}

/// The CA's certificate.
pub(super) fn authority(trust: &Trust, base: &str) -> Result<CertificateDer<'static>> {
    match trust {
        Trust::File(path) => {
            let doing = || format!("reading the CA {}", path.display());
            let pem = std::fs::read(path).map_err(|error| Error::io(doing(), error))?;
            certificates(&pem)?
                .into_iter()
                .next()
                .ok_or_else(|| Error::malformed(doing(), "there is no certificate (PEM) in it"))
        }
        Trust::Pin { pin, url } => {
            let url = url.clone().unwrap_or_else(|| plain(base));
            let doing = format!("fetching the server's CA from {url:.300}");
            // Nothing here speaks TLS; without a configuration the library would look for a provider of its own.
            let config = unverified()?;
            let client = builder().tls_backend_preconfigured(config).timeout(FETCH).build();
            let client = client.map_err(|error| Error::new(ErrorKind::Io, doing.clone()).source(error))?;
            let answer = send(client.get(&url), &doing).map_err(super::Failure::error)?;
            let pem = body(answer, &doing, MOST).map_err(super::Failure::error)?;
            let found = certificates(&pem)?;
            found.into_iter().find(|certificate| Pin::of(certificate) == *pin).ok_or_else(|| {
                Error::refused(
                    doing,
                    "it is not the one that the pin stands for: this is another server, or somebody is in between",
                )
            })
        }
    }
}

/// `https://HOST:PORT` -> `http://HOST/ca.pem`
fn plain(base: &str) -> String {
    let host = reqwest::Url::parse(base).ok().and_then(|url| url.host_str().map(str::to_owned));
    format!("http://{}/ca.pem", host.unwrap_or_default())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::malformed("reading the CA", error.to_string()))
}

fn unverified() -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(failed)?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Io, "preparing TLS").source(error)
}

/// TLS as this agent, or as nobody, with servers of this CA. A CA that is known by its pin is one server's own: under which name or address it is
/// reached says nothing more, and the clocks of machines without an operating system may be wrong.
pub(super) fn config(
    authority: &CertificateDer<'static>,
    own: bool,
    identity: Option<&Identity>,
) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(failed)?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let inner = verifier.build().map_err(failed)?;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { inner, own }));
    match identity {
        Some(identity) => {
            builder.with_client_auth_cert(vec![identity.certificate()], identity.key()).map_err(failed)
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    own: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let verify = |now| self.inner.verify_server_cert(certificate, between, name, ocsp, now);
        let mut verified = verify(now);
        if !self.own {
            return verified;
        }
        if let Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
            not_before,
            ..
        })) = verified
        {
            verified = verify(not_before);
        }
        match verified {
            // Names are compared last: the chain is right.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
