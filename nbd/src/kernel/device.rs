// SPDX-License-Identifier: Apache-2.0
//! A block device while it has a server.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use unmoor_images::monitor::Event;
use unmoor_images::{Error, ErrorKind, Monitor, Result, ResultExt};

use super::sys;
use crate::disk::Disk;
use crate::protocol::{OPTION_MAGIC, handshake, transmission};
use crate::server::{self, Export};

/// Devices that are tried: kernels make 16 of them unless told otherwise.
const MOST: u32 = 1024;
/// How long the kernel may take to start a device.
const READY: Duration = Duration::from_secs(20);
/// `NBD_OPT_EXPORT_NAME`
const EXPORT_NAME: u32 = 1;

/// True where this kernel has block devices for NBD; its module is loaded by whoever asks.
pub fn is_available() -> bool {
    Path::new("/sys/block/nbd0").exists() && Path::new("/dev/nbd0").exists()
}

/// A disk that is a block device until this is closed or dropped.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    device: Option<File>,
    receiving: Option<JoinHandle<io::Result<()>>>,
    serving: Option<JoinHandle<Result<()>>>,
    said: Arc<Said>,
}

/// What the server says, until somebody asks.
#[derive(Debug, Default)]
struct Said(Mutex<Vec<String>>);

impl Monitor for Said {
    fn event(&self, event: Event) {
        if let Event::Warning(text) | Event::Note(text) = event {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }
    }

    fn cancelled(&self) -> bool {
        false
    }
}

impl Device {
    /// Attaches `disk` to the first free device, with logical sectors of `sector` bytes.
    ///
    /// # Errors
    ///
    /// `Unsupported` where the kernel has no such devices, `Refused` where all have servers, `Io`.
    pub fn attach(disk: Arc<dyn Disk>, sector: u32) -> Result<Self> {
        if !is_available() {
            return Err(Error::unsupported(
                "attaching a block device",
                "this kernel has no NBD client: load nbd",
            ));
        }
        let size = disk.size();
        let (ours, kernels) = UnixStream::pair().map_err(|error| Error::io("making a socket pair", error))?;
        let said = Arc::new(Said::default());
        let monitor = said.clone();
        let serving = std::thread::Builder::new()
            .name("nbd".into())
            .spawn(move || {
                let export =
                    Export { name: String::new(), description: String::new(), disk: Box::new(&*disk) };
                server::serve_one(ours, &[export], &*monitor)
            })
            .doing(|| "starting a thread")?;
        let flags = greet(&kernels, size).doing(|| "shaking hands for a block device")?;
        let (path, device) = take(&kernels, (sector, size / u64::from(sector.max(1))), flags)?;
        let mut this = Self { path, device: None, receiving: None, serving: Some(serving), said };
        let receiver = device.try_clone().doing(|| "opening a block device twice")?;
        this.device = Some(device);
        let receiving = std::thread::Builder::new()
            .name("nbd-kernel".into())
            .spawn(move || sys::run(&receiver))
            .doing(|| "starting a thread")?;
        this.receiving = Some(receiving);
        let sector = u64::from(sector.max(1));
        this.wait_until_ready(size / sector * sector)?;
        Ok(this)
    }

    /// The kernel gives the device its size only when the receiving thread has entered it (`nbd_start_device`).
    fn wait_until_ready(&mut self, size: u64) -> Result<()> {
        use std::io::{Seek, SeekFrom};
        let begin = Instant::now();
        loop {
            let shown = File::open(&self.path).and_then(|mut device| device.seek(SeekFrom::End(0)));
            if shown.is_ok_and(|shown| shown == size) {
                return Ok(());
            }
            let ended = self.receiving.as_ref().is_none_or(JoinHandle::is_finished);
            if ended || begin.elapsed() > READY {
                let why = match self.receiving.take() {
                    Some(receiving) if ended => receiving.join().ok().and_then(std::result::Result::err),
                    receiving => {
                        self.receiving = receiving;
                        None
                    }
                };
                let error = Error::new(ErrorKind::Io, "waiting for a block device").path(&self.path);
                return Err(match why {
                    Some(why) => error.source(why),
                    None => error.because("it did not get its size"),
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes back what the kernel holds, and takes the device down.
    ///
    /// # Errors
    ///
    /// `Io` where something could not be written or read; what the server had to say of it goes to `monitor`.
    pub fn close(mut self, monitor: &dyn Monitor) -> Result<()> {
        let flushed = match &self.device {
            Some(device) => device.sync_all().map_err(|error| Error::io("flushing", error).path(&self.path)),
            None => Ok(()),
        };
        let down = self.down();
        let said = std::mem::take(&mut *self.said.0.lock().unwrap_or_else(PoisonError::into_inner));
        said.into_iter().for_each(|text| monitor.warn(text));
        flushed.and(down)
    }

    fn down(&mut self) -> Result<()> {
        let Some(device) = self.device.take() else { return Ok(()) };
        let failed = |error| Error::io("taking down", error).path(&self.path);
        let disconnected = sys::disconnect(&device).map_err(failed);
        if let Some(receiving) = self.receiving.take() {
            let ended = receiving.join().unwrap_or_else(|_| Err(io::Error::other("its thread panicked")));
            // How it ends says nothing where it was disconnected on purpose.
            let _ = ended;
        }
        let cleared = sys::clear(&device).map_err(failed);
        drop(device);
        if let Some(serving) = self.serving.take() {
            let ended = serving.join();
            ended.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Io, "serving a block device").because("its thread panicked"))
            })?;
        }
        disconnected.and(cleared)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.down();
    }
}

/// The client's half of the handshake (specification, "Fixed newstyle negotiation"): EXPORT_NAME, because the kernel knows simple
/// replies alone. Answers the export's transmission flags.
fn greet(mut socket: &UnixStream, size: u64) -> io::Result<u16> {
    use std::io::{Read, Write};
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut hello = [0; 18];
    socket.read_exact(&mut hello)?;
    let client = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
    let mut answer = client.to_be_bytes().to_vec();
    answer.extend(OPTION_MAGIC.to_be_bytes());
    answer.extend(EXPORT_NAME.to_be_bytes());
    answer.extend(0u32.to_be_bytes());
    socket.write_all(&answer)?;
    let mut export = [0; 10];
    socket.read_exact(&mut export)?;
    let (told, flags) = export.split_at(8);
    if told != size.to_be_bytes() {
        return Err(wrong("the export has another size"));
    }
    let flags = flags.try_into().map(u16::from_be_bytes).map_err(|_| wrong("the answer is short"))?;
    Ok(flags
        & (transmission::HAS_FLAGS
            | transmission::READ_ONLY
            | transmission::SEND_FLUSH
            | transmission::SEND_TRIM))
}

/// Takes the first device that has no server.
fn take(socket: &UnixStream, sectors: (u32, u64), flags: u16) -> Result<(PathBuf, File)> {
    for number in 0..MOST {
        let path = PathBuf::from(format!("/dev/nbd{number}"));
        if Path::new(&format!("/sys/block/nbd{number}/pid")).exists() {
            continue;
        }
        let device = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(device) => device,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(Error::io("opening", error).path(&path)),
        };
        match sys::attach(&device, socket.as_fd(), sectors, flags) {
            Ok(()) => return Ok((path, device)),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => {
                let _ = sys::clear(&device);
                return Err(Error::io("attaching", error).path(&path));
            }
        }
    }
    Err(Error::refused("attaching a block device", "all NBD devices of this kernel have a server"))
}
