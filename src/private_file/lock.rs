//! A lock that processes of this machine share: a private file, locked by the kernel for as long as
//! it is open, and never removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// A lock. The kernel frees it when it is dropped, and when the process dies.
#[derive(Debug)]
pub struct FileLock {
    /// Open for as long as the lock is held.
    _file: File,
}

/// How an attempt to lock ended.
#[derive(Debug)]
pub enum Attempt {
    /// By this lock.
    Locked(FileLock),
    /// Another process holds it, named if that is known.
    Busy(Option<String>),
}

/// Tries to take the lock of a file, which is made if it is missing.
///
/// # Errors
/// The file cannot be opened, or the file system knows no locks.
pub fn attempt(path: &Path) -> io::Result<Attempt> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC).bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    let mut file = options.open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Ok(Attempt::Busy(holder(&mut file))),
        Err(fs::TryLockError::Error(error)) => return Err(error),
    }
    // A lock on a file that was removed or replaced meanwhile keeps nobody out.
    if !is_named(&file, path) {
        return Ok(Attempt::Busy(None));
    }
    // Shown to people only: the lock holds without it.
    let _ = write_holder(&mut file);
    Ok(Attempt::Locked(FileLock { _file: file }))
}

/// True if the open file is the one that has this name now.
fn is_named(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(open), Ok(named)) => identity(open) == identity(named),
        _ => false,
    }
}

fn holder(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    let process: u32 = text.trim().parse().ok()?;
    Some(format!("process {process}"))
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}
