// SPDX-License-Identifier: Apache-2.0
//! Names of hosts, without the C library: a static executable's loads modules of the host's for that, which have to be of the very
//! version that it was linked with, and the rescue environment has none.
//!
//! `/etc/hosts` comes first, then the name servers of `/etc/resolv.conf` with its search list, through UDP, or TCP where the
//! answer is long.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use object_store::client::{DnsError, DnsFuture, DnsResolver};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::dns::{self, Answer, Kind};

/// How long a name server may take, and how often all are asked.
const TIMEOUT: Duration = Duration::from_secs(3);
const ROUNDS: usize = 2;
/// As many as others ask (resolv.conf(5)).
const MOST_SERVERS: usize = 3;
const MOST_SEARCHED: usize = 6;

/// Resolves by the files in a folder, `/etc`.
#[derive(Debug)]
pub(super) struct Resolver {
    folder: PathBuf,
    port: u16,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { folder: "/etc".into(), port: 53 }
    }
}

/// What `resolv.conf` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Servers {
    servers: Vec<IpAddr>,
    search: Vec<String>,
}

fn parse_servers(text: &str) -> Servers {
    let mut found = Servers::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                // A zone behind a link-local address is not needed to ask it here, and not understood.
                let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                let room = found.servers.len() < MOST_SERVERS;
                found.servers.extend(server.filter(|_| room));
            }
            // The last of them counts.
            Some("search" | "domain") => {
                found.search = words.take(MOST_SEARCHED).map(str::to_owned).collect();
            }
            _ => {}
        }
    }
    if found.servers.is_empty() {
        found.servers.push(Ipv4Addr::LOCALHOST.into());
    }
    found
}

fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut found = Vec::new();
    for line in lines {
        let mut words = line.split_whitespace();
        let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        if words.any(|name| name.eq_ignore_ascii_case(host)) {
            found.extend(address);
        }
    }
    found
}

/// The names to ask for, in order: the search list is for names without a dot.
fn candidates(host: &str, search: &[String]) -> Vec<String> {
    let whole = host.trim_end_matches('.').to_owned();
    if host.ends_with('.') {
        return vec![whole];
    }
    let below = search.iter().map(|domain| format!("{whole}.{}", domain.trim_matches('.')));
    if whole.contains('.') { vec![whole] } else { below.chain([whole.clone()]).collect() }
}

/// The addresses of a host, for other clients of the network's.
pub fn addresses(host: &str) -> DnsFuture {
    Resolver::default().resolve(host)
}

impl DnsResolver for Resolver {
    fn resolve(&self, host: &str) -> DnsFuture {
        let host = host.to_owned();
        let (folder, port) = (self.folder.clone(), self.port);
        Box::pin(async move {
            let text = |name: &str| std::fs::read(folder.join(name)).unwrap_or_default();
            if let Ok(address) = host.trim_matches(['[', ']']).parse() {
                return Ok(vec![address]);
            }
            let found = in_hosts(&String::from_utf8_lossy(&text("hosts")), &host);
            if !found.is_empty() {
                return Ok(found);
            }
            if host.eq_ignore_ascii_case("localhost") {
                return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
            }
            let servers = parse_servers(&String::from_utf8_lossy(&text("resolv.conf")));
            ask(&host, &servers, port).await
        })
    }
}

async fn ask(host: &str, servers: &Servers, port: u16) -> Result<Vec<IpAddr>, DnsError> {
    let mut last: DnsError = format!("the name {host} is not known").into();
    for name in candidates(host, &servers.search) {
        for server in servers.servers.iter().cycle().take(servers.servers.len() * ROUNDS) {
            let server = SocketAddr::new(*server, port);
            let (four, six) = futures_util::future::join(
                exchange(&name, Kind::A, server),
                exchange(&name, Kind::Aaaa, server),
            )
            .await;
            let nothing = matches!((&four, &six), (Ok(Answer::Nothing), Ok(Answer::Nothing)));
            let mut addresses = Vec::new();
            for answer in [four, six] {
                match answer {
                    Ok(Answer::Addresses(found)) => addresses.extend(found),
                    Ok(_) => {}
                    Err(error) => last = format!("the name server {}: {error}", server.ip()).into(),
                }
            }
            if !addresses.is_empty() {
                return Ok(addresses);
            }
            if nothing {
                break;
            }
        }
    }
    Err(last)
}

async fn exchange(name: &str, kind: Kind, server: SocketAddr) -> Result<Answer, DnsError> {
    match tokio::time::timeout(TIMEOUT, exchange_patiently(name, kind, server)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("there was no answer within {} s", TIMEOUT.as_secs()).into()),
    }
}

async fn exchange_patiently(name: &str, kind: Kind, server: SocketAddr) -> Result<Answer, DnsError> {
    let mut id = [0; 2];
    crate::store::keys::random(&mut id)?;
    let Some(question) = dns::question(u16::from_be_bytes(id), name, kind) else {
        return Ok(Answer::Nothing);
    };
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let len = socket.recv(&mut buffer).await?;
        match dns::answer(&question, buffer.get(..len).unwrap_or_default(), kind) {
            Ok(Answer::Truncated) => break,
            Ok(answer) => return Ok(answer),
            Err(error) if error.chain().contains("another question") => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(question.len())?;
    stream.write_all(&[&len.to_be_bytes()[..], &question].concat()).await?;
    let len = stream.read_u16().await?;
    let answer = buffer.get_mut(..len.into()).ok_or("the answer is too long")?;
    stream.read_exact(answer).await?;
    Ok(dns::answer(&question, answer, kind)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn files_are_read_as_resolv_conf_and_hosts_say() {
        let text = "# made by hand\ndomain old.example\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch a.example b.example.\n\
                    nameserver 2001:db8::1\noptions ndots:1\n";
        let servers = parse_servers(text);
        let known: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(servers.servers, known);
        assert_eq!(candidates("s3", &servers.search), ["s3.a.example", "s3.b.example", "s3"]);
        assert_eq!(candidates("s3.org", &servers.search), ["s3.org"]);
        assert_eq!(candidates("s3.", &servers.search), ["s3"]);
        assert_eq!(parse_servers("").servers, [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        let hosts = "127.0.0.1 localhost\n192.0.2.9\tStorage storage.lan # the old one\n2001:db8::9 storage\nx storage\n";
        let found: Vec<IpAddr> = vec!["192.0.2.9".parse().unwrap(), "2001:db8::9".parse().unwrap()];
        assert_eq!(in_hosts(hosts, "storage"), found);
        assert_eq!(in_hosts(hosts, "stor"), Vec::<IpAddr>::new());
    }

    /// A name server that knows one name, truncates what it says through UDP, and sends a wrong answer first.
    #[test]
    fn a_name_is_asked_for_through_udp_and_then_tcp() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = tcp.local_addr().unwrap().port();
            let udp = UdpSocket::bind(("127.0.0.1", port)).await.unwrap();
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("resolv.conf"), "nameserver 127.0.0.1\nsearch lan\n").unwrap();
            let truncate = tokio::spawn(async move {
                let mut buffer = [0; 512];
                for _ in 0..2 {
                    let (len, from) = udp.recv_from(&mut buffer).await.unwrap();
                    let mut wrong = buffer[..len].to_vec();
                    wrong[0] ^= 1;
                    wrong[2] = 0x81;
                    udp.send_to(&wrong, from).await.unwrap();
                    buffer[2] = 0x83;
                    udp.send_to(&buffer[..len], from).await.unwrap();
                }
            });
            let answer = tokio::spawn(async move {
                for _ in 0..2 {
                    let (mut stream, _) = tcp.accept().await.unwrap();
                    let len = stream.read_u16().await.unwrap();
                    let mut message = vec![0; len.into()];
                    stream.read_exact(&mut message).await.unwrap();
                    let six = message[message.len() - 3] == 28;
                    assert_eq!(&message[12..21], b"\x03bkt\x03lan\0");
                    (message[2], message[7]) = (0x81, u8::from(!six));
                    if !six {
                        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
                    }
                    stream.write_u16(message.len() as u16).await.unwrap();
                    stream.write_all(&message).await.unwrap();
                }
            });
            let resolver = Resolver { folder: folder.path().to_owned(), port };
            let found = resolver.resolve("bkt").await.unwrap();
            assert_eq!(found, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
            truncate.await.unwrap();
            answer.await.unwrap();
        });
    }
}
