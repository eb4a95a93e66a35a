// SPDX-License-Identifier: Apache-2.0
//! A server that is told what to answer: HTTP/1.1 over TLS with client certificates, and plain HTTP for its CA. It can go away and
//! come back on the same port.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, ServerConnection, SignatureScheme, StreamOwned,
};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    pub(crate) bearer: Option<String>,
    pub(crate) body: Vec<u8>,
    /// Whether the connection has a client certificate.
    pub(crate) certified: bool,
}

/// Status and body. A status of 0 closes the connection without an answer.
pub(crate) type Answer = (u16, Vec<u8>);
pub(crate) type Answering = dyn Fn(&Request) -> Answer + Send + Sync;

pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) plain: SocketAddr,
    /// The CA, DER.
    pub(crate) authority: Vec<u8>,
    pub(crate) pem: String,
    config: Arc<ServerConfig>,
    answering: Arc<Answering>,
    running: Option<Running>,
    plainly: Option<Running>,
}

struct Running {
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    thread: JoinHandle<()>,
}

impl Running {
    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Fake {
    /// With a certificate for `names`.
    pub(crate) fn start(names: &[&str], answering: Arc<Answering>) -> Self {
        let mut parameters = CertificateParams::new(Vec::<String>::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(Arc::new(Anybody))
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let certificate: &rcgen::Certificate = authority.as_ref();
        let (der, pem) = (certificate.der().to_vec(), certificate.pem());
        let config = Arc::new(config);
        let (address, running) =
            listen("127.0.0.1:0".parse().unwrap(), Some(config.clone()), answering.clone());
        let text = pem.clone();
        let (plain, plainly) = listen(
            "127.0.0.1:0".parse().unwrap(),
            None,
            Arc::new(move |request| match request.path.as_str() {
                "/ca.pem" => (200, text.clone().into_bytes()),
                _ => (404, Vec::new()),
            }),
        );
        let (running, plainly) = (Some(running), Some(plainly));
        Self { address, plain, authority: der, pem, config, answering, running, plainly }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn ca_url(&self) -> String {
        format!("http://{}/ca.pem", self.plain)
    }

    /// Goes away: connections are cut, and new ones refused.
    pub(crate) fn go(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }

    /// Comes back where it was.
    pub(crate) fn come_back(&mut self) {
        let (_, running) = listen(self.address, Some(self.config.clone()), self.answering.clone());
        self.running = Some(running);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.go();
        if let Some(plainly) = self.plainly.take() {
            plainly.stop();
        }
    }
}

fn listen(
    at: SocketAddr,
    config: Option<Arc<ServerConfig>>,
    answering: Arc<Answering>,
) -> (SocketAddr, Running) {
    let listener = TcpListener::bind(at).unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let (stopped, known) = (stop.clone(), open.clone());
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            stream.set_nonblocking(false).unwrap();
            stream.set_nodelay(true).unwrap();
            known.lock().unwrap().push(stream.try_clone().unwrap());
            let cut = Cut(stream.try_clone().unwrap());
            let (config, answering) = (config.clone(), answering.clone());
            std::thread::spawn(move || match (config, &cut).0 {
                None => serve(stream, &*answering, |_| false),
                Some(config) => {
                    let connection = ServerConnection::new(config).unwrap();
                    let certified = |stream: &StreamOwned<ServerConnection, TcpStream>| {
                        stream.conn.peer_certificates().is_some_and(|certificates| !certificates.is_empty())
                    };
                    serve(StreamOwned::new(connection, stream), &*answering, certified);
                }
            });
        }
    });
    (address, Running { stop, open, thread })
}

/// Ends a connection of which others hold handles.
struct Cut(TcpStream);

impl Drop for Cut {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

fn serve<S: Read + Write>(stream: S, answering: &Answering, certified: impl Fn(&S) -> bool) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if !matches!(stream.read_line(&mut line), Ok(len) if len > 0) {
            return;
        }
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
        let (mut length, mut bearer) = (0, None);
        loop {
            let mut header = String::new();
            if !matches!(stream.read_line(&mut header), Ok(len) if len > 0) {
                return;
            }
            let header = header.trim();
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(':').unwrap_or((header, ""));
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap(),
                "authorization" => bearer = value.trim().strip_prefix("Bearer ").map(str::to_owned),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let certified = certified(stream.get_ref());
        let (status, answer) = answering(&Request { method, path, bearer, body, certified });
        if status == 0 {
            return;
        }
        let head = match status {
            204 => "HTTP/1.1 204 No\r\n\r\n".to_owned(),
            _ => format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", answer.len()),
        };
        let out = stream.get_mut();
        if out.write_all(head.as_bytes()).is_err() || out.write_all(&answer).is_err() || out.flush().is_err()
        {
            return;
        }
    }
}

/// Takes every certificate, as a server that knows agents by their keys does.
#[derive(Debug)]
pub(crate) struct Anybody;

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
