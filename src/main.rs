//! `pleo-proxy`: see the library's documentation for the map of the code.

use std::process::ExitCode;

fn main() -> ExitCode {
    pleo_proxy::cli::run(std::env::args_os())
}
