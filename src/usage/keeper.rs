//! The counters of a running proxy, and when they are saved.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::warn;

use super::file::UsageError;
use super::total::Usage;
use crate::clock::Clock;

/// How long counts are gathered until they are saved.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// Counters that one task fills and others read, and their file.
#[derive(Debug)]
pub struct Keeper {
    usage: Mutex<Usage>,
    path: PathBuf,
    /// Held by the one that saves.
    saving: Mutex<()>,
    /// The last attempt to save failed and was reported.
    has_failed: AtomicBool,
}

impl Keeper {
    /// The counters of a file. One that cannot be read is reported, and counting begins anew.
    pub fn open(path: PathBuf, clock: &Clock) -> Self {
        let now = clock.now().wall;
        let usage = Usage::load(&path, now).unwrap_or_else(|error| {
            warn!("requests are counted from now on: {error}");
            Usage::new(now)
        });
        Self {
            usage: Mutex::new(usage),
            path,
            saving: Mutex::default(),
            has_failed: AtomicBool::new(false),
        }
    }

    /// Calls `work` with the counters, which nobody else uses meanwhile.
    pub fn with<T>(&self, work: impl FnOnce(&mut Usage) -> T) -> T {
        work(&mut self.usage.lock())
    }

    /// Saves what was counted, once a minute; never ends.
    pub async fn keep(self: Arc<Self>) {
        loop {
            sleep(SAVE_INTERVAL).await;
            self.save().await;
        }
    }

    /// Saves what was counted. A failure is reported once, and what was counted is saved the next
    /// time.
    pub async fn save(self: &Arc<Self>) {
        let keeper = self.clone();
        // It fails only if the runtime is about to end.
        let _ = spawn_blocking(move || keeper.save_now()).await;
    }

    /// The counters of an account go on under another name, or end if there is none.
    ///
    /// # Errors
    /// [`UsageError`]: the file cannot be written.
    pub async fn move_account(
        self: &Arc<Self>,
        from: &str,
        to: Option<&str>,
    ) -> Result<(), UsageError> {
        let (keeper, from, to) = (self.clone(), from.to_owned(), to.map(str::to_owned));
        let moved = spawn_blocking(move || keeper.move_now(&from, to.as_deref())).await;
        // It fails only if the runtime is about to end.
        moved.unwrap_or(Ok(()))
    }

    fn move_now(&self, from: &str, to: Option<&str>) -> Result<(), UsageError> {
        let _saving = self.saving.lock();
        let mut copy = self.usage.lock().begin_save();
        let moved = copy.move_account(&self.path, from, to);
        self.usage.lock().end_save(copy);
        moved
    }

    fn save_now(&self) {
        let _saving = self.saving.lock();
        // Nobody waits for the disk in order to count.
        let mut copy = self.usage.lock().begin_save();
        let saved = copy.save(&self.path);
        self.usage.lock().end_save(copy);
        let had_failed = self.has_failed.swap(saved.is_err(), Ordering::Relaxed);
        if let Err(error) = saved
            && !had_failed
        {
            warn!("the counters of requests could not be saved: {error}");
        }
    }
}
