//! How much memory a relay needs: idle rooms, and rooms that forward data to receivers, half of which read 1 KiB/s.
//!
//! ```sh
//! cargo build --release --workspace && cargo run --release -p tallow-tests --bin relay_memory -- idle 10000
//! cargo run --release -p tallow-tests --bin relay_memory -- data 100
//! ```
//! The relay is the real program; the clients are one node with many QUIC connections on one socket.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tallow_proto::code::Nameplate;
use tallow_proto::link::quic::{ConnId, Event, Profile, Quic, Read, Stream, Write};
use tallow_proto::link::trust::Trust;
use tallow_proto::misuse::Misuse;
use tallow_proto::net::{Action, Arrival, Bind, SocketId, Transmit};
use tallow_proto::node::{Input, Node};
use tallow_proto::seed::Seed;
use tallow_proto::transfer::job::Job;
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::relay::{ClientMessage, Owner, RelayMessage, Role};
use tallow_proto::wire::{Caps, Decoder, Features, Hello, decode, encode};

const SOCKET: SocketId = SocketId(0);
/// Handshakes at one time.
const AT_ONCE: usize = 100;
/// How much a slow receiver reads per second.
const TRICKLE: usize = 1024;

enum Task {
    /// Does not wait for its peer.
    Idle,
    /// Sends without end; has a nameplate once it is assigned.
    Source,
    /// Reads everything, or almost nothing.
    Drain { slow: bool, seen: usize },
}

struct Client {
    role: Task,
    main: Option<Stream>,
    data: Option<Stream>,
    decoder: Decoder,
    said: Bytes,
    paired: bool,
}

struct Clients {
    relay: SocketAddr,
    quic: Quic,
    clients: BTreeMap<ConnId, Client>,
    to_come: usize,
    pairs: bool,
    joining: usize,
    ready: usize,
    actions: Vec<Action>,
    events: Vec<ClientsEvent>,
    tick: Option<Instant>,
    next_slow: bool,
    read: u64,
}

#[derive(Debug)]
enum ClientsEvent {
    Ready(usize),
    Read(u64),
    Lost(String),
}

impl From<Misuse> for ClientsEvent {
    fn from(misuse: Misuse) -> Self {
        Self::Lost(misuse.to_string())
    }
}

impl Clients {
    fn new(relay: SocketAddr, rooms: usize, pairs: bool) -> Self {
        let bind = Bind {
            addr: (Ipv4Addr::LOCALHOST, 0).into(),
            dual_stack: true,
            share_port: false,
            group: None,
            slot: None,
        };
        Self {
            relay,
            // A client that does not read must not buffer unread data.
            quic: Quic::client(
                &Profile { receive_window: 64 * 1024, ..Profile::peer() },
                Duration::from_secs(1_800_000_000),
                &Seed::new([3; 32]),
            ),
            clients: BTreeMap::new(),
            to_come: rooms,
            pairs,
            joining: 0,
            ready: 0,
            actions: vec![Action::Bind(SOCKET, bind)],
            events: Vec::new(),
            tick: None,
            next_slow: true,
            read: 0,
        }
    }

    fn dial(&mut self, now: Instant, role: Task, question: ClientMessage) {
        let id = self.quic.connect(now, self.relay, "relay", &Trust::Any).expect("an address");
        let hello = enclose(&encode(&ClientMessage::Hello(Hello::new(Features::default()))));
        let said = [hello, enclose(&encode(&question))].concat().into();
        let decoder = Decoder::new(Caps::Greeting);
        self.clients.insert(id, Client { role, main: None, data: None, decoder, said, paired: false });
        self.joining += 1;
    }

    fn more(&mut self, now: Instant) {
        while self.to_come > 0 && self.joining < AT_ONCE {
            self.to_come -= 1;
            let role = if self.pairs { Task::Source } else { Task::Idle };
            self.dial(now, role, ClientMessage::Allocate { owner: Owner([1; 16]) });
        }
    }

    fn serve(&mut self, now: Instant, id: ConnId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Some(main) = client.main else { return };
        if !client.said.is_empty() {
            let _ = self.quic.write(id, main, &mut client.said);
        }
        while !client.paired
            && let Read::Data(bytes) = self.quic.read(id, main, usize::MAX)
        {
            client.decoder.push(bytes);
        }
        while !client.paired
            && let Some(frame) = client.decoder.next_frame().expect("a relay's frame")
        {
            match decode::<RelayMessage>(&frame.into_bytes()).expect("a relay's message") {
                RelayMessage::Allocated { nameplate } if matches!(client.role, Task::Source) => {
                    let room = Nameplate::from_number(nameplate).room_id();
                    let slow = self.next_slow;
                    self.next_slow = !slow;
                    let question =
                        ClientMessage::Join { room, role: Role::Receiver, owner: Owner([2; 16]), again: false };
                    return self.dial(now, Task::Drain { slow, seen: 0 }, question);
                }
                RelayMessage::Waiting if matches!(client.role, Task::Idle) => {
                    self.joining -= 1;
                    self.ready += 1;
                }
                RelayMessage::Paired { .. } => {
                    client.paired = true;
                    self.joining -= 1;
                    self.ready += 1;
                }
                RelayMessage::Refused { reason, .. } => self.events.push(ClientsEvent::Lost(format!("{reason:?}"))),
                _ => {}
            }
        }
        self.pour(id);
    }

    /// A source writes until its window is full; a drain reads as much as it may.
    fn pour(&mut self, id: ConnId) {
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.paired) else { return };
        match &mut client.role {
            Task::Idle => {}
            Task::Source => {
                if client.data.is_none() {
                    client.data = self.quic.open_uni(id);
                }
                let Some(stream) = client.data else { return };
                let mut block = Bytes::from_static(&[7; 64 * 1024]);
                while self.quic.write(id, stream, &mut block) == Write::Done {
                    block = Bytes::from_static(&[7; 64 * 1024]);
                }
            }
            Task::Drain { slow: true, .. } => {}
            Task::Drain { slow: false, seen } => {
                let Some(stream) = client.data else { return };
                while let Read::Data(bytes) = self.quic.read(id, stream, usize::MAX) {
                    *seen += bytes.len();
                    self.read += bytes.len() as u64;
                }
            }
        }
    }
}

impl Node for Clients {
    type Command = ();
    type Event = ClientsEvent;

    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, data: BytesMut) {
        self.quic.handle_datagram(now, &arrival, data);
    }

    fn handle_input(&mut self, now: Instant, input: Input) {
        if let Input::Bound(_, result) = input {
            result.expect("a socket");
            self.tick = Some(now + Duration::from_secs(1));
            self.more(now);
        }
    }

    fn handle_command(&mut self, _: Instant, (): ()) -> Result<(), Misuse> {
        Ok(())
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.quic.handle_timeout(now);
        if self.tick.is_some_and(|at| at <= now) {
            self.tick = Some(now + Duration::from_secs(1));
            for (&id, client) in &mut self.clients {
                if let (Task::Drain { slow: true, seen }, Some(stream)) = (&mut client.role, client.data)
                    && let Read::Data(bytes) = self.quic.read(id, stream, TRICKLE)
                {
                    *seen += bytes.len();
                }
            }
            self.events.push(ClientsEvent::Read(self.read));
        }
    }

    fn settle(&mut self, now: Instant) {
        let before = self.ready;
        loop {
            self.quic.settle(now);
            let mut moved = false;
            while let Some((id, event)) = self.quic.poll_event() {
                moved = true;
                match event {
                    Event::Connected { .. } => {
                        let main = self.quic.open_bi(id);
                        if let Some(client) = self.clients.get_mut(&id) {
                            client.main = main;
                        }
                    }
                    Event::Opened(stream, _) => {
                        if let Some(client) = self.clients.get_mut(&id) {
                            client.data = Some(stream);
                        }
                    }
                    Event::Closed(closed) => {
                        self.clients.remove(&id);
                        self.events.push(ClientsEvent::Lost(closed.to_string()));
                    }
                    _ => {}
                }
                self.serve(now, id);
            }
            self.more(now);
            if !moved {
                break;
            }
        }
        if self.ready > before {
            self.events.push(ClientsEvent::Ready(self.ready));
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop()
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        _: SocketId,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.quic.poll_transmit(now, max_segments, buf)
    }

    fn poll_job(&mut self) -> Option<Job> {
        None
    }

    fn poll_event(&mut self) -> Option<ClientsEvent> {
        if self.events.is_empty() { None } else { Some(self.events.remove(0)) }
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.quic.poll_timeout().into_iter().chain(self.tick).min().map(|at| (at, "clients"))
    }

    fn is_closed(&self) -> bool {
        false
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (pairs, rooms) = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["idle", rooms] => (false, rooms.parse::<usize>().expect("a number of rooms")),
        ["data", rooms] => (true, rooms.parse::<usize>().expect("a number of rooms")),
        _ => panic!("relay_memory idle N, or relay_memory data N"),
    };
    let program = std::env::current_exe().expect("a path").with_file_name("tallow");
    let state = tempfile::tempdir().expect("a directory");
    let port = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let at: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
    let many = "1000000";
    let mut relay = Command::new(program)
        .env("TALLOW_STATE_DIR", state.path())
        .args([
            "relay",
            "--quiet",
            "--listen",
            &at.to_string(),
            "--connections-per-ip",
            many,
            "--max-rooms-per-ip",
            many,
        ])
        .args(["--joins-per-minute", many, "--max-rooms", many, "--max-connections", many])
        .stderr(Stdio::piped())
        .spawn()
        .expect("cargo build --release --workspace comes first");
    let mut lines = BufReader::new(relay.stderr.take().expect("standard error")).lines();
    while !lines.next().expect("the relay listens").expect("text").contains("listening on") {}
    let empty = memory(relay.id());
    println!("relay without rooms: {empty}");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut clients = tallow_tokio::spawn(Clients::new(at, rooms, pairs));
        let wanted = if pairs { 2 * rooms } else { rooms };
        let (mut after, mut lost, mut all) = (0, 0, false);
        while after < 10 {
            match clients.next_event().await.expect("clients that keep running") {
                ClientsEvent::Ready(ready) => {
                    all = ready == wanted;
                    if all {
                        println!("{ready} clients are seated");
                    }
                }
                ClientsEvent::Lost(why) => {
                    lost += 1;
                    println!("a client was lost: {why}");
                    assert!(lost < 10, "too many clients were lost");
                }
                // The time counts once all clients are connected.
                ClientsEvent::Read(bytes) if all => {
                    after += 1;
                    if after == 10 && pairs {
                        println!("the fast receivers together read {} MB so far", bytes / 1_000_000);
                    }
                }
                ClientsEvent::Read(_) => {}
            }
        }
        println!(
            "relay with {rooms} rooms ({}): {}",
            if pairs { "half of the receivers read 1 KiB/s" } else { "idle" },
            memory(relay.id())
        );
    });
    relay.kill().expect("the relay can be ended");
    let _ = relay.wait();
}

fn memory(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the relay runs");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
    };
    format!("{} MiB resident, {} MiB at most", field("VmRSS"), field("VmHWM"))
}
