// SPDX-License-Identifier: Apache-2.0
//! Block devices for what lies on disks: partitions, md arrays, logical volumes, LUKS; and mounts of what is in them.
