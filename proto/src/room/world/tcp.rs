//! TCP in the world: complete and in order, with system buffers at both ends that fill up.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;

use super::*;
use crate::link::tcp::{self, Kind, SocketAction, Target, TcpLink, Windows};
use crate::net::{ListenerId, TcpEvent, TcpId};

/// How much the two systems buffer in one direction: bytes that were sent and not read.
pub const SYSTEM: usize = 256 << 10;
const MSS: usize = 16 << 10;

pub const TLS: Kind = Kind::Tls;

pub fn websocket(tls: bool) -> Kind {
    Kind::WebSocket { tls, path: "/".into() }
}

/// A client's TCP connection, and the data in flight.
pub struct Tcp {
    pub tcp: TcpLink,
    pub over: Option<tcp::Closed>,
    /// The connection's name at the relay, while the relay has it.
    pub id: Option<TcpId>,
    up: Wire,
    down: Wire,
    gone: bool,
    mute: bool,
}

impl Tcp {
    /// The client's machine sends nothing from now on.
    pub const fn mute(&mut self) {
        self.mute = true;
    }
}

pub struct Wire {
    room: usize,
    arrived: VecDeque<u8>,
    fin: bool,
    told: bool,
}

impl Wire {
    const fn new() -> Self {
        Self { room: SYSTEM, arrived: VecDeque::new(), fin: false, told: false }
    }

    fn take(&mut self, buf: &mut [u8]) -> usize {
        let count = buf.len().min(self.arrived.len());
        for (place, byte) in buf.iter_mut().zip(self.arrived.drain(..count)) {
            *place = byte;
        }
        self.room += count;
        count
    }
}

/// What is in flight.
pub enum Packet {
    Segment(BytesMut),
    Fin,
    Reset,
}

fn gather(slices: &[IoSlice<'_>], max: usize) -> BytesMut {
    let mut data = BytesMut::new();
    for slice in slices {
        let rest = max - data.len();
        data.extend_from_slice(&slice[..slice.len().min(rest)]);
    }
    data
}

impl World {
    /// Creates a client with a TCP connection and its own address. `Client::tcp` has no id if the relay refused it.
    pub fn dial(&mut self, kind: Kind) -> usize {
        let index = u32::try_from(self.clients.len()).unwrap();
        let [_, b, c, d] = (index + 1).to_be_bytes();
        self.dial_from(kind, ListenerId(0), IpAddr::from([10, b, c, d]))
    }

    pub fn dial_from(&mut self, kind: Kind, listener: ListenerId, ip: IpAddr) -> usize {
        let target = Target {
            kind,
            host: "relay.test",
            port: 4433,
            trust: Trust::Any,
            proxy: None,
            windows: Windows { receive: 64 << 10, send: 256 << 10 },
        };
        let tcp = self.dialler.dial(self.now, &target).unwrap();
        let index = self.clients.len();
        let addr = SocketAddr::new(ip, 1024 + u16::try_from(index % 60_000).unwrap());
        let mut client = Client::new(Quic::client(&Profile::peer(), UNIX_TIME, &self.seed.split()), addr, ConnId(0));
        let id = self.relay.handle_accept(self.now, listener, addr);
        client.tcp = Some(Tcp { tcp, over: None, id, up: Wire::new(), down: Wire::new(), gone: false, mute: false });
        self.clients.push(client);
        if let Some(id) = id {
            self.tcp_links.insert(id, index);
            self.touched.insert(index);
        }
        index
    }

    /// Connects, greets and sends a request.
    pub fn ask_by(&mut self, kind: Kind, message: ClientMessage) -> usize {
        let client = self.dial(kind);
        self.say(client, &[hello(), message]);
        client
    }

    /// Creates two paired clients, the sender first; `None` means QUIC.
    pub fn pair_of(&mut self, room: RoomId, sender: Option<Kind>, receiver: Option<Kind>) -> (usize, usize) {
        let come = |world: &mut Self, kind: Option<Kind>| match kind {
            Some(kind) => world.dial(kind),
            None => world.connect(),
        };
        let sender = come(self, sender);
        self.say(sender, &[hello(), join(room, Role::Sender, ALICE)]);
        self.until("waiting", |world| world.clients[sender].heard.contains(&RelayMessage::Waiting));
        let receiver = come(self, receiver);
        self.say(receiver, &[hello(), join(room, Role::Receiver, BOB)]);
        self.until("paired", |world| {
            world.clients[sender].streams.is_some() && world.clients[receiver].streams.is_some()
        });
        (sender, receiver)
    }

    /// The system at the relay gives up a client's connection, and its last bytes arrive at the same moment.
    pub fn fail(&mut self, client: usize) {
        let Some(tcp) = &mut self.clients[client].tcp else { return };
        let Some(id) = tcp.id.take() else { return };
        self.tcp_links.remove(&id);
        let mut slices = [IoSlice::new(&[]); 8];
        let count = tcp.tcp.output(&mut slices);
        let last = gather(&slices[..count], MSS);
        let buf = self.relay.pipe_buffer(id);
        let fits = buf.len().min(last.len());
        buf[..fits].copy_from_slice(&last[..fits]);
        if fits > 0 {
            self.relay.handle_tcp(self.now, id, TcpEvent::Filled(fits));
        }
        self.relay.handle_tcp(self.now, id, TcpEvent::Failed(ErrorKind::TimedOut));
    }

    /// Sends bytes that the client's machine did not produce.
    pub fn inject(&mut self, client: usize, bytes: &[u8]) {
        if let Some(id) = self.clients[client].tcp.as_ref().and_then(|tcp| tcp.id) {
            self.fly_packet(To::RelayTcp(id), Packet::Segment(BytesMut::from(bytes)));
        }
    }

    fn fly_packet(&mut self, to: To, packet: Packet) {
        self.sequence += 1;
        self.net.insert((self.now + LATENCY, self.sequence), InFlight { to, what: What::Packet(packet) });
    }

    pub(super) fn arrive(&mut self, to: &To, packet: Packet) {
        match *to {
            To::Client(client) => {
                let Some(tcp) = self.clients[client].tcp.as_mut().filter(|tcp| !tcp.gone) else { return };
                match packet {
                    Packet::Segment(data) => tcp.down.arrived.extend(data),
                    Packet::Fin => tcp.down.fin = true,
                    Packet::Reset => {
                        tcp.tcp.handle_failed();
                        tcp.gone = true;
                    }
                }
                self.touched.insert(client);
            }
            To::RelayTcp(id) => {
                let Some(&client) = self.tcp_links.get(&id) else { return };
                let Some(tcp) = &mut self.clients[client].tcp else { return };
                match packet {
                    Packet::Segment(data) => tcp.up.arrived.extend(data),
                    Packet::Fin => tcp.up.fin = true,
                    Packet::Reset => {
                        tcp.id = None;
                        self.tcp_links.remove(&id);
                        self.relay.handle_tcp(self.now, id, TcpEvent::Failed(ErrorKind::ConnectionReset));
                    }
                }
                self.ready.insert(id);
            }
            To::Socket(_) => unreachable!(),
        }
    }

    /// Does the work of the relay's runtime.
    pub(super) fn serve_tcp(&mut self) -> bool {
        let mut moved = false;
        let mut finished = BTreeSet::new();
        while let Some(action) = self.relay.poll_action() {
            match action {
                Action::Finish(id) => drop(finished.insert(id)),
                Action::Abort(id) => {
                    if let Some(client) = self.tcp_links.remove(&id) {
                        self.clients[client].tcp.as_mut().unwrap().id = None;
                        let careful = finished.contains(&id);
                        self.fly_packet(To::Client(client), if careful { Packet::Fin } else { Packet::Reset });
                    }
                }
                Action::Unlisten(listener) => self.unlistened.push(listener),
                other => panic!("{other:?}"),
            }
        }
        while let Some(id) = self.relay.poll_tcp() {
            self.ready.insert(id);
        }
        while let Some(id) = self.ready.pop_first() {
            let Some(&client) = self.tcp_links.get(&id) else { continue };
            let tcp = self.clients[client].tcp.as_mut().unwrap();
            let mut slices = [IoSlice::new(&[]); 8];
            let count = self.relay.pipe_output(id, &mut slices);
            let data = gather(&slices[..count], tcp.down.room.min(MSS));
            let buf = self.relay.pipe_buffer(id);
            let got = tcp.up.take(buf);
            let eof = !buf.is_empty() && got == 0 && tcp.up.fin && !tcp.up.told;
            tcp.down.room -= data.len();
            tcp.up.told |= eof;
            if got > 0 {
                self.relay.handle_tcp(self.now, id, TcpEvent::Filled(got));
                self.touched.insert(client);
            }
            if eof {
                self.relay.handle_tcp(self.now, id, TcpEvent::Eof);
            }
            if !data.is_empty() {
                self.relay.handle_tcp(self.now, id, TcpEvent::Wrote(data.len()));
                self.fly_packet(To::Client(client), Packet::Segment(data));
                self.ready.insert(id);
            }
            moved = true;
            self.relay.settle(self.now);
        }
        moved
    }

    /// Does the work of a client's runtime.
    pub(super) fn serve_client(&mut self, index: usize) {
        loop {
            let client = &mut self.clients[index];
            client.work(self.now);
            let Some(tcp) = client.tcp.as_mut().filter(|tcp| !tcp.gone) else { return };
            // Data for a relay that closed the connection is lost.
            let id = tcp.id;
            let mut slices = [IoSlice::new(&[]); 8];
            let count = if tcp.mute { 0 } else { tcp.tcp.output(&mut slices) };
            let data = gather(&slices[..count], tcp.up.room.min(MSS));
            let buf = tcp.tcp.read_buffer();
            let got = tcp.down.take(buf);
            let eof = !buf.is_empty() && got == 0 && tcp.down.fin && !tcp.down.told;
            tcp.up.room -= data.len();
            tcp.down.told |= eof;
            if got > 0 {
                tcp.tcp.handle_filled(self.now, got);
                self.ready.extend(id);
            }
            if eof {
                tcp.tcp.handle_eof();
            }
            if !data.is_empty() {
                tcp.tcp.handle_wrote(self.now, data.len());
            }
            let (action, sent) = (tcp.tcp.socket_action(), !data.is_empty());
            tcp.gone = action != SocketAction::Live;
            if let Some(to) = id.map(To::RelayTcp) {
                if sent {
                    self.fly_packet(to, Packet::Segment(data));
                }
                match action {
                    SocketAction::Live => {}
                    SocketAction::Finish => self.fly_packet(to, Packet::Fin),
                    SocketAction::Abort => self.fly_packet(to, Packet::Reset),
                }
            }
            if action != SocketAction::Live {
                self.clients[index].work(self.now);
            }
            if got == 0 && !sent && !eof {
                return;
            }
        }
    }
}

impl Client {
    pub fn tcp(&mut self) -> &mut Tcp {
        self.tcp.as_mut().expect("a tcp")
    }

    pub(super) fn work_tcp(&mut self, now: Instant) {
        while let Some(event) = self.tcp().tcp.poll_event() {
            match event {
                tcp::Event::Connected { .. } => self.connected = true,
                tcp::Event::Readable => drop(self.readable.insert(Stream::first())),
                tcp::Event::Writable => self.write(now, Stream::first()),
                tcp::Event::Closed(closed) => {
                    self.tcp().over = Some(closed);
                    self.readable.insert(Stream::first());
                }
            }
        }
        if self.connected && self.main.is_none() && !self.first.is_empty() {
            self.main = Some(Stream::first());
            self.out.insert(Stream::first(), std::mem::take(&mut self.first).into());
            self.write(now, Stream::first());
        }
        if !self.lazy || self.streams.is_none() {
            self.read(usize::MAX);
        }
    }

    pub(super) fn read_tcp(&mut self, mut max: usize) {
        let main = Stream::first();
        while self.readable.contains(&main) && max > 0 {
            match self.tcp().tcp.read() {
                Read::Data(bytes) => {
                    max -= bytes.len().min(max);
                    self.take(main, bytes);
                }
                Read::End => {
                    self.ended.insert(main, Ok(()));
                    self.readable.remove(&main);
                }
                Read::Blocked | Read::Gone | Read::Reset(_) => drop(self.readable.remove(&main)),
            }
        }
    }

    /// Whether the client's TCP connection ended, or its reader reached the end.
    pub fn is_over(&self) -> bool {
        self.closed.is_some()
            || self.tcp.as_ref().is_some_and(|tcp| tcp.over.is_some())
            || self.ended.contains_key(&Stream::first())
    }
}
