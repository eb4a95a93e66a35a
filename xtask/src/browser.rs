// SPDX-License-Identifier: Apache-2.0
//! What the web page's test drives Chromium with, from npm, in a directory of the lab.

use std::fs;
use std::process::Command;

use crate::lab;
use crate::run::{Result, While, installed, run};

/// What npm installs.
const MODULES: [&str; 2] = ["playwright-core@1.65.1", "axe-core@4.14.1"];

/// Installs it where the test looks for it, `browser` in the lab's directory. Without npm the test is skipped, and this says so.
pub(crate) fn install() -> Result {
    if !installed("npm") {
        println!("npm is not here: the web page is not tested in a browser");
        return Ok(());
    }
    let place = lab::directory()?.join("browser");
    let version = MODULES.join(" ");
    if fs::read_to_string(place.join("version")).is_ok_and(|found| found == version) {
        return Ok(());
    }
    fs::create_dir_all(&place).while_doing(format_args!("creating {}", place.display()))?;
    println!("installing {version}");
    let options = ["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"];
    run(Command::new("npm").args(options).arg(&place).args(MODULES))?;
    fs::write(place.join("version"), version).while_doing("naming the version")
}
