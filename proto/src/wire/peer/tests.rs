use proptest::prelude::*;

use super::super::{Malformed, decode, encode};
use super::*;

/// One record of each kind, with long and short numbers in it.
fn records() -> Vec<ControlRecord> {
    let range = ChunkRange { first: 3, last: 300 };
    let messages = vec![
        Control::Sync,
        Control::KeepAlive {
            lanes: BoundedVec::truncated(vec![LaneCount { lane: 1, records: 1 << 40, partial: 70_000 }]),
            reading: true,
        },
        Control::Bind { nonce: [7; 16], echo: Some([8; 16]) },
        Control::Bind { nonce: [7; 16], echo: None },
        Control::Offer(Offer {
            transfer: 1,
            kind: TransferKind::Files,
            chunk_size: 1 << 20,
            entries: 1000,
            bytes: u64::MAX,
            pages: 2,
        }),
        Control::Page { transfer: 1, page: Blob(vec![9; 300].into()) },
        Control::Accept {
            transfer: 1,
            have: BoundedVec::truncated(vec![Have { range, digest: [5; 32] }]),
            credit: 32 << 20,
        },
        Control::Decline { transfer: 1, reason: DeclineReason::NoSpace, text: Reason::new("voll: größer") },
        Control::Ack { transfer: 1, ranges: BoundedVec::truncated(vec![range, range]), credit: 0 },
        Control::End { transfer: 1, chunks: 300, moved: 200, root: [4; 32] },
        Control::Verified { transfer: 1, root: [4; 32] },
        Control::Cancel { transfer: 0, reason: CancelReason::Interrupted, text: Reason::default() },
        Control::Bye,
        Control::Checked { transfer: 1, range, same: true },
        Control::CandidateOffer {
            round: 1,
            candidates: BoundedVec::default(),
            certificate: [1; 32],
            token: [2; 16],
            dependent: false,
        },
        Control::CandidatesDone { round: 300 },
        Control::DirectFailed { round: 0 },
        Control::DirectConnected { round: 2 },
        Control::Placement {
            transfer: 1,
            placement: Placement { renamed: 300, links_outside: 2, links_unsupported: u32::MAX },
        },
    ];
    messages.into_iter().map(|message| ControlRecord { sequence: 300, ack: 2, message }).collect()
}

fn judge(bytes: &[u8]) -> Result<ControlRecord, Malformed> {
    decode(bytes)
}

#[test]
fn control_record_round_trips_with_stable_tags() {
    for record in records() {
        assert_eq!(judge(&encode(&record)), Ok(record));
    }
    // Pinned: the numbers of the variants never change.
    let tags: Vec<u8> = records().iter().map(|record| encode(record)[3]).collect();
    assert_eq!(tags, [0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]);
    let keep_alive = encode(&records()[1]);
    assert_eq!(keep_alive, [0xac, 2, 2, 1, 1, 1, 128, 128, 128, 128, 128, 32, 0xf0, 0xa2, 4, 1]);
}

#[test]
fn p02_an_overlong_number_is_malformed() {
    assert!(judge(&[1, 0, 0]).is_ok());
    for overlong in [
        &[0x81, 0][..],
        &[0x80, 0],
        &[0x80, 0x80, 0x80, 0x80, 0],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
    ] {
        assert_eq!(judge(&[overlong, &[0, 0]].concat()), Err(Malformed), "as sequence: {overlong:?}");
        assert_eq!(judge(&[&[1], overlong, &[0]].concat()), Err(Malformed), "as ack: {overlong:?}");
        assert_eq!(judge(&[&[1, 0], overlong].concat()), Err(Malformed), "as the message's tag: {overlong:?}");
        assert_eq!(judge(&[&[1, 0, 1], overlong, &[1]].concat()), Err(Malformed), "as a length: {overlong:?}");
    }
}

#[test]
fn p02_trailing_bytes_after_message_are_malformed() {
    for record in records() {
        for rest in [&[0][..], &[1], &encode(&record)] {
            assert_eq!(judge(&[&encode(&record), rest].concat()), Err(Malformed), "{record:?}");
        }
    }
}

#[test]
fn p02_a_message_cut_at_any_byte_is_malformed() {
    for record in records() {
        let bytes = encode(&record);
        for len in 0..bytes.len() {
            assert_eq!(judge(&bytes[..len]), Err(Malformed), "{record:?} of {len} bytes");
        }
    }
}

#[test]
fn p02_bool_and_option_tag_must_be_0_or_1() {
    let keep_alive = |reading| judge(&[0, 0, 1, 0, reading]);
    assert!(keep_alive(0).is_ok() && keep_alive(1).is_ok());
    assert_eq!((keep_alive(2), keep_alive(255)), (Err(Malformed), Err(Malformed)));
    let bind = |mark| judge(&[&[0, 0, 2], &[7; 16][..], &[mark], &[8; 16]].concat());
    assert!(bind(1).is_ok());
    assert_eq!((bind(0), bind(2), bind(255)), (Err(Malformed), Err(Malformed), Err(Malformed)));
}

#[test]
fn p02_an_unknown_tag_is_malformed() {
    // `Bind` stands there twice.
    let last = records().len() as u8 - 2;
    assert!(judge(&[0, 0, last, 1, 0, 0, 0]).is_ok());
    for tag in [&[last + 1][..], &[127], &[200], &[0xc8, 1], &[0xff, 0xff, 0xff, 0xff, 15]] {
        for rest in [&[][..], &[0; 64]] {
            assert_eq!(judge(&[&[0, 0], tag, rest].concat()), Err(Malformed), "{tag:?}");
        }
    }
    let decline = |reason| judge(&[1, 0, 6, 1, reason, 0]);
    assert!(decline(0).is_ok());
    assert_eq!((decline(5), decline(200)), (Err(Malformed), Err(Malformed)));
}

#[test]
fn p02_list_or_text_beyond_its_bound_is_malformed() {
    let keep_alive = |count: u8| judge(&[&[0, 0, 1, count], &vec![0; 3 * usize::from(count)][..], &[1]].concat());
    assert!(keep_alive(64).is_ok());
    assert_eq!(keep_alive(65), Err(Malformed));
    let decline = |len: usize| judge(&[&[1, 0, 6, 1, 0], &encode(&len)[..], &vec![b'x'; len]].concat());
    assert!(decline(Reason::MAX).is_ok());
    assert_eq!(decline(Reason::MAX + 1), Err(Malformed));
    let page = |len: usize| judge(&[&[1, 0, 4, 1], &encode(&len)[..], &vec![0; len]].concat());
    assert!(page(60 << 10).is_ok());
    assert_eq!(page((60 << 10) + 1), Err(Malformed));
    // A count without its items takes no memory and is no message.
    assert_eq!(judge(&[&[0, 0, 7, 1], &encode(&u64::MAX)[..]].concat()), Err(Malformed));
    assert_eq!(judge(&[1, 0, 6, 1, 0, 1, 0xff]), Err(Malformed), "not UTF-8");
}

proptest! {
    #[test]
    fn accepted_message_bytes_re_encode_identically(
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        tag in 0..19_u8,
    ) {
        for bytes in [bytes.clone(), [&[0, 0, tag], &bytes[..]].concat()] {
            if let Ok(record) = judge(&bytes) {
                prop_assert_eq!(encode(&record), bytes);
            }
        }
    }
}
