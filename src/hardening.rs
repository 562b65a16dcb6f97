//! Hardens the process at its start, before a secret is read: no core dumps, no debugger of the
//! same user, no files that other users could open. It also raises the limit of open files.

use rustix::fs::{Mode, RawMode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

use crate::platform;

/// New files are accessible to their owner only.
const PRIVATE: Mode = Mode::RWXG.union(Mode::RWXO);

/// What the process had before it was hardened, which a program that it starts gets back.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    /// The mask of file modes.
    pub umask: RawMode,
    /// The soft limit of open files; none = unlimited.
    pub files: Option<u64>,
    /// The soft limit of core dumps, in bytes; none = unlimited.
    pub core: Option<u64>,
}

/// Hardens the process. What a system does not offer is left out: no protection depends on this
/// alone. With `starts_program` the hard limit of core dumps stays, which nobody could raise again.
pub fn apply(starts_program: bool) -> Inherited {
    let umask = umask(PRIVATE);
    let core = getrlimit(Resource::Core);
    let maximum = if starts_program { core.maximum } else { Some(0) };
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
    // Connections are files; the soft limit exists for programs that cannot handle many.
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
    platform::refuse_debuggers();
    Inherited { umask: umask.bits(), files: files.current, core: core.current }
}

/// Gives a process that is about to become another program what it would have had without us.
pub fn undo(inherited: Inherited) {
    umask(Mode::from_bits_truncate(inherited.umask));
    for (resource, current) in
        [(Resource::Nofile, inherited.files), (Resource::Core, inherited.core)]
    {
        let limit = getrlimit(resource);
        let _ = setrlimit(resource, Rlimit { current, ..limit });
    }
}
