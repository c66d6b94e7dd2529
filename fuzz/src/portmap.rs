//! A port mapper, and messages of its gateway or of other hosts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tallow_portmap::{Action, Config, ConnectionEvent, ConnectionId, Interface, MAX_CONNECTIONS, PortMapper, Protocol};

use crate::steps::steps;

/// A datagram from the port of PCP and NAT-PMP; in a PCP answer the nonce is replaced by that of the last request.
pub const GATEWAY: u8 = 0;
/// A datagram from the port of SSDP.
pub const SSDP: u8 = 1;
/// A datagram from another machine.
pub const OTHER: u8 = 2;
/// Bytes for the newest connection.
pub const TCP: u8 = 3;
/// The newest connection ends, or fails if there is a body.
pub const END: u8 = 4;
/// Milliseconds pass (16 bits); without a body, the time until the next deadline.
pub const TIME: u8 = 5;
/// The mapping is removed, or requested again.
pub const TURN: u8 = 6;

/// The address of the gateway.
pub const HOME: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

/// Runs the steps against a port mapper that uses the protocols of the first byte; returns the protocols that ever
/// had a mapping.
///
/// # Panics
/// The port mapper exceeded one of its bounds.
pub fn run(data: &[u8]) -> Vec<Protocol> {
    let Some((&first, data)) = data.split_first() else { return Vec::new() };
    let protocols = match first % 4 {
        0 => &[Protocol::Pcp, Protocol::NatPmp, Protocol::Upnp][..],
        1 => &[Protocol::Pcp],
        2 => &[Protocol::NatPmp],
        _ => &[Protocol::Upnp],
    };
    let mut now = Instant::now();
    let mut map = PortMapper::new(Config::default().with_protocols(protocols), [1; 32]);
    let interface = Interface { addr: [192, 168, 1, 2].into(), prefix: 24 };
    map.handle_gateways(now, &[HOME.into()]);
    map.handle_interfaces(now, &[interface]);
    map.start(now, 40_000);
    let mut outside = Outside::default();
    outside.serve(now, &mut map);
    for (tag, body) in steps(data) {
        let from = |ip, port| SocketAddr::new(IpAddr::V4(ip), port);
        match tag % 7 {
            GATEWAY => {
                let mut body = body.to_vec();
                if let (Some(room), Some(nonce)) = (body.get_mut(24..36), &outside.nonce)
                    && room.iter().all(|&byte| byte == 0)
                {
                    room.copy_from_slice(nonce);
                }
                map.handle_datagram(now, from(HOME, 5351), &body);
            }
            SSDP => map.handle_datagram(now, from(HOME, 1900), body),
            OTHER => map.handle_datagram(now, from(Ipv4Addr::new(192, 168, 1, 9), 5351), body),
            TCP => outside.feed(now, &mut map, body),
            END => {
                if let Some(&id) = outside.connections.last() {
                    let event = if body.is_empty() { ConnectionEvent::Eof } else { ConnectionEvent::Failed };
                    outside.connections.retain(|&other| other != id || event == ConnectionEvent::Eof);
                    map.handle_connection(now, id, event);
                }
            }
            TIME => {
                match body {
                    [high, low, ..] => now += Duration::from_millis(u16::from_be_bytes([*high, *low]).into()),
                    _ => now = map.poll_timeout().unwrap_or(now).max(now),
                }
                map.handle_timeout(now);
            }
            _ if map.is_released() => map.start(now, 40_000),
            _ => map.release(now),
        }
        outside.serve(now, &mut map);
    }
    map.release(now);
    outside.serve(now, &mut map);
    now += Duration::from_secs(1);
    map.handle_timeout(now);
    outside.serve(now, &mut map);
    assert!(map.is_released() && outside.connections.is_empty(), "nothing is left open");
    outside.mapped
}

#[derive(Default)]
struct Outside {
    connections: Vec<ConnectionId>,
    nonce: Option<[u8; 12]>,
    mapped: Vec<Protocol>,
}

impl Outside {
    fn serve(&mut self, now: Instant, map: &mut PortMapper) {
        while let Some(action) = map.poll_action() {
            match action {
                Action::OpenSocket => map.handle_socket(now, true),
                Action::Connect(id, to) => {
                    assert!(*to.ip() == HOME, "only the gateway is connected to");
                    self.connections.push(id);
                    assert!(self.connections.len() <= MAX_CONNECTIONS, "a few at a time");
                    map.handle_connection(now, id, ConnectionEvent::Connected);
                }
                Action::Close(id) | Action::Abort(id) => self.connections.retain(|&other| other != id),
                _ => {}
            }
        }
        let mut sent = 0;
        while let Some(out) = map.poll_transmit() {
            sent += 1;
            if out.data.len() == 60 {
                self.nonce = out.data[24..36].try_into().ok();
            }
        }
        assert!(sent <= 12, "{sent} datagrams at once");
        while map.poll_event().is_some() {
            self.mapped.extend(map.protocol());
        }
    }

    /// Bytes that were not read when the connection ended are dropped.
    fn feed(&mut self, now: Instant, map: &mut PortMapper, mut bytes: &[u8]) {
        let Some(&id) = self.connections.last() else { return };
        while !bytes.is_empty() && self.connections.last() == Some(&id) {
            let buffer = map.receive_buffer(id);
            let count = buffer.len().min(bytes.len());
            assert!(count > 0, "an open connection is read");
            let (piece, rest) = bytes.split_at(count);
            buffer[..count].copy_from_slice(piece);
            bytes = rest;
            map.handle_connection(now, id, ConnectionEvent::Received(count));
            self.serve(now, map);
        }
    }
}
