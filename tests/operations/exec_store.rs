//! Programs below `exec` and a proxy on one store: each token is redeemed once, and nobody notices.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::process::Child;
use std::time::{Duration, Instant};

use support::command::{code, stderr, stdout};
use support::{access_lifetime, connected, sandbox, token_posts};

/// Lifetime of an access token, in milliseconds.
const LIFE: u64 = 2000;

/// How long it lasts: `tests/heavy/exec.sh` takes its time.
fn length() -> Duration {
    let seconds = std::env::var("PLEO_PROXY_HEAVY_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or(8))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_programs_and_a_proxy_redeem_each_token_once_and_none_notices() {
    let sandbox = sandbox().await;
    sandbox.set_faults(access_lifetime(LIFE));
    let (workspace, proxy) = connected(&sandbox, "").await;
    let (before, started) = (sandbox.counters(), Instant::now());
    let script = format!(
        "end=$(( $(date +%s) + {} ))
        while [ $(date +%s) -lt $end ]; do
            curl -sS -o /dev/null -w '%{{http_code}}\\n' $PLEO_BASE_URL/v1/companies
        done",
        length().as_secs()
    );
    let programs: [Child; 2] =
        [0, 1].map(|_| workspace.exec(&[], &["sh", "-c", &script]).spawn().unwrap());
    let waited = tokio::task::spawn_blocking(|| programs.map(|it| it.wait_with_output().unwrap()));
    let mut served = 0_u64;
    while started.elapsed() < length() {
        assert_eq!(proxy.get("/v1/companies").await.status(), 200, "{}", proxy.log());
        served += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for ended in waited.await.unwrap() {
        assert_eq!(code(&ended), 0, "{}", stderr(&ended));
        let statuses = stdout(&ended);
        assert!(statuses.lines().count() > 1, "{}", stderr(&ended));
        assert!(statuses.lines().all(|status| status == "200"), "{statuses}{}", stderr(&ended));
        assert!(stderr(&ended).contains(", 0 failed, "), "{}", stderr(&ended));
    }
    assert!(served > 1);
    let (counters, lasted) = (sandbox.counters(), started.elapsed().as_millis() as u64);
    let refreshes = counters.refreshes - before.refreshes;
    // Nobody refreshes before two margins (of a fifth each) before expiry, and a token that is used
    // is refreshed at its expiry.
    let (least, most) = (length().as_millis() as u64 / (4 * LIFE), lasted / (LIFE * 3 / 5) + 2);
    assert!((least..=most).contains(&refreshes), "{refreshes} of {least}..={most}");
    assert_eq!(
        token_posts(&sandbox, &before),
        refreshes,
        "each token request was good for a token"
    );
    assert_eq!((counters.refresh_replays, counters.families_revoked), (0, 0), "{counters:?}");
}
