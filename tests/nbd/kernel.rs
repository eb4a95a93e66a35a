// SPDX-License-Identifier: Apache-2.0
//! The kernel's client: `nbd-client` in a user-mode-linux kernel of its own, over its loopback interface.

use std::path::Path;

use crate::common::Scene;
use crate::support::{images, path};
use crate::uml;

#[test]
fn the_kernel_makes_a_filesystem_on_a_served_disk_and_finds_it_again() {
    for (program, package) in [("/usr/sbin/nbd-client", "nbd-client"), ("/usr/sbin/ip", "iproute2")] {
        assert!(Path::new(program).exists(), "{program} is missing: install the Debian package {package}");
    }
    let scene = Scene::new();
    images(&scene);
    let script = format!(
        r#"
ip link set lo up
modprobe -d /mnt nbd
mknod /run/nbd0 b 43 0
serve() {{
    {unmoor} nbd /mnt/disk.qcow2 --overlay /mnt/overlay.raw --no-boot-order --listen 127.0.0.1:10809 >/mnt/server.log 2>&1 &
    server=$!
    for try in $(seq 60); do sleep 0.5; grep -q nbd:// /mnt/server.log && break; done
    cat /mnt/server.log
    nbd-client 127.0.0.1 10809 /run/nbd0 -N 0 -C 2 -nonetlink -b 512
    # It goes into the background before the kernel has the disk.
    for try in $(seq 60); do [ "$(blockdev --getsize64 /run/nbd0)" != 0 ] && break; sleep 0.5; done
}}
leave() {{ nbd-client -nonetlink -d /run/nbd0; kill -TERM $server; wait $server; : >/mnt/server.log; }}
serve
[ "$(blockdev --getsize64 /run/nbd0)" = $((24 * 1048576 + 1536)) ]
cmp -n 25165824 /run/nbd0 /mnt/disk.raw
mke2fs -q -t ext4 /run/nbd0 20000
mkdir /run/disk
mount /run/nbd0 /run/disk
cp -r /usr/share/doc/e2fsprogs /run/disk/
seq 100000 >/run/disk/numbers
fstrim -v /run/disk
umount /run/disk
sync
leave
serve
e2fsck -fn /run/nbd0
mount -o ro /run/nbd0 /run/disk
[ "$(md5sum </run/disk/numbers)" = "$(seq 100000 | md5sum)" ]
diff -r /usr/share/doc/e2fsprogs /run/disk/e2fsprogs
umount /run/disk
leave
"#,
        unmoor = env!("CARGO_BIN_EXE_unmoor"),
    );
    let log = uml::run(&scene.path(""), &script);
    assert!(log.contains("trimmed"), "{log}");
    assert!(
        std::fs::metadata(scene.path("overlay.raw")).unwrap().len() > 24 << 20,
        "{}",
        path(&scene.path(""))
    );
}
