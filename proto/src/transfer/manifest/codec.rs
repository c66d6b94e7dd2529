//! The encoding of an entry in a page: the bytes that [`super`] describes, without their meaning.

use crate::transfer::extents::{Extent, Extents, MAX_EXTENTS};
use crate::wire::Violation;

/// Kind of a regular file.
pub const FILE: u8 = 0;
/// Kind of a directory.
pub const DIR: u8 = 1;
/// Kind of a symbolic link.
pub const SYMLINK: u8 = 2;
/// Kind of a regular file with holes.
pub const SPARSE: u8 = 3;
/// The longest path or target that is decoded, in bytes: one more than is allowed, so that the rule for names reports
/// the reason.
const MAX_TEXT: usize = super::super::path::MAX_PATH + 1;

/// One entry as it is encoded in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a> {
    pub tag: u8,
    pub path: &'a [u8],
    pub mode: u64,
    pub seconds: i64,
    pub nanos: u64,
    /// Only for a file.
    pub size: u64,
    /// Only for a sparse file: how much of it is data, and its extents as they are in the page.
    pub data: u64,
    pub extents: &'a [u8],
    /// Only for a link.
    pub target: &'a [u8],
}

/// Appends an entry; `path` and `seconds` are those of the previous entry, or empty and 0.
pub fn encode(raw: &Raw<'_>, path: &[u8], seconds: i64, into: &mut Vec<u8>) {
    into.push(raw.tag);
    let shared = path.iter().zip(raw.path).take_while(|(a, b)| a == b).count();
    let rest = raw.path.get(shared..).unwrap_or_default();
    put_varint(shared as u64, into);
    put_varint(rest.len() as u64, into);
    into.extend_from_slice(rest);
    put_varint(raw.mode, into);
    put_varint(zigzag(raw.seconds.wrapping_sub(seconds)), into);
    put_varint(raw.nanos, into);
    match raw.tag {
        FILE => put_varint(raw.size, into),
        SPARSE => {
            put_varint(raw.size, into);
            into.extend_from_slice(raw.extents);
        }
        SYMLINK => {
            put_varint(raw.target.len() as u64, into);
            into.extend_from_slice(raw.target);
        }
        _ => {}
    }
}

/// Decodes the entries of a page one after the other. It allocates only the longest path.
#[derive(Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
    left: u16,
    path: Vec<u8>,
    /// The entry that was decoded last, without its path.
    last: Raw<'a>,
}

impl<'a> Entries<'a> {
    /// Begins to decode a page.
    ///
    /// # Errors
    /// The page is too long, or has no entries.
    pub fn of_page(page: &'a [u8]) -> Result<Self, Violation> {
        let (count, rest) = page.split_first_chunk().ok_or(Violation::BadPage)?;
        let last =
            Raw { tag: FILE, path: &[], mode: 0, seconds: 0, nanos: 0, size: 0, data: 0, extents: &[], target: &[] };
        match u16::from_be_bytes(*count) {
            left if left > 0 && page.len() <= super::Page::MAX => Ok(Self { rest, left, path: Vec::new(), last }),
            _ => Err(Violation::BadPage),
        }
    }

    /// The next entry; `None` after the last one, if no bytes follow it.
    ///
    /// # Errors
    /// The bytes are not the canonical encoding of an entry.
    pub fn next(&mut self) -> Result<Option<Raw<'_>>, Violation> {
        Ok(if self.advance()?.is_some() { Some(self.current()) } else { None })
    }

    /// Advances to the next entry and returns only how many bytes of it are sent: its size without holes.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn advance(&mut self) -> Result<Option<u64>, Violation> {
        let Some(left) = self.left.checked_sub(1) else {
            return if self.rest.is_empty() { Ok(None) } else { Err(Violation::BadPage) };
        };
        self.left = left;
        let rest = &mut self.rest;
        let [tag] = *take::<1>(rest)?;
        if tag > SPARSE {
            return Err(Violation::UnknownEntryKind);
        }
        let shared = length(rest)?;
        let suffix = text(rest)?;
        // The shared part is the longest possible if the two paths differ after it, or one of them ends there.
        let differs = self.path.get(shared).is_none_or(|byte| suffix.first() != Some(byte));
        if shared > self.path.len() || !differs || shared.saturating_add(suffix.len()) > MAX_TEXT {
            return Err(Violation::BadPage);
        }
        self.path.truncate(shared);
        self.path.extend_from_slice(suffix);
        let mode = varint(rest)?;
        let seconds = self.last.seconds.wrapping_add(unzigzag(varint(rest)?));
        let nanos = varint(rest)?;
        let size = if tag == FILE || tag == SPARSE { varint(rest)? } else { 0 };
        let (data, extents) = if tag == SPARSE { extents(rest, size)? } else { (size, &[][..]) };
        let target = if tag == SYMLINK { text(rest)? } else { &[] };
        self.last = Raw { tag, path: &[], mode, seconds, nanos, size, data, extents, target };
        Ok(Some(data))
    }

    /// The entry that was decoded last.
    pub fn current(&self) -> Raw<'_> {
        Raw { path: &self.path, ..self.last }
    }
}

/// The extents of a sparse file, as they stand in a page: their count, then of each the length of the hole before it
/// and its own.
pub fn encode_extents(extents: &[Extent]) -> Vec<u8> {
    let (mut encoded, mut end) = (Vec::new(), 0_u64);
    put_varint(extents.len() as u64, &mut encoded);
    for extent in extents {
        put_varint(extent.offset.saturating_sub(end), &mut encoded);
        put_varint(extent.len, &mut encoded);
        end = extent.end();
    }
    encoded
}

/// The extents that stand there.
///
/// # Errors
/// Bytes that are not the one encoding of a list, or not a list of a sparse file of this size.
pub fn decode_extents(encoded: &[u8], size: u64) -> Result<Extents, Violation> {
    let (mut rest, mut extents, mut end) = (encoded, Vec::new(), 0_u64);
    let count = varint(&mut rest)?;
    if count > MAX_EXTENTS as u64 {
        return Err(Violation::BadPage);
    }
    for _ in 0..count {
        let offset = end.checked_add(varint(&mut rest)?).ok_or(Violation::BadPage)?;
        let len = varint(&mut rest)?;
        end = offset.checked_add(len).ok_or(Violation::BadPage)?;
        extents.push(Extent { offset, len });
    }
    Extents::new(&extents, size).ok_or(Violation::BadPage)
}

/// Passes over the extents of a sparse file; gives how much of it is data, and the bytes passed over.
fn extents<'a>(rest: &mut &'a [u8], size: u64) -> Result<(u64, &'a [u8]), Violation> {
    let (all, mut end, mut data) = (*rest, 0_u64, 0_u64);
    let count = varint(rest)?;
    if count > MAX_EXTENTS as u64 {
        return Err(Violation::BadPage);
    }
    for number in 0..count {
        let (hole, len) = (varint(rest)?, varint(rest)?);
        end = end.checked_add(hole).and_then(|begin| begin.checked_add(len)).ok_or(Violation::BadPage)?;
        data = data.saturating_add(len);
        if len == 0 || (hole == 0 && number > 0) || end > size {
            return Err(Violation::BadPage);
        }
    }
    let passed = all.get(..all.len().saturating_sub(rest.len())).unwrap_or_default();
    if data < size { Ok((data, passed)) } else { Err(Violation::BadPage) }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], Violation> {
    let (head, tail) = rest.split_first_chunk().ok_or(Violation::BadPage)?;
    *rest = tail;
    Ok(head)
}

fn length(rest: &mut &[u8]) -> Result<usize, Violation> {
    usize::try_from(varint(rest)?).ok().filter(|length| *length <= MAX_TEXT).ok_or(Violation::BadPage)
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Violation> {
    let length = length(rest)?;
    let (text, tail) = rest.split_at_checked(length).ok_or(Violation::BadPage)?;
    *rest = tail;
    Ok(text)
}

/// Decodes LEB128, at most 64 bits, without overlong forms.
fn varint(rest: &mut &[u8]) -> Result<u64, Violation> {
    let (mut value, mut shift) = (0_u64, 0_u32);
    loop {
        let [byte] = *take(rest)?;
        let (bits, last) = (u64::from(byte & 0x7f), byte & 0x80 == 0);
        if (shift == 63 && byte > 1) || (shift > 0 && byte == 0) {
            return Err(Violation::BadPage);
        }
        value |= bits << shift;
        if last {
            return Ok(value);
        }
        shift = shift.saturating_add(7);
    }
}

fn put_varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg()
}
