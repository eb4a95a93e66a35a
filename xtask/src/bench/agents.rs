// SPDX-License-Identifier: Apache-2.0
//! A thousand agents that register and say that they live: what that costs the server.

use crate::binary::{cargo, workspace};
use crate::lab::qemu::tail;
use crate::lab::rescue;
use crate::run::{Failure, Result, While, output};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const AGENTS: u64 = 1000;
/// Registering takes them ten seconds; then they go on.
const SECONDS: u64 = 90;
/// Of these, the last that are measured.
const MEASURED: u64 = 60;
const HTTPS: &str = "127.0.0.1:38443";
const HTTP: &str = "127.0.0.1:38080";

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures.
pub(super) fn run(unmoor: &Path, folder: &Path) -> Result {
    let mut build = cargo();
    build.current_dir(workspace()).args(["build", "--package", "unmoor-pxe-boot", "--example", "agents"]);
    crate::run::run(&mut build)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), Into::into);
    let simulation = target.join("debug/examples/agents");

    let store = format!("dir:{}", folder.join("agents-store").display());
    output(Command::new(unmoor).args(["images", "init", &store]))?;
    let (state, configuration, log) =
        (folder.join("agents-state"), folder.join("agents.toml"), folder.join("agents.log"));
    let text = format!(
        "state = \"{}\"\n[network]\ninterface = \"lo\"\naddress = \"127.0.0.1\"\n[store]\nurl = \"{store}\"\n\
         [https]\nlisten = \"{HTTPS}\"\n[http]\nlisten = \"{HTTP}\"\n[dhcp]\nmode = \"off\"\n[tftp]\nenabled = false\n\
         [boot]\nfiles = [\"{}\"]\n[rescue]\nfolder = \"{}\"\n",
        state.display(),
        rescue::network_loaders()?.display(),
        rescue::for_network(unmoor)?.display(),
    );
    std::fs::write(&configuration, text).while_doing("writing the configuration")?;
    let said = std::fs::File::create(&log).while_doing("creating the log")?;
    let mut command = Command::new(unmoor);
    command.arg("serve").arg(&configuration).stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
    let server = Running(command.spawn().while_doing("starting unmoor serve")?);
    let authority = state.join("ca.pem");
    let start = Instant::now();
    while std::net::TcpStream::connect(HTTPS).is_err() || !authority.exists() {
        if start.elapsed() > Duration::from_secs(60) {
            return Err(Failure::new(format!("unmoor serve does not listen: {}", tail(&log, 20))));
        }
        std::thread::sleep(Duration::from_millis(200));
    }

    println!("\n{AGENTS} agents, a heartbeat each 10 s");
    let mut agents = Command::new(simulation);
    agents.arg(format!("https://{HTTPS}")).arg(&authority).arg(AGENTS.to_string()).arg(SECONDS.to_string());
    agents.stdin(Stdio::null()).stdout(Stdio::piped());
    let agents = agents.spawn().while_doing("starting the agents")?;
    std::thread::sleep(Duration::from_secs(SECONDS - MEASURED));
    let before = (Instant::now(), processor_seconds(server.0.id())?);
    std::thread::sleep(Duration::from_secs(MEASURED - 5));
    let used = processor_seconds(server.0.id())? - before.1;
    let share = used / before.0.elapsed().as_secs_f64() * 100.0;
    let most = peak_mib(server.0.id())?;
    let told = agents.wait_with_output().while_doing("waiting for the agents")?;
    let told = String::from_utf8_lossy(&told.stdout).trim().to_owned();
    println!("  {told}");
    if !told.starts_with(&format!("{AGENTS} registered")) {
        return Err(Failure::new(format!("not all agents registered: {}", tail(&log, 20))));
    }
    super::aim("% of one processor", share, None, Some(10.0));
    super::aim("peak memory in MiB", most, None, Some(200.0));
    Ok(())
}

/// What a process has used (proc_pid_stat(5), fields 14 and 15), in seconds.
fn processor_seconds(id: u32) -> Result<f64> {
    let path = format!("/proc/{id}/stat");
    let text = std::fs::read_to_string(&path).while_doing(format_args!("reading {path}"))?;
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    // USER_HZ is 100 on x86.
    Ok(ticks / 100.0)
}

fn peak_mib(id: u32) -> Result<f64> {
    let path = format!("/proc/{id}/status");
    let text = std::fs::read_to_string(&path).while_doing(format_args!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kib = line.split_whitespace().next().and_then(|number| number.parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| Failure::new(format!("{path} has no VmHWM")))
}
