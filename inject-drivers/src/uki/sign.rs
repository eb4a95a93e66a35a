// SPDX-License-Identifier: Apache-2.0
//! Authenticode signatures (Microsoft: "Windows Authenticode Portable Executable Signature Format", 2008): PKCS #7 with SHA-256
//! and RSA, as UEFI checks them (UEFI 2.10, 32.2.4).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey};
use rsa::{PrivateKey, PublicKey};
use sha2::{Digest, Sha256};
use unmoor_convert::request::SignKey;
use unmoor_images::{Error, Result};

use super::build::set_checksum;
use super::der::{self, BITS, INTEGER, NULL, OCTETS, OID, SEQUENCE, SET, context};
use super::pe::Image;

// 1.2.840.113549.1.7.2, 1.2.840.113549.1.9.3, .4, 1.2.840.113549.1.1.1
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
// 2.16.840.1.101.3.4.2.1
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
// 1.3.6.1.4.1.311.2.1.4 and .15
const INDIRECT_DATA: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x04];
const PE_IMAGE_DATA: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f];

fn failed(because: impl std::fmt::Display) -> Error {
    Error::new(unmoor_images::ErrorKind::Usage, "signing an EFI program").because(because.to_string())
}

/// An image made by [`super::rebuild`] with a signature behind it.
///
/// # Errors
///
/// `Usage` where the key or certificate is not what PEM, PKCS #8, PKCS #1 and X.509 say, or do not belong together.
pub fn sign(file: &[u8], key: &SignKey) -> Result<Vec<u8>> {
    let mut out = file.to_vec();
    out.resize(out.len().next_multiple_of(8), 0);
    let image = Image::parse(&out)?;
    if image.is_signed() {
        return Err(failed("it is signed already"));
    }
    let (checksum, directory) = (image.optional + 64, image.directories + 32);
    if directory + 8 > image.table {
        return Err(failed("its headers have no place for a signature"));
    }
    let signature = signed_data(&digest(&out, checksum, directory), key)?;
    let place = u32::try_from(out.len()).map_err(failed)?;
    let len = u32::try_from((8 + signature.len()).next_multiple_of(8)).map_err(failed)?;
    // WIN_CERTIFICATE: length, revision 2.0, PKCS #7.
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&[0x00, 0x02, 0x02, 0x00]);
    out.extend_from_slice(&signature);
    out.resize(out.len().next_multiple_of(8), 0);
    for (at, value) in [(directory, place), (directory + 4, len)] {
        if let Some(place) = out.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }
    set_checksum(&mut out, checksum);
    Ok(out)
}

/// Of all but the checksum and the directory's entry of the certificates. What [`super::rebuild`] makes has nothing between its
/// sections, so that the file's order is the order that is asked for.
fn digest(file: &[u8], checksum: usize, directory: usize) -> Vec<u8> {
    let mut hash = Sha256::new();
    for range in [0..checksum, checksum + 4..directory, directory + 8..file.len()] {
        hash.update(file.get(range).unwrap_or_default());
    }
    hash.finalize().to_vec()
}

fn signed_data(digest: &[u8], key: &SignKey) -> Result<Vec<u8>> {
    let certificate = pem(&key.certificate, "CERTIFICATE")?;
    let Certificate { issuer, serial, public_key } = parse(&certificate)?;
    let sha256 = der::value(SEQUENCE, &[&der::value(OID, &[SHA256]), &der::value(NULL, &[])]);
    let rsa = der::value(SEQUENCE, &[&der::value(OID, &[RSA]), &der::value(NULL, &[])]);

    // An empty name of a file, as every signing tool writes it.
    let name = der::value(context(0), &[&der::value(context(2), &[&der::value(0x80, &[])])]);
    let image_data = der::value(SEQUENCE, &[&der::value(BITS, &[&[0]]), &name]);
    let data = der::value(SEQUENCE, &[&der::value(OID, &[PE_IMAGE_DATA]), &image_data]);
    let message = der::value(SEQUENCE, &[&sha256, &der::value(OCTETS, &[digest])]);
    let indirect = [data, message].concat();
    let content = der::value(
        SEQUENCE,
        &[
            &der::value(OID, &[INDIRECT_DATA]),
            &der::value(context(0), &[&der::value(SEQUENCE, &[&indirect])]),
        ],
    );

    let attribute = |oid: &[u8], value: &[u8]| {
        der::value(SEQUENCE, &[&der::value(OID, &[oid]), &der::value(SET, &[value])])
    };
    let mut attributes = [
        attribute(CONTENT_TYPE, &der::value(OID, &[INDIRECT_DATA])),
        attribute(MESSAGE_DIGEST, &der::value(OCTETS, &[&Sha256::digest(&indirect)])),
    ];
    attributes.sort();
    let attributes = attributes.concat();
    let signature = rsa_signature(&der::value(SET, &[&attributes]), key, public_key)?;
    let signer = der::value(
        SEQUENCE,
        &[
            &der::value(INTEGER, &[&[1]]),
            &der::value(SEQUENCE, &[issuer, serial]),
            &sha256,
            &der::value(context(0), &[&attributes]),
            &rsa,
            &der::value(OCTETS, &[&signature]),
        ],
    );
    let signed = der::value(
        SEQUENCE,
        &[
            &der::value(INTEGER, &[&[1]]),
            &der::value(SET, &[&sha256]),
            &content,
            &der::value(context(0), &[&certificate]),
            &der::value(SET, &[&signer]),
        ],
    );
    Ok(der::value(SEQUENCE, &[&der::value(OID, &[SIGNED_DATA]), &der::value(context(0), &[&signed])]))
}

/// The first block of that kind in a PEM text.
fn pem(text: &str, kind: &str) -> Result<Vec<u8>> {
    let (begin, end) = (format!("-----BEGIN {kind}-----"), format!("-----END {kind}-----"));
    let body = text
        .split_once(&begin)
        .and_then(|(_, rest)| rest.split_once(&end))
        .map(|(body, _)| body.split_whitespace().collect::<String>())
        .ok_or_else(|| failed(format!("there is no {kind} in PEM")))?;
    STANDARD.decode(body).map_err(failed)
}

/// What a certificate says of its issuer, and the key that it certifies, as they stand in it (RFC 5280, 4.1).
struct Certificate<'a> {
    issuer: &'a [u8],
    serial: &'a [u8],
    public_key: &'a [u8],
}

fn parse(certificate: &[u8]) -> Result<Certificate<'_>> {
    let (outer, _) = der::read(certificate)?;
    let (inner, _) = der::read(outer.content)?;
    let (mut serial, mut rest) = der::read(inner.content)?;
    if serial.tag == context(0) {
        (serial, rest) = der::read(rest)?;
    }
    let (_algorithm, rest) = der::read(rest)?;
    let (issuer, rest) = der::read(rest)?;
    let (_validity, rest) = der::read(rest)?;
    let (_subject, rest) = der::read(rest)?;
    let (public_key, _) = der::read(rest)?;
    if serial.tag != INTEGER || issuer.tag != SEQUENCE || public_key.tag != SEQUENCE {
        return Err(failed("the certificate is no X.509"));
    }
    Ok(Certificate { issuer: issuer.whole, serial: serial.whole, public_key: public_key.whole })
}

fn rsa_signature(message: &[u8], key: &SignKey, public_key: &[u8]) -> Result<Vec<u8>> {
    let private = match pem(&key.key, "PRIVATE KEY") {
        Ok(key) => PrivateKey::from_pkcs8_der(&key).map_err(failed)?,
        Err(_) => PrivateKey::from_pkcs1_der(&pem(&key.key, "RSA PRIVATE KEY")?).map_err(failed)?,
    };
    let signature = private.pkcs1v15_sign::<Sha256>(message).map_err(failed)?;
    let public = PublicKey::from_public_key_der(public_key).map_err(failed)?;
    public
        .pkcs1v15_verify::<Sha256>(message, &signature)
        .map_err(|_| failed("the key is not that of the certificate"))?;
    Ok(signature)
}
