// SPDX-License-Identifier: Apache-2.0
//! The store as a whole, on a directory and on a backend that fails.

mod ahead;
mod checking;
mod damage;
mod deaths;
mod faults;
mod faulty;
mod fixture;
mod hostile;
mod packed;
mod pruned;
mod pruning;
mod scene;
mod sealed;
mod transfer;
mod usage;
mod whole;
