// SPDX-License-Identifier: Apache-2.0
//! A store of a thousand machines with thirty images each, and a large disk with little on it.
//!
//! The store is written here by what FORMAT.md says, not by the store's own writer, which would ask thirty thousand times what is there.
//! The images share a small set of chunks; their trees are their own, as those of real machines are.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Value, json};

use super::measure::{self, Command, Figures};
use crate::run::{Failure, Result, While};

const MACHINES: u64 = 1000;
const IMAGES: u64 = 30;
/// Leaves of 256 KiB that all images share: 16 GiB of disk.
const CHUNKS: u64 = 65_536;
/// Pages of a disk, 64 MiB each, and how many of them change from image to image.
const PAGES: u64 = 64;
const CHANGED: u64 = 2;
const LEAF: u64 = 256 << 10;

type Id = [u8; 32];

/// Lists and dry runs over the store, and its growth.
pub(super) fn run(unmoor: &Path, folder: &Path) -> Result {
    println!("\na store of {MACHINES} machines with {IMAGES} images each, page cache warm");
    let store = folder.join("scale");
    make(&store, MACHINES)?;
    let figures = commands(unmoor, &store, folder, 3)?;
    let names = ["list", "list of one machine", "prune --dry-run", "verify"];
    for (name, figures) in names.iter().zip(&figures) {
        super::line(&format!("images {name}"), figures, None);
        println!("    peak memory {:.0} MiB", figures.peak_mib());
    }
    if let [list, _, prune, _] = figures.as_slice() {
        super::aim("seconds of a list", list.seconds(), None, Some(1.0));
        super::aim("seconds of a dry run of prune", prune.seconds(), None, Some(60.0));
    }
    fs::remove_dir_all(&store).while_doing("removing the store")?;
    // How it grows: a tenth of the machines.
    make(&store, MACHINES / 10)?;
    let tenth = commands(unmoor, &store, folder, 3)?;
    for (name, (whole, tenth)) in names.iter().zip(figures.iter().zip(&tenth)) {
        println!(
            "  {name}: ten times the machines take {:.1} times the time, {:.0} instead of {:.0} MiB",
            whole.seconds() / tenth.seconds(),
            whole.peak_mib(),
            tenth.peak_mib()
        );
    }
    fs::remove_dir_all(&store).while_doing("removing the store")?;
    large(unmoor, folder)
}

fn commands(unmoor: &Path, store: &Path, folder: &Path, rounds: usize) -> Result<Vec<Figures>> {
    let (unmoor, store) = (unmoor.display(), store.display());
    let text = |what: &str| format!("{unmoor} images {what} > OUT");
    let out = folder.join("scale.out");
    let commands = [
        Command::new("list", text(&format!("list dir:{store}")), out.clone()),
        Command::new("list of one", text(&format!("list dir:{store}/m0007")), out.clone()),
        Command::new(
            "prune --dry-run",
            text(&format!("prune --dry-run --keep-daily 7 --keep-weekly 2 dir:{store}")),
            out.clone(),
        ),
        Command::new("verify", text(&format!("verify dir:{store}")), out),
    ];
    measure::interleaved(&commands, rounds, || Ok(()))
}

/// 100 GiB of cheap content, all of it different, on a sparse disk of 8 TiB, in a store.
fn large(unmoor: &Path, folder: &Path) -> Result {
    const USED: u64 = 100 << 30;
    println!("\na sparse disk of 8 TiB with 100 GiB used, into a store");
    let disk = folder.join("eight-store.raw");
    let file = File::create(&disk).while_doing("creating a sparse disk")?;
    file.set_len(8 << 40).while_doing("sizing a sparse disk")?;
    // One page of each leaf differs from every other leaf; the rest of it is a hole of the file, which reads as zeros.
    let mut page = vec![0u8; 4096];
    let leaves = USED / LEAF;
    for leaf in 0..leaves {
        if let Some(first) = page.first_chunk_mut::<8>() {
            *first = (leaf + 1).to_le_bytes();
        }
        let at = leaf * ((8 << 40) / leaves) / LEAF * LEAF;
        file.write_all_at(&page, at).while_doing("filling a sparse disk")?;
    }
    drop(file);
    let store = folder.join("eight-store");
    let text = format!(
        "rm -rf {store}; {unmoor} images init dir:{store} && {unmoor} capture {disk} dir:{store}/eight > OUT",
        store = store.display(),
        unmoor = unmoor.display(),
        disk = disk.display()
    );
    let figures =
        measure::interleaved(&[Command::new("8 TiB", text, folder.join("scale.out"))], 1, || Ok(()))?;
    for figures in &figures {
        super::line("capture of 8 TiB, 100 GiB used", figures, None);
        super::aim("peak memory in MiB", figures.peak_mib(), None, Some(300.0));
    }
    // What is no chunk of the disk: everything but the packs, and in the packs tables and pages.
    let (mut rest, mut tables) = (0, 0);
    each_file(&store, &mut |path, bytes| {
        if path.starts_with(store.join("packs")) {
            tables += bytes;
        } else {
            rest += bytes;
        }
    })?;
    println!("  packs {:.1} MiB, all else {:.1} MiB", mib(tables), mib(rest));
    super::aim(
        "manifest and index, percent of used bytes",
        rest as f64 * 100.0 / USED as f64,
        None,
        Some(0.1),
    );
    fs::remove_dir_all(&store).while_doing("removing the store")?;
    fs::remove_file(&disk).while_doing("removing the disk")
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 20) as f64
}

fn each_file(folder: &Path, each: &mut dyn FnMut(&Path, u64)) -> Result {
    for entry in fs::read_dir(folder).while_doing("listing a store")? {
        let path = entry.while_doing("listing a store")?.path();
        let metadata = path.metadata().while_doing("listing a store")?;
        if metadata.is_dir() {
            each_file(&path, each)?;
        } else {
            each(&path, metadata.len());
        }
    }
    Ok(())
}

/// Writes the store.
fn make(store: &Path, machines: u64) -> Result {
    write(
        store,
        "store.json",
        &frame(&json!({
            "format": "unmoor-store", "version": 1, "id": "00112233445566778899aabbccddeeff", "created": "2026-01-01T00:00:00Z",
            "features": [], "encryption": null,
        })),
    )?;
    let mut packer = Packer { store, bytes: Vec::new(), entries: Vec::new(), tables: Vec::new() };
    let mut random = Random(1);
    let mut leaves: Vec<Id> = Vec::new();
    for chunk in 0..CHUNKS {
        let mut plain = vec![0; LEAF as usize];
        if let Some(first) = plain.first_chunk_mut::<8>() {
            *first = (chunk + 1).to_le_bytes();
        }
        leaves.push(packer.add(blake3::hash(&plain).into(), &plain, 0)?);
    }
    packer.close()?;
    let shared = packer.index()?;
    let size = PAGES * 256 * LEAF;
    for machine in 0..machines {
        let mut pages: Vec<Id> = Vec::new();
        let mut of_machine: Vec<Value> = vec![shared.clone()];
        for image in 0..IMAGES {
            let change = if image == 0 { PAGES } else { CHANGED };
            for _ in 0..change {
                let bytes = page(&mut random, &leaves);
                let id = packer.page(&bytes)?;
                if image == 0 {
                    pages.push(id);
                } else if let Some(slot) = pages.get_mut((random.next() % PAGES) as usize) {
                    *slot = id;
                }
            }
            let mut root = vec![1];
            leb(&mut root, PAGES);
            for id in &pages {
                leb(&mut root, 1 << 2);
                root.extend_from_slice(id);
            }
            let root = packer.page(&root)?;
            packer.close()?;
            of_machine.push(packer.index()?);
            write_image(store, machine, image, size, &root, &of_machine)?;
        }
    }
    Ok(())
}

fn write_image(store: &Path, machine: u64, image: u64, size: u64, root: &Id, packs: &[Value]) -> Result {
    let name = format!("m{machine:04}");
    let created = format!("2026-{:02}-{:02}T02:00:00Z", 6 + image / 28, 1 + image % 28);
    // A stand-in: reading an image whole wants a real root, which needs all leaves; neither prune nor verify reads it.
    let table = json!({
        "kind": "none", "sector_size": 512, "disk_id": null, "partitions": [], "metadata": [], "warnings": [],
    });
    let disk = json!({
        "source": "/dev/sda", "image": "disk0", "image_format": "raw", "size": size, "sector_size": 512, "table": table, "regions": [],
        "data_bytes": size, "zero_bytes": 0, "hole_bytes": 0, "root": hex(&[0; 32]),
        "map": { "file": "", "bytes": 0, "blake3": "" }, "unreadable": [], "conversions": [],
    });
    let document = json!({
        "format": "unmoor-image", "version": 1, "features": [],
        "summary": {
            "machine": name, "created": created, "size_bytes": size, "data_bytes": size,
            "added": { "read_bytes": size, "new_bytes": 0, "stored_bytes": 0, "packs": 1 },
        },
        "trees": [{ "size": size, "root": hex(root) }],
        "packs": packs,
        "manifest": {
            "format": "unmoor-manifest", "version": 1, "created": created, "tool": "bench", "consistency": "offline", "machine": null,
            "disks": [disk], "warnings": [],
        },
    });
    let time = created.replace(['-', ':'], "");
    write(store, &format!("images/{name}/{time}.json"), &frame(&document))
}

/// A page of 256 leaves of the shared set, all data.
fn page(random: &mut Random, leaves: &[Id]) -> Vec<u8> {
    let mut bytes = vec![0];
    leb(&mut bytes, 1);
    leb(&mut bytes, (256 * LEAF) << 2);
    leb(&mut bytes, 256);
    for _ in 0..256 {
        leb(&mut bytes, 1);
        bytes.extend_from_slice(&leaves[(random.next() % CHUNKS) as usize]);
    }
    bytes
}

/// Packs being written.
struct Packer<'a> {
    store: &'a Path,
    bytes: Vec<u8>,
    entries: Vec<u8>,
    /// Of packs that no index lists yet: id, table.
    tables: Vec<(Id, Vec<u8>)>,
}

impl Packer<'_> {
    fn add(&mut self, id: Id, plain: &[u8], kind: u32) -> Result<Id> {
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(b"UNMOORPK\x01\0\0\0\0\0\0\0");
        }
        let stored = zstd::bulk::compress(plain, 1).while_doing("compressing a chunk")?;
        let (stored, codec) = if stored.len() < plain.len() { (stored.as_slice(), 1) } else { (plain, 0) };
        self.bytes.extend_from_slice(stored);
        self.entries.extend_from_slice(&id);
        let first = stored.len() as u32 | codec << 24 | kind << 28;
        self.entries.extend_from_slice(&first.to_le_bytes());
        self.entries.extend_from_slice(&(plain.len() as u32).to_le_bytes());
        if self.bytes.len() > 32 << 20 {
            self.close()?;
        }
        Ok(id)
    }

    fn page(&mut self, bytes: &[u8]) -> Result<Id> {
        self.add(blake3::derive_key("unmoor 2026-11-24 store page", bytes), bytes, 1)
    }

    fn close(&mut self) -> Result {
        if self.entries.is_empty() {
            return Ok(());
        }
        let table = std::mem::take(&mut self.entries);
        let mut end = table.clone();
        end.extend_from_slice(&(table.len() as u32).to_le_bytes());
        end.extend_from_slice(&((table.len() / 40) as u32).to_le_bytes());
        end.extend_from_slice(b"KPROOMNU");
        let id: Id = blake3::Hasher::new().update(&self.bytes[..16]).update(&end).finalize().into();
        self.bytes.extend_from_slice(&end);
        let name = hex(&id);
        write(self.store, &format!("packs/{}/{name}", &name[..2]), &self.bytes)?;
        self.bytes.clear();
        self.tables.push((id, table));
        Ok(())
    }

    /// An index of what none lists yet, as an image names it.
    fn index(&mut self) -> Result<Value> {
        let tables = std::mem::take(&mut self.tables);
        let mut bytes = b"UNMOORIX\x01\0\0\0".to_vec();
        bytes.extend_from_slice(&(tables.len() as u32).to_le_bytes());
        for (id, table) in &tables {
            bytes.extend_from_slice(id);
            bytes.extend_from_slice(&((table.len() / 40) as u32).to_le_bytes());
            bytes.extend_from_slice(table);
        }
        let id = hex(blake3::hash(&bytes).as_bytes());
        write(self.store, &format!("index/{id}"), &bytes)?;
        let packs: Vec<String> = tables.iter().map(|(id, _)| hex(id)).collect();
        Ok(json!({ "index": id, "packs": packs }))
    }
}

fn frame(document: &Value) -> Vec<u8> {
    let inner = document.to_string();
    let hash = hex(blake3::hash(inner.as_bytes()).as_bytes());
    format!("{{\"blake3\":\"{hash}\",\"document\":{inner}}}\n").into_bytes()
}

fn write(store: &Path, name: &str, bytes: &[u8]) -> Result {
    let path = store.join(name);
    let folder = path.parent().ok_or_else(|| Failure::new("an object without a folder"))?;
    fs::create_dir_all(folder).while_doing("creating a folder")?;
    let file = File::create(&path).while_doing(format_args!("creating {}", path.display()))?;
    BufWriter::new(file).write_all(bytes).while_doing("writing an object")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn leb(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
