//! `pleo-proxy`: see the library's documentation for the map of the code.

use std::process::ExitCode;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pleo_proxy::cli::run(std::env::args_os())
}
