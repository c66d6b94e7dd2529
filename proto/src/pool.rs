//! A pool of reusable buffers for chunk records. Fresh memory costs a page fault for every 4 KiB, which takes longer
//! than hashing and sealing these bytes.
//!
//! The pool keeps the buffers that were returned last, because they may still be in the processor's caches. No timers.
//! Bound: at most [`IDLE`] bytes of unused buffers; the callers bound how much memory they borrow.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;

/// Maximum number of bytes in unused buffers.
pub const IDLE: usize = 8 << 20;
/// Shorter buffers are not kept, because an allocator provides them cheaply.
pub const LEAST: usize = 64 << 10;

/// The pool; the module's documentation describes which buffers it keeps.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<VecDeque<BytesMut>>,
}

impl Pool {
    /// Returns a buffer of `len` bytes. Contents are zero or stale; the caller must overwrite them.
    #[must_use]
    pub fn take(&self, len: usize) -> BytesMut {
        // A buffer that is much larger would hold more memory than its user accounts for.
        let fits = |buffer: &BytesMut| len <= buffer.capacity() && buffer.capacity() / 2 <= len;
        let kept = (len >= LEAST).then(|| {
            let mut idle = self.lock();
            let index = idle.iter().rposition(fits)?;
            idle.remove(index)
        });
        match kept.flatten() {
            Some(mut buffer) => {
                buffer.resize(len, 0);
                buffer
            }
            None => BytesMut::zeroed(len),
        }
    }

    /// Adds a buffer to the pool, whether it came from the pool or not.
    pub fn put(&self, buffer: BytesMut) {
        if !(LEAST..=IDLE).contains(&buffer.capacity()) {
            return;
        }
        let mut idle = self.lock();
        idle.push_back(buffer);
        while idle.iter().map(BytesMut::capacity).sum::<usize>() > IDLE {
            idle.pop_front();
        }
    }

    /// The number of bytes in unused buffers.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.lock().iter().map(BytesMut::capacity).sum()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<BytesMut>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} bytes)", self.idle())
    }
}

/// A buffer that returns to its pool when it is dropped, if it came from a pool.
pub struct Lent {
    buffer: BytesMut,
    pool: Option<Arc<Pool>>,
}

impl Lent {
    /// Borrows a buffer of `len` bytes, as [`Pool::take`].
    #[must_use]
    pub fn new(pool: &Arc<Pool>, len: usize) -> Self {
        Self { buffer: pool.take(len), pool: Some(Arc::clone(pool)) }
    }
}

impl From<BytesMut> for Lent {
    fn from(buffer: BytesMut) -> Self {
        Self { buffer, pool: None }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.put(std::mem::take(&mut self.buffer));
        }
    }
}

impl Deref for Lent {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.buffer
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn last_returned_buffer_is_reused_first_unchanged() {
        let pool = Pool::default();
        let (mut first, mut second) = (pool.take(MIB), pool.take(MIB));
        first.fill(1);
        second.fill(2);
        let at = second.as_ptr();
        pool.put(first);
        pool.put(second);
        let again = pool.take(MIB - 29);
        assert_eq!((again.as_ptr(), again.len()), (at, MIB - 29));
        assert!(again.iter().all(|byte| *byte == 2), "nothing was written to it");
    }

    #[test]
    fn buffer_is_reused_only_if_length_fits() {
        let pool = Pool::default();
        pool.put(BytesMut::zeroed(MIB));
        assert_eq!(pool.take(MIB + 1).len(), MIB + 1);
        assert_eq!(pool.take(MIB / 2 - 1).len(), MIB / 2 - 1);
        assert_eq!(pool.idle(), MIB);
        assert_eq!(pool.take(MIB / 2).len(), MIB / 2);
        assert_eq!(pool.idle(), 0);
    }

    #[test]
    fn a_pool_keeps_a_bounded_amount_and_no_short_or_huge_buffer() {
        let pool = Pool::default();
        pool.put(BytesMut::zeroed(LEAST - 1));
        pool.put(BytesMut::zeroed(IDLE + 1));
        assert_eq!(pool.idle(), 0);
        (0..20).for_each(|_| pool.put(BytesMut::zeroed(MIB)));
        assert_eq!(pool.idle(), IDLE);
        pool.put(BytesMut::zeroed(4 * MIB));
        assert_eq!(pool.idle(), IDLE, "the oldest give way");
        assert_eq!(pool.take(4 * MIB).len(), 4 * MIB);
        assert_eq!(pool.idle(), IDLE - 4 * MIB);
    }

    #[test]
    fn lent_buffer_returns_when_last_part_is_dropped() {
        let pool = Arc::new(Pool::default());
        let whole = Bytes::from_owner(Lent::new(&pool, MIB));
        let part = whole.slice(7..9);
        drop(whole);
        assert_eq!(pool.idle(), 0);
        drop(part);
        assert_eq!(pool.idle(), MIB);
        drop(Lent::from(BytesMut::zeroed(MIB)));
        assert_eq!(pool.idle(), MIB);
    }

    #[test]
    fn a_pools_contents_are_not_shown() {
        let pool = Pool::default();
        pool.put(BytesMut::from(vec![b'S'; MIB].as_slice()));
        assert_eq!(format!("{pool:?}"), "Pool(1048576 bytes)");
    }
}
