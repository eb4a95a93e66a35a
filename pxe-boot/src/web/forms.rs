// SPDX-License-Identifier: Apache-2.0
//! What forms send, and the fields of each job's form.

use axum::http::StatusCode;
use serde::Deserialize;
use unmoor_images::manifest::DiskFacts;
use unmoor_images::{Error, ErrorKind, Result};

use super::disks;
use super::format::size;
use super::html::Html;
use super::page::Failure;
use super::session::Session;
use crate::api::{DiskRule, Selector, Task};
use crate::server::Image;

/// All that forms send; each uses some of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fields {
    pub(super) csrf: String,
    /// Not empty where a form was filled in and is to be looked over.
    pub(super) review: String,
    /// What a machine that has not appeared is told by: `mac`, `uuid`, `serial`, `name`; and its value.
    pub(super) by: String,
    pub(super) value: String,
    /// What to do with it.
    pub(super) action: String,
    pub(super) name: String,
    pub(super) image: String,
    /// One disk that was chosen, and rules that were typed, which count more.
    pub(super) disk: String,
    pub(super) rules: String,
    pub(super) profile: String,
    pub(super) firmware: String,
    pub(super) then: String,
    pub(super) removable: String,
    pub(super) into: String,
    pub(super) confirm: String,
    pub(super) code: String,
}

impl Fields {
    /// Refuses what another session's page sent.
    pub(super) fn of_session(&self, session: &Session) -> std::result::Result<(), Failure> {
        if session.wrote(&self.csrf) {
            return Ok(());
        }
        Err(Failure::said(
            StatusCode::FORBIDDEN,
            "this form is not of this session: open the page again",
            session,
        ))
    }

    /// The machine that has not appeared yet.
    pub(super) fn selector(&self) -> Result<Selector> {
        let value = Some(self.value.trim().to_owned()).filter(|value| !value.is_empty());
        let none = || Error::new(ErrorKind::Usage, "choosing a machine");
        if value.is_none() {
            return Err(none().because("say by what it is told"));
        }
        let lower = value.as_ref().map(|value| value.to_lowercase());
        match self.by.as_str() {
            "mac" => Ok(Selector { mac: lower.map(|mac| mac.replace('-', ":")), ..Selector::default() }),
            "uuid" => Ok(Selector { uuid: lower, ..Selector::default() }),
            "serial" => Ok(Selector { serial: value, ..Selector::default() }),
            "name" => Ok(Selector { name: value, ..Selector::default() }),
            _ => Err(none().because("it is told by mac, uuid, serial or name")),
        }
    }

    /// The rules for disks, in their order.
    fn rules(&self) -> Vec<DiskRule> {
        let given = if self.rules.trim().is_empty() { &self.disk } else { &self.rules };
        given
            .split([',', '\n'])
            .map(str::trim)
            .filter(|rule| !rule.is_empty())
            .map(|rule| DiskRule(rule.to_owned()))
            .collect()
    }

    /// The task that `action` and the fields mean.
    pub(super) fn task(&self, action: &str) -> Result<Task> {
        let usage = |because: &'static str| {
            Err(Error::new(ErrorKind::Usage, format!("reading a form for {action:.40?}")).because(because))
        };
        let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
        match action {
            "inspect" => Ok(Task::Inspect),
            "idle" => Ok(Task::Idle),
            "reboot" => Ok(Task::Reboot { into: or(&self.into, "disk") }),
            "capture" if self.name.trim().is_empty() => usage("the image needs a name"),
            "capture" => Ok(Task::Capture { name: self.name.trim().to_owned(), disks: self.rules() }),
            "restore" if self.image.is_empty() => usage("choose an image"),
            "restore" => Ok(Task::Restore {
                image: self.image.clone(),
                profile: or(&self.profile, "auto"),
                firmware: or(&self.firmware, "auto"),
                disks: self.rules(),
                removable: !self.removable.is_empty(),
                then: or(&self.then, "reboot"),
            }),
            "wipe" => match self.rules() {
                rules if rules.is_empty() => usage("choose a disk: none is wiped by itself"),
                disks => Ok(Task::Wipe { disks }),
            },
            _ => usage("there is no such job"),
        }
    }

    /// The filled fields again, for a form that repeats them.
    pub(super) fn hidden(&self, html: &mut Html) {
        for (name, value) in [
            ("by", &self.by),
            ("value", &self.value),
            ("name", &self.name),
            ("image", &self.image),
            ("disk", &self.disk),
            ("rules", &self.rules),
            ("profile", &self.profile),
            ("firmware", &self.firmware),
            ("then", &self.then),
            ("removable", &self.removable),
            ("into", &self.into),
        ] {
            if !value.is_empty() {
                html.fill("<input type='hidden' name='$' value='$'>", &[&name, value]);
            }
        }
    }
}

/// The session's token.
pub(super) fn csrf(html: &mut Html, session: &Session) {
    html.fill("<input type='hidden' name='csrf' value='$'>", &[&session.csrf]);
}

/// The fields of a capture.
pub(super) fn capture(html: &mut Html, name: &str) {
    html.fill(
        "<label for='name'>Name in the store</label><input id='name' name='name' required value='$' maxlength='100' autocomplete='off' \
         spellcheck='false' aria-describedby='name-hint'><p id='name-hint' class='hint'>Its images lie under this name; what the store \
         has already is not sent again.</p>",
        &[&name],
    );
    html.raw(
        "<label for='rules'>Disks</label><input id='rules' name='rules' autocomplete='off' spellcheck='false' \
         placeholder='all that are built in' aria-describedby='rules-hint'>",
    );
    rules_hint(html);
}

fn rules_hint(html: &mut Html) {
    html.raw(
        "<p id='rules-hint' class='hint'>Rules, separated by commas: <code>serial=S</code>, <code>wwn=W</code>, \
         <code>name=sda</code>, <code>size&gt;=100G</code>, <code>size&lt;=2T</code>, <code>only</code>. Each means one disk; what is \
         ambiguous is refused.</p>",
    );
}

fn choice(
    html: &mut Html,
    name: &'static str,
    label: &'static str,
    options: &[(&'static str, &'static str)],
) {
    html.fill("<label for='$'>$</label><select id='$' name='$'>", &[&name, &label, &name, &name]);
    for (value, words) in options {
        html.fill("<option value='$'>$</option>", &[value, words]);
    }
    html.raw("</select>");
}

/// The fields of a restore.
pub(super) fn restore(html: &mut Html, images: &[Image], disks: &[DiskFacts]) {
    html.raw("<label for='image'>Image</label><select id='image' name='image' required><option value=''>Choose an image</option>");
    let mut machines: Vec<&str> = images.iter().map(|image| image.summary.machine.as_str()).collect();
    machines.sort_unstable();
    machines.dedup();
    for machine in machines {
        html.fill(
            "<optgroup label='$'><option value='$'>$, the latest</option>",
            &[&machine, &machine, &machine],
        );
        for image in images.iter().filter(|image| image.summary.machine == machine) {
            html.fill(
                "<option value='$'>$, $ of $</option>",
                &[&image.name, &image.name, &size(image.summary.data_bytes), &size(image.summary.size_bytes)],
            );
        }
        html.raw("</optgroup>");
    }
    html.raw("</select>");
    which(html, disks, true);
    choice(
        html,
        "profile",
        "Fit it to",
        &[
            ("auto", "this machine"),
            ("keep", "nothing: as it was captured"),
            ("kvm", "KVM"),
            ("vmware", "VMware"),
            ("hyperv", "Hyper-V"),
            ("xen", "Xen"),
        ],
    );
    choice(
        html,
        "firmware",
        "Firmware of the result",
        &[
            ("auto", "as this machine was started"),
            ("keep", "as the image has it"),
            ("bios", "BIOS"),
            ("uefi", "UEFI"),
        ],
    );
    choice(
        html,
        "then",
        "Then",
        &[("reboot", "reboot into it"), ("poweroff", "power off"), ("stay", "stay")],
    );
    html.raw(
        "<p class='check'><input type='checkbox' id='removable' name='removable' value='yes'><label for='removable'>Also onto a removable \
         or USB disk that a rule names</label></p>",
    );
}

/// Which disk: those that are known, or rules.
pub(super) fn which(html: &mut Html, disks: &[DiskFacts], only: bool) {
    html.raw("<fieldset><legend>Disk</legend>");
    if only {
        html.raw(
            "<p class='check'><input type='radio' id='disk-only' name='disk' value='only' checked><label for='disk-only'>The only one \
             that is built in; refused where there are several</label></p>",
        );
    }
    for (index, disk) in disks.iter().filter(|disk| disk.size_bytes > 0).enumerate() {
        html.fill(
            "<p class='check'><input type='radio' id='disk-$' name='disk' value='$'><label for='disk-$'>$",
            &[&index, &disks::rule(disk), &index, &disks::words(disk)],
        );
        if disk.removable {
            html.raw(" <span class='badge lost'>removable</span>");
        }
        html.raw("</label></p>");
    }
    html.raw(
        "<label for='rules'>Or by rules, in the image's order</label><input id='rules' name='rules' autocomplete='off' \
         spellcheck='false' aria-describedby='rules-hint'>",
    );
    rules_hint(html);
    html.raw("</fieldset>");
}

/// The fields of a reboot.
pub(super) fn reboot(html: &mut Html) {
    choice(html, "into", "Start from", &[("disk", "its own disk"), ("network", "the network")]);
}
