use std::net::IpAddr;

use super::super::race::PROBE_START;
use super::*;
use crate::p2p::candidate::{CandidateTransport, Kind};
use crate::p2p::output::PROBE;
use crate::p2p::race::{MAX_LEARNED, PROBES_AT};

fn interface(addr: &str, prefix: u8) -> Interface {
    Interface { name: "eth0".to_owned(), addr: addr.parse().unwrap(), prefix }
}

fn candidate(kind: Kind, transport: CandidateTransport, addr: &str) -> Candidate {
    Candidate { kind, transport, addr: addr.parse().unwrap() }
}

fn machine(role: Role, now: Instant) -> Negotiation {
    let number = match role {
        Role::Sender => 1,
        Role::Receiver => 2,
    };
    let config = Config { role, allowed: true, certificate: [number; 32], seed: Seed::new([number; 32]), slot: None };
    let mut machine = Negotiation::new(config);
    machine.handle_interfaces(now, &[interface("192.168.1.10", 24)]);
    machine
}

/// Two negotiations whose messages arrive at once, and their other outputs.
struct Pair {
    now: Instant,
    ends: [Negotiation; 2],
    done: [Vec<Output>; 2],
    /// The messages that were sent, with their senders.
    said: Vec<(usize, Control)>,
}

const SENDER: usize = 0;
const RECEIVER: usize = 1;

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let ends = [machine(Role::Sender, now), machine(Role::Receiver, now)];
        Self { now, ends, done: [Vec::new(), Vec::new()], said: Vec::new() }
    }

    fn started() -> Self {
        let mut pair = Self::new();
        pair.ends.iter_mut().for_each(|end| end.start(pair.now, true));
        pair.settle();
        pair
    }

    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for from in [SENDER, RECEIVER] {
                while let Some(output) = self.ends[from].poll_output() {
                    moved = true;
                    match output {
                        Output::Send(control) => {
                            self.said.push((from, control.clone()));
                            self.ends[1 - from].handle_control(self.now, &control).unwrap();
                        }
                        other => self.done[from].push(other),
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some(at) = self.ends.iter().filter_map(Negotiation::poll_timeout).min().filter(|&at| at <= until) {
            self.now = self.now.max(at);
            self.ends.iter_mut().for_each(|end| end.handle_timeout(self.now));
            self.settle();
        }
        self.now = until;
    }

    fn dials(&self, of: usize) -> Vec<SocketAddr> {
        let dialled = self.done[of].iter().filter_map(|output| match output {
            Output::Dial { to, .. } => Some(*to),
            _ => None,
        });
        dialled.collect()
    }

    fn probes(&self, of: usize) -> Vec<(SocketAddr, [u8; PROBE])> {
        let sent = self.done[of].iter().filter_map(|output| match output {
            Output::Probe { to, datagram } => Some((*to, *datagram)),
            _ => None,
        });
        sent.collect()
    }

    /// The sender selects a link of the race.
    fn choose(&mut self) {
        self.ends[SENDER].choose(self.now);
        self.settle();
    }

    fn paths(&self) -> [Option<u32>; 2] {
        [SENDER, RECEIVER].map(|role| self.ends[role].path())
    }

    fn count(&self, of: usize, what: &Output) -> usize {
        self.done[of].iter().filter(|output| *output == what).count()
    }

    fn rounds(&self, of: usize) -> Vec<u32> {
        let offers = self.said.iter().filter_map(|(from, control)| match control {
            Control::CandidateOffer { round, .. } if *from == of => Some(*round),
            _ => None,
        });
        offers.collect()
    }
}

fn over(round: u32) -> Output {
    Output::Over { round }
}

fn settled(round: u32) -> Output {
    Output::Settled { round }
}

fn chosen(round: u32) -> Output {
    Output::Chosen { round }
}

const A: &str = "198.51.100.7:40000";
const B: &str = "198.51.100.8:50000";

#[test]
fn the_sender_dials_and_the_receiver_probes_each_candidate() {
    let mut pair = Pair::started();
    pair.ends[SENDER].set_candidates(vec![candidate(Kind::Reflexive, CandidateTransport::Udp, A)]);
    pair.ends[RECEIVER].set_candidates(vec![candidate(Kind::Reflexive, CandidateTransport::Udp, B)]);
    pair.settle();
    pair.pass(Duration::from_secs(3));
    assert_eq!(pair.dials(SENDER), [B.parse().unwrap()]);
    assert_eq!(pair.dials(RECEIVER), []);
    let probes = pair.probes(RECEIVER);
    assert_eq!(probes.len(), PROBES_AT.len());
    assert!(probes.iter().all(|(to, _)| *to == A.parse().unwrap()));
    assert_eq!(pair.probes(SENDER), []);
    // The dialled side presents the certificate from its offer.
    assert!(matches!(pair.done[SENDER][0], Output::Dial { certificate: [2, ..], .. }));
}

#[test]
fn both_peers_dial_only_tcp_candidates_of_own_network() {
    let mut pair = Pair::started();
    let near = candidate(Kind::Host, CandidateTransport::Tcp, "192.168.1.20:40000");
    let far = candidate(Kind::Host, CandidateTransport::Tcp, "192.168.2.20:40000");
    for end in &mut pair.ends {
        end.set_candidates(vec![near, far]);
    }
    pair.settle();
    pair.pass(Duration::from_secs(1));
    for role in [SENDER, RECEIVER] {
        assert_eq!(pair.dials(role), [near.addr]);
    }
}

#[test]
fn candidates_are_sent_as_they_become_known_and_each_once() {
    let mut pair = Pair::started();
    let first = candidate(Kind::Host, CandidateTransport::Udp, "192.168.1.20:40000");
    let second = candidate(Kind::Reflexive, CandidateTransport::Udp, A);
    pair.ends[SENDER].set_candidates(vec![first]);
    pair.ends[SENDER].set_candidates(vec![first, second]);
    pair.ends[SENDER].set_gathered(true, false);
    pair.ends[SENDER].set_gathered(true, false);
    pair.settle();
    let offers: Vec<Vec<Candidate>> = pair
        .said
        .iter()
        .filter_map(|(from, control)| match control {
            Control::CandidateOffer { candidates, .. } if *from == SENDER => Some(candidates.as_slice().to_vec()),
            _ => None,
        })
        .collect();
    assert_eq!(offers, [vec![], vec![first], vec![second]]);
    let done = pair.said.iter().filter(|(_, control)| matches!(control, Control::CandidatesDone { .. })).count();
    assert_eq!(done, 1);
    // In the next round the candidates are sent again, at once.
    pair.pass(ROUND + PAUSES[0]);
    assert!(pair.said.iter().any(|(from, control)| *from == SENDER
        && matches!(
            control, Control::CandidateOffer { round: 2, candidates, .. } if candidates.as_slice().len() == 2
        )));
}

#[test]
fn only_valid_probe_adds_unknown_address() {
    let mut pair = Pair::started();
    pair.ends[SENDER].set_candidates(vec![candidate(Kind::Reflexive, CandidateTransport::Udp, A)]);
    pair.settle();
    let (_, probe) = pair.probes(RECEIVER)[0];
    let seen: SocketAddr = "198.51.100.8:61000".parse().unwrap();
    let now = pair.now;
    for wrong in [&probe[..19], b"hello", &[12; 20]] {
        pair.ends[SENDER].handle_probe(now, seen, wrong);
    }
    assert!(!pair.ends[SENDER].handle_probe(now, seen, b"hello") && pair.dials(SENDER).is_empty());
    // A receiver dials no UDP candidate, a denied address is not dialled, and the same address is dialled once.
    pair.ends[RECEIVER].handle_probe(now, seen, &probe);
    for denied in ["127.0.0.1:5000", "100.64.0.1:5000", "198.51.100.8:53", "224.0.0.1:5000"] {
        assert!(pair.ends[SENDER].handle_probe(now, denied.parse().unwrap(), &probe));
    }
    pair.settle();
    assert_eq!(pair.dials(SENDER), []);
    pair.ends[SENDER].handle_probe(now, seen, &probe);
    pair.ends[SENDER].handle_probe(now, seen, &probe);
    pair.settle();
    assert_eq!(pair.dials(SENDER), [seen]);
    for port in 2000..2100 {
        pair.ends[SENDER].handle_probe(now, SocketAddr::new(seen.ip(), port), &probe);
    }
    pair.settle();
    assert_eq!(pair.dials(SENDER).len(), MAX_LEARNED);
}

/// The direct path may be shorter than the path through the relay.
#[test]
fn probe_received_before_offer_is_kept_for_it() {
    let now = Instant::now();
    let mut sender = machine(Role::Sender, now);
    sender.start(now, true);
    let Some(Output::Send(Control::CandidateOffer { token, .. })) = sender.poll_output() else { panic!("no offer") };
    let seen: SocketAddr = "198.51.100.8:61000".parse().unwrap();
    assert!(sender.handle_probe(now, seen, &[&PROBE_START[..], &token].concat()));
    assert_eq!((sender.poll_output(), sender.poll_timeout()), (None, Some(now + ROUND)));
    let offer = Control::CandidateOffer {
        round: 1,
        candidates: BoundedVec::truncated(Vec::new()),
        certificate: [2; 32],
        token: [0; 16],
        dependent: false,
    };
    sender.handle_control(now, &offer).unwrap();
    assert!(matches!(sender.poll_output(), Some(Output::Dial { to, .. }) if to == seen));
}

#[test]
fn tokens_derive_from_seed_and_differ_per_round() {
    let tokens = |pair: &Pair| -> Vec<[u8; 16]> {
        let said = pair.said.iter().filter_map(|(from, control)| match control {
            Control::CandidateOffer { token, .. } if *from == SENDER => Some(*token),
            _ => None,
        });
        said.collect()
    };
    let run = || {
        let mut pair = Pair::started();
        pair.pass(ROUND + PAUSES[0]);
        tokens(&pair)
    };
    let (first, second) = (run(), run());
    assert_eq!(first, second);
    assert_eq!(first.len(), 2);
    assert_ne!(first[0], first[1]);
    assert_ne!(first[0], [0; 16]);
}

#[test]
fn pair_of_symmetric_nats_is_not_tried() {
    let mut pair = Pair::new();
    for end in &mut pair.ends {
        end.set_gathered(true, true);
    }
    pair.ends.iter_mut().for_each(|end| end.start(pair.now, true));
    pair.settle();
    let public = candidate(Kind::Host, CandidateTransport::Udp, "[2001:db8::1]:4000");
    pair.ends[SENDER].set_candidates(vec![candidate(Kind::Reflexive, CandidateTransport::Udp, A), public]);
    pair.ends[RECEIVER].set_candidates(vec![candidate(Kind::Reflexive, CandidateTransport::Udp, B), public]);
    pair.settle();
    pair.pass(Duration::from_secs(3));
    assert_eq!(pair.dials(SENDER), [public.addr]);
    assert!(pair.probes(RECEIVER).iter().all(|(to, _)| *to == public.addr));
}

#[test]
fn failed_round_ends_for_both_peers_and_is_retried() {
    let mut pair = Pair::started();
    pair.pass(ROUND - Duration::from_millis(1));
    assert_eq!(pair.done, [vec![], vec![]]);
    pair.pass(Duration::from_millis(1));
    let end = [Output::NoPath, over(1), settled(1)];
    assert_eq!(pair.done[SENDER], end);
    assert_eq!(pair.done[RECEIVER], end);
    for pause in PAUSES {
        let before = pair.rounds(SENDER).len();
        pair.pass(pause - Duration::from_millis(1));
        assert_eq!(pair.rounds(SENDER).len(), before);
        pair.pass(Duration::from_millis(1) + ROUND);
        assert_eq!(pair.rounds(SENDER).len(), before + 1);
    }
    assert_eq!(pair.rounds(SENDER), [1, 2, 3, 4, 5]);
    assert_eq!(pair.rounds(RECEIVER), [1, 2, 3, 4, 5]);
}

#[test]
fn chosen_path_ends_race_and_its_loss_ends_round() {
    let mut pair = Pair::started();
    pair.choose();
    assert_eq!(pair.paths(), [Some(1); 2]);
    assert_eq!(pair.done, [vec![chosen(1)], vec![chosen(1)]]);
    for (number, loser) in (1..).zip([SENDER, RECEIVER]) {
        pair.ends[loser].handle_lost(pair.now, number);
        pair.settle();
        for role in [SENDER, RECEIVER] {
            assert_eq!(pair.count(role, &over(number)), 1);
            assert_eq!(pair.count(role, &settled(number)), 1);
        }
        assert_eq!(pair.paths(), [None; 2]);
        pair.pass(SOON);
        assert_eq!(pair.rounds(RECEIVER), (1..=number + 1).collect::<Vec<_>>());
        pair.choose();
    }
    assert_eq!(pair.count(SENDER, &Output::NoPath), 0);
}

#[test]
fn next_round_waits_until_both_peers_ended_the_last() {
    let mut pair = Pair::started();
    pair.choose();
    let now = pair.now;
    let sender = &mut pair.ends[SENDER];
    sender.handle_lost(now, 1);
    // The peer's answer has not arrived yet.
    assert_eq!(sender.poll_timeout(), None);
    sender.handle_timeout(now + SOON * 10);
    sender.handle_interfaces(now + SOON * 10, &[interface("10.1.1.1", 24)]);
    let said: Vec<Output> = std::iter::from_fn(|| sender.poll_output()).collect();
    assert_eq!(said, [over(1), Output::Send(Control::DirectFailed { round: 1 })]);
    sender.handle_control(now, &Control::DirectFailed { round: 1 }).unwrap();
    assert_eq!(sender.poll_output(), Some(settled(1)));
    sender.handle_timeout(now + SOON * 10);
    assert!(matches!(sender.poll_output(), Some(Output::Send(Control::CandidateOffer { round: 2, .. }))));
}

#[test]
fn peers_may_lose_the_path_at_the_same_time() {
    let mut pair = Pair::started();
    pair.choose();
    let now = pair.now;
    pair.ends.iter_mut().for_each(|end| end.handle_lost(now, 1));
    pair.settle();
    for role in [SENDER, RECEIVER] {
        assert_eq!(pair.done[role], [chosen(1), over(1), settled(1)]);
    }
}

#[test]
fn better_path_is_searched_while_one_is_in_use() {
    let mut pair = Pair::started();
    pair.choose();
    pair.pass(RECHECK - Duration::from_millis(1));
    assert_eq!(pair.rounds(SENDER), [1]);
    pair.pass(Duration::from_millis(1));
    assert_eq!((pair.rounds(SENDER), pair.rounds(RECEIVER)), (vec![1, 2], vec![1, 2]));
    assert_eq!(pair.paths(), [Some(1); 2]);
    // No better path is found: the present path stays, and no failure is reported.
    pair.pass(ROUND);
    assert_eq!(pair.paths(), [Some(1); 2]);
    for role in [SENDER, RECEIVER] {
        assert_eq!(pair.done[role], [chosen(1), over(2), settled(2)]);
    }
    pair.pass(RECHECK);
    assert_eq!(pair.rounds(RECEIVER), [1, 2, 3]);
}

#[test]
fn an_abandoned_path_drains_until_nothing_is_in_flight() {
    let mut pair = Pair::started();
    pair.choose();
    pair.pass(RECHECK);
    pair.choose();
    assert_eq!(pair.paths(), [Some(2); 2]);
    for end in &pair.ends {
        assert_eq!(end.draining().collect::<Vec<_>>(), [1]);
    }
    pair.ends[SENDER].retire(pair.now, 1);
    pair.settle();
    for role in [SENDER, RECEIVER] {
        assert_eq!(pair.done[role], [chosen(1), chosen(2), over(1), settled(1)]);
        assert_eq!(pair.ends[role].draining().count(), 0);
    }
    assert_eq!(pair.paths(), [Some(2); 2]);
    // A round that has ended stays ended.
    pair.ends.iter_mut().for_each(|end| end.retire(pair.now, 1));
    pair.settle();
    assert_eq!(pair.done[SENDER].len(), 4);
}

#[test]
fn path_may_be_lost_during_search_for_another() {
    for loser in [SENDER, RECEIVER] {
        let mut pair = Pair::started();
        pair.choose();
        pair.pass(RECHECK);
        pair.ends[loser].handle_lost(pair.now, 1);
        pair.settle();
        assert_eq!(pair.paths(), [None; 2]);
        // The race continues, and restores a direct path.
        assert!(pair.ends.iter().all(|end| end.racing() == Some(2)));
        pair.choose();
        assert_eq!(pair.paths(), [Some(2); 2]);
        assert_eq!(pair.done[SENDER], [chosen(1), over(1), settled(1), chosen(2)]);
    }
}

#[test]
fn draining_path_may_be_lost() {
    for loser in [SENDER, RECEIVER] {
        let mut pair = Pair::started();
        pair.choose();
        pair.pass(RECHECK);
        pair.choose();
        pair.ends[loser].handle_lost(pair.now, 1);
        pair.settle();
        assert_eq!(pair.paths(), [Some(2); 2]);
        for role in [SENDER, RECEIVER] {
            assert_eq!(pair.done[role], [chosen(1), chosen(2), over(1), settled(1)]);
        }
    }
}

#[test]
fn receiver_reports_abandoned_race_to_sender() {
    let mut pair = Pair::started();
    pair.choose();
    pair.pass(RECHECK);
    // Both `DirectFailed` messages cross.
    let now = pair.now + ROUND;
    pair.ends[RECEIVER].handle_timeout(now);
    pair.ends[SENDER].choose(now);
    pair.settle();
    assert_eq!(pair.paths(), [None, Some(1)]);
    for role in [SENDER, RECEIVER] {
        assert_eq!((pair.count(role, &over(2)), pair.count(role, &settled(2))), (1, 1));
    }
    // The first round drains at the sender, and neither side has a direct path.
    pair.ends[SENDER].retire(now, 1);
    pair.settle();
    assert_eq!(pair.paths(), [None; 2]);
    pair.now = now;
    pair.pass(SOON);
    assert_eq!(pair.rounds(RECEIVER), [1, 2, 3]);
}

#[test]
fn rounds_that_the_peer_does_not_end_are_bounded() {
    let mut pair = Pair::started();
    let now = pair.now;
    let receiver = &mut pair.ends[RECEIVER];
    let offer = |round| Control::CandidateOffer {
        round,
        candidates: BoundedVec::truncated(Vec::new()),
        certificate: [1; 32],
        token: [0; 16],
        dependent: false,
    };
    let ended = (2..100).find(|&round| {
        receiver.handle_control(now, &Control::DirectConnected { round: round - 1 }).unwrap();
        receiver.handle_control(now, &offer(round)).is_err()
    });
    assert_eq!(ended, Some(u32::try_from(MAX_UNSETTLED).unwrap() + 1));
}

/// The peer reads no answer, and ends one round after the other.
#[test]
fn messages_that_need_an_answer_are_bounded() {
    let now = Instant::now();
    for agreed in [true, false] {
        let mut machine = machine(Role::Receiver, now);
        if agreed {
            machine.start(now, true);
        }
        let ended = (1..10_000).find(|&round| machine.handle_control(now, &Control::DirectFailed { round }).is_err());
        assert!(ended.is_some_and(|round| round > 200), "{ended:?}");
        assert!(std::iter::from_fn(|| machine.poll_output()).count() <= MAX_WAITING + 8);
    }
}

/// The verifier words: no address is sent before the user has compared them.
#[test]
fn a_peer_that_has_not_agreed_reveals_no_address() {
    for waits in [SENDER, RECEIVER] {
        let other = 1 - waits;
        let mut pair = Pair::new();
        for end in &mut pair.ends {
            end.set_candidates(vec![candidate(Kind::Reflexive, CandidateTransport::Udp, A)]);
        }
        pair.ends[other].start(pair.now, true);
        pair.settle();
        pair.pass(ROUND * 2);
        assert_eq!((pair.rounds(waits), pair.done[waits].len()), (vec![], 0));
        let begun = pair.rounds(other).len();
        pair.ends[waits].start(pair.now, true);
        pair.settle();
        assert_eq!(pair.ends[waits].racing(), pair.ends[other].racing());
        assert_eq!(pair.rounds(waits), [u32::try_from(begun).unwrap() + 1]);
        pair.choose();
        assert!(pair.paths()[SENDER].is_some() && pair.paths()[SENDER] == pair.paths()[RECEIVER]);
    }
}

#[test]
fn changed_address_of_either_peer_starts_round() {
    for mover in [SENDER, RECEIVER] {
        let mut pair = Pair::started();
        pair.pass(ROUND);
        let now = pair.now;
        pair.ends[mover].handle_interfaces(now, &[interface("10.1.1.1", 24)]);
        pair.settle();
        assert_eq!(pair.rounds(SENDER), [1, 2]);
        assert_eq!(pair.rounds(RECEIVER), [1, 2]);
        // This also works beside an active path, and after a race if the change occurred during it.
        pair.ends[mover].handle_interfaces(now, &[interface("10.1.1.2", 24)]);
        pair.choose();
        pair.pass(Duration::ZERO);
        assert_eq!((pair.paths(), pair.rounds(RECEIVER)), ([Some(2); 2], vec![1, 2, 3]));
    }
}

#[test]
fn k04_peer_sends_nothing_if_either_peer_has_p2p_off() {
    let now = Instant::now();
    let quiet = |mut machine: Negotiation| {
        machine.set_candidates(vec![candidate(Kind::Host, CandidateTransport::Udp, "192.168.1.10:4000")]);
        machine.set_gathered(true, false);
        machine.handle_interfaces(now, &[interface("10.1.1.1", 24)]);
        machine.handle_timeout(now + Duration::from_secs(1000));
        let offer = Control::CandidateOffer {
            round: 1,
            candidates: BoundedVec::truncated(vec![candidate(Kind::Host, CandidateTransport::Udp, B)]),
            certificate: [0; 32],
            token: [0; 16],
            dependent: false,
        };
        for message in [
            offer,
            Control::CandidatesDone { round: 1 },
            Control::DirectConnected { round: 1 },
            Control::DirectFailed { round: 1 },
        ] {
            assert_eq!(machine.handle_control(now, &message), Ok(()));
        }
        machine.choose(now);
        machine.handle_lost(now, 1);
        assert_eq!(machine.poll_output(), None);
        assert_eq!(machine.poll_timeout(), None);
        assert!(machine.is_off());
    };
    let config =
        Config { role: Role::Sender, allowed: false, certificate: [0; 32], seed: Seed::new([0; 32]), slot: None };
    let mut off = Negotiation::new(config);
    off.start(now, true);
    quiet(off);
    let mut refused = machine(Role::Sender, now);
    refused.start(now, false);
    quiet(refused);
}

#[test]
fn unexpected_messages_are_a_violation() {
    let failed = |round| Control::DirectFailed { round };
    let connected = |round| Control::DirectConnected { round };
    let mut pair = Pair::started();
    let now = pair.now;
    for (role, message) in [
        (RECEIVER, failed(3)),
        (RECEIVER, connected(2)),
        (SENDER, connected(1)),
        (SENDER, Control::CandidatesDone { round: 0 }),
        (SENDER, Control::Bye),
    ] {
        let said = pair.ends[role].handle_control(now, &message);
        assert_eq!(said, Err(Violation::UnexpectedMessage), "{message:?}");
    }
}

#[test]
fn session_without_links_abandons_round_for_new_one() {
    let mut pair = Pair::started();
    pair.choose();
    pair.done.iter_mut().for_each(Vec::clear);
    for end in &mut pair.ends {
        end.stop();
        assert_eq!(end.poll_timeout(), None);
    }
    pair.settle();
    assert_eq!(pair.done, [vec![], vec![]]);
    let now = pair.now;
    pair.ends.iter_mut().for_each(|end| end.start(now, true));
    pair.settle();
    assert_eq!((pair.rounds(SENDER), pair.rounds(RECEIVER)), (vec![1, 2], vec![1, 2]));
}

#[test]
fn k02_the_number_of_dials_is_bounded_for_any_offer() {
    let mut pair = Pair::started();
    let now = pair.now;
    for block in 0..100_u8 {
        let candidates = (0..16_u16)
            .map(|n| {
                let addr = SocketAddr::new(IpAddr::from([198, 51, block, n as u8]), 3000);
                Candidate { kind: Kind::Reflexive, transport: CandidateTransport::Udp, addr }
            })
            .collect();
        let offer = Control::CandidateOffer {
            round: 1,
            candidates: BoundedVec::truncated(candidates),
            certificate: [0; 32],
            token: [0; 16],
            dependent: false,
        };
        pair.ends[SENDER].handle_control(now, &offer).unwrap();
        pair.ends[RECEIVER].handle_control(now, &offer).unwrap();
    }
    pair.settle();
    pair.pass(Duration::from_secs(5));
    assert_eq!(pair.dials(SENDER).len(), candidate::MAX);
    assert_eq!(pair.probes(RECEIVER).len(), candidate::MAX * PROBES_AT.len());
}

#[test]
fn k02_repeated_offers_do_not_add_dials_to_one_host() {
    for transport in [CandidateTransport::Udp, CandidateTransport::Tcp] {
        let mut pair = Pair::started();
        let now = pair.now;
        for port in 3000..3064 {
            let addr = SocketAddr::new(IpAddr::from([192, 168, 1, 99]), port);
            let offer = Control::CandidateOffer {
                round: 1,
                candidates: BoundedVec::truncated(vec![Candidate { kind: Kind::Host, transport, addr }]),
                certificate: [0; 32],
                token: [0; 16],
                dependent: false,
            };
            pair.ends[SENDER].handle_control(now, &offer).unwrap();
        }
        pair.settle();
        pair.pass(Duration::from_secs(5));
        assert_eq!(pair.dials(SENDER).len(), 4, "{transport:?}");
    }
}
