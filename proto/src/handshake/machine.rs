//! The state machine of the handshake: three frames, in which each side proves the code before it learns anything.
//!
//! ```text
//! sender:    AwaitH2 ──right H2: H3──▶ Over (keyed)  receiver:  AwaitH1 ──H1: H2──▶ AwaitH3 ──right H3──▶ Over (keyed)
//!               └──anything else──▶ Over (failed)                  └──anything else──┴──▶ Over (failed)
//! ```
//! The receiver proves first. A wrong proof, a share that is not a point, a key of low order or of a wrong length, and
//! an unreduced ML-KEM key all end in [`FailureReason::WrongCode`], with the same text. Everything else that is not the
//! one expected message is a [`Violation`]. The terminal state ignores all later input.
//!
//! Timers: [`TIME`] from the first frame (and the same time to wait for the first frame), so that an attacker has no
//! time to search for matching verifier words. Bounds: bodies of [`GREETING`] bytes; at most two queued outputs.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use bytes::Bytes;
use rand_core::Rng;
use zeroize::Zeroizing;

use super::kem::{self, Offered};
use super::pake::Pake;
use super::schedule::{CONFIRMATION, Keys, ReconnectKey, Schedule, Suite, Verifier, transcript};
use crate::Instant;
use crate::code::Password;
use crate::seed::Seed;
use crate::wire::Violation;
use crate::wire::frame::GREETING;
use crate::wire::peer::{HandshakeMessage, Mode};
use crate::wire::relay::{Role, RoomId};
use crate::wire::version::SPOKEN;
use crate::wire::{Blob, Features, Hello, Versions, decode, encode};

/// Time limit of a handshake from its first frame.
pub const TIME: Duration = Duration::from_secs(15);

/// The inputs of a handshake.
#[derive(Debug)]
pub struct Config {
    /// The role of this side; the sender sends the first message.
    pub role: Role,
    /// The features that this side announces.
    pub features: Features,
    /// The room in which the two peers were paired.
    pub room: RoomId,
    /// The secret that both sides must know.
    pub secret: Secret,
}

/// The secret that both sides must know.
#[derive(Clone, Debug)]
pub enum Secret {
    /// The password of a code.
    Code(Password),
    /// The credentials from the session's first handshake, for a reconnect. The new keys contain both unchanged.
    Again {
        /// The reconnect key.
        reconnect: ReconnectKey,
        /// The verifier words.
        verifier: Verifier,
    },
}

impl Secret {
    const fn mode(&self) -> Mode {
        match self {
            Self::Code(_) => Mode::Code,
            Self::Again { .. } => Mode::Again,
        }
    }
}

/// An output of the handshake. [`Output::Keyed`] and [`Output::Failed`] are final.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub enum Output {
    /// Send a frame with this body.
    Send(Bytes),
    /// The peer has proven that it knows the secret. From now on records are sent on the link.
    Keyed(Keys),
    /// The handshake failed. Close the link once all queued frames are sent.
    Failed(Failure),
}

/// How a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// The reason.
    pub reason: FailureReason,
    is_guess: bool,
}

impl Failure {
    /// Whether this failure counts as a guess at the code, for [`super::Guesses`]. The sender counts every body that
    /// arrived in the place of H2; the receiver counts every H2 that it sent. Reconnect handshakes use a high-entropy
    /// PSK and never count as guesses.
    #[must_use]
    pub const fn is_guess(&self) -> bool {
        self.is_guess
    }
}

/// Why a handshake failed. The texts are for the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FailureReason {
    /// The peer has another code, or an attacker changed a message; the two cannot be distinguished.
    #[error("handshake failed: not the same code, or an attacker interferes")]
    WrongCode,
    /// The peers have no protocol version in common.
    #[error("versions do not match: this side supports version {SPOKEN}, the other side {theirs}")]
    Version {
        /// The versions that the peer announced.
        theirs: Versions,
    },
    /// The peer broke a rule of the protocol.
    #[error("handshake failed: {0}")]
    Violation(#[from] Violation),
}

/// The state machine of one handshake; the module's documentation describes its states.
#[cfg_attr(test, derive(Clone))]
pub struct Handshake {
    features: Features,
    mode: Mode,
    state: State,
    outputs: VecDeque<Output>,
}

#[cfg_attr(test, derive(Clone))]
enum State {
    /// The sender has sent H1.
    AwaitH2 { deadline: Instant, room: RoomId, proof: Proof, offered: Box<Offered>, h1: Bytes },
    /// The receiver waits for H1.
    AwaitH1 { deadline: Instant, room: RoomId, secret: Secret, seed: Seed },
    /// The receiver has sent its proof in H2.
    AwaitH3 { deadline: Instant, schedule: Schedule, keys: Keys },
    /// Keyed or failed.
    Over,
}

/// The form of the secret after H1 was sent or received.
#[cfg_attr(test, derive(Clone))]
enum Proof {
    Pake(Pake),
    Known { reconnect: ReconnectKey, verifier: Verifier },
}

/// The fields of H1.
struct H1 {
    hello: Hello,
    mode: Mode,
    sid: [u8; 16],
    pake: Bytes,
    x25519: [u8; 32],
    encapsulation_key: Bytes,
}

/// The fields of H2.
struct H2 {
    hello: Hello,
    version: u16,
    pake: Bytes,
    x25519: [u8; 32],
    ciphertext: Bytes,
    confirmation: [u8; CONFIRMATION],
}

impl Handshake {
    /// Starts a handshake. A sender queues its H1 at once; a receiver waits for it.
    #[must_use]
    pub fn new(config: Config, now: Instant, seed: Seed) -> Self {
        let Config { role, features, room, secret } = config;
        let (deadline, mode) = (now + TIME, secret.mode());
        let mut handshake = Self { features, mode, state: State::Over, outputs: VecDeque::new() };
        handshake.state = match role {
            Role::Receiver => State::AwaitH1 { deadline, room, secret, seed },
            Role::Sender => {
                let mut rng = seed.rng();
                let mut sid = [0; 16];
                rng.fill_bytes(&mut sid);
                let proof = Proof::new(secret, &room, sid, &seed);
                let offered = Box::new(Offered::new(&mut rng));
                let message = HandshakeMessage::H1 {
                    hello: Hello::new(features),
                    mode,
                    sid,
                    pake: Blob(proof.share()),
                    x25519: offered.x25519(),
                    encapsulation_key: Blob(offered.encapsulation_key().into()),
                };
                let h1 = handshake.send(&message);
                State::AwaitH2 { deadline, room, proof, offered, h1 }
            }
        };
        handshake
    }

    /// Processes the body of the peer's next frame.
    pub fn handle_frame(&mut self, now: Instant, body: Bytes) {
        self.state = match mem::replace(&mut self.state, State::Over) {
            State::AwaitH2 { room, proof, offered, h1, .. } => self.on_h2(&body, &room, proof, offered, &h1),
            State::AwaitH1 { room, secret, seed, .. } => self.on_h1(now, &body, &room, secret, &seed),
            State::AwaitH3 { schedule, keys, .. } => self.on_h3(&body, &schedule, keys),
            State::Over => State::Over,
        };
    }

    /// The received bytes are not a valid frame: the handshake fails.
    pub fn handle_violation(&mut self, violation: Violation) {
        let is_guess = match self.state {
            State::AwaitH2 { .. } | State::AwaitH3 { .. } => self.counts(),
            State::AwaitH1 { .. } => false,
            State::Over => return,
        };
        self.state = self.fail(violation, is_guess);
    }

    /// Extends the deadline by a time in which this process did not run, because the peer is not responsible for that
    /// delay.
    pub fn delay(&mut self, by: Duration) {
        match &mut self.state {
            State::AwaitH2 { deadline, .. } | State::AwaitH1 { deadline, .. } | State::AwaitH3 { deadline, .. } => {
                *deadline += by;
            }
            State::Over => {}
        }
    }

    /// The deadline, while the handshake runs. At the deadline its owner drops it, as if its link was lost
    /// ([`Handshake::is_guess_if_lost`]).
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::AwaitH2 { deadline, .. } | State::AwaitH1 { deadline, .. } | State::AwaitH3 { deadline, .. } => {
                Some(deadline)
            }
            State::Over => None,
        }
    }

    /// The next output, in order; drain the queue after each call.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether the loss of the link counts as a guess at the code now: the receiver has sent H2 and has no valid
    /// answer.
    #[must_use]
    pub const fn is_guess_if_lost(&self) -> bool {
        match self.state {
            State::AwaitH3 { .. } => self.counts(),
            State::AwaitH2 { .. } | State::AwaitH1 { .. } | State::Over => false,
        }
    }

    /// The reconnect credentials if the receiver has sent H2. If that H2 was valid, the sender is keyed and waits with
    /// the same credentials in the reconnect room.
    #[must_use]
    pub fn durable_if_lost(&self) -> Option<(ReconnectKey, Verifier)> {
        match &self.state {
            State::AwaitH3 { keys, .. } => Some((keys.reconnect.clone(), keys.verifier.clone())),
            State::AwaitH2 { .. } | State::AwaitH1 { .. } | State::Over => None,
        }
    }

    fn on_h1(&mut self, now: Instant, body: &Bytes, room: &RoomId, secret: Secret, seed: &Seed) -> State {
        let message = match read(body) {
            Ok(HandshakeMessage::H1 { hello, mode, sid, pake, x25519, encapsulation_key }) => {
                H1 { hello, mode, sid, pake: pake.0, x25519, encapsulation_key: encapsulation_key.0 }
            }
            Ok(HandshakeMessage::WrongCode) => return self.fail(FailureReason::WrongCode, false),
            Ok(HandshakeMessage::H2 { .. } | HandshakeMessage::H3 { .. } | HandshakeMessage::UnsupportedVersion(_)) => {
                return self.fail(Violation::OutOfTurn, false);
            }
            Err(violation) => return self.fail(violation, false),
        };
        if message.hello.magic != Hello::MAGIC {
            return self.fail(Violation::Malformed, false);
        }
        if message.mode != self.mode {
            return self.fail(Violation::OutOfTurn, false);
        }
        let Some(version) = Hello::new(self.features).agree(&message.hello) else {
            self.send(&HandshakeMessage::UnsupportedVersion(SPOKEN));
            return self.fail(FailureReason::Version { theirs: message.hello.versions }, false);
        };
        match self.answer(body, room, secret, seed, version, &message) {
            Some((schedule, keys)) => State::AwaitH3 { deadline: now + TIME, schedule, keys },
            None => self.fail_wrong_code(false),
        }
    }

    /// Sends H2. `None`, and nothing is sent, if H1 has a field that no honest sender creates.
    fn answer(
        &mut self,
        h1: &Bytes,
        room: &RoomId,
        secret: Secret,
        seed: &Seed,
        version: u16,
        theirs: &H1,
    ) -> Option<(Schedule, Keys)> {
        let proof = Proof::new(secret, room, theirs.sid, seed);
        let share = proof.share();
        let proved = proof.finish(Role::Receiver, &theirs.pake)?;
        let answer = kem::answer(theirs.x25519, &theirs.encapsulation_key, &mut seed.rng())?;
        let mut message = HandshakeMessage::H2 {
            hello: Hello::new(self.features),
            version,
            pake: Blob(share),
            x25519: answer.x25519,
            ciphertext: Blob(answer.ciphertext.into()),
            confirmation: [0; CONFIRMATION],
        };
        let unproved = encode(&message);
        let said = unproved.split_last_chunk::<CONFIRMATION>().map(|(said, _)| said)?;
        let schedule = Schedule::new(transcript(h1, said, room), &proved.key, &answer.shared);
        if let HandshakeMessage::H2 { confirmation, .. } = &mut message {
            *confirmation = schedule.confirmation(Role::Receiver);
        }
        self.send(&message);
        let keys = self.keys(Role::Receiver, &schedule, proved, theirs.hello.features, version);
        Some((schedule, keys))
    }

    fn on_h2(&mut self, body: &Bytes, room: &RoomId, proof: Proof, offered: Box<Offered>, h1: &[u8]) -> State {
        let is_guess = self.counts();
        let message = match read(body) {
            Ok(HandshakeMessage::H2 { hello, version, pake, x25519, ciphertext, confirmation }) => {
                H2 { hello, version, pake: pake.0, x25519, ciphertext: ciphertext.0, confirmation }
            }
            Ok(HandshakeMessage::WrongCode) => return self.fail(FailureReason::WrongCode, is_guess),
            Ok(HandshakeMessage::UnsupportedVersion(theirs)) if SPOKEN.common(theirs).is_none() => {
                return self.fail(FailureReason::Version { theirs }, is_guess);
            }
            Ok(HandshakeMessage::UnsupportedVersion(_)) => return self.fail(Violation::VersionChoice, is_guess),
            Ok(HandshakeMessage::H1 { .. } | HandshakeMessage::H3 { .. }) => {
                return self.fail(Violation::OutOfTurn, is_guess);
            }
            Err(violation) => return self.fail(violation, is_guess),
        };
        if message.hello.magic != Hello::MAGIC {
            return self.fail(Violation::Malformed, is_guess);
        }
        if Hello::new(self.features).agree(&message.hello) != Some(message.version) {
            return self.fail(Violation::VersionChoice, is_guess);
        }
        let Some((schedule, proved)) = judge(body, room, proof, offered, h1, &message) else {
            return self.fail_wrong_code(is_guess);
        };
        self.send(&HandshakeMessage::H3 { confirmation: schedule.confirmation(Role::Sender) });
        let keys = self.keys(Role::Sender, &schedule, proved, message.hello.features, message.version);
        self.outputs.push_back(Output::Keyed(keys));
        State::Over
    }

    fn on_h3(&mut self, body: &Bytes, schedule: &Schedule, keys: Keys) -> State {
        let is_guess = self.counts();
        match read(body) {
            Ok(HandshakeMessage::H3 { confirmation }) if schedule.confirms(Role::Sender, &confirmation) => {
                self.outputs.push_back(Output::Keyed(keys));
                State::Over
            }
            Ok(HandshakeMessage::H3 { .. } | HandshakeMessage::WrongCode) => {
                self.fail(FailureReason::WrongCode, is_guess)
            }
            Ok(HandshakeMessage::H1 { .. } | HandshakeMessage::H2 { .. } | HandshakeMessage::UnsupportedVersion(_)) => {
                self.fail(Violation::OutOfTurn, is_guess)
            }
            Err(violation) => self.fail(violation, is_guess),
        }
    }

    fn keys(&self, role: Role, schedule: &Schedule, proved: Proved, theirs: Features, version: u16) -> Keys {
        let Proved { lasting, .. } = proved;
        let (reconnect, verifier) = lasting.unwrap_or_else(|| (schedule.reconnect(), schedule.verifier()));
        Keys {
            send: schedule.records(role),
            receive: schedule.records(role.other()),
            reconnect,
            verifier,
            suite: Suite::of(self.features, theirs),
            features: theirs,
            version,
        }
    }

    const fn counts(&self) -> bool {
        matches!(self.mode, Mode::Code)
    }

    fn send(&mut self, message: &HandshakeMessage) -> Bytes {
        let body = Bytes::from(encode(message));
        self.outputs.push_back(Output::Send(body.clone()));
        body
    }

    /// Notifies the peer, so that its user gets the error at once.
    fn fail_wrong_code(&mut self, is_guess: bool) -> State {
        self.send(&HandshakeMessage::WrongCode);
        self.fail(FailureReason::WrongCode, is_guess)
    }

    fn fail(&mut self, reason: impl Into<FailureReason>, is_guess: bool) -> State {
        self.outputs.push_back(Output::Failed(Failure { reason: reason.into(), is_guess }));
        State::Over
    }
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state {
            State::AwaitH2 { .. } => "AwaitH2",
            State::AwaitH1 { .. } => "AwaitH1",
            State::AwaitH3 { .. } => "AwaitH3",
            State::Over => "Over",
        };
        f.debug_struct("Handshake").field("mode", &self.mode).field("state", &state).finish_non_exhaustive()
    }
}

/// The secret's contribution to the master key, and the credentials that a reconnect handshake keeps.
struct Proved {
    key: Zeroizing<Vec<u8>>,
    lasting: Option<(ReconnectKey, Verifier)>,
}

impl Proof {
    /// Starts the proof with the session id that the sender has drawn; the session id makes the PAKE's generator
    /// unique.
    fn new(secret: Secret, room: &RoomId, sid: [u8; 16], seed: &Seed) -> Self {
        match secret {
            Secret::Code(password) => {
                Self::Pake(Pake::new(password.as_bytes(), room, sid, &mut seed.derive("pake").rng()))
            }
            Secret::Again { reconnect, verifier } => Self::Known { reconnect, verifier },
        }
    }

    fn share(&self) -> Bytes {
        match self {
            Self::Pake(pake) => Bytes::copy_from_slice(&pake.share()),
            Self::Known { .. } => Bytes::new(),
        }
    }

    /// Computes the proven key. `None`: the peer's share is not valid.
    fn finish(self, role: Role, theirs: &[u8]) -> Option<Proved> {
        match self {
            Self::Pake(pake) => {
                let key = pake.finish(role, theirs)?;
                Some(Proved { key: Zeroizing::new(key.to_vec()), lasting: None })
            }
            Self::Known { reconnect, verifier } => {
                let key = theirs.is_empty().then(|| reconnect.pre_shared_key())?;
                Some(Proved { key: Zeroizing::new(key.to_vec()), lasting: Some((reconnect, verifier)) })
            }
        }
    }
}

/// Verifies the peer's H2. `None`: the peer did not prove that it knows the secret.
fn judge(
    body: &[u8],
    room: &RoomId,
    proof: Proof,
    offered: Box<Offered>,
    h1: &[u8],
    message: &H2,
) -> Option<(Schedule, Proved)> {
    let proved = proof.finish(Role::Sender, &message.pake)?;
    let shared = offered.finish(message.x25519, &message.ciphertext)?;
    let (said, _) = body.split_last_chunk::<CONFIRMATION>()?;
    let schedule = Schedule::new(transcript(h1, said, room), &proved.key, &shared);
    schedule.confirms(Role::Receiver, &message.confirmation).then_some((schedule, proved))
}

fn read(body: &[u8]) -> Result<HandshakeMessage, Violation> {
    if body.len() > GREETING {
        return Err(Violation::FrameTooLong);
    }
    decode(body).map_err(|_| Violation::Malformed)
}

#[cfg(test)]
pub(crate) mod tests;

#[cfg(test)]
mod hostile;
