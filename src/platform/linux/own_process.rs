//! What the kernel says of this process.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use crate::platform::figures::Figures;

/// Figures of this process; none where there is no `/proc`.
pub fn figures() -> Option<Figures> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name, which stands in parentheses, may hold anything (proc(5)). The first field behind it
    // is the third one.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let ticks = clock_ticks_per_second() as f64;
    let booted = fs::read_to_string("/proc/stat").ok()?;
    let booted = booted.lines().find_map(|line| line.strip_prefix("btime "))?;
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let resident: i64 = pages.split(' ').nth(1)?.parse().ok()?;
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    Some(Figures {
        cpu_seconds: (field(14)? + field(15)?) / ticks,
        resident_bytes: resident * i64::try_from(page_size()).ok()?,
        start_seconds: booted.parse::<f64>().ok()? + field(22)? / ticks,
        open_files: i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?,
        max_files: i64::try_from(limit).unwrap_or(i64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_figures_of_this_process_make_sense() {
        let figures = figures().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(figures.start_seconds > now - 86_400.0 && figures.start_seconds < now + 5.0);
        assert!(figures.resident_bytes > 1_000_000, "{figures:?}");
        assert!(figures.open_files >= 3 && figures.max_files >= figures.open_files, "{figures:?}");
        assert!(figures.cpu_seconds >= 0.0);
    }
}
