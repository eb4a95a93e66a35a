// SPDX-License-Identifier: Apache-2.0
//! Other UUIDs for a volume group, its physical and its logical volumes, as `vgimportclone` gives them; names stay.
//!
//! The text is edited where it stands as `id = "..."`, gets the next sequence number, and goes behind the old one in every metadata
//! area; then each label.

use crate::adapt::Patched;
use crate::identity::put;
use crate::parse::{Bytes, read_vec};
use crate::{BlockSource, Error, Result};

use super::group::VolumeGroup;
use super::grow::{next_copies, number_after};
use super::pv::{self, Area, PhysicalVolume, SECTOR, Stored, crc};
use super::text::{self, Section};

/// Characters of a UUID with its dashes.
const LONG: usize = 38;

/// What to write for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// Number of the physical volume as given, first byte on it, bytes. In this order: texts, headers, labels.
    pub writes: Vec<(usize, u64, Vec<u8>)>,
}

fn refused(because: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::refused("giving a volume group other UUIDs", because)
}

/// A group on all its physical volumes.
struct Group {
    found: Vec<PhysicalVolume>,
    /// Number of the volume, first byte and length of the area, text.
    areas: Vec<(usize, u64, u64, Stored)>,
    /// `None` for a physical volume of no group.
    text: Option<String>,
}

impl Group {
    fn read(volumes: &[&dyn BlockSource]) -> Result<Self> {
        let mut group = Self { found: Vec::new(), areas: Vec::new(), text: None };
        for (number, volume) in volumes.iter().enumerate() {
            let physical = pv::probe(volume)?.ok_or_else(|| refused("there is no LVM2 physical volume"))?;
            if let Some(doubt) = &physical.doubt {
                return Err(refused(doubt.clone()));
            }
            for &(start, len) in &physical.metadata {
                match pv::area(volume, start, len)? {
                    Area::Text(stored) => group.areas.push((number, start, len, stored)),
                    Area::Empty => {}
                    Area::Ignored => {
                        return Err(refused(
                            "it has metadata areas that are kept but not used (vgchange --vgmetadatacopies all)",
                        ));
                    }
                }
            }
            group.found.push(physical);
        }
        group.text = group.areas.first().map(|(.., stored)| stored.text.clone());
        if group.areas.iter().any(|(.., stored)| Some(&stored.text) != group.text.as_ref()) {
            return Err(refused("the copies of its metadata differ"));
        }
        if let Some(text) = &group.text {
            group.check(&VolumeGroup::parse(text)?)?;
        } else if group.found.len() != 1 {
            return Err(refused("it has no metadata"));
        }
        Ok(group)
    }

    fn check(&self, group: &VolumeGroup) -> Result<()> {
        if group.exported {
            return Err(refused("it is exported"));
        }
        let there = |uuid: &String| self.found.iter().any(|physical| physical.uuid == *uuid);
        if group.volumes.len() != self.found.len() || !group.volumes.iter().all(|member| there(&member.uuid))
        {
            return Err(refused("it has physical volumes that are not on these disks"));
        }
        Ok(())
    }
}

/// The UUIDs of the group on `volumes`, which are all of it: of its physical volumes, the group, its logical volumes.
///
/// # Errors
///
/// `Refused` where the group is not whole or not in order.
pub fn ids(volumes: &[&dyn BlockSource]) -> Result<Vec<String>> {
    let group = Group::read(volumes)?;
    let mut ids: Vec<String> = group.found.iter().map(|physical| physical.uuid.clone()).collect();
    if let Some(text) = &group.text {
        collect(&text::parse(text)?, &mut ids);
    }
    Ok(ids)
}

/// Sections nest as deep as the parser allows.
fn collect(section: &Section<'_>, ids: &mut Vec<String>) {
    if let Ok(id) = section.text("id")
        && id.len() == LONG
        && !ids.iter().any(|known| known == id)
    {
        ids.push(id.to_owned());
    }
    section.sections().for_each(|(_, inner)| collect(inner, ids));
}

/// Plans other UUIDs for the group on `volumes`: each old one, and the new one of the same form.
///
/// # Errors
///
/// `Refused` where the group is not whole, not in order, or has no room for another copy of its metadata.
pub fn change(volumes: &[&dyn BlockSource], names: &[(String, String)]) -> Result<Renamed> {
    let is_id = |id: &str| id.len() == LONG && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !names.iter().all(|(old, new)| is_id(old) && is_id(new)) {
        return Err(refused("what it is to get are no UUIDs of LVM"));
    }
    let group = Group::read(volumes)?;
    let mut writes = match &group.text {
        Some(old) => {
            let new = edited(old, names).ok_or_else(|| refused("its metadata is not as LVM writes it"))?;
            next_copies(&group.areas, &new, || refused("there is no room for another copy of its metadata"))?
        }
        None => Vec::new(),
    };
    for (number, (volume, physical)) in volumes.iter().zip(&group.found).enumerate() {
        let Some((_, new)) = names.iter().find(|(old, _)| *old == physical.uuid) else { continue };
        let label = read_vec(volume, physical.label, SECTOR)?;
        writes.push((number, physical.label, labelled(&label, new)?));
    }
    check(volumes, &group, &writes, names)?;
    Ok(Renamed { writes })
}

/// The text with other UUIDs and the next sequence number.
fn edited(old: &str, names: &[(String, String)]) -> Option<String> {
    let root = text::parse(old).ok()?;
    let (_, group) = root.sections().find(|(_, section)| section.section("physical_volumes").is_some())?;
    let place = number_after(old, group.key("seqno")?)?;
    let next = group.number("seqno").ok()?.checked_add(1)?;
    let mut new = old.to_owned();
    new.replace_range(place, &next.to_string());
    for (from, to) in names {
        new = new.replace(&format!("\"{from}\""), &format!("\"{to}\""));
    }
    Some(new)
}

/// A label whose physical volume has the UUID `new`.
fn labelled(old: &[u8], new: &str) -> Result<Vec<u8>> {
    let mut label = old.to_vec();
    let at = Bytes::new(old, "LVM label").u32_le(20)? as usize;
    let plain: String = new.chars().filter(|c| *c != '-').collect();
    put(&mut label, at, plain.as_bytes());
    let sum = crc(&[Bytes::new(&label, "LVM label").slice(20, SECTOR - 20)?]);
    put(&mut label, 16, &sum.to_le_bytes());
    Ok(label)
}

/// Reads the group as it will be, and holds it against what was wanted.
fn check(
    volumes: &[&dyn BlockSource],
    before: &Group,
    writes: &[(usize, u64, Vec<u8>)],
    names: &[(String, String)],
) -> Result<()> {
    let wrong = || Error::malformed("giving a volume group other UUIDs", "the result does not read as meant");
    let patches: Vec<Vec<(u64, Vec<u8>)>> = (0..volumes.len())
        .map(|number| {
            let of_it = writes.iter().filter(|(of, ..)| *of == number);
            of_it.map(|(_, at, bytes)| (*at, bytes.clone())).collect()
        })
        .collect();
    let patched: Vec<Patched<'_, _>> =
        volumes.iter().zip(&patches).map(|(volume, patches)| Patched::new(*volume, patches)).collect();
    let patched: Vec<&dyn BlockSource> = patched.iter().map(|volume| volume as _).collect();
    let after = Group::read(&patched)?;
    let named =
        |id: &str| names.iter().find(|(old, _)| old == id).map_or(id.to_owned(), |(_, new)| new.clone());
    let same = before.found.iter().zip(&after.found).all(|(old, new)| named(&old.uuid) == new.uuid);
    let groups = |group: &Group| group.text.as_deref().map(VolumeGroup::parse).transpose();
    let as_meant = match (groups(before)?, groups(&after)?) {
        (None, None) => true,
        (Some(old), Some(new)) => {
            let ids = |group: &VolumeGroup, map: &dyn Fn(&str) -> String| -> Vec<String> {
                let members = group.volumes.iter().map(|member| map(&member.uuid));
                members.chain(group.logical.iter().map(|logical| map(&logical.id))).collect()
            };
            new.id == named(&old.id)
                && new.name == old.name
                && new.seqno == old.seqno + 1
                && ids(&new, &|id| id.to_owned()) == ids(&old, &named)
        }
        _ => false,
    };
    if same && as_meant { Ok(()) } else { Err(wrong()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::layout::tests::uml;
    use crate::volume::lvm::tests::Disk;

    const NAMES: [&str; 2] = ["one", "two"];

    /// Another of the same form: digits and letters each one further.
    fn next(id: &str) -> String {
        id.chars()
            .map(|c| match c {
                '-' => '-',
                'z' => 'a',
                'Z' => 'A',
                '9' => '0',
                c => char::from_u32(c as u32 + 1).unwrap(),
            })
            .collect()
    }

    #[test]
    fn a_group_is_lvms_own_by_its_new_uuids_with_all_that_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        for name in NAMES {
            std::fs::File::create(folder.path().join(name)).unwrap().set_len(64 << 20).unwrap();
        }
        uml::run(
            folder.path(),
            "attach one two\nvm pvcreate -qq $one $two\nvm vgcreate -qq group-x $one $two\n\
             vm lvcreate -qq -an -Zn -L 20M -n root group-x\nvm lvcreate -qq -an -Zn -i 2 -L 16M -n striped group-x\n\
             vm vgchange -qq -ay group-x\nvm vgmknodes group-x\n\
             for lv in root striped; do echo content of $lv | dd of=/dev/mapper/group--x-$lv bs=4096 conv=sync,fsync; done\n\
             vm vgchange -qq -an group-x\n",
        );
        let mut disks: Vec<Disk> =
            NAMES.iter().map(|name| Disk(std::fs::read(folder.path().join(name)).unwrap())).collect();
        let sources = |disks: &[Disk]| -> Vec<Disk> { disks.to_vec() };
        let before = sources(&disks);
        let volumes: Vec<&dyn BlockSource> = before.iter().map(|disk| disk as _).collect();
        let old = ids(&volumes).unwrap();
        assert_eq!(old.len(), 5, "two physical volumes, the group, two logical volumes: {old:?}");
        let names: Vec<_> = old.iter().map(|id| (id.clone(), next(id))).collect();
        for (number, at, bytes) in change(&volumes, &names).unwrap().writes {
            disks[number].0[at as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        for (name, disk) in NAMES.iter().zip(&disks) {
            std::fs::write(folder.path().join(name), &disk.0).unwrap();
        }
        let log = uml::run(
            folder.path(),
            "attach one two\nvm pvck $one\nvm pvck $two\nvm vgck group-x\nvm pvs --noheadings -o pv_uuid\nvm vgs --noheadings -o vg_uuid,vg_name\n\
             vm lvs --noheadings -o lv_uuid,lv_name\nvm vgchange -qq -ay group-x\nvm vgmknodes group-x\n\
             for lv in root striped; do head -c 40 /dev/mapper/group--x-$lv | grep \"content of $lv\"; done\n\
             vm lvextend -L +4M group-x/root\nvm vgs --noheadings -o vg_seqno\nvm vgchange -qq -an group-x\n",
        );
        for (old, new) in &names {
            assert!(log.contains(new.as_str()) && !log.contains(old.as_str()), "{old} {new}: {log}");
        }
        // That lvextend keeps no copy of the text is as the test has it configured.
        let warned = log.lines().find(|line| line.contains("WARNING") && !line.contains("NOT backed up"));
        assert!(warned.is_none() && !log.contains("rror"), "{log}");
    }

    #[test]
    fn a_group_that_is_not_whole_and_what_is_no_uuid_are_refused() {
        assert!(ids(&[&Disk(vec![0; 1 << 20])]).is_err());
        let names = [("x".to_owned(), "y\" } evil".to_owned())];
        assert!(change(&[&Disk(vec![0; 1 << 20])], &names).unwrap_err().chain().contains("no UUIDs"));
        let text =
            "vg {\nid = \"aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg\"\nseqno = 9\nphysical_volumes {\n}\n}\n";
        let new = "hhhhhh-bbbb-cccc-dddd-eeee-ffff-gggggg";
        let pairs = [("aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg".to_owned(), new.to_owned())];
        let expected = text.replace("aaaaaa", "hhhhhh").replace("seqno = 9", "seqno = 10");
        assert_eq!(edited(text, &pairs), Some(expected));
        assert_eq!(edited("seqno = 9", &pairs), None);
    }
}
