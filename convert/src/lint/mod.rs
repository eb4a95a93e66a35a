// SPDX-License-Identifier: Apache-2.0
//! What keeps a planned guest from booting, said before anything is written.
