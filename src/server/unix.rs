//! The unix socket: only its owner can reach it, and one that a killed process left behind is taken
//! over.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::private_file::access::Access;
use crate::private_file::folder::{self, FolderError};

/// The name of a bound socket, removed when dropped.
#[derive(Debug)]
pub(super) struct Name {
    path: PathBuf,
    /// Device and number of the file: whoever was given the name since then keeps it.
    file: (u64, u64),
    /// As long as this is open nobody takes the socket for a dead one's, and the file's number is
    /// not used again.
    _socket: UnixListener,
}

impl Drop for Name {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.file);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds `path`, mode 0600, in a folder that is its owner's alone.
///
/// # Errors
/// The folder is open to others, somebody listens there, or something else has the name.
pub(super) fn bind(path: &Path, backlog: i32) -> io::Result<(UnixListener, Name)> {
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder::make(parent)?;
    let opened = File::open(parent)?;
    // In a folder that others can write to, they could replace the socket by their own.
    folder::check_metadata(parent, &opened.metadata()?).map_err(refused_folder)?;
    // Two that start at once must not each take the other's socket for a dead one's. Freed with the
    // handle.
    opened.lock()?;
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    rustix::net::listen(&listener, backlog)?;
    let file = identity(&fs::symlink_metadata(path)?);
    let name = Name { path: path.into(), file, _socket: listener.try_clone()? };
    Ok((listener, name))
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

/// Removes a socket that nobody listens on any more, and nothing else.
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
    fn the_socket_is_its_owners_alone_and_goes_with_its_name() {
        let folder = folder();
        let path = folder.path().join("deep/api.sock");
        let (listener, name) = bind(&path, 1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        drop((listener, name));
        assert!(!path.exists());
    }

    #[test]
    fn a_lax_folder_is_refused_with_its_mend() {
        let folder = folder();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let error = bind(&folder.path().join("api.sock"), 1).unwrap_err().to_string();
        assert!(error.contains("0750") && error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_dead_socket_is_taken_over_and_nothing_else_is() {
        let folder = folder();
        let path = folder.path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, name) = bind(&path, 1).unwrap();
        assert_eq!(bind(&path, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse, "a live one");
        drop((listener, name));
        fs::write(&path, "kept").unwrap();
        assert_eq!(bind(&path, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse, "a file");
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    }

    #[test]
    fn a_name_that_somebody_took_over_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("api.sock");
        let (_listener, name) = bind(&path, 1).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(name);
        assert!(path.exists());
    }
}
