// SPDX-License-Identifier: Apache-2.0
//! Programs that bring applications to a point of rest before the freeze, and let them go on after it: the convention of the QEMU
//! guest agent's `fsfreeze-hook.d`, so that its scripts serve here too.

use std::fs;
use std::io::ErrorKind as IoKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use unmoor_images::{Error, Monitor, Result};

/// Hooks whose `freeze` has been called. Dropping calls their `thaw`.
pub(super) struct Hooks<'a> {
    called: Vec<PathBuf>,
    limit: Duration,
    monitor: &'a dyn Monitor,
}

/// Calls the `freeze` of every program in `folder`, in the order of their names.
///
/// # Errors
///
/// Where one fails or takes longer than `limit`; those that were called get their `thaw` first.
pub(super) fn freeze<'a>(folder: &Path, limit: Duration, monitor: &'a dyn Monitor) -> Result<Hooks<'a>> {
    let mut hooks = Hooks { called: Vec::new(), limit, monitor };
    for program in programs(folder)? {
        // One that fails half way has to be undone as well.
        hooks.called.push(program.clone());
        call(&program, "freeze", limit)
            .map_err(|because| Error::refused("calling the freeze hook", because).path(&program))?;
    }
    Ok(hooks)
}

impl Hooks<'_> {
    /// Their names.
    pub(super) fn names(&self) -> Vec<String> {
        let names = self.called.iter().filter_map(|path| path.file_name());
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Hooks<'_> {
    fn drop(&mut self) {
        for program in std::mem::take(&mut self.called).iter().rev() {
            if let Err(because) = call(program, "thaw", self.limit) {
                self.monitor.warn(format!("the hook {} did not thaw: {because}", program.display()));
            }
        }
    }
}

/// Executable files, sorted; what an editor or package manager leaves beside them is none.
fn programs(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == IoKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("listing hooks in", error).path(folder)),
    };
    let leavings =
        ["~", ".rpmsave", ".rpmnew", ".rpmorig", ".dpkg-old", ".dpkg-new", ".dpkg-dist", ".sample"];
    let mut programs: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let runs =
                fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
            runs && !leavings.iter().any(|end| name.ends_with(end))
        })
        .collect();
    programs.sort();
    Ok(programs)
}

fn call(program: &Path, verb: &str, limit: Duration) -> std::result::Result<(), String> {
    let mut command = Command::new(program);
    command.arg(verb).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    match wait(&mut child, limit) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(format!("{verb}: {status}")),
        Ok(None) => {
            if let Ok(group) = i32::try_from(child.id()) {
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            }
            let _ = child.wait();
            Err(format!("{verb} took longer than {} s, and was stopped", limit.as_secs()))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let began = Instant::now();
    while began.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.try_wait()
}

#[cfg(test)]
mod tests {
    use super::*;
    use unmoor_images::monitor::Silent;

    fn hook(folder: &Path, name: &str, script: &str) {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", folder.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn said(folder: &Path) -> String {
        fs::read_to_string(folder.join("log.sample")).unwrap_or_default().replace('\n', " ")
    }

    #[test]
    fn hooks_are_called_in_order_and_undone_in_reverse() {
        let folder = tempfile::tempdir().unwrap();
        hook(folder.path(), "20-second", "echo 2$1 >> log.sample");
        hook(folder.path(), "10-first", "echo 1$1 >> log.sample");
        hook(folder.path(), "30-old.dpkg-old", "echo 3$1 >> log.sample");
        fs::write(folder.path().join("README"), "no program").unwrap();
        let hooks = freeze(folder.path(), Duration::from_secs(20), &Silent).unwrap();
        assert_eq!(hooks.names(), ["10-first", "20-second"]);
        drop(hooks);
        assert_eq!(said(folder.path()), "1freeze 2freeze 2thaw 1thaw ");
        assert!(
            freeze(&folder.path().join("none"), Duration::from_secs(1), &Silent).unwrap().names().is_empty()
        );
    }

    #[test]
    fn one_that_fails_or_hangs_is_named_and_the_others_are_thawed() {
        for (script, limit, why) in
            [("[ $1 = thaw ]", 20_000, "exit status: 1"), ("[ $1 = thaw ] || sleep 60", 300, "took longer")]
        {
            let folder = tempfile::tempdir().unwrap();
            hook(folder.path(), "1", "echo 1$1 >> log.sample");
            hook(folder.path(), "2", script);
            hook(folder.path(), "3", "echo 3$1 >> log.sample");
            let failed = freeze(folder.path(), Duration::from_millis(limit), &Silent);
            let error = failed.err().unwrap().chain();
            assert!(error.contains(why) && error.contains("/2"), "{error}");
            assert_eq!(said(folder.path()), "1freeze 1thaw ");
        }
    }
}
