//! Real peers at a malicious relay (cases X and P of tests/cases/bad-inputs.tsv). A final name may exist only with
//! complete, verified contents: the rig checks that after each run.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tallow_proto::code::Code;
use tallow_proto::peer::{Class, Event};
use tallow_proto::wire::frame::{KIND_CHUNK, enclose};
use tallow_proto::wire::peer::HandshakeMessage;
use tallow_proto::wire::relay::Role;
use tallow_proto::wire::{Versions, decode, encode};
use tallow_tests::sim::{Fate, Passing, Place, Policy, Report, Rig, Scenario, Tamper};

fn scenario(seed: u64, bytes: usize) -> Scenario {
    Scenario { place: Place::ScriptedRelay, ..Scenario::plain(seed, bytes) }
}

/// Runs to the end of the receiver; a sender that still waits for the right one is interrupted then.
fn against(scenario: &Scenario, tamper: Tamper) -> (Report, Rig) {
    let mut rig = Rig::new(scenario, Policy::Proper, tamper);
    let report = finish(&mut rig);
    (report, rig)
}

fn finish(rig: &mut Rig) -> Report {
    let (sender, receiver) = (rig.sender, rig.receiver);
    let limit = Duration::from_secs(300);
    rig.world.run_until(limit, |world| {
        world.end(receiver).is_some() || world.said(receiver).any(|event| matches!(event, Event::Offer(_)))
    });
    rig.accept();
    let ended = rig.world.run_until(limit, |world| world.is_closed(receiver));
    assert!(ended, "the receiver does not end: {}", rig.told());
    rig.world.run_until(Duration::from_secs(60), |world| world.is_closed(sender));
    rig.interrupt_sender();
    assert!(rig.world.run_until(limit, |world| world.is_closed(sender)), "the sender does not end: {}", rig.told());
    let report = rig.report();
    if matches!(report.received, Some(Event::Done(_))) {
        rig.sink.check_whole();
    } else if rig.sink.has_final_names() {
        // A fault while verified files were moved to their final names: then all of them are there and correct.
        rig.sink.check_whole();
    }
    report
}

fn failed(report: &Report, sent: &[Class], received: &[Class], what: &str) {
    let classes = (report.sent_class(), report.received_class());
    assert!(
        classes.0.is_some_and(|class| sent.contains(&class))
            && classes.1.is_some_and(|class| received.contains(&class)),
        "{what}: {:?} {:?}",
        report.sent,
        report.received
    );
}

fn no_metadata(rig: &Rig) {
    assert!(!rig.world.said(rig.receiver).any(|event| matches!(event, Event::Offer(_))), "{}", rig.told());
}

fn flip(frame: &Bytes, bit: usize) -> Bytes {
    let mut changed = BytesMut::from(&frame[..]);
    changed[bit / 8] ^= 1 << (bit % 8);
    changed.freeze()
}

fn is_chunk(frame: &Bytes) -> bool {
    frame.get(4) == Some(&KIND_CHUNK) && frame.len() > 1000
}

#[test]
fn scripted_relay_without_tampering_completes_transfer() {
    let (report, _) = against(&scenario(1, 200_000), tallow_tests::sim::honest());
    assert!(report.is_done());
}

#[test]
fn x02_dropped_handshakes_allow_at_most_three_guesses() {
    // Which frame the relay answers in the receiver's place, or drops the link at.
    for guess in [false, true] {
        let tries = Arc::new(Mutex::new((0, 0)));
        let seen = tries.clone();
        let tamper: Tamper = Box::new(move |passing, frame| {
            let mut seen = seen.lock().unwrap();
            match (passing.role, passing.nth) {
                (Role::Sender, 0) => {
                    seen.0 += 1;
                    if guess { Fate::Pass } else { Fate::Close }
                }
                // The receiver's proof, made wrong, and the link dropped after it.
                (Role::Receiver, 0) => {
                    seen.1 += 1;
                    let last = frame.len() * 8 - 1;
                    Fate::Instead(vec![flip(frame, last)])
                }
                _ => Fate::Close,
            }
        });
        let mut rig = Rig::new(&scenario(2, 1000), Policy::Proper, tamper);
        for round in 0..4 {
            let (sender, receiver) = (rig.sender, rig.receiver);
            rig.world.run_until(Duration::from_secs(60), |world| world.is_closed(receiver));
            assert!(rig.world.is_closed(receiver), "{}", rig.told());
            no_metadata(&rig);
            let class = rig.report().received_class();
            assert!(matches!(class, Some(Class::Auth | Class::Net)), "{}", rig.told());
            if rig.world.is_closed(sender) {
                break;
            }
            rig.another_receiver(round);
        }
        let (runs, answers) = *tries.lock().unwrap();
        if guess {
            assert_eq!((runs, answers), (3, 3), "{}", rig.told());
            assert_eq!(rig.report().sent_class(), Some(Class::Auth));
        } else {
            // Nothing was learnt from a message without an answer, so nothing is used up, and both try again, with
            // pauses.
            assert!((10..1000).contains(&runs) && answers == 0, "{runs}");
            assert!(rig.world.end(rig.sender).is_none());
        }
    }
}

#[test]
fn x03_a_flipped_handshake_bit_fails_on_both_sides() {
    let long = std::env::var_os("TALLOW_LONG").is_some();
    // H1 and H2 have about 1,700 bytes, H3 33; the first four are the length.
    for (role, nth, len) in [(Role::Sender, 0, 1_680), (Role::Receiver, 0, 1_700), (Role::Sender, 1, 37)] {
        let step = if long { 37 } else { len * 8 / 12 };
        for bit in (0..len * 8).step_by(step) {
            let tamper: Tamper = Box::new(move |passing, frame| {
                let here = (passing.role, passing.nth, passing.stream) == (role, nth, 0) && passing.from < 2;
                if here { Fate::Instead(vec![flip(frame, bit % (frame.len() * 8))]) } else { Fate::Pass }
            });
            let (report, rig) = against(&scenario(3, 1000), tamper);
            let what = format!("bit {bit} of {role:?} {nth}");
            if report.is_done() {
                // Only what stopped the attempt and proved nothing is tried again, on an untouched link.
                let again = rig.world.said(rig.receiver).filter(|event| matches!(event, Event::Paired)).count();
                assert!(bit < 40 && again > 1, "{what}: {}", rig.told());
                continue;
            }
            no_metadata(&rig);
            // A sender that got a wrong answer was notified of the guess and waits for the right one; the test
            // interrupts it. One that was keyed already (H3) receives nothing that it can open. With a longer length
            // both wait until the deadline.
            failed(
                &report,
                &[Class::Auth, Class::Proto, Class::Interrupted, Class::Net],
                &[Class::Auth, Class::Proto, Class::Net],
                &what,
            );
            if bit >= 40 {
                assert!(
                    matches!(report.received_class(), Some(Class::Auth | Class::Proto)),
                    "{what}: {:?}",
                    report.received
                );
            }
        }
    }
}

#[test]
fn x05_reflection_and_pairing_of_equal_roles_fail() {
    // Each client is paired with itself.
    let mut rig = Rig::new(&scenario(5, 1000), Policy::Mirror, tallow_tests::sim::honest());
    let report = finish(&mut rig);
    no_metadata(&rig);
    failed(&report, &[Class::Auth], &[Class::Auth, Class::Proto, Class::Net], "mirror");
    // An echo of its own first message is a wrong answer.
    let echo: Tamper =
        Box::new(|passing: Passing, frame: &Bytes| Fate::Elsewhere(vec![(passing.from, 0, frame.clone())]));
    let (report, rig) = against(&scenario(6, 1000), echo);
    no_metadata(&rig);
    failed(&report, &[Class::Auth, Class::Interrupted], &[Class::Auth, Class::Proto, Class::Net], "echo");
    // Two senders, two receivers.
    let mut rig = Rig::new(&scenario(7, 1000), Policy::Alike, tallow_tests::sim::honest());
    let (first, second) = (rig.another_sender(), rig.another_receiver(1));
    rig.world.run_until(Duration::from_secs(200), |world| world.end(first).is_some() && world.end(second).is_some());
    no_metadata(&rig);
    for host in [rig.sender, first] {
        let guesses = rig.world.said(host).filter(|event| matches!(event, Event::WrongGuess { .. })).count();
        assert!(guesses > 0, "{:?}", rig.world.said(host).collect::<Vec<_>>());
    }
    for host in [rig.receiver, second] {
        assert!(
            matches!(
                rig.world.end(host),
                Some(Event::Failed(failure)) if matches!(failure.class(), Class::Auth | Class::Net | Class::Proto)
            ),
            "{:?}",
            rig.world.said(host).collect::<Vec<_>>()
        );
    }
}

#[test]
fn x06_records_of_another_session_are_refused() {
    // Two senders and two receivers of one code. After the handshakes, messages of the first sender go to the second
    // receiver.
    let tamper: Tamper = Box::new(|passing, frame| {
        let handshake = passing.stream == 0 && passing.nth < if passing.role == Role::Sender { 2 } else { 1 };
        if handshake {
            Fate::Pass
        } else {
            Fate::Elsewhere(vec![((passing.to + 2) % 4, passing.stream, frame.clone())])
        }
    });
    let mut rig = Rig::new(&scenario(8, 300_000), Policy::Proper, tamper);
    let paired = |rig: &mut Rig, count| {
        let relay = rig.relay.unwrap();
        rig.world.run_until(Duration::from_secs(10), |world| world.texts(relay).count() >= count)
    };
    assert!(paired(&mut rig, 1));
    let sender = rig.another_sender();
    let receiver = rig.another_receiver(2);
    let all = [rig.sender, rig.receiver, sender, receiver];
    rig.world.run_until(Duration::from_secs(100), |world| all.iter().all(|&host| world.is_closed(host)));
    no_metadata(&rig);
    for host in all {
        let Some(Event::Failed(failure)) = rig.world.end(host) else { panic!("{:?}", rig.told()) };
        assert!(matches!(failure.class(), Class::Proto | Class::Net), "{failure:?}");
    }
    let proto =
        all.iter().filter(|&&host| matches!(rig.world.end(host), Some(Event::Failed(f)) if f.class() == Class::Proto));
    assert!(proto.count() >= 2, "{}", rig.told());
}

#[test]
fn x06_x07_tampered_chunk_records_end_the_transfer() {
    const CHUNKS: usize = 6;
    type Change = fn(&mut Vec<Bytes>, usize, &Bytes, Passing) -> Fate;
    let changes: [(&str, Change); 7] = [
        ("drop", |_, _, _, _| Fate::Instead(vec![])),
        ("double", |_, _, frame, _| Fate::Instead(vec![frame.clone(), frame.clone()])),
        ("replay the first", |seen, _, frame, _| Fate::Instead(vec![frame.clone(), seen[0].clone()])),
        ("flip", |_, _, frame, _| Fate::Instead(vec![flip(frame, frame.len() * 4)])),
        ("flip the header", |_, _, frame, _| Fate::Instead(vec![flip(frame, 16 * 8)])),
        ("truncate", |_, _, frame, _| Fate::Instead(vec![enclose(&frame[4..frame.len() - 1])])),
        ("send it back", |_, _, frame, passing| Fate::Elsewhere(vec![(passing.from, 0, frame.clone())])),
    ];
    for (name, change) in changes {
        for at in [0, CHUNKS / 2, CHUNKS - 1] {
            let (mut seen, mut count) = (Vec::new(), 0);
            let tamper: Tamper = Box::new(move |passing, frame| {
                if passing.role != Role::Sender || !is_chunk(frame) || passing.stream == 0 {
                    return Fate::Pass;
                }
                seen.push(frame.clone());
                count += 1;
                if count - 1 == at { change(&mut seen, at, frame, passing) } else { Fate::Pass }
            });
            let (report, rig) = against(&scenario(9, CHUNKS * 65_536), tamper);
            let what = format!("{name} {at}: {}", rig.told());
            assert!(rig.world.said(rig.receiver).any(|event| matches!(event, Event::Offer(_))), "{what}");
            if name == "drop" && report.is_done() {
                // If a record never arrives and its lane has no further records, the lane is stalled, but no rule is
                // broken: the link is given up, and the missing data arrives over the next one.
                assert!(rig.world.said(rig.sender).any(|event| matches!(event, Event::Reconnecting { .. })), "{what}");
                continue;
            }
            failed(&report, &[Class::Proto, Class::Peer], &[Class::Proto, Class::Peer], &what);
            if !matches!(name, "drop" | "send it back") {
                assert_eq!(report.received_class(), Some(Class::Proto), "{what}");
            }
        }
    }
}

#[test]
fn x07_swapped_records_end_transfer() {
    let mut held: Option<Bytes> = None;
    let tamper: Tamper = Box::new(move |passing, frame| {
        if passing.role != Role::Sender || passing.stream != 1 || passing.nth == 0 {
            return Fate::Pass;
        }
        match held.take() {
            Some(before) => Fate::Instead(vec![frame.clone(), before]),
            None => {
                held = Some(frame.clone());
                Fate::Instead(vec![])
            }
        }
    });
    let (report, rig) = against(&scenario(10, 3_000_000), tamper);
    failed(&report, &[Class::Peer, Class::Net], &[Class::Proto], &rig.told());
}

#[test]
fn x08_a_clean_close_before_the_end_is_no_success() {
    const CHUNKS: usize = 4;
    // After the last data record, before the sender's End; and then nothing passes any more.
    let mut chunks = 0;
    let tamper: Tamper = Box::new(move |passing, frame| {
        if chunks >= CHUNKS {
            return Fate::Close;
        }
        chunks += usize::from(passing.role == Role::Sender && is_chunk(frame));
        let over = passing.role == Role::Sender && chunks == CHUNKS && is_chunk(frame);
        if over { Fate::PassAndClose } else { Fate::Pass }
    });
    let (report, rig) = against(&scenario(11, CHUNKS * 65_536), tamper);
    failed(&report, &[Class::Net], &[Class::Net], &rig.told());
    // At each control frame of either side from the last data record on.
    let (mut confirmed, mut unconfirmed) = (0, 0);
    for role in [Role::Sender, Role::Receiver] {
        for after in 0..8 {
            for pass in [false, true] {
                let (mut chunks, mut controls) = (0, 0);
                let tamper: Tamper = Box::new(move |passing, frame| {
                    chunks += usize::from(passing.role == Role::Sender && is_chunk(frame));
                    if chunks < CHUNKS || passing.role != role || passing.stream != 0 {
                        return Fate::Pass;
                    }
                    controls += 1;
                    match (controls.cmp(&(after + 1)), pass) {
                        (Ordering::Less, _) => Fate::Pass,
                        (Ordering::Equal, true) => Fate::PassAndClose,
                        (Ordering::Equal, false) | (Ordering::Greater, _) => Fate::Close,
                    }
                });
                let (report, rig) = against(&scenario(12, CHUNKS * 65_536), tamper);
                let done = |end: &Option<Event>| matches!(end, Some(Event::Done(_)));
                // A reported success is real: `finish` checked that the files are in place.
                if done(&report.sent) {
                    assert!(rig.sink.is_complete());
                    confirmed += 1;
                } else {
                    assert_eq!(report.sent_class(), Some(Class::Net), "{}", rig.told());
                    unconfirmed += 1;
                }
                assert!(done(&report.received) || report.received_class() == Some(Class::Net), "{}", rig.told());
                assert!(done(&report.received) == rig.sink.is_complete(), "{}", rig.told());
            }
        }
    }
    assert!(confirmed > 0 && unconfirmed > 0, "{confirmed} {unconfirmed}");
}

#[test]
fn x08_a_single_close_anywhere_is_only_a_pause() {
    const CHUNKS: usize = 4;
    let mut paused = 0;
    for role in [Role::Sender, Role::Receiver] {
        for at in 0..24 {
            let (mut frames, mut closed) = (0, false);
            let tamper: Tamper = Box::new(move |passing, _| {
                frames += usize::from(passing.role == role);
                if closed || frames <= at {
                    return Fate::Pass;
                }
                closed = true;
                Fate::Close
            });
            let (report, rig) = against(&scenario(13, CHUNKS * 65_536), tamper);
            let what = format!("{role:?} {at}: {}", rig.told());
            assert!(report.is_done(), "{what}");
            let again = |event: &&Event| matches!(event, Event::Reconnecting { .. });
            paused += usize::from(rig.world.said(rig.receiver).any(|event| again(&event)));
        }
    }
    assert!(paused > 10, "{paused} were cut after the handshake");
}

#[test]
fn x09_a_changed_version_suite_or_key_fails() {
    type Change = fn(&mut HandshakeMessage);
    let changes: [(&str, Change); 8] = [
        ("versions raised in H1", |message| {
            if let HandshakeMessage::H1 { hello, .. } = message {
                hello.versions = Versions { min: 1, max: 2 };
            }
        }),
        ("versions lowered in H1", |message| {
            if let HandshakeMessage::H1 { hello, .. } = message {
                hello.versions = Versions { min: 0, max: 0 };
            }
        }),
        ("versions changed in H2", |message| {
            if let HandshakeMessage::H2 { hello, .. } = message {
                hello.versions = Versions { min: 0, max: 1 };
            }
        }),
        ("version picked down in H2", |message| {
            if let HandshakeMessage::H2 { version, .. } = message {
                *version = 0;
            }
        }),
        ("suite changed in H1", |message| {
            if let HandshakeMessage::H1 { hello, .. } = message {
                hello.features.0 ^= 1;
            }
        }),
        ("verification stripped from H2", |message| {
            if let HandshakeMessage::H2 { hello, .. } = message {
                hello.features.0 ^= 2;
            }
        }),
        ("KEM part stripped from H1", |message| {
            if let HandshakeMessage::H1 { encapsulation_key, .. } = message {
                encapsulation_key.0 = Bytes::new();
            }
        }),
        ("KEM part stripped from H2", |message| {
            if let HandshakeMessage::H2 { ciphertext, .. } = message {
                ciphertext.0 = Bytes::new();
            }
        }),
    ];
    for (name, change) in changes {
        let tamper: Tamper = Box::new(move |passing, frame| {
            if passing.stream != 0 || passing.nth > 0 {
                return Fate::Pass;
            }
            let Ok(mut message) = decode::<HandshakeMessage>(&frame[4..]) else { return Fate::Pass };
            change(&mut message);
            Fate::Instead(vec![enclose(&encode(&message))])
        });
        let (report, rig) = against(&scenario(13, 1000), tamper);
        no_metadata(&rig);
        let (sent, received) =
            ([Class::Auth, Class::Interrupted, Class::Proto], [Class::Auth, Class::Proto, Class::Net]);
        failed(&report, &sent, &received, &format!("{name}: {}", rig.told()));
    }
}

#[test]
fn p01_p02_relay_junk_ends_only_the_session() {
    let h3 = |body: &[u8]| enclose(body);
    let junk: Vec<(&str, Vec<u8>)> = vec![
        ("the largest length", vec![0xff; 4]),
        ("half of it", vec![0x80, 0, 0, 0]),
        ("one beyond the cap", [&4097_u32.to_be_bytes()[..], &[0; 64]].concat()),
        ("empty frames", vec![0; 4_000]),
        ("an overlong number", h3(&[0x82, 0x00]).to_vec()),
        ("an unknown tag", h3(&[200, 0, 0]).to_vec()),
        ("nothing but a tag", h3(&[0]).to_vec()),
        ("something behind a message", h3(&[3, 0]).to_vec()),
    ];
    for (name, bytes) in junk {
        for role in [Role::Sender, Role::Receiver] {
            for nth in [0, 1, 2, 4] {
                let junk = Bytes::from(bytes.clone());
                let tamper: Tamper = Box::new(move |passing, _| {
                    let here = passing.role == role && passing.stream == 0 && passing.nth == nth && passing.from < 2;
                    if here { Fate::Instead(vec![junk.clone()]) } else { Fate::Pass }
                });
                let (report, rig) = against(&scenario(14, 100_000), tamper);
                let what = format!("{name} for {role:?} {nth}: {}", rig.told());
                let any = [Class::Proto, Class::Auth, Class::Net, Class::Peer, Class::Interrupted];
                // Instead of a late acknowledgement it arrives when the receiver is complete.
                if !matches!(report.received, Some(Event::Done(_))) {
                    failed(&report, &any, &[Class::Proto, Class::Auth, Class::Net, Class::Peer], &what);
                }
                // The side that received it knows the cause.
                let class = if role == Role::Sender { report.received_class() } else { report.sent_class() };
                // Once the session is keyed that length is allowed: the frame includes the following data, until the
                // link is silent.
                let waits = name == "one beyond the cap" && class == Some(Class::Net);
                let done = matches!(report.received, Some(Event::Done(_)));
                assert!(
                    waits || done || matches!(class, Some(Class::Proto | Class::Auth | Class::Interrupted)),
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn x01_wrong_code_fails_before_any_metadata() {
    let wrong = Code::parse("7-acorn-bicycle-zebra").unwrap();
    let mut rig = Rig::with(&scenario(15, 1000), Policy::Proper, tallow_tests::sim::honest(), |_, receive| {
        receive.code = wrong;
    });
    let report = finish(&mut rig);
    no_metadata(&rig);
    failed(&report, &[Class::Interrupted], &[Class::Auth], "wrong words");
    assert!(rig.world.said(rig.sender).any(|event| matches!(event, Event::WrongGuess { left: 2 })));
}
