// SPDX-License-Identifier: Apache-2.0
//! Making a guest fit its new machine. So far: what guest it is.

pub mod os;
