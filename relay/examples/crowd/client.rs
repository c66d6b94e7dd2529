//! Many clients of a relay in one thread, on one UDP socket, with the state machines of `tallow_proto` and
//! `std::net`. The tests of the program use it too.

#![allow(dead_code, reason = "the example and the tests each use their part")]

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use tallow_proto::link::quic::{self, Closed, ConnId, Profile, Quic, Read, Stream, Write};
use tallow_proto::link::trust::{CertificateSeen, Trust};
use tallow_proto::net::{Arrival, Ecn, SocketId};
use tallow_proto::wire::frame::enclose;
use tallow_proto::wire::relay::{ClientMessage, Owner, RelayMessage, Role, RoomId};
use tallow_proto::wire::{self, Caps, Decoder, Features, Hello};

/// A number of clients that share a socket.
pub struct ClientPool {
    pub clients: BTreeMap<ConnId, Client>,
    socket: UdpSocket,
    relay: SocketAddr,
    quic: Quic,
}

/// One client.
pub struct Client {
    pub certificate: Option<CertificateSeen>,
    pub received: Vec<RelayMessage>,
    pub paired: bool,
    pub closed: Option<Closed>,
    /// Bytes received from the other peer, on all streams together.
    pub bytes_received: u64,
    /// How many bytes may be read now; `None`: no limit.
    pub read_limit: Option<usize>,
    to_send: Vec<ClientMessage>,
    main: Option<Stream>,
    decoder: Decoder,
    /// Bytes that are not written yet, for each stream.
    out: BTreeMap<Stream, Bytes>,
    readable: Vec<Stream>,
}

/// The request for a seat.
pub fn join(room: u32, role: Role) -> ClientMessage {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&room.to_be_bytes());
    let owner = Owner([if role == Role::Sender { 1 } else { 2 }; 16]);
    ClientMessage::Join { room: RoomId(id), role, owner, again: false }
}

impl ClientPool {
    /// A pool without clients.
    pub fn new(relay: SocketAddr, profile: &Profile) -> Self {
        let local: SocketAddr = if relay.is_ipv4() { ([127, 0, 0, 1], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(local).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        let unix_time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let quic = Quic::client(profile, unix_time, &tallow_runtime::seed());
        Self { clients: BTreeMap::new(), socket, relay, quic }
    }

    /// Adds a client, which sends the greeting and these messages.
    pub fn connect(&mut self, to_send: &[ClientMessage]) -> ConnId {
        let conn = self.quic.connect(Instant::now(), self.relay, "relay.test", &Trust::Any).expect("a connection");
        let mut all = vec![ClientMessage::Hello(Hello::new(Features::default()))];
        all.extend_from_slice(to_send);
        let client = Client {
            certificate: None,
            received: Vec::new(),
            paired: false,
            closed: None,
            bytes_received: 0,
            read_limit: None,
            to_send: all,
            main: None,
            decoder: Decoder::new(Caps::Greeting),
            out: BTreeMap::new(),
            readable: Vec::new(),
        };
        self.clients.insert(conn, client);
        conn
    }

    /// Sends this many bytes on a new stream.
    pub fn send(&mut self, conn: ConnId, bytes: usize) {
        let stream = self.quic.open_uni(conn).expect("a stream");
        let client = self.clients.get_mut(&conn).expect("a client");
        client.out.insert(stream, vec![7; bytes].into());
        client.write(&mut self.quic, conn, stream);
    }

    /// Lets a client read this many bytes more.
    pub fn feed(&mut self, conn: ConnId, bytes: usize) {
        let client = self.clients.get_mut(&conn).expect("a client");
        client.read_limit = client.read_limit.map(|left| left + bytes);
        client.read(&mut self.quic, conn);
    }

    /// Closes a client's connection.
    pub fn leave(&mut self, conn: ConnId, code: u32) {
        self.quic.close(Instant::now(), conn, code, "left");
    }

    /// Runs until the condition holds; returns false if it does not in time.
    pub fn until(&mut self, within: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = Instant::now() + within;
        loop {
            self.turn();
            if done(self) {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
        }
    }

    /// The address at which the relay sees all of them.
    pub fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr().expect("an address")
    }

    fn turn(&mut self) {
        let mut buf = [0; 65_536];
        for _ in 0..256 {
            match self.socket.recv_from(&mut buf) {
                Ok((size, from)) => {
                    let arrival = Arrival { socket: SocketId(0), from, local_ip: None, ecn: Ecn::NotEct };
                    self.quic.handle_datagram(Instant::now(), &arrival, BytesMut::from(&buf[..size]));
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                // The error is the consequence of an earlier send.
                Err(_) => {}
            }
        }
        let now = Instant::now();
        self.quic.handle_timeout(now);
        self.quic.settle(now);
        while let Some((conn, event)) = self.quic.poll_event() {
            if let Some(client) = self.clients.get_mut(&conn) {
                client.handle(&mut self.quic, conn, event);
            }
        }
        let mut out = Vec::new();
        while let Some(transmit) = self.quic.poll_transmit(now, NonZeroUsize::MIN, &mut out) {
            // A full buffer is packet loss.
            let _ = self.socket.send_to(&out[..transmit.size], transmit.to);
            out.clear();
        }
    }
}

impl Client {
    fn handle(&mut self, quic: &mut Quic, conn: ConnId, event: quic::Event) {
        match event {
            quic::Event::Connected { certificate } => {
                self.certificate = Some(certificate);
                let main = quic.open_bi(conn).expect("the first stream");
                self.main = Some(main);
                let to_send: Vec<u8> =
                    self.to_send.iter().flat_map(|message| enclose(&wire::encode(message))).collect();
                self.out.insert(main, to_send.into());
                self.write(quic, conn, main);
            }
            quic::Event::Writable(stream) => self.write(quic, conn, stream),
            quic::Event::Readable(stream) => {
                if !self.readable.contains(&stream) {
                    self.readable.push(stream);
                }
                self.read(quic, conn);
            }
            quic::Event::Closed(closed) => self.closed = Some(closed),
            quic::Event::Restarted { .. }
            | quic::Event::Opened(..)
            | quic::Event::Available(_)
            | quic::Event::Finished(_)
            | quic::Event::Stopped(..) => {}
        }
    }

    fn write(&mut self, quic: &mut Quic, conn: ConnId, stream: Stream) {
        let Some(bytes) = self.out.get_mut(&stream) else { return };
        if quic.write(conn, stream, bytes) != Write::Blocked {
            self.out.remove(&stream);
        }
    }

    fn read(&mut self, quic: &mut Quic, conn: ConnId) {
        let mut later = Vec::new();
        for stream in std::mem::take(&mut self.readable) {
            loop {
                let max = if self.paired { self.read_limit.unwrap_or(usize::MAX) } else { usize::MAX };
                if max == 0 {
                    later.push(stream);
                    break;
                }
                let Read::Data(bytes) = quic.read(conn, stream, max) else { break };
                self.take(bytes);
            }
        }
        self.readable = later;
    }

    fn take(&mut self, bytes: Bytes) {
        if self.paired {
            self.bytes_received += bytes.len() as u64;
            self.read_limit = self.read_limit.map(|left| left - bytes.len());
            return;
        }
        self.decoder.push(bytes);
        while let Ok(Some(frame)) = self.decoder.next_frame() {
            let message: RelayMessage = wire::decode(&frame.into_bytes()).expect("a message");
            self.paired |= matches!(message, RelayMessage::Paired { .. });
            self.received.push(message);
        }
    }
}
