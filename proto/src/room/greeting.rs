//! The relay's side of the conversation with one client before it has a seat: hello, proof of the password, request.
//!
//! ```text
//!                                           ┌──answered──┐
//! Hello ──hello──► (Proof ──prove──►) Ready ◄┘           │
//!   │                  │                └───request──► Answering ──seated──► Seated
//!   └── anything else, or the deadline ──► Over ◄──leave─────┴─────────────────┘
//! ```
//! It decides who may send requests, not what is granted. The registry decides that, or the sender that runs a relay in
//! its own process.
//!
//! Timer: [`GREET_WITHIN`] from the start to the first answer, and from each answer to the next request. The deadline
//! is absolute, so a client that sends a byte now and then gets no more time (the lesson of CVE-2026-70464), and each
//! further round costs it a request. A client with a seat may stay; seats expire by the registry's timer. Bounds: one
//! request at a time, and at most one output per frame and `MAX_OUTPUTS` in all; the owner takes them before it
//! passes in the next frame. Frames are bounded by their decoder ([`crate::wire::frame::GREETING`]).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rand_core::Rng;

use crate::Instant;
use crate::seed::Seed;
use crate::wire::Violation;
use crate::wire::frame::enclose;
use crate::wire::relay::{ClientMessage, Former, Owner, RefusalReason, RelayMessage, Role, RoomId};
use crate::wire::relay_auth::is_proof;
use crate::wire::version::SPOKEN;
use crate::wire::{self, Features, Hello};

/// How long a client may take to send its first request, and each further one.
pub const GREET_WITHIN: Duration = Duration::from_secs(10);
/// Outputs that one input can cause.
#[cfg(test)]
pub const MAX_OUTPUTS: usize = 3;
/// The body of a `Ping` frame.
const PING: &[u8] = &[4];

/// A client's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Allocate a nameplate and take the sender's seat.
    Allocate {
        /// The key that may claim the seat again.
        owner: Owner,
    },
    /// Take a seat.
    Join {
        /// The room.
        room: RoomId,
        /// The side.
        role: Role,
        /// The key that may claim the seat again.
        owner: Owner,
        /// The room is in the registry of reconnect rooms.
        again: bool,
        /// The client's seat in a code room, which this join replaces.
        former: Option<Former>,
    },
    /// Free the seat and the nameplate.
    Leave,
    /// Answer with `Pong`.
    Ping,
}

/// What the owner must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this body.
    Send(Bytes),
    /// The client sent a request; answer on the same stream.
    Request(Request),
    /// Send what is queued, then close.
    Close(Ending),
}

/// Why a conversation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client was refused and has received the reason.
    Refused(RefusalReason),
    /// The client broke a rule.
    Violation(Violation),
    /// The client took too long.
    TooSlow,
}

enum State {
    /// The client has sent nothing yet.
    Hello { password: Option<Arc<str>>, nonce: [u8; 16] },
    /// The client must prove that it knows the password.
    Proof { password: Arc<str>, nonce: [u8; 16] },
    /// The client may send a request.
    Ready,
    /// The client sent a request and waits for the answer.
    Answering,
    /// The client has a seat.
    Seated,
    /// The conversation is over; further frames are ignored.
    Over,
}

/// The state of one conversation; see the module documentation.
pub struct Greeting {
    state: State,
    deadline: Instant,
    observed: SocketAddr,
    /// The client's source tried too many passwords. It may try again after this number of seconds.
    wait: Option<u32>,
    outputs: VecDeque<Output>,
}

impl Greeting {
    /// A client connected from `observed`. If the relay has a password, the client must prove that it knows it.
    #[must_use]
    pub fn new(now: Instant, observed: SocketAddr, password: Option<Arc<str>>, seed: &Seed) -> Self {
        let mut nonce = [0; 16];
        if password.is_some() {
            seed.rng().fill_bytes(&mut nonce);
        }
        let state = State::Hello { password, nonce };
        Self { state, deadline: until(now), observed, wait: None, outputs: VecDeque::new() }
    }

    /// Sets the seconds until this client's source may try a password; `None` means now. While it must wait, no proof
    /// is checked, so the answer reveals nothing about the proof.
    pub const fn set_wait(&mut self, wait: Option<u32>) {
        self.wait = wait;
    }

    /// Takes the body of the client's next frame. Call it only when [`Greeting::poll_output`] returns nothing.
    pub fn handle_frame(&mut self, body: &[u8]) {
        if matches!(self.state, State::Over) {
            return;
        }
        let Ok(message) = wire::decode::<ClientMessage>(body) else { return self.violated(Violation::Malformed) };
        self.state = match (std::mem::replace(&mut self.state, State::Over), message) {
            (State::Over, _) => State::Over,
            (State::Hello { password, nonce }, ClientMessage::Hello(hello)) => self.greet(&hello, password, nonce),
            (State::Proof { .. }, ClientMessage::Prove { .. }) if self.wait.is_some() => {
                self.refuse(RefusalReason::RateLimited)
            }
            (State::Proof { password, nonce }, ClientMessage::Prove { mac }) if is_proof(&password, &nonce, &mac) => {
                State::Ready
            }
            // A wrong proof, or a client that does not know about the password and sends a request at once.
            (
                State::Proof { .. },
                ClientMessage::Prove { .. }
                | ClientMessage::Allocate { .. }
                | ClientMessage::Join { .. }
                | ClientMessage::Rejoin { .. },
            ) => self.refuse(RefusalReason::Password),
            (State::Ready, ClientMessage::Allocate { owner }) => self.request(Request::Allocate { owner }),
            (State::Ready, ClientMessage::Join { room, role, owner, again }) => {
                self.request(Request::Join { room, role, owner, again, former: None })
            }
            (State::Ready, ClientMessage::Rejoin { room, role, owner, former }) => {
                self.request(Request::Join { room, role, owner, again: true, former: Some(former) })
            }
            (state @ (State::Ready | State::Answering | State::Seated), ClientMessage::Ping) => {
                self.outputs.push_back(Output::Request(Request::Ping));
                state
            }
            (State::Ready | State::Answering | State::Seated, ClientMessage::Leave) => {
                self.outputs.push_back(Output::Request(Request::Leave));
                State::Over
            }
            (
                State::Hello { .. } | State::Proof { .. } | State::Ready | State::Answering | State::Seated,
                ClientMessage::Hello(_)
                | ClientMessage::Prove { .. }
                | ClientMessage::Allocate { .. }
                | ClientMessage::Join { .. }
                | ClientMessage::Rejoin { .. }
                | ClientMessage::Ping
                | ClientMessage::Leave,
            ) => {
                self.violated(Violation::UnexpectedMessage);
                State::Over
            }
        };
    }

    /// The request was refused; the client may send another one within [`GREET_WITHIN`].
    pub fn answered(&mut self, now: Instant) {
        if matches!(self.state, State::Answering) {
            self.state = State::Ready;
            self.deadline = until(now);
        }
    }

    /// The request was granted: the client has a seat, and the deadline no longer applies.
    pub fn seated(&mut self) {
        if matches!(self.state, State::Answering) {
            self.state = State::Seated;
        }
    }

    /// The deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.state = State::Over;
            self.outputs.push_back(Output::Close(Ending::TooSlow));
        }
    }

    /// When [`Greeting::handle_timeout`] is due.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Seated | State::Over => None,
            State::Hello { .. } | State::Proof { .. } | State::Ready | State::Answering => Some(self.deadline),
        }
    }

    /// The next thing to do.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn greet(&mut self, hello: &Hello, password: Option<Arc<str>>, nonce: [u8; 16]) -> State {
        if hello.magic != Hello::MAGIC {
            self.violated(Violation::Malformed);
            return State::Over;
        }
        let own = Hello::new(Features::default());
        self.say(&RelayMessage::Hello { hello: own, observed: self.observed, nonce });
        match (own.agree(hello), password) {
            (None, _) => self.refuse(RefusalReason::UnsupportedVersion(SPOKEN)),
            (Some(_), Some(password)) => State::Proof { password, nonce },
            (Some(_), None) => State::Ready,
        }
    }

    fn request(&mut self, request: Request) -> State {
        self.outputs.push_back(Output::Request(request));
        State::Answering
    }

    fn refuse(&mut self, reason: RefusalReason) -> State {
        let retry_after = self.wait.filter(|_| reason == RefusalReason::RateLimited).unwrap_or_default();
        self.say(&RelayMessage::Refused { reason, retry_after });
        self.outputs.push_back(Output::Close(Ending::Refused(reason)));
        State::Over
    }

    fn violated(&mut self, violation: Violation) {
        self.state = State::Over;
        self.outputs.push_back(Output::Close(Ending::Violation(violation)));
    }

    fn say(&mut self, message: &RelayMessage) {
        self.outputs.push_back(Output::Send(wire::encode(message).into()));
    }
}

impl std::fmt::Debug for Greeting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Greeting")
    }
}

/// Drops a `Ping` that the client sent to the relay before it learned that it is paired.
///
/// A waiting client's `Ping` may cross the relay's `Paired` message. All bytes after it are meant for the other peer.
/// None of the peers' messages is as short as a `Ping`, so the two cannot be confused.
#[derive(Debug, Default)]
pub struct Crossing {
    held: BytesMut,
    over: bool,
}

impl Crossing {
    /// Takes the next bytes of the client's first stream; returns those that are for the peer.
    #[must_use]
    pub fn handle_bytes(&mut self, bytes: Bytes) -> Option<Bytes> {
        if self.over {
            return Some(bytes);
        }
        self.held.extend_from_slice(&bytes);
        let ping = enclose(PING);
        while self.held.starts_with(&ping) {
            self.held.advance(ping.len());
        }
        if self.held.is_empty() || ping.starts_with(&self.held) {
            return None;
        }
        self.over = true;
        Some(self.held.split().freeze())
    }

    /// Whether all further bytes are for the peer.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// The bytes held back because they may be the start of a `Ping`. At the end of a stream they are for the peer.
    #[must_use]
    pub fn into_rest(self) -> Bytes {
        self.held.freeze()
    }
}

fn until(now: Instant) -> Instant {
    now.checked_add(GREET_WITHIN).unwrap_or(now)
}

#[cfg(test)]
mod tests;
