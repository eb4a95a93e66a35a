// SPDX-License-Identifier: Apache-2.0
//! The server's store, as a capture writes it and a restore reads it: leaves travel as frames, and only those that the other end
//! lacks.
//!
//! ```text
//!   RemoteWriter   slabs -> batches of leaves --wanted--> compress --frames--> server        commit: manifest and maps
//!   RemoteImage    image, map --> RemoteDisk (BlockSource) <--frames of leaves, each compared with the map's hash-- server
//! ```

mod disk;
mod frame;
mod image;
mod rate;
mod writer;

pub use disk::RemoteDisk;
pub use frame::{Frame, MOST_FRAME, encode_frame, read_frames, whole_frames};
pub use image::RemoteImage;
pub use rate::Rate;
pub use writer::{RemoteStore, RemoteWriter};
