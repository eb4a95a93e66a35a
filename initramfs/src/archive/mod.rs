// SPDX-License-Identifier: Apache-2.0
//! Initramfs images as the kernel unpacks them: newc archives, compressed or not, one behind the other.
