use proptest::prelude::*;

use super::super::manifest::{EntryKind, ManifestBuilder, Mtime, PageBuilder};
use super::super::path::RelPath;
use super::*;
use crate::seed::Seed;
use crate::transfer::chunk_size::*;
use crate::wire::peer::TransferKind;

const K64: u64 = 64 << 10;

/// `None` is a directory. A new page begins after `page_after` entries.
fn manifest(sizes: &[Option<u64>], page_after: usize, chunk_size: u32) -> Manifest {
    let mut builder = ManifestBuilder::new(TransferKind::Files, &Seed::new([1; 32]));
    for (number, sizes) in sizes.chunks(page_after).enumerate() {
        let mut page = PageBuilder::new();
        for (index, size) in sizes.iter().enumerate() {
            page.push(&Entry {
                path: RelPath::parse(&format!("{number}/{index}")).unwrap(),
                kind: size.map_or(EntryKind::Dir, |size| EntryKind::File { size }),
                mode: 0o644,
                mtime: Mtime::default(),
            })
            .unwrap();
        }
        builder.push_page(page.finish()).unwrap();
    }
    builder.finish_with(chunk_size).unwrap()
}

fn pieces(manifest: &Manifest, chunk: u64) -> Vec<(u32, u64, u64)> {
    manifest.segments(chunk).map(|segment| (segment.index, segment.offset, segment.len as u64)).collect()
}

#[test]
fn large_files_are_aligned_and_small_files_fill_gaps() {
    let sizes = [Some(10), None, Some(0), Some(K64), Some(5), Some(K64 - 1), Some(7), Some(2 * K64 + 3), Some(1)];
    for page_after in 1..=sizes.len() {
        let manifest = manifest(&sizes, page_after, 64 << 10);
        assert_eq!(manifest.chunks(), 7);
        assert_eq!(pieces(&manifest, 0), [(0, 0, 10)]);
        assert_eq!(pieces(&manifest, 1), [(3, 0, K64)]);
        assert_eq!(pieces(&manifest, 2), [(4, 0, 5), (5, 0, K64 - 5)]);
        assert_eq!(pieces(&manifest, 3), [(5, K64 - 5, 4), (6, 0, 7)]);
        assert_eq!(pieces(&manifest, 4), [(7, 0, K64)]);
        assert_eq!(pieces(&manifest, 5), [(7, K64, K64)]);
        assert_eq!(pieces(&manifest, 6), [(7, 2 * K64, 3), (8, 0, 1)]);
        assert_eq!(
            (manifest.chunk_len(3), manifest.chunk_len(7), manifest.chunk_len(u64::MAX)),
            (Some(11), None, None)
        );
        assert_eq!(pieces(&manifest, 7), []);
        let segment = manifest.segments(6).nth(1).unwrap();
        assert_eq!(segment.entry, manifest.entry(8).unwrap());
    }
}

#[test]
fn empty_manifest_has_no_chunks() {
    assert_eq!(manifest(&[None, Some(0)], 1, 64 << 10).chunks(), 0);
    assert_eq!(manifest(&[], 1, 64 << 10).chunks(), 0);
    assert_eq!(manifest(&[], 1, 64 << 10).chunk_len(0), None);
}

#[test]
fn p04_longest_file_has_valid_layout() {
    let manifest = manifest(&[Some(i64::MAX as u64)], 1, 4 << 20);
    assert_eq!(manifest.chunks(), (1 << 63) >> 22);
    let last = manifest.chunks() - 1;
    assert_eq!(pieces(&manifest, last), [(0, last << 22, (4 << 20) - 1)]);
}

#[test]
fn chunk_sizes_follow_the_total() {
    for (total, size) in [
        (0, 64 << 10),
        (64 << 20, 64 << 10),
        ((64 << 20) + 1, 128 << 10),
        (1 << 30, 1 << 20),
        (4 << 30, 4 << 20),
        (u64::MAX, 4 << 20),
    ] {
        assert_eq!(chunk_size_for(total), size, "{total}");
    }
}

proptest! {
    #[test]
    fn segments_cover_each_byte_of_each_file_once(
        sizes in prop::collection::vec(prop_oneof![
            Just(None), Just(Some(0)), (1_u64..200).prop_map(Some), (K64 - 3..K64 + 3).prop_map(Some),
            (1_u64..5 * K64).prop_map(Some),
        ], 0..30),
        page_after in 1_usize..10,
    ) {
        let manifest = manifest(&sizes, page_after, 64 << 10);
        let mut next = vec![0_u64; sizes.len()];
        let mut sent = 0;
        for chunk in 0..manifest.chunks() {
            let pieces: Vec<_> = manifest.segments(chunk).collect();
            prop_assert!(!pieces.is_empty());
            let len: usize = pieces.iter().map(|piece| piece.len).sum();
            prop_assert!(len as u64 <= K64);
            prop_assert_eq!(manifest.chunk_len(chunk), Some(len));
            for piece in pieces {
                let done = &mut next[piece.index as usize];
                prop_assert_eq!(piece.offset, *done);
                prop_assert!(piece.len > 0);
                if piece.entry.size() >= K64 {
                    prop_assert_eq!(piece.offset % K64, 0);
                }
                *done += piece.len as u64;
                sent += piece.len as u64;
            }
        }
        for (done, size) in next.iter().zip(&sizes) {
            prop_assert_eq!(*done, size.unwrap_or(0));
        }
        prop_assert_eq!(sent, manifest.totals().bytes);
    }
}
