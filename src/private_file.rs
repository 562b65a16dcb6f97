//! Files that hold secrets, and the folders they are in. Only a regular file of the right owner and
//! mode is read; [`access`] is the one place that judges owners and modes.

pub mod access;
pub mod folder;
pub mod lock;
pub mod text;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use access::{Access, current_user};
use text::NotText;

/// Why a private file was not read. Each names the path and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// Nothing is there.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// It is there and cannot be opened or read.
    #[error("{} cannot be read: {}", .0.display(), .1)]
    Unreadable(PathBuf, io::Error),
    /// It is there and cannot be written.
    #[error("{} cannot be written: {}", .0.display(), .1)]
    Unwritable(PathBuf, io::Error),
    /// A symlink, folder, device or FIFO.
    #[error("{} is not a regular file; put the file itself there", .0.display())]
    NotRegular(PathBuf),
    /// More than one name leads to the same content.
    #[error("{} has {} hard links; remove the others", .0.display(), .1)]
    Linked(PathBuf, u64),
    /// Another user's file.
    #[error("{} belongs to user {}, not to you; run: chown {} {}", .0.display(), .1, current_user(), .0.display())]
    AnotherUsers(PathBuf, u32),
    /// Group or others have access.
    #[error("{} has mode {:04o}, others may open it; run: chmod 600 {}", .0.display(), .1, .0.display())]
    TooPermissive(PathBuf, u32),
    /// Nothing is in it.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    /// It is not UTF-8 text.
    #[error("{} {}", .0.display(), .1)]
    NotText(PathBuf, NotText),
    /// Larger than anything that belongs there.
    #[error("{} is larger than {} bytes", .0.display(), .1)]
    TooLarge(PathBuf, u64),
}

impl PrivateFileError {
    /// See [`is_passing`].
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreadable(_, error) if is_passing(error))
    }
}

/// True if a resource was missing that other work gives back (open files, memory, threads): that
/// says nothing about the file, and a later attempt can succeed.
pub fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let wanting = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::INTR];
    match error.raw_os_error() {
        Some(code) => wanting.iter().any(|errno| errno.raw_os_error() == code),
        // Not the system's error but one of the store's threads: the work was not done.
        None => error.kind() == io::ErrorKind::Other,
    }
}

/// Reads a private file whole: not through a symlink, never waiting on a FIFO, at most `limit`
/// bytes.
///
/// # Errors
/// [`PrivateFileError`]; nothing is changed or repaired.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, PrivateFileError> {
    read_with_metadata(path, limit).map(|(content, _)| content)
}

/// The same, with the metadata of the file whose content it is.
///
/// # Errors
/// [`PrivateFileError`]; nothing is changed or repaired.
pub fn read_with_metadata(
    path: &Path,
    limit: u64,
) -> Result<(Vec<u8>, Metadata), PrivateFileError> {
    let (file, metadata) = open(path)?;
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content).map_err(|error| unreadable(path, error))?;
    if content.len() as u64 > limit {
        return Err(PrivateFileError::TooLarge(path.into(), limit));
    }
    Ok((content, metadata))
}

/// Reads a private file as one piece of text, without a byte order mark and without line breaks at
/// its end.
///
/// # Errors
/// [`PrivateFileError`]; an empty file is one.
pub fn read_text(path: &Path, limit: u64) -> Result<Zeroizing<String>, PrivateFileError> {
    let content = Zeroizing::new(read(path, limit)?);
    let text =
        text::decode(&content).map_err(|error| PrivateFileError::NotText(path.into(), error))?;
    match text.trim_end_matches(['\r', '\n']) {
        text if text.trim().is_empty() => Err(PrivateFileError::Empty(path.into())),
        text => Ok(Zeroizing::new(text.to_owned())),
    }
}

/// Writes a private file that does not exist yet; it is there as a whole or not at all.
///
/// # Errors
/// It exists (`AlreadyExists`), or it cannot be written.
pub fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    written(path, content)?.persist_noclobber(path).map(drop).map_err(|error| error.error)
}

/// Writes a private file in place of one that may exist; it is replaced as a whole.
///
/// # Errors
/// It cannot be written; what was there stays.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    written(path, content)?.persist(path).map(drop).map_err(|error| error.error)
}

/// A private file with this content and another name in the same folder.
fn written(path: &Path, content: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Opens a private file for reading. The opened file is checked, not the name, which may lead to
/// another file a moment later.
fn open(path: &Path) -> Result<(File, Metadata), PrivateFileError> {
    let flags =
        rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PrivateFileError::Missing(path.into()));
        }
        Err(_) if is_symlink(path) => return Err(PrivateFileError::NotRegular(path.into())),
        Err(error) => return Err(unreadable(path, error)),
    };
    let metadata = file.metadata().map_err(|error| unreadable(path, error))?;
    check(path, &metadata)?;
    Ok((file, metadata))
}

/// Opens a private file to add to its end and to read it, and makes it (mode 600) if it is missing.
///
/// # Errors
/// [`PrivateFileError`]; nothing is changed or repaired.
pub fn append(path: &Path) -> Result<File, PrivateFileError> {
    let flags =
        rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let mut options = OpenOptions::new();
    options
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed());
    let file = options.open(path).map_err(|error| match is_symlink(path) {
        true => PrivateFileError::NotRegular(path.into()),
        false => unreadable(path, error),
    })?;
    let metadata = file.metadata().map_err(|error| unreadable(path, error))?;
    check(path, &metadata)?;
    Ok(file)
}

fn check(path: &Path, metadata: &Metadata) -> Result<(), PrivateFileError> {
    if !metadata.is_file() {
        return Err(PrivateFileError::NotRegular(path.into()));
    }
    // Zero links: another process has just replaced the file, and the opened one is still whole.
    if metadata.nlink() > 1 {
        return Err(PrivateFileError::Linked(path.into(), metadata.nlink()));
    }
    let access = Access::of(metadata);
    if !access.is_ours_or_roots() {
        return Err(PrivateFileError::AnotherUsers(path.into(), access.owner));
    }
    if access.is_too_permissive_for_credential() {
        return Err(PrivateFileError::TooPermissive(path.into(), access.mode));
    }
    Ok(())
}

fn is_symlink(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink())
}

fn unreadable(path: &Path, error: io::Error) -> PrivateFileError {
    PrivateFileError::Unreadable(path.into(), error)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn private(folder: &Path, name: &str, content: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    #[test]
    fn reads_a_file_that_is_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = private(folder.path(), "key", "hush");
        assert_eq!(read(&path, 4).unwrap(), b"hush");
        assert!(matches!(read(&path, 3), Err(PrivateFileError::TooLarge(..))));
    }

    #[test]
    fn a_file_to_add_to_is_made_for_us_alone_and_a_lax_or_linked_one_is_refused() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        append(&path).unwrap().write_all(b"a").unwrap();
        append(&path).unwrap().write_all(b"b").unwrap();
        assert_eq!(read(&path, 9).unwrap(), b"ab");
        symlink(&path, folder.path().join("link")).unwrap();
        let linked = append(&folder.path().join("link"));
        assert!(matches!(linked, Err(PrivateFileError::NotRegular(_))), "{linked:?}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(append(&path), Err(PrivateFileError::TooPermissive(..))));
    }

    #[test]
    fn text_of_any_editor_is_the_same_text() {
        let folder = tempfile::tempdir().unwrap();
        for written in ["hush", "hush\n", "hush\r\n", "\u{feff}hush\r\n\r\n"] {
            assert_eq!(
                *read_text(&private(folder.path(), "key", written), 99).unwrap(),
                "hush",
                "{written:?}"
            );
        }
        assert_eq!(
            *read_text(&private(folder.path(), "key", " hush \n"), 99).unwrap(),
            " hush ",
            "a space may belong"
        );
        for nothing in ["", "\n", "\u{feff}", " \r\n"] {
            let empty = read_text(&private(folder.path(), "key", nothing), 99);
            assert!(matches!(empty, Err(PrivateFileError::Empty(_))), "{nothing:?}");
        }
        let utf_16 =
            read_text(&private(folder.path(), "key", "h\0u\0"), 99).unwrap_err().to_string();
        assert!(utf_16.contains("UTF-16") && utf_16.contains("save it as UTF-8"), "{utf_16}");
    }

    #[test]
    fn a_file_that_is_replaced_meanwhile_reads_as_one_of_its_versions() {
        let folder = tempfile::tempdir().unwrap();
        let path = private(folder.path(), "key", "0");
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for version in 1..=4000 {
                    let next = private(folder.path(), "next", &version.to_string());
                    fs::rename(next, &path).unwrap();
                }
            });
            let mut last = 0;
            while !writer.is_finished() {
                let seen =
                    String::from_utf8(read(&path, 9).unwrap()).unwrap().parse::<u32>().unwrap();
                assert!(last <= seen, "{seen} after {last}");
                last = seen;
            }
        });
    }

    #[test]
    fn refuses_lax_linked_symlinked_and_special_files_and_leaves_them_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = private(folder.path(), "key", "hush");
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(read(&link, 9), Err(PrivateFileError::NotRegular(..))));
        assert!(matches!(read(folder.path(), 9), Err(PrivateFileError::NotRegular(..))));
        assert!(matches!(read(&folder.path().join("none"), 9), Err(PrivateFileError::Missing(..))));

        fs::hard_link(&path, folder.path().join("twin")).unwrap();
        assert!(matches!(read(&path, 9), Err(PrivateFileError::Linked(_, 2))));
        fs::remove_file(folder.path().join("twin")).unwrap();

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = read(&path, 9).unwrap_err();
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
