//! Whether entries can be stored side by side on every system: a set of keyed 64-bit hashes, dropped once the
//! manifest is complete.
//!
//! Two entries collide if their names have the same collision key, if one is not a directory and the other is below
//! it, or if two paths spell a common directory differently. A path's hash is the chain of its components' hashes;
//! the chain of the previous entry is reused as far as the two paths agree. So the work is proportional to the bytes
//! that were sent, not to the paths that they expand to.
//!
//! Bounds: [`MAX_DIRS`] directories, named or implied: a path of 64 levels implies 63, and costs the other side two
//! bytes for each. 9 bytes for each file and 17 for each directory, in tables at most half empty that grow by copying.
//! A false collision among a million entries has a chance of about 10^-7.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::path::{RelPath, push_component_key};
use crate::seed::Seed;

/// The most directories: as many as a manifest may have entries, so that only implied ones are refused by this.
pub const MAX_DIRS: usize = 1_000_000;

/// Why an entry is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// It collides with an earlier one.
    Collision,
    /// There are more than [`MAX_DIRS`] directories.
    TooManyDirs,
}

/// The names that were added.
pub struct Collisions {
    key: [u8; 32],
    leaves: HashSet<u64, BuildHasherDefault<Identity>>,
    dirs: HashMap<u64, Dir, BuildHasherDefault<Identity>>,
    /// Directories of the previous path that are known to be in `dirs` with this spelling: where each ends in the
    /// path, and its hash.
    chain: Vec<(usize, Node)>,
    path: String,
    folded: String,
}

#[derive(Clone, Copy)]
struct Dir {
    /// There is an entry for this directory; otherwise it is only part of another entry's path.
    named: bool,
    /// Keyed hash of the name with its exact spelling.
    spelling: u32,
}

#[derive(Clone, Copy, Default)]
struct Node([u8; 16]);

impl Collisions {
    /// An empty set; the seed keys the hashes.
    pub fn new(seed: &Seed) -> Self {
        Self {
            key: *seed.derive("collisions").bytes(),
            leaves: HashSet::default(),
            dirs: HashMap::default(),
            chain: Vec::new(),
            path: String::new(),
            folded: String::new(),
        }
    }

    /// Adds an entry; a leaf can't have entries below it.
    ///
    /// # Errors
    /// It collides with an earlier one, or implies too many directories.
    pub fn insert(&mut self, path: &RelPath, leaf: bool) -> Result<(), Misfit> {
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
            (id, node) = self.child(node, component);
            let end = start.saturating_add(component.len());
            let is_self = components.peek().is_none();
            if is_self && leaf {
                let is_new = !self.dirs.contains_key(&id) && self.leaves.insert(id);
                return if is_new { Ok(()) } else { Err(Misfit::Collision) };
            }
            if self.leaves.contains(&id) || !self.enter(id, component, is_self) {
                return Err(Misfit::Collision);
            }
            if self.dirs.len() > MAX_DIRS {
                return Err(Misfit::TooManyDirs);
            }
            self.chain.push((end, node));
            start = end.saturating_add(1);
        }
        Ok(())
    }

    /// Adds a directory. Returns false if an entry named it before, or if it was spelled differently.
    fn enter(&mut self, id: u64, component: &str, named: bool) -> bool {
        let hash = blake3::keyed_hash(&self.key, component.as_bytes());
        let spelling = u32::from_be_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 4]));
        let dir = self.dirs.entry(id).or_insert(Dir { named: false, spelling });
        let fits = dir.spelling == spelling && !(named && dir.named);
        dir.named |= named;
        fits
    }

    /// The hash of a component below `parent`: the key in the sets, and the next element of the chain.
    fn child(&mut self, parent: Node, component: &str) -> (u64, Node) {
        self.folded.clear();
        push_component_key(component, &mut self.folded);
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&parent.0).update(self.folded.as_bytes());
        let hash = hasher.finalize();
        let id = u64::from_be_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 8]));
        (id, Node(*hash.as_bytes().last_chunk().unwrap_or(&[0; 16])))
    }
}

/// The keys are hashes already.
#[derive(Default)]
struct Identity(u64);

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
