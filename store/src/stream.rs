//! Streams of this process: a descriptor that is sent as a stream, and one to which a stream is written.
//!
//! Both wait with `poll` (POSIX), never longer than the given time. No descriptor is made non-blocking, because it may
//! be shared with the shell and other programs. A pipe that `poll` reports as writable accepts `PIPE_BUF` bytes without
//! blocking, so no more are written at once; a regular file accepts any number.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::pipe::PIPE_BUF;
use tallow_proto::transfer::storage::{Fault, FaultKind, Read, StreamSink, StreamSource};

use crate::fault::fault;

/// A descriptor that is sent as a stream.
#[derive(Debug)]
pub struct StreamIn<F> {
    descriptor: F,
    name: &'static str,
    /// Whether the end was read. A terminal reports its end only once.
    ended: AtomicBool,
}

/// A descriptor that receives bytes in order.
#[derive(Debug)]
pub struct StreamOut<F> {
    descriptor: F,
    name: &'static str,
    /// The maximum number of bytes in one write.
    at_once: usize,
}

impl StreamIn<io::Stdin> {
    /// Standard input, past the buffer of [`std::io::Stdin`].
    #[must_use]
    pub fn stdin() -> Self {
        Self::new(io::stdin(), "standard input")
    }
}

impl<F: AsFd> StreamIn<F> {
    /// Creates a stream of this descriptor; `name` is its name in messages.
    pub const fn new(descriptor: F, name: &'static str) -> Self {
        Self { descriptor, name, ended: AtomicBool::new(false) }
    }
}

impl StreamOut<io::Stdout> {
    /// Standard output, past the buffer of [`std::io::Stdout`].
    #[must_use]
    pub fn stdout() -> Self {
        Self::new(io::stdout(), "standard output")
    }
}

impl<F: AsFd> StreamOut<F> {
    /// Creates a stream of this descriptor; `name` is its name in messages.
    pub fn new(descriptor: F, name: &'static str) -> Self {
        let kind = rustix::fs::fstat(&descriptor).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let at_once = if kind == Ok(FileType::RegularFile) { usize::MAX } else { PIPE_BUF };
        Self { descriptor, name, at_once }
    }
}

impl<F: AsFd + Send + Sync> StreamSource for StreamIn<F> {
    fn read(&self, into: &mut [u8], wait: Duration) -> Result<Read, Fault> {
        let deadline = Instant::now() + wait;
        let mut filled = 0;
        while filled < into.len() && !self.ended.load(Ordering::Relaxed) {
            // Only the first read may wait.
            let until = if filled == 0 { deadline } else { Instant::now() };
            if !ready(&self.descriptor, PollFlags::IN, until).map_err(|error| fault(error, self.name))? {
                break;
            }
            match rustix::io::read(&self.descriptor, &mut into[filled..]) {
                Ok(0) => self.ended.store(true, Ordering::Relaxed),
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(fault(error, self.name)),
            }
        }
        Ok(match NonZeroUsize::new(filled) {
            Some(count) => Read::Bytes(count),
            None if self.ended.load(Ordering::Relaxed) => Read::End,
            None => Read::NotYet,
        })
    }
}

impl<F: AsFd + Send + Sync> StreamSink for StreamOut<F> {
    fn write(&self, plain: &[u8], wait: Duration) -> Result<usize, Fault> {
        let deadline = Instant::now() + wait;
        let mut written = 0;
        while let Some(rest) = plain.get(written..).filter(|rest| !rest.is_empty()) {
            if !ready(&self.descriptor, PollFlags::OUT, deadline).map_err(|error| fault(error, self.name))? {
                break;
            }
            match rustix::io::write(&self.descriptor, &rest[..rest.len().min(self.at_once)]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(Errno::PIPE) => return Err(Fault::at(FaultKind::Io(io::ErrorKind::BrokenPipe), self.name)),
                Err(error) => return Err(fault(error, self.name)),
            }
        }
        Ok(written)
    }
}

/// Waits until the descriptor is ready or the deadline has passed. An error makes it ready, too; the next call returns
/// it.
fn ready(descriptor: &impl AsFd, what: PollFlags, deadline: Instant) -> Result<bool, Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(descriptor, what)], Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
