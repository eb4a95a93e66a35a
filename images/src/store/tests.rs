// SPDX-License-Identifier: Apache-2.0
//! The store as a whole, on a directory and on a backend that fails.

mod checking;
mod damage;
mod faults;
mod fixture;
mod hostile;
mod pruned;
mod pruning;
mod scene;
mod sealed;
mod transfer;
mod usage;
mod whole;
