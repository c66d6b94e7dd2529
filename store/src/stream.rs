//! Streams of this process: a descriptor that is read as a stream, and one that is written in order.
//!
//! Both wait with `poll` (POSIX) and never longer than they were told, and no descriptor is switched to non-blocking:
//! it may be shared with the shell and with other programs. A pipe that `poll` calls writable takes `PIPE_BUF` bytes
//! without blocking, so no more are written at a time; a regular file takes everything.

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
    /// A terminal says only once that it ended.
    ended: AtomicBool,
}

/// A descriptor that receives bytes in order.
#[derive(Debug)]
pub struct StreamOut<F> {
    descriptor: F,
    name: &'static str,
    /// The most bytes in one call.
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
    /// A descriptor, and what people call it.
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
    /// A descriptor, and what people call it.
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
            // Only the first bytes are waited for.
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

/// Waits for it until the deadline; also when there is an error to be told by the next call.
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
