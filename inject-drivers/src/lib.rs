// SPDX-License-Identifier: Apache-2.0
//! Drivers that a guest lacks for its new machine, as edits for convert's plan.
