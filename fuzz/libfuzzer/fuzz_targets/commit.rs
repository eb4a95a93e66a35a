// SPDX-License-Identifier: Apache-2.0
#![no_main]

unmoor_libfuzzer::target!(commit);
