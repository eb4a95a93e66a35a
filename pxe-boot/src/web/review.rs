// SPDX-License-Identifier: Apache-2.0
//! What a job would do, in words, before it is made.

use unmoor_images::manifest::DiskFacts;

use super::disks;
use super::html::Html;
use crate::api::{DiskRule, Machine, Task};
use crate::client::rules;

/// Says what will be lost, and what makes no sense as things are. False where the job would surely be refused.
pub(super) fn consequences(html: &mut Html, task: &Task, machine: Option<&Machine>) -> bool {
    let disks = machine.and_then(|machine| machine.facts.as_ref()).map(|facts| facts.disks.as_slice());
    let (rules, removable): (&[DiskRule], bool) = match task {
        Task::Restore { disks, removable, .. } => (disks, *removable),
        Task::Wipe { disks } => (disks, true),
        Task::Capture { disks, .. } => return captured(html, disks, machine),
        Task::Reboot { into } if into == "disk" => {
            html.raw("<p class='note'>The machine starts again from its own disk. Its agent ends.</p>");
            return true;
        }
        Task::Reboot { .. } => {
            html.raw("<p class='note'>The machine starts again from the network.</p>");
            return true;
        }
        Task::Inspect | Task::Idle => {
            html.raw("<p class='note'>Nothing is changed.</p>");
            return true;
        }
    };
    let only = [DiskRule("only".to_owned())];
    let rules: &[DiskRule] = if rules.is_empty() { &only } else { rules };
    let Some(disks) = disks else {
        html.raw(
            "<p class='note bad'>What is on the disks that these rules mean will be lost. Nobody knows yet which disks the machine has.</p>",
        );
        return true;
    };
    match rules::choose(rules, disks, removable) {
        Ok(chosen) => {
            lost(html, &chosen);
            true
        }
        Err(error) => {
            html.fill("<p class='note bad' role='alert'>$</p>", &[&error.chain()]);
            false
        }
    }
}

fn lost(html: &mut Html, chosen: &[&DiskFacts]) {
    html.raw("<div class='note bad'><p><strong>All that is on this disk will be lost:</strong></p><ul>");
    for disk in chosen {
        html.fill("<li>$</li>", &[&disks::words(disk)]);
    }
    html.raw("</ul></div>");
}

fn captured(html: &mut Html, disks: &[DiskRule], machine: Option<&Machine>) -> bool {
    let Some(facts) = machine.and_then(|machine| machine.facts.as_ref()) else {
        html.raw("<p class='note'>Nothing on the machine is changed.</p>");
        return true;
    };
    let chosen =
        if disks.is_empty() { rules::fixed(&facts.disks) } else { rules::choose(disks, &facts.disks, true) };
    match chosen {
        Ok(chosen) => {
            html.raw("<div class='note'><p>Nothing on the machine is changed. Read are:</p><ul>");
            for disk in chosen {
                html.fill("<li>$</li>", &[&disks::words(disk)]);
            }
            html.raw("</ul></div>");
            true
        }
        Err(error) => {
            html.fill("<p class='note bad' role='alert'>$</p>", &[&error.chain()]);
            false
        }
    }
}
