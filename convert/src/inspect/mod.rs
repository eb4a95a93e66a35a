// SPDX-License-Identifier: Apache-2.0
//! Finding out what a guest is: from its files alone, reading only.
