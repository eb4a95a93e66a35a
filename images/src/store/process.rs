// SPDX-License-Identifier: Apache-2.0
//! Whether the process that took a lease is surely gone: then nobody has to watch the lease for an hour.
//!
//! Only the same kernel can tell, and only within one PID namespace: a container has processes of its own of the same numbers.

/// `BOOT PIDNAMESPACE PID START`: the kernel's boot id, the namespace's inode, the process's number, and when it was started in
/// ticks since boot (proc(5)).
pub(super) fn this() -> Option<String> {
    let pid = std::process::id();
    Some(format!("{} {} {pid} {}", boot()?, namespace()?, started(pid)?))
}

/// True if `process` is of this kernel and namespace, and there is no such process any more.
pub(super) fn is_gone(process: &str) -> bool {
    let parts: Vec<&str> = process.split(' ').collect();
    let [of_boot, of_namespace, pid, start] = parts.as_slice() else { return false };
    let here = boot().as_deref() == Some(*of_boot) && namespace().as_deref() == Some(*of_namespace);
    match pid.parse() {
        Ok(pid) if here => started(pid).is_none_or(|now| now != *start),
        _ => false,
    }
}

fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

fn namespace() -> Option<String> {
    // pid:[4026531836]
    std::fs::read_link("/proc/self/ns/pid").ok()?.to_str().map(str::to_owned)
}

/// Field 22 of /proc/PID/stat. The program's name before it, in parentheses, may hold anything. A zombie does nothing any more.
fn started(pid: u32) -> Option<String> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    (!matches!(fields.first(), Some(&"Z" | &"X"))).then(|| fields.get(19).map(|start| (*start).to_owned()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_gone_once_it_has_ended_and_not_before() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let named = format!("{} {} {pid} {}", boot().unwrap(), namespace().unwrap(), started(pid).unwrap());
        assert!(!is_gone(&named) && !is_gone(&this().unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_gone(&named));
        // Of another boot, another namespace, or not understood: nobody knows.
        for text in [named.replace('-', "_"), named.replace("pid:", "pod:"), String::new(), "a b c d".into()]
        {
            assert!(!is_gone(&text), "{text}");
        }
    }
}
