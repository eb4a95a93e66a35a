// SPDX-License-Identifier: Apache-2.0
//! The kernel's calls: the only place of this crate with `unsafe`.

pub(crate) mod block;
pub(crate) mod dm;
pub(crate) mod loops;
pub(crate) mod md;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod power;
pub(crate) mod process;
pub(crate) mod uevent;
