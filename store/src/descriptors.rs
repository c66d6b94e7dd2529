//! Limits how many file descriptors this crate keeps open, and retries when the process has none left.
//!
//! Bounds: a [`Cache`] holds at most the number it was made with, never more than [`MOST`].

use std::io;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

/// The maximum number of handles in one cache.
pub const MOST: usize = 64;
/// How often opening is retried while the process has no descriptor left, a few milliseconds apart: other threads close
/// theirs all the time.
const TRIES: u32 = 200;

/// The number of handles that a cache may keep: a small part of the limit of the process, because sockets need some,
/// too.
pub fn share() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 16).unwrap_or(MOST).clamp(1, MOST)
}

/// Calls `open`; if the process has too many open files, calls `release` to close cached handles and retries.
pub fn patiently<T>(mut release: impl FnMut(), open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 0;
    loop {
        match open() {
            Err(error) if is_shortage(&error) && tries < TRIES => {
                release();
                if tries > 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
                tries += 1;
            }
            other => return other,
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error
        .raw_os_error()
        .map(Errno::from_raw_os_error)
        .is_some_and(|errno| [Errno::MFILE, Errno::NFILE].contains(&errno))
}

/// A cache of the most recently used values, by key. A look-up scans all of them, which suits tens of values.
#[derive(Debug)]
pub struct Cache<K, V> {
    /// The most recently used value is the last.
    kept: Vec<(K, V)>,
    most: usize,
}

impl<K, V: Clone> Cache<K, V> {
    pub fn new(most: usize) -> Self {
        Self { kept: Vec::new(), most: most.clamp(1, MOST) }
    }

    pub fn get<Q: ?Sized + PartialEq>(&mut self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
    {
        let at = self.kept.iter().rposition(|(kept, _)| kept.borrow() == key)?;
        let last = self.kept.len() - 1;
        // A value in the newer half is not moved, because each move copies the values behind it.
        if at < last / 2 {
            self.kept[at..].rotate_left(1);
            return self.kept.last().map(|(_, value)| value.clone());
        }
        Some(self.kept[at].1.clone())
    }

    pub fn insert(&mut self, key: K, value: V) {
        if self.kept.len() >= self.most {
            self.kept.remove(0);
        }
        self.kept.push((key, value));
    }

    pub fn remove<Q: ?Sized + PartialEq>(&mut self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
    {
        let at = self.kept.iter().rposition(|(kept, _)| kept.borrow() == key)?;
        Some(self.kept.remove(at).1)
    }

    pub fn clear(&mut self) {
        self.kept.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_value_is_evicted() {
        let mut cache = Cache::new(3);
        for key in 0..3 {
            cache.insert(key, key);
        }
        assert_eq!(cache.get(&0), Some(0));
        cache.insert(3, 3);
        assert_eq!((cache.get(&1), cache.get(&0), cache.kept.len()), (None, Some(0), 3));
        assert_eq!(Cache::<u32, u32>::new(usize::MAX).most, MOST);
    }

    #[test]
    fn a_descriptor_shortage_releases_and_retries() {
        let (held, tried) = (std::cell::Cell::new(true), std::cell::Cell::new(0));
        let open = || {
            tried.set(tried.get() + 1);
            if held.get() { Err(rustix::io::Errno::MFILE.into()) } else { Ok(()) }
        };
        patiently(|| held.set(false), open).unwrap();
        assert_eq!(tried.get(), 2);
        let refused = patiently(|| panic!("not a shortage"), || Err::<(), _>(rustix::io::Errno::ACCESS.into()));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
