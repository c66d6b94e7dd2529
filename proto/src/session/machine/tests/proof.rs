//! How later links prove that they belong to the session.

use super::super::super::lanes::InStream;
use super::*;

#[test]
fn later_link_accepts_only_proof_until_proven() {
    let mut pair = Pair::new();
    pair.run();
    pair.up(DIRECT, Origin::Dialled(Pace::Direct), Origin::Accepted(Pace::Direct));
    let mut steps = Vec::new();
    loop {
        let before = pair.sent.len();
        for end in [SENDER, RECEIVER] {
            pair.send_control(end, DIRECT);
        }
        let usable = [SENDER, RECEIVER].map(|end| pair.told[end].usable.contains(&DIRECT));
        steps.push((pair.sent[before..].iter().map(|(from, ..)| *from).collect::<Vec<_>>(), usable));
        if usable == [true, true] {
            break;
        }
        for end in [SENDER, RECEIVER] {
            while pair.deliver_one(end, DIRECT, FIRST) {}
        }
    }
    // The dialler's nonce, the answer, the answer's echo, and the keep-alive that shows that the echo arrived.
    let expected = [
        (vec![SENDER], [false, false]),
        (vec![RECEIVER], [false, false]),
        (vec![SENDER], [false, false]),
        (vec![RECEIVER], [false, true]),
        (vec![SENDER], [true, true]),
    ];
    assert_eq!(steps, expected);
    pair.all_well();
}

#[test]
fn chunks_that_overtake_proof_on_later_link_are_kept() {
    let mut pair = Pair::new();
    pair.up(DIRECT, Origin::Dialled(Pace::Direct), Origin::Accepted(Pace::Direct));
    for end in [SENDER, RECEIVER, SENDER] {
        pair.send_control(end, DIRECT);
        assert!(pair.deliver_one(end, DIRECT, FIRST));
    }
    assert_eq!((&pair.told[SENDER].usable[..], &pair.told[RECEIVER].usable[..]), (&[LINK][..], &[LINK, DIRECT][..]));
    // The receiver is convinced first. Its chunks arrive before the message that shows this, on the same stream and on
    // another one.
    pair.send_chunk(RECEIVER, DIRECT, 0, &[1; 2 * BIND_BYTES]);
    pair.deliver_one(RECEIVER, DIRECT, FIRST);
    assert_eq!(pair.told[SENDER].usable, [LINK]);
    pair.send_chunk(RECEIVER, DIRECT, 1, b"early");
    while pair.deliver_one(RECEIVER, DIRECT, StreamNo(1)) {}
    assert_eq!(pair.told[SENDER].usable, [LINK, DIRECT]);
    pair.run();
    assert_eq!(pair.told[SENDER].chunks, [Ok(vec![1; 2 * BIND_BYTES]), Ok(b"early".to_vec())]);
    pair.all_well();
}

#[test]
fn replayed_proof_is_refused() {
    let mut pair = Pair::new();
    pair.run();
    pair.up(DIRECT, Origin::Dialled(Pace::Direct), Origin::Accepted(Pace::Direct));
    // An attacker replays the dialler's first record from a link that never arrives, and forges its third record.
    pair.send_control(SENDER, DIRECT);
    let stolen = pair.sent.last().unwrap().3.clone();
    pair.wires.clear();
    let now = pair.now;
    pair.ends[RECEIVER].handle_link_up(now, LinkId(3), 2, Origin::Accepted(Pace::Direct));
    pair.arrive(RECEIVER, LinkId(3), FIRST, stolen.clone());
    pair.send_control(RECEIVER, LinkId(3));
    pair.arrive(RECEIVER, LinkId(3), FIRST, stolen);
    assert_eq!(pair.told[RECEIVER].dead, [(LinkId(3), LinkEnd::Violation(Violation::RecordOrder))]);
    assert_eq!(pair.told[RECEIVER].usable, [LINK]);
    // An answer to the dialler with a wrong nonce, and a third record with a nonce that differs from the answer's.
    let mut rogue = Rogue::new(RECEIVER);
    let answer = rogue.say(0, 0, Control::Bind { nonce: [1; 16], echo: Some([2; 16]) });
    pair.arrive(SENDER, DIRECT, FIRST, answer);
    assert_eq!(pair.told[SENDER].dead, [(DIRECT, LinkEnd::Violation(Violation::UnexpectedBind))]);
    let mut rogue = Rogue::new(SENDER);
    pair.ends[RECEIVER].handle_link_up(now, LinkId(4), 2, Origin::Accepted(Pace::Direct));
    for echo in [None, Some([2; 16])] {
        assert_eq!(pair.told[RECEIVER].dead.len(), 1);
        let record = rogue.say(0, 0, Control::Bind { nonce: [1; 16], echo });
        pair.arrive(RECEIVER, LinkId(4), FIRST, record);
    }
    assert_eq!(pair.told[RECEIVER].dead[1..], [(LinkId(4), LinkEnd::Violation(Violation::UnexpectedBind))]);
}

#[test]
fn a_chunk_before_the_proof_is_not_opened() {
    let mut pair = Pair::new();
    pair.ends[RECEIVER].handle_link_up(pair.now, DIRECT, 2, Origin::Accepted(Pace::Direct));
    let mut rogue = Rogue::new(SENDER);
    let first = rogue.say(0, 0, Control::Bind { nonce: [1; 16], echo: None });
    pair.arrive(RECEIVER, DIRECT, FIRST, first);
    assert_eq!(pair.told[RECEIVER].dead, []);
    pair.arrive(RECEIVER, DIRECT, FIRST, rogue.chunk(b"chunk"));
    assert_eq!(pair.told[RECEIVER].dead, [(DIRECT, LinkEnd::Violation(Violation::Unbound))]);
    assert_eq!(pair.told[RECEIVER].chunks, []);
}

#[test]
fn each_link_has_its_own_nonce() {
    let mut pair = Pair::new();
    let [_, receiver] = keys(0, Suite::Aes256Gcm);
    let mut opening = Opening::new(receiver.receive.clone(), receiver.suite);
    let mut nonces: Vec<[u8; 16]> = (2..6)
        .map(|link| {
            pair.ends[SENDER].handle_link_up(pair.now, LinkId(link), 2, Origin::Dialled(Pace::Direct));
            let frame = pair.ends[SENDER].poll_control_record(pair.now, LinkId(link)).unwrap().slice(PREFIX..);
            let Ok(Accepted::Control(plain)) = InStream::default().accept(&mut opening, frame.into()) else { panic!() };
            match decode::<ControlRecord>(&plain).unwrap().message {
                Control::Bind { nonce, echo: None } => nonce,
                other => panic!("{other:?}"),
            }
        })
        .collect();
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 4);
}

#[test]
fn unproven_link_has_bounded_time_bytes_and_records() {
    let mut pair = Pair::new();
    pair.run();
    let start = pair.now;
    let ends = |pair: &mut Pair, expected: LinkEnd| {
        let (link, why) = pair.told[RECEIVER].dead.pop().unwrap();
        assert_eq!((link, why), (DIRECT, expected));
        assert_eq!((pair.links(RECEIVER), pair.told[RECEIVER].failed), (vec![LINK], None), "the session lives on");
    };
    let unbound = LinkEnd::Violation(Violation::Unbound);
    let up = |pair: &mut Pair| pair.ends[RECEIVER].handle_link_up(start, DIRECT, 2, Origin::Accepted(Pace::Direct));

    up(&mut pair);
    assert_eq!(pair.ends[RECEIVER].poll_timeout().unwrap().1, "keep-alive");
    pair.ends[RECEIVER].handle_timeout(start + BIND_TIME);
    pair.drain(RECEIVER);
    ends(&mut pair, LinkEnd::Unproven);

    up(&mut pair);
    pair.arrive(RECEIVER, DIRECT, FIRST, vec![0; BIND_BYTES - PREFIX + 1].into());
    ends(&mut pair, unbound);

    up(&mut pair);
    pair.ends[RECEIVER].handle_progress(start, DIRECT, FIRST, BIND_BYTES);
    assert_eq!(pair.links(RECEIVER), [LINK, DIRECT]);
    pair.ends[RECEIVER].handle_progress(start, DIRECT, FIRST, BIND_BYTES + 1);
    pair.drain(RECEIVER);
    ends(&mut pair, unbound);

    // Any record except a proof, on any stream, ends the link at once; so the count of records is a second defence.
    let mut lane = 2000;
    for (stream, message) in [(0, Control::Sync), (0, message(1)), (1, keep_alive(&[], true))] {
        up(&mut pair);
        let sequence = u64::from(Class::of(&message) == Class::Sequenced);
        lane += 1;
        let mut rogue = Rogue::new(SENDER);
        rogue.sealing.skip_to(lane);
        let record = rogue.say(sequence, 0, message);
        pair.arrive(RECEIVER, DIRECT, StreamNo(stream), record);
        ends(&mut pair, unbound);
    }
    let state = &mut pair.ends[RECEIVER].alive;
    let mut link = Link::new(start, Origin::Accepted(Pace::Direct), 2, [0; 16]);
    for n in 0..=BIND_RECORDS {
        let refused = link.accept(&mut state.opening, 0, forged().into()).err();
        let expected = if n < BIND_RECORDS { Violation::BadRecord } else { Violation::Unbound };
        assert_eq!(refused, Some(expected));
    }
}
