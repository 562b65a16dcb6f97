//! The unix socket: only its owner can reach it, and one that a killed process left behind is
//! replaced.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::private_file::access::Access;
use crate::private_file::folder::{self, FolderError};

/// The file of a bound socket, removed when dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: a file that another process put there since then is left alone.
    identity: (u64, u64),
    /// While this is open no other process takes the socket for a stale one, and the inode is not
    /// reused.
    _socket: UnixListener,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| identity(&metadata) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds `path` with mode 0600, in a folder that only its owner may enter.
///
/// # Errors
/// The folder is open to others, somebody listens there, or something else has the name.
pub(super) fn bind(path: &Path, backlog: i32) -> io::Result<(UnixListener, SocketFile)> {
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder::make(parent)?;
    let opened = File::open(parent)?;
    // In a folder that others may enter they could replace the socket with their own.
    folder::check_metadata(parent, &opened.metadata()?).map_err(refused_folder)?;
    // Two processes that start at once must not take each other's socket for a stale one. Unlocked
    // with the handle.
    opened.lock()?;
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    rustix::net::listen(&listener, backlog)?;
    let identity = identity(&fs::symlink_metadata(path)?);
    let file = SocketFile { path: path.into(), identity, _socket: listener.try_clone()? };
    Ok((listener, file))
}

fn refused_folder(error: FolderError) -> io::Error {
    let problem = match error {
        FolderError::AnotherUsers(folder, owner) => format!(
            "its folder {} belongs to user {owner}, not to you; use a folder of yours",
            folder.display()
        ),
        error => format!("its folder {error}"),
    };
    io::Error::new(io::ErrorKind::PermissionDenied, problem)
}

/// Removes a socket that no process listens on, and nothing else.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let taken = |problem: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, problem));
    if !metadata.file_type().is_socket() {
        return taken("something that is not a socket has this name");
    }
    if !Access::of(&metadata).is_ours() {
        return taken("another user's socket has this name");
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(_) => taken("it is in use"),
        Err(error) => Err(error),
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
    }

    #[test]
    fn only_the_owner_can_reach_the_socket_and_its_file_is_removed() {
        let folder = folder();
        let path = folder.path().join("deep/api.sock");
        let (listener, file) = bind(&path, 1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_that_others_may_enter_is_refused_with_the_fix() {
        let folder = folder();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let error = bind(&folder.path().join("api.sock"), 1).unwrap_err().to_string();
        assert!(error.contains("0750") && error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_nothing_else_is() {
        let folder = folder();
        let path = folder.path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, file) = bind(&path, 1).unwrap();
        assert_eq!(bind(&path, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse, "a live one");
        drop((listener, file));
        fs::write(&path, "kept").unwrap();
        assert_eq!(bind(&path, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse, "a file");
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    }

    #[test]
    fn a_file_that_another_process_put_there_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("api.sock");
        let (_listener, file) = bind(&path, 1).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }
}
