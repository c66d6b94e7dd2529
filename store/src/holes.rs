//! Holes of files: found before a file is offered, kept empty where it is received.
//!
//! Decides which holes are worth a mention: those of [`LEAST`] bytes and more, and of a file with more than
//! [`MAX_EXTENTS`] extents only the larger ones. No state, no timers. Bound: twice [`MAX_EXTENTS`] extents.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, fstat, ftruncate, seek};
use rustix::io::Errno;
use tallow_proto::transfer::extents::{Extent, Extents, MAX_EXTENTS};

use crate::sink::write_all;

/// The smallest hole that is looked for, in bytes.
pub const LEAST: u64 = 64 << 10;
/// The length of the file that tells whether a file system has holes.
const PROBE: u64 = 4 << 20;

/// The data of a file's first `size` bytes; `None`: it has no holes, or the file system does not tell.
pub fn extents(file: impl AsFd, size: u64) -> Option<Extents> {
    let (mut found, mut least, mut at) = (Vec::<Extent>::new(), LEAST, 0_u64);
    while at < size {
        let begin = match seek(&file, SeekFrom::Data(at)) {
            Ok(begin) if begin < size => begin,
            // Nothing but a hole follows.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = seek(&file, SeekFrom::Hole(begin)).ok()?.min(size);
        if end <= begin {
            return None;
        }
        push(&mut found, Extent { offset: begin, len: end - begin }, least);
        while found.len() > MAX_EXTENTS {
            least = least.saturating_mul(2);
            for extent in std::mem::take(&mut found) {
                push(&mut found, extent, least);
            }
        }
        at = end;
    }
    // A short hole at the end is read like one between.
    if let Some(last) = found.last_mut()
        && size - last.end() < least
    {
        last.len = size - last.offset;
    }
    Extents::new(&found, size)
}

/// Appends an extent; a hole before it that is shorter than `least` is taken for data.
fn push(extents: &mut Vec<Extent>, extent: Extent, least: u64) {
    match extents.last_mut() {
        Some(last) if extent.offset - last.end() < least => last.len = extent.end() - last.offset,
        None if extent.offset < least => extents.push(Extent { offset: 0, len: extent.end() }),
        _ => extents.push(extent),
    }
}

/// Whether a file system keeps holes, and files of `longest` bytes: tried with a new, empty file there.
///
/// # Errors
/// An error of the operating system, such as for a file that would be too long.
pub fn are_kept(file: impl AsFd, longest: u64) -> io::Result<bool> {
    ftruncate(&file, PROBE)?;
    let blocks = u64::try_from(fstat(&file)?.st_blocks).unwrap_or_default();
    let are_kept = blocks.saturating_mul(512) < PROBE / 2;
    if are_kept {
        ftruncate(&file, longest)?;
    }
    Ok(are_kept)
}

/// Makes the holes of a file read as zeros, whatever was there, and sets its length.
///
/// # Errors
/// An error of the operating system.
pub fn clear(file: impl AsFd, data: &Extents, size: u64) -> io::Result<()> {
    // What lies beyond the end goes at once.
    let end = data.as_slice().last().map_or(0, Extent::end);
    if u64::try_from(fstat(&file)?.st_size).unwrap_or_default() > end {
        ftruncate(&file, end)?;
    }
    ftruncate(&file, size)?;
    for hole in data.holes(end) {
        let mut at = hole.offset;
        while at < hole.end() {
            let begin = match seek(&file, SeekFrom::Data(at)) {
                Ok(begin) if begin < hole.end() => begin,
                Ok(_) | Err(Errno::NXIO) => break,
                // The file system does not tell, so all of it may be data.
                Err(_) => at,
            };
            let until = seek(&file, SeekFrom::Hole(begin)).unwrap_or(hole.end()).clamp(begin + 1, hole.end());
            zero(&file, begin, until - begin)?;
            at = until;
        }
    }
    Ok(())
}

/// Makes a part of a file zeros, without blocks of its own where that is possible.
fn zero(file: impl AsFd, at: u64, len: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        if fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, len).is_ok() {
            return Ok(());
        }
    }
    let zeros = [0; 64 << 10];
    let mut done = 0;
    while done < len {
        let piece = usize::try_from(len - done).unwrap_or(usize::MAX).min(zeros.len());
        write_all(&file, at + done, &zeros[..piece])?;
        done += piece as u64;
    }
    Ok(())
}
