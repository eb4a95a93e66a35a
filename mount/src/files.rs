// SPDX-License-Identifier: Apache-2.0
//! The files of one filesystem, with numbers that the kernel can hold.

use std::collections::HashMap;
use std::sync::Arc;

use unmoor_images::Result;
use unmoor_images::filesystem::files::{Id, Kind, Node, Status, Volume};

/// Names of one directory that are shown.
const MOST_NAMES: usize = 2_000_000;

/// A name in a directory: itself, its file's number, what that is.
pub(crate) type Name = (Vec<u8>, u64, Kind);

/// One filesystem.
pub(crate) struct Tree {
    volume: Box<dyn Volume>,
    numbers: HashMap<Id, u64>,
    ids: Vec<Id>,
    /// The directory that was listed last: the kernel asks for it piece by piece.
    listed: Option<(u64, Arc<Vec<Name>>)>,
}

impl Tree {
    /// The root, or where there are several the one that holds all others, is number 0.
    pub(crate) fn new(mut volume: Box<dyn Volume>) -> Self {
        let root = volume.other_roots().ok().and_then(|roots| roots.first().map(|(_, id)| *id));
        let root = root.unwrap_or_else(|| volume.root());
        Self { volume, numbers: HashMap::from([(root, 0)]), ids: vec![root], listed: None }
    }

    fn id(&self, number: u64) -> Option<Id> {
        self.ids.get(usize::try_from(number).ok()?).copied()
    }

    fn number(&mut self, id: Id) -> u64 {
        let next = self.ids.len() as u64;
        let number = *self.numbers.entry(id).or_insert(next);
        if number == next {
            self.ids.push(id);
        }
        number
    }

    /// What number `number` is.
    pub(crate) fn node(&mut self, number: u64) -> Result<Option<(Node, Status)>> {
        let Some(id) = self.id(number) else { return Ok(None) };
        Ok(Some((self.volume.node(id)?, self.volume.status(id)?)))
    }

    /// Whatever is named `name` in directory `number`.
    pub(crate) fn find(&mut self, number: u64, name: &[u8]) -> Result<Option<u64>> {
        let names = self.names(number)?;
        let found = names.binary_search_by(|(have, _, _)| have.as_slice().cmp(name)).ok();
        let found = found.or_else(|| names.iter().position(|(have, _, _)| self.volume.same_name(name, have)));
        Ok(found.and_then(|index| names.get(index)).map(|(_, number, _)| *number))
    }

    /// The names in directory `number`, in order.
    pub(crate) fn names(&mut self, number: u64) -> Result<Arc<Vec<Name>>> {
        if let Some((_, names)) = self.listed.as_ref().filter(|(listed, _)| *listed == number) {
            return Ok(Arc::clone(names));
        }
        let Some(id) = self.id(number) else { return Ok(Arc::default()) };
        let mut found = Vec::new();
        self.volume.entries(id, &mut |name, id| {
            // No name that a directory cannot have, whatever the disk says.
            if name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0) {
                found.push((name.to_vec(), id));
            }
            found.len() < MOST_NAMES
        })?;
        found.sort();
        let mut names = Vec::with_capacity(found.len());
        for (name, id) in found {
            // What cannot be read has a name all the same.
            let kind = self.volume.node(id).map_or(Kind::Other, |node| node.kind);
            let number = self.number(id);
            names.push((name, number, kind));
        }
        let names = Arc::new(names);
        self.listed = Some((number, Arc::clone(&names)));
        Ok(names)
    }

    /// Content of a file, or where a link leads.
    pub(crate) fn read(&mut self, number: u64, offset: u64, len: usize) -> Result<Vec<u8>> {
        match self.id(number) {
            Some(id) => self.volume.read(id, offset, len),
            None => Ok(Vec::new()),
        }
    }
}
