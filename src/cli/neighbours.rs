//! Other proxies of this user, as the system shows them: also those whose store is in a folder that
//! nobody here knows, so that their run files are not found.

use std::fs;
use std::path::PathBuf;

use super::shell::quoted;
use crate::private_file::access::Access;

/// A process that serves.
pub(super) struct Neighbour {
    pub(super) pid: u32,
    /// Where it was started.
    folder: PathBuf,
    /// The flags that select its configuration, quoted for a shell.
    flags: String,
}

impl Neighbour {
    /// Names it for users.
    pub(super) fn named(&self) -> String {
        let Self { pid, folder, flags } = self;
        format!("process {pid} (started in {} as: pleo-proxy{flags})", folder.display())
    }
}

/// All of them but this process. None where the system does not show processes.
pub(super) fn all() -> Vec<Neighbour> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id()).filter_map(neighbour).collect()
}

fn neighbour(pid: u32) -> Option<Neighbour> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let name = fs::read_to_string(process.join("comm")).ok()?;
    let is_ours = fs::metadata(&process).is_ok_and(|it| Access::of(&it).is_ours());
    if name.trim_end() != "pleo-proxy" || !is_ours {
        return None;
    }
    let command = fs::read(process.join("cmdline")).ok()?;
    let command = String::from_utf8(command).ok()?;
    let words: Vec<_> = command.trim_end_matches('\0').split('\0').skip(1).collect();
    let flags = flags_of_serve(&words)?;
    Some(Neighbour { pid, folder: fs::read_link(process.join("cwd")).ok()?, flags })
}

/// The flags that name file and environment, if these are the arguments of a process that serves.
fn flags_of_serve(words: &[&str]) -> Option<String> {
    let (mut flags, mut words) = (String::new(), words.iter());
    while let Some(word) = words.next() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (*word, None),
        };
        match name {
            "serve" | "--json" => {}
            "--config" | "--environment" => {
                flags += &format!(" {name} {}", quoted(value.or(words.next().copied())?));
            }
            // Values may hold a password.
            "--set" | "--log" => drop(value.or_else(|| words.next().copied())),
            _ => return None,
        }
    }
    Some(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_serves_is_a_neighbour_and_its_values_stay_out() {
        let flags = |line: &str| flags_of_serve(&line.split_ascii_whitespace().collect::<Vec<_>>());
        assert_eq!(flags("").as_deref(), Some(""));
        let all =
            "--config a.toml --json --set upstream.proxy=http://u:p@h --environment=sandbox serve";
        assert_eq!(flags(all).as_deref(), Some(" --config a.toml --environment sandbox"));
        for other in
            ["login acme", "--config a.toml status", "sandbox --listen 127.0.0.1:0", "--config"]
        {
            assert_eq!(flags(other), None, "{other}");
        }
    }
}
