//! A command on a terminal of its own, driven by Python's pty module.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// Runs a command on a terminal, step by step: `expect` waits for a text, `send` types one. The
/// terminal stays open after the command, so that its state can be seen.
const DRIVER: &str = r#"
import fcntl, json, os, pty, select, subprocess, sys, termios, time
task = json.loads(sys.argv[1])
master, slave = pty.openpty()
fcntl.ioctl(slave, termios.TIOCSWINSZ, b'\x18\x00\x64\x00\x00\x00\x00\x00')
child = subprocess.Popen(task['argv'], env=task['env'], cwd=task['cwd'], stdin=slave, stdout=slave,
    stderr=slave, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
seen, at, end = b'', 0, time.time() + 60
def read():
    global seen
    if select.select([master], [], [], 0.1)[0]:
        seen += os.read(master, 65536)
        return True
    assert time.time() < end, seen
    return False
for kind, text in task['steps']:
    if kind == 'send':
        os.write(master, text.encode())
        continue
    while text.encode() not in seen[at:]:
        assert read() or child.poll() is None or read(), (text, seen)
    at = seen.index(text.encode(), at) + len(text.encode())
while child.poll() is None:
    read()
while read():
    pass
echo = bool(termios.tcgetattr(slave)[3] & termios.ECHO)
print(json.dumps({'said': seen.decode('utf-8', 'replace'), 'exit': child.returncode, 'echo': echo}))
"#;

/// What a command left on its terminal.
pub struct OnTerminal {
    pub said: String,
    pub exit: i64,
    /// Whether the terminal shows what is typed.
    pub echo: bool,
}

/// Says which check is skipped if Python cannot be run, past the capturing of the test runner.
pub fn has_terminals(what: &str) -> bool {
    let mut python = Command::new("python3");
    let found = python.args(["-c", "import pty"]).stderr(Stdio::null()).status();
    let is_there = found.is_ok_and(|status| status.success());
    if !is_there {
        use std::io::Write as _;
        let _ = std::io::stderr()
            .write_all(format!("\nSKIPPED: {what}; install python3 to check it\n").as_bytes());
    }
    is_there
}

/// Runs a command on a terminal of the kind `TERM`.
pub fn on_terminal(command: &Command, terminal: &str, steps: &[(&str, &str)]) -> OnTerminal {
    let text = |text: &std::ffi::OsStr| text.to_str().unwrap().to_owned();
    let argv: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
    let mut env: serde_json::Map<String, Value> = command
        .get_envs()
        .filter_map(|(name, value)| Some((text(name), text(value?).into())))
        .collect();
    env.insert("TERM".into(), terminal.into());
    let task = json!({
        "argv": argv.into_iter().map(text).collect::<Vec<_>>(),
        "env": env,
        "cwd": command.get_current_dir().map(Path::to_str),
        "steps": steps,
    });
    let output = Command::new("python3").args(["-c", DRIVER, &task.to_string()]).output().unwrap();
    let failed = String::from_utf8_lossy(&output.stderr).into_owned();
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{failed}"));
    OnTerminal {
        said: seen["said"].as_str().unwrap().to_owned(),
        exit: seen["exit"].as_i64().unwrap(),
        echo: seen["echo"].as_bool().unwrap(),
    }
}
