//! Writes lines to stderr on a thread of its own. If the reader stops (a stopped terminal, a parent
//! that reads nothing), lines are dropped and counted, and nothing waits.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

/// Lines that may wait to be written.
const MAX_WAITING: usize = 1024;
/// Longest part of a line that is kept, in bytes.
const MAX_LINE: usize = 16 * 1024;
/// Pause before writing to a full non-blocking pipe again.
const FULL_PAUSE: Duration = Duration::from_millis(20);
/// Pause before a flush tries again to enter a full queue.
const FLUSH_PAUSE: Duration = Duration::from_millis(5);

/// The queue of lines to stderr.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    queue: SyncSender<Line>,
    dropped: Counter,
}

#[derive(Debug)]
enum Line {
    Text(Vec<u8>),
    /// Signalled when everything before it is written.
    Flush(SyncSender<()>),
}

impl Lines {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// There is no thread, or stderr is closed.
    pub(super) fn start() -> io::Result<Self> {
        // Not `io::stderr()`: other writers to it must not wait for a lock that this thread holds.
        Self::to(File::from(io::stderr().as_fd().try_clone_to_owned()?))
    }

    fn to(mut sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = sync_channel(MAX_WAITING);
        let dropped = Counter::default();
        let count = dropped.clone();
        thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(&lines, &mut sink, &count))?;
        Ok(Self { queue, dropped })
    }

    /// How many lines were dropped.
    pub(super) fn dropped(&self) -> Counter {
        self.dropped.clone()
    }

    /// Queues a line, or drops it if the queue is full.
    pub(super) fn put(&self, line: &[u8]) {
        let mut text = line.get(..MAX_LINE).unwrap_or(line).to_vec();
        if text.last() != Some(&b'\n') {
            text.push(b'\n');
        }
        if self.queue.try_send(Line::Text(text)).is_err() {
            self.dropped.inc();
        }
    }

    /// Waits until the queued lines are written, at most this long.
    pub(super) fn flush(&self, patience: Duration) {
        let end = Instant::now() + patience;
        let (signal, written) = sync_channel(1);
        let mut flush = Line::Flush(signal);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(flush) {
            if Instant::now() >= end {
                return;
            }
            thread::sleep(FLUSH_PAUSE);
            flush = back;
        }
        let _ = written.recv_timeout(end.saturating_duration_since(Instant::now()));
    }
}

/// One line a call, as the subscriber does it.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(lines: &Receiver<Line>, sink: &mut impl Write, dropped: &Counter) {
    let mut reported = 0;
    while let Ok(line) = lines.recv() {
        match line {
            Line::Text(text) => write(sink, &text),
            Line::Flush(written) => drop(written.try_send(())),
        }
        let all = dropped.get();
        if all > reported {
            write(
                sink,
                format!(
                    "pleo-proxy: {} log lines were dropped: nobody read them\n",
                    all - reported
                )
                .as_bytes(),
            );
            reported = all;
        }
    }
}

/// Writes a whole line, however long it takes. Errors of a sink that is gone are ignored.
fn write(sink: &mut impl Write, mut rest: &[u8]) {
    while !rest.is_empty() {
        match sink.write(rest) {
            Ok(0) => return,
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another program has made the same pipe or terminal non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(FULL_PAUSE),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Accepts bytes only while it is not stopped.
    #[derive(Clone, Default)]
    struct Sink {
        text: Arc<Mutex<Vec<u8>>>,
        stopped: Arc<Mutex<()>>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _stopped = self.stopped.lock().unwrap();
            // In pieces, as a pipe may accept them.
            let taken = bytes.len().min(7);
            self.text.lock().unwrap().extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_sink_that_accepts_nothing_costs_lines_and_no_time() {
        let sink = Sink::default();
        let lines = Lines::to(sink.clone()).unwrap();
        let stopped = sink.stopped.lock().unwrap();
        for number in 0..3 * MAX_WAITING {
            lines.put(format!("line {number}").as_bytes());
        }
        Lines::flush(&lines, Duration::from_millis(30));
        let dropped = lines.dropped().get();
        assert!((2 * MAX_WAITING - 1..=2 * MAX_WAITING).contains(&(dropped as usize)), "{dropped}");
        drop(stopped);
        // The next line also reports how many were dropped.
        lines.put(b"the end");
        Lines::flush(&lines, Duration::from_secs(30));
        let text = String::from_utf8(sink.text.lock().unwrap().clone()).unwrap();
        assert!(
            text.starts_with("line 0\n")
                && text.contains("line 1000\n")
                && !text.contains("line 3000\n")
        );
        let dropped =
            |line: &str| line.strip_prefix("pleo-proxy: ")?.split(' ').next()?.parse::<u64>().ok();
        assert_eq!(text.lines().filter_map(dropped).sum::<u64>(), lines.dropped().get(), "{text}");
    }

    #[test]
    fn a_line_of_any_length_is_cut() {
        let sink = Sink::default();
        let lines = Lines::to(sink.clone()).unwrap();
        lines.put(&[b'x'; 10 * MAX_LINE]);
        Lines::flush(&lines, Duration::from_secs(30));
        assert_eq!(sink.text.lock().unwrap().len(), MAX_LINE + 1);
    }
}
