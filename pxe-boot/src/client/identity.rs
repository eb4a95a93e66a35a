// SPDX-License-Identifier: Apache-2.0
//! Who an agent is: a key pair that it makes when it starts, and the short code by which people recognize it.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use unmoor_images::{Error, ErrorKind, Result};

/// The alphabet of base32 (RFC 4648, section 6).
const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A key pair and its certificate, which nobody signed.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    code: String,
    boot: String,
}

impl Identity {
    /// A new one.
    pub fn new() -> Result<Self> {
        let failed = |error| Error::new(ErrorKind::Io, "making a key").source(error);
        let key = KeyPair::generate().map_err(failed)?;
        let mut parameters = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, "unmoor agent");
        let certificate = parameters.self_signed(&key).map_err(failed)?;
        let mut boot = [0; 16];
        getrandom::fill(&mut boot)
            .map_err(|error| Error::new(ErrorKind::Io, "drawing a number").source(error))?;
        Ok(Self {
            certificate: certificate.der().clone(),
            code: short_code(&key.subject_public_key_info()),
            key: key.serialize_der(),
            boot: boot.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// `ABCD-EFGH`
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What tells this start from others: 32 hex digits.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }
}

/// The short code of a key: the first eight letters of the base32 of its SHA-256. `key` is its SubjectPublicKeyInfo (RFC 5280,
/// section 4.1.2.7) as DER.
pub fn short_code(key: &[u8]) -> String {
    let hash = Sha256::digest(key);
    let bits = hash.iter().take(5).fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    let mut code = String::new();
    for letter in 0..8 {
        if letter == 4 {
            code.push('-');
        }
        let index = (bits >> (35 - 5 * letter)) & 31;
        code.push(LETTERS.get(index as usize).copied().unwrap_or(b'?').into());
    }
    code
}
