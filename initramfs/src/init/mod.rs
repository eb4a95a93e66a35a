// SPDX-License-Identifier: Apache-2.0
//! The rescue environment's /init: PID 1, with no other userland.
