// SPDX-License-Identifier: Apache-2.0
//! The server's own CA and certificate, made when it runs first, and the admin's token.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use unmoor_images::{Error, ErrorKind, Result, ResultExt};

use super::state::{draw, hex};

/// Names under which a server is always reached from its own machine.
const OWN: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Who the server is.
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) ca_pem: String,
    /// SHA-256 of the CA's certificate.
    pub(super) pin: [u8; 32],
}

impl Identity {
    /// From the folder of the state; made where it is missing.
    pub(super) fn open(folder: &Path, names: &[String], given: Option<&(PathBuf, PathBuf)>) -> Result<Self> {
        match given {
            Some((certificate, key)) => Self::given(certificate, key),
            None => Self::own(folder, names),
        }
    }

    fn given(certificate: &Path, key: &Path) -> Result<Self> {
        let (chain, pem) = (read(certificate)?, read(key)?);
        let chain = certificates(&chain).doing(|| format!("reading {}", certificate.display()))?;
        let key = private(&pem).doing(|| format!("reading {}", key.display()))?;
        // The last of a chain is the CA's, or the only one there is.
        let Some(last) = chain.last() else {
            return Err(Error::malformed(
                format!("reading {}", certificate.display()),
                "there is no certificate in it",
            ));
        };
        let pin = Sha256::digest(last).into();
        let ca_pem = pem_of(last);
        Ok(Self { chain, key, ca_pem, pin })
    }

    fn own(folder: &Path, names: &[String]) -> Result<Self> {
        let (ca_path, ca_key_path) = (folder.join("ca.pem"), folder.join("ca.key"));
        if !ca_key_path.exists() {
            if ca_path.exists() {
                let because =
                    "its key is gone: restore ca.key, or move ca.pem away and pin the new CA everywhere";
                return Err(Error::refused(format!("reading {}", ca_path.display()), because));
            }
            let key = KeyPair::generate().map_err(failed)?;
            write(&ca_key_path, key.serialize_pem().as_bytes())?;
        }
        let ca_key =
            KeyPair::from_pem(&read(&ca_key_path)?).map_err(failed).doing(|| "reading the CA's key")?;
        let parameters = authority(&ca_key)?;
        // Only the key makes a CA: a certificate that was not written any more is made again.
        if !ca_path.exists() {
            let made = CertifiedIssuer::self_signed(parameters.clone(), &ca_key).map_err(failed)?;
            let made: &rcgen::Certificate = made.as_ref();
            write(&ca_path, made.pem().as_bytes())?;
        }
        let ca_pem = read(&ca_path)?;
        let Some(ca) = certificates(&ca_pem)?.into_iter().next() else {
            return Err(Error::malformed(
                format!("reading {}", ca_path.display()),
                "there is no certificate in it",
            ));
        };
        let pin: [u8; 32] = Sha256::digest(&ca).into();
        let names = all_names(names);
        let head = format!("names: {}\nca: {}\n", names.join(" "), hex(&pin));
        let (path, key_path) = (folder.join("server.pem"), folder.join("server.key"));
        let kept = path.exists() && key_path.exists() && read(&path)?.starts_with(&head);
        if !kept {
            let key = KeyPair::generate().map_err(failed)?;
            let made = leaf(&names)?.signed_by(&key, &Issuer::new(parameters, &ca_key)).map_err(failed)?;
            // One without the other is made again: the certificate comes last.
            if path.exists() {
                std::fs::remove_file(&path).map_err(|error| Error::io("removing", error).path(&path))?;
            }
            write(&key_path, key.serialize_pem().as_bytes())?;
            write(&path, (head + &made.pem()).as_bytes())?;
        }
        let (chain, key) = (certificates(&read(&path)?)?, private(&read(&key_path)?)?);
        Ok(Self { chain, key, ca_pem, pin })
    }
}

/// The CA's parameters follow from its key, so that its certificate need not be parsed to sign with it.
fn authority(key: &KeyPair) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
    let id: String = hex(&Sha256::digest(key.subject_public_key_info())).chars().take(16).collect();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, format!("unmoor CA {id}"));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters)
}

fn leaf(names: &[String]) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(names.to_vec()).map_err(failed)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, "unmoor server");
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

fn all_names(names: &[String]) -> Vec<String> {
    let mut all: Vec<String> = names.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
    all.extend(OWN.map(str::to_owned));
    let mut seen = std::collections::HashSet::new();
    all.retain(|name| !name.is_empty() && seen.insert(name.clone()));
    all
}

/// The administrators' token; a new one where there is none. Whoever may write the file may choose it.
pub(super) fn admin_token(folder: &Path) -> Result<String> {
    let path = folder.join("admin.token");
    if !path.exists() {
        write(&path, (draw()? + "\n").as_bytes())?;
    }
    let token = read(&path)?.trim().to_owned();
    if token.len() < 32 || token.contains(char::is_whitespace) {
        let because = "a token has 32 characters at least; remove the file for a new one";
        return Err(Error::refused(format!("reading {}", path.display()), because));
    }
    Ok(token)
}

/// Written whole or not at all; for the owner's eyes.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let _ = std::fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::File::open(folder)?.sync_all()
    };
    write().map_err(|error| Error::io("writing", error).path(path))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::io("reading", error).path(path))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::malformed("reading a certificate (PEM)", error.to_string()))
}

fn private(pem: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| Error::malformed("reading a private key (PEM)", error.to_string()))
}

/// RFC 7468.
fn pem_of(der: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        for three in line.chunks(3) {
            let bits =
                (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
            for at in 0..4 {
                let letter = LETTERS.get((bits >> (18 - 6 * at) & 63) as usize).copied().unwrap_or(b'=');
                text.push(if at > three.len() { '=' } else { letter.into() });
            }
        }
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

fn failed(error: rcgen::Error) -> Error {
    Error::new(ErrorKind::Io, "making a certificate").source(error)
}
