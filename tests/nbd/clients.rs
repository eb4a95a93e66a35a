// SPDX-License-Identifier: Apache-2.0
//! Reading through every client there is gives the disk, and the map that they see is true.

use serde_json::Value;

use crate::common::{Scene, hash, noise, run, tool};
use crate::support::{Server, images, nbdsh, path, qemu_img};

#[test]
fn nbdinfo_sees_a_read_only_disk_with_its_size_and_its_map() {
    let scene = Scene::new();
    let (_, image) = images(&scene);
    let server = Server::start(&scene, &[&image]);
    let text = tool("libnbd-bin", "nbdinfo", &["--json", server.uri()]).expect(0).stdout;
    let info: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!(info["TLS"], false);
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], (24 << 20) + 1536);
    assert_eq!(export["description"], "disk.qcow2");
    for (flag, value) in [
        ("is_read_only", true),
        ("can_multi_conn", true),
        ("can_df", true),
        ("can_cache", true),
        ("can_flush", true),
        ("can_trim", false),
        ("can_zero", false),
    ] {
        assert_eq!(export[flag], value, "{flag}");
    }
    assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
    assert_eq!(export["block_size_maximum"], 32 << 20);
    assert_eq!(export["block_size_minimum"], 1);
    let map = tool("libnbd-bin", "nbdinfo", &["--map", "--json", server.uri()]).expect(0).stdout;
    let map: Value = serde_json::from_str(&map).unwrap();
    let zeros: Vec<(u64, u64)> = map
        .as_array()
        .unwrap()
        .iter()
        .filter(|extent| extent["type"] == 3)
        .map(|extent| (extent["offset"].as_u64().unwrap(), extent["length"].as_u64().unwrap()))
        .collect();
    assert_eq!(zeros, [(3 << 20, 6 << 20)], "in clusters of 64 KiB");
    let result = server.stop();
    assert_eq!(result["written_bytes"], 0);
}

#[test]
fn every_client_copies_the_same_disk_from_raw_and_from_qcow2() {
    let scene = Scene::new();
    let (raw, image) = images(&scene);
    let copy = scene.path("copy");
    for source in [&raw, &image] {
        for socket in [false, true] {
            let socket_path = scene.path("the socket");
            let more = if socket { vec!["--socket", path(&socket_path)] } else { vec![] };
            let server = Server::start(&scene, &[vec![path(source)], more].concat());
            qemu_img(&["compare", "-f", "raw", "-F", "raw", path(&raw), server.uri()]).expect(0);
            qemu_img(&["convert", "-f", "raw", "-O", "raw", server.uri(), path(&copy)]).expect(0);
            assert_eq!(hash(&copy), hash(&raw));
            std::fs::remove_file(&copy).unwrap();
            // Four connections, 64 requests each.
            tool("libnbd-bin", "nbdcopy", &["--connections=4", server.uri(), path(&copy)]).expect(0);
            assert_eq!(hash(&copy), hash(&raw));
            std::fs::remove_file(&copy).unwrap();
        }
    }
}

#[test]
fn qemu_sees_the_same_map_as_in_the_file_itself() {
    let scene = Scene::new();
    let (_, image) = images(&scene);
    let server = Server::start(&scene, &[&image]);
    let zeros = |arguments: &[&str]| -> Vec<(u64, u64)> {
        let map: Value = serde_json::from_str(&qemu_img(arguments).expect(0).stdout).unwrap();
        let mut zeros: Vec<(u64, u64)> = Vec::new();
        for extent in map.as_array().unwrap().iter().filter(|extent| extent["zero"] == true) {
            let (start, len) = (extent["start"].as_u64().unwrap(), extent["length"].as_u64().unwrap());
            match zeros.last_mut() {
                Some(last) if last.0 + last.1 == start => last.1 += len,
                _ => zeros.push((start, len)),
            }
        }
        zeros
    };
    let here = zeros(&["map", "--output=json", "-f", "qcow2", path(&image)]);
    let there = zeros(&["map", "--output=json", "-f", "raw", server.uri()]);
    assert!(here.iter().any(|(_, len)| *len >= 6 << 20), "{here:?}");
    assert_eq!(here, there);
}

#[test]
fn the_protocols_corners_are_as_the_specification_has_them() {
    let scene = Scene::new();
    let (raw, image) = images(&scene);
    let content = std::fs::read(&raw).unwrap();
    let server = Server::start(&scene, &[path(&image), "--export", "the disk"]);
    let script = format!(
        r#"
import errno, nbd
size = h.get_size()
disk = open({raw:?}, "rb").read()
assert size == len(disk)
assert h.get_protocol() == "newstyle-fixed" and h.get_structured_replies_negotiated()
# Any alignment, over borders of pieces, data and zeros.
for offset, count in [(0, 1), (1, 511), ((3 << 20) - 7, 14), ((9 << 20) - 100000, 300001), (size - 1, 1), (0, size)]:
    assert h.pread(count, offset) == disk[offset:offset + count], (offset, count)
chunks = []
def chunk(part, offset, status, error):
    chunks.append((bytes(part), offset, status))
assert h.pread_structured(5 << 20, 5, chunk, nbd.CMD_FLAG_DF) == disk[5:5 + (5 << 20)]
assert [(offset, status) for part, offset, status in chunks] == [(5, nbd.READ_DATA)], "in one chunk"
chunks.clear()
h.pread_structured(8 << 20, 2 << 20, chunk)
assert nbd.READ_HOLE in [status for part, offset, status in chunks], "zeros are not sent"
h.cache(1 << 20, 0)
h.flush()
# What is wrong fails with its own error, and the connection goes on.
h.set_strict_mode(0)
def fails(number, what, *arguments):
    try:
        what(*arguments)
    except nbd.Error as error:
        assert error.errnum == number, (error.errnum, number, what)
    else:
        raise AssertionError("it did not fail")
fails(errno.EINVAL, h.pread, 2, size - 1)
fails(errno.EINVAL, h.pread, 512, 1 << 62)
fails(errno.EPERM, h.pwrite, b"x" * 512, 0)
fails(errno.EPERM, h.trim, 512, 0)
fails(errno.EPERM, h.zero, 512, 0)
fails(errno.EINVAL, h.pread, 512, 0, nbd.CMD_FLAG_FAST_ZERO)
fails(errno.EINVAL, h.cache, 512, size)
assert h.pread(512, 512) == disk[512:1024]
# One extent, not longer than asked for.
def extents(count, offset, flags=0):
    seen = []
    h.block_status(count, offset, lambda context, start, entries, error: seen.extend(entries) or 0, flags)
    return seen
assert extents(4 << 20, 1 << 20, nbd.CMD_FLAG_REQ_ONE) == [2 << 20, 0]
assert extents(4 << 20, 4 << 20, nbd.CMD_FLAG_REQ_ONE) == [4 << 20, 3]
assert extents(4 << 20, 1 << 20) == [2 << 20, 0, 2 << 20, 3]
# Without structured replies.
plain = nbd.NBD()
plain.set_request_structured_replies(False)
plain.connect_uri({uri:?})
assert not plain.get_structured_replies_negotiated() and not plain.can_df()
assert plain.pread(100000, 77) == disk[77:100077]
# By its name; another one is not there.
named = nbd.NBD()
named.set_export_name("the disk")
named.set_opt_mode(True)
named.set_full_info(True)
named.connect_uri({uri:?} + "the%20disk")
names = []
named.opt_list(lambda name, description: names.append((name, description)))
assert names == [("the disk", "disk.qcow2")], names
contexts = []
named.opt_list_meta_context(contexts.append)
assert contexts == ["base:allocation"], contexts
named.set_export_name("another")
try:
    named.opt_info()
except nbd.Error:
    pass
else:
    raise AssertionError("there is no such export")
named.set_export_name("")
named.opt_info()
assert named.get_canonical_export_name() == "the disk"
assert named.get_block_size(nbd.SIZE_MAXIMUM) == 32 << 20
named.opt_go()
assert named.pread(3, 9 << 20) == disk[9 << 20:(9 << 20) + 3]
# Many requests under way at once, answered in any order.
buffers = []
for number in range(200):
    buffer = nbd.Buffer(8192)
    offset = (number * 7919 * 512) % (size - 8192)
    buffers.append((h.aio_pread(buffer, offset), buffer, offset))
for cookie, buffer, offset in buffers:
    while not h.aio_command_completed(cookie):
        h.poll(-1)
    assert buffer.to_bytearray() == disk[offset:offset + 8192]
"#,
        raw = path(&raw),
        uri = server.uri(),
    );
    nbdsh(server.uri(), &script).expect(0);
    let result = server.stop();
    assert!(result["read_bytes"].as_u64().unwrap() > content.len() as u64);
}

#[test]
fn all_disks_of_a_machine_are_exports() {
    let scene = Scene::new();
    let (first, second) = (scene.ext4("first.raw", 64), scene.path("second.raw"));
    std::fs::write(&second, noise(3 << 20, 1)).unwrap();
    let image = scene.path("db01.qcow2");
    run(&["capture", path(&first), path(&second), path(&image)]).expect(0);
    let server = Server::start(&scene, &[path(&scene.path("db01.unmoor.json"))]);
    let listed = tool("libnbd-bin", "nbdinfo", &["--list", "--json", server.uri()]).expect(0).stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let names: Vec<&str> = listed["exports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|export| export["export-name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["0", "1"]);
    let uri = |export: usize| server.said["exports"][export]["uri"].as_str().unwrap();
    qemu_img(&["compare", "-f", "raw", "-F", "raw", path(&second), uri(1)]).expect(0);
    // A filesystem's unused blocks are not in the image, so that its checker is asked instead.
    let copy = scene.path("copy.raw");
    qemu_img(&["convert", "-f", "raw", "-O", "raw", uri(0), path(&copy)]).expect(0);
    tool("e2fsprogs", "e2fsck", &["-fn", path(&copy)]).expect(0);
    let port = server.port().to_string();
    let list = tool("qemu-utils", "qemu-nbd", &["--list", "-b", "127.0.0.1", "-p", &port]).expect(0).stdout;
    assert!(list.contains("exports available: 2") && list.contains("base:allocation"), "{list}");
    run(&["nbd", path(&image), "--export", "a", "--export", "b", "--export", "c"]).expect(2);
    run(&["nbd", path(&image), "--export", "1"]).expect(2);
}

#[test]
fn a_disk_that_others_could_reach_needs_tls_or_a_word() {
    let scene = Scene::new();
    let (_, image) = images(&scene);
    run(&["nbd", path(&image), "--listen", "0.0.0.0:0"]).expect(3).says(&["--tls-cert", "--insecure"]);
    run(&["nbd", path(&image), "--listen", "[::]:0"]).expect(3);
    run(&["nbd", path(&image), "--hydrate"]).expect(2);
    run(&["nbd", path(&image), "--listen", "nowhere"]).expect(2);
    run(&["nbd", path(&scene.path("missing.qcow2"))]).expect(1).says(&["missing.qcow2"]);
    let server = Server::start(&scene, &[path(&image), "--listen", "127.0.0.1:0"]);
    let taken = format!("127.0.0.1:{}", server.port());
    run(&["nbd", path(&image), "--listen", &taken]).expect(1).says(&["in use"]);
}
