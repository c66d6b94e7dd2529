//! One HTTP request to a gateway and its answer, over a pipe of its own (RFC 9112).
//!
//! ```text
//! Wanted ──poll_dial──► Open ──► (answer or failure; the owner ends the pipe)
//! ```
//! A redirect is an answer like any other, and leads nowhere. No timers: the owner's patience is the bound. Bounds: a head as
//! in [`crate::link::http`], [`MAX_BODY`] bytes of body, [`MAX_RAW`] with its chunks' frames, [`BUFFER`] for one read.

use std::io::IoSlice;
use std::net::SocketAddrV4;

use httparse::{EMPTY_HEADER, Response, Status};

use super::super::ask::HTTP_OPTIONS;
use crate::link::http::{Head, MAX_HEADERS};
use crate::net::{Action, Dial, PipeEvent, PipeId};

/// Bytes of a body.
pub(super) const MAX_BODY: usize = 64 * 1024;
/// Bytes of a body in chunks.
const MAX_RAW: usize = MAX_BODY + MAX_BODY / 2;
/// Bytes of one read.
const BUFFER: usize = 4 * 1024;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Exchange {
    to: SocketAddrV4,
    request: Vec<u8>,
    written: usize,
    pipe: Option<PipeId>,
    buffer: Vec<u8>,
    reading: Reading,
}

#[derive(Debug)]
enum Reading {
    Head(Head),
    Body { status: u16, framing: Framing, raw: Vec<u8> },
}

/// How the end of a body shows (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    Close,
}

/// What was answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: u16,
    pub body: String,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Waiting,
    Answered(Answer),
    /// It is no HTTP, too large, or the pipe failed.
    Failed,
}

impl Exchange {
    pub(super) const fn new(to: SocketAddrV4, request: Vec<u8>) -> Self {
        let reading = Reading::Head(Head::new());
        Self { to, request, written: 0, pipe: None, buffer: Vec::new(), reading }
    }

    pub(super) fn poll_dial(&mut self, next: PipeId) -> Option<Action> {
        if self.pipe.is_some() {
            return None;
        }
        self.pipe = Some(next);
        self.buffer = vec![0; BUFFER];
        Some(Action::Dial(next, Dial { to: self.to.into(), options: HTTP_OPTIONS }))
    }

    pub(super) const fn pipe(&self) -> Option<PipeId> {
        self.pipe
    }

    pub(super) fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    pub(super) fn output<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match (slices.first_mut(), self.request.get(self.written..)) {
            (Some(slice), Some(rest)) if !rest.is_empty() => {
                *slice = IoSlice::new(rest);
                1
            }
            _ => 0,
        }
    }

    pub(super) fn handle(&mut self, event: PipeEvent) -> Progress {
        let found = match event {
            PipeEvent::Up => Ok(None),
            PipeEvent::Wrote(count) => {
                self.written = self.written.saturating_add(count).min(self.request.len());
                Ok(None)
            }
            PipeEvent::Filled(count) => {
                let buffer = std::mem::take(&mut self.buffer);
                let found = self.read(buffer.get(..count).unwrap_or_default());
                self.buffer = buffer;
                found
            }
            PipeEvent::Eof => self.end().map(Some),
            // The pipe is gone, and nobody has to end it.
            PipeEvent::Failed(_) => {
                self.pipe = None;
                Err(Bad)
            }
        };
        match found {
            Ok(None) => Progress::Waiting,
            Ok(Some(answer)) => Progress::Answered(answer),
            Err(Bad) => Progress::Failed,
        }
    }

    fn read(&mut self, bytes: &[u8]) -> Result<Option<Answer>, Bad> {
        let bytes = match &mut self.reading {
            Reading::Head(head) => {
                let Some(rest) = head.push(bytes).map_err(|_| Bad)? else { return Ok(None) };
                let (status, framing) = judge(head.bytes())?;
                self.reading = Reading::Body { status, framing, raw: Vec::new() };
                rest
            }
            Reading::Body { .. } => bytes,
        };
        let Reading::Body { status, framing, raw } = &mut self.reading else { return Err(Bad) };
        if raw.len().saturating_add(bytes.len()) > MAX_RAW {
            return Err(Bad);
        }
        raw.extend_from_slice(bytes);
        let body = match framing {
            Framing::Length(length) => raw.get(..*length).map(<[u8]>::to_vec),
            Framing::Chunked => unchunked(raw)?,
            Framing::Close if raw.len() > MAX_BODY => return Err(Bad),
            Framing::Close => None,
        };
        Ok(body.map(|body| Answer::new(*status, &body)))
    }

    fn end(&mut self) -> Result<Answer, Bad> {
        match &self.reading {
            Reading::Body { status, framing: Framing::Close, raw } => Ok(Answer::new(*status, raw)),
            Reading::Body { framing: Framing::Length(_) | Framing::Chunked, .. } | Reading::Head(_) => Err(Bad),
        }
    }
}

impl Answer {
    fn new(status: u16, body: &[u8]) -> Self {
        Self { status, body: String::from_utf8_lossy(body).into_owned() }
    }
}

/// It can't be used.
#[derive(Debug, PartialEq, Eq)]
struct Bad;

fn judge(head: &[u8]) -> Result<(u16, Framing), Bad> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = Response::new(&mut headers);
    if !response.parse(head).is_ok_and(|status| status.is_complete()) {
        return Err(Bad);
    }
    let mut framing = Framing::Close;
    for header in response.headers.iter() {
        let value = header.value.trim_ascii();
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Bad);
            }
            framing = Framing::Chunked;
        } else if header.name.eq_ignore_ascii_case("content-length") && framing != Framing::Chunked {
            let digits = value.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            let length = length.filter(|&length: &usize| digits && length <= MAX_BODY).ok_or(Bad)?;
            if matches!(framing, Framing::Length(other) if other != length) {
                return Err(Bad);
            }
            framing = Framing::Length(length);
        }
    }
    Ok((response.code.ok_or(Bad)?, framing))
}

/// RFC 9112 §7.1, without trailers; `None`: it is not whole.
fn unchunked(mut raw: &[u8]) -> Result<Option<Vec<u8>>, Bad> {
    let mut body = Vec::new();
    loop {
        let Status::Complete((start, size)) = httparse::parse_chunk_size(raw).map_err(|_| Bad)? else {
            return Ok(None);
        };
        if size == 0 {
            return Ok(Some(body));
        }
        let size = usize::try_from(size).map_err(|_| Bad)?;
        if body.len().saturating_add(size) > MAX_BODY {
            return Err(Bad);
        }
        let rest = raw.get(start..).ok_or(Bad)?;
        let Some((chunk, rest)) = rest.split_at_checked(size) else { return Ok(None) };
        body.extend_from_slice(chunk);
        let Some((end, rest)) = rest.split_at_checked(2) else { return Ok(None) };
        if end != b"\r\n" {
            return Err(Bad);
        }
        raw = rest;
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
