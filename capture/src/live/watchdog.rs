// SPDX-License-Identifier: Apache-2.0
//! A process that thaws what we froze if we do not.
//!
//! It shares a page of memory with us, and the reading end of a pipe of which we alone have the other end: the kernel closes that
//! when we are gone, however. It is forked and runs nothing but system calls: it must work where its parent
//! is killed, stopped, or out of memory, and while the filesystem that its program lies on is frozen.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use unmoor_images::{Error, Result};

use crate::sys::freeze;

/// Filesystems that one watchdog can look after.
pub(super) const MOST: usize = 256;

/// What both processes see.
struct Shared {
    /// When to thaw (nanoseconds, [`freeze::now`]); 0 while nothing is frozen.
    deadline: AtomicU64,
    /// Not 0 once it has thawed.
    fired: AtomicU64,
    /// Not 0 once there is nothing left to look after.
    ended: AtomicU64,
    /// Of each filesystem: may be frozen by us.
    frozen: [AtomicU8; MOST],
}

/// The watchdog; it ends when this is dropped.
pub(super) struct Watchdog {
    shared: *mut Shared,
    process: libc::pid_t,
    /// Closing it ends the watchdog.
    pipe: Option<OwnedFd>,
}

// SAFETY: `shared` points to a mapping of atomics that lives as long as this.
unsafe impl Send for Watchdog {}
// SAFETY: as above.
unsafe impl Sync for Watchdog {}

impl Watchdog {
    /// Starts one for the filesystems of `files`. Once we are gone it also removes the folder `instance`, which is reached through
    /// the descriptor `root` if through any.
    pub(super) fn start(files: &[&File], instance: Option<&Path>, keep: &[RawFd]) -> Result<Self> {
        let failed = |error: io::Error| Error::io("starting the watchdog", error);
        if files.len() > MOST {
            let because =
                format!("{} filesystems are more than the {MOST} that it can look after", files.len());
            return Err(Error::unsupported("starting the watchdog", because));
        }
        let descriptors: Vec<RawFd> = files.iter().map(|file| file.as_raw_fd()).collect();
        let instance = instance.and_then(|path| CString::new(path.as_os_str().as_bytes()).ok());
        // SAFETY: an anonymous mapping of whole pages, which the kernel fills with zeros: valid for every field.
        let shared = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Shared>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if shared == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        let shared = shared.cast::<Shared>();
        let mut ends = [0; 2];
        // SAFETY: the kernel writes two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        // SAFETY: both were just opened, and nobody else has them.
        let (reading, writing) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        let mut kept: Vec<RawFd> =
            descriptors.iter().chain(keep).copied().chain([reading.as_raw_fd()]).collect();
        kept.sort_unstable();
        let duty = Duty {
            shared,
            descriptors: &descriptors,
            kept: &kept,
            pipe: reading.as_raw_fd(),
            instance: instance.as_deref(),
        };
        // SAFETY: the child calls nothing but `Duty::run`, which does system calls only: no allocation, no lock.
        let process = unsafe { libc::fork() };
        if process == 0 {
            duty.run();
        }
        if process < 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        drop(reading);
        // Nothing that picks victims or stops groups of processes should find it; where it is not allowed, it runs without.
        let _ = fs::write(format!("/proc/{process}/oom_score_adj"), "-1000");
        for root in ["/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/unified/cgroup.procs"] {
            if let Ok(mut procs) = fs::OpenOptions::new().write(true).open(root) {
                let _ = procs.write_all(process.to_string().as_bytes());
            }
        }
        Ok(Self { shared, process, pipe: Some(writing) })
    }

    fn shared(&self) -> &Shared {
        // SAFETY: mapped until this is dropped; all fields are atomics.
        unsafe { &*self.shared }
    }

    /// From now on filesystem number `index` may be frozen, and is thawed after `limit`.
    pub(super) fn guard(&self, index: usize, limit: Duration) {
        if let Some(frozen) = self.shared().frozen.get(index) {
            frozen.store(1, Ordering::SeqCst);
        }
        self.extend(limit);
    }

    /// Puts off the thaw: `limit` from now.
    pub(super) fn extend(&self, limit: Duration) {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        self.shared().deadline.store(freeze::now().saturating_add(limit), Ordering::SeqCst);
    }

    /// Filesystem number `index` is thawed.
    pub(super) fn release(&self, index: usize) {
        if let Some(frozen) = self.shared().frozen.get(index) {
            frozen.store(0, Ordering::SeqCst);
        }
    }

    /// Nothing is frozen any more.
    pub(super) fn stand_down(&self) {
        self.shared().deadline.store(0, Ordering::SeqCst);
    }

    /// True if it had to thaw.
    pub(super) fn has_fired(&self) -> bool {
        self.shared().fired.load(Ordering::SeqCst) != 0
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared().ended.store(1, Ordering::SeqCst);
        self.pipe = None;
        let mut status = 0;
        // SAFETY: our own child, which nobody else waits for; then a mapping that nobody else uses in this process.
        unsafe {
            while libc::waitpid(self.process, &mut status, 0) < 0
                && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
            {}
            libc::munmap(self.shared.cast(), size_of::<Shared>());
        }
    }
}

/// What the child has to do.
struct Duty<'a> {
    shared: *const Shared,
    descriptors: &'a [RawFd],
    kept: &'a [RawFd],
    pipe: RawFd,
    instance: Option<&'a std::ffi::CStr>,
}

impl Duty<'_> {
    fn run(&self) -> ! {
        // SAFETY: the mapping was inherited; all calls are those of signal-safety(7) or plain system calls, on values of ours.
        unsafe {
            libc::setsid();
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
            self.close_others();
            libc::mlockall(libc::MCL_CURRENT);
            let shared = &*self.shared;
            loop {
                let deadline = shared.deadline.load(Ordering::SeqCst);
                let mut poll = libc::pollfd { fd: self.pipe, events: 0, revents: 0 };
                // A deadline may be set meanwhile, and is at least a second away.
                let wait = match deadline.saturating_sub(freeze::now()) / 1_000_000 {
                    _ if deadline == 0 => 100,
                    left => left.min(100) as i32,
                };
                let gone = libc::poll(&mut poll, 1, wait) > 0 && poll.revents != 0;
                let late = deadline != 0
                    && freeze::now() >= deadline
                    && shared.deadline.load(Ordering::SeqCst) == deadline;
                if gone || late {
                    if late || shared.deadline.load(Ordering::SeqCst) != 0 {
                        shared.fired.store(1, Ordering::SeqCst);
                        self.thaw(shared);
                        shared.deadline.store(0, Ordering::SeqCst);
                    }
                    if gone {
                        if shared.ended.load(Ordering::SeqCst) == 0 {
                            self.clean_up();
                        }
                        libc::_exit(0);
                    }
                }
            }
        }
    }

    /// The latest frozen first: those that stand on others. One that is being frozen right now is waited for by the kernel.
    fn thaw(&self, shared: &Shared) {
        for (descriptor, frozen) in self.descriptors.iter().zip(&shared.frozen).rev() {
            if frozen.load(Ordering::SeqCst) != 0 {
                let _ = freeze::thaw_descriptor(*descriptor);
            }
        }
    }

    /// The instance cannot be removed while the dying process has it open.
    unsafe fn clean_up(&self) {
        let Some(instance) = self.instance else { return };
        for _ in 0..50 {
            // SAFETY: a string that ends in zero, and a timespec of ours.
            unsafe {
                if libc::rmdir(instance.as_ptr()) == 0 || *libc::__errno_location() == libc::ENOENT {
                    return;
                }
                let pause = libc::timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                libc::nanosleep(&pause, std::ptr::null_mut());
            }
        }
    }

    /// Closes what was inherited: our pipe's other end above all, and the disks and images of the capture.
    unsafe fn close_others(&self) {
        let mut next: libc::c_uint = 3;
        for kept in self.kept {
            let kept = *kept as libc::c_uint;
            if kept > next {
                // SAFETY: closing descriptors that this process does not use.
                unsafe { close_range(next, kept - 1) };
            }
            next = next.max(kept.saturating_add(1));
        }
        // SAFETY: as above.
        unsafe { close_range(next, libc::c_uint::MAX) };
    }
}

/// close_range(2), and one by one before Linux 5.9.
unsafe fn close_range(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: the caller gives up these descriptors.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, last, 0) == 0 {
            return;
        }
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        let end = limit.rlim_cur.min(1 << 20) as libc::c_uint;
        for descriptor in first..=last.min(end) {
            libc::close(descriptor as i32);
        }
    }
}
