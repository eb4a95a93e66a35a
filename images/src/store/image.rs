// SPDX-License-Identifier: Apache-2.0
//! Images: the objects whose presence means complete.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backend::checked;
use super::location::{check_name, plain_time};
use super::seal::Kind;
use super::{Id, ImageName, MOST_METADATA, Store, document, parse_id, policy};
use crate::manifest::Manifest;
use crate::merkle::Hash;
use crate::{Error, ErrorKind, Result, ResultExt};

/// Version of an image's object.
const VERSION: u32 = 1;
/// Largest disk of an image, 1 PiB: a hostile tree over more could keep a reader busy for ever.
pub(super) const LARGEST: u64 = 1 << 50;

/// What stands in `images/NAME/TIME.json`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ImageRecord {
    /// Always "unmoor-image".
    pub format: String,
    /// 1.
    pub version: u32,
    /// What a reader has to know beyond the version; an unknown word is a refusal.
    pub features: Vec<String>,
    /// What a list shows.
    pub summary: Summary,
    /// One element a disk, as in the manifest.
    pub trees: Vec<DiskTree>,
    /// The packs that hold its chunks, by the index object that lists them. Where they are no longer so, the store's
    /// indexes tell.
    pub packs: Vec<IndexedPacks>,
    /// What was captured. Its `map` records are empty: the tree takes their place.
    pub manifest: Manifest,
}

/// What a list shows of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// The machine's name.
    pub machine: String,
    /// When its capture began: RFC 3339, UTC.
    pub created: String,
    /// Bytes of all disks.
    pub size_bytes: u64,
    /// Bytes of data on them.
    pub data_bytes: u64,
    /// What the capture brought.
    pub added: Added,
}

/// What a capture did, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Added {
    /// Read from the disks.
    pub read_bytes: u64,
    /// Of them, in chunks that the store did not have.
    pub new_bytes: u64,
    /// Written to packs for them, and for the disks' trees.
    pub stored_bytes: u64,
    /// Packs written.
    pub packs: u64,
}

/// The tree of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskTree {
    /// Bytes of the disk.
    pub size: u64,
    /// Hash of the root's bytes, hex.
    pub root: String,
}

/// Packs that an index object lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IndexedPacks {
    /// The index object, hex; absent for packs that none lists.
    pub index: Option<String>,
    /// The packs, hex.
    pub packs: Vec<String>,
}

/// The part that a list reads.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
    features: Vec<String>,
    summary: Summary,
}

impl ImageRecord {
    pub(super) fn new(
        summary: Summary,
        trees: Vec<DiskTree>,
        packs: Vec<IndexedPacks>,
        manifest: Manifest,
    ) -> Self {
        let format = "unmoor-image".to_owned();
        Self { format, version: VERSION, features: Vec::new(), summary, trees, packs, manifest }
    }

    /// The hash of the root of disk number `disk`.
    pub fn root(&self, disk: usize) -> Result<Hash> {
        let tree = self.trees.get(disk).ok_or_else(|| broken("a disk has no tree"))?;
        parse_id(&tree.root)
    }

    /// The packs, each with the index object that lists it.
    pub fn pack_ids(&self) -> Result<Vec<(Option<Id>, Vec<Id>)>> {
        self.packs
            .iter()
            .map(|list| {
                let index = list.index.as_deref().map(parse_id).transpose()?;
                Ok((index, list.packs.iter().map(|pack| parse_id(pack)).collect::<Result<_>>()?))
            })
            .collect()
    }

    pub(super) fn check(&self, name: &str) -> Result<()> {
        check_head(&self.format, self.version, &self.features)?;
        check_name(&self.summary.machine).doing(|| format!("reading {name}"))?;
        let fits = self.trees.iter().zip(&self.manifest.disks).all(|(tree, disk)| tree.size == disk.size);
        if self.trees.len() != self.manifest.disks.len() || !fits {
            return Err(broken("its trees are not those of its disks"));
        }
        if self.trees.iter().any(|tree| tree.size > LARGEST) {
            return Err(broken("a disk is larger than 1 PiB"));
        }
        Ok(())
    }
}

fn broken(because: &'static str) -> Error {
    Error::malformed("reading an image", because)
}

fn check_head(format: &str, version: u32, features: &[String]) -> Result<()> {
    const DOING: &str = "reading an image";
    if format != "unmoor-image" {
        return Err(Error::malformed(DOING, format!("its format is {format:.80?}")));
    }
    if version != VERSION {
        return Err(Error::unsupported(
            DOING,
            format!("it is of version {version}, this unmoor reads {VERSION}"),
        ));
    }
    match features.first() {
        None => Ok(()),
        Some(feature) => Err(Error::unsupported(
            DOING,
            format!("it needs {feature:.80?}, which this unmoor does not know: use a newer one"),
        )),
    }
}

/// An image in a store's listing. The folder is the machine's name, but for an encrypted store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    /// Below `images/`.
    pub folder: String,
    /// `20261124T215000Z`
    pub time: String,
}

impl ImageRef {
    /// The object's name.
    pub fn object(&self) -> String {
        format!("images/{}/{}.json", self.folder, self.time)
    }

    fn of(object: &str) -> Option<Self> {
        let (folder, file) = object.strip_prefix("images/")?.split_once('/')?;
        let time = file.strip_suffix(".json")?;
        plain_time(time).ok()?;
        Some(Self { folder: folder.to_owned(), time: time.to_owned() })
    }
}

impl Store {
    /// All images, by folder and time.
    pub fn images(&self) -> Result<Vec<ImageRef>> {
        self.images_below("images/")
    }

    /// The images of one machine, the oldest first.
    pub fn images_of(&self, machine: &str) -> Result<Vec<ImageRef>> {
        check_name(machine)?;
        self.images_below(&format!("images/{}/", self.seal().folder(machine)))
    }

    fn images_below(&self, prefix: &str) -> Result<Vec<ImageRef>> {
        let mut images = Vec::new();
        self.backend()
            .list(prefix, &mut |listed| {
                images.extend(ImageRef::of(&listed.name));
                Ok(())
            })
            .doing(|| "listing images")?;
        images.sort_by(|one, two| {
            let by_time = || policy::order(&one.time).cmp(&policy::order(&two.time));
            one.folder.cmp(&two.folder).then_with(by_time)
        });
        images.dedup();
        Ok(images)
    }

    /// The image that `name` means.
    ///
    /// # Errors
    ///
    /// `Refused` where there is none, or where the beginning of a time means several.
    pub fn find(&self, name: &ImageName) -> Result<ImageRef> {
        let doing = || format!("looking for the image {name}");
        let images = self.images_of(&name.machine)?;
        let Some(latest) = images.last() else {
            return Err(Error::refused(doing(), format!("there is none in {}", self.backend().describe())));
        };
        let Some(time) = &name.time else { return Ok(latest.clone()) };
        if let Some(exact) = images.iter().find(|image| image.time == *time) {
            return Ok(exact.clone());
        }
        let found: Vec<&ImageRef> =
            images.iter().filter(|image| image.time.starts_with(time.as_str())).collect();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(Error::refused(
                doing(),
                format!("there is none of that time; the latest is {}", latest.time),
            )),
            [first, .., last] => {
                let because =
                    format!("{} images begin so, from {} to {}", found.len(), first.time, last.time);
                Err(Error::refused(doing(), because))
            }
        }
    }

    /// Reads an image's object.
    pub fn record(&self, image: &ImageRef) -> Result<ImageRecord> {
        let object = image.object();
        let record: ImageRecord =
            checked(|| document::decode(&self.object(&object)?, self.seal(), Kind::Image, &object))?;
        record.check(&object)?;
        if self.seal().folder(&record.summary.machine) != image.folder {
            return Err(Error::malformed(format!("reading {object}"), "it is the image of another machine"));
        }
        Ok(record)
    }

    /// What a list shows of an image, read faster than all of it.
    pub fn summary(&self, image: &ImageRef) -> Result<Summary> {
        let object = image.object();
        let head: Head =
            checked(|| document::decode(&self.object(&object)?, self.seal(), Kind::Image, &object))?;
        check_head(&head.format, head.version, &head.features)?;
        Ok(head.summary)
    }

    /// The same for many, several at a time.
    pub fn summaries(&self, images: &[ImageRef]) -> Vec<Result<Summary>> {
        let read = |image: &ImageRef| Ok(self.summary(image));
        super::pool::parallel(images, super::pool::IN_FLIGHT, read).unwrap_or_default()
    }

    fn object(&self, object: &str) -> Result<Vec<u8>> {
        self.backend().get(object, MOST_METADATA)?.ok_or_else(|| {
            Error::new(ErrorKind::Io, format!("reading {object}")).because("it is not there any more")
        })
    }

    /// Writes an image under its time, or one behind it where that is taken. The commit point.
    pub(super) fn commit(&self, record: &ImageRecord) -> Result<ImageRef> {
        record.check("a new image")?;
        let folder = self.seal().folder(&record.summary.machine);
        let time = plain_time(&record.summary.created)?;
        for count in 1..1000 {
            let time = if count == 1 { time.clone() } else { format!("{time}-{count}") };
            let image = ImageRef { folder: folder.clone(), time };
            let object = image.object();
            let bytes = document::encode(record, self.seal(), Kind::Image, &object)?;
            if self.backend().create(&object, &bytes)? {
                self.backend().barrier()?;
                return Ok(image);
            }
        }
        Err(Error::refused("naming the image", "a thousand images of this second are there already"))
    }
}
