//! Port mapping with a real gateway and the real driver: `.ci/miniupnpd` creates the networks and runs this test in
//! the inner one.
//!
//! `TALLOW_PORTMAP` is the protocol; `TALLOW_PORTMAP_GATEWAY` and `TALLOW_PORTMAP_OUTSIDE` are the network namespaces
//! of the gateway and of an outside host, `TALLOW_PORTMAP_LEASES` is the gateway's file of leases.

#![cfg(target_os = "linux")]

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::process::Command as Program;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tallow_proto::drive::Handle;
use tallow_proto::misuse::Misuse;
use tallow_proto::net::{Action, Arrival, Bind, Ecn, SocketId, TcpEvent, TcpId, Transmit};
use tallow_proto::node::{Input, Node};
use tallow_proto::p2p::portmap::{self, FIRST_TCP, PortMap, Protocol, SOCKET};
use tallow_proto::transfer::job::Job;
use tallow_runtime::seed;

/// The socket that is to be reached.
const REACHED: SocketId = SocketId(4);
/// Nothing here waits for it unless it fails.
const PATIENCE: Duration = Duration::from_secs(20);
/// An unwanted datagram would have arrived within this time.
const MOMENT: Duration = Duration::from_millis(500);

#[derive(Debug)]
enum Command {
    Renew,
    Release,
}

#[derive(Debug)]
enum Event {
    Mapped(Protocol, SocketAddr),
    Lost,
    Got(Vec<u8>),
    Released { datagrams: usize, tcp_links: usize },
}

impl From<Misuse> for Event {
    fn from(misuse: Misuse) -> Self {
        panic!("{misuse}");
    }
}

/// A socket, and a mapping for it.
struct Mapper {
    map: PortMap,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    datagrams: usize,
    tcp_links: usize,
    leaving: bool,
    closed: bool,
}

impl Mapper {
    fn new(protocols: &[Protocol]) -> Self {
        let addr = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let bind = Action::Bind(REACHED, Bind { addr, dual_stack: true, share_port: false, group: None, slot: None });
        Self {
            map: PortMap::with(&seed(), protocols),
            actions: [bind].into(),
            events: VecDeque::new(),
            datagrams: 0,
            tcp_links: 0,
            leaving: false,
            closed: false,
        }
    }
}

impl Node for Mapper {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut) {
        match arrival.socket {
            SOCKET => self.map.handle_datagram(now, arrival.from, &data),
            _ => self.events.push_back(Event::Got(data.to_vec())),
        }
    }

    fn handle_tcp(&mut self, now: Instant, tcp: TcpId, event: TcpEvent) {
        assert!(tcp >= FIRST_TCP);
        self.map.handle_tcp(now, tcp, event);
    }

    fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Bound(SOCKET, result) => self.map.handle_bound(now, result),
            Input::Bound(_, result) => self.map.start(now, result.expect("a socket").port()),
            Input::Interfaces(interfaces) => self.map.handle_interfaces(now, &interfaces),
            Input::Gateways(gateways) => self.map.handle_gateways(now, &gateways),
            Input::HandleDropped => self.closed = true,
            Input::Slept(_) => {}
            other => panic!("nobody asked for {other:?}"),
        }
    }

    fn handle_command(&mut self, now: Instant, command: Command) -> Result<(), Misuse> {
        match command {
            Command::Renew => self.map.handle_slept(now),
            Command::Release => {
                self.map.release(now);
                self.leaving = true;
            }
        }
        Ok(())
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.map.handle_timeout(now);
    }

    fn settle(&mut self, _: Instant) {
        while let Some(action) = self.map.poll_action() {
            self.tcp_links += usize::from(matches!(action, Action::Dial(..)));
            self.actions.push_back(action);
        }
        while let Some(event) = self.map.poll_event() {
            self.events.push_back(match (event, self.map.protocol()) {
                (portmap::Event::Mapped(external), Some(protocol)) => Event::Mapped(protocol, external),
                (portmap::Event::Lost, _) => Event::Lost,
                other => panic!("{other:?}"),
            });
        }
        if self.leaving && self.map.is_released() {
            self.leaving = false;
            self.events.push_back(Event::Released { datagrams: self.datagrams, tcp_links: self.tcp_links });
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_transmit(&mut self, _: Instant, socket: SocketId, _: NonZeroUsize, buf: &mut Vec<u8>) -> Option<Transmit> {
        if socket != SOCKET {
            return None;
        }
        let out = self.map.poll_transmit()?;
        self.datagrams += 1;
        buf.extend_from_slice(&out.data);
        Some(Transmit { to: out.to, src_ip: out.from, ecn: Ecn::NotEct, size: buf.len(), segment_size: None })
    }

    fn pipe_buffer(&mut self, tcp: TcpId) -> &mut [u8] {
        self.map.pipe_buffer(tcp)
    }

    fn pipe_output<'a>(&'a self, tcp: TcpId, slices: &mut [IoSlice<'a>]) -> usize {
        self.map.pipe_output(tcp, slices)
    }

    fn poll_job(&mut self) -> Option<Job> {
        None
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.map.poll_timeout().map(|at| (at, "port mapping"))
    }

    fn is_closed(&self) -> bool {
        self.closed
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: use .ci/miniupnpd"))
}

/// The output of a program in another namespace.
fn in_namespace(name: &str, program: &[&str]) -> String {
    let output = Program::new("ip").args(["netns", "exec", name]).args(program).output().expect("ip");
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Sends a datagram from outside.
fn send_from_outside(to: SocketAddr, word: &str) {
    let script = format!("printf {word} >/dev/udp/{}/{}", to.ip(), to.port());
    in_namespace(&variable("TALLOW_PORTMAP_OUTSIDE"), &["bash", "-c", &script]);
}

/// The ports that the gateway's rules send inside.
fn open_ports() -> Vec<u16> {
    let rules = in_namespace(&variable("TALLOW_PORTMAP_GATEWAY"), &["nft", "list", "ruleset"]);
    let dnat = rules.lines().filter(|line| line.contains(" dnat "));
    dnat.map(|line| line.split("dport ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).expect(line))
        .collect()
}

/// When the gateway's lease ends, in the gateway's seconds. `None` while it rewrites its file.
fn lease_ends(port: u16) -> Option<u64> {
    let leases = std::fs::read_to_string(variable("TALLOW_PORTMAP_LEASES")).ok()?;
    let lease = leases.lines().find(|line| line.starts_with(&format!("UDP:{port}:")))?;
    lease.split(':').nth(4)?.parse().ok()
}

async fn next(mapper: &mut Handle<Mapper>) -> Event {
    let event = tokio::time::timeout(PATIENCE, mapper.next_event()).await.expect("in time");
    event.expect("an event")
}

#[test]
#[ignore = "needs a gateway: .ci/miniupnpd"]
fn real_gateway_maps_renews_and_deletes() {
    let protocols = match variable("TALLOW_PORTMAP").as_str() {
        "pcp" => vec![Protocol::Pcp],
        "natpmp" => vec![Protocol::NatPmp],
        "upnp" => vec![Protocol::Upnp],
        "any" => vec![Protocol::Pcp, Protocol::NatPmp, Protocol::Upnp],
        other => panic!("no protocol: {other}"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let start = Instant::now();
        let mut mapper = tallow_tokio::spawn(Mapper::new(&protocols));
        let Event::Mapped(protocol, external) = next(&mut mapper).await else { panic!("no mapping") };
        println!("{protocol:?}: {external} after {} ms", start.elapsed().as_millis());
        assert!(matches!(external.ip(), IpAddr::V4(ip) if !ip.is_private()));
        assert_eq!(open_ports(), [external.port()], "once");
        send_from_outside(external, "hello");
        assert!(matches!(next(&mut mapper).await, Event::Got(word) if word == b"hello"));

        // It is the lease that shows a renewal, and it counts in seconds.
        let first_end = lease_ends(external.port()).expect("a lease");
        tokio::time::sleep(Duration::from_millis(2100)).await;
        mapper.command(Command::Renew).unwrap();
        let asked = Instant::now();
        while lease_ends(external.port()).is_none_or(|end| end <= first_end) {
            assert!(asked.elapsed() < PATIENCE, "it was not renewed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        send_from_outside(external, "again");
        assert!(matches!(next(&mut mapper).await, Event::Got(word) if word == b"again"));

        mapper.command(Command::Release).unwrap();
        assert!(matches!(next(&mut mapper).await, Event::Lost));
        let released = Instant::now();
        let Event::Released { datagrams, tcp_links } = next(&mut mapper).await else { panic!("not released") };
        println!(
            "taken back after {} ms; {datagrams} datagrams, {tcp_links} tcp_links",
            released.elapsed().as_millis()
        );
        assert_eq!(open_ports(), [], "still there");
        send_from_outside(external, "nobody");
        let nothing = tokio::time::timeout(MOMENT, mapper.next_event()).await;
        assert!(nothing.is_err(), "{nothing:?}");
    });
}
