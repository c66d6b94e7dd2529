//! Each violation, by a misbehaving peer and by a relay that modifies records.

use super::*;

#[test]
fn a_violation_ends_the_session_only_on_the_first_link() {
    for (link, ends) in [(LINK, true), (DIRECT, false)] {
        let mut pair = Pair::new();
        pair.up(DIRECT, Origin::Dialled(Pace::Direct), Origin::Accepted(Pace::Direct));
        pair.run();
        pair.ends[SENDER].send_control(message(1)).unwrap();
        pair.arrive(RECEIVER, link, FIRST, forged());
        let told = &pair.told[RECEIVER];
        if ends {
            assert_eq!((told.failed, &told.dead[..]), (Some(Violation::BadRecord), &[][..]));
            assert_eq!(pair.ends[RECEIVER].failure(), told.failed);
            let (end, now) = (&mut pair.ends[RECEIVER], pair.now);
            assert_eq!(end.poll_timeout(), None);
            assert!(!end.use_link(DIRECT));
            assert!(end.seal_chunk(now, LINK, FIRST, Prepared::zeroed(1)).is_err());
            end.handle_link_up(now, LinkId(7), 0, Origin::Handshake);
            end.handle_generation(&keys(1, Suite::Aes256Gcm)[1]);
            end.handle_timeout(now + Duration::from_secs(100));
            // The session ignores further input, and can still send the reason.
            end.send_control(message(2)).unwrap();
            pair.run();
            assert_eq!(pair.told[RECEIVER].control, []);
            assert_eq!(pair.told[SENDER].control, [message(2)]);
        } else {
            assert_eq!(
                (told.failed, &told.dead[..]),
                (None, &[(DIRECT, LinkEnd::Violation(Violation::BadRecord))][..])
            );
            pair.run();
            assert_eq!(pair.told[RECEIVER].control, [message(1)]);
        }
    }
}

#[test]
fn each_broken_rule_has_its_own_violation() {
    let offered = || Rogue::new(SENDER);
    let mut cases: Vec<(&str, Violation, StreamNo, Vec<Bytes>)> = Vec::new();
    let mut case = |name, violation, stream: u8, messages: Vec<(u64, u64, Control)>| {
        let mut rogue = offered();
        let records = messages.into_iter().map(|(sequence, ack, message)| rogue.say(sequence, ack, message)).collect();
        cases.push((name, violation, StreamNo(stream), records));
    };
    let sync = || (0, 0, Control::Sync);
    case("sequence on keep-alive", Violation::WrongSequence, 0, vec![(1, 0, keep_alive(&[], true))]);
    case("no sequence on a message", Violation::WrongSequence, 0, vec![sync(), (0, 0, message(1))]);
    case("gap", Violation::ControlGap, 0, vec![sync(), (1, 0, message(1)), (3, 0, message(3))]);
    case("no sync", Violation::NoSync, 0, vec![(1, 0, message(1))]);
    case("sync elsewhere", Violation::WrongStream, 1, vec![sync()]);
    case("message elsewhere", Violation::WrongStream, 2, vec![(1, 0, message(1))]);
    case("no such stream", Violation::UnknownStream, MAX_STREAMS + 1, vec![sync()]);
    case("ack of nothing", Violation::AckedUnsent, 0, vec![(0, 1, Control::Sync)]);
    let counted = LaneCount { lane: 0, records: 1 << 40, partial: 0 };
    case("count of nothing", Violation::CountedUnsent, 0, vec![(0, 0, keep_alive(&[counted], true))]);
    case(
        "proof of the first link",
        Violation::UnexpectedBind,
        0,
        vec![(0, 0, Control::Bind { nonce: [0; 16], echo: None })],
    );
    let mut rogue = offered();
    cases.push(("not a message", Violation::Malformed, FIRST, vec![rogue.seal(&(0_u8, 0_u8, 200_u8))]));
    let mut rogue = offered();
    cases.push(("trailing bytes", Violation::Malformed, FIRST, vec![rogue.seal(&(0_u64, 0_u64, Control::Sync, 0_u8))]));
    cases.push(("short", Violation::RecordTooShort, FIRST, vec![Bytes::from_static(&[0; 28])]));
    cases.push(("kind", Violation::UnknownKind, FIRST, vec![Bytes::from_static(&[2; 29])]));
    cases.push(("no record", Violation::RecordTooShort, FIRST, vec![Bytes::new()]));
    for (name, violation, stream, records) in cases {
        let mut pair = Pair::new();
        pair.send_control(RECEIVER, LINK);
        for record in records {
            assert_eq!(pair.told[RECEIVER].failed, None, "{name}: too early");
            pair.arrive(RECEIVER, LINK, stream, record);
        }
        assert_eq!(pair.told[RECEIVER].failed, Some(violation), "{name}");
    }
}

#[test]
fn a_repeated_message_is_dropped() {
    let (mut pair, mut rogue) = (Pair::new(), Rogue::new(SENDER));
    let messages =
        [(0, Control::Sync), (1, message(1)), (1, message(9)), (2, message(2)), (1, message(1)), (0, Control::Sync)];
    for (sequence, message) in messages {
        let record = rogue.say(sequence, 0, message);
        pair.arrive(RECEIVER, LINK, FIRST, record);
    }
    assert_eq!(pair.told[RECEIVER].control, [message(1), message(2)]);
    pair.all_well();
}

/// Control records and chunks that a sender sealed for one stream, not delivered yet.
fn conversation() -> (Pair, Vec<Bytes>) {
    let mut pair = Pair::new();
    for n in 0..4_u8 {
        pair.ends[SENDER].send_control(message(n.into())).unwrap();
        pair.send_control(SENDER, LINK);
        pair.send_chunk(SENDER, LINK, 0, &[n; 500]);
    }
    let records = pair.wires.remove(&(SENDER, LINK, FIRST)).unwrap();
    (pair, records.into())
}

#[test]
fn x06_a_session_refuses_records_of_another_context() {
    let (_, genuine) = conversation();
    // Another session of the same users: the wires were swapped after the handshakes.
    let other = {
        let mut pair = Pair::new();
        for (end, keys) in keys(1, Suite::Aes256Gcm).iter().enumerate() {
            pair.ends[end].handle_generation(keys);
        }
        pair.up(LinkId(9), Origin::Handshake, Origin::Handshake);
        pair.send_chunk(SENDER, LinkId(9), 0, &[7; 500]);
        pair.send_control(SENDER, LinkId(9));
        pair.wires.remove(&(SENDER, LinkId(9), FIRST)).unwrap()
    };
    let (mut pair, _) = conversation();
    pair.arrive(RECEIVER, LINK, FIRST, other[0].clone());
    assert_eq!(pair.told[RECEIVER].failed, Some(Violation::BadRecord));

    // The peer's own records, reflected to it.
    let (mut pair, records) = conversation();
    pair.arrive(SENDER, LINK, FIRST, records[0].clone());
    assert_eq!(pair.told[SENDER].failed, Some(Violation::BadRecord));

    // The ciphertexts of two chunks swapped, each under the other's header; or a chunk's ciphertext under a control
    // record's header.
    let chunks: Vec<usize> = (0..genuine.len()).filter(|&at| genuine[at][0] == KIND_CHUNK).collect();
    assert_eq!(chunks.len(), 4);
    for (to, from) in [(0, 1), (1, 0), (3, 2)].map(|(to, from)| (chunks[to], chunks[from])) {
        let (mut pair, mut records) = conversation();
        records[to] = [&genuine[to][..13], &genuine[from][13..]].concat().into();
        for record in &records[..=to] {
            assert_eq!(pair.told[RECEIVER].failed, None);
            pair.arrive(RECEIVER, LINK, FIRST, record.clone());
        }
        assert_eq!(pair.told[RECEIVER].failed, Some(Violation::BadRecord));
        assert_eq!(pair.told[RECEIVER].chunks.last(), Some(&Err(Violation::BadRecord)), "no plaintext is returned");
    }
    let (mut pair, mut records) = conversation();
    records[chunks[0]] = [&[KIND_CONTROL][..], &genuine[chunks[0]][1..]].concat().into();
    for record in &records[..=chunks[0]] {
        assert_eq!(pair.told[RECEIVER].failed, None);
        pair.arrive(RECEIVER, LINK, FIRST, record.clone());
    }
    assert_eq!(pair.told[RECEIVER].failed, Some(Violation::BadRecord));
}

#[test]
fn x07_a_session_ends_within_one_record_of_a_tampered_one() {
    let (_, genuine) = conversation();
    let chunks: Vec<usize> = (0..genuine.len()).filter(|&at| genuine[at][0] == KIND_CHUNK).collect();
    for at in [chunks[0], chunks[1], *chunks.last().unwrap()] {
        type Change = fn(&mut Vec<Bytes>, usize);
        let changes: [(&str, Change); 4] = [
            ("dropped", |records, at| drop(records.remove(at))),
            ("doubled", |records, at| records.insert(at, records[at].clone())),
            ("swapped", |records, at| records.swap(at, at - 1)),
            ("replayed", |records, at| records.push(records[at].clone())),
        ];
        for (name, change) in changes {
            let (mut pair, mut records) = conversation();
            // A record that follows the last chunk, as the end of a transfer does.
            pair.ends[SENDER].send_control(message(4)).unwrap();
            pair.send_control(SENDER, LINK);
            records.extend(pair.wires.remove(&(SENDER, LINK, FIRST)).unwrap());
            let good = records.clone();
            change(&mut records, at);
            let wrong = (0..records.len()).find(|&n| records.get(n) != good.get(n)).unwrap();
            for record in &records[..wrong] {
                pair.arrive(RECEIVER, LINK, FIRST, record.clone());
            }
            assert_eq!(pair.told[RECEIVER].failed, None, "{name} {at}");
            let before = (pair.told[RECEIVER].chunks.len(), pair.told[RECEIVER].control.len());
            pair.arrive(RECEIVER, LINK, FIRST, records[wrong].clone());
            assert_eq!(pair.told[RECEIVER].failed, Some(Violation::RecordOrder), "{name} {at}");
            let after = (pair.told[RECEIVER].chunks.len(), pair.told[RECEIVER].control.len());
            assert_eq!(before, after, "{name} {at}: it was accepted");
        }
    }
}

#[test]
fn every_changed_byte_of_every_record_ends_the_session() {
    let (_, genuine) = conversation();
    for (at, record) in genuine.iter().enumerate() {
        for byte in 0..record.len() {
            let (mut pair, mut records) = conversation();
            let mut changed = record.to_vec();
            changed[byte] ^= 0x41;
            records[at] = changed.into();
            for record in &records[..=at] {
                pair.arrive(RECEIVER, LINK, FIRST, record.clone());
            }
            assert!(pair.told[RECEIVER].failed.is_some(), "record {at}, byte {byte}");
        }
    }
}
