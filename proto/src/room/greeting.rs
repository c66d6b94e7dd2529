//! The relay's side of one client's conversation, up to what the client wants: hello, the password's proof, a request.
//!
//! ```text
//! Hello ──hello──► (Proof ──prove──►) Ready ──request──► Answering ──answer──► Ready
//!   └────────────── anything else, or the deadline ──────────► Over
//! ```
//! It decides who may ask, not what is granted: that is the registry's, or the sender's that runs a relay inside itself. The
//! deadline is absolute ([`GREET_WITHIN`]): a client that says something now and then gets no more time (CVE-2026-70464's lesson).
//! Bounds: one request at a time; frames of at most 4 KiB.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use rand_core::Rng;
use sha2::Sha256;

use crate::Instant;
use crate::seed::Seed;
use crate::session::Violation;
use crate::wire::relay::{ClientMessage, Owner, RefusalReason, RelayMessage, RoomId, Side};
use crate::wire::version::SPOKEN;
use crate::wire::{self, Features, Hello};

/// How long a client may take until it has a room.
pub const GREET_WITHIN: Duration = Duration::from_secs(10);

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A nameplate and the sender's seat.
    Allocate {
        /// Who may take the seat again.
        owner: Owner,
    },
    /// A seat.
    Join {
        /// In which room.
        room: RoomId,
        /// On which side.
        side: Side,
        /// Who may take the seat again.
        owner: Owner,
        /// In the registry of reconnect rooms.
        again: bool,
    },
    /// Free the seat and the nameplate.
    Leave,
    /// An answer, that is all.
    Ping,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this body.
    Send(Bytes),
    /// The client asks; answer on the same stream.
    Request(Request),
    /// Send what is queued, then close.
    Close(Ending),
}

/// Why a conversation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client was told why.
    Refused(RefusalReason),
    /// It broke a rule.
    Violation(Violation),
    /// It took too long.
    TooSlow,
}

enum State {
    Hello,
    Proof { password: Arc<str>, nonce: [u8; 16] },
    Ready,
    Answering,
    Over,
}

/// See the module's text.
pub struct Greeting {
    state: State,
    deadline: Instant,
    observed: SocketAddr,
    password: Option<Arc<str>>,
    nonce: [u8; 16],
    outputs: VecDeque<Output>,
}

impl Greeting {
    /// A client connected from `observed`; with a password it must prove that it knows it.
    #[must_use]
    pub fn new(now: Instant, observed: SocketAddr, password: Option<Arc<str>>, seed: &Seed) -> Self {
        let mut nonce = [0; 16];
        if password.is_some() {
            seed.rng().fill_bytes(&mut nonce);
        }
        Self { state: State::Hello, deadline: now + GREET_WITHIN, observed, password, nonce, outputs: VecDeque::new() }
    }

    /// The body of the client's next frame.
    pub fn handle_frame(&mut self, body: &[u8]) {
        let Ok(message) = wire::decode::<ClientMessage>(body) else { return self.violated(Violation::Malformed) };
        self.state = match (std::mem::replace(&mut self.state, State::Over), message) {
            (State::Over, _) => State::Over,
            (State::Hello, ClientMessage::Hello(hello)) => self.greet(&hello),
            (State::Proof { password, nonce }, ClientMessage::Prove { mac }) => {
                if is_proof(&password, &nonce, &mac) {
                    State::Ready
                } else {
                    self.refuse(RefusalReason::Password, 0);
                    State::Over
                }
            }
            // A client that does not know of the password asks at once.
            (State::Proof { .. }, ClientMessage::Allocate { .. } | ClientMessage::Join { .. }) => {
                self.refuse(RefusalReason::Password, 0);
                State::Over
            }
            (State::Ready, ClientMessage::Allocate { owner }) => self.request(Request::Allocate { owner }),
            (State::Ready, ClientMessage::Join { room, side, owner, again }) => {
                self.request(Request::Join { room, side, owner, again })
            }
            (state @ (State::Ready | State::Answering), ClientMessage::Ping) => {
                self.outputs.push_back(Output::Request(Request::Ping));
                state
            }
            (State::Ready | State::Answering, ClientMessage::Leave) => self.request(Request::Leave),
            (
                State::Hello | State::Proof { .. } | State::Ready | State::Answering,
                ClientMessage::Hello(_)
                | ClientMessage::Prove { .. }
                | ClientMessage::Allocate { .. }
                | ClientMessage::Join { .. }
                | ClientMessage::Ping
                | ClientMessage::Leave,
            ) => {
                self.violated(Violation::UnexpectedMessage);
                State::Over
            }
        };
    }

    /// The request got its answer; the client may ask again.
    pub fn answered(&mut self) {
        if matches!(self.state, State::Answering) {
            self.state = State::Ready;
        }
    }

    /// The deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.state = State::Over;
            self.outputs.push_back(Output::Close(Ending::TooSlow));
        }
    }

    /// When [`Greeting::handle_timeout`] is due; the owner stops asking once the client has a room.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Over => None,
            State::Hello | State::Proof { .. } | State::Ready | State::Answering => Some(self.deadline),
        }
    }

    /// The next thing to do.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn greet(&mut self, hello: &Hello) -> State {
        let own = Hello::new(Features::default());
        if hello.magic != Hello::MAGIC {
            self.violated(Violation::Malformed);
            return State::Over;
        }
        self.say(&RelayMessage::Hello { hello: own, observed: self.observed, nonce: self.nonce });
        if own.agree(hello).is_none() {
            self.refuse(RefusalReason::UnsupportedVersion(SPOKEN), 0);
            return State::Over;
        }
        match self.password.take() {
            Some(password) => State::Proof { password, nonce: self.nonce },
            None => State::Ready,
        }
    }

    fn request(&mut self, request: Request) -> State {
        self.outputs.push_back(Output::Request(request));
        State::Answering
    }

    fn refuse(&mut self, reason: RefusalReason, retry_after: u32) {
        self.say(&RelayMessage::Refused { reason, retry_after });
        self.outputs.push_back(Output::Close(Ending::Refused(reason)));
    }

    fn violated(&mut self, violation: Violation) {
        self.state = State::Over;
        self.outputs.push_back(Output::Close(Ending::Violation(violation)));
    }

    fn say(&mut self, message: &RelayMessage) {
        self.outputs.push_back(Output::Send(wire::encode(message).into()));
    }
}

/// What a client sends for a relay's nonce.
#[must_use]
pub fn prove(password: &str, nonce: &[u8; 16]) -> [u8; 32] {
    proof(password, nonce).finalize().into_bytes().into()
}

fn is_proof(password: &str, nonce: &[u8; 16], mac: &[u8; 32]) -> bool {
    // Constant time.
    proof(password, nonce).verify(mac.into()).is_ok()
}

fn proof(password: &str, nonce: &[u8; 16]) -> Hmac<Sha256> {
    let key = blake3::derive_key("tallow v1 relay password", password.as_bytes());
    // A key of 32 bytes is never refused.
    let mut mac =
        Hmac::<Sha256>::new_from_slice(&key).unwrap_or_else(|_| <Hmac<Sha256> as KeyInit>::new(&Default::default()));
    mac.update(nonce);
    mac
}
