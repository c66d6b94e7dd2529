//! The sockets for direct paths: one UDP socket for each address family and a TCP listener. Each has a port that the
//! system chose, or one from the user's range, which is tried from the first to the last.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use super::super::network::{DIRECT_TCP, DIRECT_V4, DIRECT_V6, Network};
use super::direct::Direct;
use super::ports::{Kind, Options};
use crate::Instant;
use crate::net::{Action, SocketId};
use crate::p2p::candidate::Family;

impl Direct {
    pub(super) fn bind(&self, kind: Kind, net: &mut Network) {
        let Some(options) = &self.options else { return };
        match (kind, options.trying) {
            // A gateway's mapping leads to a port, and is taken back with this transfer.
            (Kind::V4, [port, ..]) if self.portmap.is_some() => {
                net.bind_own(DIRECT_V4, SocketAddr::from(([0, 0, 0, 0], port)));
            }
            (Kind::V4, [port, ..]) => net.bind(DIRECT_V4, SocketAddr::from(([0, 0, 0, 0], port))),
            (Kind::V6, [_, port, _]) => net.bind(DIRECT_V6, SocketAddr::from(([0_u16; 8], port))),
            (Kind::Tcp, [.., port]) => net.listen_direct(SocketAddr::new(options.listening, port)),
        }
    }

    /// Tries the next port of the user's range. Returns false if there is none.
    fn bind_next(&mut self, kind: Kind, net: &mut Network) -> bool {
        let Some(Options { ports: Some((_, last)), trying: [v4, v6, tcp], .. }) = &mut self.options else {
            return false;
        };
        let port = match kind {
            Kind::V4 => v4,
            Kind::V6 => v6,
            Kind::Tcp => tcp,
        };
        if *port >= *last {
            return false;
        }
        *port = port.saturating_add(1);
        self.bind(kind, net);
        true
    }

    /// A direct socket was bound, or could not be bound.
    pub fn handle_bound(
        &mut self,
        now: Instant,
        socket: SocketId,
        result: Result<SocketAddr, io::ErrorKind>,
        net: &mut Network,
    ) {
        let (family, kind) = if socket == DIRECT_V4 { (Family::V4, Kind::V4) } else { (Family::V6, Kind::V6) };
        let Some(options) = &self.options else { return net.release(socket) };
        match result {
            Ok(local) if net.open_direct(socket, &options.identity) => {
                self.gather.handle_bound(now, family, local);
                if let (Family::V4, Some(portmap)) = (family, &mut self.portmap) {
                    portmap.start(now, local.port());
                }
            }
            Err(io::ErrorKind::AddrInUse) if self.bind_next(kind, net) => {}
            Ok(_) | Err(_) => {
                net.release(socket);
                self.gather.handle_absent(now, family);
            }
        }
    }

    /// The listener was opened, or could not be opened.
    pub fn handle_listening(&mut self, now: Instant, result: Result<SocketAddr, io::ErrorKind>, net: &mut Network) {
        match (result, &mut self.options) {
            (Ok(_), None) => net.act(Action::Unlisten(DIRECT_TCP)),
            (Ok(local), Some(_)) => self.gather.handle_listening(now, local),
            (Err(io::ErrorKind::AddrInUse), _) => {
                let _ = self.bind_next(Kind::Tcp, net);
            }
            (Err(_), Some(options)) if options.listening.is_ipv6() => {
                options.listening = Ipv4Addr::UNSPECIFIED.into();
                self.bind(Kind::Tcp, net);
            }
            (Err(_), _) => {}
        }
    }
}
