//! Non-blocking text output: a bounded queue for standard error or standard output, and a thread that writes it.
//!
//! A stopped terminal, a TCP connection that is not read, a full disk or a closed reader must neither block nor end the
//! work of the program. So the working threads only put text into the queue. Text that does not fit, or whose write
//! fails, is lost; the number of lost lines is written as soon as writing succeeds again.
//!
//! Bound: [`ROOM`] bytes are queued, and as many are being written. Timer: the patience of [`Lossy::flush`].

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

/// The maximum number of queued bytes.
pub const ROOM: usize = 256 * 1024;
/// If more bytes than this are queued, short-lived text is dropped.
const BUSY: usize = ROOM / 4;
/// The maximum size of one write, so that a slow reader can be told apart from one that does not read: a TCP connection
/// accepts this much at once.
const PIECE: usize = 4096;

/// A stream that accepts text without blocking.
#[derive(Debug)]
pub struct Lossy {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signals that text was queued.
    arrived: Condvar,
    /// Signals that the thread wrote a piece, or finished.
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<u8>,
    /// Lines that did not fit since the thread last took the queue.
    overflowed: u64,
    /// Whether the thread holds text that is not written yet.
    is_writing: bool,
    /// Pieces that were written or refused so far.
    pieces: u64,
}

/// Standard error. All lines and logs of the program go through it.
#[must_use]
pub fn stderr() -> &'static Lossy {
    static STDERR: OnceLock<Lossy> = OnceLock::new();
    STDERR.get_or_init(|| {
        let target = Descriptor(rustix::stdio::stderr());
        Lossy::new(target, |lines| format!("({lines} lines could not be written here)\n"))
    })
}

impl Lossy {
    /// Starts the thread; `note` formats the text that reports a number of lost lines.
    pub fn new(target: impl Write + Send + 'static, note: fn(u64) -> String) -> Self {
        let shared = Arc::<Shared>::default();
        let emptied = shared.clone();
        let thread = std::thread::Builder::new().name("output".into());
        // If no thread can be started, nothing is written, but the program continues.
        drop(thread.spawn(move || Emptier { shared: emptied, target, note, lost: 0 }.run()));
        Self { shared }
    }

    /// Queues whole lines, or drops and counts them when the queue is full.
    pub fn push(&self, text: &[u8]) {
        let mut queue = self.shared.lock();
        if queue.waiting.len().saturating_add(text.len()) > ROOM {
            queue.overflowed += lines(text);
            return;
        }
        queue.waiting.extend_from_slice(text);
        drop(queue);
        self.shared.arrived.notify_one();
    }

    /// Queues short-lived text; drops it without counting when much is queued already.
    pub fn push_unless_busy(&self, text: &[u8]) {
        if self.shared.lock().waiting.len() <= BUSY {
            self.push(text);
        }
    }

    /// Waits until everything is written, as long as some of it is written within each `patience`.
    pub fn flush(&self, patience: Duration) {
        let mut queue = self.shared.lock();
        while queue.is_writing || !queue.waiting.is_empty() {
            let before = queue.pieces;
            let is_same = |queue: &mut Queue| queue.pieces == before && (queue.is_writing || !queue.waiting.is_empty());
            let waited = self.shared.moved.wait_timeout_while(queue, patience, is_same);
            let (now, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            if waited.timed_out() {
                return;
            }
            queue = now;
        }
    }
}

/// The writer of a log.
impl Write for &Lossy {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.push(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of the writing thread.
struct Emptier<W> {
    shared: Arc<Shared>,
    target: W,
    note: fn(u64) -> String,
    /// Lines that were lost and not reported yet.
    lost: u64,
}

impl<W: Write> Emptier<W> {
    fn run(mut self) {
        let mut text = Vec::new();
        loop {
            let overflowed = self.take(&mut text);
            self.report_lost();
            self.write(&text);
            // These lines were pushed after the text.
            self.lost += overflowed;
            self.report_lost();
            self.shared.lock().is_writing = false;
            self.shared.moved.notify_all();
        }
    }

    /// Waits for text and takes it; returns the number of lines that did not fit.
    fn take(&mut self, text: &mut Vec<u8>) -> u64 {
        text.clear();
        let queue = self.shared.arrived.wait_while(self.shared.lock(), |queue| queue.waiting.is_empty());
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.waiting, text);
        queue.is_writing = true;
        std::mem::take(&mut queue.overflowed)
    }

    fn write(&mut self, text: &[u8]) {
        for (at, piece) in (0..).step_by(PIECE).zip(text.chunks(PIECE)) {
            let done = self.target.write_all(piece);
            self.shared.lock().pieces += 1;
            self.shared.moved.notify_all();
            if done.is_err() {
                self.lost += lines(text.get(at..).unwrap_or_default());
                return;
            }
        }
    }

    fn report_lost(&mut self) {
        if self.lost > 0 && self.target.write_all((self.note)(self.lost).as_bytes()).is_ok() {
            self.lost = 0;
        }
    }
}

fn lines(text: &[u8]) -> u64 {
    text.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// A standard stream, without the lock of the standard library, which a blocked write would hold.
#[derive(Debug)]
pub struct Descriptor(pub BorrowedFd<'static>);

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.0, bytes) {
                // Another process made it so: it shares the descriptor.
                Err(rustix::io::Errno::AGAIN) => drop(poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)),
                written => return written.map_err(io::Error::from),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Takes a piece for each permission, and fails where that is `false`.
    struct Gate {
        may: Receiver<bool>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Without its sender everything may pass.
            if !self.may.recv().unwrap_or(true) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Lossy, SyncSender<bool>, Arc<Mutex<Vec<u8>>>) {
        let (open, may) = sync_channel(16);
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        let gate = Gate { may, taken: taken.clone() };
        (Lossy::new(gate, |lines| format!("{lines} lost\n")), open, taken)
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn blocked_log_loses_lines_and_has_bounded_memory() {
        let (lossy, open, taken) = gated();
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        let pushed = 4 * ROOM / line.len();
        for _ in 0..pushed {
            lossy.push(&line);
        }
        assert!(lossy.shared.lock().waiting.capacity() <= 2 * ROOM);
        lossy.flush(Duration::ZERO);
        assert!(taken.lock().unwrap().is_empty(), "a flush without patience waits for nothing");
        drop(open);
        lossy.flush(PATIENCE);
        lossy.push(b"end\n");
        lossy.flush(PATIENCE);
        let text = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        let lost: u64 =
            text.lines().filter_map(|line| line.strip_suffix(" lost")).map(|n| n.parse::<u64>().unwrap()).sum();
        let whole = text.lines().filter(|text| text.as_bytes() == &line[..99]).count();
        assert!(lost > 0 && whole as u64 + lost == pushed as u64, "{whole} + {lost}, {pushed}");
        assert!(text.ends_with("end\n"));
    }

    #[test]
    fn failed_write_loses_only_its_lines() {
        let (lossy, open, taken) = gated();
        open.send(false).unwrap();
        open.send(false).unwrap();
        lossy.push(b"one\ntwo\n");
        lossy.flush(PATIENCE);
        drop(open);
        lossy.push(b"three\n");
        lossy.flush(PATIENCE);
        assert_eq!(taken.lock().unwrap().as_slice(), b"2 lost\nthree\n");
    }

    #[test]
    fn short_lived_text_leaves_room_for_lines() {
        let (lossy, open, taken) = gated();
        for _ in 0..ROOM {
            lossy.push_unless_busy(b"frame");
        }
        lossy.push(b"a line that matters\n");
        drop(open);
        lossy.flush(PATIENCE);
        let text = taken.lock().unwrap().clone();
        assert!(text.ends_with(b"a line that matters\n"));
        // What the writer had taken already, what waited, a frame beyond each, and the line.
        assert!(text.len() <= 2 * (BUSY + b"frame".len()) + b"a line that matters\n".len(), "{}", text.len());
    }
}
