// SPDX-License-Identifier: Apache-2.0
//! Carrying a plan out: every changed file keeps owner, mode and extended attributes, and a copy in /var/lib/unmoor/undo.
