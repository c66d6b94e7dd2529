//! TLS 1.3 over the bytes of one TCP connection: the unbuffered connection of rustls, which works in the TCP
//! connection's own buffers.
//!
//! Decides only how errors are reported; [`super::trust`] decides which certificates are accepted. A record is
//! decrypted in the buffer into which it was read; rustls copies its contents once, and writes a sealed record once
//! into a piece of output. No timers.
//! ```text
//! handshaking → open → (the other side's close_notify) ended │ failed: the alert is in the output
//! ```
//! Bounds: [`CLIENT_BACKLOG`], [`SERVER_BACKLOG`] and [`OPEN_BACKLOG`] bytes of unfinished handshake messages or
//! records.

use std::sync::Arc;

use bytes::Bytes;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{AlertDescription, ClientConfig, Error, ServerConfig};

use super::buffers::{Input, Output};
use super::trust::{CertificateRefused, CertificateSeen, Verifier};

/// Maximum number of bytes of an incomplete handshake message that a client buffers: a chain of certificates may have
/// 64 KiB. If a message arrives in tiny records, the overhead of all its records is buffered, too.
const CLIENT_BACKLOG: usize = 128 * 1024;
/// The same limit at a server, which has thousands of unauthenticated clients: a ClientHello has about 2 KiB.
const SERVER_BACKLOG: usize = 16 * 1024;
/// The same limit on either side after the handshake: a record (16 KiB and its overhead), or a small message.
const OPEN_BACKLOG: usize = 32 * 1024;
/// Bytes that encryption adds to a record: header (5), content type (1), tag (16).
const RECORD_OVERHEAD: usize = 22;
/// Maximum length of a record's plaintext (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;
/// Room for a record with an alert.
const ALERT: usize = 64;

/// Why TLS failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TlsFailure {
    /// This side refused the server's certificate.
    #[error(transparent)]
    CertificateRefused(CertificateRefused),
    /// The two sides have no protocol in common (RFC 7301).
    #[error("the other end is not a tallow relay or peer of a supported version")]
    NoCommonProtocol,
    /// The received bytes are not TLS.
    #[error("the other end does not use TLS")]
    NotTls,
    /// The other side sent this alert (RFC 8446 §6).
    #[error("the other end ended TLS with alert {0}")]
    Alert(u8),
    /// The other side violated TLS, or has no version or algorithm in common with this side.
    #[error("the other end violated TLS")]
    Broken,
}

/// The result of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There may be more to do.
    Again,
    /// More input is needed.
    Wait,
}

/// The data to be encrypted.
#[derive(Clone, Copy)]
enum Seal<'a> {
    Nothing,
    Plain(&'a [u8]),
    CloseNotify,
}

enum End {
    Client(Box<UnbufferedClientConnection>, Arc<Verifier>),
    Server(Box<UnbufferedServerConnection>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// The other side has sent `close_notify`.
    Ended,
    Failed,
}

/// The TLS connection of one TCP connection; the module's documentation describes its states.
pub(super) struct Tls {
    end: End,
    state: State,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Tls {
    pub(super) fn client(config: ClientConfig, name: ServerName<'static>, verifier: Arc<Verifier>) -> Option<Self> {
        let connection = UnbufferedClientConnection::new(Arc::new(config), name).ok()?;
        Some(Self { end: End::Client(Box::new(connection), verifier), state: State::Running })
    }

    pub(super) fn server(config: Arc<ServerConfig>) -> Option<Self> {
        let connection = UnbufferedServerConnection::new(config).ok()?;
        Some(Self { end: End::Server(Box::new(connection)), state: State::Running })
    }

    /// Processes the input until there is plaintext, or output, or nothing to do. The caller repeats this until
    /// [`Step::Wait`].
    pub(super) fn step(
        &mut self,
        input: &mut Input,
        output: &mut Output,
        deliver: &mut dyn FnMut(&[u8]),
    ) -> Result<Step, TlsFailure> {
        match self.state {
            State::Running => self.work(input, output, deliver, Seal::Nothing),
            State::Ended | State::Failed => {
                input.clear();
                Ok(Step::Wait)
            }
        }
    }

    /// Encrypts these bytes. The caller must have called [`Self::step`] until [`Step::Wait`] before.
    pub(super) fn send(&mut self, input: &mut Input, output: &mut Output, plain: &[u8]) -> Result<(), TlsFailure> {
        self.seal(input, output, Seal::Plain(plain))
    }

    /// Sends `close_notify`.
    pub(super) fn close(&mut self, input: &mut Input, output: &mut Output) -> Result<(), TlsFailure> {
        self.seal(input, output, Seal::CloseNotify)
    }

    fn seal(&mut self, input: &mut Input, output: &mut Output, what: Seal<'_>) -> Result<(), TlsFailure> {
        if self.state == State::Failed {
            return Err(TlsFailure::Broken);
        }
        let mut lost = false;
        while self.work(input, output, &mut |_| lost = true, what)? == Step::Again {}
        if lost { Err(TlsFailure::Broken) } else { Ok(()) }
    }

    fn work(
        &mut self,
        input: &mut Input,
        output: &mut Output,
        deliver: &mut dyn FnMut(&[u8]),
        what: Seal<'_>,
    ) -> Result<Step, TlsFailure> {
        let (discard, done) = match &mut self.end {
            End::Client(connection, _) => {
                work(connection.process_tls_records(input.bytes_mut()), output, deliver, what)
            }
            End::Server(connection) => work(connection.process_tls_records(input.bytes_mut()), output, deliver, what),
        };
        input.consume(discard);
        match done {
            Ok(Done::Again) => Ok(Step::Again),
            Ok(Done::Ended) => {
                self.state = State::Ended;
                Ok(Step::Again)
            }
            Ok(Done::Wait) if input.len() > self.max_backlog() => {
                Err(self.fail(output, &Error::PeerSentOversizedRecord))
            }
            Ok(Done::Wait) => Ok(Step::Wait),
            Err(error) => Err(self.fail(output, &error)),
        }
    }

    fn max_backlog(&self) -> usize {
        match (self.is_handshaking(), &self.end) {
            (false, _) => OPEN_BACKLOG,
            (true, End::Client(..)) => CLIENT_BACKLOG,
            (true, End::Server(_)) => SERVER_BACKLOG,
        }
    }

    /// Sends the alert; the connection is not used from then on.
    fn fail(&mut self, output: &mut Output, error: &Error) -> TlsFailure {
        self.state = State::Failed;
        let verdict = match &mut self.end {
            End::Client(connection, verifier) => {
                while connection.wants_write() {
                    let _ = work(connection.process_tls_records(&mut []), output, &mut |_| {}, Seal::Nothing);
                }
                verifier.verdict().and_then(Result::err)
            }
            End::Server(connection) => {
                while connection.wants_write() {
                    let _ = work(connection.process_tls_records(&mut []), output, &mut |_| {}, Seal::Nothing);
                }
                None
            }
        };
        match (verdict, error) {
            (Some(refused), _) => TlsFailure::CertificateRefused(refused),
            (None, Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
                TlsFailure::NoCommonProtocol
            }
            (None, Error::AlertReceived(alert)) => TlsFailure::Alert(u8::from(*alert)),
            (None, Error::InvalidMessage(_)) if self.is_handshaking() => TlsFailure::NotTls,
            (None, _) => TlsFailure::Broken,
        }
    }

    pub(super) const fn is_server(&self) -> bool {
        match &self.end {
            End::Client(..) => false,
            End::Server(_) => true,
        }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        match &self.end {
            End::Client(connection, _) => connection.is_handshaking(),
            End::Server(connection) => connection.is_handshaking(),
        }
    }

    /// Whether the other side has sent `close_notify`.
    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// The negotiated ALPN protocol, if the handshake has come so far.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        match &self.end {
            End::Client(connection, _) => connection.alpn_protocol(),
            End::Server(connection) => connection.alpn_protocol(),
        }
    }

    pub(super) fn certificate(&self) -> CertificateSeen {
        match &self.end {
            End::Client(_, verifier) => verifier.verdict().and_then(Result::ok).unwrap_or(CertificateSeen::NotAsked),
            End::Server(_) => CertificateSeen::NotAsked,
        }
    }
}

enum Done {
    Again,
    Wait,
    Ended,
}

/// Processes one state of the unbuffered connection; returns the number of consumed bytes and the result.
fn work<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    output: &mut Output,
    deliver: &mut dyn FnMut(&[u8]),
    what: Seal<'_>,
) -> (usize, Result<Done, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let done = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard = discard.saturating_add(record.discard);
                    deliver(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Done::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let encoded = piece(output, 0, |room| match data.encode(room) {
                Ok(len) => Ok(len),
                Err(EncodeError::InsufficientSize(error)) => Err(Some(error)),
                Err(EncodeError::AlreadyEncoded) => Err(None),
            });
            encoded.map(|()| Done::Again)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Done::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Done::Ended),
        Ok(ConnectionState::WriteTraffic(traffic)) => seal(traffic, output, what).map(|()| Done::Wait),
        Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => match what {
            Seal::Nothing => Ok(Done::Wait),
            Seal::Plain(_) | Seal::CloseNotify => Err(Error::HandshakeNotComplete),
        },
        // Early data, which neither side allows here.
        Ok(_) => Err(Error::HandshakeNotComplete),
        Err(error) => Err(error),
    };
    (discard, done)
}

fn seal<Data>(mut traffic: WriteTraffic<'_, Data>, output: &mut Output, what: Seal<'_>) -> Result<(), Error> {
    let short = |error| match error {
        EncryptError::InsufficientSize(error) => Some(error),
        EncryptError::EncryptExhausted => None,
    };
    match what {
        Seal::Nothing => Ok(()),
        Seal::Plain(plain) => {
            let overhead = plain.len().div_ceil(RECORD).saturating_mul(RECORD_OVERHEAD);
            piece(output, plain.len().saturating_add(overhead), |room| traffic.encrypt(plain, room).map_err(short))
        }
        Seal::CloseNotify => piece(output, ALERT, |room| traffic.queue_close_notify(room).map_err(short)),
    }
}

/// Calls `write` with room for a piece of output, and again with more room if it is too small.
fn piece(
    output: &mut Output,
    len: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> Result<(), Error> {
    let mut room = vec![0; len];
    let mut written = write(&mut room);
    if let Err(Some(InsufficientSizeError { required_size })) = written {
        room.resize(required_size, 0);
        written = write(&mut room);
    }
    room.truncate(written.map_err(|_| Error::EncryptError)?);
    output.push(Bytes::from(room));
    Ok(())
}
