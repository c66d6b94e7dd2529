//! The position of the bytes: the contents of all files are concatenated in manifest order and cut into chunks.
//!
//! A file of at least one chunk begins on a chunk boundary, so that large files are read and written in aligned
//! pieces; the gap before it is not sent. A gap is shorter than a chunk and follows other bytes, so every chunk has
//! at least one byte, and all its bytes are at its beginning. Many small files share a chunk.
//!
//! A chunk's segments are found by a binary search over the manifest's pages, then by walking the pages that it
//! touches; nothing is kept per chunk or per entry. Of a sparse file only the data is in the stream.

use super::chunk_size::place;
use super::extents::Extent;
use super::manifest::{Entry, EntryKind, Manifest, codec, entry};
use crate::wire::peer::ChunkRange;

/// A piece of one file in a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Number of the file's entry in the manifest.
    pub index: u32,
    /// The entry.
    pub entry: Entry,
    /// Where the piece begins in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes, at least 1.
    pub len: usize,
}

impl Manifest {
    /// How many chunks the transfer has.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.end().div_ceil(self.chunk_size().into())
    }

    /// The length of a chunk's plaintext in bytes; `None`: there is no such chunk.
    #[must_use]
    pub fn chunk_len(&self, chunk: u64) -> Option<usize> {
        let mut spans = Spans::new(self, chunk)?;
        let mut len = 0_usize;
        while let Some((_, _, span)) = spans.next() {
            len = len.saturating_add(span.len);
        }
        Some(len)
    }

    /// The chunks that hold bytes of an entry; `None`: it has none.
    pub(super) fn chunks_of(&self, index: u32) -> Option<ChunkRange> {
        let (mut number, mut cursor, mut entries) = self.raw_entries(self.page_of(index)?)?;
        loop {
            let size = entries.advance().ok()??;
            let size = if self.skipped().contains(number) { 0 } else { size };
            let begin = place(cursor, size, self.chunk_size())?;
            cursor = if size == 0 { cursor } else { begin.checked_add(size)? };
            if number == index {
                let (last, chunk) = (cursor.checked_sub(1)?, u64::from(self.chunk_size()));
                let (first, last) = (begin.checked_div(chunk)?, last.checked_div(chunk)?);
                return (size > 0).then_some(ChunkRange { first, last });
            }
            number = number.saturating_add(1);
        }
    }

    /// The segments of a chunk, in order; empty if there is no such chunk. A segment of a sparse file has no hole in
    /// it, so a chunk can have several segments of one file.
    pub fn segments(&self, chunk: u64) -> impl Iterator<Item = Segment> + '_ {
        let mut spans = Spans::new(self, chunk);
        let mut runs = Vec::new().into_iter();
        std::iter::from_fn(move || {
            if let Some(segment) = runs.next() {
                return Some(segment);
            }
            let (index, raw, span) = spans.as_mut()?.next()?;
            let entry = entry(&raw).ok()?;
            let EntryKind::Sparse { data, .. } = &entry.kind else {
                return Some(Segment { index, entry, offset: span.offset, len: span.len });
            };
            let of_run = |run: Extent| {
                let len = usize::try_from(run.len).ok()?;
                Some(Segment { index, entry: entry.clone(), offset: run.offset, len })
            };
            runs = data.runs(span.offset, span.len as u64).filter_map(of_run).collect::<Vec<_>>().into_iter();
            runs.next()
        })
    }
}

/// The segments of files in one chunk, as the pages list them.
struct Spans<'a> {
    manifest: &'a Manifest,
    page: u32,
    entries: codec::Entries<'a>,
    index: u32,
    cursor: u64,
    start: u64,
    stop: u64,
}

struct Span {
    offset: u64,
    len: usize,
}

impl<'a> Spans<'a> {
    fn new(manifest: &'a Manifest, chunk: u64) -> Option<Self> {
        let size = u64::from(manifest.chunk_size());
        let start = chunk.checked_mul(size).filter(|start| *start < manifest.end())?;
        let page = manifest.page_at_byte(start)?;
        let (index, cursor, entries) = manifest.raw_entries(page)?;
        Some(Self { manifest, page, entries, index, cursor, start, stop: start.saturating_add(size) })
    }

    /// The pages were checked when they arrived, so an error in one only ends the iteration.
    fn next(&mut self) -> Option<(u32, codec::Raw<'_>, Span)> {
        let (index, span) = loop {
            let size = match self.entries.advance() {
                Ok(Some(size)) => size,
                Ok(None) => {
                    self.page = self.page.checked_add(1)?;
                    (self.index, self.cursor, self.entries) = self.manifest.raw_entries(self.page)?;
                    if self.cursor >= self.stop {
                        return None;
                    }
                    continue;
                }
                Err(_) => return None,
            };
            let index = self.index;
            self.index = self.index.saturating_add(1);
            if size == 0 || self.manifest.skipped().contains(index) {
                continue;
            }
            let begin = place(self.cursor, size, self.manifest.chunk_size())?;
            if begin >= self.stop {
                return None;
            }
            self.cursor = begin.saturating_add(size);
            let (from, to) = (begin.max(self.start), self.cursor.min(self.stop));
            if let Some(len) = to.checked_sub(from).filter(|len| *len > 0) {
                break (index, Span { offset: from.saturating_sub(begin), len: usize::try_from(len).ok()? });
            }
        };
        Some((index, self.entries.current(), span))
    }
}

#[cfg(test)]
mod tests;
