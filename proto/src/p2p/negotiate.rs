//! The negotiation of a direct path between the two peers: rounds in which they exchange and try candidates, and the
//! end of rounds.
//!
//! ```text
//! Off: p2p is off on either side, or a proxy leads to the relay.
//! Idle: the session has no link, or this side's user has not agreed to continue. It counts rounds that the peer begins
//! and does not join them.
//! Active: rounds, each with its state.
//!
//!            it is time, interfaces changed,      the sender chose a link (DirectConnected)
//!            the peer's later round
//! (no race) ─────────────────────────────► racing ────────────────────────────────► the path ──► draining
//!                                            │ ROUND has passed               last link lost │        │ nothing in
//!                                            ▼                                               ▼        ▼ flight
//!                                      FailureSent ◄─────────────────────────────────────────┴────────┘
//!                                            │ DirectFailed was sent and received
//!                                            ▼
//!                                         settled
//! ```
//! In a round both peers send their candidates, as they become known, and try those of the other (`race`).
//!
//! A round ends for both peers: the one that ends it sends `DirectFailed`, and the other answers with the same. From
//! then on both treat chunks in flight on the round's links as lost ([`Output::Settled`]).
//!
//! While a link of one round is the path, another round may race for a better one (make before break). When the sender
//! selects a link of that round, the old round drains, and ends once nothing is in flight on its links
//! ([`Negotiation::retire`]).
//!
//! Only the sender begins rounds by a timer: after a pause out of [`PAUSES`], [`SOON`] after the loss of a working
//! path, and [`RECHECK`] beside a working path. Either side begins a round for other reasons, such as changed addresses
//! ([`Negotiation::look`]). Timers: [`ROUND`] and the pauses. Bounds: [`MAX_ROUNDS`] unsettled rounds
//! ([`MAX_UNSETTLED`] if the peer begins them), [`MAX_WAITING`] queued outputs, [`candidate::MAX`] candidates of each
//! side; `budget` bounds the datagrams to each address.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use subtle::ConstantTimeEq;

use super::candidate::{self, Candidate};
use super::race::{Own, Race, Theirs, token_of_probe};
use crate::Instant;
use crate::net::{Interface, Slot};
use crate::seed::Seed;
use crate::wire::BoundedVec;
use crate::wire::Violation;
use crate::wire::peer::Control;
use crate::wire::relay::Role;

/// Time limit of a round.
pub const ROUND: Duration = Duration::from_secs(10);
/// Pauses between failed rounds; the last one repeats.
pub const PAUSES: [Duration; 4] =
    [Duration::from_secs(30), Duration::from_secs(60), Duration::from_secs(120), Duration::from_secs(300)];
/// Pause before the next round after the loss of a working direct path.
pub const SOON: Duration = Duration::from_secs(2);
/// Interval at which a better path is sought while a direct link is active.
pub const RECHECK: Duration = Duration::from_secs(300);
/// Maximum number of unsettled rounds: one that races, that of the path, and one that drains or is about to be settled.
pub const MAX_ROUNDS: usize = 3;
/// Unsettled rounds tolerated before it is a violation.
const MAX_UNSETTLED: usize = 8;
/// Maximum queued outputs (about ten rounds) while the control channel is blocked; more is a violation.
const MAX_WAITING: usize = 1024;
pub use super::output::Output;

/// The configuration of a [`Negotiation`].
#[derive(Debug)]
pub struct Config {
    /// The role of this peer.
    pub role: Role,
    /// Whether direct paths are enabled on this side, and no proxy leads to the relay.
    pub allowed: bool,
    /// SHA-256 of the certificate that this side presents.
    pub certificate: [u8; 32],
    /// The source of the probes' tokens.
    pub seed: Seed,
    /// The sockets are shared with other nodes: tokens begin with this mark.
    pub slot: Option<Slot>,
}

#[derive(Debug)]
enum State {
    Off,
    /// `answered`: the last round of the peer whose `DirectFailed` this side has answered.
    Idle {
        answered: u32,
    },
    Active(Box<Active>),
}

#[derive(Debug, Default)]
struct Active {
    race: Option<Race>,
    /// The round of the active link.
    path: Option<u32>,
    /// The rounds that are not settled.
    rounds: BTreeMap<u32, RoundState>,
    /// When this side begins another round, unless one is racing.
    next: Option<Instant>,
}

/// The state of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RoundState {
    /// The round has not ended, as far as this side knows.
    Open,
    /// This side has ended the round and sent `DirectFailed`.
    FailureSent,
}

impl Active {
    /// Whether another round may begin. It may not while the end of a round is not settled, because that round's chunks
    /// in flight would be attributed to the links of the new round.
    fn has_room(&self) -> bool {
        let unsettled = self.rounds.values().any(|state| *state == RoundState::FailureSent);
        self.race.is_none() && !unsettled && self.rounds.len() < MAX_ROUNDS
    }
}

/// The negotiation; the module's documentation describes its states.
#[derive(Debug)]
pub struct Negotiation {
    config: Config,
    rng: ChaCha20Rng,
    state: State,
    /// The number of the last round.
    round: u32,
    token: [u8; 16],
    own: Vec<Candidate>,
    /// The candidates that were sent in this round.
    sent: Vec<Candidate>,
    gathered: bool,
    sent_done: bool,
    dependent: bool,
    interfaces: Vec<Interface>,
    failures: usize,
    out: VecDeque<Output>,
}

impl Negotiation {
    /// A negotiation that does nothing before [`Self::start`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        let rng = config.seed.derive("probe tokens").rng();
        let state = if config.allowed { State::Idle { answered: 0 } } else { State::Off };
        Self {
            config,
            rng,
            state,
            round: 0,
            token: [0; 16],
            own: Vec::new(),
            sent: Vec::new(),
            gathered: false,
            sent_done: false,
            dependent: false,
            interfaces: Vec::new(),
            failures: 0,
            out: VecDeque::new(),
        }
    }

    /// Whether direct paths are disabled, so that no addresses may be revealed.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        matches!(self.state, State::Off)
    }

    /// The round of the active link, if it is a direct one.
    #[must_use]
    pub fn path(&self) -> Option<u32> {
        self.active()?.path
    }

    /// The round that races, whose links may be accepted.
    #[must_use]
    pub fn racing(&self) -> Option<u32> {
        self.active()?.race.as_ref().map(|_| self.round)
    }

    /// Whether the peer may connect from this address in the round that races: it has sent the address as a candidate,
    /// or a probe of the peer came from there.
    #[must_use]
    pub fn expects(&self, ip: IpAddr) -> bool {
        self.active().and_then(|active| active.race.as_ref()).is_some_and(|race| race.expects(ip))
    }

    /// Whether the address is in a network of an own interface.
    #[must_use]
    pub fn is_near(&self, ip: IpAddr) -> bool {
        candidate::is_near(ip.to_canonical(), &self.interfaces)
    }

    /// Rounds whose links were active before: chunks in flight on them still arrive.
    pub fn draining(&self) -> impl Iterator<Item = u32> {
        let (path, racing) = (self.path(), self.racing());
        let open = self.active().into_iter().flat_map(|active| &active.rounds);
        let open = open.filter(|(_, state)| **state == RoundState::Open).map(|(round, _)| *round);
        open.filter(move |round| ![path, racing].contains(&Some(*round)))
    }

    /// The number of the present or last round.
    #[must_use]
    pub const fn round(&self) -> u32 {
        self.round
    }

    /// Starts when the session is keyed on a link through the relay, and this side's user has agreed to continue.
    /// `theirs`: the peer has direct paths enabled.
    pub fn start(&mut self, now: Instant, theirs: bool) {
        match self.state {
            State::Off => {}
            _ if !theirs => self.state = State::Off,
            State::Idle { .. } => {
                self.state = State::Active(Box::default());
                self.begin(now, self.round.saturating_add(1));
            }
            State::Active(_) => {}
        }
    }

    /// Stops because the session has no link: both sides discard all rounds.
    pub fn stop(&mut self) {
        match self.state {
            State::Off | State::Idle { .. } => return,
            State::Active(_) => {}
        }
        self.state = State::Idle { answered: self.round };
        self.failures = 0;
        self.out.clear();
    }

    /// Sets this machine's addresses, as the runtime reports them. After a change, another round is begun.
    pub fn handle_interfaces(&mut self, now: Instant, interfaces: &[Interface]) {
        if self.interfaces == interfaces {
            return;
        }
        self.interfaces = interfaces.to_vec();
        self.failures = 0;
        self.look(now);
    }

    /// Requests another round, which begins as soon as there is room for one.
    pub fn look(&mut self, now: Instant) {
        if let State::Active(active) = &mut self.state {
            active.next = Some(now);
            self.handle_timeout(now);
        }
    }

    /// Sets the present candidates of this side; at most [`candidate::MAX`] of them are used.
    pub fn set_candidates(&mut self, candidates: Vec<Candidate>) {
        self.own = candidates;
        self.own.truncate(candidate::MAX);
        self.send_candidates();
    }

    /// Sets whether gathering is complete. `dependent`: the NAT of this side has an address-dependent mapping.
    pub fn set_gathered(&mut self, gathered: bool, dependent: bool) {
        (self.gathered, self.dependent) = (gathered, dependent);
        self.send_candidates();
    }

    /// Processes a message of the peer. If direct paths are disabled, the message has no effect.
    ///
    /// # Errors
    /// The message is not allowed now.
    pub fn handle_control(&mut self, now: Instant, message: &Control) -> Result<(), Violation> {
        match message {
            Control::CandidateOffer { .. }
            | Control::CandidatesDone { .. }
            | Control::DirectFailed { .. }
            | Control::DirectConnected { .. }
                if self.is_off() => {}
            _ if self.out.len() >= MAX_WAITING => return Err(Violation::UnexpectedMessage),
            Control::CandidateOffer { round, candidates, certificate, token, dependent } => {
                if !self.join(now, *round)? {
                    return Ok(());
                }
                let theirs = Theirs { certificate: *certificate, token: *token, dependent: *dependent };
                self.run(now, |race, own| race.handle_offer(now, theirs, candidates.as_slice(), own));
            }
            Control::CandidatesDone { round } => self.known(*round)?,
            Control::DirectFailed { round } => {
                if *round == self.round.saturating_add(1) {
                    // The peer began and ended this round before its offer arrived.
                    self.drop_race();
                    self.open(*round);
                }
                self.known(*round)?;
                self.handle_failed(now, *round);
            }
            Control::DirectConnected { round } => {
                self.known(*round)?;
                if self.config.role == Role::Sender {
                    return Err(Violation::UnexpectedMessage);
                }
                if self.racing() == Some(*round) {
                    self.connected(now);
                }
            }
            _ => return Err(Violation::UnexpectedMessage),
        }
        Ok(())
    }

    /// Processes a datagram that is neither QUIC nor STUN. Returns false if it is not a probe either.
    pub fn handle_probe(&mut self, now: Instant, from: SocketAddr, data: &[u8]) -> bool {
        let Some(token) = token_of_probe(data) else { return false };
        let is_ours = token.len() == self.token.len() && bool::from(token.ct_eq(&self.token));
        if is_ours {
            self.run(now, |race, own| race.handle_probed(now, from, own));
        }
        true
    }

    /// The sender selected a link of the round that races.
    pub fn choose(&mut self, now: Instant) {
        if let Some(round) = self.racing() {
            self.out.push_back(Output::Send(Control::DirectConnected { round }));
            self.connected(now);
        }
    }

    /// The last link of a round was lost. If the round races, it continues.
    pub fn handle_lost(&mut self, now: Instant, round: u32) {
        if self.path() == Some(round) {
            self.failures = 0;
        }
        self.retire(now, round);
    }

    /// Ends a round that is not the path, because nothing is in flight on its links any more.
    pub fn retire(&mut self, now: Instant, round: u32) {
        let state = self.active().and_then(|active| active.rounds.get(&round));
        if state == Some(&RoundState::Open) && self.racing() != Some(round) {
            self.leave(now, round);
        }
    }

    /// Checks the timers. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        let State::Active(active) = &self.state else { return };
        match &active.race {
            Some(race) if race.until <= now => self.fail_race(now),
            Some(_) => self.run(now, |_, _| ()),
            None if active.next.is_some_and(|next| next <= now) && active.has_room() => {
                self.begin(now, self.round.saturating_add(1));
            }
            None => {}
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let active = self.active()?;
        match &active.race {
            Some(race) => Some(race.poll_timeout()),
            None => active.next.filter(|_| active.has_room()),
        }
    }

    /// The next output.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn active(&self) -> Option<&Active> {
        match &self.state {
            State::Off | State::Idle { .. } => None,
            State::Active(active) => Some(active),
        }
    }

    /// Joins the peer's round if it is new. Returns true if it is the round that races now.
    fn join(&mut self, now: Instant, round: u32) -> Result<bool, Violation> {
        let is_next = round == self.round.saturating_add(1);
        match &self.state {
            State::Idle { .. } if is_next => self.round = round,
            State::Off | State::Idle { .. } => {}
            State::Active(active) if is_next && active.rounds.len() < MAX_UNSETTLED => {
                self.drop_race();
                self.begin(now, round);
            }
            State::Active(_) => {}
        }
        self.known(round)?;
        Ok(self.racing() == Some(round))
    }

    fn known(&self, round: u32) -> Result<(), Violation> {
        if round == 0 || round > self.round { Err(Violation::UnexpectedMessage) } else { Ok(()) }
    }

    /// Drops the race without `DirectFailed`: the peer has left the round, and no chunk was sent on its links.
    fn drop_race(&mut self) {
        let round = self.round;
        if let State::Active(active) = &mut self.state
            && active.race.take().is_some()
        {
            active.rounds.remove(&round);
            self.out.push_back(Output::Over { round });
        }
    }

    fn open(&mut self, round: u32) {
        self.round = round;
        if let State::Active(active) = &mut self.state {
            active.rounds.insert(round, RoundState::Open);
        }
    }

    fn begin(&mut self, now: Instant, round: u32) {
        self.open(round);
        self.rng.fill_bytes(&mut self.token);
        if let Some(slot) = &self.config.slot {
            slot.mark(&mut self.token);
        }
        self.sent.clear();
        self.sent_done = false;
        if let State::Active(active) = &mut self.state {
            active.next = None;
            active.race = Some(Race::new(now + ROUND));
        }
        self.send_offer();
        self.send_candidates();
    }

    /// Sends new candidates. At the start of a round the offer is sent even without candidates, so that the peer takes
    /// part.
    fn send_offer(&mut self) {
        let room = candidate::MAX.saturating_sub(self.sent.len());
        let new: Vec<_> = self.own.iter().filter(|own| !self.sent.contains(own)).take(room).copied().collect();
        self.sent.extend_from_slice(&new);
        self.out.push_back(Output::Send(Control::CandidateOffer {
            round: self.round,
            candidates: BoundedVec::truncated(new),
            certificate: self.config.certificate,
            token: self.token,
            dependent: self.dependent,
        }));
    }

    fn send_candidates(&mut self) {
        if self.racing().is_none() {
            return;
        }
        if self.sent.len() < candidate::MAX && self.own.iter().any(|own| !self.sent.contains(own)) {
            self.send_offer();
        }
        if self.gathered && !self.sent_done {
            self.sent_done = true;
            self.out.push_back(Output::Send(Control::CandidatesDone { round: self.round }));
        }
    }

    /// Passes an input to the race and queues the attempts that are due.
    fn run(&mut self, now: Instant, happens: impl FnOnce(&mut Race, Own<'_>)) {
        let own = Own { role: self.config.role, dependent: self.dependent, interfaces: &self.interfaces };
        if let State::Active(active) = &mut self.state
            && let Some(race) = &mut active.race
        {
            happens(race, own);
            race.advance(now, &mut self.out);
        }
    }

    /// A link of the round that races becomes the path.
    fn connected(&mut self, now: Instant) {
        self.failures = 0;
        let round = self.round;
        if let State::Active(active) = &mut self.state {
            active.race = None;
            active.path = Some(round);
        }
        self.again_after(now, RECHECK);
        self.out.push_back(Output::Chosen { round });
    }

    /// The peer has ended a round.
    fn handle_failed(&mut self, now: Instant, round: u32) {
        match &mut self.state {
            State::Off => {}
            // This side has never sent a message in this round.
            State::Idle { answered } if round > *answered => {
                *answered = round;
                self.out.push_back(Output::Send(Control::DirectFailed { round }));
            }
            State::Idle { .. } => {}
            State::Active(active) => match active.rounds.get(&round) {
                Some(RoundState::Open) => {
                    if self.racing() == Some(round) {
                        self.fail_race(now)
                    } else {
                        self.leave(now, round)
                    }
                    self.settle(round);
                }
                Some(RoundState::FailureSent) => self.settle(round),
                None => {}
            },
        }
    }

    fn settle(&mut self, round: u32) {
        if let State::Active(active) = &mut self.state {
            active.rounds.remove(&round);
        }
        self.out.push_back(Output::Settled { round });
    }

    /// The race failed.
    fn fail_race(&mut self, now: Instant) {
        let pause = match self.path() {
            Some(_) => RECHECK,
            None => {
                self.out.push_back(Output::NoPath);
                let pause = PAUSES.get(self.failures).or(PAUSES.last()).copied().unwrap_or(ROUND);
                self.failures = self.failures.saturating_add(1);
                pause
            }
        };
        if let State::Active(active) = &mut self.state {
            active.race = None;
        }
        self.again_after(now, pause);
        self.give_up(self.round);
    }

    /// Ends a round whose link is or was active.
    fn leave(&mut self, now: Instant, round: u32) {
        if let State::Active(active) = &mut self.state
            && active.path.take_if(|path| *path == round).is_some()
        {
            active.next = None;
            self.again_after(now, SOON);
        }
        self.give_up(round);
    }

    /// Schedules the next round after `pause`, unless an earlier one is already scheduled.
    fn again_after(&mut self, now: Instant, pause: Duration) {
        if let State::Active(active) = &mut self.state
            && self.config.role == Role::Sender
        {
            active.next.get_or_insert(now + pause);
        }
    }

    fn give_up(&mut self, round: u32) {
        if let State::Active(active) = &mut self.state {
            active.rounds.insert(round, RoundState::FailureSent);
        }
        // The order matters: when the peer receives the message, this side must already have stopped to count chunks of
        // the round.
        self.out.push_back(Output::Over { round });
        self.out.push_back(Output::Send(Control::DirectFailed { round }));
    }
}

#[cfg(test)]
mod tests;
