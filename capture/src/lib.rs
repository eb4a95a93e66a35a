// SPDX-License-Identifier: Apache-2.0
//! A machine's disks, taken to disk images.
//!
//! ```text
//!   path --in_use::claim--> refused, or nobody else writes
//!     |
//!     +---Disk::open--> Disk (a BlockSource) --layout::analyze--> extents --copy--> NAME.qcow2.partial --rename--+
//!     |                                                                                                          v
//!     +---facts::read--> machine facts ----------------------------------------------------> manifest, last of all
//! ```
//!
//! `import` takes images of others the same way into a store, and `export` brings them back out.
//!
//! A source is opened for reading only: nothing in this crate can write to one.

mod capture;
pub mod disk;
mod export;
pub mod facts;
mod import;
pub mod in_use;
pub mod live;
mod partial;
mod request;
mod survey;
mod sys;
pub mod track;

pub use capture::{DiskReport, Report, Stored, capture};
pub use export::{ExportRequest, export};
pub use import::{ImportRequest, import};
pub use request::{Outputs, Request, Target};
pub use survey::{InUse, Options as SurveyOptions, Survey, survey, survey_disks};
