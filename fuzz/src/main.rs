// SPDX-License-Identifier: Apache-2.0
//! What `cargo xtask fuzz` calls: makes seeds, damages them for as long as one likes, shows what a target finds.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a person")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a program for developers")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use unmoor_fuzz::damage::damaged;
use unmoor_fuzz::{TARGETS, Target, recipes, seeds};

const USAGE: &str = "usage: unmoor-fuzz seeds [PART-OF-NAME]
       unmoor-fuzz run TARGET|all [ROUNDS [FIRST-SEED]]
       unmoor-fuzz show TARGET FILE[.zst]
       unmoor-fuzz unpack FOLDER";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |at: usize, default| words.get(at).map_or(Some(default), |text| text.parse().ok());
    match words[..] {
        ["seeds"] => print!("{}", recipes::make("").unwrap()),
        ["seeds", only] => print!("{}", recipes::make(only).unwrap()),
        ["run", name, ..] => {
            let (Some(rounds), Some(first)) = (number(2, 10_000), number(3, 1)) else {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            };
            let chosen: Vec<_> =
                TARGETS.iter().filter(|target| name == "all" || target.name == name).collect();
            let failures: u64 = chosen.iter().map(|target| run(target, rounds, first)).sum();
            return if failures == 0 && !chosen.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        ["show", name, file] => {
            let mut data = std::fs::read(file).unwrap();
            if file.ends_with(".zst") {
                data = zstd::bulk::decompress(&data, 32 << 20).unwrap();
            }
            println!("{:?}", Target::named(name).expect("no such target").run(&data));
        }
        ["unpack", folder] => {
            for seed in seeds::load(None) {
                let folder = std::path::Path::new(folder).join(&seed.target);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(&seed.name), &seed.data).unwrap();
            }
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Damages each seed of a target; what fails is written to `fuzz/failures/`. Returns how many failed.
fn run(target: &Target, rounds: u64, first: u64) -> u64 {
    let corpus = seeds::load(Some(target.name));
    let (mut failures, mut slowest, mut memory, mut reads) = (0, (0.0, 0), 0, 0);
    let folder = seeds::folder().with_file_name("failures");
    for number in first..first.saturating_add(rounds) {
        let seed = &corpus[number as usize % corpus.len()];
        let data = damaged(target, seed, number);
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| target.run(&data)));
        let seconds = started.elapsed().as_secs_f64();
        if seconds > slowest.0 {
            slowest = (seconds, number);
        }
        match outcome {
            Ok(outcome) => {
                memory = memory.max(outcome.memory);
                reads = reads.max(outcome.reads);
            }
            Err(_) => {
                failures += 1;
                let path = folder.join(format!("{}-{}-{number}.zst", target.name, seed.name));
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, zstd::bulk::compress(&data, 19).unwrap()).unwrap();
                println!("FAILED: {}", path.display());
            }
        }
    }
    println!(
        "{}: {} rounds, {failures} failed; slowest {:.3} s (round {}), most memory {} KiB, most reads {reads}",
        target.name,
        rounds,
        slowest.0,
        slowest.1,
        memory >> 10
    );
    failures
}
