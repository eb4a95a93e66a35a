// SPDX-License-Identifier: Apache-2.0
//! A partition table with other identities: a GPT's disk GUID and those of its partitions, or an MBR's disk signature, from which
//! Linux makes the PARTUUIDs of its partitions. Places, types, names and boot code stay.

use super::gpt::{Copy, Gpt, header_checksum};
use super::{detect, rewrite};
use crate::identity::{Writes, put};
use crate::parse::{Bytes, guid_bytes, read_vec};
use crate::{BlockSource, Error, Result};

const SIGNATURE_AT: usize = 440;

/// Other identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewIdentity {
    /// GUIDs with their bytes in the order of the text: the disk's, and those of partitions by their numbers.
    #[allow(missing_docs)]
    Gpt { disk: [u8; 16], partitions: Vec<(u32, [u8; 16])> },
    /// The disk signature.
    Mbr(u32),
}

fn refused(because: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::refused("giving a partition table other identities", because)
}

/// What to write so that the table of `source` has the identities `new`.
///
/// # Errors
///
/// `Refused` where there is no table of that kind, or one copy of it is damaged; `Malformed`.
pub fn change(source: &dyn BlockSource, new: &NewIdentity) -> Result<Writes> {
    match (detect::detect(source)?, new) {
        (detect::Found::Gpt(table), NewIdentity::Gpt { disk, partitions }) => gpt(&table, disk, partitions),
        (detect::Found::Mbr(_), NewIdentity::Mbr(signature)) => {
            if *signature == 0 {
                return Err(refused("a signature of zeros is none"));
            }
            let mut sector = read_vec(source, 0, super::mbr::SECTOR)?;
            put(&mut sector, SIGNATURE_AT, &signature.to_le_bytes());
            Ok(vec![(0, sector)])
        }
        _ => Err(refused("there is no such table")),
    }
}

fn gpt(table: &Gpt, disk: &[u8; 16], partitions: &[(u32, [u8; 16])]) -> Result<Writes> {
    let Some(backup) = table.backup.as_ref().filter(|_| !table.from_backup) else {
        return Err(refused("one of its two copies is damaged: repair it with sgdisk -e"));
    };
    let mut writes = copy(&table.used, table.sector, disk, partitions)?;
    writes.extend(copy(backup, table.sector, disk, partitions)?);
    // The backup first, so that one whole copy of some state is there at any time.
    writes.reverse();
    Ok(writes)
}

/// Header and entries of one copy.
fn copy(copy: &Copy, sector: u64, disk: &[u8; 16], partitions: &[(u32, [u8; 16])]) -> Result<Writes> {
    let mut entries = copy.entries.clone();
    for (number, guid) in partitions {
        let index = (*number as usize).checked_sub(1).filter(|index| *index < copy.count);
        let at = index.map(|index| index * copy.entry_size);
        let at = at.ok_or_else(|| refused(format!("there is no partition {number}")))?;
        rewrite::put(&mut entries, at + 16, &guid_bytes(guid))?;
    }
    let used = copy.count.saturating_mul(copy.entry_size);
    let sum = crc32fast::hash(Bytes::new(&entries, "GPT entries").slice(0, used)?);
    let mut header = copy.raw.clone();
    put(&mut header, 56, &guid_bytes(disk));
    put(&mut header, 88, &sum.to_le_bytes());
    let own = header_checksum(Bytes::new(&header, "GPT header").slice(0, copy.header_size)?);
    put(&mut header, 16, &own.to_le_bytes());
    let at = |lba: u64| {
        lba.checked_mul(sector)
            .ok_or_else(|| Error::malformed("writing a GPT", "an address is beyond any disk"))
    };
    Ok(vec![(at(copy.lba)?, header), (at(copy.entries_lba)?, entries)])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::adapt::{Memory, Patched};
    use crate::parse::uuid_text;
    use crate::partition::read;

    const DISK: [u8; 16] = [0x11; 16];

    /// A disk with a table that sfdisk makes of `script`.
    fn disk(script: &str) -> (tempfile::NamedTempFile, Memory) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let mut sfdisk = Command::new("/usr/sbin/sfdisk")
            .args(["-q", file.path().to_str().unwrap()])
            .stdin(Stdio::piped())
            .spawn()
            .expect("this test needs sfdisk, of the Debian package fdisk");
        sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(sfdisk.wait().unwrap().success());
        let bytes = std::fs::read(file.path()).unwrap();
        (file, Memory::new(bytes))
    }

    fn dump(file: &tempfile::NamedTempFile, changed: &dyn BlockSource) -> String {
        let mut bytes = vec![0; changed.size() as usize];
        changed.read_at(&mut bytes, 0).unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let verified = Command::new("/usr/sbin/sfdisk").args(["-V", "-q"]).arg(file.path()).output().unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        let output = Command::new("/usr/sbin/sfdisk").arg("-d").arg(file.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_gpt_has_other_guids_in_both_copies_and_all_else_as_it_was() {
        let (file, source) = disk(
            "label: gpt\nsize=8M, type=U, name=esp\nsize=8M, name=\"root x\"\nsize=8M, type=S, attrs=LegacyBIOSBootable\n",
        );
        let before = dump(&file, &source);
        let partitions = vec![(1, [0x22; 16]), (3, [0x33; 16])];
        let old = read(&source).unwrap();
        let writes = change(&source, &NewIdentity::Gpt { disk: DISK, partitions }).unwrap();
        let after = Patched::new(source, &writes);
        let table = read(&after).unwrap();
        assert_eq!(table.disk_id, Some(uuid_text(&DISK)));
        assert!(table.warnings.is_empty(), "{:?}", table.warnings);
        let said = dump(&file, &after);
        let mut expected = before;
        for (from, to) in [
            (old.disk_id.as_ref(), uuid_text(&DISK)),
            (old.partitions[0].partuuid.as_ref(), uuid_text(&[0x22; 16])),
            (old.partitions[2].partuuid.as_ref(), uuid_text(&[0x33; 16])),
        ] {
            expected = expected.replace(&from.unwrap().to_uppercase(), &to.to_uppercase());
        }
        assert_eq!(said, expected);
        // gdisk holds the two copies against each other.
        let checked = Command::new("/usr/sbin/sgdisk").arg("-v").arg(file.path()).output();
        let checked = checked.expect("this test needs sgdisk, of the Debian package gdisk");
        assert!(String::from_utf8_lossy(&checked.stdout).contains("No problems found"), "{checked:?}");
    }

    #[test]
    fn a_table_with_a_damaged_copy_or_of_another_kind_is_refused() {
        let (_, source) = disk("label: gpt\nsize=8M\n");
        let new = NewIdentity::Gpt { disk: DISK, partitions: Vec::new() };
        let last = source.size() - 512;
        let damage = [(last, vec![0; 512])];
        assert!(
            change(&Patched::new(source.clone(), &damage), &new).unwrap_err().chain().contains("sgdisk -e")
        );
        let damage = [(512, vec![0; 512])];
        assert!(change(&Patched::new(source.clone(), &damage), &new).is_err());
        assert!(change(&source, &NewIdentity::Mbr(7)).is_err());
        let unknown = NewIdentity::Gpt { disk: DISK, partitions: vec![(129, DISK)] };
        assert!(change(&source, &unknown).unwrap_err().chain().contains("no partition 129"));
    }

    #[test]
    fn an_mbr_has_another_signature_and_its_partitions_names_by_it() {
        let (file, source) =
            disk("label: dos\n/dev/x1 : size=8M, bootable\n/dev/x2 : type=5, size=30M\n/dev/x5 : size=8M\n");
        let before = dump(&file, &source);
        let old = read(&source).unwrap().disk_id.unwrap();
        let writes = change(&source, &NewIdentity::Mbr(0x1234_abcd)).unwrap();
        let after = Patched::new(source, &writes);
        assert_eq!(dump(&file, &after), before.replace(&format!("0x{old}"), "0x1234abcd"));
        let ids: Vec<_> =
            read(&after).unwrap().partitions.into_iter().filter_map(|one| one.partuuid).collect();
        assert_eq!(ids, ["1234abcd-01", "1234abcd-02", "1234abcd-05"]);
    }
}
