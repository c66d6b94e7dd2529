//! A client's protocol with a relay, on the first stream of a link: hello, a question, the wait, the pairing.
//!
//! ```text
//! Greeting ──hello──► Asked ──allocated, waiting──► Seated ──paired──► Paired (the stream is the other peer's now)
//!     │  └─hello─► Greeted ─┘ ▲                         │
//!     └──────── refused ──────┴─ ask                    └─ refused (idle, going down) ─► Over
//! ```
//! It sends the greeting and the question in one flight if no password is needed, so pairing costs one round trip
//! after the transport's handshake. When several connection attempts to the same relay race, only one asks at once;
//! the others send the greeting only and ask when they are selected. Timer: a relay has [`ANSWER_WITHIN`] to answer a
//! greeting or a question. Bounds: frames of at most 4 KiB, one question at a time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::Instant;
use crate::wire::Violation;
use crate::wire::frame::enclose;
use crate::wire::relay::{ClientMessage, Former, Owner, RefusalReason, RelayMessage, Role, RoomId};
use crate::wire::relay_auth::prove;
use crate::wire::{self, Caps, Decoder, Features, Hello, Versions};

/// How long a relay may take to answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What a client asks a relay for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// A nameplate, and the sender's seat there.
    Allocate {
        /// The owner token: the client that has it may take the seat again.
        owner: Owner,
    },
    /// A seat in this room.
    Join {
        /// Which room.
        room: RoomId,
        /// Which seat.
        role: Role,
        /// The owner token: the client that has it may take the seat again.
        owner: Owner,
        /// Whether it is a reconnect room.
        again: bool,
        /// The seat in a code room that is given up for this one.
        former: Option<Former>,
    },
}

impl Question {
    /// The question of a client that asked `before` until now: a seat in a code room is given up for one in a
    /// reconnect room.
    #[must_use]
    pub const fn after(self, before: Self) -> Self {
        let Self::Join { room, role, owner, again: true, former: None } = self else { return self };
        let former = match before {
            Self::Join { room, owner, again: false, .. } => Some(Former { room, owner }),
            Self::Join { again: true, former, .. } => former,
            Self::Allocate { .. } => None,
        };
        Self::Join { room, role, owner, again: true, former }
    }
}

/// What the relay answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// This client's address as the relay sees it.
    Observed(SocketAddr),
    /// The relay assigned this nameplate and the sender's seat in its room.
    Allocated(u32),
    /// This client has its seat; the other side is not connected.
    Waiting,
    /// The other side is connected; this many streams may be opened besides the first.
    Paired(u8),
    /// The relay did not answer in time.
    Late,
    /// The relay refused. After `NobodyWaits` and `Taken` the question may be asked again.
    Refused(RefusalReason),
    /// The relay has no protocol version in common with this side, or is not a tallow relay.
    Versions(Versions),
    /// The relay violated the protocol.
    Violation(Violation),
}

#[derive(Debug)]
enum State {
    Greeting {
        question: Option<Question>,
        deadline: Instant,
    },
    Greeted,
    Asked {
        deadline: Instant,
    },
    /// `waits`: the relay has confirmed that this peer waits there.
    Seated {
        waits: bool,
    },
    Refused,
    Paired,
    Over,
}

/// A client's side of the relay protocol; see the module documentation.
#[derive(Debug)]
pub struct RelayClient {
    state: State,
    hello: Hello,
    password: Option<Arc<str>>,
    decoder: Decoder,
    out: VecDeque<Bytes>,
    answers: VecDeque<Answer>,
}

impl RelayClient {
    /// The link is established: sends the greeting, and the question if there is one already.
    #[must_use]
    pub fn new(now: Instant, features: Features, password: Option<Arc<str>>, question: Option<Question>) -> Self {
        let mut client = Self {
            state: State::Greeting { question, deadline: now + ANSWER_WITHIN },
            hello: Hello::new(features),
            password,
            decoder: Decoder::new(Caps::Greeting),
            out: VecDeque::new(),
            answers: VecDeque::new(),
        };
        client.send(&ClientMessage::Hello(client.hello));
        if let (None, Some(question)) = (&client.password, question) {
            client.ask(question);
        }
        client
    }

    /// Asks after the greeting, or again after `NobodyWaits`; ignored in any other state.
    pub fn ask_now(&mut self, now: Instant, question: Question) {
        if matches!(self.state, State::Greeted | State::Refused) {
            self.ask(question);
            self.state = State::Asked { deadline: now + ANSWER_WITHIN };
        }
    }

    /// Gives up the seat and the nameplate.
    pub fn leave(&mut self) {
        if !matches!(self.state, State::Paired | State::Over) {
            self.send(&ClientMessage::Leave);
            self.state = State::Over;
        }
    }

    /// Received bytes of the stream.
    pub fn handle_bytes(&mut self, bytes: Bytes) {
        self.decoder.push(bytes);
        // The bytes after the pairing are the other peer's: they stay in the decoder.
        while !matches!(self.state, State::Paired | State::Over) {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => self.handle_message(&frame.into_bytes()),
                Ok(None) => return,
                Err(violation) => self.end(Answer::Violation(violation)),
            }
        }
    }

    /// This process did nothing for this long: the relay's deadline moves by that time.
    pub fn delay(&mut self, by: Duration) {
        match &mut self.state {
            State::Greeting { deadline, .. } | State::Asked { deadline } => *deadline += by,
            State::Greeted | State::Seated { .. } | State::Refused | State::Paired | State::Over => {}
        }
    }

    /// The relay's deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.end(Answer::Late);
        }
    }

    /// When [`RelayClient::handle_timeout`] is due.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Greeting { deadline, .. } | State::Asked { deadline } => Some(deadline),
            State::Greeted | State::Seated { .. } | State::Refused | State::Paired | State::Over => None,
        }
    }

    /// The next frame for the stream.
    #[must_use]
    pub fn poll_frame(&mut self) -> Option<Bytes> {
        self.out.pop_front()
    }

    /// Whether further bytes of the stream do not belong to this client.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Paired | State::Over)
    }

    /// Whether the relay sent anything.
    #[must_use]
    pub fn has_answer(&self) -> bool {
        !self.answers.is_empty()
    }

    /// The next answer.
    #[must_use]
    pub fn poll_answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// After the pairing: the stream's decoder with the bytes received from the other peer.
    #[must_use]
    pub fn into_decoder(self) -> Decoder {
        self.decoder
    }

    fn handle_message(&mut self, body: &[u8]) {
        let Ok(message) = wire::decode::<RelayMessage>(body) else {
            return self.end(Answer::Violation(Violation::Malformed));
        };
        match (&self.state, message) {
            (State::Greeting { question, deadline }, RelayMessage::Hello { hello, observed, nonce }) => {
                let (question, deadline) = (*question, *deadline);
                if self.hello.agree(&hello).is_none() {
                    return self.end(Answer::Versions(hello.versions));
                }
                self.answers.push_back(Answer::Observed(observed));
                if let Some(password) = self.password.clone() {
                    self.send(&ClientMessage::Prove { mac: prove(&password, &nonce) });
                    question.into_iter().for_each(|question| self.ask(question));
                }
                self.state = if question.is_some() { State::Asked { deadline } } else { State::Greeted };
            }
            (State::Asked { .. }, RelayMessage::Allocated { nameplate }) => {
                self.answers.push_back(Answer::Allocated(nameplate));
                self.state = State::Seated { waits: false };
            }
            // A repeated message changes nothing.
            (State::Seated { waits: true }, RelayMessage::Waiting) => {}
            (State::Asked { .. } | State::Seated { waits: false }, RelayMessage::Waiting) => {
                self.answers.push_back(Answer::Waiting);
                self.state = State::Seated { waits: true };
            }
            (State::Asked { .. } | State::Seated { .. }, RelayMessage::Paired { streams }) => {
                self.answers.push_back(Answer::Paired(streams));
                self.state = State::Paired;
            }
            (_, RelayMessage::Refused { reason: RefusalReason::UnsupportedVersion(versions), .. }) => {
                self.end(Answer::Versions(versions));
            }
            (
                State::Asked { deadline: _ },
                RelayMessage::Refused { reason: reason @ (RefusalReason::NobodyWaits | RefusalReason::Taken), .. },
            ) => {
                self.answers.push_back(Answer::Refused(reason));
                self.state = State::Refused;
            }
            (_, RelayMessage::Refused { reason, .. }) => self.end(Answer::Refused(reason)),
            (_, RelayMessage::Pong) => {}
            (
                State::Greeting { .. }
                | State::Greeted
                | State::Asked { .. }
                | State::Seated { .. }
                | State::Refused
                | State::Paired
                | State::Over,
                RelayMessage::Hello { .. }
                | RelayMessage::Allocated { .. }
                | RelayMessage::Waiting
                | RelayMessage::Paired { .. }
                | RelayMessage::Redirect { .. },
            ) => self.end(Answer::Violation(Violation::UnexpectedMessage)),
        }
    }

    fn ask(&mut self, question: Question) {
        self.send(&match question {
            Question::Allocate { owner } => ClientMessage::Allocate { owner },
            Question::Join { room, role, owner, again, former: None } => {
                ClientMessage::Join { room, role, owner, again }
            }
            Question::Join { room, role, owner, again: _, former: Some(former) } => {
                ClientMessage::Rejoin { room, role, owner, former }
            }
        });
    }

    fn send(&mut self, message: &ClientMessage) {
        self.out.push_back(enclose(&wire::encode(message)));
    }

    fn end(&mut self, answer: Answer) {
        self.answers.push_back(answer);
        self.state = State::Over;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(client: &mut RelayClient, message: &RelayMessage) -> Vec<Answer> {
        client.handle_bytes(enclose(&wire::encode(message)));
        std::iter::from_fn(|| client.poll_answer()).collect()
    }

    #[test]
    fn allocated_room_is_confirmed_once() {
        let question = Some(Question::Allocate { owner: Owner([1; 16]) });
        let mut client = RelayClient::new(Instant::now(), Features::default(), None, question);
        let hello = Hello::new(Features::default());
        let observed = "192.0.2.1:4433".parse().unwrap();
        answer(&mut client, &RelayMessage::Hello { hello, observed, nonce: [0; 16] });
        assert_eq!(answer(&mut client, &RelayMessage::Allocated { nameplate: 7 }), [Answer::Allocated(7)]);
        assert_eq!(answer(&mut client, &RelayMessage::Waiting), [Answer::Waiting]);
        assert_eq!(answer(&mut client, &RelayMessage::Waiting), []);
    }
}
