//! How a pipe ends: one side or both said all, somebody broke a rule, it was cut, it took too long.
//!
//! What is left to be said goes out first, where there is a word for it and the pipe still carries it. The states are those of [`super`].
//! Timer: [`LINGER`], for the last words and for the other side's end after them.

use super::super::websocket::CloseSeen;
use super::framing::Framing;
use super::inbox::Inbox;
use super::{Carrier, Closed, Event, Fate, Flow, LINGER, Phase, Pipe};
use crate::Instant;

impl Pipe {
    /// The other side sends no more.
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
            Phase::Lingering { .. } | Phase::Flushing { .. } => self.over(Fate::Abort),
            Phase::Over(_) => {}
        }
    }

    /// What to do with the socket.
    #[must_use]
    pub const fn fate(&self) -> Fate {
        match self.phase {
            Phase::Over(fate) => fate,
            Phase::Opening { .. } | Phase::Open(_) | Phase::Lingering { .. } | Phase::Flushing { .. } => Fate::Live,
        }
    }

    /// Says that nothing more will be written; the other side reads [`super::Read::End`]. Once both did so, [`Closed::Ended`] follows.
    pub fn finish(&mut self, now: Instant) {
        self.finish_with(now, 0, "");
    }

    /// The same, and the other side gets code and reason where there is a word for them: its [`Closed::Application`]. What was written
    /// has all the time it takes, unlike before [`Self::close`].
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
            self.carrier.close(&mut self.input, &mut self.output);
            self.tell(Event::Closed(Closed::Ended));
        }
        self.phase = next;
        self.settle();
    }

    /// Ends the link: what was written goes out first, if it can within [`LINGER`]; what was not read is lost; no event follows. The
    /// other side gets code and reason where there is a word for them; code 0 is the same as [`Self::finish`] to it.
    pub fn close(&mut self, now: Instant, code: u32, reason: &'static str) {
        let deadline = now + LINGER;
        // Plain bytes have no word for the end that the other side could answer.
        let is_plain = matches!(self.framing, Framing::Records(_));
        let next = match self.phase {
            Phase::Opening { .. } => return self.over(Fate::Abort),
            Phase::Open(_) if is_plain => Phase::Flushing { deadline },
            Phase::Open(Flow::Both | Flow::Reading) => Phase::Lingering { deadline },
            Phase::Open(Flow::Writing) => Phase::Flushing { deadline },
            Phase::Lingering { .. } | Phase::Flushing { .. } | Phase::Over(_) => return,
        };
        if self.phase != Phase::Open(Flow::Reading) {
            self.end(code, reason);
        }
        self.carrier.close(&mut self.input, &mut self.output);
        self.phase = next;
        self.stop_reading();
        self.inbox = Inbox::new(self.inbox.window);
        self.events.clear();
        self.settle();
    }
}

impl Pipe {
    /// Whether the other side said that nothing follows.
    pub(super) fn look_for_end(&mut self, now: Instant) -> Result<(), Closed> {
        match self.framing.socket().and_then(|socket| socket.take_close()) {
            Some(CloseSeen::Normal) => self.handle_end(now),
            Some(CloseSeen::Own { code, reason }) => return Err(Closed::Application { code, reason }),
            Some(CloseSeen::Other(code)) => return Err(Closed::WebSocketClosed(code)),
            None => {}
        }
        if let Carrier::Tls(tls) = &self.carrier
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
                self.tell(Event::Readable);
            }
            Phase::Open(Flow::Reading) => {
                self.carrier.close(&mut self.input, &mut self.output);
                self.tell(Event::Closed(Closed::Ended));
                self.phase = Phase::Flushing { deadline: now + LINGER };
            }
            Phase::Opening { .. }
            | Phase::Open(Flow::Writing)
            | Phase::Lingering { .. }
            | Phase::Flushing { .. }
            | Phase::Over(_) => {}
        }
    }

    /// Our own end. If it cannot be said, the other side notices that the pipe ends without.
    fn end(&mut self, code: u32, reason: &str) {
        match self.framing.close(code, reason) {
            Some(frame) => {
                let _ = self.send(frame);
                // Inside TLS the WebSocket's end says it all; TLS's own follows when both sides are done.
            }
            None => self.carrier.close(&mut self.input, &mut self.output),
        }
        self.touched = true;
    }

    /// The link ends by somebody's fault or wish; what is left to be said about it goes out.
    pub(super) fn fail(&mut self, now: Instant, closed: Closed) {
        let speaks = match self.phase {
            Phase::Opening { .. } | Phase::Open(Flow::Both | Flow::Writing) => true,
            Phase::Open(Flow::Reading) | Phase::Lingering { .. } | Phase::Flushing { .. } | Phase::Over(_) => false,
        };
        // Records behind the one that ended it are not opened, and must not stand in the way of the last words.
        self.input.clear();
        let last = match (&closed, &mut self.framing) {
            (Closed::Lost, _) => return self.lose(),
            (Closed::WebSocket(violation), Framing::WebSocket { socket, .. }) => Some(socket.close_for(*violation)),
            (Closed::Application { code, .. }, Framing::WebSocket { socket, .. }) => Some(socket.close(*code, "")),
            (Closed::WebSocketClosed(_), Framing::WebSocket { socket, .. }) => Some(socket.close(0, "")),
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
        self.carrier.close(&mut self.input, &mut self.output);
        self.tell(Event::Closed(closed));
        self.stop_reading();
        self.phase = Phase::Lingering { deadline: now + LINGER };
        self.touched = true;
    }

    pub(super) fn time_out(&mut self) {
        self.tell(Event::Closed(Closed::TimedOut));
        self.over(Fate::Abort);
    }

    fn lose(&mut self) {
        self.tell(Event::Closed(Closed::Lost));
        self.over(Fate::Abort);
    }

    pub(super) fn over(&mut self, fate: Fate) {
        self.phase = Phase::Over(fate);
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
            self.over(Fate::Finish);
        }
    }
}
