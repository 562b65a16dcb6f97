//! The file of `log.requests`: a line of JSON for each exchange.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::warn;

use super::entry::Entry;
use crate::private_file::{self, PrivateFileError};
use crate::telemetry::Repeats;

/// What the first line of a new file says.
const NOTE: &str =
    "Sanitised: secrets are masked, values in queries are left out. One exchange a line follows.";

/// Lines that wait to be written, at most, in bytes.
const MAX_WAITING: usize = 4 * 1024 * 1024;
/// Time for the last lines when the process ends.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The file, and the lines that wait for it.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    file: Mutex<Option<File>>,
    /// It was moved away, and is to be opened anew.
    is_stale: AtomicBool,
    waiting: Mutex<Waiting>,
    /// Notified when there are lines to write.
    news: Notify,
    failures: Repeats,
}

/// Lines in the order in which exchanges ended.
#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    count: usize,
    /// Exchanges for which there was no room.
    lost: usize,
}

impl Lines {
    /// Opens the file, and makes it if it is missing.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, PrivateFileError> {
        let file = start(path)?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            file: Mutex::new(Some(file)),
            is_stale: AtomicBool::new(false),
            waiting: Mutex::default(),
            news: Notify::new(),
            failures: Repeats::new("exchanges could not be written to the file of log.requests"),
        }))
    }

    /// The next line goes to a new file, if this one was moved away.
    pub(super) fn reopen(&self) {
        self.is_stale.store(true, Ordering::Release);
    }

    /// The line of an exchange is to be written. Never waits for the disk: if that is too slow for
    /// too long, the exchange is counted as lost.
    pub(super) fn add(&self, entry: &Entry) {
        let mut waiting = self.waiting.lock();
        if waiting.text.len() >= MAX_WAITING {
            waiting.lost += 1;
            return;
        }
        // An entry always has a JSON form.
        if serde_json::to_writer(&mut waiting.text, entry).is_ok() {
            waiting.text.push(b'\n');
            waiting.count += 1;
        }
        drop(waiting);
        self.news.notify_one();
    }

    /// Writes lines as they come; never ends.
    pub(super) async fn keep_writing(self: &Arc<Self>) {
        loop {
            self.news.notified().await;
            self.write_aside().await;
        }
    }

    /// Writes what is left, if the disk does not hang.
    pub(super) async fn finish(self: &Arc<Self>) {
        if timeout(LAST_LINES, self.write_aside()).await.is_err() {
            warn!("log.requests: the disk hangs; the last exchanges are not in the file");
        }
    }

    async fn write_aside(self: &Arc<Self>) {
        let lines = self.clone();
        // If there is no thread, they wait for the next ones.
        let _ = spawn_blocking(move || lines.write()).await;
    }

    /// Writes the lines that wait. What cannot be written is lost, and the log says so.
    fn write(&self) {
        // The file first: whoever has it writes what is the oldest.
        let mut file = self.file.lock();
        let Waiting { text, count, lost } = std::mem::take(&mut *self.waiting.lock());
        if self.is_stale.swap(false, Ordering::AcqRel) {
            *file = None;
        }
        if lost > 0 && self.failures.admits() {
            warn!("log.requests: the disk was too slow; {lost} exchanges are not in the file");
        }
        if count == 0 {
            return;
        }
        if let Err(error) = self.write_to(&mut file, &text) {
            *file = None;
            if self.failures.admits() {
                warn!("log.requests: {error}; {count} exchanges are not in the file");
            }
        }
    }

    fn write_to(&self, file: &mut Option<File>, text: &[u8]) -> Result<(), PrivateFileError> {
        let unwritable = |error| PrivateFileError::Unwritable(self.path.clone(), error);
        let mut opened = match file.take() {
            Some(opened) => opened,
            None => start(&self.path)?,
        };
        let length = opened.metadata().map_err(unwritable)?.len();
        opened.write_all(text).map_err(|error| {
            // A line that was written in part would spoil the next one.
            let _ = opened.set_len(length);
            unwritable(error)
        })?;
        *file = Some(opened);
        Ok(())
    }
}

/// Opens the file. A new one begins with a note.
fn start(path: &Path) -> Result<File, PrivateFileError> {
    let unwritable = |error| PrivateFileError::Unwritable(path.to_owned(), error);
    let mut file = private_file::append(path)?;
    if file.metadata().map_err(unwritable)?.len() == 0 {
        let note = json!({"version": 1, "sanitised": true, "note": NOTE});
        writeln!(file, "{note}").map_err(unwritable)?;
    } else if !ends_with_line(&mut file).map_err(unwritable)? {
        // A disk that was full left a part of a line: the next one must not be added to it.
        writeln!(file).map_err(unwritable)?;
    }
    Ok(file)
}

fn ends_with_line(file: &mut File) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;

    use super::*;

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn write(file: &Lines, ids: &[&str]) {
        ids.iter().for_each(|id| file.add(&entry(id)));
        file.write();
    }

    fn entry(id: &str) -> Entry {
        Entry { id: id.into(), path: "/v1/\"\n".into(), ..Entry::default() }
    }

    #[test]
    fn each_exchange_is_a_line_and_a_file_that_was_moved_is_followed_by_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("requests"), folder.path().join("old"));
        let file = Lines::open(&path).unwrap();
        write(&file, &["a", "b"]);
        fs::rename(&path, &old).unwrap();
        file.reopen();
        write(&file, &["c"]);
        let first = lines(&old);
        assert_eq!((first.len(), &first[0]["sanitised"]), (3, &Value::Bool(true)));
        assert_eq!((&first[1]["id"], &first[2]["path"]), (&"a".into(), &"/v1/\"\n".into()));
        let second = lines(&path);
        assert_eq!((second.len(), &second[1]["id"]), (2, &"c".into()));
        drop(file);
        write(&Lines::open(&path).unwrap(), &["d"]);
        assert_eq!(lines(&path).len(), 3, "the note stands once");
    }

    #[test]
    fn a_line_that_broke_off_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests");
        write(&Lines::open(&path).unwrap(), &["a"]);
        let mut file = private_file::append(&path).unwrap();
        file.write_all(b"{\"id\":\"brok").unwrap();
        for id in ["b", "c"] {
            write(&Lines::open(&path).unwrap(), &[id]);
        }
        let text = fs::read_to_string(&path).unwrap();
        let ids =
            text.lines().map(|line| Some(serde_json::from_str::<Value>(line).ok()?["id"].clone()));
        let ids: Vec<_> = ids.skip(1).collect();
        assert_eq!(ids, [Some("a".into()), None, Some("b".into()), Some("c".into())]);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests");
        let file = Lines::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        file.reopen();
        write(&file, &["lost"]);
        fs::remove_dir(&path).unwrap();
        write(&file, &["kept"]);
        assert_eq!(lines(&path)[1]["id"], "kept");
    }

    #[test]
    fn lines_that_nobody_writes_take_bounded_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests");
        let file = Lines::open(&path).unwrap();
        let long = Entry { path: "x".repeat(4096), ..Entry::default() };
        for _ in 0..2000 {
            file.add(&long);
        }
        let waiting = file.waiting.lock();
        let (kept, lost) = (waiting.count, waiting.lost);
        assert!(waiting.text.len() < MAX_WAITING + 8192);
        assert!(kept > 500 && kept + lost == 2000, "{kept} {lost}");
        drop(waiting);
        file.write();
        assert_eq!(lines(&path).len(), 1 + kept);
        write(&file, &["later"]);
        assert_eq!(lines(&path).last().unwrap()["id"], "later");
    }
}
