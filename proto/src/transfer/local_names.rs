//! The local names of a manifest: what each entry is called on a disk that can't hold all names as they are, or not
//! side by side.
//!
//! Decides which entry keeps its name, and which one gets a portable name or a number. An entry whose name the disk can
//! hold keeps it, the first of several that the disk takes for one; then the others get theirs, in the order of the
//! manifest: the portable form of [`NameRules::local`], and a number where that is taken (`readme (1)`). Each component
//! of a path is named by itself, so that entries below one directory stay below one, and what only differs in the case
//! of a directory does not end up in one. The same manifest and rules give the same names, also in a later process.
//!
//! No state, no timers. Bounds: nothing where the disk holds all names; else 24 bytes for each entry that got a number,
//! and while the names are made 9 bytes for each entry and 48 for each directory, in tables at most half empty;
//! [`MOST_REPORTED`] and [`MOST_REPORTED_BYTES`] of the report; [`MOST_TRIES`] numbers that are taken.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;

use super::collision::{Chains, Identity, Node};
use super::component::{NameRules, numbered};
use super::manifest::{EntryKind, Manifest, Refusal, Refused};
use super::path::{LinkTarget, MAX_PATH, PathError, RelPath};
use crate::seed::Seed;
use crate::wire::Untrusted;

/// The most names of a report.
pub const MOST_REPORTED: usize = 65_536;
/// The most bytes of the names of a report.
pub const MOST_REPORTED_BYTES: usize = 8 << 20;
/// The most numbers that are tried and are taken, for all names together.
const MOST_TRIES: u32 = 4_000_000;

type Table<T> = HashMap<u64, T, BuildHasherDefault<Identity>>;

/// An entry whose local name differs from the offered one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// The offered path; components are separated by `/`.
    pub offered: String,
    /// The local path, relative to the destination.
    pub here: String,
}

/// A list of names for the user, which ends at [`MOST_REPORTED`] names and [`MOST_REPORTED_BYTES`], and their number,
/// which does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported<T> {
    list: Vec<T>,
    bytes: usize,
    total: u64,
}

impl<T> Default for Reported<T> {
    fn default() -> Self {
        Self { list: Vec::new(), bytes: 0, total: 0 }
    }
}

impl<T> Reported<T> {
    /// Counts an item, and adds it while there is room; `bytes` is what it takes.
    pub fn push(&mut self, bytes: usize, item: impl FnOnce() -> T) {
        self.total = self.total.saturating_add(1);
        let sum = self.bytes.saturating_add(bytes);
        if self.list.len() < MOST_REPORTED && sum <= MOST_REPORTED_BYTES {
            self.list.push(item());
            self.bytes = sum;
        }
    }

    /// Changes each item.
    pub fn change(&mut self, change: impl FnMut(&mut T)) {
        self.list.iter_mut().for_each(change);
    }

    /// The first ones.
    #[must_use]
    pub fn list(&self) -> &[T] {
        &self.list
    }

    /// How many there are.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }
}

/// The local names of one manifest.
pub struct LocalNames {
    rules: NameRules,
    chains: Chains,
    /// Whether all names stay as they are.
    is_identity: bool,
    /// The numbers that names got, by the hashes of their offered paths.
    numbers: Table<Number>,
    renamed: Reported<Renamed>,
}

#[derive(Debug, Clone, Copy)]
struct Number {
    number: u32,
    is_dir: bool,
}

impl LocalNames {
    /// Finds the name of each entry. The seed keys hashes, so that nobody can make names that only seem to collide.
    ///
    /// # Errors
    /// A local path is too long, or so many names collide that the search for free numbers takes too long.
    pub fn of(manifest: &Manifest, rules: NameRules, seed: &Seed) -> Result<Self, Refused> {
        let chains = Chains::new(seed);
        let mut names =
            Self { rules, chains, is_identity: true, numbers: Table::default(), renamed: Reported::default() };
        let changes = |path: &RelPath| path.components().any(|component| rules.local(component).is_some());
        if !rules.folds() && !manifest.entries().any(|(_, entry)| changes(&entry.path)) {
            return Ok(names);
        }
        names.is_identity = false;
        let mut search = Search::new();
        for pass in [Pass::Kept, Pass::Changed] {
            for (_, entry) in manifest.entries() {
                search.name(&mut names, &entry.path, entry.kind == EntryKind::Dir, pass)?;
            }
        }
        names.is_identity = names.renamed.total() == 0;
        Ok(names)
    }

    /// The local path of an entry.
    #[must_use]
    pub fn local<'a>(&self, path: &'a RelPath) -> Cow<'a, str> {
        if self.is_identity {
            return Cow::Borrowed(path.as_str());
        }
        Cow::Owned(self.local_text(path.as_str()))
    }

    fn local_text(&self, path: &str) -> String {
        let mut local = String::with_capacity(path.len());
        let mut node = Node::default();
        for component in path.split('/') {
            if !local.is_empty() {
                local.push('/');
            }
            local.push_str(&self.component(&mut node, component));
        }
        local
    }

    /// The target of the link at `link`, with the names that its components have here; one that leads out of the tree
    /// stays as it is.
    #[must_use]
    pub fn link_target<'a>(&self, link: &RelPath, target: &'a LinkTarget) -> Cow<'a, str> {
        if self.is_identity || target.stays_inside(link).is_err() {
            return Cow::Borrowed(target.as_str());
        }
        let mut above: Vec<&str> = link.components().collect();
        above.pop();
        for component in target.as_str().split('/') {
            if component == ".." {
                above.pop();
            }
        }
        let mut node = Node::default();
        for component in above {
            (_, node) = self.chains.child(node, component);
        }
        let parts = target.as_str().split('/').map(|component| match component {
            "" | "." | ".." => Cow::Borrowed(component),
            name => self.component(&mut node, name),
        });
        Cow::Owned(parts.collect::<Vec<_>>().join("/"))
    }

    /// The names that are others here, in the order of the manifest: each component that changed once, and not again
    /// for the entries below it.
    #[must_use]
    pub const fn renamed(&self) -> &Reported<Renamed> {
        &self.renamed
    }

    /// The local name of a component; `node` is the hash of the offered path above it, and becomes its own.
    fn component<'a>(&self, node: &mut Node, component: &'a str) -> Cow<'a, str> {
        let local = self.rules.local(component).map_or(Cow::Borrowed(component), Cow::Owned);
        if self.numbers.is_empty() {
            return local;
        }
        let (id, below) = self.chains.child(*node, component);
        *node = below;
        match self.numbers.get(&id) {
            Some(Number { number, is_dir }) => Cow::Owned(numbered(&local, *number, *is_dir, self.rules.longest)),
            None => local,
        }
    }
}

impl std::fmt::Debug for LocalNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalNames")
            .field("rules", &self.rules)
            .field("renamed", &self.renamed.total())
            .finish_non_exhaustive()
    }
}

/// Which entries get their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Those that keep them.
    Kept,
    /// Those that can't.
    Changed,
}

/// What is known while the names are made.
struct Search {
    /// The keys of the local names that are taken.
    taken: HashSet<u64, BuildHasherDefault<Identity>>,
    /// The directories that have a name, by the hashes of their offered paths.
    dirs: Table<Place>,
    /// Entries whose name another one has, by the hashes of their offered paths.
    later: HashSet<u64, BuildHasherDefault<Identity>>,
    /// For names that collided, by their keys: the last number that was taken.
    last: Table<u32>,
    tries: u32,
    key: String,
}

/// A directory that has its local name.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// The hash of its offered path.
    offered: Node,
    /// The hash of its local path's key.
    local: Node,
    /// The length of its local path in bytes.
    len: usize,
    /// It, or a directory above, got its name in the second pass, so that nothing below has one from the first.
    is_changed: bool,
}

impl Search {
    fn new() -> Self {
        Self {
            taken: HashSet::default(),
            dirs: Table::default(),
            later: HashSet::default(),
            last: Table::default(),
            tries: 0,
            key: String::new(),
        }
    }

    /// Names an entry and the directories above it, as far as they have no names and it is their pass.
    fn name(&mut self, names: &mut LocalNames, path: &RelPath, is_dir: bool, pass: Pass) -> Result<(), Refused> {
        let refused = |why| Refused { name: Untrusted::new(path.as_str().to_owned()), why };
        let mut above = Place::default();
        let (mut components, mut end) = (path.components().peekable(), 0_usize);
        while let Some(component) = components.next() {
            end = end.saturating_add(component.len());
            let is_last = components.peek().is_none();
            let is_dir = is_dir || !is_last;
            let (id, offered) = names.chains.child(above.offered, component);
            if let Some(known) = self.dirs.get(&id) {
                above = *known;
                end = end.saturating_add(1);
                continue;
            }
            let changed = names.rules.local(component);
            let here: Cow<'_, str> = match pass {
                Pass::Kept if changed.is_some() => return Ok(()),
                Pass::Kept => {
                    let (key, _) = self.key_of(names, above.local, component);
                    if !self.taken.insert(key) {
                        self.later.insert(id);
                        return Ok(());
                    }
                    Cow::Borrowed(component)
                }
                // It has its name from the first pass.
                Pass::Changed if changed.is_none() && !above.is_changed && !self.later.contains(&id) => return Ok(()),
                Pass::Changed => {
                    let base = changed.as_deref().unwrap_or(component);
                    let (number, local) = self.free(names, above.local, base, is_dir).map_err(refused)?;
                    if number > 0 {
                        names.numbers.insert(id, Number { number, is_dir });
                    }
                    Cow::Owned(local)
                }
            };
            let len = above.len.saturating_add(1).saturating_add(here.len());
            if len > MAX_PATH.saturating_add(1) {
                return Err(refused(PathError::TooLong.into()));
            }
            if here != component {
                let offered = path.as_str().get(..end).unwrap_or_default();
                let here = names.local_text(offered);
                let bytes = offered.len().saturating_add(here.len());
                names.renamed.push(bytes, || Renamed { offered: offered.to_owned(), here });
            }
            if !is_dir {
                return Ok(());
            }
            let (_, local) = self.key_of(names, above.local, &here);
            above = Place { offered, local, len, is_changed: pass == Pass::Changed };
            self.dirs.insert(id, above);
            end = end.saturating_add(1);
        }
        Ok(())
    }
    /// A name that is free in the directory with this hash: the base, or the base with a number.
    fn free(&mut self, names: &LocalNames, above: Node, base: &str, is_dir: bool) -> Result<(u32, String), Refusal> {
        let (base_key, _) = self.key_of(names, above, base);
        if self.taken.insert(base_key) {
            return Ok((0, base.to_owned()));
        }
        let mut number = self.last.get(&base_key).copied().unwrap_or(0);
        loop {
            number = number.saturating_add(1);
            self.tries = self.tries.saturating_add(1);
            if self.tries > MOST_TRIES {
                return Err(Refusal::TooManyCollisions);
            }
            let local = numbered(base, number, is_dir, names.rules.longest);
            let (key, _) = self.key_of(names, above, &local);
            if self.taken.insert(key) {
                self.last.insert(base_key, number);
                return Ok((number, local));
            }
        }
    }

    /// The hash by which the disk knows a local name.
    fn key_of(&mut self, names: &LocalNames, above: Node, local: &str) -> (u64, Node) {
        self.key.clear();
        names.rules.push_key(local, &mut self.key);
        names.chains.child(above, &self.key)
    }
}

#[cfg(test)]
mod tests;
