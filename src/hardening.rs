//! What the process gives up at its start, before a secret is read: core dumps, being looked into
//! by other programs of the same user, and files that others could open. And what it takes: all the
//! files that it may open.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// Files that are made from here on are for their owner only.
const PRIVATE: Mode = Mode::RWXG.union(Mode::RWXO);

/// Hardens the process. What a system does not offer is left out: none of it is the only thing in
/// the way.
pub fn apply() {
    umask(PRIVATE);
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = setrlimit(Resource::Core, none);
    // Callers' connections are files; the soft limit is for programs that cannot deal with many.
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // /proc/PID/{environ,mem,fd} then belong to root, and nobody else attaches a debugger.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}
