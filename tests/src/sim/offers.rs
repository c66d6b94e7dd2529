//! Offers byte by byte, as a malicious peer writes them: pages with entries that this project never creates.

use bytes::Bytes;
use tallow_proto::wire::Blob;
use tallow_proto::wire::peer::{Control, Offer, TransferKind};

use super::malicious_peer::{Received, Script};

/// The smallest chunk size.
pub const K64: u32 = 64 << 10;

/// One encoded entry; the first one of a page.
#[must_use]
pub fn raw(tag: u8, path: &[u8], size: u64) -> Vec<u8> {
    let mut entry = vec![tag, 0];
    varint(path.len() as u64, &mut entry);
    entry.extend_from_slice(path);
    varint(0o644, &mut entry);
    entry.extend_from_slice(&[0, 0]);
    match tag {
        0 => varint(size, &mut entry),
        2 => {
            entry.push(1);
            entry.push(b'x');
        }
        _ => {}
    }
    entry
}

/// A number as postcard writes it.
pub fn varint(mut value: u64, into: &mut Vec<u8>) {
    while value > 127 {
        into.push(value as u8 | 128);
        value >>= 7;
    }
    into.push(value as u8);
}

/// These entries as one page.
#[must_use]
pub fn page_of(entries: &[Vec<u8>]) -> Bytes {
    let mut page = (entries.len() as u16).to_be_bytes().to_vec();
    entries.iter().for_each(|entry| page.extend_from_slice(entry));
    page.into()
}

/// An offer with these statements; they need not be true.
#[must_use]
pub fn offer(entries: u32, bytes: u64, pages: u32) -> Offer {
    Offer { transfer: 1, kind: TransferKind::Files, chunk_size: K64, entries, bytes, pages }
}

/// Offers these entries, each on a page of its own, with sums that are right if they can be.
#[must_use]
pub fn offering(entries: Vec<Vec<u8>>, bytes: u64) -> Script {
    Box::new(move |heard, output| {
        if matches!(heard, Received::Keyed) {
            output.say(Control::Offer(offer(entries.len() as u32, bytes, entries.len() as u32)));
            for entry in &entries {
                let page = Blob(page_of(std::slice::from_ref(entry)));
                output.say(Control::Page { transfer: 1, page });
            }
        }
    })
}
