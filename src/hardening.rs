//! Hardens the process at its start, before a secret is read: no core dumps, no debugger of the
//! same user, no files that other users could open. It also raises the limit of open files.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// New files are accessible to their owner only.
const PRIVATE: Mode = Mode::RWXG.union(Mode::RWXO);

/// Hardens the process. What a system does not offer is left out: no protection depends on this
/// alone.
pub fn apply() {
    umask(PRIVATE);
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = setrlimit(Resource::Core, none);
    // Connections are files; the soft limit exists for programs that cannot handle many.
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // /proc/PID/{environ,mem,fd} then belong to root, and only root can attach a debugger.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}
