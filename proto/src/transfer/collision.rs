//! Whether the entries of a manifest can be stored side by side: a set of keyed 64-bit hashes, dropped once the
//! manifest is complete.
//!
//! Two entries collide if their names are equal, byte by byte, or if one is not a directory and the other is below it.
//! Whether a disk treats two different names as one is decided at the receiver ([`super::local_names`]). A path's hash
//! is the chain of its components' hashes; the chain of the previous entry is reused as far as the two paths agree. So
//! the work is proportional to the bytes that were sent, not to the paths that they expand to.
//!
//! Bounds: [`MAX_DIRS`] directories, named or implied: a path of 64 levels implies 63, and costs the other side two
//! bytes for each. 9 bytes for each file and 17 for each directory, in tables at most half empty that grow by copying.
//! A false collision among a million entries has a chance of about 10^-7.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::path::RelPath;
use crate::seed::Seed;

/// The most directories: as many as a manifest may have entries, so that only implied ones are refused by this.
pub const MAX_DIRS: usize = 1_000_000;

/// The names that were added.
pub struct Collisions {
    chains: Chains,
    leaves: HashSet<u64, BuildHasherDefault<Identity>>,
    /// Whether there is an entry for the directory; otherwise it is only part of another entry's path.
    dirs: HashMap<u64, bool, BuildHasherDefault<Identity>>,
    /// Directories of the previous path that are known to be in `dirs`: where each ends in the path, and its hash.
    chain: Vec<(usize, Node)>,
    path: String,
}

/// Why an entry is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Collision {
    /// There is an entry of this name.
    Twice,
    /// This path is not a directory, and there is an entry below it.
    NoDirectory(String),
    /// There are more than [`MAX_DIRS`] directories.
    TooManyDirs,
}

/// Hashes of paths, component by component.
pub struct Chains {
    key: [u8; 32],
}

/// The hash of a path, from which those of the paths below it are made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Node([u8; 16]);

impl Chains {
    /// Creates the hash function. Without the seed, two paths with the same hash can't be found.
    pub fn new(seed: &Seed) -> Self {
        Self { key: *seed.derive("collisions").bytes() }
    }

    /// The hash of a component below `parent`: the key in sets, and the next element of the chain.
    pub fn child(&self, parent: Node, component: &str) -> (u64, Node) {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&parent.0).update(component.as_bytes());
        let hash = hasher.finalize();
        let id = u64::from_be_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 8]));
        (id, Node(*hash.as_bytes().last_chunk().unwrap_or(&[0; 16])))
    }
}

impl Collisions {
    /// An empty set; the seed keys the hashes.
    pub fn new(seed: &Seed) -> Self {
        Self {
            chains: Chains::new(seed),
            leaves: HashSet::default(),
            dirs: HashMap::default(),
            chain: Vec::new(),
            path: String::new(),
        }
    }

    /// Adds an entry; a leaf can't have entries below it.
    ///
    /// # Errors
    /// It collides with an earlier one, or implies too many directories.
    pub fn insert(&mut self, path: &RelPath, leaf: bool) -> Result<(), Collision> {
        let text = path.as_str();
        let common = self.path.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        let known = |end: usize| end <= common && text.as_bytes().get(end) == Some(&b'/');
        let keep = self.chain.iter().take_while(|(end, _)| known(*end)).count();
        self.chain.truncate(keep);
        self.path.clear();
        self.path.push_str(text);

        let (mut start, mut node) = match self.chain.last() {
            Some((end, node)) => (end.saturating_add(1), *node),
            None => (0, Node::default()),
        };
        let rest = text.get(start..).unwrap_or_default();
        let mut components = rest.split('/').peekable();
        while let Some(component) = components.next() {
            let id;
            (id, node) = self.chains.child(node, component);
            let end = start.saturating_add(component.len());
            let is_self = components.peek().is_none();
            let no_directory = || Err(Collision::NoDirectory(text.get(..end).unwrap_or_default().to_owned()));
            if is_self && leaf {
                return match (self.dirs.get(&id), self.leaves.insert(id)) {
                    (None, true) => Ok(()),
                    (Some(false), _) => no_directory(),
                    (Some(true), _) | (None, false) => Err(Collision::Twice),
                };
            }
            if self.leaves.contains(&id) {
                return if is_self { Err(Collision::Twice) } else { no_directory() };
            }
            let named = self.dirs.entry(id).or_insert(false);
            if is_self && std::mem::replace(named, true) {
                return Err(Collision::Twice);
            }
            if self.dirs.len() > MAX_DIRS {
                return Err(Collision::TooManyDirs);
            }
            self.chain.push((end, node));
            start = end.saturating_add(1);
        }
        Ok(())
    }
}

/// The keys are hashes already.
#[derive(Default)]
pub struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
