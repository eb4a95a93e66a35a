// SPDX-License-Identifier: Apache-2.0
//! The appliance: Debian's kernel and file system tools in a machine of their own, which runs a job on attached disks.

use crate::lab::debian::{mirror, mmdebstrap};
use crate::lab::hardware::{Bus, Chipset, Firmware};
use crate::lab::qemu::{Disk, Kernel, Machine, Writes};
use crate::lab::{self, Scratch, read_text};
use crate::run::{Failure, Result, While, run};
use std::path::PathBuf;
use std::time::Duration;

const INIT: &str = include_str!("../../../tests/lab/appliance-init.sh");
pub(crate) const PRELUDE: &str = include_str!("../../../tests/lab/appliance-job.sh");
const CUSTOMIZE: &str = include_str!("../../../tests/lab/appliance-customize.sh");

/// Newer than every guest's, so that the tools know what the guests' tools made.
const SUITE: &str = "trixie";
const PACKAGES: &str = "linux-image-amd64,initramfs-tools,udev,kmod,fdisk,gdisk,parted,e2fsprogs,xfsprogs,btrfs-progs,\
    dosfstools,ntfs-3g,exfatprogs,lvm2,mdadm,cryptsetup-bin,attr,acl,libcap2-bin,xxhash,zstd";

/// Kernel modules that no job needs: most of the kernel package's size, and of the time to unpack it.
const MODULES_LEFT_OUT: &str = "drivers/accel drivers/bluetooth drivers/gpu drivers/hid drivers/hwmon drivers/iio \
    drivers/infiniband drivers/input drivers/isdn drivers/leds drivers/media drivers/mtd drivers/net drivers/pcmcia \
    drivers/platform drivers/power drivers/staging drivers/usb drivers/video net sound";

/// A shell script for the appliance. It has the function `disk SERIAL`, and `$RESULT` to write to.
pub(crate) struct Job {
    /// Run by bash with `-eu -o pipefail`.
    pub(crate) script: String,
    /// Texts beside it, at `/sys/firmware/qemu_fw_cfg/by_name/opt/unmoor/file/NAME/raw`.
    pub(crate) files: Vec<(&'static str, &'static str)>,
    /// The disks; the appliance's own comes before them.
    pub(crate) disks: Vec<Disk>,
    /// After this time the job has failed.
    pub(crate) limit: Duration,
}

impl Job {
    /// Runs the job; returns what it wrote to `$RESULT`.
    pub(crate) fn run(self, name: &str) -> Result<String> {
        let appliance = built()?;
        let scratch = Scratch::new(name)?;
        let mut disks = vec![Disk::new(&appliance.join("appliance.raw"), "appliance", Writes::Dropped)];
        disks.extend(self.disks);
        let mut machine = Machine::new(Chipset::Q35, Firmware::Bios, Bus::Virtio, disks);
        machine.kernel = Some(Kernel {
            image: appliance.join("vmlinuz"),
            initramfs: appliance.join("initrd.img"),
            command_line: "root=/dev/vda ro console=ttyS0 quiet no_timer_check panic=-1 init=/lab/init"
                .to_owned(),
        });
        machine.result_port = true;
        machine.messages = vec![("job".to_owned(), format!("{PRELUDE}{}", self.script))];
        machine
            .messages
            .extend(self.files.iter().map(|(name, text)| (format!("file/{name}"), (*text).to_owned())));
        machine
            .run(scratch.path(), self.limit)
            .while_doing(format_args!("running {name} in the appliance"))?;
        let console = read_text(&scratch.path().join("console"))?;
        if !console.lines().any(|line| line.trim_end() == "LAB-STATUS 0") {
            return Err(Failure::new(format!(
                "{name} failed in the appliance; it said:\n{}",
                console.trim_end()
            )));
        }
        read_text(&scratch.path().join("result"))
    }
}

/// The appliance's directory: kernel, initramfs and disk; built where it is not cached.
pub(crate) fn built() -> Result<PathBuf> {
    lab::cached("appliance", &[SUITE, PACKAGES, MODULES_LEFT_OUT, INIT, CUSTOMIZE], |directory| {
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            std::fs::write(&path, text).while_doing(format_args!("writing {}", path.display())).map(|()| path)
        };
        let init = file("init.sh", INIT)?;
        let customize = file("customize.sh", CUSTOMIZE)?;
        let mut command = mmdebstrap(PACKAGES);
        for modules in MODULES_LEFT_OUT.split_whitespace() {
            command.arg(format!("--dpkgopt=path-exclude=/usr/lib/modules/*/kernel/{modules}/*"));
        }
        // The initramfs only has to find the appliance's disk.
        let modules = "mkdir -p \"$1/etc/initramfs-tools/conf.d\" && \
            echo MODULES=list >\"$1/etc/initramfs-tools/conf.d/lab\" && \
            printf 'virtio_pci\\nvirtio_blk\\next4\\n' >\"$1/etc/initramfs-tools/modules\"";
        command.arg(format!("--essential-hook={modules}"));
        let quoted = |path: &std::path::Path| format!("'{}'", path.display());
        command.arg(format!(
            "--customize-hook=sh {} \"$1\" {} {}",
            quoted(&customize),
            quoted(&init),
            quoted(directory)
        ));
        run(command.args([SUITE, "/dev/null"]).arg(mirror()))
    })
}
