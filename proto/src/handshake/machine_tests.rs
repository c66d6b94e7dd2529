use proptest::prelude::*;
use rand_core::Rng;
use zeroize::ZeroizeOnDrop;

use super::super::kem::tests::{low_order, with_coefficient};
use super::*;
use crate::code::Code;

const ROOM: RoomId = RoomId([9; 32]);
const FEATURES: Features = Features::VERIFY;

/// The keys of a sender and a receiver that met.
pub(in crate::handshake) fn keyed(sender: Features, receiver: Features) -> (Keys, Keys) {
    let (a, b) = meet(start(Side::Sender, "cat-dog", sender, 1), start(Side::Receiver, "cat-dog", receiver, 2));
    (a.keys.unwrap(), b.keys.unwrap())
}

fn password(words: &str) -> Password {
    Code::parse(&format!("7-{words}")).unwrap().password().clone()
}

fn start(side: Side, words: &str, features: Features, seed: u8) -> Handshake {
    let config = Config { side, features, room: ROOM, secret: Secret::Code(password(words)) };
    Handshake::new(config, Instant::now(), Seed::new([seed; 32]))
}

fn pair() -> (Handshake, Handshake) {
    (start(Side::Sender, "cat-dog", FEATURES, 1), start(Side::Receiver, "cat-dog", FEATURES, 2))
}

/// What one machine put out.
#[derive(Default)]
struct Said {
    bodies: Vec<Bytes>,
    keys: Option<Keys>,
    failure: Option<Failure>,
}

impl Said {
    fn reason(&self) -> Option<FailureReason> {
        self.failure.map(|failure| failure.reason)
    }

    fn message(&self) -> HandshakeMessage {
        let [body] = &self.bodies[..] else { panic!("not one message but {}", self.bodies.len()) };
        decode(body).unwrap()
    }

    fn absorb(&mut self, later: Self) {
        assert!(self.keys.is_none() && self.failure.is_none() || later.is_silent(), "something came after the end");
        self.bodies.extend(later.bodies);
        self.keys = self.keys.take().or(later.keys);
        self.failure = self.failure.or(later.failure);
    }

    fn is_silent(&self) -> bool {
        self.bodies.is_empty() && self.keys.is_none() && self.failure.is_none()
    }
}

fn drain(machine: &mut Handshake) -> Said {
    let mut said = Said::default();
    while let Some(output) = machine.poll_output() {
        assert!(said.keys.is_none() && said.failure.is_none(), "something came after the end");
        match output {
            Output::Send(body) => {
                assert!(body.len() <= GREETING);
                said.bodies.push(body);
            }
            Output::Keyed(keys) => said.keys = Some(keys),
            Output::Failed(failure) => said.failure = Some(failure),
        }
    }
    said
}

fn hear(machine: &mut Handshake, body: impl Into<Bytes>) -> Said {
    machine.handle_frame(Instant::now(), body.into());
    drain(machine)
}

/// Carries bodies between the two until both are silent; then time passes.
fn meet_over(mut a: Handshake, mut b: Handshake, mut relay: impl FnMut(usize, Bytes) -> Bytes) -> (Said, Said) {
    let now = Instant::now();
    let (mut of_a, mut of_b) = (drain(&mut a), drain(&mut b));
    let (mut from_a, mut from_b, mut count) = (0, 0, 0);
    while from_a < of_a.bodies.len() || from_b < of_b.bodies.len() {
        let (to, said, body) = if from_a < of_a.bodies.len() {
            from_a += 1;
            (&mut b, &mut of_b, &of_a.bodies[from_a - 1])
        } else {
            from_b += 1;
            (&mut a, &mut of_a, &of_b.bodies[from_b - 1])
        };
        to.handle_frame(now, relay(count, body.clone()));
        said.absorb(drain(to));
        count += 1;
    }
    for (machine, said) in [(&mut a, &mut of_a), (&mut b, &mut of_b)] {
        machine.handle_timeout(now + 2 * TIME);
        said.absorb(drain(machine));
        assert_eq!(machine.poll_timeout(), None, "the end is reached in bounded time");
        assert!(said.keys.is_some() != said.failure.is_some());
    }
    (of_a, of_b)
}

fn meet(a: Handshake, b: Handshake) -> (Said, Said) {
    meet_over(a, b, |_, body| body)
}

fn same(a: &Keys, b: &Keys) {
    assert_eq!(*a.send.lane_key(3), *b.receive.lane_key(3));
    assert_eq!(*a.receive.lane_key(3), *b.send.lane_key(3));
    assert_ne!(*a.send.lane_key(3), *a.receive.lane_key(3));
    assert_eq!(a.reconnect.room(), b.reconnect.room());
    assert_eq!(a.verifier.words(), b.verifier.words());
    assert_eq!((a.suite, a.version), (b.suite, b.version));
}

#[test]
fn the_same_code_gives_both_the_same_keys() {
    let (a, b) = super::super::keyed(Features::VERIFY, Features::NO_AES);
    same(&a, &b);
    assert_eq!((a.features, b.features), (Features::NO_AES, Features::VERIFY));
    assert_eq!((a.suite, a.version), (Suite::ChaCha20Poly1305, 1));
    let (c, _) = keyed(Features::VERIFY, Features::NO_P2P);
    assert_eq!(c.suite, Suite::Aes256Gcm);
    assert_ne!(a.verifier.words(), c.verifier.words(), "the features are part of the transcript");
}

#[test]
fn the_receiver_proves_first() {
    let (mut a, mut b) = pair();
    let h1 = drain(&mut a);
    assert!(drain(&mut b).is_silent());
    let h2 = hear(&mut b, h1.bodies[0].clone());
    assert!(h2.keys.is_none(), "no keys before the sender proved itself");
    assert!(b.is_guess_if_lost() && !a.is_guess_if_lost());
    assert!(matches!(h2.message(), HandshakeMessage::H2 { .. }));
    let h3 = hear(&mut a, h2.bodies[0].clone());
    assert!(h3.keys.is_some() && matches!(h3.message(), HandshakeMessage::H3 { .. }));
    assert!(hear(&mut b, h3.bodies[0].clone()).keys.is_some());
    assert!(!b.is_guess_if_lost());
}

#[test]
fn x01_a_wrong_code_is_told_to_both_and_counts_for_both() {
    let (a, b) = meet(start(Side::Sender, "cat-dog", FEATURES, 1), start(Side::Receiver, "cat-dot", FEATURES, 2));
    for said in [&a, &b] {
        assert_eq!(said.reason(), Some(FailureReason::WrongCode));
        assert!(said.failure.unwrap().is_guess());
        assert!(said.failure.unwrap().to_string().contains("not the same code"));
    }
    assert_eq!(decode(&a.bodies[1]), Ok(HandshakeMessage::WrongCode), "and not H3: nothing else is learnt");
    assert_eq!((a.bodies.len(), b.bodies.len()), (2, 1));
}

#[test]
fn x01_a_code_survives_two_wrong_tries_and_not_three() {
    let mut guesses = Guesses::new();
    for (round, words) in ["cat-dot", "cat-cog", "cat-dog"].into_iter().enumerate() {
        assert!(guesses.may_run());
        let seed = 10 + 2 * u8::try_from(round).unwrap();
        let (a, _) =
            meet(start(Side::Sender, "cat-dog", FEATURES, seed), start(Side::Receiver, words, FEATURES, seed + 1));
        assert_eq!(a.keys.is_some(), words == "cat-dog");
        guesses.count(a.failure.is_some_and(|failure| failure.is_guess()));
    }
    assert_eq!(guesses.made(), 2);
    assert!(guesses.may_run());
    guesses.count(false);
    assert!(guesses.may_run());
    guesses.count(true);
    assert!(!guesses.may_run());
    for _ in 0..300 {
        guesses.count(true);
    }
    assert!(!guesses.may_run(), "the count does not wrap");
    let mut burnt = Guesses::new();
    burnt.burn();
    assert!(!burnt.may_run());
}

#[test]
fn x02_an_answer_without_a_valid_h3_is_a_guess_however_it_ends() {
    let mut guesses = Guesses::new();
    for round in 0..10 {
        if !guesses.may_run() {
            break;
        }
        let (mut a, mut b) = pair();
        let h1 = drain(&mut a).bodies[0].clone();
        if round % 2 == 0 {
            assert!(!b.is_guess_if_lost(), "before its answer nothing was tried");
            guesses.count(b.is_guess_if_lost());
        }
        let _ = hear(&mut b, h1);
        match round {
            0 => guesses.count(b.is_guess_if_lost()),
            1 => {
                b.handle_timeout(Instant::now() + 2 * TIME);
                let failure = drain(&mut b).failure.unwrap();
                assert_eq!(failure.reason, FailureReason::TimedOut);
                guesses.count(failure.is_guess());
            }
            _ => guesses.count(hear(&mut b, &b"garbage"[..]).failure.unwrap().is_guess()),
        }
    }
    assert_eq!(guesses.made(), Guesses::MOST);
}

#[test]
fn x02_whatever_comes_in_the_place_of_h2_is_a_guess_for_the_sender() {
    let (a, _) = pair();
    let versions = Versions { min: 7, max: 9 };
    for body in [
        Bytes::from_static(b""),
        Bytes::from_static(&[200]),
        Bytes::from(vec![0; GREETING + 1]),
        encode(&HandshakeMessage::WrongCode).into(),
        encode(&HandshakeMessage::H3 { confirmation: [0; 32] }).into(),
        encode(&HandshakeMessage::UnsupportedVersion(versions)).into(),
        encode(&HandshakeMessage::UnsupportedVersion(SPOKEN)).into(),
    ] {
        let said = hear(&mut after_its_first_output(&a), body);
        assert!(said.failure.unwrap().is_guess());
        assert!(said.bodies.is_empty());
    }
}

fn after_its_first_output(machine: &Handshake) -> Handshake {
    let mut machine = machine.clone();
    let _ = drain(&mut machine);
    machine
}

/// One bit of each byte, or with TALLOW_LONG each bit.
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
fn x03_no_flipped_bit_of_h1_leaves_anybody_keyed() {
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
fn x03_no_flipped_bit_of_h2_leaves_anybody_keyed() {
    let (mut a, mut b) = pair();
    let h2 = hear(&mut b, drain(&mut a).bodies[0].clone()).bodies[0].clone();
    for flip in flips(h2.len()) {
        let (mut a, mut b) = (a.clone(), b.clone());
        let end = hear(&mut a, flipped(&h2, flip));
        assert!(end.failure.unwrap().is_guess() && end.keys.is_none(), "{flip:?}");
        if let Some(body) = end.bodies.first() {
            assert_eq!(hear(&mut b, body.clone()).reason(), Some(FailureReason::WrongCode), "{flip:?}");
        } else {
            b.handle_timeout(Instant::now() + 2 * TIME);
            assert!(drain(&mut b).failure.unwrap().is_guess());
        }
    }
}

#[test]
fn x03_no_flipped_bit_of_h3_leaves_the_receiver_keyed() {
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
fn x03_a_body_cut_anywhere_or_made_longer_is_refused() {
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

/// The message, changed and encoded again.
fn changed(body: &Bytes, change: impl FnOnce(&mut HandshakeMessage)) -> Bytes {
    let mut message = decode(body).unwrap();
    change(&mut message);
    encode(&message).into()
}

#[test]
fn x04_bad_shares_and_keys_of_a_sender_all_fail_with_the_same_words() {
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
fn x04_bad_shares_and_keys_of_a_receiver_all_fail_with_the_same_words() {
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
fn x05_an_echo_fails_at_once() {
    let (mut a, mut b) = pair();
    let h1 = drain(&mut a).bodies[0].clone();
    assert_eq!(hear(&mut a, h1.clone()).reason(), Some(Violation::OutOfTurn.into()));
    let h2 = hear(&mut b, h1).bodies[0].clone();
    assert_eq!(hear(&mut b, h2).reason(), Some(Violation::OutOfTurn.into()));
}

#[test]
fn x05_two_equal_sides_fail() {
    let sender = |seed| start(Side::Sender, "cat-dog", FEATURES, seed);
    let receiver = |seed| start(Side::Receiver, "cat-dog", FEATURES, seed);
    let (a, b) = meet(sender(1), sender(2));
    for said in [a, b] {
        assert_eq!(said.reason(), Some(Violation::OutOfTurn.into()));
    }
    let (a, b) = meet(receiver(1), receiver(2));
    for said in [a, b] {
        assert_eq!(said.reason(), Some(FailureReason::TimedOut));
        assert!(!said.failure.unwrap().is_guess());
    }
}

#[test]
fn x05_what_another_run_said_does_not_fit_in_this_one() {
    let (mut a, mut b) = pair();
    let h1 = drain(&mut a).bodies[0].clone();
    let h2 = hear(&mut b, h1.clone()).bodies[0].clone();
    let h3 = hear(&mut a, h2.clone()).bodies[0].clone();

    let mut other = start(Side::Sender, "cat-dog", FEATURES, 11);
    let _ = drain(&mut other);
    assert_eq!(hear(&mut other, h2).reason(), Some(FailureReason::WrongCode));
    let mut other = start(Side::Receiver, "cat-dog", FEATURES, 12);
    let _ = hear(&mut other, h1);
    assert_eq!(hear(&mut other, h3).reason(), Some(FailureReason::WrongCode));
}

#[test]
fn x05_one_rooms_handshake_does_not_fit_in_another_room() {
    let config = Config {
        side: Side::Receiver,
        features: FEATURES,
        room: RoomId([8; 32]),
        secret: Secret::Code(password("cat-dog")),
    };
    let elsewhere = Handshake::new(config, Instant::now(), Seed::new([2; 32]));
    let (a, b) = meet(start(Side::Sender, "cat-dog", FEATURES, 1), elsewhere);
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
fn x09_no_version_but_the_highest_common_one_is_spoken() {
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
fn x09_what_is_not_tallow_or_means_another_kind_of_handshake_is_refused() {
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

#[test]
fn it_ends_15_seconds_after_the_first_frame() {
    let now = Instant::now();
    let config = |side| Config { side, features: FEATURES, room: ROOM, secret: Secret::Code(password("cat-dog")) };
    let mut a = Handshake::new(config(Side::Sender), now, Seed::new([1; 32]));
    let mut b = Handshake::new(config(Side::Receiver), now, Seed::new([2; 32]));
    assert_eq!((a.poll_timeout(), b.poll_timeout()), (Some(now + TIME), Some(now + TIME)));
    let later = now + Duration::from_secs(10);
    b.handle_frame(later, drain(&mut a).bodies[0].clone());
    assert_eq!(b.poll_timeout(), Some(later + TIME), "counted from H1");
    let _ = drain(&mut b);
    for machine in [&mut a, &mut b] {
        let deadline = machine.poll_timeout().unwrap();
        machine.handle_timeout(deadline - Duration::from_nanos(1));
        assert!(drain(machine).is_silent());
        machine.handle_timeout(deadline);
        assert_eq!(drain(machine).reason(), Some(FailureReason::TimedOut));
        assert_eq!(machine.poll_timeout(), None);
    }
}

fn again(side: Side, keys: &Keys, seed: u8) -> Handshake {
    let (reconnect, verifier) = (keys.reconnect.clone(), keys.verifier.clone());
    let room = reconnect.room();
    let config = Config { side, features: FEATURES, room, secret: Secret::Again { reconnect, verifier } };
    Handshake::new(config, Instant::now(), Seed::new([seed; 32]))
}

#[test]
fn peers_of_a_session_meet_again_with_new_record_keys_and_the_same_words() {
    let (a, b) = keyed(FEATURES, FEATURES);
    let (c, d) = meet(again(Side::Sender, &a, 3), again(Side::Receiver, &b, 4));
    let (c, d) = (c.keys.unwrap(), d.keys.unwrap());
    same(&c, &d);
    assert_ne!(*c.send.lane_key(0), *a.send.lane_key(0));
    assert_eq!(c.reconnect.room(), a.reconnect.room(), "it stays that of the first handshake");
    assert_eq!(c.verifier.words(), a.verifier.words());
}

#[test]
fn meeting_again_is_never_a_guess() {
    let (ours, _) = keyed(FEATURES, FEATURES);
    let (stranger, _) = keyed(FEATURES, Features::NO_P2P);
    let room = ours.reconnect.room();
    let (a, mut b) = (again(Side::Sender, &ours, 3), again(Side::Receiver, &stranger, 4));
    if let State::AwaitH1 { room: place, .. } = &mut b.state {
        *place = room;
    }
    let (a, b) = meet(a, b);
    assert_eq!((a.reason(), b.reason()), (Some(FailureReason::WrongCode), Some(FailureReason::WrongCode)));
    assert!(!a.failure.unwrap().is_guess() && !b.failure.unwrap().is_guess());

    let mut a = again(Side::Sender, &ours, 3);
    let h1 = drain(&mut a).bodies[0].clone();
    let HandshakeMessage::H1 { pake, .. } = decode(&h1).unwrap() else { panic!() };
    assert!(pake.0.is_empty());
    let mut b = again(Side::Receiver, &ours, 4);
    let with_share = changed(&h1, |message| {
        if let HandshakeMessage::H1 { pake, .. } = message {
            pake.0 = Bytes::from_static(&[1; 32]);
        }
    });
    assert_eq!(hear(&mut b.clone(), with_share).reason(), Some(FailureReason::WrongCode));
    let _ = hear(&mut b, h1);
    assert!(!b.is_guess_if_lost());
}

#[test]
fn c02_no_debug_string_shows_a_secret() {
    fn erased<T: ZeroizeOnDrop>() {}
    erased::<Password>();
    erased::<super::super::RecordKey>();
    erased::<ReconnectKey>();
    erased::<Verifier>();

    let secret = Secret::Code(password("canary-of-the-words"));
    let config = Config { side: Side::Sender, features: FEATURES, room: ROOM, secret: secret.clone() };
    let mut shown = vec![format!("{secret:?} {config:?}")];
    let mut a = Handshake::new(config, Instant::now(), Seed::new([1; 32]));
    let mut b = start(Side::Receiver, "canary-of-the-words", FEATURES, 2);
    shown.push(format!("{a:?} {b:?}"));
    let h2 = hear(&mut b, drain(&mut a).bodies[0].clone()).bodies[0].clone();
    shown.push(format!("{b:?}"));
    a.handle_frame(Instant::now(), h2);
    let outputs: Vec<_> = std::iter::from_fn(|| a.poll_output()).collect();
    let Some(Output::Keyed(keys)) = outputs.last() else { panic!() };
    shown.push(format!("{:?} {keys:?} {keys:#?}", outputs.last()));
    shown.push(format!("{:?} {:?} {:?} {:?}", keys.send, keys.receive, keys.reconnect, keys.verifier));
    shown.push(format!("{:?}", Secret::Again { reconnect: keys.reconnect.clone(), verifier: keys.verifier.clone() }));
    for text in &shown {
        assert!(!text.contains("canary"), "{text}");
        assert!(keys.verifier.words().iter().all(|word| !text.contains(word)), "{text}");
        // A derived `Debug` would list the bytes; the room's name is the only list there may be.
        assert_eq!(text.matches('[').count(), text.matches("RoomId([").count(), "{text}");
    }
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

    /// A relay that delivers, repeats, reflects, changes and invents: nobody panics, nothing follows the end, and a side is keyed
    /// only if what it heard is, byte for byte, what an undisturbed run would have brought it.
    #[test]
    fn x03_no_relay_gets_anybody_keyed_but_by_delivering(steps in steps()) {
        let mut now = Instant::now();
        let mut machines = [start(Side::Sender, "cat-dog", FEATURES, 1), start(Side::Receiver, "cat-dog", FEATURES, 2)];
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
                    machines[to].handle_timeout(now);
                    said[to].absorb(drain(&mut machines[to]));
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
