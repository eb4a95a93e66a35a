// SPDX-License-Identifier: Apache-2.0
//! Which old interface becomes which adapter of the new machine.

use unmoor_images::{Error, ErrorKind, Result};

use super::RULE;
use crate::inspection::{Inspection, Interface};
use crate::plan::{Draft, Severity};
use crate::request::Request;

/// An interface with hardware behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Nic {
    pub(in super::super) name: Option<String>,
    /// Its address on the old machine, lower case.
    pub(in super::super) mac: Option<String>,
    pub(in super::super) target: Target,
}

/// What it is on the new machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Target {
    /// The adapter with this address.
    Mac(String),
    /// Whatever adapter there is: there is one interface only.
    Only,
    /// Not known.
    Unknown,
}

impl Nic {
    /// For people.
    pub(super) fn label(&self) -> &str {
        self.name.as_deref().or(self.mac.as_deref()).unwrap_or("an interface")
    }

    fn is(&self, called: &str) -> bool {
        self.name.as_deref() == Some(called)
            || self.mac.as_deref().is_some_and(|mac| mac.eq_ignore_ascii_case(called))
    }
}

fn has_hardware(interface: &&Interface) -> bool {
    interface.virtual_kind.is_none()
        && interface.name.as_deref() != Some("lo")
        && (interface.name.is_some() || interface.mac.is_some())
}

/// By name, then in order; what was decided is said.
///
/// # Errors
///
/// `Usage` for a name that the guest does not have, an adapter that the new machine does not have, or one that is given twice.
pub(in super::super) fn assign(
    draft: &mut Draft<'_>,
    inspection: &Inspection,
    request: &Request,
) -> Result<Vec<Nic>> {
    let adapters = &request.hardware.nics;
    let mut nics: Vec<Nic> = inspection
        .network
        .interfaces
        .iter()
        .filter(has_hardware)
        .map(|interface| Nic {
            name: interface.name.clone(),
            mac: interface.mac.as_ref().map(|mac| mac.to_ascii_lowercase()),
            target: Target::Unknown,
        })
        .collect();
    let wrong =
        |because: String| Err(Error::new(ErrorKind::Usage, "matching network adapters").because(because));
    let mut chosen: Vec<Option<usize>> = vec![None; nics.len()];
    for (called, adapter) in &request.nics {
        let Some(index) = nics.iter().position(|nic| nic.is(called)) else {
            let known: Vec<&str> = nics.iter().map(Nic::label).collect();
            return wrong(format!("the guest has no interface {called}; it has {}", known.join(", ")));
        };
        if *adapter >= adapters.len() {
            return wrong(format!(
                "the new machine has {} adapters, and {called} is to be number {}",
                adapters.len(),
                adapter + 1
            ));
        }
        if chosen.contains(&Some(*adapter)) {
            return wrong(format!("adapter {} is given to two interfaces", adapter + 1));
        }
        if let Some(choice) = chosen.get_mut(index) {
            *choice = Some(*adapter);
        }
    }
    let taken = chosen.clone();
    let mut left = (0..adapters.len()).filter(|adapter| !taken.contains(&Some(*adapter)));
    for choice in chosen.iter_mut().filter(|choice| choice.is_none()) {
        *choice = left.next();
    }
    let alone = nics.len() == 1;
    for (nic, choice) in nics.iter_mut().zip(chosen) {
        let new = choice.and_then(|choice| adapters.get(choice)).and_then(|adapter| adapter.mac.as_ref());
        nic.target = match (new, &nic.mac) {
            (Some(new), _) => Target::Mac(new.to_ascii_lowercase()),
            (None, _) if alone && adapters.len() <= 1 => Target::Only,
            (None, _) if choice.is_none() && !adapters.is_empty() => Target::Unknown,
            (None, Some(old)) => Target::Mac(old.clone()),
            (None, None) => Target::Unknown,
        };
        tell(draft, nic, choice, adapters.is_empty());
    }
    // A virtual machine gets the adapters that its definition has; what metal has, only its inventory tells.
    if let [Nic { target: Target::Only, .. }] = nics.as_slice()
        && let Some(label) = nics.first().map(|nic| nic.label().to_owned())
        && adapters.is_empty()
        && request.hardware.hypervisor.is_none()
    {
        draft.finding(
            Severity::Warning,
            RULE,
            format!("{label}: where the new machine has several adapters, any one of them may become it"),
            Some(format!(
                "fit the guest to the machine's inventory (unmoor inspect --machine --json), or name the adapter: --nic {label}=ADDRESS"
            )),
        );
    }
    Ok(nics)
}

fn tell(draft: &mut Draft<'_>, nic: &Nic, choice: Option<usize>, adapters_unknown: bool) {
    let label = nic.label().to_owned();
    let remedy = || Some(format!("say which adapter it is: --nic {label}=ADDRESS"));
    match &nic.target {
        Target::Mac(new) if nic.mac.as_ref() == Some(new) && choice.is_none() => draft.finding(
            Severity::Note,
            RULE,
            format!("{label} is the adapter with its old address {new}, which the new machine must have"),
            remedy(),
        ),
        Target::Mac(new) => {
            let number = choice.map_or(String::new(), |choice| format!("adapter {}, ", choice + 1));
            draft.finding(Severity::Note, RULE, format!("{label} becomes {number}{new}"), None);
        }
        Target::Only => {
            draft.finding(Severity::Note, RULE, format!("{label} becomes the new machine's only adapter"), None);
        }
        Target::Unknown if adapters_unknown => draft.finding(
            Severity::Warning,
            RULE,
            format!("{label}: neither its address nor the new machine's adapters are known, so that it may get another name"),
            remedy(),
        ),
        Target::Unknown => draft.finding(
            Severity::Warning,
            RULE,
            format!("{label}: the new machine has no adapter for it"),
            Some("add an adapter to the new machine, or remove the interface from the guest's configuration".into()),
        ),
    }
}
