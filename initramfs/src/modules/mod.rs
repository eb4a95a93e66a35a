// SPDX-License-Identifier: Apache-2.0
//! Kernel modules of one kernel: what drives a modalias, what a module needs, and the indexes that modprobe reads.
