// SPDX-License-Identifier: Apache-2.0
//! Every parser of unmoor as a function of arbitrary bytes, with what must hold of its answer.
//!
//! ```text
//!   seeds/TARGET/*.zst --+--> Disks (sparse) --> damage, seal --> Target::run --> parser under budget --> checks
//!   libFuzzer's bytes ---+
//! ```
//!
//! Every input is valid: it is a machine of up to four sparse disks (see [`disk`]), or for files one "disk" a file. A target
//! panics where the parser panics, where it reads or allocates beyond a bound (that is how an endless loop shows, without
//! a clock), and where the answer breaks a rule that holds for any disk.
//!
//! Three users: `cargo test` (seeds as they are, then damaged by a fixed generator), `cargo xtask fuzz run TARGET` (the same
//! for as long as one likes), and libFuzzer through the binaries in `fuzz/libfuzzer` (coverage-guided; nightly compiler).
//!
//! To add a target: a function in `targets/`, a line in [`TARGETS`], seeds in [`recipes`], a binary in `libfuzzer/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a target reports")]

pub mod damage;
pub mod disk;
pub mod memory;
pub mod random;
pub mod recipes;
pub mod seal;
pub mod seeds;
mod targets;

use disk::Machine;

/// What a target found, for the smoke test and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// A few words: "ext4", "gpt: boot ext4 swap", "error".
    pub summary: String,
    /// Hash of the whole answer; the same input gives the same.
    pub digest: String,
    /// Reads from all disks.
    pub reads: u64,
    /// Bytes read from all disks.
    pub bytes: u64,
    /// Most memory that the parser held at a time, in bytes.
    pub memory: usize,
}

/// One parser.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: of the folder of seeds and of the binary.
    pub name: &'static str,
    parse: fn(&Machine) -> targets::Answer,
    /// Makes checksums right again, so that damage reaches what they protect.
    pub seal: fn(&mut Machine),
}

/// Most memory that a parser may hold: the agent's whole bound.
pub const MOST_MEMORY: usize = 256 << 20;

impl Target {
    /// Parses `data` and checks the answer.
    pub fn run(&self, data: &[u8]) -> Outcome {
        self.run_machine(&Machine::decode(data))
    }

    /// Parses a machine and checks the answer.
    pub fn run_machine(&self, machine: &Machine) -> Outcome {
        let (answer, memory) = memory::measure(|| (self.parse)(machine));
        assert!(memory <= MOST_MEMORY, "{}: held {memory} bytes", self.name);
        let (reads, bytes) = machine.spent();
        Outcome {
            summary: answer.summary,
            digest: blake3::hash(answer.details.as_bytes()).to_hex().to_string(),
            reads,
            bytes,
            memory,
        }
    }

    /// By name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }
}

/// Damages the input `data[..size]` of a target in place; returns its new length, at most `max_size`. For libFuzzer.
pub fn mutate(name: &str, data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut random = random::Random::new(seed.into());
    let mut machine = Machine::decode(&data[..size]);
    damage::damage(&mut machine, &mut random);
    if let Some(target) = Target::named(name).filter(|_| !random.once_in(8)) {
        (target.seal)(&mut machine);
    }
    let encoded = machine.encode();
    if encoded.len() > max_size.min(data.len()) {
        return size;
    }
    data[..encoded.len()].copy_from_slice(&encoded);
    encoded.len()
}

macro_rules! targets {
    ($($name:ident $parse:path, $seal:path;)*) => {
        /// All of them.
        pub const TARGETS: &[Target] = &[
            $(Target { name: stringify!($name), parse: $parse, seal: $seal },)*
        ];
        $(
            #[doc = concat!("The target `", stringify!($name), "`.")]
            pub fn $name(data: &[u8]) {
                let target = Target { name: stringify!($name), parse: $parse, seal: $seal };
                target.run(data);
            }
        )*
    };
}

targets! {
    partition targets::partition::parse, seal::tables;
    ext targets::filesystem::parse, seal::filesystems;
    xfs targets::filesystem::parse, seal::filesystems;
    btrfs targets::filesystem::parse, seal::filesystems;
    ntfs targets::filesystem::parse, seal::filesystems;
    fat targets::filesystem::parse, seal::filesystems;
    exfat targets::filesystem::parse, seal::filesystems;
    swap targets::filesystem::parse, seal::nothing;
    lvm targets::volume::lvm, seal::volumes;
    md targets::volume::md, seal::volumes;
    luks targets::volume::luks, seal::nothing;
    layout targets::layout::parse, seal::everything;
    qcow2 targets::image::qcow2, seal::nothing;
    vmdk targets::image::vmdk, seal::nothing;
    vhdx targets::image::vhdx, seal::images;
    vhd targets::image::vhd, seal::images;
    vdi targets::image::vdi, seal::nothing;
    partclone targets::partclone::parse, seal::partclone;
    map targets::files::map, seal::nothing;
    manifest targets::files::manifest, seal::nothing;
    record targets::files::record, seal::record;
    initramfs targets::initramfs::archive, seal::nothing;
    modules targets::initramfs::indexes, seal::nothing;
    module targets::initramfs::object, seal::nothing;
    uki targets::initramfs::unified, seal::nothing;
    package targets::initramfs::package, seal::nothing;
    dhcp targets::initramfs::dhcp, seal::nothing;
    discover targets::remote::discover, seal::nothing;
    tftp targets::remote::tftp, seal::nothing;
    dns targets::remote::dns, seal::nothing;
    credentials targets::remote::credentials, seal::nothing;
    hardware targets::remote::hardware, seal::nothing;
    grub targets::guest::grub, seal::nothing;
    entries targets::guest::entries, seal::nothing;
    tables targets::guest::tables, seal::nothing;
    network targets::guest::network, seal::nothing;
    names targets::guest::names, seal::nothing;
    volumes targets::guest::volumes, seal::nothing;
    variables targets::guest::variables, seal::nothing;
    sections targets::guest::sections, seal::nothing;
    nbd targets::nbd::session, seal::nothing;
    overlay targets::nbd::overlay, seal::overlay;
    order targets::nbd::order, seal::order;
    pack targets::store::pack, seal::nothing;
    index targets::store::index, seal::nothing;
    tree targets::store::tree, seal::nothing;
    stored targets::store::stored, seal::nothing;
    hints targets::store::hints, seal::nothing;
    frames targets::agent::frames, seal::nothing;
    commit targets::agent::commit, seal::nothing;
}
