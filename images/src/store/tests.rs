// SPDX-License-Identifier: Apache-2.0
//! The store as a whole, on a directory and on a backend that fails.

mod ahead;
mod damage;
mod faults;
mod faulty;
mod fixture;
mod hostile;
mod pruning;
mod scene;
mod sealed;
mod whole;
