// SPDX-License-Identifier: Apache-2.0
//! One kernel and its initramfs: what it needs, what it has, and the bytes that bring what it lacks.

use std::collections::BTreeSet;

use unmoor_convert::files::Files;
use unmoor_convert::inspection::{Inspection, Kernel};
use unmoor_convert::plan::{Draft, InitramfsFile};
use unmoor_convert::request::{Part, Purpose, Request};
use unmoor_convert::rules;
use unmoor_images::{Error, Result};
use unmoor_initramfs::archive::{self, Addition, Archive, Limits, Tree};
use unmoor_initramfs::modules::{self, ModuleTree};

use crate::guest::Guest;
use crate::loading::{self, Loading};
use crate::needs::{self, Driven};
use crate::uki::{self, Image};

/// No boot loader loads a larger initramfs, in bytes.
const MOST: u64 = 1 << 30;

/// Storage controllers' firmware has under 2 MB.
const MOST_FIRMWARE: u64 = 32 << 20;

/// What one guest may still ask for, in bytes.
pub(crate) struct Budget {
    /// Unpacked from its initramfs files.
    unpacked: u64,
    /// Put into them.
    added: u64,
}

impl Default for Budget {
    fn default() -> Self {
        // Drivers of one initramfs have some 10 MB, and 100 MB where they come with all of a distribution's network drivers.
        Self { unpacked: 32 << 30, added: 1 << 30 }
    }
}

/// What is wrong with a kernel's initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// None is loaded, or its file is not there.
    Missing,
    /// It cannot be read, and why.
    Broken(String),
    /// Nothing can be added to it, and why.
    Refused(String),
    /// It is in an image whose signature would no longer hold; whether drivers are lacking in it.
    Signed { lacks: bool },
}

/// A change of the guest's files.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Append { path: String, bytes: Vec<u8> },
    Write { path: String, content: Vec<u8> },
}

impl Change {
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Append { path, .. } | Self::Write { path, .. } => path,
        }
    }
}

/// A kernel, fitted as far as can be.
#[derive(Debug)]
pub(crate) struct Fit {
    pub(crate) release: String,
    pub(crate) is_default: bool,
    pub(crate) tree: ModuleTree,
    /// Each part of the hardware and what this kernel has for it.
    pub(crate) parts: Vec<Driven>,
    /// Loadable modules that the initramfs needs for the disks, in the order of loading.
    pub(crate) wanted: Vec<String>,
    /// Those that the initramfs will hold.
    pub(crate) held: BTreeSet<String>,
    /// What was added.
    pub(crate) added: Vec<String>,
    /// Configuration in it that named the old machine's disks.
    pub(crate) corrected: Vec<String>,
    /// Modules that the indexes name and the guest does not have.
    pub(crate) absent: Vec<String>,
    /// Modules that the initramfs' configuration forbids, and where.
    pub(crate) forbidden: Vec<(String, String)>,
    pub(crate) loading: Option<Loading>,
    pub(crate) trouble: Option<Trouble>,
    /// What brings it.
    pub(crate) changes: Vec<Change>,
}

impl Fit {
    /// Why bytes are appended, for people.
    pub(crate) fn why(&self) -> String {
        let corrected = self.corrected.join(", ");
        match (self.added.is_empty(), self.corrected.is_empty()) {
            (true, true) => format!("files that the start of {} needs", self.release),
            (true, false) => {
                format!("the initramfs of {} has names of the old machine's disks: {corrected}", self.release)
            }
            (false, corrects) => {
                let also = if corrects {
                    String::new()
                } else {
                    format!("; its {corrected} names the old machine's disks")
                };
                format!("{} lacks drivers for the new machine: {}{also}", self.release, self.added.join(", "))
            }
        }
    }

    /// Whether the initramfs will have, or not need, all that these drivers take.
    pub(crate) fn can_load<S: AsRef<str>>(&self, drivers: impl IntoIterator<Item = S>) -> bool {
        let closure = self.tree.closure(drivers);
        closure.missing.is_empty() && closure.order.iter().all(|name| self.held.contains(name))
    }
}

/// Whether the initramfs needs the drivers of this part: the disks', and those of buses that lead to them.
fn is_for_root(part: &Part) -> bool {
    matches!(part.purpose, Purpose::Disk | Purpose::Bus)
}

/// Fits `kernel` to the hardware.
pub(crate) fn fit(
    draft: &Draft,
    inspection: &Inspection,
    request: &Request,
    kernel: &Kernel,
    is_default: bool,
    budget: &mut Budget,
) -> Result<Fit> {
    let guest = Guest(draft);
    let tree = match &kernel.modules {
        Some(directory) => ModuleTree::read(&guest, directory)?,
        None => ModuleTree::default(),
    };
    let parts: Vec<Driven> = request.hardware.parts.iter().map(|part| needs::drive(&tree, part)).collect();
    let mut names: Vec<String> = Vec::new();
    for driven in parts.iter().filter(|driven| is_for_root(&driven.part)) {
        names.extend(driven.drivers.iter().cloned());
        let top = needs::on_top(&driven.part, &driven.drivers).filter(|name| tree.module(name).is_some());
        names.extend(top.map(str::to_owned));
    }
    let stack = needs::stack(&inspection.root);
    names.extend(stack.into_iter().filter(|name| !tree.closure([name]).order.is_empty()));
    let wanted = tree.closure(&names).order;
    let mut fit = Fit {
        release: kernel.release.clone(),
        is_default,
        tree,
        parts,
        wanted,
        held: BTreeSet::new(),
        added: Vec::new(),
        corrected: Vec::new(),
        absent: Vec::new(),
        forbidden: Vec::new(),
        loading: None,
        trouble: None,
        changes: Vec::new(),
    };
    match read(draft, kernel, budget)? {
        Ok(held) => add(draft, inspection, request, kernel, &mut fit, &held, budget)?,
        Err(trouble) => fit.trouble = Some(trouble),
    }
    Ok(fit)
}

/// A kernel's initramfs files unpacked over each other.
struct Held {
    archive: Archive,
    /// The last of them, which is what is extended.
    path: String,
    image: Vec<u8>,
    /// The unified kernel image that it is a part of.
    unified: Option<Vec<u8>>,
}

fn read(draft: &Draft, kernel: &Kernel, budget: &mut Budget) -> Result<std::result::Result<Held, Trouble>> {
    let limits = Limits::default();
    let mut archive = Archive::empty(&Limits { unpacked: limits.unpacked.min(budget.unpacked), ..limits });
    let mut last = None;
    for initramfs in &kernel.initramfs {
        let path = initramfs.path.clone();
        let Some(file) = draft.read(&path, MOST)? else { return Ok(Err(Trouble::Missing)) };
        let broken = |error: Error| Ok(Err(Trouble::Broken(format!("{path}: {}", error.chain()))));
        let (image, unified) = if Image::is(&file) {
            let image = match Image::parse(&file) {
                Ok(image) => image.find(".initrd").unwrap_or_default().to_vec(),
                Err(error) => return broken(error),
            };
            (image, Some(file))
        } else {
            (file, None)
        };
        let before = archive.unpackable();
        let added = archive.add(&image);
        budget.unpacked = budget.unpacked.saturating_sub(before - archive.unpackable().min(before));
        if let Err(error) = added {
            return broken(error);
        }
        last = Some((path, image, unified));
    }
    let Some((path, image, unified)) = last else { return Ok(Err(Trouble::Missing)) };
    if archive.tree.link_node("init").is_none() {
        return Ok(Err(Trouble::Broken(format!("{path}: it holds no /init"))));
    }
    Ok(Ok(Held { archive, path, image, unified }))
}

/// The kernel's module directory in the initramfs: where its modprobe looks, by the path that is there.
fn directory(archive: &Archive, release: &str) -> String {
    let usual = format!("lib/modules/{release}");
    let merged = format!("usr/lib/modules/{release}");
    if archive.tree.node(&usual).is_none() && archive.tree.node(&merged).is_some() { merged } else { usual }
}

fn add(
    draft: &Draft,
    inspection: &Inspection,
    request: &Request,
    kernel: &Kernel,
    fit: &mut Fit,
    held: &Held,
    budget: &mut Budget,
) -> Result<()> {
    let archive = &held.archive;
    let directory = directory(archive, &kernel.release);
    let mut paths = modules::held(&archive.tree, &directory);
    fit.held = paths.keys().cloned().collect();
    let mut additions = Vec::new();
    for name in fit.wanted.iter().filter(|name| !paths.contains_key(*name)).cloned().collect::<Vec<_>>() {
        let (Some(module), Some(from)) = (fit.tree.module(&name), &kernel.modules) else { continue };
        let Some(file) = draft.read(&format!("{from}/{}", module.path), MOST)? else {
            fit.absent.push(name);
            continue;
        };
        // Unpacked: whether the initramfs' kmod reads xz or zstd is not known, and every one reads this.
        let to = plain_name(&module.path);
        let content = match modules::unpacked(&file) {
            Ok(content) => content,
            Err(_) => {
                fit.absent.push(name);
                continue;
            }
        };
        let firmware = firmware(draft, archive, &content)?;
        let len = |addition: &Addition| match addition {
            Addition::File { content, .. } => content.len() as u64,
            Addition::Link { .. } | Addition::Directory { .. } => 0,
        };
        let size = firmware.iter().map(len).sum::<u64>().saturating_add(content.len() as u64);
        let Some(left) = budget.added.checked_sub(size) else {
            let because = "the drivers that it lacks are larger than any that are known: over 1 GiB in all initramfs files together";
            return give_up(fit, Trouble::Refused(because.to_owned()));
        };
        budget.added = left;
        additions.extend(firmware);
        additions.push(Addition::file(format!("{directory}/{to}"), content));
        paths.insert(name.clone(), to.to_owned());
        fit.added.push(name);
    }
    if !fit.added.is_empty() {
        additions.extend(indexes(archive, &directory, fit, &paths)?);
    }
    let loading = loading::of(&archive.tree);
    fit.loading = Some(loading);
    let certain = certain_drivers(fit);
    fit.forbidden = loading::forbidden(&archive.tree, &certain);
    if !certain.is_empty() {
        additions.extend(loading::files(&archive.tree, loading, &certain));
    }
    let copies = corrected(&archive.tree, draft);
    fit.corrected = copies.iter().map(|addition| addition.path().to_owned()).collect();
    additions.extend(copies);
    let lacks = !additions.is_empty();
    additions.extend(wanted_files(draft));
    let mtime = u32::try_from(request.now).unwrap_or(0);
    let bytes = match archive::append(&held.image, archive, &additions, mtime) {
        Ok(bytes) => bytes,
        Err(error) => return give_up(fit, Trouble::Refused(error.chain())),
    };
    if bytes.is_empty() {
        return Ok(());
    }
    let Some(file) = &held.unified else {
        fit.held.extend(fit.added.iter().cloned());
        fit.changes = vec![Change::Append { path: held.path.clone(), bytes }];
        return Ok(());
    };
    let initrd = [held.image.as_slice(), &bytes].concat();
    match uki::carry(draft, inspection, request, (&held.path, file), &initrd, fit.is_default) {
        Ok(Some(files)) => {
            fit.held.extend(fit.added.iter().cloned());
            fit.changes = files.into_iter().map(|(path, content)| Change::Write { path, content }).collect();
            Ok(())
        }
        Ok(None) => give_up(fit, Trouble::Signed { lacks }),
        Err(error) => give_up(fit, Trouble::Refused(error.chain())),
    }
}

/// Files that a module asks for by its `firmware=` lines, as the guest has them: its kernel unpacks what it packed.
fn firmware(draft: &Draft, archive: &Archive, module: &[u8]) -> Result<Vec<Addition>> {
    let mut files = Vec::new();
    for (_, name) in
        modules::information(module).unwrap_or_default().into_iter().filter(|(key, _)| key == "firmware")
    {
        if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            continue;
        }
        for ending in ["", ".xz", ".zst"] {
            let path = format!("lib/firmware/{name}{ending}");
            if archive.tree.node(&path).is_some() {
                break;
            }
            if let Some(content) = draft.read(&format!("/{path}"), MOST_FIRMWARE)? {
                files.push(Addition::file(path, content));
                break;
            }
        }
    }
    Ok(files)
}

/// Nothing is added.
fn give_up(fit: &mut Fit, trouble: Trouble) -> Result<()> {
    fit.added.clear();
    fit.trouble = Some(trouble);
    Ok(())
}

/// Copies of the guest's configuration that would hide the new machine's disks from the initramfs. What another rule wants in their
/// place is right already.
fn corrected(tree: &Tree, draft: &Draft) -> Vec<Addition> {
    let wanted = |path: &str| draft.initramfs_files().iter().any(|file| file.path == path);
    let copies = rules::COPIED.iter().filter(|path| !wanted(path)).filter_map(|path| {
        let real = tree.real_path(path)?;
        let content = rules::corrected(path, tree.read(&real)?)?;
        let mode = tree.node(&real).map_or(0o644, |node| node.mode);
        Some(Addition::File { path: real, mode, content })
    });
    copies.collect()
}

/// Files that other rules want in the initramfs.
fn wanted_files(draft: &Draft) -> Vec<Addition> {
    let addition = |file: &InitramfsFile| Addition::File {
        path: file.path.clone(),
        mode: file.mode,
        content: file.content.bytes().to_vec(),
    };
    draft.initramfs_files().iter().map(addition).collect()
}

/// Loadable drivers of the disks that will be there, with what they need.
fn certain_drivers(fit: &Fit) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for driven in fit.parts.iter().filter(|driven| driven.part.certain && is_for_root(&driven.part)) {
        names.extend(driven.drivers.iter().cloned());
        names.extend(needs::on_top(&driven.part, &driven.drivers).map(str::to_owned));
    }
    let names = names.into_iter().filter(|name| fit.tree.module(name).is_some());
    fit.tree.closure(names.collect::<Vec<_>>()).order
}

/// Without the ending of a compression.
fn plain_name(path: &str) -> &str {
    let end = path.rfind(".ko").map_or(path.len(), |at| at + ".ko".len());
    path.get(..end).unwrap_or(path)
}

/// Indexes of what the initramfs will hold. What the guest's own indexes do not know keeps what the initramfs' say of it.
fn indexes(
    archive: &Archive,
    directory: &str,
    fit: &Fit,
    paths: &std::collections::BTreeMap<String, String>,
) -> Result<Vec<Addition>> {
    let (mut union, unknown) = fit.tree.with_paths(paths);
    if !unknown.is_empty() {
        let own = ModuleTree::read(&archive.tree, directory).unwrap_or_default();
        union.add_unknown(&own.with_paths(paths).0);
    }
    let mut files = Vec::new();
    for (name, bytes) in union.indexes()? {
        let path = format!("{directory}/{name}");
        // What is built in does not change by a module more.
        if name.starts_with("modules.builtin") && archive.tree.node(&path).is_some() {
            continue;
        }
        files.push(Addition::file(path, bytes));
    }
    Ok(files)
}
