// SPDX-License-Identifier: Apache-2.0
//! Which modules go into a rescue environment: by directory and by name; what they need comes with them.

use serde::{Deserialize, Serialize};

/// How much a rescue environment can drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// All storage, Ethernet and filesystems of servers and desktops; at most 40 MiB with its kernel.
    Small,
    /// Whatever may matter, old and rare hardware too.
    Full,
    /// What a virtual machine of QEMU's has: for `unmoor convert`.
    Appliance,
}

/// Below `kernel/`. A name with `/` at its end is a directory, any other a module.
const APPLIANCE: &[&str] = &[
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_scsi",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "sd_mod",
    "sr_mod",
    "ahci",
    "nvme",
    "qemu_fw_cfg",
    "loop",
    "ext4",
    "xfs",
    "btrfs",
    "vfat",
    "msdos",
    "fuse",
    "overlay",
    "isofs",
    "udf",
    "exfat",
    "ntfs3",
    "f2fs",
    "jfs",
    "reiserfs",
    "squashfs",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859_1",
    "nls_iso8859_15",
    "nls_utf8",
    "dm_mod",
    "dm_crypt",
    "dm_snapshot",
    "dm_mirror",
    "dm_raid",
    "dm_thin_pool",
    "dm_cache",
    "dm_cache_smq",
    "dm_bufio",
    "dm_integrity",
    "dm_writecache",
    "dm_zero",
    "md_mod",
    "linear",
    "raid0",
    "raid1",
    "raid10",
    "raid456",
    "multipath",
    "libcrc32c",
    "crc32c_generic",
    "crc32c_intel",
    "crct10dif_generic",
    "crc64",
    "xxhash_generic",
    "blake2b_generic",
    "sha256_generic",
    "sha512_generic",
    "sha1_generic",
    "aes_generic",
    "aesni_intel",
    "aes_ti",
    "xts",
    "cbc",
    "ecb",
    "essiv",
    "cryptd",
    "crypto_simd",
    "algif_hash",
    "algif_skcipher",
    "af_alg",
    "lz4",
    "lzo",
    "zstd",
    "deflate",
    "efivarfs",
];

const SMALL: &[&str] = &[
    // Storage.
    "drivers/ata/",
    "drivers/block/",
    "drivers/nvme/",
    "drivers/scsi/",
    "drivers/message/",
    "drivers/mmc/",
    "drivers/ufs/",
    "drivers/cdrom/",
    "drivers/md/",
    "vmd",
    "intel_lpss_pci",
    "phy_generic",
    // Buses and platforms.
    "drivers/virtio/",
    "drivers/hv/",
    "drivers/vhost/vringh",
    "drivers/xen/",
    "drivers/usb/host/",
    "drivers/usb/storage/",
    "drivers/usb/common/",
    "drivers/usb/core/",
    "drivers/usb/typec/ucsi/",
    "drivers/firmware/",
    "drivers/pci/",
    "drivers/nvmem/",
    "vmw_vmci",
    "vmw_vsock_vmci_transport",
    "hyperv_keyboard",
    "hid_hyperv",
    "pci_hyperv",
    "virtio_console",
    "virtio_rng",
    "tpm_crb",
    "tpm_tis",
    // Network.
    "drivers/net/ethernet/",
    "drivers/net/phy/",
    "drivers/net/mdio/",
    "drivers/net/pcs/",
    "drivers/net/usb/",
    "drivers/net/hyperv/",
    "drivers/net/vmxnet3/",
    "virtio_net",
    "xen_netfront",
    "net_failover",
    "bonding",
    "8021q",
    "af_packet",
    "ipv6",
    // Keyboards.
    "usbhid",
    "hid",
    "hid_generic",
    "atkbd",
    "i8042",
    "evdev",
    "hid_apple",
    "hid_logitech_dj",
    // Filesystems and what they need.
    "fs/ext4/",
    "fs/xfs/",
    "fs/btrfs/",
    "fs/fat/",
    // What vfat asks for by itself and what distributions mount it with; the rest is for texts in eighty other encodings.
    "nls_cp437",
    "nls_cp850",
    "nls_ascii",
    "nls_iso8859_1",
    "nls_iso8859_15",
    "nls_utf8",
    "fs/fuse/",
    "fs/isofs/",
    "fs/exfat/",
    "fs/ntfs3/",
    "fs/squashfs/",
    "fs/overlayfs/",
    "fs/efivarfs/",
    "fs/configfs/",
    "loop",
    "nbd",
    "crypto/",
    "arch/x86/crypto/",
    "lib/",
];

/// Left out of `small`: large, and not what a machine boots or is reached from, or so rare that `full` is asked for by whoever has it:
/// adapters that are no longer sold, those of a few vendors' own systems, FCoE. Network filesystems are not even listed: images come over
/// HTTP, and nothing here would mount a share.
const NOT_SMALL: &[&str] = &[
    "drivers/md/bcache/",
    "drivers/net/ethernet/brocade/",
    "drivers/net/ethernet/cavium/",
    "drivers/net/ethernet/chelsio/",
    "drivers/net/ethernet/huawei/",
    "drivers/net/ethernet/marvell/octeon",
    "drivers/net/ethernet/pensando/",
    "drivers/net/ethernet/qlogic/netxen/",
    "drivers/net/ethernet/qlogic/qlcnic/",
    "drivers/net/ethernet/sfc/",
    "drivers/net/ethernet/sun/",
    "drivers/scsi/be2iscsi/",
    "drivers/scsi/bfa/",
    "drivers/scsi/bnx2fc/",
    "drivers/scsi/csiostor/",
    "drivers/scsi/cxgbi/",
    "drivers/scsi/fcoe/",
    "drivers/scsi/qedf/",
    "drivers/scsi/qla4xxx/",
    "arch/x86/crypto/aria",
    "arch/x86/crypto/camellia",
    "arch/x86/crypto/cast",
    "arch/x86/crypto/sm3",
    "arch/x86/crypto/sm4",
    "drivers/block/rbd",
    "drivers/block/rnbd/",
    "drivers/md/dm-vdo/",
    "drivers/nvme/host/nvme-rdma",
    "drivers/net/ethernet/mellanox/mlxsw/",
    "drivers/net/ethernet/netronome/",
    "drivers/net/ethernet/chelsio/inline_crypto/",
    "drivers/block/drbd/",
    "drivers/block/aoe/",
    "drivers/nvme/target/",
    "drivers/net/usb/hso",
    "drivers/net/usb/sierra_net",
    "drivers/scsi/libfc/",
    "drivers/usb/host/oxu210hp-hcd",
    "lib/test",
    "lib/kunit/",
    "crypto/tcrypt",
    "drivers/block/null_blk/",
    "drivers/scsi/scsi_debug",
    "drivers/net/ethernet/fealnx",
    "drivers/xen/xen-pciback/",
    "drivers/dax/hmem/",
    "drivers/mmc/host/vub300",
    "drivers/firmware/google/",
];

/// Never of use here, whatever the profile.
const NEVER: &[&str] = &[
    "sound/",
    "drivers/gpu/",
    "drivers/media/",
    "drivers/staging/",
    "drivers/iio/",
    "drivers/bluetooth/",
    "net/bluetooth/",
    "drivers/net/wireless/",
    "net/mac80211/",
    "net/wireless/",
    "drivers/isdn/",
    "drivers/video/fbdev/",
    "drivers/accel/",
    "drivers/comedi/",
    "samples/",
    "drivers/net/can/",
    "net/can/",
    "drivers/input/joystick/",
    "drivers/rtc/",
    "drivers/hwmon/",
    "drivers/leds/",
    "drivers/w1/",
    "drivers/gnss/",
    "drivers/net/hamradio/",
    "net/ax25/",
    "net/netrom/",
    "net/rose/",
    "net/nfc/",
    "drivers/nfc/",
    "drivers/crypto/",
    "drivers/counter/",
    "drivers/watchdog/",
    "drivers/input/touchscreen/",
    "drivers/input/tablet/",
    "arch/x86/kvm/",
    "net/batman-adv/",
    "net/openvswitch/",
    "net/sched/",
    "net/netfilter/",
    "net/ipv4/netfilter/",
    "net/ipv6/netfilter/",
    "net/bridge/netfilter/",
    "fs/ceph/",
    "fs/ocfs2/",
    "fs/gfs2/",
    "fs/afs/",
    "fs/coda/",
    "lib/test",
    "crypto/tcrypt",
    "drivers/infiniband/ulp/rtrs/",
];

impl Profile {
    /// "small", "full" or "appliance".
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Full => "full",
            Self::Appliance => "appliance",
        }
    }

    /// Whether a module is chosen. `path` is relative to the kernel's directory ("kernel/fs/ext4/ext4.ko.xz"), `name` the module's.
    pub(super) fn chooses(self, path: &str, name: &str) -> bool {
        match self {
            Self::Appliance => listed(APPLIANCE, path, name),
            Self::Small => {
                listed(SMALL, path, name) && !listed(NOT_SMALL, path, name) && !listed(NEVER, path, name)
            }
            Self::Full => !listed(NEVER, path, name),
        }
    }

    /// Whether a module is of no use here, unless another needs it.
    pub(super) fn is_never(path: &str, name: &str) -> bool {
        listed(NEVER, path, name)
    }
}

fn listed(list: &[&str], path: &str, name: &str) -> bool {
    let below = path.strip_prefix("kernel/").unwrap_or(path);
    list.iter().any(|row| if row.contains('/') { below.starts_with(row) } else { *row == name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_directory_a_file_or_a_name() {
        assert!(Profile::Small.chooses("kernel/fs/ext4/ext4.ko", "ext4"));
        assert!(Profile::Appliance.chooses("kernel/drivers/block/virtio_blk.ko.xz", "virtio_blk"));
        assert!(!Profile::Appliance.chooses("kernel/drivers/net/tun.ko", "tun"));
        assert!(
            !Profile::Small.chooses("kernel/drivers/net/ethernet/mellanox/mlxsw/mlxsw_core.ko", "mlxsw_core")
        );
        assert!(!Profile::Full.chooses("kernel/sound/core/snd.ko", "snd"));
        let chelsio = "kernel/drivers/net/ethernet/chelsio/cxgb4/cxgb4.ko";
        assert!(Profile::Full.chooses(chelsio, "cxgb4") && !Profile::Small.chooses(chelsio, "cxgb4"));
    }
}
