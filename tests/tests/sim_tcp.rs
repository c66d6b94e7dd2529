//! The simulator's TCP, and what befalls a host: cuts, crashes, sleep, another address.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tallow_proto::misuse::Misuse;
use tallow_proto::net::{Action, Arrival, Bind, Dial, Ecn, Listen, ListenerId, SocketId, TcpEvent, TcpId, Transmit};
use tallow_proto::node::{Input, Node};
use tallow_proto::seed::Seed;
use tallow_proto::transfer::job::Job;
use tallow_tests::sim::{
    Attachment, Behaviour, Conditions, Dependence, HostId, Machine, Network, Observed, PUBLIC, Segment, Site, Tally,
    World,
};

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1)), 443);
const CLIENT: [u8; 4] = [192, 0, 2, 1];
const BUFFER: usize = 10_000;
const SECOND: Duration = Duration::from_secs(1);

/// Echoes received bytes, sends the number of bytes it is told to, and reports what happens.
struct Talker {
    actions: VecDeque<Action>,
    said: VecDeque<String>,
    tcp_links: BTreeMap<TcpId, Talk>,
    touched: VecDeque<TcpId>,
    next: u32,
    /// Sends a datagram and a byte into each TCP connection so often.
    chatter: Option<(Duration, Instant)>,
    pings: usize,
    pings_to: SocketAddr,
    /// Where it dials again when a TCP connection has failed.
    again: Option<SocketAddr>,
}

impl Default for Talker {
    fn default() -> Self {
        Self {
            actions: VecDeque::new(),
            said: VecDeque::new(),
            tcp_links: BTreeMap::new(),
            touched: VecDeque::new(),
            next: 0,
            chatter: None,
            pings: 0,
            pings_to: SERVER,
            again: None,
        }
    }
}

struct Talk {
    echoes: bool,
    to_send: usize,
    finish: bool,
    sent: usize,
    got: usize,
    /// An echo's bytes that wait.
    held: Vec<u8>,
    buffer: Vec<u8>,
}

fn pattern(at: usize) -> u8 {
    (at % 251) as u8
}

impl Talk {
    fn new(echoes: bool, to_send: usize, finish: bool) -> Self {
        Self { echoes, to_send, finish, sent: 0, got: 0, held: Vec::new(), buffer: Vec::new() }
    }
}

impl Talker {
    fn server() -> Box<Self> {
        let mut server = Self::default();
        let any = SocketAddr::new([0, 0, 0, 0].into(), SERVER.port());
        server.actions.push_back(Action::Listen(ListenerId(0), Listen::from(any)));
        server.actions.push_back(Action::Bind(
            SocketId(0),
            Bind { addr: any, dual_stack: true, share_port: false, group: None, slot: None },
        ));
        Box::new(server)
    }

    fn client(to: SocketAddr, bytes: usize, finish: bool) -> Box<Self> {
        let mut client = Self::default();
        client.dial(to, bytes, finish);
        Box::new(client)
    }

    fn chatterbox(every: Duration, now: Instant) -> Box<Self> {
        let mut client = Self::client(SERVER, 0, false);
        let any = SocketAddr::new([0, 0, 0, 0].into(), 0);
        client.actions.push_back(Action::Bind(
            SocketId(0),
            Bind { addr: any, dual_stack: true, share_port: false, group: None, slot: None },
        ));
        client.chatter = Some((every, now + every));
        client.again = Some(SERVER);
        client
    }

    /// Sends a datagram to that address every second, and nothing else.
    fn pinger(to: SocketAddr, now: Instant) -> Box<Self> {
        let mut client = Self { chatter: Some((SECOND, now + SECOND)), pings_to: to, ..Self::default() };
        let any = SocketAddr::new([0, 0, 0, 0].into(), 0);
        client.actions.push_back(Action::Bind(
            SocketId(0),
            Bind { addr: any, dual_stack: true, share_port: false, group: None, slot: None },
        ));
        Box::new(client)
    }

    fn dial(&mut self, to: SocketAddr, bytes: usize, finish: bool) {
        let id = TcpId(self.next);
        self.next += 1;
        self.tcp_links.insert(id, Talk::new(false, bytes, finish));
        self.actions.push_back(Action::Dial(id, Dial::from(to)));
    }
}

impl Node for Talker {
    type Command = Infallible;
    type Event = Observed;

    fn handle_datagram(&mut self, _: Instant, arrival: Arrival, _: BytesMut) {
        self.said.push_back(format!("ping from {}", arrival.from.ip()));
    }

    fn handle_input(&mut self, _: Instant, input: Input) {
        match input {
            Input::Interfaces(interfaces) => self.said.push_back(format!("at {}", interfaces[0].addr)),
            Input::Slept(slept) => self.said.push_back(format!("slept {}", slept.as_secs())),
            Input::Bound(..) | Input::Listening(..) | Input::Gateways(_) => {}
            other => panic!("nobody asked for {other:?}"),
        }
    }

    fn handle_command(&mut self, _: Instant, command: Infallible) -> Result<(), Misuse> {
        match command {}
    }

    fn handle_tcp(&mut self, _: Instant, id: TcpId, event: TcpEvent) {
        let talk = self.tcp_links.get_mut(&id).expect("a known tcp");
        match event {
            TcpEvent::Up => self.said.push_back("up".to_owned()),
            TcpEvent::Filled(count) => {
                for (at, &byte) in talk.buffer[..count].iter().enumerate() {
                    assert_eq!(byte, pattern(talk.got + at), "at {}", talk.got + at);
                }
                talk.got += count;
                if talk.echoes {
                    talk.held.extend_from_slice(&talk.buffer[..count]);
                    self.touched.push_back(id);
                }
            }
            TcpEvent::Wrote(count) => {
                talk.sent += count;
                if talk.echoes {
                    talk.held.drain(..count);
                    self.touched.push_back(id);
                } else if talk.finish && talk.sent == talk.to_send {
                    self.actions.push_back(Action::Finish(id));
                }
            }
            TcpEvent::Eof => {
                self.said.push_back(format!("end after {}", talk.got));
                self.actions.push_back(Action::Finish(id));
            }
            TcpEvent::Failed(kind) => {
                self.said.push_back(format!("{kind:?}"));
                self.tcp_links.remove(&id);
                if let Some(to) = self.again {
                    self.dial(to, 0, false);
                }
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn handle_accept(&mut self, _: Instant, _: ListenerId, from: SocketAddr) -> Option<TcpId> {
        self.said.push_back(format!("accepted {}", from.ip()));
        let id = TcpId(self.next);
        self.next += 1;
        self.tcp_links.insert(id, Talk::new(true, 0, false));
        Some(id)
    }

    fn handle_timeout(&mut self, now: Instant) {
        let Some((every, at)) = &mut self.chatter else { return };
        if *at <= now {
            *at = now + *every;
            self.pings += 1;
            for (&id, talk) in &mut self.tcp_links {
                talk.to_send += 1;
                self.touched.push_back(id);
            }
        }
    }

    fn settle(&mut self, _: Instant) {}

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_transmit(&mut self, _: Instant, _: SocketId, _: NonZeroUsize, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.pings = self.pings.checked_sub(1)?;
        buf.push(7);
        Some(Transmit { to: self.pings_to, src_ip: None, ecn: Ecn::NotEct, size: 1, segment_size: None })
    }

    fn poll_tcp(&mut self) -> Option<TcpId> {
        self.touched.pop_front()
    }

    fn pipe_buffer(&mut self, tcp: TcpId) -> &mut [u8] {
        let Some(talk) = self.tcp_links.get_mut(&tcp) else { return &mut [] };
        talk.buffer.resize(BUFFER.saturating_sub(talk.held.len()), 0);
        &mut talk.buffer
    }

    fn pipe_output<'a>(&'a self, tcp: TcpId, slices: &mut [IoSlice<'a>]) -> usize {
        /// Long enough for any piece, from any place in the pattern's period.
        static PATTERN: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| (0..5000).map(pattern).collect());
        let Some(talk) = self.tcp_links.get(&tcp) else { return 0 };
        let from = talk.sent % 251;
        slices[0] = IoSlice::new(if talk.echoes {
            &talk.held
        } else {
            &PATTERN[from..from + (talk.to_send - talk.sent).min(4000)]
        });
        1
    }

    fn poll_job(&mut self) -> Option<Job> {
        None
    }

    fn poll_event(&mut self) -> Option<Observed> {
        self.said.pop_front().map(Observed::Text)
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.chatter.map(|(_, at)| (at, "chatter"))
    }

    fn is_closed(&self) -> bool {
        false
    }
}

fn world(conditions: Conditions, seed: u8) -> (World, HostId) {
    let seed = Seed::new([seed; 32]);
    let mut world = World::new(Network::new(conditions, &seed), &seed);
    let server = world.add(SERVER.ip(), Machine::Other(Talker::server()));
    (world, server)
}

fn cut(world: &mut World, cut: bool) {
    let conditions = world.network.default_conditions();
    world.network.set_default(Conditions { cut, ..conditions });
}

fn add_client(world: &mut World, client: Box<Talker>) -> HostId {
    world.add(CLIENT.into(), Machine::Other(client))
}

/// The texts of the host since the world began, without the first address.
fn texts(world: &World, host: HostId) -> Vec<&str> {
    world.texts(host).skip(1).collect()
}

fn run_until_output(world: &mut World, limit: Duration, host: HostId, what: &str) {
    let said = world.run_until(limit, |world| world.texts(host).any(|text| text == what));
    assert!(said, "{what} was not said: {:?}", texts(world, host));
}

/// Lets time pass, whatever happens.
fn pass(world: &mut World, time: Duration) {
    assert!(!world.run_until(time, |_| false));
}

#[test]
fn tcp_delivers_all_bytes_and_runs_repeat_by_seed() {
    let bad = Conditions {
        latency: Duration::from_millis(20),
        jitter: Duration::from_millis(30),
        loss: 50_000,
        rate: 1_000_000,
        ..Conditions::default()
    };
    let run = |conditions, seed| {
        let (mut world, server) = world(conditions, seed);
        let client = add_client(&mut world, Talker::client(SERVER, 1 << 20, true));
        run_until_output(&mut world, 100 * SECOND, client, "end after 1048576");
        assert_eq!(texts(&world, client), ["up", "end after 1048576"]);
        assert_eq!(texts(&world, server), ["accepted 192.0.2.1", "end after 1048576"]);
        (world.elapsed(), world.trace())
    };
    let (good, _) = run(Conditions::default(), 1);
    assert!(good < SECOND, "{good:?}");
    let (slow, trace) = run(bad, 1);
    // As fast as the line at most, and losses cost time.
    assert!(slow > SECOND, "{slow:?}");
    assert_eq!(run(bad, 1).1, trace);
    assert_ne!(run(bad, 2).1, trace);
}

#[test]
fn dial_is_refused_without_listener_and_times_out_without_host() {
    let (mut world, _) = world(Conditions::default(), 1);
    let refused = add_client(&mut world, Talker::client(SocketAddr::new(SERVER.ip(), 444), 1, true));
    run_until_output(&mut world, SECOND, refused, "ConnectionRefused");
    let nowhere = SocketAddr::new([198, 51, 100, 99].into(), 443);
    let lost = world.add([192, 0, 2, 9].into(), Machine::Other(Talker::client(nowhere, 1, true)));
    pass(&mut world, 59 * SECOND);
    assert_eq!(texts(&world, lost), [""; 0]);
    run_until_output(&mut world, 10 * SECOND, lost, "TimedOut");
}

#[test]
fn office_firewall_passes_tcp_but_not_udp() {
    let (mut world, server) = world(Conditions::default(), 1);
    world.network.block_udp(CLIENT.into(), true);
    let chatterbox = Talker::chatterbox(SECOND, world.now);
    add_client(&mut world, chatterbox);
    pass(&mut world, 10 * SECOND);
    assert_eq!(texts(&world, server), ["accepted 192.0.2.1"]);
    world.network.block_udp(CLIENT.into(), false);
    run_until_output(&mut world, 2 * SECOND, server, "ping from 192.0.2.1");
}

#[test]
fn cut_tcp_connection_stalls_and_resumes() {
    let (mut world, _) = world(Conditions { rate: 1_000_000, ..Conditions::default() }, 1);
    let client = add_client(&mut world, Talker::client(SERVER, 1 << 20, true));
    pass(&mut world, SECOND / 2);
    cut(&mut world, true);
    pass(&mut world, 30 * SECOND);
    assert_eq!(texts(&world, client), ["up"]);
    cut(&mut world, false);
    run_until_output(&mut world, 10 * SECOND, client, "end after 1048576");
}

#[test]
fn cut_tcp_connection_times_out_with_pending_data() {
    let (mut world, server) = world(Conditions { rate: 1_000_000, ..Conditions::default() }, 1);
    let client = add_client(&mut world, Talker::client(SERVER, 1 << 20, true));
    let idle = world.add([192, 0, 2, 9].into(), Machine::Other(Talker::client(SERVER, 0, false)));
    pass(&mut world, SECOND / 2);
    cut(&mut world, true);
    pass(&mut world, 59 * SECOND);
    assert_eq!(texts(&world, client), ["up"]);
    pass(&mut world, 10 * SECOND);
    assert_eq!(texts(&world, client), ["up", "TimedOut"]);
    assert_eq!(world.texts(server).filter(|text| *text == "TimedOut").count(), 1, "the busy one's other end");
    // The side without data to send has not noticed the loss.
    pass(&mut world, 600 * SECOND);
    assert_eq!(texts(&world, idle), ["up"]);
}

#[test]
fn dead_process_closes_tcp_and_refuses_new_connections() {
    let (mut world, server) = world(Conditions::default(), 1);
    let chatterbox = Talker::chatterbox(SECOND, world.now);
    let client = add_client(&mut world, chatterbox);
    pass(&mut world, 5 * SECOND / 2);
    world.kill(server);
    pass(&mut world, SECOND / 2);
    assert_eq!(texts(&world, client), ["up", "end after 2"]);
    let other = world.add([192, 0, 2, 9].into(), Machine::Other(Talker::client(SERVER, 9, true)));
    run_until_output(&mut world, SECOND, other, "ConnectionRefused");
    world.restart(server, Machine::Other(Talker::server()));
    let other = world.add([192, 0, 2, 10].into(), Machine::Other(Talker::client(SERVER, 9, true)));
    run_until_output(&mut world, SECOND, other, "end after 9");
}

#[test]
fn crashed_machine_is_silent_and_resets_after_restart() {
    let (mut world, server) = world(Conditions::default(), 1);
    let chatterbox = Talker::chatterbox(SECOND, world.now);
    let client = add_client(&mut world, chatterbox);
    pass(&mut world, 5 * SECOND / 2);
    world.crash(server);
    pass(&mut world, 20 * SECOND);
    assert_eq!(texts(&world, client), ["up"]);
    world.restart(server, Machine::Other(Talker::server()));
    assert_eq!(world.texts(server).count(), 1, "what it said before is forgotten");
    run_until_output(&mut world, 10 * SECOND, client, "ConnectionReset");
    run_until_output(&mut world, SECOND, server, "accepted 192.0.2.1");
    pass(&mut world, SECOND);
    assert_eq!(texts(&world, client), ["up", "ConnectionReset", "up"]);
}

#[test]
fn changed_address_moves_datagrams_but_not_tcp() {
    let (mut world, server) = world(Conditions::default(), 1);
    let chatterbox = Talker::chatterbox(SECOND, world.now);
    let client = add_client(&mut world, chatterbox);
    pass(&mut world, 5 * SECOND / 2);
    world.readdress(client, [203, 0, 113, 7].into());
    run_until_output(&mut world, 3 * SECOND, client, "at 203.0.113.7");
    run_until_output(&mut world, 3 * SECOND, server, "ping from 203.0.113.7");
    assert!(!texts(&world, client).contains(&"TimedOut"));
    run_until_output(&mut world, 70 * SECOND, client, "TimedOut");
    run_until_output(&mut world, SECOND, server, "accepted 203.0.113.7");
    // The server sent nothing into the old one: it is half-open there.
    assert_eq!(world.texts(server).filter(|text| *text == "TimedOut").count(), 0);
}

#[test]
fn sleep_stops_machine_clock_and_is_reported() {
    let (mut world, server) = world(Conditions::default(), 1);
    let chatterbox = Talker::chatterbox(SECOND, world.now);
    let client = add_client(&mut world, chatterbox);
    pass(&mut world, 5 * SECOND / 2);
    let pings = |world: &World| world.texts(server).filter(|text| text.starts_with("ping")).count();
    assert_eq!(pings(&world), 2);
    let clock = world.clock(client);
    world.sleep(client, 600 * SECOND);
    pass(&mut world, 600 * SECOND - SECOND / 10);
    assert_eq!(pings(&world), 2);
    pass(&mut world, SECOND / 5);
    assert_eq!(texts(&world, client), ["up", "slept 600"]);
    assert_eq!(world.clock(client) - clock, SECOND / 10);
    // The rest of the second that it had waited for.
    pass(&mut world, SECOND / 2);
    assert_eq!(pings(&world), 3);
}

#[test]
fn stopped_process_resumes_with_buffered_data() {
    let (mut world, server) = world(Conditions::default(), 1);
    let chatterbox = Talker::chatterbox(SECOND, world.now);
    let client = add_client(&mut world, chatterbox);
    pass(&mut world, 5 * SECOND / 2);
    world.stop(server, 30 * SECOND);
    pass(&mut world, 29 * SECOND);
    let before = world.texts(server).count();
    pass(&mut world, 2 * SECOND);
    // Datagrams that arrived meanwhile; there was no suspension.
    assert!(world.texts(server).count() >= before + 29);
    assert!(!world.texts(server).any(|text| text.starts_with("slept")));
    assert_eq!(texts(&world, client), ["up"], "its system answered all the time");
}

/// A site behind an ordinary NAT.
fn home(world: &mut World) -> Segment {
    let behaviour = Behaviour::nat(Dependence::Independent, Dependence::AddressAndPort);
    world.add_site(PUBLIC, Site::private([192, 168, 1, 0], behaviour, [203, 0, 113, 101]))
}

fn at(segment: Segment, addr: [u8; 4]) -> Attachment {
    Attachment::new(segment, addr.into())
}

#[test]
fn nat_flush_ends_tcp_but_not_datagrams() {
    let (mut world, server) = world(Conditions::default(), 1);
    let home = home(&mut world);
    let chatterbox = Talker::chatterbox(SECOND, world.now);
    let client = world.add_at(vec![at(home, [192, 168, 1, 10])], Machine::Other(chatterbox));
    pass(&mut world, 5 * SECOND / 2);
    assert_eq!(texts(&world, server), ["accepted 203.0.113.101", "ping from 203.0.113.101", "ping from 203.0.113.101"]);
    world.topology.nat_mut(home, SERVER.ip()).unwrap().flush();
    pass(&mut world, 10 * SECOND);
    assert_eq!(texts(&world, server).len(), 13, "{:?}", texts(&world, server));
    assert_eq!(texts(&world, client), ["up"]);
    run_until_output(&mut world, 70 * SECOND, client, "TimedOut");
    assert_eq!(world.texts(server).filter(|text| text.starts_with("accepted")).count(), 1);
    run_until_output(&mut world, SECOND, client, "up");
    pass(&mut world, SECOND);
    assert_eq!(world.texts(server).filter(|text| text.starts_with("accepted")).count(), 2);
}

#[test]
fn tcp_is_direct_on_lan_and_blocked_from_outside() {
    let (mut world, _) = world(Conditions::default(), 1);
    let home = home(&mut world);
    let server = world.add_at(vec![at(home, [192, 168, 1, 10])], Machine::Other(Talker::server()));
    let near = SocketAddr::new([192, 168, 1, 10].into(), SERVER.port());
    let inside = Talker::client(near, 1000, true);
    let inside = world.add_at(vec![at(home, [192, 168, 1, 11])], Machine::Other(inside));
    run_until_output(&mut world, SECOND, inside, "end after 1000");
    assert_eq!(world.texts(server).nth(1), Some("accepted 192.168.1.11"));
    for to in [[192, 168, 1, 10], [203, 0, 113, 101]] {
        let outside = Talker::client(SocketAddr::new(to.into(), SERVER.port()), 1000, true);
        let outside = world.add([192, 0, 2, to[0]].into(), Machine::Other(outside));
        run_until_output(&mut world, 70 * SECOND, outside, "TimedOut");
    }
}

#[test]
fn host_sends_from_nearest_or_first_interface() {
    let (mut world, server) = world(Conditions::default(), 1);
    let (one, two) = (home(&mut world), home(&mut world));
    let near = SocketAddr::new([10, 8, 0, 1].into(), SERVER.port());
    let inside = world.add_at(vec![at(two, [10, 8, 0, 1])], Machine::Other(Talker::server()));
    let mut client = Talker::client(SERVER, 10, true);
    client.dial(near, 10, true);
    let addresses = vec![at(one, [192, 168, 1, 10]), at(two, [10, 8, 0, 2])];
    let client = world.add_at(addresses, Machine::Other(client));
    run_until_output(&mut world, SECOND, inside, "end after 10");
    run_until_output(&mut world, SECOND, server, "end after 10");
    assert_eq!((texts(&world, server)[0], texts(&world, inside)[0]), ("accepted 203.0.113.101", "accepted 10.8.0.2"));
    let froms: Vec<_> = world.sent(client).map(|(_, from, to, _)| (from.ip(), to)).collect();
    assert!(froms.contains(&([192, 168, 1, 10].into(), SERVER)) && froms.contains(&([10, 8, 0, 2].into(), near)));
}

/// Reports its interfaces, and listens on `[::]`.
struct Listener(VecDeque<Action>, VecDeque<String>);

impl Node for Listener {
    type Command = Infallible;
    type Event = Observed;

    fn handle_datagram(&mut self, _: Instant, arrival: Arrival, _: BytesMut) {
        self.1.push_back(format!("from {} to {}", arrival.from.ip(), arrival.local_ip.unwrap()));
    }

    fn handle_input(&mut self, _: Instant, input: Input) {
        match input {
            Input::Interfaces(interfaces) => {
                let shown = interfaces.iter().map(|one| format!("{} {}/{}", one.name, one.addr, one.prefix));
                self.1.push_back(shown.collect::<Vec<_>>().join(", "));
            }
            Input::Bound(_, result) => self.1.push_back(format!("{result:?}")),
            _ => {}
        }
    }

    fn handle_command(&mut self, _: Instant, command: Infallible) -> Result<(), Misuse> {
        match command {}
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn settle(&mut self, _: Instant) {}

    fn poll_action(&mut self) -> Option<Action> {
        self.0.pop_front()
    }

    fn poll_transmit(&mut self, _: Instant, _: SocketId, _: NonZeroUsize, _: &mut Vec<u8>) -> Option<Transmit> {
        None
    }

    fn poll_job(&mut self) -> Option<Job> {
        None
    }

    fn poll_event(&mut self) -> Option<Observed> {
        self.1.pop_front().map(Observed::Text)
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    fn is_closed(&self) -> bool {
        false
    }
}

#[test]
fn simulated_bind_matches_real_system() {
    let (mut world, _) = world(Conditions::default(), 1);
    let home = home(&mut world);
    let binds =
        ["[::]:443", "0.0.0.0:443", "[::]:443", "198.51.100.9:80", "192.168.1.7:80", "192.168.1.7:80", "[::]:0"];
    let bind = |(id, addr): (usize, &&str)| {
        Action::Bind(
            SocketId(id as u8),
            Bind { addr: addr.parse().unwrap(), dual_stack: true, share_port: false, group: None, slot: None },
        )
    };
    let listener = |binds: &[&str]| {
        let actions = binds.iter().enumerate().map(bind).collect();
        Machine::Other(Box::new(Listener(actions, VecDeque::new())))
    };
    let only_v4 = world.add_at(vec![at(home, [192, 168, 1, 6])], listener(&["[::]:443", "0.0.0.0:443"]));
    assert_eq!(texts(&world, only_v4), ["Err(Unsupported)", "Ok(0.0.0.0:443)"]);
    let v6 = Attachment::new(PUBLIC, "2001:db8::7".parse().unwrap());
    let both = world.add_at(vec![at(home, [192, 168, 1, 7]), v6], listener(&binds));
    let said: Vec<_> = world.texts(both).collect();
    let bound = ["Ok([::]:443)", "Err(AddrInUse)", "Err(AddrInUse)", "Err(AddrNotAvailable)", "Ok(192.168.1.7:80)"];
    assert_eq!(said[0], "eth0 192.168.1.7/24, eth1 2001:db8::7/64, lo 127.0.0.1/8");
    assert_eq!(said[1..6], bound);
    assert_eq!(said[6..], ["Err(AddrInUse)", "Ok([::]:40000)"]);
    // `[::]` accepts IPv4 as well, and reports it as IPv6.
    let near = SocketAddr::new([192, 168, 1, 7].into(), 443);
    let parrot = Talker::pinger(near, world.now);
    world.add_at(vec![at(home, [192, 168, 1, 8])], Machine::Other(parrot));
    run_until_output(&mut world, 2 * SECOND, both, "from ::ffff:192.168.1.8 to 192.168.1.7");
}

#[test]
fn undeliverable_packets_are_counted() {
    let (mut world, _) = world(Conditions::default(), 1);
    let home = home(&mut world);
    let nowhere = SocketAddr::new([127, 0, 0, 1].into(), 9);
    let pinger = Talker::pinger(nowhere, world.now);
    let pinger = world.add_at(vec![at(home, [192, 168, 1, 10])], Machine::Other(pinger));
    pass(&mut world, 7 * SECOND / 2);
    assert_eq!(world.sent_to(pinger, nowhere.ip()), Tally { packets: 3, bytes: 3 });
    assert_eq!(world.sent_in_all(pinger), Tally { packets: 3, bytes: 3 });
}
