// SPDX-License-Identifier: Apache-2.0
//! Raw images: byte n of the file is byte n of the disk.

mod sink;
mod source;
mod stream;

pub use sink::RawSink;
pub use source::RawSource;
pub use stream::{StreamSink, StreamSource};
