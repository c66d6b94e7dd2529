//! TCP sockets for the driver: how they are opened, connected and ended. An adapter registers them with its reactor.
//!
//! As for UDP, IPv4 addresses stay IPv4 addresses: an address that a dual-stack listener reports as `::ffff:a.b.c.d`
//! is converted to `a.b.c.d`.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tallow_proto::net::{Dial, Listen, TcpOptions};

pub use crate::udp::canonical;

/// Opens a non-blocking listener.
///
/// # Errors
/// The error of the system: the address is in use, does not belong to this machine, or is of a family that it lacks.
pub fn listen(listen: &Listen) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(listen.addr), Type::STREAM, Some(Protocol::TCP))?;
    if listen.addr.is_ipv6() {
        // If the system does not support it, the socket accepts IPv6 only.
        let _ = socket.set_only_v6(!(listen.dual_stack && listen.addr.ip().is_unspecified()));
    }
    // A relay that restarts finds the port in TIME_WAIT. On Windows the option would share the port with other
    // programs.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.addr.into())?;
    socket.listen(i32::try_from(listen.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Starts to connect a non-blocking socket. It becomes writable when the attempt has ended; [`connected`] then
/// returns the result.
///
/// # Errors
/// The immediate error of the system: no descriptor, no route, no such family.
pub fn connect(dial: &Dial) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(dial.to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    set_options(&socket, &dial.options);
    match socket.connect(&dial.to.into()) {
        Err(error) if !is_under_way(&error) => Err(error),
        Ok(()) | Err(_) => Ok(socket.into()),
    }
}

fn is_under_way(error: &io::Error) -> bool {
    #[cfg(unix)]
    {
        error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
    }
    #[cfg(not(unix))]
    {
        error.kind() == io::ErrorKind::WouldBlock
    }
}

/// The result of the attempt to connect, once the socket is writable.
///
/// # Errors
/// The reason why it is not connected.
pub fn connected<'s, S>(socket: &'s S) -> io::Result<()>
where
    SockRef<'s>: From<&'s S>,
{
    SockRef::from(socket).take_error()?.map_or(Ok(()), Err)
}

/// Sets the options; options that the system does not support are skipped.
pub fn set_options<'s, S>(socket: &'s S, options: &TcpOptions)
where
    SockRef<'s>: From<&'s S>,
{
    let socket = SockRef::from(socket);
    let results = [
        socket.set_tcp_nodelay(options.no_delay),
        match options.keep_alive {
            Some(keep_alive) => {
                // The system uses whole seconds and does not accept zero.
                let second = Duration::from_secs(1);
                let params = TcpKeepalive::new()
                    .with_time(keep_alive.idle.max(second))
                    .with_interval(keep_alive.interval.max(second))
                    .with_retries(keep_alive.probes.max(1));
                socket.set_tcp_keepalive(&params)
            }
            None => socket.set_keepalive(false),
        },
        #[cfg(any(target_os = "linux", target_os = "android"))]
        options.user_timeout.map_or(Ok(()), |timeout| socket.set_tcp_user_timeout(Some(timeout))),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "an option of a TCP socket is not to be had");
    }
}

/// Sends FIN. It is not an error if the connection has failed already: reading reports that.
pub fn finish<'s, S>(socket: &'s S)
where
    SockRef<'s>: From<&'s S>,
{
    let _ = SockRef::from(socket).shutdown(Shutdown::Write);
}

/// Makes closing this socket reset the connection and drop unsent bytes.
pub fn reset_on_close<'s, S>(socket: &'s S)
where
    SockRef<'s>: From<&'s S>,
{
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// The address to which a listener is bound.
///
/// # Errors
/// The error of the system.
pub fn local_addr<'s, S>(socket: &'s S) -> io::Result<SocketAddr>
where
    SockRef<'s>: From<&'s S>,
{
    SockRef::from(socket).local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use tallow_proto::net::KeepAlive;

    use super::*;

    const LOOPBACK: &str = "127.0.0.1:0";

    fn any(addr: &str) -> Listen {
        Listen::from(addr.parse::<SocketAddr>().unwrap())
    }

    /// Both ends of a connection, blocking.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = listen(&any(LOOPBACK)).unwrap();
        listener.set_nonblocking(false).unwrap();
        let dialled = connect(&listener.local_addr().unwrap().into()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        dialled.set_nonblocking(false).unwrap();
        connected(&dialled).unwrap();
        (dialled, accepted)
    }

    #[test]
    fn the_options_reach_the_socket() {
        let (_, accepted) = pair();
        let keep_alive = KeepAlive { idle: Duration::from_secs(31), interval: Duration::from_secs(11), probes: 4 };
        let timeout = Duration::from_millis(12_345);
        let options = TcpOptions { no_delay: true, keep_alive: Some(keep_alive), user_timeout: Some(timeout) };
        set_options(&accepted, &options);
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), keep_alive.idle);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), keep_alive.interval);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), keep_alive.probes);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(timeout));
        set_options(&accepted, &TcpOptions { no_delay: false, keep_alive: None, user_timeout: None });
        assert!(!socket.tcp_nodelay().unwrap() && !socket.keepalive().unwrap());
    }

    #[test]
    fn dual_stack_listener_reports_plain_ipv4_addresses() {
        let Ok(listener) = listen(&any("[::]:0")) else {
            println!("skipped: no IPv6 here");
            return;
        };
        listener.set_nonblocking(false).unwrap();
        let port = listener.local_addr().unwrap().port();
        let dialled = connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
        let (_, from) = listener.accept().unwrap();
        assert_eq!(canonical(from), dialled.local_addr().unwrap());

        let alone = listen(&Listen { dual_stack: false, ..any("[::]:0") }).unwrap();
        let port = alone.local_addr().unwrap().port();
        // IPv4 still can use the port.
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
    }

    #[test]
    fn port_in_use_is_an_error_and_recently_closed_is_not() {
        let (dialled, accepted) = pair();
        let addr = accepted.local_addr().unwrap();
        let listener = listen(&Listen::from(addr)).unwrap();
        assert_eq!(listen(&Listen::from(addr)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop((listener, dialled, accepted));
    }

    #[test]
    fn finished_end_still_reads_and_reset_is_reported() {
        let (mut dialled, mut accepted) = pair();
        finish(&dialled);
        assert_eq!(accepted.read(&mut [0; 8]).unwrap(), 0);
        io::Write::write_all(&mut accepted, b"still").unwrap();
        reset_on_close(&accepted);
        let mut read = [0; 5];
        dialled.read_exact(&mut read).unwrap();
        drop(accepted);
        assert_eq!(dialled.read(&mut read).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
