use proptest::prelude::*;
use rand_core::Rng;

use super::super::kem::tests::{low_order, with_coefficient};
use super::tests::*;
use super::*;

/// One bit of each byte; with TALLOW_LONG, each bit.
#[allow(clippy::disallowed_methods, reason = "the user who runs the tests chooses their duration")]
fn flips(len: usize) -> Vec<(usize, u8)> {
    let mut rng = Seed::new([3; 32]).rng();
    let all = std::env::var_os("TALLOW_LONG").is_some();
    (0..len)
        .flat_map(|at| {
            let one = u8::try_from(rng.next_u32() % 8).unwrap();
            (0..8).filter(move |&bit| all || bit == one).map(move |bit| (at, 1 << bit))
        })
        .collect()
}

fn flipped(body: &Bytes, (at, bit): (usize, u8)) -> Vec<u8> {
    let mut body = body.to_vec();
    body[at] ^= bit;
    body
}

#[test]
fn x03_flipped_bit_of_h1_gives_neither_peer_keys() {
    let (mut a, b) = pair();
    let h1 = drain(&mut a).bodies[0].clone();
    for flip in flips(h1.len()) {
        let (mut a, mut b) = (a.clone(), b.clone());
        let answer = hear(&mut b, flipped(&h1, flip));
        assert!(answer.keys.is_none(), "{flip:?}");
        let Some(body) = answer.bodies.first() else {
            assert!(answer.failure.is_some(), "{flip:?}");
            continue;
        };
        let end = hear(&mut a, body.clone());
        assert!(end.failure.unwrap().is_guess() && end.keys.is_none(), "{flip:?}");
        if let Some(body) = end.bodies.first() {
            assert_eq!(decode(body), Ok(HandshakeMessage::WrongCode));
            assert!(hear(&mut b, body.clone()).keys.is_none());
        }
    }
}

#[test]
fn x03_flipped_bit_of_h2_gives_neither_peer_keys() {
    let (mut a, mut b) = pair();
    let h2 = hear(&mut b, drain(&mut a).bodies[0].clone()).bodies[0].clone();
    for flip in flips(h2.len()) {
        let (mut a, mut b) = (a.clone(), b.clone());
        let end = hear(&mut a, flipped(&h2, flip));
        assert!(end.failure.unwrap().is_guess() && end.keys.is_none(), "{flip:?}");
        if let Some(body) = end.bodies.first() {
            assert_eq!(hear(&mut b, body.clone()).reason(), Some(FailureReason::WrongCode), "{flip:?}");
        } else {
            assert!(b.is_guess_if_lost());
        }
    }
}

#[test]
fn x03_flipped_bit_of_h3_gives_receiver_no_keys() {
    let (mut a, mut b) = pair();
    let h2 = hear(&mut b, drain(&mut a).bodies[0].clone()).bodies[0].clone();
    let h3 = hear(&mut a, h2).bodies[0].clone();
    for at in 0..h3.len() {
        for bit in 0..8 {
            let end = hear(&mut b.clone(), flipped(&h3, (at, 1 << bit)));
            assert!(end.failure.unwrap().is_guess() && end.keys.is_none() && end.bodies.is_empty());
        }
    }
    assert!(hear(&mut b, h3).keys.is_some());
}

#[test]
fn x03_truncated_or_extended_body_is_refused() {
    let (mut a, mut b) = pair();
    let h1 = drain(&mut a).bodies[0].clone();
    let fresh = b.clone();
    let h2 = hear(&mut b, h1.clone()).bodies[0].clone();
    for (machine, body) in [(fresh, h1), (a, h2)] {
        for len in 0..body.len() {
            let end = hear(&mut machine.clone(), body.slice(..len));
            assert_eq!(end.reason(), Some(Violation::Malformed.into()), "{len}");
        }
        let end = hear(&mut machine.clone(), [&body[..], &[0]].concat());
        assert_eq!(end.reason(), Some(Violation::Malformed.into()));
    }
}

#[test]
fn x04_a_senders_invalid_keys_fail_with_the_same_text() {
    let (mut a, b) = pair();
    let h1 = drain(&mut a).bodies[0].clone();
    let HandshakeMessage::H1 { pake: good_share, encapsulation_key: good_key, .. } = decode(&h1).unwrap() else {
        panic!()
    };
    let with_share = |share: &[u8]| {
        let share = Bytes::copy_from_slice(share);
        changed(&h1, |message| {
            if let HandshakeMessage::H1 { pake, .. } = message {
                pake.0 = share
            }
        })
    };
    let with_key = |key: &[u8]| {
        let key = Bytes::copy_from_slice(key);
        changed(&h1, |message| {
            if let HandshakeMessage::H1 { encapsulation_key, .. } = message {
                encapsulation_key.0 = key
            }
        })
    };
    let with_x25519 = |key| {
        changed(&h1, |message| {
            if let HandshakeMessage::H1 { x25519, .. } = message {
                *x25519 = key
            }
        })
    };
    let mut bodies: Vec<Bytes> = low_order().map(with_x25519).collect();
    bodies.extend([
        with_share(&[0; 32]),
        with_share(&[0xff; 32]),
        with_share(&[]),
        with_share(&good_share.0[..31]),
        with_share(&[&good_share.0[..], &[0]].concat()),
        with_key(&with_coefficient(good_key.0.to_vec(), 3329)),
        with_key(&with_coefficient(good_key.0.to_vec(), 4095)),
        with_key(&[]),
        with_key(&good_key.0[..1567]),
        with_key(&[&good_key.0[..], &[0]].concat()),
    ]);
    for body in bodies {
        let said = hear(&mut b.clone(), body);
        assert_eq!(said.reason(), Some(FailureReason::WrongCode));
        assert!(!said.failure.unwrap().is_guess(), "no H2 went out");
        assert_eq!(said.message(), HandshakeMessage::WrongCode);
    }
}

#[test]
fn x04_a_receivers_invalid_keys_fail_with_the_same_text() {
    let (mut a, mut b) = pair();
    let h2 = hear(&mut b, drain(&mut a).bodies[0].clone()).bodies[0].clone();
    let HandshakeMessage::H2 { pake: good_share, ciphertext: good_text, .. } = decode(&h2).unwrap() else { panic!() };
    let with_share = |share: &[u8]| {
        let share = Bytes::copy_from_slice(share);
        changed(&h2, |message| {
            if let HandshakeMessage::H2 { pake, .. } = message {
                pake.0 = share
            }
        })
    };
    let with_text = |text: &[u8]| {
        let text = Bytes::copy_from_slice(text);
        changed(&h2, |message| {
            if let HandshakeMessage::H2 { ciphertext, .. } = message {
                ciphertext.0 = text
            }
        })
    };
    let with_x25519 = |key| {
        changed(&h2, |message| {
            if let HandshakeMessage::H2 { x25519, .. } = message {
                *x25519 = key
            }
        })
    };
    let mut bodies: Vec<Bytes> = low_order().map(with_x25519).collect();
    bodies.extend([
        with_share(&[0; 32]),
        with_share(&[0xff; 32]),
        with_share(&[]),
        with_share(&good_share.0[..31]),
        with_share(&[&good_share.0[..], &[0]].concat()),
        with_text(&[0; 1568]),
        with_text(&[]),
        with_text(&good_text.0[..1567]),
        with_text(&[&good_text.0[..], &[0]].concat()),
        changed(&h2, |message| {
            if let HandshakeMessage::H2 { confirmation, .. } = message {
                *confirmation = [0; 32];
            }
        }),
    ]);
    for body in bodies {
        let said = hear(&mut a.clone(), body);
        assert_eq!(said.reason(), Some(FailureReason::WrongCode));
        assert!(said.failure.unwrap().is_guess());
        assert_eq!(said.message(), HandshakeMessage::WrongCode);
    }
}

#[test]
fn x05_echoed_handshake_message_fails_at_once() {
    let (mut a, mut b) = pair();
    let h1 = drain(&mut a).bodies[0].clone();
    assert_eq!(hear(&mut a, h1.clone()).reason(), Some(Violation::OutOfTurn.into()));
    let h2 = hear(&mut b, h1).bodies[0].clone();
    assert_eq!(hear(&mut b, h2).reason(), Some(Violation::OutOfTurn.into()));
}

#[test]
fn x05_two_peers_of_equal_role_fail() {
    let sender = |seed| start(Role::Sender, "cat-dog", FEATURES, seed);
    let receiver = |seed| start(Role::Receiver, "cat-dog", FEATURES, seed);
    let (a, b) = meet(sender(1), sender(2));
    for said in [a, b] {
        assert_eq!(said.reason(), Some(Violation::OutOfTurn.into()));
    }
    let (a, b) = meet(receiver(1), receiver(2));
    for said in [a, b] {
        assert_eq!(said.lost, Some(false), "both wait for H1");
    }
}

#[test]
fn x05_message_of_another_handshake_is_refused() {
    let (mut a, mut b) = pair();
    let h1 = drain(&mut a).bodies[0].clone();
    let h2 = hear(&mut b, h1.clone()).bodies[0].clone();
    let h3 = hear(&mut a, h2.clone()).bodies[0].clone();

    let mut other = start(Role::Sender, "cat-dog", FEATURES, 11);
    let _ = drain(&mut other);
    assert_eq!(hear(&mut other, h2).reason(), Some(FailureReason::WrongCode));
    let mut other = start(Role::Receiver, "cat-dog", FEATURES, 12);
    let _ = hear(&mut other, h1);
    assert_eq!(hear(&mut other, h3).reason(), Some(FailureReason::WrongCode));
}

#[test]
fn x05_handshake_of_another_room_fails() {
    let config = Config {
        role: Role::Receiver,
        features: FEATURES,
        room: RoomId([8; 32]),
        secret: Secret::Code(password("cat-dog")),
    };
    let elsewhere = Handshake::new(config, now(), Seed::new([2; 32]));
    let (a, b) = meet(start(Role::Sender, "cat-dog", FEATURES, 1), elsewhere);
    assert_eq!((a.reason(), b.reason()), (Some(FailureReason::WrongCode), Some(FailureReason::WrongCode)));
}

fn hello_of(message: &mut HandshakeMessage) -> &mut Hello {
    match message {
        HandshakeMessage::H1 { hello, .. } | HandshakeMessage::H2 { hello, .. } => hello,
        other => panic!("{other:?} has no hello"),
    }
}

#[test]
fn x09_rewritten_lists_fail_the_confirmation() {
    let rewritten: [fn(&mut Hello); 6] = [
        |hello| hello.features = Features::default(),
        |hello| hello.features = hello.features.with(Features::NO_AES),
        |hello| hello.features = hello.features.with(Features::NO_P2P),
        |hello| hello.features = hello.features.with(Features(1 << 31)),
        |hello| hello.versions.max = 2,
        |hello| hello.versions.min = 0,
    ];
    for message in [0, 1] {
        for rewrite in rewritten {
            let (a, b) = pair();
            let (a, b) = meet_over(a, b, |number, body| {
                if number == message { changed(&body, |message| rewrite(hello_of(message))) } else { body }
            });
            assert_eq!((a.reason(), b.reason()), (Some(FailureReason::WrongCode), Some(FailureReason::WrongCode)));
        }
    }
}

#[test]
fn x09_only_highest_common_version_is_accepted() {
    let (mut a, mut b) = pair();
    let h1 = drain(&mut a).bodies[0].clone();
    let theirs = Versions { min: 7, max: 9 };
    let future = changed(&h1, |message| hello_of(message).versions = theirs);
    let said = hear(&mut b.clone(), future);
    assert_eq!(said.reason(), Some(FailureReason::Version { theirs }));
    assert_eq!(said.message(), HandshakeMessage::UnsupportedVersion(SPOKEN));
    assert!(!said.failure.unwrap().is_guess());
    assert!(said.failure.unwrap().to_string().contains("the other side 7 to 9"));

    let said = hear(&mut a.clone(), encode(&HandshakeMessage::UnsupportedVersion(theirs)));
    assert_eq!(said.reason(), Some(FailureReason::Version { theirs }));
    let said = hear(&mut a.clone(), encode(&HandshakeMessage::UnsupportedVersion(SPOKEN)));
    assert_eq!(said.reason(), Some(Violation::VersionChoice.into()), "that one is spoken here");

    let h2 = hear(&mut b, h1).bodies[0].clone();
    for choice in [0, 2, u16::MAX] {
        let body = changed(&h2, |message| {
            if let HandshakeMessage::H2 { version, .. } = message {
                *version = choice;
            }
        });
        assert_eq!(hear(&mut a.clone(), body).reason(), Some(Violation::VersionChoice.into()));
    }
    let body = changed(&h2, |message| hello_of(message).magic = *b"http");
    assert_eq!(hear(&mut a, body).reason(), Some(Violation::Malformed.into()));
}

#[test]
fn x09_a_foreign_magic_or_another_handshake_mode_is_refused() {
    let (mut a, b) = pair();
    let h1 = drain(&mut a).bodies[0].clone();
    let other = changed(&h1, |message| hello_of(message).magic = *b"http");
    assert_eq!(hear(&mut b.clone(), other).reason(), Some(Violation::Malformed.into()));
    let again = changed(&h1, |message| {
        if let HandshakeMessage::H1 { mode, .. } = message {
            *mode = Mode::Again;
        }
    });
    assert_eq!(hear(&mut b.clone(), again).reason(), Some(Violation::OutOfTurn.into()));
}

#[derive(Debug, Clone)]
enum Step {
    Body(Vec<u8>),
    Genuine(usize),
    Changed(usize, usize, u8),
    Time(u64),
}

fn steps() -> impl Strategy<Value = Vec<(bool, Step)>> {
    let step = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64).prop_map(Step::Body),
        (0usize..8).prop_map(Step::Genuine),
        (0usize..8, 0usize..1800, 1u8..).prop_map(|(which, at, with)| Step::Changed(which, at, with)),
        (0u64..20).prop_map(Step::Time),
    ];
    prop::collection::vec((any::<bool>(), step), 0..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A relay that delivers, repeats, reflects, changes and forges messages: no side panics, no output follows the
    /// end, and a side is keyed only if its input is identical, byte for byte, to that of an undisturbed run.
    #[test]
    fn x03_tampering_relay_gives_neither_peer_keys(steps in steps()) {
        let mut now = now();
        let mut machines = [start(Role::Sender, "cat-dog", FEATURES, 1), start(Role::Receiver, "cat-dog", FEATURES, 2)];
        let [mut a, mut b] = machines.clone();
        let h1 = drain(&mut a).bodies[0].clone();
        let h2 = hear(&mut b, h1.clone()).bodies[0].clone();
        let h3 = hear(&mut a, h2.clone()).bodies[0].clone();
        let undisturbed = [vec![h2], vec![h1, h3]];

        let mut spoken: Vec<Bytes> = Vec::new();
        let mut heard = [Vec::new(), Vec::new()];
        let mut said = [Said::default(), Said::default()];
        for at in 0..2 {
            let outputs = drain(&mut machines[at]);
            spoken.extend(outputs.bodies.iter().cloned());
            said[at].absorb(outputs);
        }
        for (to_receiver, step) in steps {
            let to = usize::from(to_receiver);
            let over = said[to].keys.is_some() || said[to].failure.is_some();
            let body = match step {
                Step::Time(seconds) => {
                    now += Duration::from_secs(seconds);
                    continue;
                }
                Step::Body(body) => Bytes::from(body),
                Step::Genuine(which) => spoken[which % spoken.len()].clone(),
                Step::Changed(which, at, with) => {
                    let mut body = spoken[which % spoken.len()].to_vec();
                    let at = at % body.len();
                    body[at] ^= with;
                    Bytes::from(body)
                }
            };
            if !over {
                heard[to].push(body.clone());
            }
            machines[to].handle_frame(now, body);
            let outputs = drain(&mut machines[to]);
            spoken.extend(outputs.bodies.iter().cloned());
            said[to].absorb(outputs);
            if said[to].keys.is_some() {
                prop_assert_eq!(&heard[to], &undisturbed[to]);
            }
        }
    }
}
