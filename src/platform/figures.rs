//! Figures of this process.

/// Figures of this process, by the names that other programs have for them.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Processor time, in seconds.
    pub cpu_seconds: f64,
    /// Memory in use, in bytes.
    pub resident_bytes: i64,
    /// Start, in seconds of UNIX time.
    pub start_seconds: f64,
    /// Open files and sockets.
    pub open_files: i64,
    /// The limit of open files.
    pub max_files: i64,
}
