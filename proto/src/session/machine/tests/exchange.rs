//! Exchanges between two correct ends, and the effects of link failures.

use super::*;

#[test]
fn messages_and_chunks_are_delivered_in_both_directions() {
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        let mut pair = Pair::with(Limits::default(), suite);
        pair.up(LINK, Origin::Handshake, Origin::Handshake);
        for end in [SENDER, RECEIVER] {
            for n in 0..5 {
                pair.ends[end].send_control(message(n)).unwrap();
            }
            for stream in [0, 1, 2, 1] {
                pair.send_chunk(end, LINK, stream, &[stream; 1000]);
            }
        }
        pair.run();
        for told in &pair.told {
            assert_eq!(told.control, (0..5).map(message).collect::<Vec<_>>());
            let chunks = [0, 1, 1, 2].map(|stream| Ok(vec![stream; 1000]));
            assert_eq!(told.chunks, chunks);
            assert_eq!((&told.usable[..], &told.moved[..]), (&[LINK][..], &[LINK][..]));
        }
        pair.all_well();
    }
}

#[test]
fn message_waits_for_link_and_is_resent_on_next() {
    let mut pair = Pair::with(Limits::default(), Suite::Aes256Gcm);
    pair.ends[SENDER].send_control(message(1)).unwrap();
    assert_eq!(pair.ends[SENDER].poll_timeout(), None);
    assert!(!pair.ends[SENDER].has_sent_all());
    pair.up(LINK, Origin::Handshake, Origin::Handshake);
    pair.send_control(SENDER, LINK);
    assert!(pair.ends[SENDER].has_sent_all());
    // The link accepts the record and is lost.
    pair.wires.clear();
    for end in [SENDER, RECEIVER] {
        pair.ends[end].handle_link_lost(LINK);
        pair.drain(end);
        assert_eq!(pair.told[end].dead, [(LINK, LinkEnd::Lost)]);
    }
    assert!(!pair.ends[SENDER].has_sent_all());
    pair.up(DIRECT, Origin::Dialled(Pace::Direct), Origin::Accepted(Pace::Direct));
    pair.run();
    assert_eq!(pair.told[RECEIVER].control, [message(1)]);
    assert_eq!(pair.ends[SENDER].unacknowledged(), 1, "no acknowledgement arrived yet");
    pair.pass(KEEP_ALIVE);
    assert_eq!(pair.ends[SENDER].unacknowledged(), 0);
}

#[test]
fn many_messages_are_acknowledged_without_waiting_for_time() {
    let mut pair = Pair::new();
    for n in 0..2000 {
        if !pair.ends[SENDER].can_send_control() {
            assert!(matches!(pair.ends[SENDER].send_control(message(n)), Err(Unsent::Full(_))));
            assert_eq!(pair.ends[SENDER].unacknowledged(), WAITING);
            pair.run();
        }
        pair.ends[SENDER].send_control(message(n)).unwrap();
    }
    pair.run();
    assert_eq!(pair.told[RECEIVER].control, (0..2000).map(message).collect::<Vec<_>>());
    pair.all_well();
}

#[test]
fn control_follows_sender_and_returns_when_link_is_lost() {
    let mut pair = Pair::new();
    pair.up(DIRECT, Origin::Accepted(Pace::Direct), Origin::Dialled(Pace::Direct));
    pair.run();
    assert_eq!(pair.told[SENDER].usable, [LINK, DIRECT]);
    assert_eq!(pair.told[RECEIVER].usable, [LINK, DIRECT]);
    assert!(!pair.ends[SENDER].use_link(LinkId(3)));
    assert!(pair.ends[SENDER].use_link(DIRECT));
    assert!(pair.ends[SENDER].use_link(DIRECT), "a repeated call has no effect");
    pair.drain(SENDER);
    for end in [SENDER, RECEIVER] {
        pair.ends[end].send_control(message(1)).unwrap();
    }
    pair.run();
    assert!(!pair.sent.iter().any(|(_, link, ..)| *link == LinkId(3)));
    for end in [SENDER, RECEIVER] {
        assert_eq!(pair.told[end].moved, [LINK, DIRECT]);
        pair.ends[end].handle_link_lost(DIRECT);
        pair.ends[end].send_control(message(2)).unwrap();
    }
    pair.run();
    for end in [SENDER, RECEIVER] {
        assert_eq!(pair.told[end].moved, [LINK, DIRECT, LINK]);
        assert_eq!(pair.told[end].control, [message(1), message(2)]);
        assert_eq!(pair.told[end].dead, [(DIRECT, LinkEnd::Lost)]);
    }
}

#[test]
fn simultaneous_control_moves_use_senders_link() {
    let mut pair = Pair::new();
    for link in [DIRECT, LinkId(3)] {
        pair.up(link, Origin::Dialled(Pace::Direct), Origin::Accepted(Pace::Direct));
    }
    pair.run();
    assert!(pair.ends[SENDER].use_link(DIRECT) && pair.ends[RECEIVER].use_link(LinkId(3)));
    for end in [SENDER, RECEIVER] {
        pair.drain(end);
        pair.ends[end].send_control(message(1)).unwrap();
    }
    pair.run();
    assert_eq!(pair.told[SENDER].moved, [LINK, DIRECT]);
    assert_eq!(pair.told[RECEIVER].moved, [LINK, LinkId(3), DIRECT]);
    assert!(pair.told.iter().all(|told| told.control == [message(1)]));
}

#[test]
fn new_keys_end_all_links_and_the_control_sequence_runs_on() {
    let mut pair = Pair::new();
    pair.ends[SENDER].send_control(message(1)).unwrap();
    pair.run();
    pair.ends[SENDER].send_control(message(2)).unwrap();
    pair.send_control(SENDER, LINK);
    let old = pair.sent[0].clone();
    pair.wires.clear();
    for (end, keys) in keys(1, Suite::ChaCha20Poly1305).iter().enumerate() {
        pair.ends[end].handle_generation(keys);
        pair.drain(end);
        assert_eq!(pair.told[end].dead, [(LINK, LinkEnd::NewGeneration)]);
    }
    pair.up(DIRECT, Origin::Handshake, Origin::Handshake);
    pair.run();
    assert_eq!(pair.told[RECEIVER].control, [message(1), message(2)]);

    // A record of the old generation, in the position where it would be valid.
    pair.ends[RECEIVER].handle_generation(&keys(2, Suite::Aes256Gcm)[RECEIVER]);
    pair.ends[RECEIVER].handle_link_up(pair.now, LinkId(3), 2, Origin::Handshake);
    assert_eq!((old.0, old.2), (SENDER, FIRST));
    pair.arrive(RECEIVER, LinkId(3), FIRST, old.3);
    assert_eq!(pair.told[RECEIVER].failed, Some(Violation::BadRecord));
}

#[test]
fn chunk_for_unusable_stream_is_returned_unchanged() {
    let mut pair = Pair::new();
    pair.up(DIRECT, Origin::Dialled(Pace::Direct), Origin::Accepted(Pace::Direct));
    let now = pair.now;
    for (link, stream) in [(LinkId(9), 0), (LINK, 3), (DIRECT, 0)] {
        let mut chunk = Prepared::zeroed(0);
        chunk.extend_from_slice(b"chunk");
        let refused = pair.ends[SENDER].seal_chunk(now, link, StreamNo(stream), chunk).unwrap_err();
        assert_eq!(refused.body(), b"chunk");
    }
    let longest = pair.ends[SENDER].seal_chunk(now, LINK, StreamNo(1), Prepared::zeroed(Prepared::MAX)).unwrap();
    pair.put(SENDER, LINK, StreamNo(1), longest);
    pair.run();
    assert_eq!(pair.told[RECEIVER].chunks.len(), 1);
    assert!(pair.ends[SENDER].seal_chunk(now, LINK, StreamNo(1), Prepared::zeroed(Prepared::MAX + 1)).is_err());
    pair.all_well();
}

#[test]
fn links_are_bounded_and_ids_are_unique() {
    let mut pair = Pair::new();
    let now = pair.now;
    pair.ends[SENDER].handle_link_up(now, LINK, 2, Origin::Dialled(Pace::Direct));
    pair.drain(SENDER);
    assert_eq!(pair.told[SENDER].dead, [(LINK, LinkEnd::NoRoom)]);
    for n in 1..=MAX_LINKS as u32 {
        pair.ends[SENDER].handle_link_up(now, LinkId(100 + n), 2, Origin::Dialled(Pace::Direct));
    }
    pair.drain(SENDER);
    assert_eq!(pair.told[SENDER].dead[1..], [(LinkId(100 + MAX_LINKS as u32), LinkEnd::NoRoom)]);
    assert_eq!(pair.links(SENDER).len(), MAX_LINKS);
}

#[test]
fn accepted_links_leave_places_for_other_links() {
    let mut pair = Pair::new();
    let now = pair.now;
    for n in 1..=MAX_LINKS as u32 {
        pair.ends[SENDER].handle_link_up(now, LinkId(100 + n), 2, Origin::Accepted(Pace::Direct));
    }
    pair.drain(SENDER);
    let refused = pair.told[SENDER].dead.len();
    assert!(refused >= 6, "{refused} refused");
    for (n, origin) in [Origin::Dialled(Pace::Direct), Origin::Accepted(Pace::Relay)].into_iter().enumerate() {
        pair.ends[SENDER].handle_link_up(now, LinkId(200 + n as u32), 2, origin);
    }
    pair.drain(SENDER);
    assert_eq!(pair.told[SENDER].dead.len(), refused);
}

#[test]
fn a_link_without_lanes_ends_and_loses_no_message() {
    let mut pair = Pair::new();
    pair.run();
    pair.ends[SENDER].alive.sealing.skip_to(u32::MAX);
    pair.send_chunk(SENDER, LINK, 1, b"in the last lane");
    let chunk = Prepared::zeroed(7);
    let refused = pair.ends[SENDER].seal_chunk(pair.now, LINK, StreamNo(2), chunk).unwrap_err();
    assert_eq!(refused.len(), 7);
    pair.drain(SENDER);
    assert_eq!(pair.told[SENDER].dead, [(LINK, LinkEnd::LanesUsedUp)]);
    pair.ends[SENDER].send_control(message(1)).unwrap();
    pair.ends[SENDER].handle_link_up(pair.now, DIRECT, 0, Origin::Handshake);
    assert_eq!(pair.ends[SENDER].poll_control_record(pair.now, DIRECT), None);
    assert_eq!(pair.ends[SENDER].unacknowledged(), 1);
    pair.drain(SENDER);
    assert_eq!(pair.told[SENDER].dead[1..], [(DIRECT, LinkEnd::LanesUsedUp)]);
}
