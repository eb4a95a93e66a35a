// SPDX-License-Identifier: Apache-2.0
//! Building the rescue environment: a distribution's kernel, its modules, and this binary.
