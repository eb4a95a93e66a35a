// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo --network`: two machines on a network of their own; one is captured, the other, bare and unlike, becomes it.

use crate::binary::static_release;
use crate::lab::guests;
use crate::lab::network::{DONE, MOVES, UP};
use crate::packages::{self, Need};
use crate::run::{Failure, Result};
use std::process::ExitCode;

/// Runs the demonstration and prints its timeline.
pub(super) fn run() -> Result<ExitCode> {
    packages::require(&[Need::Build, Need::Lab])?;
    println!("building unmoor, release and static");
    let unmoor = static_release()?;
    let row = MOVES.first().ok_or_else(|| Failure::new("there is nothing to show"))?;
    let guest = guests::guest(row.guest)?;
    println!("taking the guest {}: {} (built once: some minutes)", guest.name, guest.about);
    let built = guest.build()?;
    println!("{}", row.title());
    let timeline = row.run(&built, &unmoor)?;
    println!("\nfrom power on of the bare machine, under emulation:\n{timeline}");
    let up = timeline.at(UP);
    let (done, answers) = (timeline.at(DONE), timeline.at("its network answers"));
    if let (Some(up), Some(done), Some(answers)) = (up, done, answers) {
        let booting = up + (answers - done);
        println!(
            "{answers:.1} s until its network answers; {booting:.1} s of them ({:.0} %) are firmware, kernels and services starting, \
             which QEMU emulates",
            booting / answers * 100.0
        );
    }
    Ok(ExitCode::SUCCESS)
}
