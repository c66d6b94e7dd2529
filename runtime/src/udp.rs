//! A UDP socket for the driver: how it is bound, and how its calls are passed to the system (quinn-udp: GSO, GRO,
//! ECN).
//!
//! It decides that IPv4 addresses stay IPv4 addresses: an address that a dual-stack socket reports as
//! `::ffff:a.b.c.d` is converted to `a.b.c.d`, and converted back when a datagram is sent to it. So a node can
//! compare addresses and never gets a mapped one.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Once;

use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tallow_proto::drive::Received;
use tallow_proto::net::{Bind, Ecn, Transmit};

/// The size of the buffers to request in each direction, in bytes. With the usual defaults thousands of packets per
/// GiB are lost.
const BUFFER: usize = 4 << 20;
/// Multicast DNS sends with this hop limit (RFC 6762 §11).
const MULTICAST_TTL: u32 = 255;

/// The state of quinn-udp for a socket; the socket itself belongs to the runtime.
#[derive(Debug)]
pub struct State {
    inner: UdpSocketState,
    is_ipv6: bool,
}

/// Opens a non-blocking socket.
///
/// # Errors
/// The error of the system: the address is in use, does not belong to this machine, or is of a family that it lacks;
/// no interface can join the multicast group.
pub fn bind(bind: &Bind) -> io::Result<(std::net::UdpSocket, State)> {
    let socket = Socket::new(Domain::for_address(bind.addr), Type::DGRAM, Some(Protocol::UDP))?;
    if bind.addr.is_ipv6() {
        // If the system does not support it, the socket accepts IPv6 only.
        let _ = socket.set_only_v6(!(bind.dual_stack && bind.addr.ip().is_unspecified()));
    }
    if bind.share_port {
        socket.set_reuse_address(true)?;
        #[cfg(unix)]
        socket.set_reuse_port(true)?;
    }
    enlarge_buffers(&socket);
    socket.bind(&bind.addr.into())?;
    if let Some(group) = bind.group {
        join(&socket, group)?;
    }
    let state = State { inner: UdpSocketState::new((&socket).into())?, is_ipv6: bind.addr.is_ipv6() };
    Ok((socket.into(), state))
}

impl State {
    /// How many datagrams one call can send currently.
    #[must_use]
    pub fn max_segments(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.inner.max_gso_segments()).unwrap_or(NonZeroUsize::MIN)
    }

    /// Receives into the buffers, beginning with the first one.
    ///
    /// # Errors
    /// `WouldBlock` if no datagram is available; any other error is the consequence of an earlier send.
    pub fn recv<'s, S>(
        &self,
        socket: &'s S,
        bufs: &mut [IoSliceMut<'_>],
        received: &mut [Received],
    ) -> io::Result<usize>
    where
        UdpSockRef<'s>: From<&'s S>,
    {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let count = bufs.len().min(received.len()).min(BATCH_SIZE);
        let count = self.inner.recv(socket.into(), &mut bufs[..count], &mut metas[..count])?;
        for (meta, received) in metas[..count].iter().zip(received) {
            *received = Received {
                from: canonical(meta.addr),
                local_ip: meta.dst_ip.map(|ip| ip.to_canonical()),
                ecn: meta.ecn.map_or(Ecn::NotEct, ecn),
                len: meta.len,
                stride: meta.stride,
            };
        }
        Ok(count)
    }

    /// Sends one datagram, or a batch.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room; any other error means that the datagram is lost.
    pub fn send<'s, S>(&self, socket: &'s S, transmit: &Transmit, contents: &[u8]) -> io::Result<()>
    where
        UdpSockRef<'s>: From<&'s S>,
    {
        let transmit = quinn_udp::Transmit {
            destination: SocketAddr::new(self.mapped(transmit.to.ip()), transmit.to.port()),
            ecn: codepoint(transmit.ecn),
            contents,
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip.map(|ip| self.mapped(ip)),
        };
        self.inner.try_send(socket.into(), &transmit)
    }

    /// The address in the socket's family.
    fn mapped(&self, ip: IpAddr) -> IpAddr {
        match ip {
            IpAddr::V4(ip) if self.is_ipv6 => ip.to_ipv6_mapped().into(),
            IpAddr::V4(_) | IpAddr::V6(_) => ip,
        }
    }
}

/// The address in the form that a node uses: IPv4 addresses are not mapped into IPv6.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(_) => addr,
        // An IPv6 address keeps its scope.
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped().map_or(addr, |ip| SocketAddr::from((ip, v6.port()))),
    }
}

const fn ecn(codepoint: EcnCodepoint) -> Ecn {
    match codepoint {
        EcnCodepoint::Ect0 => Ecn::Ect0,
        EcnCodepoint::Ect1 => Ecn::Ect1,
        EcnCodepoint::Ce => Ecn::Ce,
    }
}

const fn codepoint(ecn: Ecn) -> Option<EcnCodepoint> {
    match ecn {
        Ecn::NotEct => None,
        Ecn::Ect0 => Some(EcnCodepoint::Ect0),
        Ecn::Ect1 => Some(EcnCodepoint::Ect1),
        Ecn::Ce => Some(EcnCodepoint::Ce),
    }
}

/// Enlarges the buffers as far as the system allows, and logs once if that is less than requested.
fn enlarge_buffers(socket: &Socket) {
    static SAID: Once = Once::new();
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    let receive = socket.recv_buffer_size().unwrap_or_default();
    let send = socket.send_buffer_size().unwrap_or_default();
    if receive < BUFFER || send < BUFFER {
        SAID.call_once(|| {
            tracing::warn!(receive, send, wanted = BUFFER, "small socket buffers; fast transfers may lose packets");
        });
    }
}

/// Joins the group on every interface that allows it; interfaces that come up later are not included.
fn join(socket: &Socket, group: IpAddr) -> io::Result<()> {
    let interfaces = if_addrs::get_if_addrs()?;
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    match group {
        IpAddr::V4(group) => {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            socket.set_multicast_all_v4(false)?;
            socket.set_multicast_loop_v4(true)?;
            socket.set_multicast_ttl_v4(MULTICAST_TTL)?;
            for interface in &interfaces {
                let IpAddr::V4(ip) = interface.ip() else { continue };
                result = result.or(socket.join_multicast_v4(&group, &ip));
            }
            result.or_else(|_| socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED))
        }
        IpAddr::V6(group) => {
            socket.set_multicast_loop_v6(true)?;
            socket.set_multicast_hops_v6(MULTICAST_TTL)?;
            for index in interfaces.iter().filter(|interface| interface.ip().is_ipv6()).filter_map(|i| i.index) {
                result = result.or(socket.join_multicast_v6(&group, index));
            }
            result.or_else(|_| socket.join_multicast_v6(&group, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Bind = Bind {
        addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        dual_stack: true,
        share_port: false,
        group: None,
        slot: None,
    };

    /// Receives one datagram; fails if none arrives.
    fn receive(socket: &std::net::UdpSocket, state: &State) -> (Received, Vec<u8>) {
        let mut buf = vec![0; 65_536];
        let mut received = [Received::NONE];
        for _ in 0..1000 {
            match state.recv(socket, &mut [IoSliceMut::new(&mut buf)], &mut received) {
                Ok(count) => {
                    assert_eq!(count, 1);
                    buf.truncate(received[0].len);
                    return (received[0], buf);
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("nothing came");
    }

    fn transmit(to: SocketAddr, ecn: Ecn, size: usize) -> Transmit {
        Transmit { to, src_ip: None, ecn, size, segment_size: None }
    }

    #[test]
    fn dual_stack_socket_reports_plain_ipv4_addresses() {
        let Ok((dual, dual_state)) = bind(&Bind { addr: "[::]:0".parse().unwrap(), ..ANY }) else {
            println!("skipped: no IPv6 here");
            return;
        };
        let (v4, v4_state) = bind(&ANY).unwrap();
        let (port, v4_addr) = (dual.local_addr().unwrap().port(), v4.local_addr().unwrap());

        v4_state.send(&v4, &transmit(SocketAddr::from(([127, 0, 0, 1], port)), Ecn::Ect0, 2), b"hi").unwrap();
        let (received, data) = receive(&dual, &dual_state);
        assert_eq!((received.from, &data[..], received.ecn), (v4_addr, &b"hi"[..], Ecn::Ect0));
        assert_eq!(received.local_ip, Some(Ipv4Addr::LOCALHOST.into()));

        let answer = Transmit { src_ip: received.local_ip, ..transmit(received.from, Ecn::Ce, 5) };
        dual_state.send(&dual, &answer, b"hello").unwrap();
        let (received, data) = receive(&v4, &v4_state);
        assert_eq!((received.from.port(), &data[..], received.ecn), (port, &b"hello"[..], Ecn::Ce));
    }

    #[test]
    fn both_families_can_bind_same_port() {
        let any = |ip: IpAddr, port| Bind { addr: SocketAddr::new(ip, port), dual_stack: false, ..ANY };
        // Another program may use one of the ports.
        let both = || {
            let (v6, _) = bind(&any(std::net::Ipv6Addr::UNSPECIFIED.into(), 0))?;
            bind(&any(Ipv4Addr::UNSPECIFIED.into(), v6.local_addr()?.port())).map(|_| ())
        };
        let tried: Vec<_> = (0..8).map(|_| both().map_err(|error| error.kind())).collect();
        if tried.iter().all(|tried| !matches!(tried, Ok(()) | Err(io::ErrorKind::AddrInUse))) {
            println!("skipped: no IPv6 here: {tried:?}");
            return;
        }
        assert!(tried.contains(&Ok(())), "{tried:?}");
    }

    #[test]
    fn port_in_use_is_an_error_unless_shared() {
        let (first, _) = bind(&ANY).unwrap();
        let taken = Bind { addr: first.local_addr().unwrap(), ..ANY };
        assert_eq!(bind(&taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let (first, _) = bind(&Bind { share_port: true, ..ANY }).unwrap();
        let shared = Bind { addr: first.local_addr().unwrap(), share_port: true, ..ANY };
        assert!(bind(&shared).is_ok());
    }

    #[test]
    fn multicast_reaches_all_sockets_sharing_port() {
        let group = IpAddr::from([239, 255, 77, 77]);
        let any = Bind {
            addr: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            dual_stack: true,
            share_port: true,
            group: Some(group),
            slot: None,
        };
        let Ok((first, first_state)) = bind(&any) else {
            println!("skipped: no interface takes multicast here");
            return;
        };
        let port = first.local_addr().unwrap().port();
        let (second, second_state) =
            bind(&Bind { addr: SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), ..any }).unwrap();
        let from = crate::addresses().into_iter().find(|ip| ip.is_ipv4() && !ip.is_loopback());
        let to_all = Transmit { src_ip: from, ..transmit(SocketAddr::new(group, port), Ecn::NotEct, 1) };
        if let Err(error) = first_state.send(&first, &to_all, b"x") {
            println!("skipped: no route for multicast here ({error})");
            return;
        }
        assert_eq!(receive(&first, &first_state).1, b"x");
        assert_eq!(receive(&second, &second_state).1, b"x");
    }
}
