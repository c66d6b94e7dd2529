//! The vectors that `docs/vectors/make.py` generated from the protocol document alone. This crate must produce the same
//! bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use curve25519_dalek::scalar::Scalar;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::kem::Shared;
use super::pake;
use super::schedule::{CONFIRMATION, Schedule, transcript};
use crate::code::Code;
use crate::wire::frame::{PREFIX, enclose};
use crate::wire::peer::{HandshakeMessage, Mode};
use crate::wire::relay::{ClientMessage, Owner, RefusalReason, RelayMessage, Role, RoomId};
use crate::wire::{Blob, Features, Hello, Versions, decode, encode};

/// Vectors by name. Each test takes all of its own vectors, so that none in the file stays unchecked.
pub(crate) struct Vectors(BTreeMap<&'static str, &'static str>);

impl Vectors {
    pub(crate) fn new(belongs: impl Fn(&str) -> bool) -> Self {
        let lines = include_str!("../../../docs/vectors/vectors.json").lines();
        let pairs = lines.filter_map(|line| {
            let mut parts = line.split('"');
            Some((parts.nth(1)?, parts.nth(1)?))
        });
        let mine: BTreeMap<_, _> = pairs.filter(|(name, _)| belongs(name)).collect();
        assert!(!mine.is_empty());
        Self(mine)
    }

    pub(crate) fn text(&mut self, name: &str) -> &'static str {
        self.0.remove(name).unwrap_or_else(|| panic!("no vector {name}"))
    }

    pub(crate) fn bytes(&mut self, name: &str) -> Vec<u8> {
        let text = self.text(name);
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    pub(crate) fn array<const N: usize>(&mut self, name: &str) -> [u8; N] {
        self.bytes(name).try_into().unwrap()
    }

    pub(crate) fn end(self) {
        assert!(self.0.is_empty(), "unchecked: {:?}", self.0.keys());
    }
}

const SIDES: [(Role, &str); 2] = [(Role::Sender, "sender"), (Role::Receiver, "receiver")];

/// The bytes of `pattern` in make.py.
fn pattern(len: usize, start: u8) -> Vec<u8> {
    (0..len).map(|at| start.wrapping_add(7_u8.wrapping_mul((at % 256) as u8))).collect()
}

#[test]
fn code_vectors_match() {
    let mut vectors = Vectors::new(|name| name.starts_with("code."));
    for number in 0..4 {
        let mut field = |name| vectors.bytes(&format!("code.{number}.{name}"));
        let code = Code::parse(std::str::from_utf8(&field("typed")).unwrap()).unwrap();
        assert_eq!(code.nameplate().as_str().as_bytes(), field("nameplate"));
        assert_eq!(code.password().as_bytes(), field("password"));
        assert_eq!(code.nameplate().room_id().0[..], field("room"));
    }
    vectors.end();
}

fn check<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(frame: &[u8], message: &T) {
    assert_eq!(enclose(&encode(message)), frame);
    assert_eq!(&decode::<T>(&frame[PREFIX..]).unwrap(), message);
}

#[test]
fn relay_frame_vectors_match() {
    let mut vectors = Vectors::new(|name| name.starts_with("frame.client.") || name.starts_with("frame.relay."));
    let owner = Owner(pattern(16, 3).try_into().unwrap());
    let room = Code::parse("7-croissant").unwrap().nameplate().room_id();
    let join = ClientMessage::Join { room, role: Role::Receiver, owner, again: false };
    check(
        &vectors.bytes("frame.client.hello"),
        &ClientMessage::Hello(Hello::new(Features::VERIFY.with(Features::NO_P2P))),
    );
    check(&vectors.bytes("frame.client.allocate"), &ClientMessage::Allocate { owner });
    check(&vectors.bytes("frame.client.join"), &join);
    let hello = |observed: &str, nonce| RelayMessage::Hello {
        hello: Hello::new(Features::default()),
        observed: observed.parse::<SocketAddr>().unwrap(),
        nonce,
    };
    check(&vectors.bytes("frame.relay.hello.v4"), &hello("192.0.2.1:4433", [0; 16]));
    check(&vectors.bytes("frame.relay.hello.v6"), &hello("[2001:db8::1]:443", pattern(16, 5).try_into().unwrap()));
    check(&vectors.bytes("frame.relay.allocated"), &RelayMessage::Allocated { nameplate: 300 });
    check(&vectors.bytes("frame.relay.paired"), &RelayMessage::Paired { streams: 16 });
    let refused = RelayMessage::Refused { reason: RefusalReason::RateLimited, retry_after: 30 };
    check(&vectors.bytes("frame.relay.refused"), &refused);
    vectors.end();
}

#[test]
fn handshake_vectors_match() {
    let mut vectors = Vectors::new(|name| {
        let handshake = ["handshake.", "cpace.", "x25519.", "ml_kem.", "schedule.", "again."];
        let frames = ["frame.h1", "frame.h2", "frame.h3", "frame.wrong_code", "frame.unsupported_version"];
        handshake.iter().chain(&frames).any(|prefix| name.starts_with(prefix))
    });
    let nameplate = String::from_utf8(vectors.bytes("handshake.nameplate")).unwrap();
    let password = vectors.bytes("handshake.password");
    let sid: [u8; 16] = vectors.array("handshake.sid");
    let code = Code::parse(&format!("{nameplate}-{}", String::from_utf8_lossy(&password))).unwrap();
    assert_eq!(code.password().as_bytes(), password);
    let room = code.nameplate().room_id();

    let identifiers = pake::identifiers(&room);
    assert_eq!(identifiers, vectors.bytes("cpace.ci"));
    let generator = pake::generator(&password, &identifiers, &sid);
    assert_eq!(generator.compress().to_bytes(), vectors.array("cpace.generator"));
    let shares = SIDES.map(|(_, name)| vectors.array::<32>(&format!("cpace.share.{name}")));
    let isk = vectors.bytes("cpace.isk");
    for (at, (_, name)) in SIDES.into_iter().enumerate() {
        let scalar = Scalar::from_canonical_bytes(vectors.array(&format!("cpace.scalar.{name}"))).unwrap();
        assert_eq!((scalar * *generator).compress().to_bytes(), shares[at]);
        let key = pake::session_key(&sid, &scalar, &shares[1 - at], [&shares[0], b"", &shares[1], b""]).unwrap();
        assert_eq!(key[..], isk);
    }

    let public = SIDES.map(|(_, name)| vectors.array::<32>(&format!("x25519.public.{name}")));
    let x25519: [u8; 32] = vectors.array("x25519.shared");
    for (at, (_, name)) in SIDES.into_iter().enumerate() {
        let secret = StaticSecret::from(vectors.array(&format!("x25519.secret.{name}")));
        assert_eq!(PublicKey::from(&secret).to_bytes(), public[at]);
        assert_eq!(secret.diffie_hellman(&PublicKey::from(public[1 - at])).to_bytes(), x25519);
    }
    let ml_kem = vectors.array("ml_kem.shared");

    let h1 = |mode, share: &[u8]| HandshakeMessage::H1 {
        hello: Hello::new(Features::VERIFY),
        mode,
        sid,
        pake: Blob(Bytes::copy_from_slice(share)),
        x25519: public[0],
        encapsulation_key: Blob(pattern(1568, 11).into()),
    };
    let confirmations = SIDES.map(|(_, name)| vectors.array(&format!("schedule.mac.{name}")));
    let h2 = HandshakeMessage::H2 {
        hello: Hello::new(Features::NO_AES),
        version: 1,
        pake: Blob(Bytes::copy_from_slice(&shares[1])),
        x25519: public[1],
        ciphertext: Blob(pattern(1568, 13).into()),
        confirmation: confirmations[1],
    };
    let (h1_frame, h2_frame) = (vectors.bytes("frame.h1"), vectors.bytes("frame.h2"));
    check(&h1_frame, &h1(Mode::Code, &shares[0]));
    check(&vectors.bytes("frame.h1.again"), &h1(Mode::Again, &[]));
    check(&h2_frame, &h2);
    check(&vectors.bytes("frame.h3"), &HandshakeMessage::H3 { confirmation: confirmations[0] });
    check(&vectors.bytes("frame.wrong_code"), &HandshakeMessage::WrongCode);
    let versions = Versions { min: 1, max: 1 };
    check(&vectors.bytes("frame.unsupported_version"), &HandshakeMessage::UnsupportedVersion(versions));

    let (said, _) = h2_frame[PREFIX..].split_last_chunk::<CONFIRMATION>().unwrap();
    let transcript = transcript(&h1_frame[PREFIX..], said, &room);
    assert_eq!(transcript, vectors.array("schedule.transcript"));
    let shared = Shared { x25519: Zeroizing::new(x25519), ml_kem: Zeroizing::new(ml_kem) };
    let schedule = Schedule::new(transcript, &isk, &shared);
    assert_eq!(*schedule.master(), vectors.array("schedule.master"));
    for (at, (role, name)) in SIDES.into_iter().enumerate() {
        let label = format!("confirm {name}");
        assert_eq!(*schedule.expand(label.as_bytes()), vectors.array(&format!("schedule.confirm.{name}")));
        assert_eq!(schedule.confirmation(role), confirmations[at]);
        assert!(schedule.confirms(role, &confirmations[at]));
        assert_eq!(schedule.records(role).bytes(), &vectors.array(&format!("schedule.records.{name}")));
    }
    let reconnect = schedule.reconnect();
    assert_eq!(*schedule.expand(b"reconnect"), vectors.array("schedule.reconnect"));
    assert_eq!(reconnect.room(), RoomId(vectors.array("again.room")));
    assert_eq!(*reconnect.pre_shared_key(), vectors.array("again.psk"));
    assert!(reconnect.owner(Role::Sender) == Owner(vectors.array("again.owner.sender")));
    assert!(reconnect.owner(Role::Receiver) == Owner(vectors.array("again.owner.receiver")));

    assert_eq!(*schedule.expand(b"verifier"), vectors.array("schedule.verifier"));
    let words: Vec<_> = vectors.text("schedule.verifier.words").split(' ').map(|word| word.parse().unwrap()).collect();
    assert_eq!(
        schedule.verifier().words().to_vec(),
        words.into_iter().filter_map(crate::code::word).collect::<Vec<_>>()
    );
    vectors.end();
}
