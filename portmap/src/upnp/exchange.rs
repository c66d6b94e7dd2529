//! One HTTP request to a gateway and its response, over its own TCP connection (RFC 9112).
//!
//! ```text
//! Wanted ──poll_connect──► Open ──► (response or failure; the owner closes the connection)
//! ```
//! A redirect is handled like any other response and is not followed. No timers: the owner limits the time. Bounds:
//! [`MAX_HEAD`], [`MAX_HEADERS`], [`MAX_BODY`] bytes of body, [`chunked::MAX_CHUNKED`] including the chunk framing,
//! [`BUFFER`] for one read. Each byte is processed once, however the response is split into reads.

mod chunked;

use std::io::IoSlice;
use std::net::SocketAddrV4;

use httparse::{EMPTY_HEADER, Response};

use self::chunked::Chunked;
use crate::{ConnectionEvent, ConnectionId};

/// The maximum length of a response's head, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// The maximum number of headers in it.
const MAX_HEADERS: usize = 64;
/// The maximum length of a body, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;
/// The size of one read, in bytes.
const BUFFER: usize = 4 * 1024;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// One request and its response; the module's documentation describes the states.
#[derive(Debug)]
pub(super) struct Exchange {
    to: SocketAddrV4,
    request: Vec<u8>,
    written: usize,
    connection: Option<ConnectionId>,
    buffer: Vec<u8>,
    reading: Reading,
}

#[derive(Debug)]
enum Reading {
    Head(Vec<u8>),
    Body { status: u16, body: Body },
}

/// A body that is being received, by the way in which its end is marked (RFC 9112 §6.3).
#[derive(Debug)]
enum Body {
    Length(usize, Vec<u8>),
    Chunked(Chunked),
    UntilClose(Vec<u8>),
}

/// A response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: u16,
    pub body: String,
}

/// The state of the exchange after an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Waiting,
    Answered(Answer),
    /// The response is not HTTP or is too large, or the connection failed.
    Failed,
}

impl Exchange {
    pub(super) const fn new(to: SocketAddrV4, request: Vec<u8>) -> Self {
        Self { to, request, written: 0, connection: None, buffer: Vec::new(), reading: Reading::Head(Vec::new()) }
    }

    pub(super) fn poll_connect(&mut self, id: ConnectionId) -> Option<SocketAddrV4> {
        if self.connection.is_some() {
            return None;
        }
        self.connection = Some(id);
        self.buffer = vec![0; BUFFER];
        Some(self.to)
    }

    pub(super) const fn connection(&self) -> Option<ConnectionId> {
        self.connection
    }

    pub(super) fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    pub(super) fn send_queue<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match (slices.first_mut(), self.request.get(self.written..)) {
            (Some(slice), Some(rest)) if !rest.is_empty() => {
                *slice = IoSlice::new(rest);
                1
            }
            _ => 0,
        }
    }

    pub(super) fn handle(&mut self, event: ConnectionEvent) -> Progress {
        let answer = match event {
            ConnectionEvent::Connected => Ok(None),
            ConnectionEvent::Sent(count) => {
                self.written = self.written.saturating_add(count).min(self.request.len());
                Ok(None)
            }
            ConnectionEvent::Received(count) => {
                let buffer = std::mem::take(&mut self.buffer);
                let answer = self.read(buffer.get(..count).unwrap_or_default());
                self.buffer = buffer;
                answer
            }
            ConnectionEvent::Eof => self.end().map(Some),
            // The connection is closed already: the owner must not close it.
            ConnectionEvent::Failed => {
                self.connection = None;
                Err(Malformed)
            }
        };
        match answer {
            Ok(None) => Progress::Waiting,
            Ok(Some(answer)) => Progress::Answered(answer),
            Err(Malformed) => Progress::Failed,
        }
    }

    fn read(&mut self, bytes: &[u8]) -> Result<Option<Answer>, Malformed> {
        let bytes = match &mut self.reading {
            Reading::Head(head) => {
                let Some(rest) = push_head(head, bytes)? else { return Ok(None) };
                let (status, body) = parse_head(head)?;
                self.reading = Reading::Body { status, body };
                rest
            }
            Reading::Body { .. } => bytes,
        };
        let Reading::Body { status, body } = &mut self.reading else { return Err(Malformed) };
        let is_whole = match body {
            Body::Length(length, received) => {
                let missing = length.saturating_sub(received.len());
                received.extend_from_slice(bytes.get(..missing).unwrap_or(bytes));
                received.len() >= *length
            }
            Body::Chunked(chunked) => chunked.push(bytes)?,
            Body::UntilClose(received) => {
                if received.len().saturating_add(bytes.len()) > MAX_BODY {
                    return Err(Malformed);
                }
                received.extend_from_slice(bytes);
                false
            }
        };
        Ok(is_whole.then(|| Answer::new(*status, body)))
    }

    fn end(&mut self) -> Result<Answer, Malformed> {
        match &self.reading {
            Reading::Body { status, body: body @ Body::UntilClose(_) } => Ok(Answer::new(*status, body)),
            Reading::Body { body: Body::Length(..) | Body::Chunked(_), .. } | Reading::Head(_) => Err(Malformed),
        }
    }
}

impl Answer {
    fn new(status: u16, body: &Body) -> Self {
        let bytes = match body {
            Body::Length(_, received) | Body::UntilClose(received) => received,
            Body::Chunked(chunked) => chunked.body(),
        };
        Self { status, body: String::from_utf8_lossy(bytes).into_owned() }
    }
}

/// The response violates the protocol or exceeds one of the bounds.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

/// Adds bytes to the head until its end is found; then returns the bytes after it.
fn push_head<'a>(head: &mut Vec<u8>, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    let before = head.len();
    // The end marker may be split across two reads.
    let searched = before.saturating_sub(END_OF_HEAD.len());
    let taken = bytes.len().min(MAX_HEAD.saturating_sub(before));
    head.extend_from_slice(bytes.get(..taken).unwrap_or_default());
    let new = head.get(searched..).unwrap_or_default();
    let Some(at) = new.windows(END_OF_HEAD.len()).position(|window| window == END_OF_HEAD) else {
        return if head.len() < MAX_HEAD { Ok(None) } else { Err(Malformed) };
    };
    let end = searched.saturating_add(at).saturating_add(END_OF_HEAD.len());
    head.truncate(end);
    Ok(bytes.get(end.saturating_sub(before)..))
}

fn parse_head(head: &[u8]) -> Result<(u16, Body), Malformed> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = Response::new(&mut headers);
    if !response.parse(head).is_ok_and(|status| status.is_complete()) {
        return Err(Malformed);
    }
    let mut body = Body::UntilClose(Vec::new());
    for header in response.headers.iter() {
        let value = header.value.trim_ascii();
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed);
            }
            body = Body::Chunked(Chunked::default());
        } else if header.name.eq_ignore_ascii_case("content-length") && !matches!(body, Body::Chunked(_)) {
            let digits = value.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            let length = length.filter(|&length: &usize| digits && length <= MAX_BODY).ok_or(Malformed)?;
            if matches!(body, Body::Length(other, _) if other != length) {
                return Err(Malformed);
            }
            body = Body::Length(length, Vec::new());
        }
    }
    Ok((response.code.ok_or(Malformed)?, body))
}

#[cfg(test)]
mod tests;
