// SPDX-License-Identifier: Apache-2.0
//! The edits of files that a new machine asks for, one file a subject.
