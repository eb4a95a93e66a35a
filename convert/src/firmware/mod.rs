// SPDX-License-Identifier: Apache-2.0
//! From BIOS to UEFI and back: tables, EFI system partitions, boot chains.
