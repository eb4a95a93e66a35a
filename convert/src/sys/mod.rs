// SPDX-License-Identifier: Apache-2.0
//! System calls that need `unsafe`: all of this crate's.

pub(crate) mod flags;
