//! A headless Chromium, and how long to wait for it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::Mutex as Turn;

/// A browser on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(150);

/// One browser at a time: each is a dozen processes.
pub(super) static TURN: Turn<()> = Turn::const_new(());

/// A headless Chromium with a profile of its own, ended with all its processes when dropped.
pub(super) struct Browser {
    pub(super) child: Child,
    pub(super) _profile: TempDir,
}

/// The program, if there is one; says so if not.
pub(super) fn program(test: &str) -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let is_there = |name: &&str| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let found = names.into_iter().find(is_there);
    if found.is_none() {
        eprintln!("SKIPPED {test}: it needs Chromium (apt-get install chromium)");
    }
    found
}

impl Browser {
    pub(super) fn open(program: &str, arguments: &[&str], url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ]);
        command.args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ]);
        command.args([
            "--disable-dev-shm-usage",
            "--disable-popup-blocking",
            "--no-default-browser-check",
        ]);
        // The attacked windows open before the page, whose timers are not to sleep for that.
        command.args(["--disable-background-timer-throttling", "--disable-renderer-backgrounding"]);
        command.arg("--disable-backgrounding-occluded-windows");
        // The browser's own defences are not ours to rely on.
        command.arg("--disable-features=LocalNetworkAccessChecks,HttpsUpgrades,HttpsFirstBalancedModeAutoEnable");
        command.arg("--host-resolver-rules=MAP evil.test 127.0.0.1,MAP rebind.test 127.0.0.1");
        command
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(arguments)
            .arg(url);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        Self { child: command.spawn().unwrap(), _profile: profile }
    }

    /// What it prints until it ends.
    pub(super) fn output(mut self) -> String {
        let mut stdout = self.child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut said = String::new();
            let _ = stdout.read_to_string(&mut said);
            said
        });
        within("the browser ends", || self.child.try_wait().unwrap().is_some());
        reader.join().unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its group is its own: all of its processes and none of ours.
        let _ = Command::new("kill")
            .args(["-KILL", "--", &format!("-{}", self.child.id())])
            .stderr(Stdio::null())
            .status();
        let _ = self.child.wait();
    }
}

pub(super) fn within(what: &str, is_so: impl FnMut() -> bool) {
    let (start, mut is_so) = (Instant::now(), is_so);
    while !is_so() {
        assert!(start.elapsed() < TIMEOUT, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
