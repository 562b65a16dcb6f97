//! Locks of files, as the kernel lists them (proc_locks(5)).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The process that holds a `flock` on a file; none if nobody does.
pub fn lock_holder(path: &Path) -> Option<u32> {
    let metadata = fs::metadata(path).ok()?;
    let device = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let noted = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| holder_in(line, device, metadata.ino(), noted))
}

/// The holder in a line such as `3: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF`. Some file systems
/// give another device than `stat` does: there the process that noted itself in the file counts.
fn holder_in(line: &str, device: (u32, u32), inode: u64, noted: Option<u32>) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    if fields.next()? != "FLOCK" {
        return None;
    }
    let pid: u32 = fields.nth(2)?.parse().ok()?;
    let mut place = fields.next()?.split(':');
    let major = u32::from_str_radix(place.next()?, 16).ok()?;
    let minor = u32::from_str_radix(place.next()?, 16).ok()?;
    let is_it =
        place.next()?.parse() == Ok(inode) && ((major, minor) == device || noted == Some(pid));
    (is_it && pid != 0).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_names_the_holder_of_a_file() {
        let line = "3: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF";
        assert_eq!(holder_in(line, (0xfe, 1), 1234, None), Some(4711));
        assert_eq!(holder_in(line, (0xfe, 1), 1235, None), None);
        assert_eq!(holder_in(line, (0, 9), 1234, None), None, "another file system");
        assert_eq!(holder_in(line, (0, 9), 1234, Some(4711)), Some(4711));
        for other in [
            "3: -> FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF",
            "3: POSIX  ADVISORY  WRITE 4711 fe:01:1234 0 EOF",
            "3: FLOCK  ADVISORY  WRITE -1 fe:01:1234 0 EOF",
            "3: FLOCK",
            "",
        ] {
            assert_eq!(holder_in(other, (0xfe, 1), 1234, None), None, "{other}");
        }
    }
}
