// SPDX-License-Identifier: Apache-2.0
//! Writing: into the overlay, durable, and the image stays as it is.

use std::fs;

use crate::common::{Scene, hash, run, tool};
use crate::support::{Server, images, nbdsh, path, qemu_img};

#[test]
fn what_qemu_writes_is_in_the_overlay_and_the_image_stays() {
    let scene = Scene::new();
    let (raw, image) = images(&scene);
    let before = hash(&image);
    let overlay = scene.path("overlay.raw");
    let arguments = [path(&image), "--overlay", path(&overlay)];
    let server = Server::start(&scene, &arguments);
    let commands = [
        "write -P 0x11 0 4k",
        "write -P 0x22 6000 3000",
        "write -P 0x33 -f 3145000 2M",
        "write -z 12M 1M",
        "write -z -u 14M 70000",
        "discard 16M 1M",
        "writev -P 0x44 20M 4k 64k 512",
        "flush",
    ];
    // The same commands on a plain copy are what the disk should be.
    let model = scene.path("model.raw");
    fs::copy(&raw, &model).unwrap();
    for target in [server.uri(), path(&model)] {
        let mut words = vec!["-f", "raw"];
        commands.iter().for_each(|command| words.extend(["-c", command]));
        words.push(target);
        let said = tool("qemu-utils", "qemu-io", &words).expect(0);
        assert!(
            !said.stdout.contains("failed") && !said.stderr.contains("failed"),
            "{} {}",
            said.stdout,
            said.stderr
        );
    }
    qemu_img(&["compare", "-f", "raw", "-F", "raw", path(&model), server.uri()]).expect(0);
    let result = server.stop();
    assert_eq!(result["overlays"][0]["stands_alone"], false);
    let held = result["overlays"][0]["held_bytes"].as_u64().unwrap();
    assert!((4 << 20..6 << 20).contains(&held), "{held} bytes");
    assert_eq!(hash(&image), before);
    // Again, with what was written before.
    let server = Server::start(&scene, &arguments);
    qemu_img(&["compare", "-f", "raw", "-F", "raw", path(&model), server.uri()]).expect(0);
    run(&arguments.map(|word| if word == path(&image) { vec!["nbd", word] } else { vec![word] }).concat())
        .expect(3)
        .says(&["another unmoor serves it"]);
    drop(server);
    // Another image is not what it was made over.
    run(&["nbd", path(&raw), "--overlay", path(&overlay)])
        .expect(3)
        .says(&["was made over", "overlay.raw.bitmap"]);
    run(&["nbd", path(&raw), "--overlay", path(&model)]).expect(3).says(&["not an overlay"]);
}

#[test]
fn a_hydrated_overlay_is_a_raw_disk_that_needs_no_image() {
    let scene = Scene::new();
    let (raw, image) = images(&scene);
    let overlay = scene.path("overlay.raw");
    let arguments = [path(&image), "--overlay", path(&overlay), "--hydrate"];
    let mut server = Server::start(&scene, &arguments);
    nbdsh(server.uri(), "h.pwrite(b'written first' * 1000, 3145001); h.flush()").expect(0);
    server.wait_for("note", "stands alone");
    nbdsh(server.uri(), "h.pwrite(b'written later' * 1000, 12345); h.flush()").expect(0);
    let result = server.stop();
    assert_eq!(result["overlays"][0]["stands_alone"], true);
    let mut model = fs::read(&raw).unwrap();
    model[3145001..3145001 + 13000].copy_from_slice(&b"written first".repeat(1000));
    model[12345..12345 + 13000].copy_from_slice(&b"written later".repeat(1000));
    assert!(fs::read(&overlay).unwrap() == model);
    // The image is gone, and the overlay is served all the same: as one, and as the raw disk that it is.
    fs::remove_file(&image).unwrap();
    for arguments in [&[path(&image), "--overlay", path(&overlay)][..], &[path(&overlay)]] {
        let server = Server::start(&scene, arguments);
        qemu_img(&["compare", "-f", "raw", "-F", "raw", path(&overlay), server.uri()]).expect(0);
    }
}

#[test]
fn the_order_of_a_boot_is_remembered_for_the_next_one() {
    let scene = Scene::new();
    let (_, image) = images(&scene);
    let orders = || fs::read_dir(scene.path("cache/unmoor/boot-order")).map(Iterator::count).unwrap_or(0);
    let server = Server::start(&scene, &[path(&image), "--no-boot-order"]);
    nbdsh(server.uri(), "h.pread(512, 0)").expect(0);
    server.stop();
    assert_eq!(orders(), 0);
    for overlay in ["one.raw", "two.raw"] {
        let overlay = scene.path(overlay);
        let server = Server::start(&scene, &[path(&image), "--overlay", path(&overlay)]);
        nbdsh(server.uri(), "[h.pread(512, n << 20) for n in (20, 0, 11)]").expect(0);
        server.stop();
        assert_eq!(orders(), 1, "one order for an image, whatever its overlays");
    }
    let file = fs::read_dir(scene.path("cache/unmoor/boot-order")).unwrap().next().unwrap().unwrap().path();
    let raw = fs::read(file).unwrap();
    let number = |at: usize| u32::from_le_bytes(raw[at..at + 4].try_into().unwrap());
    assert_eq!(
        [number(64), number(68), number(72), number(76)],
        [3, 80, 0, 44],
        "pieces of 256 KiB, as they were read"
    );
}

#[test]
fn fio_reads_back_what_it_wrote_under_many_requests() {
    let scene = Scene::new();
    let (_, image) = images(&scene);
    let overlay = scene.path("overlay.raw");
    let server = Server::start(&scene, &[path(&image), "--overlay", path(&overlay), "--hydrate"]);
    let job = scene.path("job.fio");
    let text = format!(
        "[write]\nioengine=nbd\nuri={}\nrw=randwrite\nbsrange=512-96k\niodepth=32\nsize=20m\nverify=crc32c\n\
         verify_fatal=1\nfsync=40\nrandseed=7\nallrandrepeat=1\n",
        server.uri()
    );
    fs::write(&job, text).unwrap();
    let said = tool("fio", "fio", &["--verify_state_save=0", path(&job)]).expect(0);
    assert!(said.stdout.contains("err= 0"), "{}", said.stdout);
}

#[test]
fn an_image_of_a_store_is_served_and_its_overlay_outlives_the_store() {
    let scene = Scene::new();
    let (raw, _) = images(&scene);
    let store = format!("dir:{}", path(&scene.path("store")));
    let secret = scene.path("secret");
    fs::write(&secret, "correct horse\n").unwrap();
    let password = ["--password-file", path(&secret)];
    run(&[&["images", "init", "--encrypt", store.as_str()][..], &password].concat()).expect(0);
    let image = format!("{store}/web01");
    run(&[&["capture", path(&raw), image.as_str()][..], &password].concat()).expect(0);

    let read_only = Server::start(&scene, &[&[image.as_str()][..], &password].concat());
    qemu_img(&["compare", "-f", "raw", "-F", "raw", path(&raw), read_only.uri()]).expect(0);
    read_only.stop();

    let overlay = scene.path("overlay.raw");
    let arguments = [image.as_str(), "--overlay", path(&overlay), "--hydrate"];
    let mut server = Server::start(&scene, &[&arguments[..], &password].concat());
    server.wait_for("note", "stands alone");
    assert_eq!(server.stop()["overlays"][0]["stands_alone"], true);
    fs::rename(scene.path("store"), scene.path("gone")).unwrap();
    run(&["nbd", image.as_str()]).expect(3).says(&["there is none", "images init"]);
    let server = Server::start(&scene, &arguments);
    qemu_img(&["compare", "-f", "raw", "-F", "raw", path(&raw), server.uri()]).expect(0);
    server.stop();
    assert_eq!(hash(&overlay), hash(&raw));
}
