//! How large the chunks of a transfer are, and where each file begins among them.

/// The smallest chunk, in bytes.
pub const MIN_CHUNK: u32 = 64 << 10;
/// The largest chunk, in bytes.
pub const MAX_CHUNK: u32 = 4 << 20;
/// How many sizes there are: each power of two from [`MIN_CHUNK`] to [`MAX_CHUNK`].
pub(super) const SIZES: usize = 7;

/// The chunk size for this many bytes in total: about a thousand chunks, within the bounds.
#[must_use]
pub fn chunk_size_for(total: u64) -> u32 {
    let wanted = total.div_ceil(1024).clamp(MIN_CHUNK.into(), MAX_CHUNK.into());
    u32::try_from(wanted.next_power_of_two()).unwrap_or(MAX_CHUNK)
}

/// The index of a chunk size among the [`SIZES`]; `None`: a transfer can't have this chunk size.
pub(super) const fn size_class(chunk_size: u32) -> Option<usize> {
    if chunk_size.is_power_of_two() && chunk_size >= MIN_CHUNK && chunk_size <= MAX_CHUNK {
        Some(chunk_size.trailing_zeros().saturating_sub(MIN_CHUNK.trailing_zeros()) as usize)
    } else {
        None
    }
}

/// Where a file of `size` bytes begins in the virtual stream if the contents before it end at `cursor`. `None`:
/// beyond the maximum length of a stream.
pub(super) fn place(cursor: u64, size: u64, chunk_size: u32) -> Option<u64> {
    if size >= u64::from(chunk_size) { cursor.checked_next_multiple_of(chunk_size.into()) } else { Some(cursor) }
}
