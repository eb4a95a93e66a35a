// SPDX-License-Identifier: Apache-2.0
//! What lies between a partition and a filesystem: LVM2, md RAID, LUKS.
