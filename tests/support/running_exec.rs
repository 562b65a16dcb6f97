//! Programs below `exec` while they run: what they are told, what they print, how they end; on a
//! terminal too.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::{Value, json};

use super::SUMMARY;
use super::command::stderr;
use super::wait_until;

/// How a process ended: its exit code, or the signal that ended it.
pub type Ending = (Option<i32>, Option<i32>);

/// Without whether it has left a core.
pub fn ending(status: ExitStatus) -> Ending {
    (status.code(), status.signal())
}

/// Starts a command as a shell starts a job, in a process group of its own. In one whose starters are
/// all of another session, as below a service manager, the system discards a stop from the keyboard:
/// setpgid(2), "orphaned".
pub fn start_job(command: &mut Command) -> Child {
    command.process_group(0).spawn().unwrap()
}

/// Waits until a process is another program: what a shell is sent while it becomes one may be lost.
pub fn wait_for_program(pid: &str, name: &str) {
    wait_until(name, || {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    });
}

pub fn send(signal: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(sent.unwrap().success(), "{signal}");
}

/// The next line that a child prints.
pub fn line(child: &mut Child) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    let stdout = child.stdout.as_mut().unwrap();
    while stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// The rest of what it prints, and how it ended.
pub fn rest(mut child: Child) -> (String, Ending) {
    let mut rest = String::new();
    child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    (rest, ending(child.wait().unwrap()))
}

/// The state of a process, such as `S` or `T`: proc_pid_stat(5).
pub fn state(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').next().map(str::to_owned)
}

/// Runs a command on a terminal; what it printed and its exit code. None without Python.
pub fn on_pty(command: &Command, steps: &Value) -> Option<(String, i64)> {
    let ran = on_pty_unended(command, steps)?.wait_with_output().unwrap();
    let told: Value = serde_json::from_slice(&ran.stdout)
        .unwrap_or_else(|_| panic!("{command:?} {steps}: {}", stderr(&ran)));
    let output = told["output"].as_str().unwrap();
    // The echo of a key may stand before it.
    let output = output.rsplit_once(SUMMARY).map_or(output, |(output, _)| output);
    Some((output.to_owned(), told["code"].as_i64().unwrap()))
}

/// The same, without waiting for its end.
pub fn on_pty_unended(command: &Command, steps: &Value) -> Option<Child> {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    let asked = json!({"command": words, "steps": steps}).to_string();
    let driver = include_str!("terminal.py");
    let mut python = Command::new("python3");
    python.args(["-c", driver, &asked]).current_dir(command.get_current_dir().unwrap()).env_clear();
    python.envs(command.get_envs().map(|(name, value)| (name, value.unwrap())));
    let started = python.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    if started.is_err() {
        eprintln!("SKIPPED: terminals need python3");
    }
    started.ok()
}
