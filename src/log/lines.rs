//! The file of `log.requests`: a line of JSON for each exchange.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde_json::json;
use tracing::warn;

use super::entry::Entry;
use crate::private_file::{self, PrivateFileError};
use crate::telemetry::Repeats;

/// What the first line of a new file says.
const NOTE: &str =
    "Sanitised: secrets are masked, values in queries are left out. One exchange a line follows.";

/// Exchanges that wait to be written, at most: more than come while a disk is busy for a moment.
const MAX_WAITING: usize = 16 * 1024;

/// The file.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    waiting: Mutex<Waiting>,
    file: Mutex<Option<File>>,
    /// It was moved away, and is to be opened anew.
    is_stale: AtomicBool,
    failures: Repeats,
}

/// What is to be written.
#[derive(Debug, Default)]
struct Waiting {
    entries: Vec<Entry>,
    /// Those for which there was no room.
    lost: usize,
}

impl Lines {
    /// Opens the file, and makes it if it is missing.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, PrivateFileError> {
        let file = start(path)?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            waiting: Mutex::default(),
            file: Mutex::new(Some(file)),
            is_stale: AtomicBool::new(false),
            failures: Repeats::new("exchanges could not be written to the file of log.requests"),
        }))
    }

    /// The next line goes to a new file, if this one was moved away.
    pub(super) fn reopen(&self) {
        self.is_stale.store(true, Ordering::Release);
    }

    /// An exchange is to be written. Never waits for the disk: without room it is lost, and the log
    /// says so.
    pub(super) fn add(&self, entry: impl FnOnce() -> Entry) {
        let mut waiting = self.waiting.lock();
        if waiting.entries.len() < MAX_WAITING {
            waiting.entries.push(entry());
        } else {
            waiting.lost += 1;
        }
    }

    /// Writes a line for each exchange that waits. What cannot be written is lost, and the log says
    /// so.
    pub(super) fn write(&self) {
        let mut file = self.file.lock();
        let Waiting { entries, mut lost } = std::mem::take(&mut *self.waiting.lock());
        let mut text = Vec::new();
        for entry in &entries {
            // An entry always has a JSON form.
            if serde_json::to_writer(&mut text, entry).is_ok() {
                text.push(b'\n');
            }
        }
        if self.is_stale.swap(false, Ordering::AcqRel) {
            *file = None;
        }
        let mut why = "the disk is too slow".to_owned();
        if let Err(error) = self.write_to(&mut file, &text) {
            *file = None;
            lost += entries.len();
            why = error.to_string();
        }
        if lost > 0 && self.failures.admits() {
            warn!("log.requests: {why}; {lost} exchanges are not in the file");
        }
    }

    fn write_to(&self, file: &mut Option<File>, text: &[u8]) -> Result<(), PrivateFileError> {
        let mut opened = match file.take() {
            Some(opened) => opened,
            None => start(&self.path)?,
        };
        opened
            .write_all(text)
            .map_err(|error| PrivateFileError::Unwritable(self.path.clone(), error))?;
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

    fn entry(id: &str) -> Entry {
        Entry { id: id.into(), path: "/v1/\"\n".into(), ..Entry::default() }
    }

    fn write(file: &Lines, ids: &[&str]) {
        ids.iter().for_each(|id| file.add(|| entry(id)));
        file.write();
    }

    #[test]
    fn what_a_slow_disk_leaves_no_room_for_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests");
        let file = Lines::open(&path).unwrap();
        for _ in 0..MAX_WAITING + 3 {
            file.add(|| entry("a"));
        }
        assert_eq!(file.waiting.lock().lost, 3);
        file.write();
        assert_eq!(lines(&path).len(), MAX_WAITING + 1);
        write(&file, &["b"]);
        assert_eq!(lines(&path).last().unwrap()["id"], "b");
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
}
