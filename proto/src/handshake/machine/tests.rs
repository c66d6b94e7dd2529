use zeroize::ZeroizeOnDrop;

use super::*;
use crate::code::Code;

pub(super) const ROOM: RoomId = RoomId([9; 32]);
pub(super) const FEATURES: Features = Features::VERIFY;

/// The keys of a sender and a receiver after a successful handshake.
pub(in crate::handshake) fn keyed(sender: Features, receiver: Features) -> (Keys, Keys) {
    let (a, b) = meet(start(Role::Sender, "cat-dog", sender, 1), start(Role::Receiver, "cat-dog", receiver, 2));
    (a.keys.unwrap(), b.keys.unwrap())
}

#[allow(clippy::disallowed_methods, reason = "a run needs a first instant")]
pub(super) fn now() -> Instant {
    Instant::now()
}

pub(super) fn password(words: &str) -> Password {
    Code::parse(&format!("7-{words}")).unwrap().password().clone()
}

pub(super) fn start(role: Role, words: &str, features: Features, seed: u8) -> Handshake {
    let config = Config { role, features, room: ROOM, secret: Secret::Code(password(words)) };
    Handshake::new(config, now(), Seed::new([seed; 32]))
}

pub(super) fn pair() -> (Handshake, Handshake) {
    (start(Role::Sender, "cat-dog", FEATURES, 1), start(Role::Receiver, "cat-dog", FEATURES, 2))
}

/// The outputs of one machine.
#[derive(Default)]
pub(super) struct Said {
    pub(super) bodies: Vec<Bytes>,
    pub(super) keys: Option<Keys>,
    pub(super) failure: Option<Failure>,
    /// It waited in vain; whether that counts as a guess.
    pub(super) lost: Option<bool>,
}

impl Said {
    pub(super) fn reason(&self) -> Option<FailureReason> {
        self.failure.map(|failure| failure.reason)
    }

    pub(super) fn message(&self) -> HandshakeMessage {
        let [body] = &self.bodies[..] else { panic!("not one message but {}", self.bodies.len()) };
        decode(body).unwrap()
    }

    pub(super) fn absorb(&mut self, later: Self) {
        assert!(self.keys.is_none() && self.failure.is_none() || later.is_silent(), "something came after the end");
        self.bodies.extend(later.bodies);
        self.keys = self.keys.take().or(later.keys);
        self.failure = self.failure.or(later.failure);
    }

    pub(super) fn is_silent(&self) -> bool {
        self.bodies.is_empty() && self.keys.is_none() && self.failure.is_none()
    }
}

pub(super) fn drain(machine: &mut Handshake) -> Said {
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

pub(super) fn hear(machine: &mut Handshake, body: impl Into<Bytes>) -> Said {
    machine.handle_frame(now(), body.into());
    drain(machine)
}

/// The message after a change, encoded again.
pub(super) fn changed(body: &Bytes, change: impl FnOnce(&mut HandshakeMessage)) -> Bytes {
    let mut message = decode(body).unwrap();
    change(&mut message);
    encode(&message).into()
}

/// Transports bodies between the two until both are silent.
pub(super) fn meet_over(
    mut a: Handshake,
    mut b: Handshake,
    mut relay: impl FnMut(usize, Bytes) -> Bytes,
) -> (Said, Said) {
    let now = now();
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
        said.lost = machine.poll_timeout().map(|_| machine.is_guess_if_lost());
        let ends = [said.keys.is_some(), said.failure.is_some(), said.lost.is_some()];
        assert_eq!(ends.into_iter().filter(|&is_end| is_end).count(), 1);
    }
    (of_a, of_b)
}

pub(super) fn meet(a: Handshake, b: Handshake) -> (Said, Said) {
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
fn receiver_gets_keys_only_after_sender_is_proven() {
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
fn x01_wrong_code_is_reported_and_counted_on_both_sides() {
    let (a, b) = meet(start(Role::Sender, "cat-dog", FEATURES, 1), start(Role::Receiver, "cat-dot", FEATURES, 2));
    for said in [&a, &b] {
        assert_eq!(said.reason(), Some(FailureReason::WrongCode));
        assert!(said.failure.unwrap().is_guess());
        assert!(said.failure.unwrap().to_string().contains("not the same code"));
    }
    assert_eq!(decode(&a.bodies[1]), Ok(HandshakeMessage::WrongCode), "and not H3: the receiver learns nothing else");
    assert_eq!((a.bodies.len(), b.bodies.len()), (2, 1));
}

#[test]
fn x01_a_code_survives_two_wrong_tries_and_not_three() {
    let mut guesses = super::super::Guesses::new();
    for (seed, words) in [(10, "cat-dot"), (20, "cat-cog"), (30, "cat-dog")] {
        assert!(guesses.left() > 0);
        let (a, _) =
            meet(start(Role::Sender, "cat-dog", FEATURES, seed), start(Role::Receiver, words, FEATURES, seed + 1));
        assert_eq!(a.keys.is_some(), words == "cat-dog");
        if a.failure.is_some_and(|failure| failure.is_guess()) {
            guesses.count();
        }
    }
    assert_eq!(guesses.left(), 1);
    assert_eq!((guesses.count(), guesses.count(), guesses.left()), (0, 0, 0));
    let mut burnt = super::super::Guesses::new();
    burnt.burn();
    assert_eq!(burnt.left(), 0);
}

#[test]
fn x02_answer_without_valid_h3_counts_as_guess() {
    let (mut a, mut b) = pair();
    assert!(!b.is_guess_if_lost(), "before its answer nothing was tried");
    let _ = hear(&mut b, drain(&mut a).bodies[0].clone());
    assert!(b.is_guess_if_lost());

    let mut unframed = b.clone();
    unframed.handle_violation(Violation::FrameTooLong);
    let ends = [
        (drain(&mut unframed), Violation::FrameTooLong.into()),
        (hear(&mut b.clone(), &b"garbage"[..]), Violation::Malformed.into()),
        (hear(&mut b.clone(), encode(&HandshakeMessage::WrongCode)), FailureReason::WrongCode),
        (hear(&mut b, encode(&HandshakeMessage::H3 { confirmation: [0; 32] })), FailureReason::WrongCode),
    ];
    for (said, reason) in ends {
        assert_eq!(said.reason(), Some(reason));
        assert!(said.failure.unwrap().is_guess() && said.bodies.is_empty());
    }
    assert!(!b.is_guess_if_lost(), "it was counted");

    let (_, mut b) = pair();
    b.handle_violation(Violation::FrameTooLong);
    assert!(!drain(&mut b).failure.unwrap().is_guess(), "no H2 went out");
}

#[test]
fn x02_the_sender_counts_any_body_in_place_of_h2_as_a_guess() {
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
    let mut a = after_its_first_output(&a);
    a.handle_violation(Violation::FrameTooLong);
    assert!(drain(&mut a).failure.unwrap().is_guess());
    a.handle_violation(Violation::FrameTooLong);
    assert!(drain(&mut a).is_silent());
}

pub(super) fn after_its_first_output(machine: &Handshake) -> Handshake {
    let mut machine = machine.clone();
    let _ = drain(&mut machine);
    machine
}

#[test]
fn deadline_is_15_seconds_after_the_first_frame() {
    let now = now();
    let config = |role| Config { role, features: FEATURES, room: ROOM, secret: Secret::Code(password("cat-dog")) };
    let mut a = Handshake::new(config(Role::Sender), now, Seed::new([1; 32]));
    let mut b = Handshake::new(config(Role::Receiver), now, Seed::new([2; 32]));
    assert_eq!((a.poll_timeout(), b.poll_timeout()), (Some(now + TIME), Some(now + TIME)));
    let later = now + Duration::from_secs(10);
    b.handle_frame(later, drain(&mut a).bodies[0].clone());
    assert_eq!(b.poll_timeout(), Some(later + TIME), "counted from H1");
}

fn again(role: Role, keys: &Keys, seed: u8) -> Handshake {
    let (reconnect, verifier) = (keys.reconnect.clone(), keys.verifier.clone());
    let room = reconnect.room();
    let config = Config { role, features: FEATURES, room, secret: Secret::Again { reconnect, verifier } };
    Handshake::new(config, now(), Seed::new([seed; 32]))
}

#[test]
fn a_reconnect_makes_new_record_keys_and_keeps_the_words() {
    let (a, b) = keyed(FEATURES, FEATURES);
    let (c, d) = meet(again(Role::Sender, &a, 3), again(Role::Receiver, &b, 4));
    let (c, d) = (c.keys.unwrap(), d.keys.unwrap());
    same(&c, &d);
    assert_ne!(*c.send.lane_key(0), *a.send.lane_key(0));
    assert_eq!(c.reconnect.room(), a.reconnect.room(), "it stays that of the first handshake");
    assert_eq!(c.verifier.words(), a.verifier.words());
}

#[test]
fn failed_reconnect_is_never_a_guess() {
    let (ours, _) = keyed(FEATURES, FEATURES);
    let (stranger, _) = keyed(FEATURES, Features::NO_P2P);
    let room = ours.reconnect.room();
    let (a, mut b) = (again(Role::Sender, &ours, 3), again(Role::Receiver, &stranger, 4));
    if let State::AwaitH1 { room: place, .. } = &mut b.state {
        *place = room;
    }
    let (a, b) = meet(a, b);
    assert_eq!((a.reason(), b.reason()), (Some(FailureReason::WrongCode), Some(FailureReason::WrongCode)));
    assert!(!a.failure.unwrap().is_guess() && !b.failure.unwrap().is_guess());

    let mut a = again(Role::Sender, &ours, 3);
    let h1 = drain(&mut a).bodies[0].clone();
    let HandshakeMessage::H1 { pake, .. } = decode(&h1).unwrap() else { panic!() };
    assert!(pake.0.is_empty());
    let mut b = again(Role::Receiver, &ours, 4);
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
    let config = Config { role: Role::Sender, features: FEATURES, room: ROOM, secret: secret.clone() };
    let mut shown = vec![format!("{secret:?} {config:?}")];
    let mut a = Handshake::new(config, now(), Seed::new([1; 32]));
    let mut b = start(Role::Receiver, "canary-of-the-words", FEATURES, 2);
    shown.push(format!("{a:?} {b:?}"));
    let h2 = hear(&mut b, drain(&mut a).bodies[0].clone()).bodies[0].clone();
    shown.push(format!("{b:?}"));
    a.handle_frame(now(), h2);
    let outputs: Vec<_> = std::iter::from_fn(|| a.poll_output()).collect();
    let Some(Output::Keyed(keys)) = outputs.last() else { panic!() };
    shown.push(format!("{:?} {keys:?} {keys:#?}", outputs.last()));
    shown.push(format!("{:?} {:?} {:?} {:?}", keys.send, keys.receive, keys.reconnect, keys.verifier));
    shown.push(format!("{:?}", Secret::Again { reconnect: keys.reconnect.clone(), verifier: keys.verifier.clone() }));
    for text in &shown {
        assert!(!text.contains("canary"), "{text}");
        assert!(keys.verifier.words().iter().all(|word| !text.contains(word)), "{text}");
        // A derived `Debug` would list the bytes; the room's name is the only list that is allowed.
        assert_eq!(text.matches('[').count(), text.matches("RoomId([").count(), "{text}");
    }
}
