// SPDX-License-Identifier: Apache-2.0
//! Definitions of the virtual machine that a guest fits: libvirt, QEMU, Proxmox.
