// SPDX-License-Identifier: Apache-2.0
//! What CI and the README call: demo, test, bench, lab.

fn main() {}
