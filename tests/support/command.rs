//! What a command of the program leaves behind: exit code, words, one line of JSON.

use std::process::Output;

use serde_json::Value;

pub const SUCCESS: i32 = 0;
pub const FAILED: i32 = 1;
pub const USAGE: i32 = 2;
pub const LOGIN_REQUIRED: i32 = 3;
pub const NOT_RUNNING: i32 = 4;
pub const DEGRADED: i32 = 5;

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line of JSON on stdout, of the known version.
pub fn json_output(output: &Output) -> Value {
    let out = stdout(output);
    let response: Value =
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out:?}\n{}", stderr(output)));
    assert_eq!(response["version"], 1, "{response}");
    response
}
