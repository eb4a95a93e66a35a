// SPDX-License-Identifier: Apache-2.0
//! QEMU's command line for the appliance.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::{Accelerator, Disk, Environment, PROGRAM};

/// A plain processor: for each feature of a newer one the kernel loads modules that it then runs emulated; and an AMD, because
/// isolating page tables, which Intel's of that age need against Meltdown, is what emulation does slowest.
const EMULATED: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt";
const MEMORY_MIB: u32 = 768;
/// Nothing is probed for that is not there, and no time is spent on guarding a machine from itself.
const KERNEL: &str = "console=ttyS0 quiet loglevel=3 panic=-1 no_timer_check tsc=reliable lpj=4000000 mitigations=off \
                      nokaslr noapictimer_check random.trust_cpu=on random.trust_bootloader=on i8042.noaux i8042.nokbd \
                      cryptomgr.notests nowatchdog rcupdate.rcu_expedited=1 raid=noautodetect unmoor.appliance \
                      unmoor.patience=0";

pub(super) fn of(
    environment: &Environment,
    disks: &[Disk],
    accelerator: Accelerator,
    folder: &Path,
) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-nic", "none"]);
    command.args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    command.args(["-machine", "q35,usb=off,smbus=off,vmport=off,hpet=off,graphics=off,i8042=off"]);
    match accelerator {
        Accelerator::Kvm => command.args(["-accel", "kvm", "-cpu", "host"]),
        Accelerator::Tcg => command.args(["-accel", "tcg,thread=multi,tb-size=256", "-cpu", EMULATED]),
    };
    command.args(["-smp", "2", "-m", &MEMORY_MIB.to_string()]);
    command.arg("-kernel").arg(&environment.kernel).arg("-initrd").arg(&environment.initramfs);
    command.args(["-append", KERNEL]);
    command.arg("-chardev").arg(option("file,id=console,path=", &folder.join("console"), ""));
    command.args(["-serial", "chardev:console", "-device", "virtio-serial-pci", "-chardev"]);
    command.arg(option("socket,id=job,path=", &folder.join("job"), ""));
    command.args(["-device", "virtserialport,chardev=job,name=unmoor.0"]);
    for (index, disk) in disks.iter().enumerate() {
        let Disk { path, format, read_only, sector_size } = disk;
        let read_only = if *read_only { "on" } else { "off" };
        // Flushes are ignored: an overlay counts only after QEMU has ended well, and is flushed then.
        let more = format!(
            ",format={format},if=none,id=disk{index},cache=unsafe,aio=threads,discard=ignore,readonly={read_only}"
        );
        command.arg("-drive").arg(option("file=", path, &more));
        command.arg("-device").arg(format!(
            "virtio-blk-pci,drive=disk{index},serial=DISK{index},logical_block_size={sector_size},\
             physical_block_size={sector_size}"
        ));
    }
    command
}

/// An option that holds a path: a comma inside the path is written twice.
fn option(before: &str, path: &Path, after: &str) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut text = before.as_bytes().to_vec();
    for byte in path.as_os_str().as_bytes() {
        text.push(*byte);
        if *byte == b',' {
            text.push(b',');
        }
    }
    text.extend_from_slice(after.as_bytes());
    OsString::from_vec(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_paths_stay_in_paths() {
        assert_eq!(option("file=", Path::new("/a,b/c"), ",x=y"), "file=/a,,b/c,x=y");
    }
}
