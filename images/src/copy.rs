// SPDX-License-Identifier: Apache-2.0
//! The one loop that moves a disk's bytes: parallel, bounded, byte-exact.
