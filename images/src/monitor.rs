// SPDX-License-Identifier: Apache-2.0
//! The one seam through which libraries report; the binary, the log and the tests each implement it.

/// What a long operation is doing to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading tables and allocation structures.
    Analyze,
    /// Reading used bytes and writing them to the image.
    Capture,
    /// Writing used bytes to the target.
    Restore,
    /// Reading what a target has already.
    Compare,
    /// Reading back and comparing hashes.
    Verify,
    /// Writing or discarding the target's unused bytes.
    Wipe,
    /// Copying the changes of an overlay into its image.
    Commit,
    /// Copying what an overlay lacks from its image.
    Hydrate,
    /// Reading images into a store.
    Import,
    /// Writing a stored image to files.
    Export,
}

impl Phase {
    /// A lower-case gerund for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Analyze => "analyzing",
            Self::Capture => "capturing",
            Self::Restore => "restoring",
            Self::Compare => "comparing",
            Self::Verify => "verifying",
            Self::Wipe => "wiping",
            Self::Commit => "changing",
            Self::Hydrate => "hydrating",
            Self::Import => "importing",
            Self::Export => "exporting",
        }
    }
}

/// One report. All counts are bytes, and since the phase's start.
#[derive(Debug, Clone)]
pub enum Event {
    /// A phase begins on disk number `disk` (0-based); `total_bytes` of work are expected.
    Started {
        /// Which disk of the run.
        disk: usize,
        /// What starts.
        phase: Phase,
        /// Bytes of data that will pass.
        total_bytes: u64,
        /// What to call the disk.
        name: String,
    },
    /// Progress; sent often, cheap to ignore.
    Advanced {
        /// Which disk of the run.
        disk: usize,
        /// Bytes of data read and handled so far.
        done_bytes: u64,
        /// Bytes that reached the sink so far (after compression).
        written_bytes: u64,
    },
    /// The phase ended well.
    Finished {
        /// Which disk of the run.
        disk: usize,
    },
    /// Something that the administrator should know; also kept in the manifest where there is one.
    Warning(String),
    /// Something worth a line.
    Note(String),
}

/// Receives reports and says whether to go on. Called from several threads.
pub trait Monitor: Sync {
    /// Takes one report.
    fn event(&self, event: Event);

    /// True once the user wants to stop; long loops ask between pieces of at most a few MiB.
    fn cancelled(&self) -> bool {
        false
    }

    /// Shorthand for [`Event::Warning`].
    fn warn(&self, text: String) {
        self.event(Event::Warning(text));
    }

    /// Shorthand for [`Event::Note`].
    fn note(&self, text: String) {
        self.event(Event::Note(text));
    }
}

/// A monitor that ignores everything.
pub struct Silent;

impl Monitor for Silent {
    fn event(&self, _event: Event) {}
}
