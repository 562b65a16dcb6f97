//! Problems of a configuration or of a set-up as values, displayed like those of a compiler.

use std::fmt::{self, Display};
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::outbound::Cause;

/// One problem. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The kind of problem.
    pub code: Code,
    /// Whether the proxy can start.
    pub severity: Severity,
    /// What is wrong, with the name of the setting, variable, flag or file.
    pub title: String,
    /// The place in the file, if it is about one.
    pub place: Option<Place>,
    /// What to do next; empty if the title says it.
    pub fix: String,
}

/// The kind of problem of a [`Diagnostic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Code {
    /// The file is not valid TOML.
    Syntax,
    /// A key, section, variable or flag that does not exist.
    UnknownName,
    /// A value that its setting does not accept.
    InvalidValue,
    /// Settings that conflict.
    Conflict,
    /// Something that a login needs.
    Missing,
    /// A value that was copied from an example.
    Placeholder,
    /// The client secret is missing, or its file cannot be used.
    ClientSecret,
    /// A file that cannot be used.
    File,
    /// A file with a password that other users can read.
    ReadablePassword,
    /// Works, but is probably not intended.
    Oddity,
    /// A redirect URI that Pleo does not register, or that leads nowhere.
    RedirectUri,
    /// The folder of the store cannot be used.
    StoreFolder,
    /// The database of the store cannot be used.
    Database,
    /// Its tables are missing, or an earlier version's.
    Tables,
    /// Its role has too few rights, or all.
    Role,
    /// It may lose what was saved.
    Durability,
    /// The disk of the store is full or cannot be written.
    Disk,
    /// An account's record cannot be used.
    Record,
    /// An account's lock file cannot be used.
    LockFile,
    /// Another process holds an account's lock.
    LockHeld,
    /// This machine's clock is wrong.
    Clock,
    /// The system's trust roots, or the outbound proxy's setting, cannot be used.
    Outbound,
    /// A server cannot be reached.
    Unreachable(Cause),
    /// Another program listens at a configured address.
    PortTaken,
    /// Another proxy listens there.
    PortTakenByProxy,
    /// The running proxy does not respond.
    Unresponsive,
    /// A background task of the running proxy has stopped.
    StoppedTask,
    /// The kernel does not say whose a connection is.
    PeerCheck,
    /// Few files may be open.
    FileLimit,
    /// An account needs a login.
    LoginRequired,
    /// An account is in trouble.
    AccountState,
    /// The authorization server does not accept an account's refresh token.
    GrantInactive,
    /// It did not say whether it does.
    GrantUnknown,
    /// A refresh token is about to expire.
    GrantAge,
    /// An API key is about to expire.
    KeyAge,
    /// Tokens or API keys are kept as they are though there is a key to seal them, or should be.
    Unsealed,
    /// Several accounts or programs hold one grant.
    SecondOwner,
    /// A login lacks scopes that are asked for.
    ScopesNotGranted,
    /// A login lacks scopes that operations in use need.
    ScopesNeeded,
    /// A running proxy does not have the settings of its file.
    Outdated,
    /// Something did not answer in time.
    Hangs,
}

impl Code {
    /// The code's name, such as `port_taken`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable(cause) => cause.into(),
            code => code.into(),
        }
    }
}

/// How serious a [`Diagnostic`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The proxy does not start, or cannot work.
    Error,
    /// The proxy works, but this is probably not intended, or will end.
    Warning,
}

/// A place in the configuration file, lines and columns counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as the user would name it.
    pub file: String,
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
    pub(crate) excerpt: Option<Excerpt>,
}

/// The part of a line that may be shown, and the span of the caret in its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excerpt {
    pub(crate) text: String,
    pub(crate) span: Range<usize>,
}

impl Diagnostic {
    /// An error without a place in the file.
    pub(crate) fn error(code: Code, title: impl Display, fix: impl Display) -> Self {
        let (title, fix) = (one_line(&title.to_string()), one_line(&fix.to_string()));
        Self { code, severity: Severity::Error, title, place: None, fix }
    }

    /// The error of a part, whose text says what to do after `; `.
    pub(crate) fn of(code: Code, error: impl Display) -> Self {
        let text = error.to_string();
        let (title, fix) = text.split_once("; ").unwrap_or((&text, ""));
        Self::error(code, title, fix)
    }

    /// A warning without a place in the file.
    pub(crate) fn warning(code: Code, title: impl Display, fix: impl Display) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, title, fix) }
    }

    /// Title and fix in one line.
    pub fn sentence(&self) -> String {
        if self.fix.is_empty() {
            self.title.clone()
        } else {
            format!("{}; {}", self.title, self.fix)
        }
    }
}

/// Without colours, because it also goes to logs.
impl Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(&self.title));
        group = match &self.place {
            Some(Place { file, line, excerpt: Some(excerpt), .. }) => {
                let caret = AnnotationKind::Primary.span(excerpt.span.clone());
                group.element(
                    Snippet::source(&excerpt.text).line_start(*line).path(file).annotation(caret),
                )
            }
            Some(Place { file, line, column, excerpt: None }) => {
                group.element(Origin::path(file).line(*line).char_column(*column))
            }
            None => group,
        };
        if !self.fix.is_empty() {
            group = group.element(Level::HELP.message(&self.fix));
        }
        f.write_str(&Renderer::plain().render(&[group]))
    }
}

/// Untrusted text, safe to print on one line of a terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}
