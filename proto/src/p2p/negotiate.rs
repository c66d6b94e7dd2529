//! The direct path as the two peers agree on it: rounds of candidates, what is tried when, and when a round is over.
//!
//! ```text
//!        start, interfaces changed,                 the sender chose a link (DirectConnected)
//!        the other side's later round
//! Resting ─────────────────────────────► Racing ─────────────────────────────────────────────► Connected
//!    ▲                                      │ ROUND is over, DirectFailed                          │ last link lost, DirectFailed
//!    └──────────────────────────────────────┴──────────────────────────────────────────────────────┘
//! Off: p2p is off on either side, or a proxy leads to the relay. Idle: the session has no link. Neither says or sends anything.
//! ```
//! In a round both say their candidates, as they become known. The sender dials what is reached over UDP and the receiver probes it,
//! so that the mappings of both NATs are open when the first flight arrives; both dial what is reached over TCP. A probe bears the
//! token of the side that it reaches, so whoever sees one knows that its other side sent it; where it comes from an address that was
//! not said (a NAT with a mapping for each destination), the sender dials that one. Where both NATs are of that kind nothing between
//! them is tried.
//!
//! A round ends for both: whoever finds it over says `DirectFailed`, whoever hears that says it too. From then on neither side
//! counts on what was under way on the round's links ([`Output::Settled`]).
//!
//! Only the sender begins a round because time passed: after a pause out of [`PAUSES`], or [`SOON`] after a path that had worked.
//! Timers: [`ROUND`], the pauses, [`PROBES_AT`]. Bounds: [`candidate::MAX`] candidates of each side, [`MAX_LEARNED`] learned from probes; what leaves for an
//! address is counted where it leaves (`budget`).

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use subtle::ConstantTimeEq;

use super::candidate::{self, Candidate, Carrier, Kind};
use crate::Instant;
use crate::node::Interface;
use crate::seed::Seed;
use crate::session::Violation;
use crate::wire::Capped;
use crate::wire::peer::Control;
use crate::wire::relay::Side;

/// How long a round may take.
pub const ROUND: Duration = Duration::from_secs(10);
/// Between rounds that led to nothing; the last one repeats.
pub const PAUSES: [Duration; 4] =
    [Duration::from_secs(30), Duration::from_secs(60), Duration::from_secs(120), Duration::from_secs(300)];
/// After a direct link was lost that had worked.
pub const SOON: Duration = Duration::from_secs(2);
/// When a candidate is probed, after it became known.
pub const PROBES_AT: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_millis(1500),
];
/// Between the first tries of one candidate and the next.
pub const STAGGER: Duration = Duration::from_millis(10);
/// Addresses of the other side that probes may teach in a round.
pub const MAX_LEARNED: usize = 4;
/// Bytes of a probe.
pub const PROBE: usize = 20;
/// What a probe begins with: neither STUN nor QUIC (RFC 7983 §7, RFC 9443).
const PROBE_START: [u8; 4] = [12, b't', b'l', b'w'];

/// One try to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptId(u32);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Say this to the other side.
    Say(Control),
    /// Connect.
    Dial {
        /// Its name.
        attempt: AttemptId,
        /// QUIC, or records over TCP.
        carrier: Carrier,
        /// Where.
        to: SocketAddr,
        /// SHA-256 of the certificate that is to be seen there.
        certificate: [u8; 32],
    },
    /// Send this datagram, once.
    Probe {
        /// Where.
        to: SocketAddr,
        /// What.
        datagram: [u8; PROBE],
    },
    /// One link carries the session: what else was begun is given up.
    Chosen,
    /// The round is over: all its links and attempts are.
    Over,
    /// Both sides know that it is: what was under way on its links will not be counted as arrived any more.
    Settled,
    /// This round led to nothing.
    NoPath,
}

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

/// What the other side said of itself.
#[derive(Debug, Clone, Copy)]
struct Theirs {
    certificate: [u8; 32],
    token: [u8; 16],
    dependent: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Dial(Candidate),
    Probe(SocketAddr),
}

/// A round that goes on.
#[derive(Debug)]
struct Race {
    until: Instant,
    theirs: Option<Theirs>,
    candidates: Vec<Candidate>,
    learned: usize,
    plan: VecDeque<(Instant, Step)>,
    attempts: BTreeSet<AttemptId>,
}

#[derive(Debug)]
enum State {
    Off,
    Idle,
    Resting { next: Option<Instant> },
    Racing(Box<Race>),
    Connected,
}

/// How a round's end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Said,
    Both,
}

/// See the module's text.
#[derive(Debug)]
pub struct Negotiation {
    config: Config,
    rng: ChaCha20Rng,
    state: State,
    round: u32,
    end: End,
    token: [u8; 16],
    own: Vec<Candidate>,
    /// Those that were said in this round.
    said: Vec<Candidate>,
    gathered: bool,
    said_done: bool,
    dependent: bool,
    interfaces: Vec<Interface>,
    failures: usize,
    last_attempt: u32,
    out: VecDeque<Output>,
}

impl Negotiation {
    /// Does nothing before [`Self::start`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        let rng = config.seed.derive("probe tokens").rng();
        let state = if config.allowed { State::Idle } else { State::Off };
        Self {
            config,
            rng,
            state,
            round: 0,
            end: End::Both,
            token: [0; 16],
            own: Vec::new(),
            said: Vec::new(),
            gathered: false,
            said_done: false,
            dependent: false,
            interfaces: Vec::new(),
            failures: 0,
            last_attempt: 0,
            out: VecDeque::new(),
        }
    }

    /// Whether addresses may be revealed at all.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        matches!(self.state, State::Off)
    }

    /// Whether a direct link carries the session.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected)
    }

    /// Whether links of a round may come in.
    #[must_use]
    pub const fn is_racing(&self) -> bool {
        matches!(self.state, State::Racing(_))
    }

    /// The number of the present round, or of the last one.
    #[must_use]
    pub const fn round(&self) -> u32 {
        self.round
    }

    /// The session is keyed, on a link by way of the relay. `theirs`: the other side does not refuse.
    pub fn start(&mut self, now: Instant, theirs: bool) {
        match self.state {
            State::Off => {}
            _ if !theirs => self.state = State::Off,
            State::Idle => self.begin(now, self.round.saturating_add(1)),
            State::Resting { .. } | State::Racing(_) | State::Connected => {}
        }
    }

    /// The session has no link: what was said is void, on both sides.
    pub fn stop(&mut self) {
        match self.state {
            State::Off | State::Idle => return,
            State::Resting { .. } | State::Racing(_) | State::Connected => {}
        }
        self.state = State::Idle;
        self.end = End::Both;
        self.failures = 0;
        // What was not said yet is of no use any more.
        self.out.retain(|output| !matches!(output, Output::Say(_) | Output::Dial { .. } | Output::Probe { .. }));
        self.out.push_back(Output::Over);
    }

    /// What the runtime knows of this machine's addresses. Where they changed, another round is worth its while.
    pub fn handle_interfaces(&mut self, now: Instant, interfaces: &[Interface]) {
        if self.interfaces == interfaces {
            return;
        }
        self.interfaces = interfaces.to_vec();
        self.failures = 0;
        if let State::Resting { next } = &mut self.state {
            *next = Some(now);
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

    /// What the other side says.
    ///
    /// # Errors
    /// It can't be said now.
    pub fn handle_control(&mut self, now: Instant, message: &Control) -> Result<(), Violation> {
        match message {
            Control::CandidateOffer { round, candidates, certificate, token, dependent } => {
                if !self.join(now, *round)? {
                    return Ok(());
                }
                let theirs = Theirs { certificate: *certificate, token: *token, dependent: *dependent };
                self.race_for(now, theirs, candidates.as_slice());
            }
            Control::CandidatesDone { round } => self.known(*round)?,
            Control::DirectFailed { round } => {
                if *round == self.round.saturating_add(1) && !matches!(self.state, State::Off) {
                    // It began and gave up before we heard of it.
                    self.round = *round;
                    self.end = End::Open;
                }
                self.known(*round)?;
                if *round == self.round {
                    self.handle_failed(now);
                }
            }
            Control::DirectConnected { round } => {
                self.known(*round)?;
                if self.config.side == Side::Sender {
                    return Err(Violation::UnexpectedMessage);
                }
                if *round == self.round && self.is_racing() {
                    self.connected();
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
        let State::Racing(race) = &mut self.state else { return true };
        if !is_ours || self.config.side != Side::Sender || race.learned >= MAX_LEARNED {
            return true;
        }
        let learned = Candidate { kind: Kind::Reflexive, carrier: Carrier::Udp, addr: candidate::canonical(from) };
        let is_known =
            race.candidates.iter().any(|known| (known.carrier, known.addr) == (learned.carrier, learned.addr));
        if !is_known && let Some(&learned) = candidate::admit(&[learned], &self.interfaces).first() {
            race.learned = race.learned.saturating_add(1);
            race.candidates.push(learned);
            race.plan.push_front((now, Step::Dial(learned)));
            self.go_on(now);
        }
        true
    }

    /// An attempt came to nothing.
    pub fn handle_attempt_failed(&mut self, attempt: AttemptId) {
        if let State::Racing(race) = &mut self.state {
            race.attempts.remove(&attempt);
        }
    }

    /// The sender chose a link of this round.
    pub fn choose(&mut self) {
        if self.is_racing() {
            self.out.push_back(Output::Say(Control::DirectConnected { round: self.round }));
            self.connected();
        }
    }

    /// The last direct link is gone.
    pub fn handle_lost(&mut self, now: Instant) {
        if self.is_connected() {
            self.failures = 0;
            self.give_up(now, SOON);
        }
    }

    /// A deadline may have passed. A spurious call is a no-op.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &self.state {
            // Not before both know that the last one is over: what was lost with it could not be told from what is lost later.
            State::Resting { next: Some(next) } if *next <= now && self.end == End::Both => {
                self.begin(now, self.round.saturating_add(1));
            }
            State::Racing(race) if race.until <= now => {
                self.out.push_back(Output::NoPath);
                let pause = self.pause();
                self.give_up(now, pause);
            }
            State::Racing(_) => self.go_on(now),
            State::Off | State::Idle | State::Resting { .. } | State::Connected => {}
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Resting { next } => next.filter(|_| self.end == End::Both),
            // A probe may outrun the offer that the plan waits for.
            State::Racing(race) if race.theirs.is_none() => Some(race.until),
            State::Racing(race) => race.plan.iter().map(|&(at, _)| at).chain([race.until]).min(),
            State::Off | State::Idle | State::Connected => None,
        }
    }

    /// The next thing to do.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// The other side's round, if it is one that goes on here: it is joined if it is new. False: it is over.
    fn join(&mut self, now: Instant, round: u32) -> Result<bool, Violation> {
        match &self.state {
            // Both sides said that they take part, or this could not come.
            State::Off => return Err(Violation::UnexpectedMessage),
            State::Idle => return Ok(false),
            State::Resting { .. } | State::Racing(_) | State::Connected => {}
        }
        if round == self.round.saturating_add(1) {
            if !matches!(self.state, State::Resting { .. }) {
                self.out.push_back(Output::Over);
            }
            // It goes on, so it knows that the last one is over.
            if self.end == End::Said {
                self.settle();
            }
            self.begin(now, round);
            return Ok(true);
        }
        self.known(round)?;
        Ok(round == self.round && self.is_racing())
    }

    fn known(&self, round: u32) -> Result<(), Violation> {
        let is_off = matches!(self.state, State::Off);
        if is_off || round == 0 || round > self.round { Err(Violation::UnexpectedMessage) } else { Ok(()) }
    }

    fn begin(&mut self, now: Instant, round: u32) {
        self.round = round;
        self.end = End::Open;
        self.rng.fill_bytes(&mut self.token);
        self.said.clear();
        self.said_done = false;
        self.state = State::Racing(Box::new(Race {
            until: now + ROUND,
            theirs: None,
            candidates: Vec::new(),
            learned: 0,
            plan: VecDeque::new(),
            attempts: BTreeSet::new(),
        }));
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
        if !self.is_racing() {
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

    fn race_for(&mut self, now: Instant, theirs: Theirs, candidates: &[Candidate]) {
        let (side, dependent) = (self.config.side, self.dependent);
        let State::Racing(race) = &mut self.state else { return };
        let admitted = candidate::admit_beside(&race.candidates, candidates, &self.interfaces);
        race.theirs = Some(theirs);
        let mut at = now;
        for candidate in admitted {
            // Neither NAT would know the mapping that the other one makes for it.
            let is_hopeless = candidate.kind == Kind::Reflexive && dependent && theirs.dependent;
            if is_hopeless {
                continue;
            }
            race.candidates.push(candidate);
            match (candidate.carrier, side) {
                (Carrier::Tcp, _) | (Carrier::Udp, Side::Sender) => race.plan.push_back((at, Step::Dial(candidate))),
                (Carrier::Udp, Side::Receiver) => {
                    let probes = PROBES_AT.map(|after| (at + after, Step::Probe(candidate.addr)));
                    race.plan.extend(probes);
                }
            }
            at += STAGGER;
        }
        self.go_on(now);
    }

    /// Does what is due.
    fn go_on(&mut self, now: Instant) {
        let State::Racing(race) = &mut self.state else { return };
        let Some(theirs) = race.theirs else { return };
        let mut due: Vec<(Instant, Step)> = Vec::new();
        race.plan.retain(|&(at, step)| {
            let is_due = at <= now;
            if is_due {
                due.push((at, step));
            }
            !is_due
        });
        due.sort_by_key(|&(at, _)| at);
        for (_, step) in due {
            match step {
                Step::Dial(Candidate { carrier, addr: to, .. }) => {
                    self.last_attempt = self.last_attempt.wrapping_add(1);
                    let attempt = AttemptId(self.last_attempt);
                    race.attempts.insert(attempt);
                    let certificate = theirs.certificate;
                    self.out.push_back(Output::Dial { attempt, carrier, to, certificate });
                }
                Step::Probe(to) => {
                    let mut datagram = [0; PROBE];
                    let (start, token) = datagram.split_at_mut(PROBE_START.len());
                    start.copy_from_slice(&PROBE_START);
                    token.copy_from_slice(&theirs.token);
                    self.out.push_back(Output::Probe { to, datagram });
                }
            }
        }
    }

    fn connected(&mut self) {
        self.failures = 0;
        self.state = State::Connected;
        self.out.push_back(Output::Chosen);
    }

    /// The other side says that it is over.
    fn handle_failed(&mut self, now: Instant) {
        match self.end {
            End::Open => {
                let pause = if self.is_connected() { SOON } else { self.pause() };
                if self.is_racing() {
                    self.out.push_back(Output::NoPath);
                }
                self.give_up(now, pause);
                self.settle();
            }
            End::Said => self.settle(),
            End::Both => {}
        }
    }

    fn settle(&mut self) {
        self.end = End::Both;
        self.out.push_back(Output::Settled);
    }

    /// What the next pause is, and counts that it is needed.
    fn pause(&mut self) -> Duration {
        let pause = PAUSES.get(self.failures).or(PAUSES.last()).copied().unwrap_or(ROUND);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    fn give_up(&mut self, now: Instant, pause: Duration) {
        // In this order: who hears of it may count on it that nothing counts any more here.
        self.out.push_back(Output::Over);
        self.out.push_back(Output::Say(Control::DirectFailed { round: self.round }));
        self.end = End::Said;
        let next = (self.config.side == Side::Sender).then(|| now + pause);
        self.state = State::Resting { next };
    }
}

#[cfg(test)]
#[path = "negotiate_tests.rs"]
mod tests;
