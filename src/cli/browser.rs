//! Opening the user's browser.

use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::config::{SECRET_VARIABLE, STORE_KEY_VARIABLE, STORE_URL_VARIABLE};

/// A launcher that has not failed by then counts as successful.
const LAUNCH_TIMEOUT: Duration = Duration::from_millis(250);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Opens an address in the user's browser, which outlives this process and inherits no secret;
/// false if there is none.
pub(super) fn open(url: &str) -> bool {
    open::commands(url).iter_mut().any(|launcher| {
        launcher.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        for secret in [SECRET_VARIABLE, STORE_KEY_VARIABLE, STORE_URL_VARIABLE] {
            launcher.env_remove(secret);
        }
        let Ok(mut child) = launcher.process_group(0).spawn() else { return false };
        let deadline = Instant::now() + LAUNCH_TIMEOUT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = child.try_wait() {
                return status.success();
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        true
    })
}
