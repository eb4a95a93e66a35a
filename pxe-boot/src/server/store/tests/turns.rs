// SPDX-License-Identifier: Apache-2.0
//! Jobs share what there is, however many requests each has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::server::store::turns::{Pace, Turns};

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

#[test]
fn each_job_has_an_equal_share_of_the_places_by_cost() {
    run(async {
        let turns = Turns::new(2);
        // Job 0 has one request at a time, of 4; job 1 has sixteen, of 1; job 2 four, of 2.
        let done: Arc<[AtomicU64; 3]> = Arc::default();
        let mut tasks = Vec::new();
        for (job, requests, cost) in [(0u64, 2, 4u64), (1, 16, 1), (2, 4, 2)] {
            for _ in 0..requests {
                let (turns, done) = (turns.clone(), done.clone());
                tasks.push(tokio::spawn(async move {
                    loop {
                        let _turn = turns.take(job, cost).await;
                        done[job as usize].fetch_add(cost, Ordering::Relaxed);
                        for _ in 0..cost {
                            tokio::task::yield_now().await;
                        }
                    }
                }));
            }
        }
        while done.iter().map(|done| done.load(Ordering::Relaxed)).sum::<u64>() < 30_000 {
            tokio::task::yield_now().await;
        }
        let shares: Vec<u64> = done.iter().map(|done| done.load(Ordering::Relaxed)).collect();
        assert!(shares.iter().all(|share| (8_500..=11_500).contains(share)), "{shares:?}");
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    });
}

#[test]
fn who_gives_up_waiting_takes_no_place() {
    run(async {
        let turns = Turns::new(1);
        let first = turns.take(1, 1).await;
        for _ in 0..100 {
            let waiting = turns.take(2, 1);
            assert!(tokio::time::timeout(std::time::Duration::ZERO, waiting).await.is_err());
        }
        drop(first);
        drop(turns.take(2, 1).await);
        drop(turns.take(1, 1).await);
        Pace::new(0).pay(1, usize::MAX).await;
    });
}
