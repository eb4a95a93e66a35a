// SPDX-License-Identifier: Apache-2.0
//! The file beside an image that says what it is: written last, so that its presence means complete.
