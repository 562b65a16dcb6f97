//! Folders that only their owner can enter.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::access::{Access, current_user};

/// Why a folder is not private, or not there.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder cannot be made.
    #[error("{} cannot be made: {}", .0.display(), .1)]
    Uncreatable(PathBuf, io::Error),
    /// The folder cannot be read.
    #[error("{} cannot be read: {}", .0.display(), .1)]
    Unreadable(PathBuf, io::Error),
    /// Something else has this name.
    #[error("{} is not a folder, or is a symlink to one", .0.display())]
    NotFolder(PathBuf),
    /// Another user's folder.
    #[error("{} belongs to user {}, not to you; run: chown {} {}", .0.display(), .1, current_user(), .0.display())]
    AnotherUsers(PathBuf, u32),
    /// Group or others have access.
    #[error("{} has mode {:04o}, others may enter it; run: chmod 700 {}", .0.display(), .1, .0.display())]
    TooPermissive(PathBuf, u32),
}

/// Makes a folder that only we can enter, and the missing folders above it. One that exists is left
/// as it is.
///
/// # Errors
/// The system's reason.
pub fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes a folder that only we can enter, or checks the one that is there.
///
/// # Errors
/// [`FolderError`]; nothing is repaired.
pub fn make_or_check(folder: &Path) -> Result<(), FolderError> {
    make(folder).map_err(|error| FolderError::Uncreatable(folder.into(), error))?;
    check(folder)
}

/// Checks that a folder is one that only we can enter, and not a symlink.
///
/// # Errors
/// [`FolderError`]; nothing is made or repaired.
pub fn check(folder: &Path) -> Result<(), FolderError> {
    let metadata = fs::symlink_metadata(folder)
        .map_err(|error| FolderError::Unreadable(folder.into(), error))?;
    check_metadata(folder, &metadata)
}

/// The same for a folder that was opened or looked up already.
///
/// # Errors
/// [`FolderError`]; nothing is repaired.
pub fn check_metadata(folder: &Path, metadata: &Metadata) -> Result<(), FolderError> {
    let access = Access::of(metadata);
    if !metadata.is_dir() {
        return Err(FolderError::NotFolder(folder.into()));
    }
    if !access.is_ours() {
        return Err(FolderError::AnotherUsers(folder.into(), access.owner));
    }
    if access.is_too_permissive() {
        return Err(FolderError::TooPermissive(folder.into(), access.mode));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_folder_is_made_private_and_one_that_others_may_enter_is_refused_unchanged() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("a/b");
        assert!(matches!(check(&folder), Err(FolderError::Unreadable(..))), "checking makes none");
        make_or_check(&folder).unwrap();
        for made in [&folder, folder.parent().unwrap()] {
            check(made).unwrap();
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        let refused = make_or_check(&folder).unwrap_err();
        assert!(matches!(refused, FolderError::TooPermissive(_, 0o750)), "{refused}");
        assert!(refused.to_string().contains("chmod 700"), "{refused}");
        let link = temporary.path().join("link");
        symlink(folder.parent().unwrap(), &link).unwrap();
        assert!(matches!(check(&link), Err(FolderError::NotFolder(_))));
    }
}
