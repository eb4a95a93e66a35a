// SPDX-License-Identifier: Apache-2.0
//! What the default kernel will be able to use: disk buses that it can start from, and network adapters.

use unmoor_convert::plan::Draft;

use crate::fit::Fit;
use crate::needs::{device_on, drivers_for};

/// Buses, best first: their name and the modalias of a device as hypervisors make it.
const BUSES: [(&str, &str); 10] = [
    ("virtio", "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00"),
    ("virtio-scsi", "pci:v00001AF4d00001048sv00001AF4sd00001100bc01sc00i00"),
    ("nvme", "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"),
    ("ahci", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"),
    ("pvscsi", "pci:v000015ADd000007C0sv000015ADsd000007C0bc01sc07i00"),
    ("hyperv", "vmbus:d96361baa104294db60572e2ffb1dc7f"),
    ("xen", "xen:vbd"),
    ("megasas", "pci:v00001000d00000060sv00001000sd00001013bc01sc04i00"),
    ("mptsas", "pci:v00001000d00000054sv00001000sd00008000bc01sc00i00"),
    ("ide", "pci:v00008086d00007010sv00001AF4sd00001100bc01sc01i80"),
];

/// Adapters, best first.
const NICS: [(&str, &str); 9] = [
    ("virtio-net-pci", "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00"),
    ("vmxnet3", "pci:v000015ADd000007B0sv000015ADsd000007B0bc02sc00i00"),
    ("hyperv", "vmbus:635161f83edfc546913ff2d2f965ed0e"),
    ("xen", "xen:vif"),
    ("igb", "pci:v00008086d000010C9sv00008086sd0000A03Cbc02sc00i00"),
    ("e1000e", "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00"),
    ("e1000", "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"),
    ("rtl8139", "pci:v000010ECd00008139sv00001AF4sd00001100bc02sc00i00"),
    ("pcnet", "pci:v00001022d00002000sv00001AF4sd00001100bc02sc00i00"),
];

/// Sets what the plan's capabilities say of buses and adapters.
pub(crate) fn tell(draft: &mut Draft, fit: &Fit) {
    let drivers = |modalias: &str| -> Option<Vec<String>> {
        let mut all = Vec::new();
        for modalias in std::iter::once(modalias.to_owned()).chain(device_on(modalias)) {
            let drivers = drivers_for(&fit.tree, &modalias);
            if drivers.is_empty() {
                return None;
            }
            all.extend(drivers);
        }
        Some(all)
    };
    let starts_from = |name: &str, modalias: &str| {
        let Some(drivers) = drivers(modalias) else { return false };
        let scsi = !matches!(name, "virtio" | "nvme" | "xen");
        let disks = scsi.then_some("sd_mod").filter(|name| fit.tree.module(name).is_some());
        // Several drivers may claim a device, generic ones among them: one that can be loaded is enough, of each storey.
        let bus = drivers.iter().any(|driver| fit.can_load([driver]));
        let all = device_on(modalias).is_none() || drivers.iter().all(|driver| fit.can_load([driver]));
        bus && all && disks.is_none_or(|name| fit.can_load([name]))
    };
    let buses = BUSES.iter().filter(|(name, modalias)| starts_from(name, modalias));
    let buses: Vec<String> = buses.map(|(name, _)| (*name).to_owned()).collect();
    let nics = NICS.iter().filter(|(_, modalias)| drivers(modalias).is_some());
    let nics: Vec<String> = nics.map(|(name, _)| (*name).to_owned()).collect();
    let modern = modern_virtio(&fit.release);
    let capabilities = draft.capabilities();
    capabilities.disk_buses = buses;
    capabilities.nic_models = nics;
    capabilities.virtio_modern = modern;
}

/// virtio 1.0 came with Linux 4.0 as far as users could rely on it; 3.18 has the first of it. Distribution kernels of 3.10 (EL7) have
/// it too, and work with transitional devices all the same.
fn modern_virtio(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (3, 18)
}
