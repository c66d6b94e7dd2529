//! Keep-alives, idle timeouts, and stalled lanes.

use super::*;

#[test]
fn idle_session_sends_keep_alive_every_five_seconds() {
    let mut pair = Pair::new();
    pair.run();
    let before = pair.sent.len();
    pair.pass(Duration::from_secs(60));
    pair.all_well();
    assert_eq!(pair.sent.len() - before, 2 * 12);
}

#[test]
fn a_link_that_is_silent_for_fifteen_seconds_is_dead() {
    let mut pair = Pair::new();
    pair.run();
    let start = pair.now;
    let end = &mut pair.ends[RECEIVER];
    let mut at = start;
    while let Some((next, reason)) = end.poll_timeout() {
        assert!(next > at, "{reason}");
        at = next;
        end.handle_timeout(at);
        while let Some(frame) = end.poll_control_record(at, LINK) {
            assert_eq!(frame[PREFIX], KIND_CONTROL);
        }
    }
    assert_eq!(at, start + SILENCE);
    pair.drain(RECEIVER);
    assert_eq!(pair.told[RECEIVER].dead, [(LINK, LinkEnd::Silent)]);
}

#[test]
fn a_genuine_record_or_64_kib_of_one_counts_as_received() {
    let mut pair = Pair::new();
    pair.send_chunk(SENDER, LINK, 1, &[0; 1000]);
    pair.run();
    let at = |seconds| pair.now + Duration::from_secs(seconds);
    let silent = |session: &Session, seconds| session.alive.links[&LINK].is_silent(at(seconds), true);
    let chunk = pair.ends[SENDER].seal_chunk(at(0), LINK, StreamNo(1), Prepared::zeroed(10)).unwrap().slice(PREFIX..);
    let end = &mut pair.ends[RECEIVER];
    // None of these is a sign of life: a spurious timeout, bytes below 64 KiB, a record that is not decrypted yet.
    end.handle_timeout(at(10));
    end.handle_progress(at(10), LINK, StreamNo(2), 65_535);
    end.handle_record(at(10), LINK, StreamNo(1), chunk.into());
    assert!(matches!(end.poll_event(), Some(Event::Chunk(_))));
    assert!(!silent(end, 14) && silent(end, 15));
    end.handle_verdict(at(10), Verdict { link: LINK, is_genuine: true });
    assert!(!silent(end, 24) && silent(end, 25));
    end.handle_progress(at(20), LINK, StreamNo(2), 65_536);
    assert!(!silent(end, 34) && silent(end, 35));
    let message = Rogue::new(SENDER).say(0, 0, Control::Sync);
    end.handle_record(at(30), LINK, FIRST, message.into());
    assert!(!silent(end, 44) && silent(end, 45));
}

#[test]
fn silence_does_not_count_while_reading_is_paused() {
    let mut pair = Pair::new();
    pair.run();
    let start = pair.now;
    let end = &mut pair.ends[RECEIVER];
    end.set_reading(start, false);
    for seconds in 1..100 {
        end.handle_timeout(start + Duration::from_secs(seconds));
        assert_eq!(end.poll_timeout().unwrap().1, "keep-alive");
    }
    let again = start + Duration::from_secs(100);
    end.set_reading(again, true);
    end.set_reading(again + Duration::from_secs(1), true);
    end.handle_timeout(again + SILENCE - Duration::from_millis(1));
    assert!(end.poll_event().is_some_and(|event| matches!(event, Event::LinkUsable(_))) || end.poll_event().is_none());
    end.handle_timeout(again + SILENCE);
    pair.drain(RECEIVER);
    assert_eq!(pair.told[RECEIVER].dead, [(LINK, LinkEnd::Silent)]);
}

/// Advances the time and delivers everything except this stream. True if the sender's link is still alive.
fn pass_without(pair: &mut Pair, stream: u8, time: Duration) -> bool {
    let until = pair.now + time;
    while pair.now < until && pair.told[SENDER].dead.is_empty() {
        pair.now += Duration::from_millis(500);
        for end in [SENDER, RECEIVER] {
            pair.ends[end].handle_timeout(pair.now);
            pair.drain(end);
            pair.send_control(end, LINK);
            while pair.deliver_one(end, LINK, FIRST) {}
        }
        if stream != 1 {
            while pair.deliver_one(SENDER, LINK, StreamNo(1)) {}
        }
    }
    pair.told[SENDER].dead.is_empty()
}

#[test]
fn a_lane_stalled_for_thirty_seconds_ends_its_link() {
    let mut pair = Pair::new();
    pair.run();
    pair.send_chunk(SENDER, LINK, 1, &[1; 100]);
    pair.send_chunk(SENDER, LINK, 2, &[2; 100]);
    let start = pair.now;
    assert!(!pass_without(&mut pair, 2, Duration::from_secs(100)));
    assert_eq!(pair.told[SENDER].dead, [(LINK, LinkEnd::Stalled)]);
    assert_eq!(pair.now, start + LANE_STALL);
    assert_eq!(pair.told[RECEIVER].dead, []);
}

#[test]
fn slowly_progressing_lane_is_kept() {
    let mut pair = Pair::new();
    pair.run();
    pair.send_chunk(SENDER, LINK, 1, &[1; 1_000_000]);
    assert!(pair.deliver_one(SENDER, LINK, StreamNo(1)), "the record that begins the lane");
    for step in 1..10 {
        let now = pair.now;
        pair.ends[RECEIVER].handle_progress(now, LINK, StreamNo(1), step * 1000);
        assert!(pass_without(&mut pair, 1, LANE_STALL - KEEP_ALIVE), "step {step}");
    }
    assert!(!pass_without(&mut pair, 1, LANE_STALL + KEEP_ALIVE));
    assert_eq!(pair.told[SENDER].dead, [(LINK, LinkEnd::Stalled)]);
}

#[test]
fn lane_may_stall_while_either_peer_does_not_read() {
    let mut pair = Pair::new();
    pair.run();
    pair.send_chunk(SENDER, LINK, 1, &[1; 100]);
    pair.ends[RECEIVER].set_reading(pair.now, false);
    assert!(pass_without(&mut pair, 1, Duration::from_secs(100)));
    pair.ends[RECEIVER].set_reading(pair.now, true);
    // Measured from the last keep-alive that reported progress.
    assert!(pass_without(&mut pair, 1, LANE_STALL - KEEP_ALIVE - Duration::from_secs(1)));
    pair.ends[SENDER].set_reading(pair.now, false);
    assert!(pass_without(&mut pair, 1, Duration::from_secs(100)));
    pair.ends[SENDER].set_reading(pair.now, true);
    assert!(!pass_without(&mut pair, 1, LANE_STALL));
    assert_eq!(pair.told[SENDER].dead, [(LINK, LinkEnd::Stalled)]);
}

/// The idle timeout of a later link depends on its purpose, not on which side dialled.
#[test]
fn later_relay_path_has_same_silence_limit_as_first() {
    for (pace, every, patience) in
        [(Pace::Relay, KEEP_ALIVE, SILENCE), (Pace::Direct, DIRECT_KEEP_ALIVE, DIRECT_SILENCE)]
    {
        let mut pair = Pair::new();
        pair.up(DIRECT, Origin::Dialled(pace), Origin::Accepted(pace));
        pair.run();
        assert!(pair.told.iter().all(|told| told.usable.contains(&DIRECT)), "{pace:?}");
        let before = pair.sent.iter().filter(|(_, link, ..)| *link == DIRECT).count();
        pair.pass(patience * 4);
        pair.all_well();
        let said = pair.sent.iter().filter(|(_, link, ..)| *link == DIRECT).count() - before;
        let wanted = 2 * (4 * patience.as_millis() / every.as_millis()) as usize;
        assert!((wanted - 2..=wanted).contains(&said), "{pace:?}: {said} of {wanted}");
        for end in [SENDER, RECEIVER] {
            let silent = |after| pair.ends[end].alive.links[&DIRECT].is_silent(pair.now + after, true);
            assert!(!silent(patience - every) && silent(patience), "{pace:?}");
        }
    }
}

#[test]
fn later_relay_path_has_longer_proof_deadline() {
    for (pace, time) in [(Pace::Relay, SILENCE), (Pace::Direct, BIND_TIME)] {
        let mut pair = Pair::new();
        pair.run();
        let start = pair.now;
        pair.ends[SENDER].handle_link_up(start, DIRECT, 2, Origin::Dialled(pace));
        pair.ends[SENDER].handle_timeout(start + time - Duration::from_millis(1));
        pair.drain(SENDER);
        assert_eq!(pair.told[SENDER].dead, []);
        pair.ends[SENDER].handle_timeout(start + time);
        pair.drain(SENDER);
        assert!(pair.told[SENDER].dead.contains(&(DIRECT, LinkEnd::Unproven)), "{pace:?}");
    }
}
