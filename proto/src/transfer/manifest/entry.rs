//! The entries of a manifest as values.

use crate::transfer::extents::Extents;
use crate::transfer::path::{LinkTarget, RelPath};

/// One entry: a file, a directory or a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path below the directory that the receiver chooses.
    pub path: RelPath,
    /// The kind, with its properties.
    pub kind: EntryKind,
    /// Permission bits, at most 0o777; the receiver's umask still applies.
    pub mode: u16,
    /// When the contents last changed.
    pub mtime: Mtime,
}

/// The kind of an entry. The list is closed, because a sink has to know each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
    },
    /// A regular file with holes. Only its data is moved.
    Sparse {
        /// Its length in bytes, holes included.
        size: u64,
        /// Where its data is.
        data: Extents,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// The target.
        target: LinkTarget,
    },
}

impl EntryKind {
    /// Whether it is a regular file.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        match self {
            Self::File { .. } | Self::Sparse { .. } => true,
            Self::Dir | Self::Symlink { .. } => false,
        }
    }
}

impl Entry {
    /// The length of a file in bytes; 0 for other kinds.
    #[must_use]
    pub const fn size(&self) -> u64 {
        match self.kind {
            EntryKind::File { size } | EntryKind::Sparse { size, .. } => size,
            EntryKind::Dir | EntryKind::Symlink { .. } => 0,
        }
    }

    /// How many bytes of it are moved: the length of a file without its holes.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        match &self.kind {
            EntryKind::File { size } => *size,
            EntryKind::Sparse { data, .. } => data.data_len(),
            EntryKind::Dir | EntryKind::Symlink { .. } => 0,
        }
    }

    /// Where a byte of a file is in its data; `None`: it is in a hole, or beyond the end.
    #[must_use]
    pub fn data_position(&self, offset: u64) -> Option<u64> {
        match &self.kind {
            EntryKind::File { size } => Some(offset).filter(|offset| offset < size),
            EntryKind::Sparse { data, .. } => data.position(offset),
            EntryKind::Dir | EntryKind::Symlink { .. } => None,
        }
    }
}

/// A time since 1970-01-01 00:00:00 UTC; earlier times have negative seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mtime {
    /// Seconds; a value read from a page is clamped to the years 0 to 9999.
    pub seconds: i64,
    /// Nanoseconds to add, below 1,000,000,000.
    pub nanos: u32,
}

impl Mtime {
    /// 0000-01-01 00:00:00 UTC.
    const FIRST: i64 = -62_167_219_200;
    /// 9999-12-31 23:59:59 UTC.
    const LAST: i64 = 253_402_300_799;

    /// The nearest time within the years 0 to 9999, which the conversions of every system support.
    #[must_use]
    pub fn clamped(seconds: i64, nanos: u64) -> Self {
        Self {
            seconds: seconds.clamp(Self::FIRST, Self::LAST),
            nanos: u32::try_from(nanos).unwrap_or(u32::MAX).min(999_999_999),
        }
    }
}
