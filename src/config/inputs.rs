//! What the configuration is read from: flags, variables and the file; and which of them set a
//! value.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use crate::diagnostic::one_line;

/// Holds the client secret, for use without a file.
pub(crate) const SECRET_VARIABLE: &str = "PLEO_PROXY_CLIENT_SECRET";
/// Holds the keys of the store, for use without a file.
pub(crate) const STORE_KEY_VARIABLE: &str = "PLEO_PROXY_STORE_KEY";
/// Holds the URL of the store's database, for use without a file.
pub(crate) const STORE_URL_VARIABLE: &str = "PLEO_PROXY_STORE_URL";
/// Names systemd's folder of credentials.
pub(crate) const CREDENTIALS_FOLDER: &str = "CREDENTIALS_DIRECTORY";
/// Names the file, like `--config`.
pub(crate) const FILE_VARIABLE: &str = "PLEO_PROXY_CONFIG";
/// What `exec` gives its program: where its listener is, that it runs below one (its process id),
/// its account, and the key of its listener. No settings.
pub(crate) const BASE_URL_VARIABLE: &str = "PLEO_BASE_URL";
pub(crate) const ACCOUNT_VARIABLE: &str = "PLEO_PROXY_ACCOUNT";
pub(crate) const EXEC_VARIABLE: &str = "PLEO_PROXY_EXEC";
pub(crate) const KEY_VARIABLE: &str = "PLEO_PROXY_KEY";
/// The prefix of all our variables.
pub(crate) const VARIABLE_PREFIX: &str = "PLEO_PROXY_";

/// Environment variables by name.
pub(super) type Variables = BTreeMap<String, String>;

/// The flags that affect the configuration.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// `--environment NAME`.
    pub environment: Option<String>,
    /// Every `--set KEY=VALUE`, in order.
    pub set: Vec<String>,
    /// Base of relative paths in flags and variables, and the first place to look for `proxy.toml`.
    pub working_dir: PathBuf,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in, or set by the environment.
    Default,
    /// A line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// A variable of this name.
    Variable(String),
    /// `--set` or `--environment`.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => {
                write!(f, "{}:{line}", one_line(&path.display().to_string()))
            }
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// The place of a setting in the file.
#[derive(Clone)]
pub(super) struct Spans {
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
    pub(super) items: Vec<Range<usize>>,
}

/// The layer that set a value.
#[derive(Clone)]
pub(super) enum Layer {
    Default,
    File(Spans),
    Variable(String),
    Flag(&'static str),
}
