// SPDX-License-Identifier: Apache-2.0
//! TLS: GnuTLS's clients (libnbd and QEMU) against the server, with and without certificates of their own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::common::{Scene, hash, tool};
use crate::support::{Server, images, path, qemu_img};

/// An authority, a server's certificate for 127.0.0.1 and localhost, and a client's, by openssl.
fn certificates(scene: &Scene) -> PathBuf {
    let folder = scene.path("pki.content");
    fs::create_dir(&folder).unwrap();
    let script = r#"set -e
for ca in ca other-ca; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout $ca.key -out $ca.pem -days 30 -subj "/CN=$ca" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
done
leaf() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout $1-key.pem -out $1.csr -subj "/CN=$1"
    printf "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n$4" >$1.ext
    openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -days 30 -extfile $1.ext -out $1-cert.pem
}
leaf server ca x 'extendedKeyUsage=serverAuth\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n'
leaf client ca x 'extendedKeyUsage=clientAuth\n'
leaf stranger other-ca x 'extendedKeyUsage=clientAuth\n'
for who in client stranger nobody; do mkdir $who; cp ca.pem $who/ca-cert.pem; done
for who in client stranger; do cp $who-cert.pem $who/client-cert.pem; cp $who-key.pem $who/client-key.pem; done
"#;
    let output = Command::new("sh").args(["-c", script]).current_dir(&folder).output().unwrap();
    assert!(
        output.status.success(),
        "openssl (package openssl): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    folder
}

#[test]
fn clients_with_a_certificate_of_the_authority_get_in_and_no_others() {
    let scene = Scene::new();
    let (raw, image) = images(&scene);
    let pki = certificates(&scene);
    let file = |name: &str| path(&pki.join(name)).to_owned();
    let (cert, key, ca) = (file("server-cert.pem"), file("server-key.pem"), file("ca.pem"));
    let overlay = scene.path("overlay.raw");
    let arguments = [path(&image), "--overlay", path(&overlay), "--tls-cert", &cert, "--tls-key", &key];
    let server = Server::start(&scene, &[&arguments[..], &["--tls-ca", &ca]].concat());
    assert!(server.uri().starts_with("nbds://127.0.0.1:"));
    let uri = |who: &str| format!("{}?tls-certificates={}", server.uri(), file(who));
    let said = tool("libnbd-bin", "nbdinfo", &[uri("client")]).expect(0).stdout;
    assert!(said.contains("newstyle-fixed with TLS") && said.contains("base:allocation"), "{said}");
    let copy = scene.path("copy.raw");
    tool("libnbd-bin", "nbdcopy", &[uri("client").as_str(), path(&copy)]).expect(0);
    assert_eq!(hash(&copy), hash(&raw));
    // And back, with writes of up to 32 MiB: every record of TLS in its order.
    fs::write(&copy, fs::read(&raw).unwrap().iter().map(|byte| byte ^ 0x5a).collect::<Vec<u8>>()).unwrap();
    tool("libnbd-bin", "nbdcopy", &["--flush", "--request-size=33554432", path(&copy), &uri("client")])
        .expect(0);
    let again = scene.path("again.raw");
    tool("libnbd-bin", "nbdcopy", &[uri("client").as_str(), path(&again)]).expect(0);
    assert_eq!(hash(&copy), hash(&again));
    for who in ["stranger", "nobody"] {
        assert_ne!(tool("libnbd-bin", "nbdinfo", &[uri(who)]).code, Some(0), "{who}");
    }
    let plain = server.uri().replace("nbds:", "nbd:");
    assert_ne!(tool("libnbd-bin", "nbdinfo", &[plain]).code, Some(0));
    // QEMU, whose requests come in several at a time.
    let credentials = format!("tls-creds-x509,id=tls,endpoint=client,dir={}", file("client"));
    let target = format!(
        "driver=raw,file.driver=nbd,file.host=127.0.0.1,file.port={},file.tls-creds=tls",
        server.port()
    );
    qemu_img(&[
        "compare",
        "--object",
        &credentials,
        "--image-opts",
        &format!("driver=raw,file.driver=file,file.filename={}", path(&copy)),
        &target,
    ])
    .expect(0);
    let list = ["--object", credentials.as_str(), "--tls-creds", "tls", "--list", "-b", "127.0.0.1", "-p"];
    let port = server.port().to_string();
    tool("qemu-utils", "qemu-nbd", &[&list[..], &[&port]].concat()).expect(0);
    drop(server);

    // Without an authority for clients, everybody who trusts the server gets in.
    let server = Server::start(&scene, &arguments);
    let uri = format!("{}?tls-certificates={}", server.uri(), file("nobody"));
    tool("libnbd-bin", "nbdinfo", &[uri]).expect(0);
}

#[test]
fn certificates_that_cannot_be_used_are_named() {
    let scene = Scene::new();
    let (_, image) = images(&scene);
    let pki = certificates(&scene);
    let file = |name: &str| path(&pki.join(name)).to_owned();
    let image = path(&image);
    let (cert, key) = (file("server-cert.pem"), file("server-key.pem"));
    crate::common::run(&["nbd", image, "--tls-cert", &cert]).expect(2);
    crate::common::run(&["nbd", image, "--tls-cert", &key, "--tls-key", &key])
        .expect(1)
        .says(&["server-key.pem"]);
    crate::common::run(&["nbd", image, "--tls-cert", &cert, "--tls-key", &cert])
        .expect(1)
        .says(&["server-cert.pem"]);
    let other = file("client-key.pem");
    crate::common::run(&["nbd", image, "--tls-cert", &cert, "--tls-key", &other])
        .expect(1)
        .says(&["setting up TLS"]);
}
