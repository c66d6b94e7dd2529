//! File descriptors are few: how many this crate may keep open, and what it does when there are none left.
//!
//! Bounds: a [`Cache`] holds at most the number it was made with, never more than [`MOST`].

use std::io;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

/// The most handles that one cache keeps.
pub const MOST: usize = 64;
/// How often an opening is tried again while the process has no descriptor left, a few milliseconds apart: other
/// threads close theirs all the time.
const TRIES: u32 = 200;

/// How many handles a cache may keep: a small part of what the process may open, since sockets need some too.
pub fn share() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 16).unwrap_or(MOST).clamp(1, MOST)
}

/// Opens; when the process has too many files open, lets `release` close what is kept and tries again.
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

/// The last few things that were used, by their keys. Made for tens of them: a look-up goes through all.
#[derive(Debug)]
pub struct Cache<K, V> {
    /// The most recently used is the last.
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
        // Only near the front does it matter; moving each time would be a copy of all for each file.
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
    fn the_least_used_goes_first_and_the_bound_holds() {
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
    fn a_shortage_releases_and_tries_again() {
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
