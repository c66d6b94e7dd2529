//! A machine that wants a port mapped, and steps of the gateway (or of anybody else) that it asks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tallow_proto::net::{Action, Interface, PipeEvent, PipeId};
use tallow_proto::p2p::portmap::{FIRST_PIPE, MAX_PIPES, PortMap, Protocol};
use tallow_proto::seed::Seed;

use crate::steps::steps;

/// A datagram from the port of PCP and NAT-PMP; a PCP answer has the nonce of the last request put in.
pub const GATEWAY: u8 = 0;
/// A datagram from the port of SSDP.
pub const SSDP: u8 = 1;
/// A datagram from another machine.
pub const OTHER: u8 = 2;
/// Bytes for the newest pipe.
pub const PIPE: u8 = 3;
/// It ends, or fails if there is a body.
pub const END: u8 = 4;
/// Milliseconds pass, 16 bits of them; without a body until the next deadline.
pub const TIME: u8 = 5;
/// The mapping is taken back, or wanted again.
pub const TURN: u8 = 6;

/// Where the gateway is.
pub const HOME: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

/// Runs the steps against a machine that asks by the protocols of the first byte; returns what was ever mapped.
///
/// # Panics
/// It broke one of its bounds.
pub fn run(data: &[u8]) -> Vec<Protocol> {
    let Some((&first, data)) = data.split_first() else { return Vec::new() };
    let protocols = match first % 4 {
        0 => &[Protocol::Pcp, Protocol::NatPmp, Protocol::Upnp][..],
        1 => &[Protocol::Pcp],
        2 => &[Protocol::NatPmp],
        _ => &[Protocol::Upnp],
    };
    let mut now = Instant::now();
    let mut map = PortMap::with(&Seed::new([1; 32]), protocols);
    let interface = Interface { name: "eth0".to_owned(), addr: [192, 168, 1, 2].into(), prefix: 24 };
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
            PIPE => outside.feed(now, &mut map, body),
            END => {
                if let Some(&pipe) = outside.pipes.last() {
                    let failed = PipeEvent::Failed(std::io::ErrorKind::ConnectionReset);
                    let event = if body.is_empty() { PipeEvent::Eof } else { failed };
                    outside.pipes.retain(|&other| other != pipe || event == PipeEvent::Eof);
                    map.handle_pipe(now, pipe, event);
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
    assert!(map.is_released() && outside.pipes.is_empty(), "nothing is waited for");
    outside.mapped
}

#[derive(Default)]
struct Outside {
    pipes: Vec<PipeId>,
    nonce: Option<[u8; 12]>,
    mapped: Vec<Protocol>,
}

impl Outside {
    fn serve(&mut self, now: Instant, map: &mut PortMap) {
        while let Some(action) = map.poll_action() {
            match action {
                Action::Bind(_, bind) => map.handle_bound(now, Ok(bind.addr)),
                Action::Dial(pipe, dial) => {
                    assert!(dial.to.ip() == IpAddr::V4(HOME) && pipe >= FIRST_PIPE, "only the gateway is dialled");
                    self.pipes.push(pipe);
                    assert!(self.pipes.len() <= MAX_PIPES, "a few at a time");
                    map.handle_pipe(now, pipe, PipeEvent::Up);
                }
                Action::Abort(pipe) => self.pipes.retain(|&other| other != pipe),
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

    /// What was not read when the pipe ended is for nobody.
    fn feed(&mut self, now: Instant, map: &mut PortMap, mut bytes: &[u8]) {
        let Some(&pipe) = self.pipes.last() else { return };
        while !bytes.is_empty() && self.pipes.last() == Some(&pipe) {
            let buffer = map.pipe_buffer(pipe);
            let count = buffer.len().min(bytes.len());
            assert!(count > 0, "an open pipe is read");
            let (piece, rest) = bytes.split_at(count);
            buffer[..count].copy_from_slice(piece);
            bytes = rest;
            map.handle_pipe(now, pipe, PipeEvent::Filled(count));
            self.serve(now, map);
        }
    }
}
