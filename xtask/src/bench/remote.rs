// SPDX-License-Identifier: Apache-2.0
//! A store in a bucket beside one in a directory: the same captures and restores, against two servers on this host, without and
//! with 50 ms before every request.

use std::path::Path;
use std::time::Duration;

use super::measure::{self, Command, warm};
use super::proxy::{Action, Proxy};
use super::{aim, line};
use crate::run::{Result, While, run as run_command};
use crate::s3_server::{ACCESS_KEY, Kind, SECRET_KEY, Server};

/// A place for a store.
struct Place<'a> {
    name: String,
    store: String,
    /// Whose bucket it is.
    server: Option<&'a Server>,
    /// `AWS_` variables before the command.
    variables: String,
    /// Part of the directory's throughput that is aimed at.
    least: Option<f64>,
}

/// First capture and restore of `disk`, `rounds` times each.
pub(super) fn run(unmoor: &Path, disk: &Path, folder: &Path, rounds: usize) -> Result {
    println!("\na store in a bucket of a server on this host, page cache warm; medians of {rounds}");
    let mut servers = Vec::new();
    for kind in [Kind::Moto, Kind::S3sFs] {
        let server = Server::start(kind, folder)?;
        let slow = Proxy::start(server.port(), Duration::from_millis(50), |_| Action::Pass)
            .while_doing("starting a proxy")?;
        servers.push((kind.name(), server, slow));
    }
    let variables = |endpoint: &str| {
        format!(
            "AWS_ENDPOINT_URL={endpoint} AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY} AWS_REGION=us-east-1"
        )
    };
    let mut places = vec![Place {
        name: "directory".into(),
        store: format!("dir:{}", folder.join("store-directory").display()),
        server: None,
        variables: String::new(),
        least: None,
    }];
    for (name, server, slow) in &servers {
        let direct = format!("http://127.0.0.1:{}", server.port());
        let ways = [("", "plain", direct, 0.8), (" with 50 ms a request", "slow", slow.endpoint(), 0.5)];
        places.extend(ways.map(|(way, bucket, endpoint, least)| Place {
            name: format!("S3 ({name}){way}"),
            store: format!("s3://{bucket}/store"),
            server: Some(server),
            variables: variables(&endpoint),
            least: Some(least),
        }));
    }
    let unmoor = unmoor.display();
    let mut all = Vec::new();
    for place in &places {
        let (store, variables) = (&place.store, &place.variables);
        let out = folder.join("restored.raw");
        let (mut captured, mut restored) = (measure::Figures::default(), measure::Figures::default());
        for _ in 0..rounds.max(1) {
            empty(store, place.server)?;
            let init = format!("{variables} {unmoor} images init {store} > {}/log 2>&1", folder.display());
            run_command(std::process::Command::new("bash").args(["-c", &init]))?;
            let capture = format!("{variables} {unmoor} capture {} {store}/m", disk.display());
            let capture = Command::new("capture", capture, folder.join("none"));
            captured.add(measure::interleaved(&[capture], 1, || warm(disk))?.remove(0));
            let restore = format!("{variables} {unmoor} restore --yes --force {store}/m OUT");
            let restore = Command::new("restore", restore, out.clone());
            restored.add(measure::interleaved(&[restore], 1, || Ok(()))?.remove(0));
            measure::same_used_bytes(disk, &out)?;
            std::fs::remove_file(&out).while_doing("removing what was restored")?;
        }
        empty(store, place.server)?;
        all.push((place, captured, restored));
    }
    let Some(((_, captured, restored), remote)) = all.split_first() else { return Ok(()) };
    line("directory: capture", captured, None);
    line("directory: restore", restored, None);
    for (place, capture, restore) in remote {
        line(&format!("{}: capture", place.name), capture, Some(captured));
        line(&format!("{}: restore", place.name), restore, Some(restored));
        for (what, ours, directory) in [("capture", capture, captured), ("restore", restore, restored)] {
            let part = directory.seconds() / ours.seconds();
            aim(
                &format!("{}: part of the directory's throughput, {what}", place.name),
                part,
                place.least,
                None,
            );
        }
        aim("peak memory in MiB", capture.peak_mib().max(restore.peak_mib()), None, Some(300.0));
    }
    for (name, _, slow) in &servers {
        println!("  most requests in flight: {} ({name})", slow.most_in_flight());
    }
    Ok(())
}

/// An empty bucket, or no directory.
fn empty(store: &str, server: Option<&Server>) -> Result {
    if let Some(path) = store.strip_prefix("dir:") {
        if Path::new(path).exists() {
            std::fs::remove_dir_all(path).while_doing("removing a store")?;
        }
        return Ok(());
    }
    let Some(server) = server else { return Ok(()) };
    server.forget()?;
    let bucket = store.trim_start_matches("s3://").split('/').next().unwrap_or_default();
    server.make_bucket(bucket)
}
