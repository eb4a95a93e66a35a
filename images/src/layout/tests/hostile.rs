// SPDX-License-Identifier: Apache-2.0
//! Damaged volume metadata: the answer covers the truth, or is everything; it never panics.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::volume::lvm::tests::Disk;
use crate::volume::{lvm, md};

const MIB: u64 = 1 << 20;

/// A disk whose first MiB is changed.
struct Damaged<'a> {
    head: Vec<u8>,
    disk: &'a Disk,
}

impl<'a> Damaged<'a> {
    fn new(disk: &'a Disk) -> Self {
        Self { head: disk.0[..MIB as usize].to_vec(), disk }
    }
}

impl BlockSource for Damaged<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.disk.read_at(buf, offset)?;
        if offset < MIB {
            let head = &self.head[offset as usize..];
            let len = head.len().min(buf.len());
            buf[..len].copy_from_slice(&head[..len]);
        }
        Ok(())
    }
}

static VOLUME: LazyLock<Disk> = LazyLock::new(physical_volume);
static MEMBER: LazyLock<Disk> = LazyLock::new(member);

/// LVM2's CRC, a bit at a time.
fn crc(data: &[u8]) -> u32 {
    data.iter().fold(0xf597_a6cf, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// A 64 MiB physical volume of one group with one linear volume at extents 10 to 29 of 1 MiB, whose text wraps round
/// the end of the metadata area.
fn physical_volume() -> Disk {
    let mut disk = Disk(vec![0xa5; 64 << 20]);
    let uuid = "0123456789abcdefghijklmnopqrstuv";
    let dashed = "012345-6789-abcd-efgh-ijkl-mnop-qrstuv";
    let text = format!(
        "vg {{\nid = \"g\"\nseqno = 3\nformat = \"lvm2\"\nstatus = [\"RESIZEABLE\", \"READ\"]\nflags = []\nextent_size = 2048\n\
         physical_volumes {{\npv0 {{\nid = \"{dashed}\"\nstatus = [\"ALLOCATABLE\"]\nflags = []\npe_start = 2048\npe_count = 63\n}}\n}}\n\
         logical_volumes {{\nroot {{\nid = \"l\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\nflags = []\nsegment_count = 1\n\
         segment1 {{\nstart_extent = 0\nextent_count = 20\ntype = \"striped\"\nstripe_count = 1\nstripes = [\n\"pv0\", 10\n]\n}}\n}}\n}}\n}}\n\
         # end\ncontents = \"Text Format Volume Group\"\nversion = 1\n\0"
    );
    let mut put = |at: usize, bytes: &[u8]| disk.0[at..at + bytes.len()].copy_from_slice(bytes);
    let (area, area_len, wrap) = (4096usize, MIB as usize - 4096, 200);
    put(area + area_len - wrap, &text.as_bytes()[..wrap]);
    put(area + 512, &text.as_bytes()[wrap..]);
    let mut header = vec![0; 512];
    header[4..20].copy_from_slice(b" LVM2 x[5A%r0N*>");
    header[20] = 1;
    header[24..32].copy_from_slice(&(area as u64).to_le_bytes());
    header[32..40].copy_from_slice(&(area_len as u64).to_le_bytes());
    header[40..48].copy_from_slice(&((area_len - wrap) as u64).to_le_bytes());
    header[48..56].copy_from_slice(&(text.len() as u64).to_le_bytes());
    header[56..60].copy_from_slice(&crc(text.as_bytes()).to_le_bytes());
    let sum = crc(&header[4..]).to_le_bytes();
    header[..4].copy_from_slice(&sum);
    put(area, &header);
    let mut label = vec![0; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[8] = 1;
    label[20] = 32;
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].copy_from_slice(uuid.as_bytes());
    label[64..72].copy_from_slice(&(64 * MIB).to_le_bytes());
    label[72..80].copy_from_slice(&MIB.to_le_bytes());
    label[104..112].copy_from_slice(&(area as u64).to_le_bytes());
    label[112..120].copy_from_slice(&(area_len as u64).to_le_bytes());
    let sum = crc(&label[20..]).to_le_bytes();
    label[16..20].copy_from_slice(&sum);
    put(512, &label);
    put((11 * MIB + STUB_AT) as usize, &stub(20 * MIB, &[(5 * MIB, MIB)]));
    disk
}

/// A 32 MiB member of a RAID1 with 1.2 metadata and its content at 1 MiB.
fn member() -> Disk {
    let mut disk = Disk(vec![0xa5; 32 << 20]);
    let mut block = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0xa92b_4efcu32.to_le_bytes());
    put(4, &1u32.to_le_bytes());
    put(16, b"sixteen byte uid");
    put(72, &1u32.to_le_bytes());
    put(80, &(31u64 * 2048).to_le_bytes());
    put(92, &2u32.to_le_bytes());
    put(128, &2048u64.to_le_bytes());
    put(136, &(31u64 * 2048).to_le_bytes());
    put(144, &8u64.to_le_bytes());
    put(220, &2u32.to_le_bytes());
    put(258, &1u16.to_le_bytes());
    let sum: u64 =
        block[..260].chunks(4).map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap()))).sum();
    block[216..220].copy_from_slice(&((sum as u32).wrapping_add((sum >> 32) as u32)).to_le_bytes());
    disk.0[4096..8192].copy_from_slice(&block);
    let at = (MIB + STUB_AT) as usize;
    let header = stub(31 * MIB, &[(20 * MIB, MIB)]);
    disk.0[at..at + header.len()].copy_from_slice(&header);
    disk
}

/// True if the layout keeps what must be kept.
fn covers(disk: &dyn BlockSource, must: std::ops::Range<u64>) -> bool {
    let readers = Readers { table: no_table, ..STUB };
    let layout = analyze(&[disk], &Options::default(), readers).unwrap().pop().unwrap();
    in_state(&layout, State::Data).covers(must)
}

const ROOT: std::ops::Range<u64> = 16 * MIB..17 * MIB;
const CONTENT: std::ops::Range<u64> = 21 * MIB..22 * MIB;

#[test]
fn the_disks_are_good_before_they_are_damaged() {
    let disk = physical_volume();
    let layout =
        analyze(&[&disk], &Options::default(), Readers { table: no_table, ..STUB }).unwrap().pop().unwrap();
    assert!(layout.warnings.is_empty(), "{:?}", layout.warnings);
    assert_eq!(in_state(&layout, State::Data).ranges(), [0..MIB, 11 * MIB..11 * MIB + 4096, ROOT]);
    let disk = member();
    let layout =
        analyze(&[&disk], &Options::default(), Readers { table: no_table, ..STUB }).unwrap().pop().unwrap();
    assert!(layout.warnings.is_empty(), "{:?}", layout.warnings);
    assert_eq!(in_state(&layout, State::Data).ranges(), [0..MIB + 4096, CONTENT]);
}

/// Makes the checksums fit whatever the damage was.
fn repair(head: &mut [u8]) {
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap()) as usize;
    let (offset, size) = (number(4096 + 40), number(4096 + 48));
    let area = &head[4096..];
    if offset < area.len() && size < area.len() - 512 {
        let first = size.min(area.len() - offset);
        let text = [&area[offset..offset + first], &area[512..512 + size - first]].concat();
        head[4096 + 56..][..4].copy_from_slice(&crc(&text).to_le_bytes());
    }
    let sum = crc(&head[4100..4608]).to_le_bytes();
    head[4096..4100].copy_from_slice(&sum);
    let sum = crc(&head[532..1024]).to_le_bytes();
    head[528..532].copy_from_slice(&sum);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn damaged_metadata_covers_the_truth_or_everything(
        flips in prop::collection::vec((0usize..4, any::<prop::sample::Index>(), 1u8..), 1..4)
    ) {
        let mut volume = Damaged::new(&VOLUME);
        let mut array = Damaged::new(&MEMBER);
        for (area, index, mask) in flips {
            // Label, area header, both parts of the text.
            let (start, len) = [(512, 160), (4096, 70), ((1 << 20) - 200, 200), (4608, 800)][area];
            volume.head[start + index.index(len)] ^= mask;
            array.head[4096 + index.index(260)] ^= mask;
        }
        prop_assert!(covers(&volume, ROOT));
        prop_assert!(covers(&array, CONTENT));
    }

    #[test]
    fn metadata_that_lies_behind_good_checksums_never_panics(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut volume = Damaged::new(&VOLUME);
        for (index, byte) in flips {
            let places = [(512, 160), (4096, 70), ((1 << 20) - 200, 200), (4608, 800)];
            let mut at = index.index(places.iter().map(|(_, len)| len).sum());
            for (start, len) in places {
                if at < len {
                    volume.head[start + at] = byte;
                    break;
                }
                at -= len;
            }
        }
        repair(&mut volume.head);
        let _ = lvm::probe(&volume);
        let layouts = analyze(&[&volume, &volume], &Options::default(), Readers { table: no_table, ..STUB });
        prop_assert!(layouts.is_ok());
    }

    #[test]
    fn random_bytes_never_make_a_reader_panic(seed in prop::collection::vec(any::<u8>(), 256..4096), v0 in any::<bool>()) {
        let mut disk = Disk(vec![0; 1 << 20]);
        let at = if v0 { (1 << 20) - 0x1_0000 } else { 4096 };
        disk.0[at..at + seed.len()].copy_from_slice(&seed);
        disk.0[at..at + 4].copy_from_slice(&0xa92b_4efcu32.to_le_bytes());
        let _ = md::probe(&disk);
        prop_assert!(analyze(&[&disk], &Options::default(), STUB).is_ok());
    }
}
