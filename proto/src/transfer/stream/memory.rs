//! A stream's source and sink in memory, with configurable behaviour: for tests and the simulator.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::transfer::storage::{Fault, FaultKind, Read, StreamSink, StreamSource};

/// The pieces of a source, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These bytes, at once.
    Bytes(Vec<u8>),
    /// No bytes, once.
    Silence,
    /// A fault.
    Fault(FaultKind),
}

/// A source that returns bytes from memory and then ends.
#[derive(Debug, Default)]
pub struct MemoryStream {
    pieces: Mutex<VecDeque<Piece>>,
    is_open: bool,
}

impl MemoryStream {
    /// Returns these pieces, then the end.
    #[must_use]
    pub fn new(pieces: impl IntoIterator<Item = Piece>) -> Self {
        Self { pieces: Mutex::new(pieces.into_iter().collect()), is_open: false }
    }

    /// After its pieces it returns no bytes, and does not end.
    #[must_use]
    pub fn without_end(self) -> Self {
        Self { is_open: true, ..self }
    }

    /// Bytes that were not read yet.
    #[must_use]
    pub fn left(&self) -> usize {
        let bytes = |piece: &Piece| if let Piece::Bytes(bytes) = piece { bytes.len() } else { 0 };
        lock(&self.pieces).iter().map(bytes).sum()
    }
}

impl StreamSource for MemoryStream {
    fn read(&self, into: &mut [u8], _wait: Duration) -> Result<Read, Fault> {
        let mut pieces = lock(&self.pieces);
        match pieces.pop_front() {
            Some(Piece::Bytes(mut bytes)) => {
                let len = bytes.len().min(into.len());
                let rest = bytes.split_off(len);
                if !rest.is_empty() {
                    pieces.push_front(Piece::Bytes(rest));
                }
                if let Some(into) = into.get_mut(..len) {
                    into.copy_from_slice(&bytes);
                }
                Ok(NonZeroUsize::new(len).map_or(Read::NotYet, Read::Bytes))
            }
            Some(Piece::Silence) => Ok(Read::NotYet),
            Some(Piece::Fault(kind)) => Err(kind.into()),
            None if self.is_open => Ok(Read::NotYet),
            None => Ok(Read::End),
        }
    }
}

/// A sink that stores a stream in memory.
#[derive(Debug, Default)]
pub struct MemoryPipe {
    inside: Mutex<Inside>,
    /// The largest number of bytes that it takes at a time.
    at_once: Option<usize>,
    /// It fails after this many bytes.
    fault: Option<(usize, FaultKind)>,
}

#[derive(Debug, Default)]
struct Inside {
    bytes: Vec<u8>,
    /// Whether it takes no bytes.
    is_shut: bool,
}

impl MemoryPipe {
    /// Takes all bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes this many bytes at a time.
    #[must_use]
    pub fn with_at_once(self, bytes: usize) -> Self {
        Self { at_once: Some(bytes), ..self }
    }

    /// Fails once it has this many bytes.
    #[must_use]
    pub fn with_fault(self, after: usize, kind: FaultKind) -> Self {
        Self { fault: Some((after, kind)), ..self }
    }

    /// Stops taking bytes, or starts again.
    pub fn set_shut(&self, is_shut: bool) {
        lock(&self.inside).is_shut = is_shut;
    }

    /// The bytes that were written so far.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.inside).bytes.clone()
    }
}

impl StreamSink for MemoryPipe {
    fn write(&self, plain: &[u8], _wait: Duration) -> Result<usize, Fault> {
        let mut inside = lock(&self.inside);
        if inside.is_shut {
            return Ok(0);
        }
        let mut most = plain.len().min(self.at_once.unwrap_or(usize::MAX));
        if let Some((after, kind)) = self.fault {
            most = most.min(after.saturating_sub(inside.bytes.len()));
            if most == 0 {
                return Err(kind.into());
            }
        }
        inside.bytes.extend_from_slice(plain.get(..most).unwrap_or_default());
        Ok(most)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
