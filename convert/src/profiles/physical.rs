// SPDX-License-Identifier: Apache-2.0
//! "physical": whatever may be in a machine. One id for each driver suffices, since with the driver come all of its ids; the
//! ids are such as the drivers have had from their beginning. Each was looked up in modules.alias of Linux 6.1.170 (Debian).

use super::part::{other, pci, scsi_disk};
use crate::request::{Hardware, Part, Purpose};

/// Mass storage, SCSI commands, bulk only (USB Mass Storage Class 1.4) on QEMU's own device.
pub(super) const USB_STORAGE: &str = "usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00";
/// The same by USB Attached SCSI.
const USB_UAS: &str = "usb:v46F4p0003d0000dc00dsc00dp00ic08isc06ip62in00";

/// (vendor, device, subsystem vendor and device, class, name)
type Row = (u16, u16, u16, u16, u32, &'static str);

const DISKS: [Row; 36] = [
    (0x8086, 0x2922, 0, 0, 0x01_0601, "AHCI"),
    (0x8086, 0x0953, 0x8086, 0x3702, 0x01_0802, "NVMe"),
    (0x8086, 0x201d, 0, 0, 0x01_0400, "Intel Volume Management Device"),
    (0x8086, 0x7010, 0, 0, 0x01_0180, "Intel IDE (ata_piix)"),
    (0x8086, 0x2920, 0, 0, 0x01_018f, "Intel SATA in IDE mode (ata_piix)"),
    (0x1000, 0x0060, 0x1028, 0x1f0c, 0x01_0400, "LSI MegaRAID SAS 1078"),
    (0x1000, 0x005b, 0x1028, 0x1f34, 0x01_0400, "LSI MegaRAID SAS 2208"),
    (0x1000, 0x005d, 0x1028, 0x1f49, 0x01_0400, "LSI MegaRAID SAS 3108"),
    (0x1000, 0x0016, 0x1028, 0x1fcb, 0x01_0400, "Broadcom MegaRAID SAS 3508"),
    (0x1000, 0x0072, 0x1000, 0x3020, 0x01_0700, "LSI SAS 2008 (mpt2sas, mpt3sas)"),
    (0x1000, 0x0097, 0x1000, 0x3090, 0x01_0700, "LSI SAS 3008 (mpt3sas)"),
    (0x1000, 0x00a5, 0x1000, 0x4600, 0x01_0400, "Broadcom SAS 4116 (mpi3mr)"),
    (0x1000, 0x0054, 0x1000, 0x3140, 0x01_0000, "LSI SAS 1068 (mptsas)"),
    (0x1000, 0x0030, 0x1000, 0x1000, 0x01_0000, "LSI 53c1030 (mptspi)"),
    (0x103c, 0x323a, 0x103c, 0x3241, 0x01_0400, "HP Smart Array (hpsa)"),
    (0x9005, 0x028f, 0x9005, 0x0800, 0x01_0700, "Microchip Smart Storage (smartpqi)"),
    (0x9005, 0x028d, 0x9005, 0x0555, 0x01_0700, "Adaptec series 7 and 8 (aacraid)"),
    (0x17d3, 0x1880, 0x17d3, 0x1880, 0x01_0400, "Areca (arcmsr)"),
    (0x8086, 0x1d61, 0, 0, 0x01_0700, "Intel C600 SAS (isci)"),
    (0x1b4b, 0x9480, 0x1b4b, 0x9480, 0x01_0400, "Marvell SAS (mvsas)"),
    (0x1b4b, 0x9143, 0x1b4b, 0x9143, 0x01_0400, "Marvell 9143 (mvumi)"),
    (0x11f8, 0x8001, 0x11f8, 0x8001, 0x01_0700, "PMC-Sierra SAS (pm80xx)"),
    (0x13c1, 0x1010, 0x13c1, 0x1010, 0x01_0400, "3ware 9750 (3w-sas)"),
    (0x13c1, 0x1004, 0x13c1, 0x1004, 0x01_0400, "3ware 9650 (3w-9xxx)"),
    (0x9005, 0x8010, 0x9005, 0x0010, 0x01_0000, "Adaptec Ultra320 (aic79xx)"),
    (0x10df, 0xe200, 0x10df, 0xe200, 0x0c_0400, "Emulex Fibre Channel (lpfc)"),
    (0x1077, 0x2532, 0x1077, 0x015c, 0x0c_0400, "QLogic Fibre Channel (qla2xxx)"),
    (0x1095, 0x3132, 0x1095, 0x3132, 0x01_8000, "Silicon Image 3132 (sata_sil24)"),
    (0x1095, 0x3112, 0x1095, 0x3112, 0x01_8000, "Silicon Image 3112 (sata_sil)"),
    (0x11ab, 0x6042, 0x11ab, 0x11ab, 0x01_0400, "Marvell SATA (sata_mv)"),
    (0x10de, 0x0266, 0x10de, 0x0266, 0x01_0185, "NVIDIA SATA (sata_nv)"),
    (0x1106, 0x3249, 0x1106, 0x3249, 0x01_0400, "VIA SATA (sata_via)"),
    (0x1166, 0x024b, 0x1166, 0x024b, 0x01_0185, "ServerWorks SATA (sata_svw)"),
    (0x1002, 0x439c, 0x1002, 0x439c, 0x01_018a, "AMD IDE (pata_atiixp)"),
    (0x1022, 0x2092, 0x1022, 0x2092, 0x01_0180, "AMD CS5535 IDE"),
    (0x197b, 0x2368, 0x197b, 0x2368, 0x01_0185, "JMicron IDE (pata_jmicron)"),
];

const NICS: [Row; 33] = [
    (0x8086, 0x100e, 0, 0, 0x02_0000, "Intel PRO/1000 (e1000)"),
    (0x8086, 0x10d3, 0, 0, 0x02_0000, "Intel 82574 and I217 to I219 (e1000e)"),
    (0x8086, 0x10c9, 0, 0, 0x02_0000, "Intel 82576 and I350 (igb)"),
    (0x8086, 0x15f2, 0, 0, 0x02_0000, "Intel I225 (igc)"),
    (0x8086, 0x10fb, 0, 0, 0x02_0000, "Intel 82599 (ixgbe)"),
    (0x8086, 0x1572, 0, 0, 0x02_0000, "Intel X710 (i40e)"),
    (0x8086, 0x1592, 0, 0, 0x02_0000, "Intel E810 (ice)"),
    (0x14e4, 0x1657, 0, 0, 0x02_0000, "Broadcom BCM5719 (tg3)"),
    (0x14e4, 0x1639, 0, 0, 0x02_0000, "Broadcom BCM5709 (bnx2)"),
    (0x14e4, 0x168e, 0, 0, 0x02_0000, "Broadcom BCM57810 (bnx2x)"),
    (0x14e4, 0x16d7, 0, 0, 0x02_0000, "Broadcom BCM57414 (bnxt_en)"),
    (0x14e4, 0x1713, 0, 0, 0x02_0000, "Broadcom BCM5906 (tg3)"),
    (0x15b3, 0x1003, 0, 0, 0x02_0000, "Mellanox ConnectX-3 (mlx4)"),
    (0x15b3, 0x1015, 0, 0, 0x02_0000, "Mellanox ConnectX-4 Lx (mlx5)"),
    (0x10ec, 0x8168, 0, 0, 0x02_0000, "Realtek RTL8168 (r8169)"),
    (0x10ec, 0x8125, 0, 0, 0x02_0000, "Realtek RTL8125 (r8169)"),
    (0x10ec, 0x8139, 0, 0, 0x02_0000, "Realtek RTL8139 (8139too)"),
    (0x1d6a, 0x07b1, 0, 0, 0x02_0000, "Aquantia AQC107 (atlantic)"),
    (0x19a2, 0x0710, 0, 0, 0x02_0000, "Emulex BladeEngine (be2net)"),
    (0x1077, 0x1656, 0, 0, 0x02_0000, "QLogic FastLinQ (qede)"),
    (0x1077, 0x8020, 0, 0, 0x02_0000, "QLogic (qlcnic)"),
    (0x1077, 0x8000, 0, 0, 0x02_0000, "QLogic (qlge)"),
    (0x1924, 0x0903, 0, 0, 0x02_0000, "Solarflare SFC9120 (sfc)"),
    (0x1425, 0x5401, 0, 0, 0x02_0000, "Chelsio T5 (cxgb4)"),
    (0x1137, 0x0043, 0, 0, 0x02_0000, "Cisco VIC (enic)"),
    (0x1969, 0x1091, 0, 0, 0x02_0000, "Atheros AR8161 (alx)"),
    (0x1969, 0x1063, 0, 0, 0x02_0000, "Atheros AR8131 (atl1c)"),
    (0x11ab, 0x4364, 0, 0, 0x02_0000, "Marvell Yukon (sky2)"),
    (0x10de, 0x0373, 0, 0, 0x06_8000, "NVIDIA nForce (forcedeth)"),
    (0x1106, 0x3119, 0, 0, 0x02_0000, "VIA Velocity (via-velocity)"),
    (0x4040, 0x0100, 0, 0, 0x02_0000, "QLogic netxen (netxen_nic)"),
    (0x8086, 0x1229, 0, 0, 0x02_0000, "Intel PRO/100 (e100)"),
    (0x10b7, 0x9200, 0, 0, 0x02_0000, "3Com 3c905 (3c59x)"),
];

/// Controllers of buses that disks and keyboards hang on.
const BUSES: [Row; 5] = [
    (0x8086, 0x1e31, 0, 0, 0x0c_0330, "xHCI"),
    (0x8086, 0x1e26, 0, 0, 0x0c_0320, "EHCI"),
    (0x8086, 0x2934, 0, 0, 0x0c_0300, "UHCI"),
    (0x106b, 0x003f, 0, 0, 0x0c_0310, "OHCI"),
    (0x8086, 0x2294, 0, 0, 0x08_0501, "SD host"),
];

pub(super) fn hardware() -> Hardware {
    let mut parts: Vec<Part> = Vec::new();
    for (rows, purpose) in
        [(&DISKS[..], Purpose::Disk), (&BUSES[..], Purpose::Bus), (&NICS[..], Purpose::Nic)]
    {
        parts.extend(rows.iter().map(|(vendor, device, subvendor, subdevice, class, name)| {
            pci(*vendor, *device, *subvendor, *subdevice, *class).part(purpose, name, false)
        }));
    }
    parts.push(scsi_disk(false));
    parts.push(other(USB_STORAGE, Purpose::Disk, "USB disk", false));
    parts.push(other(USB_UAS, Purpose::Disk, "USB disk (UAS)", false));
    parts.push(other("mmc:block", Purpose::Disk, "SD card or eMMC", false));
    Hardware {
        name: "physical".into(),
        parts,
        nics: Vec::new(),
        serial: None,
        hypervisor: None,
        sector_size: None,
    }
}
