//! Two peers driven by hand, where the order of what happens at one moment matters; and the last words of a transfer,
//! how long a receiver that has everything waits for them.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tallow_proto::code::Code;
use tallow_proto::link::race::{Allowed, Transport};
use tallow_proto::net::{Action, Arrival, Ecn, Interface, ListenerId, SocketId, TcpEvent, TcpId};
use tallow_proto::node::{Input, Node};
use tallow_proto::peer::{
    Command, Common, DirectPath, Embedded, Event, Failure, Lost, Machine, Peer, ReceiveConfig, SendConfig, WaitingFor,
};
use tallow_proto::seed::Seed;
use tallow_proto::transfer::memory::{MemorySink, MemorySource};
use tallow_proto::transfer::path::RelPath;
use tallow_tests::sim::{Act, CODE, Conditions, Place, Rig, Scenario, World, identity};

const SENDER: usize = 0;
const RECEIVER: usize = 1;
const IPS: [&str; 2] = ["192.168.7.1", "192.168.7.2"];

/// Destination, source, bytes.
type Flight = (SocketAddr, SocketAddr, Vec<u8>);

struct End {
    peer: Peer,
    ip: IpAddr,
    sockets: Vec<(SocketId, u16)>,
    listener: Option<(ListenerId, u16)>,
    tcp_links: Vec<TcpId>,
    last_port: u16,
    done: bool,
    upgraded: Option<Duration>,
}

impl End {
    fn new(peer: Peer, which: usize) -> Self {
        let last_port = [20_000, 30_000][which];
        let ip = IPS[which].parse().unwrap();
        Self {
            peer,
            ip,
            sockets: Vec::new(),
            listener: None,
            tcp_links: Vec::new(),
            last_port,
            done: false,
            upgraded: None,
        }
    }

    fn bind(&mut self, wanted: SocketAddr) -> SocketAddr {
        self.last_port += 1;
        SocketAddr::new(wanted.ip(), if wanted.port() == 0 { self.last_port } else { wanted.port() })
    }

    fn take(&mut self, now: Instant, (to, from, data): Flight) {
        let Some(&(socket, _)) = self.sockets.iter().find(|(_, port)| *port == to.port()) else { return };
        let arrival = Arrival { socket, from, local_ip: Some(to.ip()), ecn: Ecn::NotEct };
        self.peer.handle_datagram(now, arrival, data[..].into());
    }
}

/// What becomes of TCP connections between the two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tcp {
    /// They connect, but transfer no data.
    Up,
    /// They are refused at once.
    Refused,
    /// Packets to it are not answered.
    Unanswered,
}

/// Two peers in one network without latency, one of them with a relay inside.
struct Two {
    tcp: Tcp,
    /// Whether datagrams pass on the direct path.
    direct: bool,
    now: Instant,
    ends: [End; 2],
    air: VecDeque<Flight>,
}

impl Two {
    fn new(tcp: Tcp, direct: bool) -> Self {
        let now = Instant::now();
        let passes = direct;
        let direct = DirectPath::new(identity()).without_port_mapping();
        let unix_time = Duration::from_secs(1_800_000_000);
        let common = || Common::new(Machine { cores: 1, interfaces: Vec::new(), unix_time, aes: true });
        let relay = SocketAddr::new(IPS[SENDER].parse().unwrap(), 4433);
        let source = MemorySource::new().with_file(RelPath::parse("a").unwrap(), vec![7; 1000]);
        let code = Code::custom(CODE).unwrap();
        let send = SendConfig::new(common(), Arc::new(source))
            .with_code(code.clone())
            .with_embedded(Embedded::new(identity()).listening_at(vec![relay]))
            .with_direct_path(direct.clone());
        let mut receive = ReceiveConfig::new(common(), code).with_direct_path(direct);
        (receive.local, receive.discover) = (vec![relay], false);
        let sender = End::new(Peer::sender(send, now, Seed::new([1; 32])), SENDER);
        let receiver = End::new(Peer::receiver(receive, now, Seed::new([2; 32])), RECEIVER);
        let mut two = Self { tcp, direct: passes, now, ends: [sender, receiver], air: VecDeque::new() };
        for end in &mut two.ends {
            let interface = Interface { name: "eth0".into(), addr: end.ip, prefix: 24 };
            end.peer.handle_input(now, Input::Interfaces(vec![interface]));
        }
        two
    }

    fn act(&mut self, which: usize, action: Action) {
        let now = self.now;
        match action {
            Action::Bind(id, bind) if bind.addr.is_ipv4() && bind.group.is_none() => {
                let end = &mut self.ends[which];
                let local = end.bind(bind.addr);
                end.sockets.push((id, local.port()));
                end.peer.handle_input(now, Input::Bound(id, Ok(local)));
            }
            Action::Bind(id, _) => {
                let failed = Input::Bound(id, Err(std::io::ErrorKind::AddrNotAvailable));
                self.ends[which].peer.handle_input(now, failed);
            }
            Action::Listen(id, listen) => {
                let end = &mut self.ends[which];
                let local = end.bind(listen.addr);
                end.listener = Some((id, local.port()));
                end.peer.handle_input(now, Input::Listening(id, Ok(local)));
            }
            Action::Dial(tcp, _) if self.tcp == Tcp::Refused => {
                let refused = TcpEvent::Failed(std::io::ErrorKind::ConnectionRefused);
                self.ends[which].peer.handle_tcp(now, tcp, refused);
            }
            Action::Dial(..) if self.tcp == Tcp::Unanswered => {}
            Action::Dial(tcp, dial) => {
                let from = SocketAddr::new(self.ends[which].ip, 1);
                let other = &mut self.ends[1 - which];
                let there = other.listener.filter(|&(_, port)| dial.to == SocketAddr::new(other.ip, port));
                if there.is_some_and(|(listener, _)| other.peer.handle_accept(now, listener, from).is_some()) {
                    self.ends[which].peer.handle_tcp(now, tcp, TcpEvent::Up);
                    self.ends[which].tcp_links.push(tcp);
                }
            }
            _ => {}
        }
    }

    /// Processes all outputs of one end.
    fn turn(&mut self, which: usize) {
        let now = self.now;
        loop {
            self.ends[which].peer.settle(now);
            let mut moved = false;
            while let Some(action) = self.ends[which].peer.poll_action() {
                moved = true;
                self.act(which, action);
            }
            let (end, mut buf) = (&mut self.ends[which], Vec::new());
            for (id, port) in end.sockets.clone() {
                while let Some(sent) = end.peer.poll_transmit(now, id, NonZeroUsize::MIN, &mut buf) {
                    moved = true;
                    if id.0 < 4 || self.direct {
                        self.air.push_back((sent.to, SocketAddr::new(end.ip, port), buf[..sent.size].to_vec()));
                    }
                    buf.clear();
                }
            }
            while let Some(job) = end.peer.poll_job() {
                moved = true;
                end.peer.handle_input(now, Input::Done(job.run(&AtomicBool::new(false))));
            }
            while let Some(event) = end.peer.poll_event() {
                moved = true;
                // Where the direct path is what matters, the transfer is not to be over before.
                if matches!(event, Event::Offer(_)) && !self.direct {
                    end.peer.handle_command(now, Command::Accept(Arc::new(MemorySink::new()))).unwrap();
                }
                end.done |= matches!(event, Event::Done(_));
                if let Event::Upgraded { after, .. } = event {
                    end.upgraded = Some(after);
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Something arrives, or time passes.
    fn go_on(&mut self) {
        if let Some(flight) = self.air.pop_front() {
            self.now += Duration::from_micros(50);
            if let Some(end) = self.ends.iter_mut().find(|end| end.ip == flight.0.ip()) {
                end.take(self.now, flight);
            }
        } else if let Some((at, _)) = self.ends.iter().filter_map(|end| end.peer.poll_timeout()).min() {
            self.now = self.now.max(at);
        }
        for end in &mut self.ends {
            end.peer.handle_timeout(self.now);
        }
    }

    /// How long after the keys the sender moves to the direct path.
    fn upgrades_after(&mut self) -> Duration {
        let limit = self.now + Duration::from_secs(60);
        while self.now < limit {
            self.turn(SENDER);
            self.turn(RECEIVER);
            if let Some(after) = self.ends[SENDER].upgraded {
                return after;
            }
            self.go_on();
        }
        panic!("no direct path");
    }

    /// How long the receiver stays after it has everything. In the batch that brings the sender word of that, its TCP
    /// connections are reset.
    fn stays(&mut self) -> Duration {
        let limit = self.now + Duration::from_secs(2000);
        let mut done_at = None;
        while self.now < limit {
            self.turn(SENDER);
            self.turn(RECEIVER);
            let sender_ip = self.ends[SENDER].ip;
            if self.ends[RECEIVER].done && done_at.is_none() {
                done_at = Some(self.now);
                let (to_sender, others) =
                    std::mem::take(&mut self.air).into_iter().partition(|it| it.0.ip() == sender_ip);
                self.air = others;
                for flight in <VecDeque<Flight>>::into_iter(to_sender) {
                    self.ends[SENDER].take(self.now, flight);
                }
                let tcp_links = self.ends[SENDER].tcp_links.clone();
                assert!(!tcp_links.is_empty(), "a TCP connection is there to be reset");
                for tcp in tcp_links {
                    let reset = TcpEvent::Failed(std::io::ErrorKind::ConnectionReset);
                    self.ends[SENDER].peer.handle_tcp(self.now, tcp, reset);
                }
            } else {
                self.go_on();
            }
            if let Some(at) = done_at
                && self.ends[RECEIVER].peer.is_closed()
            {
                return self.now - at;
            }
        }
        panic!("the receiver stays for ever");
    }
}

#[test]
fn link_closed_with_last_message_loses_no_final_message() {
    let stays = Two::new(Tcp::Up, false).stays();
    assert!(stays <= Duration::from_secs(2), "{stays:?}");
}

#[test]
fn the_time_to_a_direct_path_does_not_depend_on_closed_ports() {
    let [refused, unanswered] = [Tcp::Refused, Tcp::Unanswered].map(|tcp| Two::new(tcp, true).upgrades_after());
    assert_eq!(refused, unanswered);
}

/// A receiver with an offer.
fn offered(scenario: &Scenario, change: impl FnOnce(&mut SendConfig, &mut ReceiveConfig)) -> Rig {
    let mut rig = Rig::with(scenario, tallow_tests::sim::Policy::Proper, tallow_tests::sim::honest(), change);
    let receiver = rig.receiver;
    let offered =
        |world: &mut tallow_tests::sim::World| world.said(receiver).any(|event| matches!(event, Event::Offer(_)));
    assert!(rig.world.run_until(Duration::from_secs(60), offered));
    rig
}

/// A receiver that has just put everything in place.
fn complete(seed: u64, place: Place, change: impl FnOnce(&mut SendConfig, &mut ReceiveConfig)) -> Rig {
    let mut rig = offered(&Scenario { place, give_up_after: None, ..Scenario::plain(seed, 100_000) }, change);
    let receiver = rig.receiver;
    rig.accept();
    assert!(rig.world.run_until(Duration::from_secs(60), |world| world.end(receiver).is_some()));
    rig
}

/// The same, in a network in which nothing gets through any more.
fn cut_off(seed: u64, place: Place) -> Rig {
    let mut rig = complete(seed, place, |_, _| {});
    let before = rig.world.network.default_conditions();
    rig.world.network.set_default(Conditions { cut: true, ..before });
    rig
}

/// How long a receiver stays for its sender after its success.
const STAYS: Duration = Duration::from_secs(20);

/// How a sender ends without its confirmation: the receiver is gone, which is told apart from a transfer whose data is
/// missing. `is_reachable`: the sender reaches the relay.
fn is_unconfirmed(rig: &mut Rig, is_reachable: bool) {
    let sender = rig.sender;
    let waits =
        |world: &mut World| world.said(sender).any(|event| matches!(event, Event::Waiting(WaitingFor::Confirmation)));
    // The last acknowledgements were lost as well: 12 hours.
    let ended = rig.world.run_until(Duration::from_secs(12 * 3600 + 16), |world| world.end(sender).is_some());
    assert!(ended && (!is_reachable || waits(&mut rig.world)), "{}", rig.told());
    let end = rig.world.end(sender);
    assert!(matches!(end, Some(Event::Failed(Failure::Lost(Lost::Unconfirmed)))), "{end:?}");
}

#[test]
fn lost_final_message_is_awaited_for_seconds() {
    for (seed, place) in [(1, Place::Relay), (2, Place::Inside)] {
        let mut rig = cut_off(seed, place);
        let receiver = rig.receiver;
        assert!(matches!(rig.world.end(receiver), Some(Event::Done(_))), "the outcome does not wait");
        rig.world.run_until(STAYS - Duration::from_secs(1), |_| false);
        assert!(!rig.world.is_closed(receiver), "the sender may come back");
        assert!(rig.world.run_until(Duration::from_secs(2), |world| world.is_closed(receiver)), "{}", rig.told());
        if place == Place::Relay {
            is_unconfirmed(&mut rig, false);
        }
    }
}

/// The sender's process is killed when everything is in place: its link ends at once or falls silent, and its last
/// message never comes.
#[test]
fn f05_receiver_outlives_killed_sender_for_seconds() {
    let tcp = Allowed::Only(Transport::Tls);
    for (seed, place, transport) in
        [(1, Place::Relay, Allowed::Auto), (2, Place::Inside, Allowed::Auto), (3, Place::Relay, tcp)]
    {
        let change = |send: &mut SendConfig, receive: &mut ReceiveConfig| {
            (send.common.transport, receive.common.transport) = (transport, transport);
        };
        let mut rig = complete(seed, place, change);
        let (sender, receiver) = (rig.sender, rig.receiver);
        rig.world.crash(sender);
        assert!(rig.world.run_until(STAYS + Duration::from_secs(2), |world| world.is_closed(receiver)));
        assert!(matches!(rig.world.end(receiver), Some(Event::Done(_))));
    }
}

/// The relay is gone when everything is in place, together with all links. A sender that comes back meanwhile gets its
/// confirmation, and one that comes later is told that there is none.
#[test]
fn f05_sender_is_confirmed_if_it_returns_in_time() {
    for away in [0, 3, 10, 40, 300] {
        let mut rig = complete(away, Place::Relay, |_, _| {});
        let (sender, receiver) = (rig.sender, rig.receiver);
        rig.crash_relay();
        rig.world.run_until(Duration::from_secs(away), |_| false);
        rig.restart_relay();
        let is_late = away > STAYS.as_secs();
        assert_eq!(rig.world.is_closed(receiver), is_late, "{away}");
        if is_late {
            is_unconfirmed(&mut rig, true);
        } else {
            let closed = |world: &mut World| world.is_closed(sender) && world.is_closed(receiver);
            assert!(rig.world.run_until(STAYS, closed), "{}", rig.told());
            assert!(rig.report().is_done(), "{}", rig.told());
        }
        assert!(matches!(rig.world.end(receiver), Some(Event::Done(_))));
    }
}

#[test]
fn cancelled_receiver_waits_a_second_for_final_message() {
    for (seed, place) in [(3, Place::Relay), (4, Place::Inside)] {
        for after in [0, 16] {
            let mut rig = cut_off(seed, place);
            let receiver = rig.receiver;
            rig.world.run_until(Duration::from_secs(after), |_| false);
            assert!(!rig.world.is_closed(receiver));
            rig.world.command(receiver, Command::Cancel);
            let gone = rig.world.run_until(Duration::from_millis(1_100), |world| world.is_closed(receiver));
            assert!(gone, "{after} s after the end");
        }
    }
}

#[test]
fn transfer_without_faults_ends_soon_on_both_peers() {
    let mut rig =
        Rig::new(&Scenario::plain(5, 100_000), tallow_tests::sim::Policy::Proper, tallow_tests::sim::honest());
    rig.play(Act::None);
    assert!(rig.report().is_done());
    assert!(rig.world.elapsed() < Duration::from_secs(3), "{:?}", rig.world.elapsed());
}
