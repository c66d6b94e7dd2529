//! The common part of the store's tests: trees on disk, their fingerprints, and a transfer without a network.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tallow_proto::seed::Seed;
use tallow_proto::transfer::manifest::{Entry, EntryKind, Manifest, ManifestBuilder, Mtime, PageBuilder};
use tallow_proto::transfer::path::{LinkTarget, RelPath};
use tallow_proto::transfer::storage::{Fault, FaultKind, Sink, Source};
use tallow_proto::wire::peer::TransferKind;
use tallow_store::{Destination, OnExists, Policy, Receiving, SourceOptions, SourceTree};

/// A directory for many short-lived files: in memory if possible.
pub fn quick_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A directory to receive into, next to one that must not change.
pub struct Place {
    pub root: tempfile::TempDir,
    pub to: PathBuf,
    pub outside: PathBuf,
    pub before: BTreeMap<PathBuf, String>,
}

impl Place {
    pub fn new() -> Self {
        let root = quick_dir();
        let (to, outside) = (root.path().join("target"), root.path().join("target2"));
        std::fs::create_dir_all(outside.join("inner")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(outside.join("victim"), "victim").unwrap();
        std::fs::write(outside.join("inner/x"), "x").unwrap();
        chmod(&outside.join("victim"), 0o640);
        let before = fingerprint(&outside);
        Self { root, to, outside, before }
    }

    pub fn untouched(&self) {
        assert_eq!(fingerprint(&self.outside), self.before, "outside the destination something changed");
        let mut around = names(self.root.path());
        around.retain(|name| name != "target");
        assert_eq!(around, ["target2"]);
    }
}

/// The kind of the fault, and its path below the destination.
pub fn refused(sink: &Receiving, manifest: &Arc<Manifest>, to: &Path) -> (FaultKind, String) {
    let fault = sink.begin(manifest).unwrap_err();
    let path = Path::new(fault.path.as_deref().unwrap());
    (fault.kind, path.strip_prefix(to).unwrap().to_string_lossy().into_owned())
}

/// All that is in a directory, as far as it can be compared: kind, mode, time, size, contents or target, inode.
pub fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        let contents = if kind.is_symlink() {
            std::fs::read_link(&path).unwrap().to_string_lossy().into_owned()
        } else if kind.is_file() {
            blake3::hash(&std::fs::read(&path).unwrap()).to_string()
        } else {
            if kind.is_dir() {
                left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            String::new()
        };
        let text = format!(
            "{:o} {}.{} {} {contents}",
            metadata.mode(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            if kind.is_dir() { 0 } else { metadata.size() }
        );
        found.insert(path.strip_prefix(dir).unwrap().to_owned(), text);
    }
    found
}

/// Like the function above, without the directory itself, whose time changes.
pub fn inside(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = fingerprint(dir);
    found.remove(Path::new(""));
    found
}

/// The names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

pub fn builder() -> ManifestBuilder {
    ManifestBuilder::new(TransferKind::Files, &Seed::new([7; 32]))
}

pub fn scan(source: &SourceTree) -> Result<Arc<Manifest>, Fault> {
    let mut builder = builder();
    for page in 0.. {
        match source.scan(page)? {
            Some(page) => builder.push_page(page).unwrap(),
            None => break,
        }
    }
    Ok(Arc::new(builder.finish().unwrap()))
}

pub fn source(paths: &[&Path], options: SourceOptions) -> SourceTree {
    SourceTree::new(paths.iter().map(|path| (*path).to_owned()).collect(), options).unwrap()
}

pub fn manifest(entries: &[Entry]) -> Arc<Manifest> {
    let mut builder = builder();
    let mut page = PageBuilder::new();
    for entry in entries {
        if page.push(entry).is_err() {
            builder.push_page(std::mem::take(&mut page).finish()).unwrap();
            page.push(entry).unwrap();
        }
    }
    if !page.is_empty() {
        builder.push_page(page.finish()).unwrap();
    }
    Arc::new(builder.finish().unwrap())
}

pub fn file(path: &str, size: u64) -> Entry {
    entry(path, EntryKind::File { size }, 0o644)
}

pub fn dir(path: &str) -> Entry {
    entry(path, EntryKind::Dir, 0o755)
}

pub fn link(path: &str, target: &str) -> Entry {
    let target = LinkTarget::parse(target).unwrap();
    entry(path, EntryKind::Symlink { target }, 0o777)
}

pub fn entry(path: &str, kind: EntryKind, mode: u16) -> Entry {
    Entry { path: RelPath::parse(path).unwrap(), kind, mode, mtime: Mtime { seconds: 1_000_000_000, nanos: 5 } }
}

/// The byte at `at` of the file at `index` in a generated manifest.
pub fn byte(index: u32, at: u64) -> u8 {
    (at.wrapping_mul(31) ^ u64::from(index)) as u8
}

/// The contents of a file of a made-up manifest.
pub fn contents(index: u32, size: u64) -> Vec<u8> {
    (0..size).map(|at| byte(index, at)).collect()
}

pub fn policy(on_exists: OnExists) -> Policy {
    Policy { on_exists, ..Policy::default() }
}

pub fn sink(to: &Path, on_exists: OnExists) -> Arc<Receiving> {
    Destination::open(to, policy(on_exists)).unwrap().sink()
}

/// Receives a made-up manifest: begin, every byte, finish in slices.
pub fn receive(sink: &Receiving, manifest: &Arc<Manifest>) -> Result<(), Fault> {
    let made_up = |index: u32, _: &Entry, at: u64, into: &mut [u8]| {
        for (place, to) in into.iter_mut().enumerate() {
            *to = byte(index, at + place as u64);
        }
        Ok(())
    };
    receive_from(sink, manifest, 64 << 10, &made_up)
}

type Reader<'a> = dyn Fn(u32, &Entry, u64, &mut [u8]) -> Result<(), Fault> + Sync + 'a;

/// Receives the bytes of a reader, in chunks that two threads store alternately.
pub fn receive_from(sink: &Receiving, manifest: &Arc<Manifest>, chunk: usize, read: &Reader<'_>) -> Result<(), Fault> {
    sink.begin(manifest)?;
    let half = |which: u64| -> Result<(), Fault> {
        let (mut number, mut buffer) = (0_u64, vec![0; chunk]);
        for (index, entry) in manifest.entries() {
            let mut at = 0;
            while at < entry.size() {
                let len = usize::try_from(entry.size() - at).unwrap().min(chunk);
                if number % 2 == which {
                    read(index, &entry, at, &mut buffer[..len])?;
                    sink.write(index, &entry, at, &buffer[..len])?;
                }
                number += 1;
                at += len as u64;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        half(0).and(other.join().unwrap())
    })?;
    finish(sink)
}

pub fn finish(sink: &Receiving) -> Result<(), Fault> {
    for _ in 0..1_000_000 {
        if sink.finish(10)? {
            return Ok(());
        }
    }
    panic!("it never finishes");
}

/// Sends a tree to a directory.
pub fn transfer(source: &SourceTree, sink: &Receiving) -> Result<(), Fault> {
    let manifest = scan(source)?;
    receive_from(sink, &manifest, 64 << 10, &|index, entry, at, into| source.read(index, entry, at, into))
}

pub fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The text of a fault as a program shows it.
pub fn told(fault: &Fault) -> String {
    let path = fault.path.as_deref().unwrap_or_default();
    format!("{path}: {}", fault.kind)
}
