// SPDX-License-Identifier: Apache-2.0
//! A whole run: images opened, exports made of them, served, and what is to be kept written at the end.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use unmoor_images::formats::Format;
use unmoor_images::store::{ImageName, Store};
use unmoor_images::{BlockSource, Error, ErrorKind, Monitor, Result};

use crate::cache::Cache;
use crate::disk::ReadOnly;
use crate::image::{self, Image};
use crate::order::{Order, Recording};
use crate::overlay::{self, Below, Hydrated, Overlay};
use crate::protocol::MAX_STRING;
use crate::server::{self, Address, Export, Listener, Options, Totals};
use crate::tls;

/// Threads that read ahead for each disk: a store answers several requests at a time.
const READERS: usize = 4;

/// What to serve, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// An image, or a machine's manifest.
    pub image: PathBuf,
    /// An image of a store instead.
    pub stored: Option<(Store, ImageName)>,
    /// How to open it.
    pub open: image::OpenOptions,
    /// Where to listen.
    pub address: Address,
    /// Certificates.
    pub tls: Option<tls::Files>,
    /// Take clients of other machines without TLS.
    pub insecure: bool,
    /// Names of the exports instead of the disks' numbers.
    pub names: Vec<String>,
    /// The overlay's file; without one the disks are read-only.
    pub overlay: Option<PathBuf>,
    /// Copy what the overlay lacks.
    pub hydrate: bool,
    /// Where orders of boots are kept.
    pub orders: Option<PathBuf>,
    /// Bytes of image that are kept in memory, for each disk.
    pub cache: u64,
    /// Connections at a time.
    pub max_clients: usize,
}

/// A server that listens.
pub struct Serving<'a> {
    /// The listener, for its URIs.
    pub listener: &'a Listener,
    /// Name, size in bytes and description of each export.
    pub exports: Vec<(String, u64, String)>,
}

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Of all clients.
    pub totals: Totals,
    /// Overlays: their files, bytes that they hold, and whether they stand alone.
    pub overlays: Vec<(PathBuf, u64, bool)>,
}

/// One disk of the run.
struct Served {
    /// Number of the disk in its machine.
    number: usize,
    description: String,
    backing: Backing,
    /// Pieces of its image.
    cache: Option<Cache<Box<dyn BlockSource>>>,
    boot: Option<Boot>,
}

enum Backing {
    Image(Box<dyn BlockSource>),
    Overlay(PathBuf, Box<Overlay<'static>>),
}

/// The order of a boot: where it lies, of which image, and what was recorded earlier.
struct Boot {
    path: PathBuf,
    identity: [u8; 32],
    order: Option<Order>,
}

/// Serves until the monitor is cancelled; `started` is told once where.
pub fn serve(
    request: &Request,
    monitor: &dyn Monitor,
    started: &mut dyn FnMut(&Serving<'_>) -> Result<()>,
) -> Result<Report> {
    check(request)?;
    let options = Options {
        tls: request.tls.as_ref().map(tls::configure).transpose()?,
        max_clients: request.max_clients.max(1),
    };
    let opened = open(request, monitor)?;
    check_names(&request.names, opened.len())?;
    let mut disks = Vec::new();
    for (number, opened) in opened.into_iter().enumerate() {
        disks.push(prepare(number, opened, request, monitor)?);
    }
    let exports: Vec<Export<'_>> = disks.iter().map(|disk| export(disk, request)).collect();
    let listener = Listener::bind(&request.address, options.tls.is_some())?;
    let listed =
        exports.iter().map(|export| (export.name.clone(), export.disk.size(), export.description.clone()));
    started(&Serving { listener: &listener, exports: listed.collect() })?;

    let ending = AtomicBool::new(false);
    let stop = || ending.load(Ordering::Relaxed) || monitor.cancelled();
    let totals = std::thread::scope(|scope| {
        for disk in &disks {
            if let (Some(cache), Some(order)) = (&disk.cache, disk.order()) {
                for first in 0..READERS {
                    scope.spawn(move || cache.read_ahead(order, first, READERS));
                }
            }
            if request.hydrate {
                let stop = &stop;
                scope.spawn(move || hydrate(disk, stop, monitor));
            }
        }
        let totals = server::serve(&listener, &exports, &options, monitor);
        ending.store(true, Ordering::Relaxed);
        disks.iter().filter_map(|disk| disk.cache.as_ref()).for_each(Cache::stop);
        totals
    })?;
    drop(listener);
    exports.iter().try_for_each(|export| export.disk.flush())?;
    disks.iter().for_each(|disk| keep_order(disk, monitor));
    let held = |disk: &Served| match &disk.backing {
        Backing::Overlay(path, overlay) => {
            Some((path.clone(), overlay.present_bytes(), overlay.is_complete()))
        }
        Backing::Image(_) => None,
    };
    Ok(Report { totals, overlays: disks.iter().filter_map(held).collect() })
}

impl Served {
    fn order(&self) -> Option<&Order> {
        self.boot.as_ref()?.order.as_ref()
    }
}

fn export<'a>(disk: &'a Served, request: &Request) -> Export<'a> {
    Export {
        name: request.names.get(disk.number).cloned().unwrap_or_else(|| disk.number.to_string()),
        description: disk.description.clone(),
        disk: match &disk.backing {
            Backing::Image(image) => Box::new(ReadOnly(image)),
            Backing::Overlay(_, overlay) => Box::new(&**overlay),
        },
    }
}

fn check(request: &Request) -> Result<()> {
    if let Address::Tcp(address) = &request.address
        && !address.ip().is_loopback()
        && request.tls.is_none()
        && !request.insecure
    {
        return Err(Error::refused(
            format!("listening on {address}"),
            "whoever reaches it could read the disks, and write to overlays, and all would cross the network unencrypted: \
             give --tls-cert and --tls-key (and --tls-ca for clients), listen on 127.0.0.1, or give --insecure",
        ));
    }
    if request.hydrate && request.overlay.is_none() {
        return Err(
            Error::new(ErrorKind::Usage, "hydrating").because("there is no overlay: give --overlay FILE")
        );
    }
    Ok(())
}

/// Each disk at most one name, and no name twice: a name that stays is its number.
fn check_names(names: &[String], disks: usize) -> Result<()> {
    let all: Vec<String> =
        (0..disks).map(|disk| names.get(disk).cloned().unwrap_or_else(|| disk.to_string())).collect();
    let because = if names.len() > disks {
        format!("there are {} names for {disks} disks", names.len())
    } else if all.iter().enumerate().any(|(disk, name)| all.iter().skip(disk + 1).any(|other| other == name))
    {
        "two disks would have one name".to_owned()
    } else if names.iter().any(|name| name.len() > MAX_STRING) {
        format!("names have at most {MAX_STRING} bytes")
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Usage, "naming the exports").because(because))
}

/// One disk before it is prepared.
enum Opened {
    Image(Image),
    /// An overlay that needs no image any more.
    Alone(PathBuf),
}

/// The disks, with the images that they need.
fn open(request: &Request, monitor: &dyn Monitor) -> Result<Vec<Opened>> {
    let alone = match &request.overlay {
        Some(path) => overlay::examine(path)?.is_some_and(|header| header.complete),
        None => false,
    };
    let opened = match &request.stored {
        Some((store, name)) => image::stored(store, name, monitor),
        None => image::open(&request.image, &request.open, monitor),
    };
    let error = match opened {
        Ok(images) => return Ok(images.into_iter().map(Opened::Image).collect()),
        Err(error) if !alone => return Err(error),
        Err(error) => error,
    };
    let mut disks = Vec::new();
    for path in request.overlay.iter().flat_map(|path| (0..).map(|disk| overlay::path_for_disk(path, disk))) {
        match overlay::examine(&path)? {
            Some(header) if header.complete => disks.push(Opened::Alone(path)),
            Some(_) => return Err(error),
            None => break,
        }
    }
    // The overlay is the disk now.
    monitor.note(format!("the overlay stands alone and is served without its image ({})", error.chain()));
    Ok(disks)
}

fn prepare(number: usize, opened: Opened, request: &Request, monitor: &dyn Monitor) -> Result<Served> {
    let Image { format, source, identity, description, .. } = match opened {
        Opened::Image(image) => image,
        Opened::Alone(path) => {
            let description = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let backing = Backing::Overlay(path.clone(), Box::new(Overlay::open(&path, None)?));
            return Ok(Served { number, description, backing, cache: None, boot: None });
        }
    };
    let size = source.size();
    // A raw file is in the page cache already.
    let (source, bulk, cache): (Box<dyn BlockSource>, Option<Box<dyn BlockSource>>, _) =
        if format == Some(Format::Raw) || request.cache == 0 {
            (source, None, None)
        } else {
            let cache = Cache::new(source, request.cache);
            (Box::new(cache.clone()), Some(Box::new(cache.beside())), Some(cache))
        };
    let boot = request.orders.as_ref().filter(|_| cache.is_some()).map(|folder| {
        let name: String = identity.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let path = folder.join(format!("{name}.order"));
        let order = Order::read(&path, &identity).unwrap_or_else(|error| {
            monitor.note(format!("{}; it is recorded anew", error.chain()));
            None
        });
        Boot { path, identity, order }
    });
    let backing = match &request.overlay {
        None => Backing::Image(source),
        Some(path) => {
            let path = overlay::path_for_disk(path, number);
            let below = Below { source, bulk, identity, name: description.clone() };
            let overlay = Overlay::open(&path, Some(below))?;
            Backing::Overlay(path, Box::new(overlay))
        }
    };
    let disk = Served { number, description, backing, cache, boot };
    // A boot from an overlay that holds something reads less than one from the image.
    let fresh = matches!(&disk.backing, Backing::Overlay(_, overlay) if overlay.was_empty());
    if let Some(cache) =
        disk.cache.as_ref().filter(|_| disk.boot.is_some() && (fresh || disk.order().is_none()))
    {
        cache.record(Recording::new(size));
    }
    Ok(disk)
}

fn hydrate(disk: &Served, stop: &dyn Fn() -> bool, monitor: &dyn Monitor) {
    let Backing::Overlay(path, overlay) = &disk.backing else { return };
    let first: Vec<u64> = disk.order().map_or(Vec::new(), |order| order.offsets().collect());
    match overlay.hydrate(disk.number, &path.display().to_string(), &first, stop, monitor) {
        Ok(Hydrated::Complete) => {
            monitor.note(format!(
                "{} stands alone: it is a raw disk image, and the image is not needed",
                path.display()
            ));
        }
        Ok(Hydrated::Stopped) => {}
        // Clients go on: what is missing still comes from the image.
        Err(error) => monitor.warn(format!("hydrating {} has stopped: {}", path.display(), error.chain())),
    }
}

/// Writes the order that was recorded, unless the one that is there has more than twice as much in it: a boot that was watched
/// to its end is worth more than a look at the disk.
fn keep_order(disk: &Served, monitor: &dyn Monitor) {
    let recording = disk.cache.as_ref().and_then(Cache::recorded);
    let (Some(recording), Some(boot)) = (recording, &disk.boot) else { return };
    let order = recording.into_order();
    let known = boot.order.as_ref().map_or(0, |known| known.pieces.len());
    if order.pieces.is_empty() || order.pieces.len() < known / 2 {
        return;
    }
    if let Err(error) = order.write(&boot.path, &boot.identity) {
        monitor.note(format!("the order of this boot is lost: {}", error.chain()));
    }
}
