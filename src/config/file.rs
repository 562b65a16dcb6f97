//! Finding and reading the one configuration file.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::inputs::{FILE_VARIABLE, Flags, Variables};
use super::source::Source;
use crate::diagnostic::{Code, Diagnostic};
use crate::private_file::access::{Access, current_user};
use crate::private_file::text;

/// Largest file, in bytes: a larger one is a mistake.
const LIMIT: u64 = 1024 * 1024;
const NAME: &str = "proxy.toml";

/// Our folder below the XDG folders.
const FOLDER: &str = "pleo-proxy";

/// The configuration file and its mode.
pub(super) struct ConfigFile {
    pub(super) source: Source,
    mode: u32,
}

impl ConfigFile {
    /// The problem of a file that its group may change, if it is one.
    pub(super) fn group_writable(&self) -> Option<Diagnostic> {
        let path = self.source.path.display();
        (self.mode & 0o020 != 0).then(|| {
            let title = format!("{path} can be changed by its group (mode {:04o})", self.mode);
            let fix = format!("this is allowed in the sandbox only; run: chmod go-w {path}");
            Diagnostic::error(Code::File, title, fix)
        })
    }
}

/// Finds the file: the named one, else in the working folder, else in the user's configuration
/// folder.
pub(super) fn find(
    flags: &Flags,
    environment: &Variables,
) -> Result<Option<ConfigFile>, ConfigError> {
    let named = environment.get(FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(path) = flags.config.clone().or(named) {
        let path = flags.working_dir.join(path);
        let missing = || {
            file_error(
                format!("{} does not exist", path.display()),
                "name an existing file, or write one with `pleo-proxy init --config FILE`",
            )
        };
        return read(&path, flags)?.ok_or_else(missing).map(Some);
    }
    match read(&flags.working_dir.join(NAME), flags)? {
        Some(file) => Ok(Some(file)),
        None => usual(environment).map_or(Ok(None), |file| read(&file, flags)),
    }
}

/// The file of the user's configuration folder, if a home is known.
pub(super) fn usual(environment: &Variables) -> Option<PathBuf> {
    Some(xdg_folder(environment, "XDG_CONFIG_HOME", ".config")?.join(NAME))
}

/// Our folder below an XDG base folder. Relative values are ignored (XDG Base Directory
/// Specification).
pub(super) fn xdg_folder(
    environment: &Variables,
    variable: &str,
    below_home: &str,
) -> Option<PathBuf> {
    let absolute =
        |name: &str| environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(below_home)))?;
    Some(base.join(FOLDER))
}

fn read(path: &Path, flags: &Flags) -> Result<Option<ConfigFile>, ConfigError> {
    let Some((metadata, file)) = open(path).map_err(|error| unreadable(path, &error))? else {
        return Ok(None);
    };
    check(path, &metadata)?;
    let mut content = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut content).map_err(|error| unreadable(path, &error))?;
    if content.len() as u64 > LIMIT {
        let title = format!("{} is larger than 1 MiB", path.display());
        return Err(file_error(title, "name another file"));
    }
    // Without the byte order mark, so that columns are the same as in an editor.
    let text = text::decode(&content)
        .map_err(|error| Diagnostic::of(Code::File, format!("{} {error}", path.display())))?;
    let shown = path.strip_prefix(&flags.working_dir).unwrap_or(path).display().to_string();
    Ok(Some(ConfigFile {
        source: Source { path: path.into(), shown, text: text.to_owned() },
        mode: Access::of(&metadata).mode,
    }))
}

/// Opens a file without blocking if it is a FIFO. `None` if there is none.
fn open(path: &Path) -> io::Result<Option<(Metadata, File)>> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    match opened.and_then(|file| Ok(Some((file.metadata()?, file)))) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        opened => opened,
    }
}

/// A user who can change this file can send the tokens to another server.
fn check(path: &Path, metadata: &Metadata) -> Result<(), ConfigError> {
    let (access, shown) = (Access::of(metadata), path.display());
    if !metadata.is_file() {
        let title = format!("{shown} is not a regular file");
        return Err(file_error(title, "replace it by a file, or name another one with --config"));
    }
    if !access.is_ours_or_roots() {
        let title = format!("{shown} belongs to user {}, not to you or root", access.owner);
        let fix = format!("if you trust its content, run: chown {} {shown}", current_user());
        return Err(file_error(title, &fix));
    }
    if access.is_world_writable() {
        let title = format!("{shown} can be changed by anyone (mode {:04o})", access.mode);
        return Err(file_error(title, &format!("check its content, then run: chmod go-w {shown}")));
    }
    Ok(())
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    let title = format!("{} cannot be read: {error}", path.display());
    file_error(title, "make it readable for your user, or name another file with --config")
}

fn file_error(title: String, fix: &str) -> ConfigError {
    Diagnostic::error(Code::File, title, fix).into()
}
