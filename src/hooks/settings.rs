//! The settings of hooks.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::str::FromStr;

use rustix::fs::{Access, access};

use super::edges::Event;

/// First words that the shell knows itself (POSIX, Shell Command Language).
const BUILT_IN: [&str; 41] = [
    ".", "alias", "bg", "break", "case", "cd", "command", "continue", "echo", "eval", "exec",
    "exit", "export", "false", "for", "if", "kill", "printf", "pwd", "read", "return", "set",
    "shift", "test", "times", "trap", "true", "type", "umask", "until", "wait", "while", ":", "[",
    "getopts", "hash", "local", "readonly", "ulimit", "unalias", "unset",
];

/// Programs whose first argument is a script.
const SHELLS: [&str; 5] = ["sh", "bash", "dash", "zsh", "python3"];

/// A command line for `sh -c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCommand(String);

/// Why a text is no command.
#[derive(Debug, thiserror::Error)]
#[error("must not contain a zero byte")]
pub struct HookCommandError;

impl HookCommand {
    /// The command line.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Why its program cannot be run, as far as that can be told without a shell. `folder` is where
    /// it runs, and `path` the `PATH` that it gets.
    pub fn problem(&self, folder: &Path, path: Option<&str>) -> Option<String> {
        let mut words = self.0.split_ascii_whitespace();
        let program = words.next()?;
        // Anything else is for the shell to read.
        let is_plain =
            |it: &str| it.bytes().all(|it| it.is_ascii_alphanumeric() || b"_./+-".contains(&it));
        if !is_plain(program) {
            return None;
        }
        let script = words.next().filter(|it| is_plain(it) && !it.starts_with(['-', '+']));
        if let Some(script) = script.filter(|_| SHELLS.contains(&program))
            && !folder.join(script).exists()
        {
            return Some(format!("{script} does not exist"));
        }
        if program.contains('/') {
            return unusable(&folder.join(program)).map(|why| format!("{program} {why}"));
        }
        let is_in = |it: &str| unusable(&folder.join(it).join(program)).is_none();
        let is_found = BUILT_IN.contains(&program) || path?.split(':').any(is_in);
        (!is_found).then(|| format!("{program} is in no folder of PATH"))
    }
}

/// Why a file cannot be run.
fn unusable(file: &Path) -> Option<String> {
    match fs::metadata(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Some("does not exist".to_owned()),
        Err(error) => Some(format!("cannot be looked at: {error}")),
        Ok(it) if !it.is_file() => Some("is no file".to_owned()),
        Ok(_) if access(file, Access::EXEC_OK).is_err() => {
            Some("is not executable (chmod +x)".to_owned())
        }
        Ok(_) => None,
    }
}

impl FromStr for HookCommand {
    type Err = HookCommandError;

    fn from_str(text: &str) -> Result<Self, HookCommandError> {
        if text.contains('\0') { Err(HookCommandError) } else { Ok(Self(text.to_owned())) }
    }
}

impl fmt::Display for HookCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which command runs when.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// When an account needs a login.
    pub on_login_required: Option<HookCommand>,
    /// When it works again.
    pub on_recovered: Option<HookCommand>,
    /// When its refresh token has not been renewed for 50 days.
    pub on_grant_age: Option<HookCommand>,
}

impl Settings {
    /// Each command with the name of its setting.
    pub fn all(&self) -> [(&'static str, Option<&HookCommand>); 3] {
        [
            ("hooks.on_login_required", self.on_login_required.as_ref()),
            ("hooks.on_recovered", self.on_recovered.as_ref()),
            ("hooks.on_grant_age", self.on_grant_age.as_ref()),
        ]
    }

    /// True if nothing is to be run.
    pub(super) fn is_empty(&self) -> bool {
        self.all().into_iter().all(|(_, hook)| hook.is_none())
    }

    pub(super) fn of(&self, event: Event) -> Option<&HookCommand> {
        match event {
            Event::LoginRequired => self.on_login_required.as_ref(),
            Event::Recovered => self.on_recovered.as_ref(),
            Event::GrantAge => self.on_grant_age.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_program_that_cannot_be_run_is_noticed_and_what_the_shell_reads_is_not_judged() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, mode| {
            let path = folder.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        file("tell.sh", 0o755);
        file("notes.txt", 0o644);
        let problem = |hook: &str| {
            let hook: HookCommand = hook.parse().unwrap();
            hook.problem(folder.path(), Some("/does/not/exist:.:/bin")).unwrap_or_default()
        };
        for fine in [
            "./tell.sh x",
            "sh -c x",
            "tell.sh",
            "echo x > y",
            "A=1 nothing",
            "\"$HOME/x\"",
            "~/x",
            "",
        ] {
            assert_eq!(problem(fine), "", "{fine}");
        }
        for (wrong, why) in [
            ("./gone.sh", "does not exist"),
            ("./notes.txt", "is not executable"),
            ("/", "is no file"),
            ("sh gone.sh", "gone.sh does not exist"),
            ("notify-somebody -x", "in no folder of PATH"),
        ] {
            assert!(problem(wrong).contains(why), "{wrong}: {}", problem(wrong));
        }
        let bare: HookCommand = "notify-somebody".parse().unwrap();
        assert_eq!(bare.problem(folder.path(), None), None, "nobody knows the PATH");
    }
}
