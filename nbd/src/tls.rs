// SPDX-License-Identifier: Apache-2.0
//! TLS: the server's certificate, and which clients it lets in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use unmoor_images::{Error, ErrorKind, Result};

/// Where certificates and keys lie, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The server's certificate, and those between it and its authority.
    pub certificates: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities whose clients are let in. Without them every client is.
    pub client_authorities: Option<PathBuf>,
}

/// Reads the files; TLS 1.2 and 1.3.
pub fn configure(files: &Files) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificates = certificates(&files.certificates)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| {
        Error::new(ErrorKind::Malformed, "reading the private key").path(&files.key).source(error)
    })?;
    let failed = |error: rustls::Error| Error::new(ErrorKind::Malformed, "setting up TLS").source(error);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = match &files.client_authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in self::certificates(path)? {
                roots.add(certificate).map_err(failed)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier.build().map_err(|error| {
                Error::new(ErrorKind::Malformed, "setting up TLS").path(path).source(error)
            })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    builder.with_single_cert(certificates, key).map(Arc::new).map_err(failed)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let doing = "reading the certificates";
    let read =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let read = read.map_err(|error| Error::new(ErrorKind::Malformed, doing).path(path).source(error))?;
    if read.is_empty() {
        return Err(Error::malformed(doing, "there are none in PEM").path(path));
    }
    Ok(read)
}
