//! The end of a TCP connection: one side or both have finished, a side violated the protocol, the connection was lost,
//! or a timeout passed.
//!
//! The TCP connection first sends its remaining output and a close message, if its protocols have one and the
//! connection still works. The states are those of [`super`]. Timer: [`LINGER`], for the last bytes and for the other
//! side's end after them.

use super::super::websocket::CloseSeen;
use super::framing::Framing;
use super::inbox::Inbox;
use super::{Closed, Event, Flow, LINGER, Layer, Phase, SocketAction, TcpLink};
use crate::Instant;

impl TcpLink {
    /// The other side has sent FIN.
    pub fn handle_eof(&mut self) {
        match self.phase {
            Phase::Opening { .. } | Phase::Open(Flow::Both | Flow::Reading) => self.lose(),
            Phase::Lingering { deadline } => {
                self.phase = Phase::Flushing { deadline };
                self.settle();
            }
            Phase::Open(Flow::Writing) | Phase::Flushing { .. } | Phase::Over(_) => {}
        }
    }

    /// The socket failed.
    pub fn handle_failed(&mut self) {
        match self.phase {
            Phase::Opening { .. } | Phase::Open(_) => self.lose(),
            Phase::Lingering { .. } | Phase::Flushing { .. } => self.over(SocketAction::Abort),
            Phase::Over(_) => {}
        }
    }

    /// The action that the caller must take on the socket.
    #[must_use]
    pub const fn socket_action(&self) -> SocketAction {
        match self.phase {
            Phase::Over(action) => action,
            Phase::Opening { .. } | Phase::Open(_) | Phase::Lingering { .. } | Phase::Flushing { .. } => {
                SocketAction::Live
            }
        }
    }

    /// Ends the sending direction; the other side reads [`super::Read::End`]. Once both sides did so, [`Closed::Ended`]
    /// follows.
    #[cfg(any(test, feature = "internals"))]
    pub fn finish(&mut self, now: Instant) {
        self.finish_with(now, 0, "");
    }

    /// Ends the sending direction; the other side receives code and reason in [`Closed::Application`], if the protocol
    /// supports that, and reads [`super::Read::End`]. Once both sides did so, [`Closed::Ended`] follows. Unlike with
    /// [`Self::close`], there is no time limit for the bytes that were written before.
    pub fn finish_with(&mut self, now: Instant, code: u32, reason: &'static str) {
        let next = match self.phase {
            Phase::Open(Flow::Both) => Phase::Open(Flow::Reading),
            Phase::Open(Flow::Writing) => Phase::Flushing { deadline: now + LINGER },
            Phase::Opening { .. }
            | Phase::Open(Flow::Reading)
            | Phase::Lingering { .. }
            | Phase::Flushing { .. }
            | Phase::Over(_) => return,
        };
        self.end(code, reason);
        if matches!(next, Phase::Flushing { .. }) {
            self.layer.close(&mut self.input, &mut self.output);
            self.queue_event(Event::Closed(Closed::Ended));
        }
        self.phase = next;
        self.settle();
    }

    /// Ends the link. Written bytes are still sent if that is possible within [`LINGER`]; unread bytes are dropped; no
    /// event follows. The other side receives code and reason, if the protocol supports that; code 0 looks like
    /// [`Self::finish`] to it.
    pub fn close(&mut self, now: Instant, code: u32, reason: &'static str) {
        let deadline = now + LINGER;
        // A link without TLS has no end marker that the other side could answer.
        let is_plain = matches!(self.framing, Framing::Records(_));
        let next = match self.phase {
            Phase::Opening { .. } => return self.over(SocketAction::Abort),
            Phase::Open(_) if is_plain => Phase::Flushing { deadline },
            Phase::Open(Flow::Both | Flow::Reading) => Phase::Lingering { deadline },
            Phase::Open(Flow::Writing) => Phase::Flushing { deadline },
            Phase::Lingering { .. } | Phase::Flushing { .. } | Phase::Over(_) => return,
        };
        if self.phase != Phase::Open(Flow::Reading) {
            self.end(code, reason);
        }
        self.layer.close(&mut self.input, &mut self.output);
        self.phase = next;
        self.stop_reading();
        self.inbox = Inbox::new(self.inbox.window);
        self.events.clear();
        self.settle();
    }
}

impl TcpLink {
    /// Checks whether the other side has sent its end marker.
    pub(super) fn look_for_end(&mut self, now: Instant) -> Result<(), Closed> {
        match self.framing.socket().and_then(|socket| socket.take_close()) {
            Some(CloseSeen::Normal) => self.handle_end(now),
            Some(CloseSeen::Own { code, reason }) => return Err(Closed::Application { code, reason }),
            Some(CloseSeen::Other(code)) => return Err(Closed::WebSocketCode(code)),
            None => {}
        }
        if let Layer::Tls(tls) = &self.layer
            && tls.has_ended()
        {
            match self.framing {
                Framing::Bytes => self.handle_end(now),
                Framing::WebSocket { .. } if self.inbox.ended => {}
                Framing::Undecided
                | Framing::Records(_)
                | Framing::Upgrading { .. }
                | Framing::WebSocket { .. }
                | Framing::Refused { .. } => return Err(Closed::Lost),
            }
        }
        Ok(())
    }

    fn handle_end(&mut self, now: Instant) {
        self.inbox.ended = true;
        match self.phase {
            Phase::Open(Flow::Both) => {
                self.phase = Phase::Open(Flow::Writing);
                self.queue_event(Event::Readable);
            }
            Phase::Open(Flow::Reading) => {
                self.layer.close(&mut self.input, &mut self.output);
                self.queue_event(Event::Closed(Closed::Ended));
                self.phase = Phase::Flushing { deadline: now + LINGER };
            }
            Phase::Opening { .. }
            | Phase::Open(Flow::Writing)
            | Phase::Lingering { .. }
            | Phase::Flushing { .. }
            | Phase::Over(_) => {}
        }
    }

    /// Sends our end marker. If that is not possible, the other side detects that the TCP connection ended without one.
    fn end(&mut self, code: u32, reason: &str) {
        match self.framing.close(code, reason) {
            Some(frame) => {
                let _ = self.send(frame);
                // Inside TLS, the WebSocket's close frame is sufficient; TLS's own end follows when both sides are
                // done.
            }
            None => self.layer.close(&mut self.input, &mut self.output),
        }
        self.touched = true;
    }

    /// Ends the link with this reason, and sends the close message that belongs to it.
    pub(super) fn fail(&mut self, now: Instant, closed: Closed) {
        let speaks = match self.phase {
            Phase::Opening { .. } | Phase::Open(Flow::Both | Flow::Writing) => true,
            Phase::Open(Flow::Reading) | Phase::Lingering { .. } | Phase::Flushing { .. } | Phase::Over(_) => false,
        };
        // Records behind the one that ended the link are not decrypted, and must not block the close message.
        self.input.clear();
        let last = match (&closed, &mut self.framing) {
            (Closed::Lost, _) => return self.lose(),
            (Closed::WebSocket(violation), Framing::WebSocket { socket, .. }) => Some(socket.close_for(*violation)),
            (Closed::Application { code, .. }, Framing::WebSocket { socket, .. }) => Some(socket.close(*code, "")),
            (Closed::WebSocketCode(_), Framing::WebSocket { socket, .. }) => Some(socket.close(0, "")),
            (_, Framing::Refused { say }) => Some(std::mem::take(say)),
            (
                _,
                Framing::Undecided
                | Framing::Bytes
                | Framing::Records(_)
                | Framing::Upgrading { .. }
                | Framing::WebSocket { .. },
            ) => None,
        };
        if let Some(last) = last.filter(|_| speaks) {
            let _ = self.send(last);
        }
        self.layer.close(&mut self.input, &mut self.output);
        self.queue_event(Event::Closed(closed));
        self.stop_reading();
        self.phase = Phase::Lingering { deadline: now + LINGER };
        self.touched = true;
    }

    pub(super) fn time_out(&mut self) {
        self.queue_event(Event::Closed(Closed::TimedOut));
        self.over(SocketAction::Abort);
    }

    fn lose(&mut self) {
        self.queue_event(Event::Closed(Closed::Lost));
        self.over(SocketAction::Abort);
    }

    pub(super) fn over(&mut self, action: SocketAction) {
        self.phase = Phase::Over(action);
        self.stop_reading();
        self.output.clear();
        self.touched = true;
    }

    fn stop_reading(&mut self) {
        self.input.close();
        if let Some(records) = self.framing.records() {
            records.close();
        }
    }

    pub(super) fn settle(&mut self) {
        if matches!(self.phase, Phase::Flushing { .. }) && self.output.is_empty() {
            self.over(SocketAction::Finish);
        }
    }
}
