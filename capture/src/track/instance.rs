// SPDX-License-Identifier: Apache-2.0
//! A trace instance of our own: a buffer of events that nobody else reads, enables or clears (`Documentation/trace/ftrace.rst`,
//! "Instances").

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as IoKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use unmoor_images::{Error, Result, ResultExt};

use super::record::{PageFormat, RequestEvent};

/// Bytes of events that each processor may have waiting: of writes of 4 KiB at 500 MB/s, half a second.
const BUFFER_KIB: u32 = 8 << 10;
/// Of all processors together.
const ALL_BUFFERS_KIB: u32 = 128 << 10;
/// Before the number of the process that made it.
const NAME: &str = "unmoor-";

/// An instance with the two events of requests switched on. Removed when dropped.
pub(super) struct Instance {
    folder: PathBuf,
    /// Keeps `folder` reachable where we mounted tracefs ourselves.
    root: File,
    pub(super) issue: RequestEvent,
    pub(super) complete: RequestEvent,
    pub(super) pages: PageFormat,
    processors: Vec<(File, PathBuf)>,
}

impl Instance {
    /// Makes it, for the block devices `devices` (major << 20 | minor).
    pub(super) fn create(devices: &[u32]) -> Result<Self> {
        let (root, path) = tracefs()?;
        let events = path.join("events");
        let issue = RequestEvent::parse(&read(&events.join("block/block_rq_issue/format"))?)?;
        let complete = RequestEvent::parse(&read(&events.join("block/block_rq_complete/format"))?)?;
        let pages = PageFormat::parse(&read_at_once(&events.join("header_page"))?)?;
        let instances = path.join("instances");
        remove_dead(&instances);
        let folder = unused(&instances);
        fs::create_dir(&folder).map_err(|error| Error::io("making a trace instance", error).path(&folder))?;
        let mut instance = Self { folder, root, issue, complete, pages, processors: Vec::new() };
        instance.start(devices)?;
        Ok(instance)
    }

    fn start(&mut self, devices: &[u32]) -> Result<()> {
        let per_cpu: Vec<PathBuf> = fs::read_dir(self.folder.join("per_cpu"))
            .doing(|| "listing the processors of a trace instance")?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        let each = (ALL_BUFFERS_KIB / (per_cpu.len() as u32).max(1)).clamp(256, BUFFER_KIB);
        self.write("buffer_size_kb", &each.to_string())?;
        // What does not fit is dropped and counted, rather than written over what is being read.
        self.write("options/overwrite", "0")?;
        let filter: Vec<String> = devices.iter().map(|number| format!("dev == {number}")).collect();
        for event in ["block_rq_issue", "block_rq_complete"] {
            self.write(&format!("events/block/{event}/filter"), &filter.join(" || "))?;
        }
        for folder in per_cpu {
            let path = folder.join("trace_pipe_raw");
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&path)
                .map_err(|error| Error::io("opening", error).path(&path))?;
            self.processors.push((file, folder.join("stats")));
        }
        for event in ["block_rq_issue", "block_rq_complete"] {
            self.write(&format!("events/block/{event}/enable"), "1")?;
        }
        self.write("tracing_on", "1")
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(|error| Error::io(format!("writing {text:?} to"), error).path(&path))
    }

    /// Reads every page that there is, of every processor.
    pub(super) fn pages(&self, buffer: &mut Vec<u8>, mut page: impl FnMut(&[u8])) -> Result<()> {
        buffer.resize(self.pages.bytes(), 0);
        for (file, _) in &self.processors {
            loop {
                let mut file: &File = file;
                match file.read(buffer) {
                    Ok(0) => break,
                    Ok(len) => page(buffer.get(..len).unwrap_or_default()),
                    Err(error) if error.kind() == IoKind::WouldBlock => break,
                    Err(error) if error.kind() == IoKind::Interrupted => {}
                    Err(error) => return Err(Error::io("reading trace events", error)),
                }
            }
        }
        Ok(())
    }

    /// Events that the kernel counts as lost since the instance was made.
    pub(super) fn lost(&self) -> Result<u64> {
        let mut lost = 0u64;
        for (_, path) in &self.processors {
            let text = read(path)?;
            let counts = text
                .lines()
                .filter_map(|line| line.split_once(':'))
                .filter(|(name, _)| matches!(name.trim(), "overrun" | "commit overrun" | "dropped events"));
            for (_, count) in counts {
                // A number that cannot be read is no proof.
                lost = lost.saturating_add(count.trim().parse().unwrap_or(1));
            }
        }
        Ok(lost)
    }

    /// The open root of the tracing filesystem.
    pub(super) fn root(&self) -> std::os::fd::RawFd {
        self.root.as_raw_fd()
    }

    /// Where it is, for whoever removes it if this process cannot.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.write("tracing_on", "0");
        for event in ["block_rq_issue", "block_rq_complete"] {
            let _ = self.write(&format!("events/block/{event}/enable"), "0");
        }
        // It cannot be removed while it is open.
        self.processors.clear();
        let _ = fs::remove_dir(&self.folder);
    }
}

/// A name that no instance has.
fn unused(instances: &Path) -> PathBuf {
    let process = std::process::id();
    let names = (0u32..).map(|count| instances.join(format!("{NAME}{process}-{count}")));
    names.take(10_000).find(|path| !path.exists()).unwrap_or_else(|| instances.join(NAME))
}

/// Removes the instances of processes that were killed: their events would cost every request a little, for ever.
fn remove_dead(instances: &Path) {
    for entry in fs::read_dir(instances).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process =
            name.to_str().and_then(|name| name.strip_prefix(NAME)?.split('-').next()?.parse::<u32>().ok());
        if let Some(process) = process
            && !Path::new("/proc").join(process.to_string()).exists()
        {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Error::io("reading", error).path(path))
}

/// The kernel gives all of `header_page` to the first read, however small, and nothing to a second (`show_header` in
/// `kernel/trace/trace_events.c`).
fn read_at_once(path: &Path) -> Result<String> {
    let mut bytes = vec![0; 16 << 10];
    let read = File::open(path).and_then(|mut file| file.read(&mut bytes));
    bytes.truncate(read.map_err(|error| Error::io("reading", error).path(path))?);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The tracing filesystem: where it is mounted, or a mount of our own that nobody else sees by name.
fn tracefs() -> Result<(File, PathBuf)> {
    for place in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
        if Path::new(place).join("events/block").exists() && Path::new(place).join("instances").exists() {
            let root =
                File::open(place).map_err(|error| Error::io("opening", error).path(Path::new(place)))?;
            return Ok((root, place.into()));
        }
    }
    let unavailable = |because: String| Error::unsupported("tracking writes", because);
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.ends_with("\ttracefs")) {
        return Err(unavailable("the kernel has no tracing filesystem (CONFIG_FTRACE)".into()));
    }
    let place = std::env::temp_dir().join(format!("{NAME}trace-{}", std::process::id()));
    fs::create_dir_all(&place).map_err(|error| Error::io("making", error).path(&place))?;
    let mounted = mount(Some("tracefs"), &place, Some("tracefs"), MsFlags::MS_NOSUID, None::<&str>);
    let root = mounted.map_err(std::io::Error::from).and_then(|()| {
        let root = File::open(&place);
        let _ = umount2(&place, MntFlags::MNT_DETACH);
        root
    });
    let _ = fs::remove_dir(&place);
    let root = root.map_err(|error| {
        unavailable(format!(
            "the tracing filesystem cannot be mounted ({error}): it takes root, and a kernel that is not locked down for confidentiality"
        ))
    })?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    if !path.join("events/block/block_rq_issue").exists() {
        return Err(unavailable(
            "the kernel has no tracepoints of block requests (CONFIG_BLOCK, CONFIG_EVENT_TRACING)".into(),
        ));
    }
    Ok((root, path))
}
