//! The options of a relay, and their conversion to a configuration.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tallow_proto::drive::Ending;
use tallow_proto::link::Browsers;
use tallow_proto::link::Identity;
use tallow_proto::net::{KeepAlive, Listen, TcpOptions};
use tallow_proto::peer::DEFAULT_PORT;
use tallow_proto::room::Limits;
use tallow_proto::room::{Config, Tcp, Transport};
use tallow_store::{StoreError, default_dir, identity};

use crate::process;

/// The options of `tallow relay` and of `tallow-relay`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Address to listen on, with UDP and TCP; may be repeated [default: port 4433 of all addresses]
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<SocketAddr>,
    /// Server certificate (PEM); without it a self-signed certificate is created once and kept
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Accept WebSockets without TLS, from a proxy such as nginx that terminates TLS; always accepted at loopback
    /// addresses
    #[arg(long)]
    pub behind_proxy: bool,
    /// Accept WebSockets that web pages open (requests with an Origin header); by default they are refused
    #[arg(long)]
    pub allow_browsers: bool,
    /// Maximum number of TCP connections that wait to be accepted
    #[arg(long, value_name = "N", default_value_t = Listen::BACKLOG)]
    pub tcp_backlog: u32,
    /// Time after which a silent TCP connection is probed, in seconds; 0: never
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub tcp_keep_alive: Duration,
    /// Time after which a TCP connection without acknowledgements is closed, in seconds; 0: the default of the system
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub tcp_user_timeout: Duration,
    /// Serve only clients that know the password in this file (its first line)
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Maximum number of rooms
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_rooms)]
    pub max_rooms: usize,
    /// Maximum number of connections
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_connections)]
    pub max_connections: usize,
    /// Maximum number of rooms of one address (an IPv6 /64)
    #[arg(long, value_name = "N", default_value_t = Limits::default().rooms_per_source)]
    pub max_rooms_per_ip: u32,
    /// Maximum number of connections of one address (an IPv6 /64)
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_per_source)]
    pub connections_per_ip: u32,
    /// Maximum number of room requests of one address per minute
    #[arg(long, value_name = "N", default_value_t = Limits::default().joins_per_minute)]
    pub joins_per_minute: u32,
    /// Time that a room waits for its second client, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = seconds)]
    pub room_ttl: Duration,
    /// Time that running transfers have after SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub drain: Duration,
    /// Directory of the certificate
    #[arg(id = "relay_state_dir", long = "state-dir", hide = true, env = "TALLOW_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
}

/// The reason for which a relay does not run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// The relay can't listen on an address.
    Listen(SocketAddr, Transport, std::io::ErrorKind),
    /// The certificate and the key do not belong together, or are not usable by a server.
    Identity,
    /// A file of the state directory can't be used.
    Store(StoreError),
    /// The password's file can't be read.
    Password(PathBuf, std::io::ErrorKind),
    /// The first line of the password's file is empty.
    NoPassword(PathBuf),
    /// There is no home directory in which a certificate could be stored.
    NoHome,
    /// The system reported an error.
    System(std::io::ErrorKind),
    /// The relay ended without a request.
    Ended(Option<Ending>),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listen(addr, transport, kind) => {
                write!(f, "cannot listen on {addr} ({transport}): {kind}; choose another address with --listen")?;
                if *kind == std::io::ErrorKind::PermissionDenied && addr.port() < 1024 {
                    write!(f, ", or give this program the capability CAP_NET_BIND_SERVICE for ports below 1024")?;
                }
                Ok(())
            }
            Self::Identity => f.write_str(
                "the certificate or its private key cannot be used; check that --tls-cert and --tls-key match",
            ),
            Self::Store(error) => {
                write!(f, "{error}; give a certificate with --tls-cert and --tls-key, or repair that file")
            }
            Self::Password(path, kind) => {
                write!(f, "cannot read a password from {}: {}", path.display(), unreadable(*kind))
            }
            Self::NoPassword(path) => {
                write!(f, "there is no password in {}; its first line must be the password", path.display())
            }
            Self::NoHome => {
                f.write_str("no home directory to store a certificate in; give one with --tls-cert and --tls-key")
            }
            Self::System(kind) => write!(f, "the system refused: {kind}"),
            Self::Ended(Some(Ending::Panicked)) => f.write_str(
                "the relay stopped at an internal error (a bug in tallow, please report it); restart the relay",
            ),
            Self::Ended(_) => {
                f.write_str("the relay stopped without a request; please report it and restart the relay")
            }
        }
    }
}

impl Problem {
    /// The stable exit code.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Listen(..) | Self::System(_) => 5,
            Self::Identity | Self::Store(_) | Self::Password(..) | Self::NoPassword(_) | Self::NoHome => 6,
            Self::Ended(_) => process::INTERNAL_ERROR,
        }
    }
}

impl Options {
    /// The configuration of the relay.
    ///
    /// # Errors
    /// A file can't be read or written.
    pub fn into_config(self) -> Result<Config, Problem> {
        let identity = self.identity()?;
        let tcp = self.tcp();
        let password = self.password_file.map(read_password).transpose()?;
        let listen = if self.listen.is_empty() { default_addresses() } else { self.listen };
        let limits = Limits {
            max_connections: self.max_connections,
            connections_per_source: self.connections_per_ip,
            max_rooms: self.max_rooms,
            rooms_per_source: self.max_rooms_per_ip,
            joins_per_minute: self.joins_per_minute,
        };
        let unix_time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Config {
            listen,
            tcp,
            identity,
            password,
            limits,
            room_ttl: self.room_ttl,
            window_budget: Config::WINDOW_BUDGET,
            unix_time,
            seed: tallow_runtime::seed(),
        })
    }

    fn tcp(&self) -> Tcp {
        let common = TcpOptions::default();
        let idle = self.tcp_keep_alive;
        let keep_alive =
            common.keep_alive.filter(|_| !idle.is_zero()).map(|keep_alive| KeepAlive { idle, ..keep_alive });
        let user_timeout = Some(self.tcp_user_timeout).filter(|timeout| !timeout.is_zero());
        let options = TcpOptions { keep_alive, user_timeout, ..common };
        let browsers = if self.allow_browsers { Browsers::Allowed } else { Browsers::Refused };
        Tcp { behind_proxy: self.behind_proxy, browsers, backlog: self.tcp_backlog, options }
    }

    fn identity(&self) -> Result<Identity, Problem> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => identity::from_pem(cert, key),
            (Some(_), None) | (None, Some(_)) => return Err(Problem::Identity),
            (None, None) => {
                let dir = self.state_dir.clone().or_else(default_dir).ok_or(Problem::NoHome)?;
                identity::load_or_create(&dir)
            }
        }
        .map_err(Problem::Store)
    }
}

/// All addresses of both families. On a system without IPv6 the relay falls back to IPv4.
fn default_addresses() -> Vec<SocketAddr> {
    vec![SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), DEFAULT_PORT)]
}

fn read_password(path: PathBuf) -> Result<Arc<str>, Problem> {
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return Err(Problem::Password(path, error.kind())),
    };
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.into()),
        Some(_) | None => Err(Problem::NoPassword(path)),
    }
}

/// The reason for which a file can't be read, with a hint.
fn unreadable(kind: std::io::ErrorKind) -> String {
    use std::io::ErrorKind;
    match kind {
        ErrorKind::NotFound => "there is no such file; check --password-file".to_owned(),
        ErrorKind::PermissionDenied => "permission denied; let the relay's user read it".to_owned(),
        ErrorKind::IsADirectory => "it is a directory; name a file with --password-file".to_owned(),
        ErrorKind::InvalidData => "it is not valid UTF-8; its first line must be the password".to_owned(),
        other => format!("{other}; check --password-file"),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "expected a number of seconds".to_owned())
}
