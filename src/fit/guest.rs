// SPDX-License-Identifier: Apache-2.0
//! A guest on block devices: activated, mounted, acted upon, and taken down again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use unmoor_convert::devices::Devices;
use unmoor_convert::files::Directory;
use unmoor_convert::os::{self, OsFacts};
use unmoor_convert::plan::{DiskEdit, IdentityEdit, Plan};
use unmoor_convert::{apply, identity};
use unmoor_images::adapt::WithSectors;
use unmoor_images::formats::raw::RawSource;
use unmoor_images::layout::{self, DiskLayout};
use unmoor_images::manifest::MachineFacts;
use unmoor_images::{BlockSource, Error, Monitor, Result, ResultExt};
use unmoor_initramfs::activate::{self, Activated, Filesystem, Key};
use unmoor_initramfs::rescue;

use super::planning::{Readable, plan_of};
use super::{Action, identities};

/// Where a guest's own filesystems hold what decides how it boots and runs.
pub(super) const MOUNTS: [&str; 10] =
    ["/boot", "/efi", "/etc", "/usr", "/var", "/lib", "/lib64", "/sbin", "/bin", "/opt"];

/// Does `action` to the guest on `disks`, which have logical sectors of `sector_size` bytes where they are files; the result is a
/// [`super::Report`] or what was applied.
pub(super) fn act(
    (disks, sector_size): (&[PathBuf], u32),
    action: &Action,
    keys: &[Vec<u8>],
    facts: Option<&MachineFacts>,
    monitor: &dyn Monitor,
) -> Result<Value> {
    if let Action::Apply(plan) = action {
        check_disks(plan, disks)?;
    }
    let read_only = matches!(action, Action::Plan(_));
    let keys = keys.iter().map(|key| Key { uuid: None, secret: key.clone().into() });
    let options = activate::Options { read_only, keys: keys.collect(), sector_size };
    let activated = activate::activate(disks, &options)?;
    activated.warnings.iter().for_each(|warning| monitor.warn(warning.clone()));
    let done = mounted(disks, &activated, action, facts, monitor).and_then(|(result, identities)| {
        identities::on_devices(&identities, disks, &activated)?;
        Ok((result, identities))
    });
    let layouts = activated.layouts.clone();
    let down = activated.finish();
    let (result, identities) = done?;
    down?;
    if let Action::Apply(plan) = action {
        write_disks(plan, disks)?;
    }
    identities::on_disks(&identities, disks, &layouts)?;
    Ok(result)
}

fn mounted(
    disks: &[PathBuf],
    activated: &Activated,
    action: &Action,
    facts: Option<&MachineFacts>,
    monitor: &dyn Monitor,
) -> Result<(Value, Vec<IdentityEdit>)> {
    let paths = disks.iter().chain(activated.opened.iter().map(|opened| &opened.path));
    let sources = paths
        .zip(&activated.layouts)
        .map(|(path, layout)| {
            let source = RawSource::open(path).doing(|| format!("opening {}", path.display()))?;
            Ok(WithSectors::new(source, layout.table.sector_size))
        })
        .collect::<Result<Vec<_>>>()?;
    let sources: Vec<&dyn BlockSource> = sources.iter().map(|source| source as _).collect();
    let found = os::find(&activated.layouts, &sources, monitor);
    if found.is_empty()
        && let Some(why) = unreadable(&activated.layouts, &sources)
    {
        return Err(Error::refused("looking for the guest", why));
    }
    let system = the_system(found, monitor)?;
    let devices = Devices::of(&activated.layouts, &sources, facts);
    let subvolume = system.subvolume.clone().unwrap_or_default();
    let root = activated.filesystem(system.disk, &system.place, &subvolume)?;
    let (others, mut hidden) = others(activated, &system, &devices, action);
    let at = tempfile::Builder::new().prefix("unmoor-guest-").tempdir().doing(|| "making a mount point")?;
    let read_only = matches!(action, Action::Plan(_));
    let guest = activate::mount_guest(&root, &others, at.path(), read_only)?;
    hidden.extend(guest.failed.iter().map(|(point, why)| (point.clone(), why.to_string())));
    refuse_hidden(&hidden, action)?;
    for (point, why) in &hidden {
        monitor.warn(format!("{point} of the guest is not mounted: {why}"));
    }
    let files = Directory::open(at.path())?;
    let identities = match action {
        Action::Plan(_) => Vec::new(),
        Action::Apply(plan) => plan.identities.clone(),
        Action::Undo { force } => apply::changed_identities(&files, &undo_options(*force))?,
    };
    identity::carry_out::check(&identities, &sources, &activated.layouts)?;
    let done = match action {
        Action::Plan(request) => {
            let guest = Readable {
                files: &files,
                devices: &devices,
                disks: &sources,
                layouts: &activated.layouts,
                facts,
            };
            plan_of(&guest, request).map(|report| json!(report))
        }
        Action::Apply(plan) => changed(plan, &files, monitor),
        Action::Undo { force } => undone(&files, *force, monitor),
    };
    drop(files);
    let down = guest.unmount();
    let done = done?;
    down?;
    Ok((done, identities))
}

fn changed(plan: &Plan, files: &Directory, monitor: &dyn Monitor) -> Result<Value> {
    let start = Instant::now();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let disks = !plan.disk.is_empty();
    let options = apply::Options { now: now.cast_signed(), disks, ..apply::Options::default() };
    let applied = apply::apply(plan, files, &options)?;
    applied.notes.iter().for_each(|note| monitor.note(note.clone()));
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({ "changed_files": applied.changed, "undo": applied.undo, "seconds": seconds }))
}

fn undo_options(force: bool) -> apply::UndoOptions {
    apply::UndoOptions { force, ..Default::default() }
}

fn undone(files: &Directory, force: bool, monitor: &dyn Monitor) -> Result<Value> {
    let undone = apply::undo(files, &undo_options(force))?;
    for path in &undone.left {
        monitor.warn(format!("{path} was changed since, and is left as it is"));
    }
    Ok(json!({ "undo": undone.name, "restored": undone.restored, "left": undone.left }))
}

/// Of a filesystem that this kernel does not mount: which kernel is needed. It may be the one with the system on it.
fn unreadable(layouts: &[DiskLayout], sources: &[&dyn BlockSource]) -> Option<String> {
    let release = rescue::running_release();
    layouts.iter().enumerate().find_map(|(disk, layout)| {
        layout.all_regions().find_map(|region| {
            let source = layout::open(sources, layouts, disk, &region.place).ok()?;
            rescue::needs(&source).ok()??.refusal(&release, true)
        })
    })
}

/// The operating system that is fitted.
pub(super) fn the_system(systems: Vec<OsFacts>, monitor: &dyn Monitor) -> Result<OsFacts> {
    let names: Vec<String> =
        systems.iter().map(|system| system.name.clone().unwrap_or_else(|| "unnamed".into())).collect();
    if names.len() > 1 {
        monitor.warn(format!(
            "there are {} operating systems ({}): the first is fitted",
            names.len(),
            names.join(", ")
        ));
    }
    systems.into_iter().next().ok_or_else(|| {
        Error::refused("looking for the guest", "no Linux was found on these disks that could be fitted")
    })
}

/// A mount point of the guest that is not mounted, and why.
type Hidden = (String, String);

/// A file that is planned below a mount point must not land in the directory underneath.
fn refuse_hidden(hidden: &[Hidden], action: &Action) -> Result<()> {
    let below = |path: &str, point: &str| path.strip_prefix(point).is_some_and(|rest| rest.starts_with('/'));
    let lost = hidden.iter().find(|(point, _)| match action {
        Action::Apply(plan) => plan.edits.iter().any(|edit| below(&edit.path, point)),
        Action::Undo { .. } => true,
        Action::Plan(_) => false,
    });
    match lost {
        None => Ok(()),
        Some((point, why)) => Err(Error::refused(
            "mounting the guest",
            format!("{point} holds files that are to be changed, and cannot be mounted: {why}"),
        )),
    }
}

/// What the guest's fstab mounts where its boot and configuration files lie, and what of it has no block device here.
fn others(
    activated: &Activated,
    system: &OsFacts,
    devices: &Devices,
    action: &Action,
) -> (Vec<(String, Filesystem)>, Vec<Hidden>) {
    let (mut found, mut hidden) = (Vec::new(), Vec::new());
    for line in &system.fstab {
        let point = line.mountpoint.trim_end_matches('/');
        // What was planned through our own readers saw all that fstab mounts.
        let all = point.len() > 1 && !matches!(action, Action::Plan(_));
        // Swap is mounted at "none".
        if !point.starts_with('/') {
            continue;
        }
        let wanted = all
            || MOUNTS.iter().any(|wanted| {
                point == *wanted || point.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('/'))
            });
        if !wanted || line.options.split(',').any(|option| option == "bind") {
            continue;
        }
        let Some(device) = devices.resolve(&line.spec).and_then(|index| devices.devices.get(index)) else {
            continue;
        };
        match activated.filesystem(device.disk, &device.place, &line.options) {
            Ok(filesystem) => found.push((point.to_owned(), filesystem)),
            Err(error) => hidden.push((point.to_owned(), error.chain())),
        }
    }
    (found, hidden)
}

/// Hash of the bytes that an edit of a disk replaces.
pub(super) fn replaced(edit: &DiskEdit, disks: &[&dyn BlockSource]) -> Result<String> {
    let disk = disks
        .get(edit.disk)
        .ok_or_else(|| Error::malformed("looking at the disks", format!("there is no disk {}", edit.disk)))?;
    let mut hasher = blake3::Hasher::new();
    for (at, content) in &edit.writes {
        let mut old = vec![0; content.bytes().len()];
        disk.read_at(&mut old, *at)?;
        hasher.update(&old);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Refuses where what is to be replaced outside of files is not what it was when the plan was made.
fn check_disks(plan: &Plan, disks: &[PathBuf]) -> Result<()> {
    if plan.disk.is_empty() {
        return Ok(());
    }
    let raw = disks.iter().map(|path| RawSource::open(path)).collect::<Result<Vec<_>>>()?;
    let raw: Vec<&dyn BlockSource> = raw.iter().map(|source| source as _).collect();
    let now = plan.disk.iter().map(|edit| replaced(edit, &raw)).collect::<Result<Vec<_>>>()?;
    if now == plan.disk_was {
        return Ok(());
    }
    Err(Error::refused(
        "applying the plan",
        "a disk is not as it was when the plan was made: make a new plan",
    ))
}

/// Writes bytes of disks, in the order that the plan gives: what makes a disk bootable comes last.
fn write_disks(plan: &Plan, disks: &[PathBuf]) -> Result<()> {
    if let Some(edit) = plan.disk.iter().find(|edit| edit.disk >= disks.len()) {
        return Err(Error::malformed("writing to the disks", format!("there is no disk {}", edit.disk)));
    }
    for (number, path) in disks.iter().enumerate() {
        let writes = apply::disk_writes(plan, number);
        if writes.is_empty() {
            continue;
        }
        let doing = || format!("writing to {}", path.display());
        // Opened anew: nothing that was read before it was mounted is left in memory.
        let file = File::options().read(true).write(true).open(path).doing(doing)?;
        for (offset, content) in writes {
            file.write_all_at(content.bytes(), offset)
                .map_err(|error| Error::io(doing(), error).at(offset))?;
        }
        file.sync_all().doing(doing)?;
    }
    Ok(())
}
