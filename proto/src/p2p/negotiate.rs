//! The direct path as the two peers agree on it: rounds of candidates, what is tried when, and when a round is over.
//!
//! ```text
//! Off: p2p is off on either side, or a proxy leads to the relay.
//! Idle: the session has no link, or this side's person has not agreed to go on. What the other side begins is counted, not joined.
//! Active: rounds, each with its standing.
//!
//!              it is time, interfaces changed,             the sender chose a link (DirectConnected)
//!              the other side's later round
//! (no race) ───────────────────────────────────► racing ───────────────────────────────────────► the path ──► draining
//!                                                   │ ROUND is over                        last link lost │        │ nothing is under
//!                                                   ▼                                                     ▼        ▼ way, or lost
//!                                               said to be over ◄─────────────────────────────────────────┴────────┘
//!                                                   │ DirectFailed was said and heard
//!                                                   ▼
//!                                                settled
//! ```
//! In a round both say their candidates, as they become known, and try each other's (`race`).
//!
//! A round ends for both: whoever finds it over says `DirectFailed`, whoever hears that says it too. From then on neither side
//! counts on what was under way on the round's links ([`Output::Settled`]).
//!
//! While one round's link is the path, another round may race for a better one: make before break. When the sender chooses a link of it,
//! the old one drains, and ends once nothing is under way on it ([`Negotiation::retire`]).
//!
//! Only the sender begins a round because time passed: after a pause out of [`PAUSES`], [`SOON`] after a path that had worked,
//! [`RECHECK`] beside one that works. Either side does when it has a reason of its own, as changed addresses ([`Negotiation::look`]).
//! Timers: [`ROUND`], the pauses. Bounds: [`MAX_ROUNDS`] rounds that are not settled ([`MAX_UNSETTLED`] if the other side begins them),
//! [`MAX_WAITING`] things to do, [`candidate::MAX`] candidates of each side; what leaves for an address is counted where it leaves (`budget`).

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use subtle::ConstantTimeEq;

use super::candidate::{self, Candidate};
use super::race::{Own, PROBE_START, Race, Theirs};
use crate::Instant;
use crate::net::Interface;
use crate::seed::Seed;
use crate::wire::Capped;
use crate::wire::Violation;
use crate::wire::peer::Control;
use crate::wire::relay::Side;

/// How long a round may take.
pub const ROUND: Duration = Duration::from_secs(10);
/// Between rounds that led to nothing; the last one repeats.
pub const PAUSES: [Duration; 4] =
    [Duration::from_secs(30), Duration::from_secs(60), Duration::from_secs(120), Duration::from_secs(300)];
/// After a direct link was lost that had worked.
pub const SOON: Duration = Duration::from_secs(2);
/// While a direct link carries the session, a better one is looked for this often.
pub const RECHECK: Duration = Duration::from_secs(300);
/// Rounds whose end is not settled: one that races, the path's, and one that drains or is about to be settled.
pub const MAX_ROUNDS: usize = 3;
/// More that are not settled is nothing that an honest peer causes.
const MAX_UNSETTLED: usize = 8;
/// What may wait to be done while the other side takes no more words: ten rounds of it. One that causes more is not honest.
const MAX_WAITING: usize = 1024;
pub use super::output::Output;

/// What a machine is made with.
#[derive(Debug)]
pub struct Config {
    /// Which peer this is.
    pub side: Side,
    /// P2p is on here, and no proxy leads to the relay.
    pub allowed: bool,
    /// SHA-256 of the certificate that this side shows.
    pub certificate: [u8; 32],
    /// For the probes' tokens.
    pub seed: Seed,
}

#[derive(Debug)]
enum State {
    Off,
    /// `answered`: the last round of the other side to whose end this one said yes.
    Idle {
        answered: u32,
    },
    Active(Box<Active>),
}

#[derive(Debug, Default)]
struct Active {
    race: Option<Race>,
    /// The round whose link carries the session.
    path: Option<u32>,
    /// Those that are not settled.
    rounds: BTreeMap<u32, Standing>,
    /// When this side begins another round, unless one goes on.
    next: Option<Instant>,
}

/// How far a round's end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It goes on, as far as this side knows.
    Open,
    /// This side said that it is over.
    Said,
}

impl Active {
    /// Whether another round may begin. Not while the end of one is not settled: its chunks would be looked for on the new one's links.
    fn has_room(&self) -> bool {
        let unsettled = self.rounds.values().any(|standing| *standing == Standing::Said);
        self.race.is_none() && !unsettled && self.rounds.len() < MAX_ROUNDS
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Negotiation {
    config: Config,
    rng: ChaCha20Rng,
    state: State,
    /// The last round.
    round: u32,
    token: [u8; 16],
    own: Vec<Candidate>,
    /// Those that were said in this round.
    said: Vec<Candidate>,
    gathered: bool,
    said_done: bool,
    dependent: bool,
    interfaces: Vec<Interface>,
    failures: usize,
    out: VecDeque<Output>,
}

impl Negotiation {
    /// Does nothing before [`Self::start`].
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
            said: Vec::new(),
            gathered: false,
            said_done: false,
            dependent: false,
            interfaces: Vec::new(),
            failures: 0,
            out: VecDeque::new(),
        }
    }

    /// Whether addresses may be revealed at all.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        matches!(self.state, State::Off)
    }

    /// The round whose link carries the session.
    #[must_use]
    pub fn path(&self) -> Option<u32> {
        self.active()?.path
    }

    /// The round whose links may come in.
    #[must_use]
    pub fn racing(&self) -> Option<u32> {
        self.active()?.race.as_ref().map(|_| self.round)
    }

    /// Whether the other side may come from there in the round that races: it said that address, or a probe of it came
    /// from there.
    #[must_use]
    pub fn expects(&self, ip: IpAddr) -> bool {
        self.active().and_then(|active| active.race.as_ref()).is_some_and(|race| race.expects(ip))
    }

    /// Whether that address is one of a network of ours.
    #[must_use]
    pub fn is_near(&self, ip: IpAddr) -> bool {
        candidate::is_near(ip.to_canonical(), &self.interfaces)
    }

    /// Rounds whose links carried the session before: what is under way there still arrives.
    pub fn draining(&self) -> impl Iterator<Item = u32> {
        let (path, racing) = (self.path(), self.racing());
        let open = self.active().into_iter().flat_map(|active| &active.rounds);
        let open = open.filter(|(_, standing)| **standing == Standing::Open).map(|(round, _)| *round);
        open.filter(move |round| ![path, racing].contains(&Some(*round)))
    }

    /// The number of the present round, or of the last one.
    #[must_use]
    pub const fn round(&self) -> u32 {
        self.round
    }

    /// The session is keyed, on a link by way of the relay, and this side's person agreed to go on. `theirs`: the other side does not
    /// refuse.
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

    /// The session has no link: what was said is void, on both sides.
    pub fn stop(&mut self) {
        match self.state {
            State::Off | State::Idle { .. } => return,
            State::Active(_) => {}
        }
        self.state = State::Idle { answered: self.round };
        self.failures = 0;
        self.out.clear();
    }

    /// What the runtime knows of this machine's addresses. Where they changed, another round is worth its while.
    pub fn handle_interfaces(&mut self, now: Instant, interfaces: &[Interface]) {
        if self.interfaces == interfaces {
            return;
        }
        self.interfaces = interfaces.to_vec();
        self.failures = 0;
        self.look(now);
    }

    /// Begins another round as soon as there is room for one.
    pub fn look(&mut self, now: Instant) {
        if let State::Active(active) = &mut self.state {
            active.next = Some(now);
            self.handle_timeout(now);
        }
    }

    /// The candidates of this side, as far as they are known: at most [`candidate::MAX`] of them count.
    pub fn set_candidates(&mut self, candidates: Vec<Candidate>) {
        self.own = candidates;
        self.own.truncate(candidate::MAX);
        self.say_candidates();
    }

    /// Whether more candidates of this side are expected. `dependent`: its NAT gives each destination a mapping of its own.
    pub fn set_gathered(&mut self, gathered: bool, dependent: bool) {
        (self.gathered, self.dependent) = (gathered, dependent);
        self.say_candidates();
    }

    /// What the other side says. Where p2p is off it says it in vain.
    ///
    /// # Errors
    /// It can't be said now.
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
                    // It began and gave up before we heard of it.
                    self.drop_race();
                    self.open(*round);
                }
                self.known(*round)?;
                self.handle_failed(now, *round);
            }
            Control::DirectConnected { round } => {
                self.known(*round)?;
                if self.config.side == Side::Sender {
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

    /// A datagram that is neither QUIC nor STUN. False: it is no probe either.
    pub fn handle_probe(&mut self, now: Instant, from: SocketAddr, data: &[u8]) -> bool {
        let Some(token) = data.strip_prefix(&PROBE_START) else { return false };
        let is_ours = token.len() == self.token.len() && bool::from(token.ct_eq(&self.token));
        if is_ours {
            self.run(now, |race, own| race.handle_probed(now, from, own));
        }
        true
    }

    /// The sender chose a link of the round that races.
    pub fn choose(&mut self, now: Instant) {
        if let Some(round) = self.racing() {
            self.out.push_back(Output::Say(Control::DirectConnected { round }));
            self.connected(now);
        }
    }

    /// The last link of a round is gone. One that races goes on.
    pub fn handle_lost(&mut self, now: Instant, round: u32) {
        if self.path() == Some(round) {
            self.failures = 0;
        }
        self.retire(now, round);
    }

    /// Nothing is under way any more on the links of a round that is not the path: it ends.
    pub fn retire(&mut self, now: Instant, round: u32) {
        let standing = self.active().and_then(|active| active.rounds.get(&round));
        if standing == Some(&Standing::Open) && self.racing() != Some(round) {
            self.leave(now, round);
        }
    }

    /// A deadline may have passed. A spurious call is a no-op.
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

    /// The next thing to do.
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

    /// The other side's round, if it is one that goes on here: it is joined if it is new. False: it is over, or none of ours.
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

    /// A round that the other side does not take part in any more, or nothing ever came of: no chunk was on its links.
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
            active.rounds.insert(round, Standing::Open);
        }
    }

    fn begin(&mut self, now: Instant, round: u32) {
        self.open(round);
        self.rng.fill_bytes(&mut self.token);
        self.said.clear();
        self.said_done = false;
        if let State::Active(active) = &mut self.state {
            active.next = None;
            active.race = Some(Race::new(now + ROUND));
        }
        self.say_offer();
        self.say_candidates();
    }

    /// The start of a round is said even where nothing is known yet, so that the other side takes part.
    fn say_offer(&mut self) {
        let room = candidate::MAX.saturating_sub(self.said.len());
        let new: Vec<_> = self.own.iter().filter(|own| !self.said.contains(own)).take(room).copied().collect();
        self.said.extend_from_slice(&new);
        self.out.push_back(Output::Say(Control::CandidateOffer {
            round: self.round,
            candidates: Capped::truncated(new),
            certificate: self.config.certificate,
            token: self.token,
            dependent: self.dependent,
        }));
    }

    fn say_candidates(&mut self) {
        if self.racing().is_none() {
            return;
        }
        if self.said.len() < candidate::MAX && self.own.iter().any(|own| !self.said.contains(own)) {
            self.say_offer();
        }
        if self.gathered && !self.said_done {
            self.said_done = true;
            self.out.push_back(Output::Say(Control::CandidatesDone { round: self.round }));
        }
    }

    /// Something happened to the race: it does what is due then.
    fn run(&mut self, now: Instant, happens: impl FnOnce(&mut Race, Own<'_>)) {
        let own = Own { side: self.config.side, dependent: self.dependent, interfaces: &self.interfaces };
        if let State::Active(active) = &mut self.state
            && let Some(race) = &mut active.race
        {
            happens(race, own);
            race.go_on(now, &mut self.out);
        }
    }

    /// A link of the round that races is the path.
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

    /// The other side says that a round is over.
    fn handle_failed(&mut self, now: Instant, round: u32) {
        match &mut self.state {
            State::Off => {}
            // Nothing was ever said in it here.
            State::Idle { answered } if round > *answered => {
                *answered = round;
                self.out.push_back(Output::Say(Control::DirectFailed { round }));
            }
            State::Idle { .. } => {}
            State::Active(active) => match active.rounds.get(&round) {
                Some(Standing::Open) => {
                    if self.racing() == Some(round) {
                        self.fail_race(now)
                    } else {
                        self.leave(now, round)
                    }
                    self.settle(round);
                }
                Some(Standing::Said) => self.settle(round),
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

    /// The race led to nothing.
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

    /// A round whose link carries the session, or did, is over.
    fn leave(&mut self, now: Instant, round: u32) {
        if let State::Active(active) = &mut self.state
            && active.path.take_if(|path| *path == round).is_some()
        {
            active.next = None;
            self.again_after(now, SOON);
        }
        self.give_up(round);
    }

    /// Unless this side has reasons of its own to begin another round earlier.
    fn again_after(&mut self, now: Instant, pause: Duration) {
        if let State::Active(active) = &mut self.state
            && self.config.side == Side::Sender
        {
            active.next.get_or_insert(now + pause);
        }
    }

    fn give_up(&mut self, round: u32) {
        if let State::Active(active) = &mut self.state {
            active.rounds.insert(round, Standing::Said);
        }
        // In this order: who hears of it may count on it that nothing counts any more here.
        self.out.push_back(Output::Over { round });
        self.out.push_back(Output::Say(Control::DirectFailed { round }));
    }
}

#[cfg(test)]
#[path = "negotiate_tests.rs"]
mod tests;
