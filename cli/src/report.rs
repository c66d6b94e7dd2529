//! The user interface of a running transfer, for sender and receiver: events as lines and as JSON, progress, questions
//! and signals.
//!
//! ```text
//! Running ── Done or Failed ──► Closing ── the peer was notified ──► over
//! ```
//! Timers: [`SAY_WAITING_AFTER`] before a wait at the start is reported, [`TICK`] for progress, [`CLOSE_WITHIN`] and
//! [`SAY_WHY_AFTER`] for the end.

use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use tallow_proto::code::Code;
use tallow_proto::drive::Ending;
use tallow_proto::link::Trust;
use tallow_proto::peer::{
    Event, Fallback, Path, PathKind, PathTransport, Placement, Receiver, RelayAddress, Sender, Summary, WaitingFor,
};
use tallow_proto::wire::Role;

use crate::failure::{self, Context, Problem};
use crate::output::{self, Output, amount, size, time};
use crate::progress::Meter;
use crate::prompt::{self, Answer};
use crate::runtime::Runtime;
use crate::setup::Memory;
use crate::signal::{Signal, Signals};

/// A wait at the start that ends sooner than this is not reported.
const SAY_WAITING_AFTER: Duration = Duration::from_secs(2);
/// The interval at which the progress bar is redrawn even without progress.
const TICK: Duration = Duration::from_millis(500);
/// The maximum time to notify the peer of a failure.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// A complete receiver stays because its confirmation may be lost; after this time it reports why it still runs.
const SAY_WHY_AFTER: Duration = Duration::from_secs(2);

/// The handle of a running transfer.
pub trait End {
    /// See [`Sender::next_event`].
    fn next_event(&mut self) -> impl Future<Output = Option<Event>>;
    /// See [`Sender::cancel`].
    fn cancel(&self);
}

macro_rules! end {
    ($end:ident) => {
        impl End for $end {
            async fn next_event(&mut self) -> Option<Event> {
                self.next_event().await
            }

            fn cancel(&self) {
                // The transfer is over, or too busy to end cleanly; then the timer of the signal ends the program.
                let _ = self.cancel();
            }
        }
    };
}

end!(Sender);
end!(Receiver);

/// The result of [`Report::next`].
#[derive(Debug)]
pub enum Step {
    /// The transfer reported an event, which was already shown.
    Event(Event),
    /// The user answered the question; `None` if no answer is possible.
    Answer(Option<String>),
    /// The transfer is over and closed.
    Closed,
}

/// Shows a transfer to the user, and passes the user's input on.
#[derive(Debug)]
pub struct Report {
    /// The output to which everything is written.
    pub output: Output,
    runtime: Runtime,
    role: Role,
    signals: Signals,
    signal: Option<Signal>,
    meter: Meter,
    running: bool,
    total: u64,
    /// Bytes that were kept from an earlier transfer.
    kept: u64,
    /// Whether any bytes were transferred.
    moved: bool,
    /// The data is written in order and not stored, so that it can't be resumed.
    in_order: bool,
    question: Option<Answer>,
    waiting: Option<(Instant, String)>,
    code_shown: bool,
    path: Option<(PathKind, PathTransport)>,
    /// The connection was lost and is not restored yet.
    lost: bool,
    memory: Memory,
    has_relays: bool,
}

impl Report {
    /// Creates the report before the transfer starts.
    #[must_use]
    pub fn new(
        output: Output,
        runtime: Runtime,
        role: Role,
        signals: Signals,
        memory: Memory,
        has_relays: bool,
    ) -> Self {
        signals.attach();
        prompt::hide_control_keys();
        let meter = Meter::new(&output);
        let looking = match role {
            Role::Receiver if has_relays => Some("Waiting for a relay to answer"),
            Role::Receiver => Some("Looking for the sender on this machine and in this network"),
            Role::Sender => None,
        };
        Self {
            output,
            runtime,
            role,
            signals,
            signal: None,
            meter,
            running: false,
            total: 0,
            kept: 0,
            moved: false,
            in_order: false,
            question: None,
            waiting: looking.map(|text| (Instant::now() + SAY_WAITING_AFTER, text.to_owned())),
            code_shown: role == Role::Receiver,
            path: None,
            lost: false,
            memory,
            has_relays,
        }
    }

    /// Reports that standard input is sent as a stream.
    pub fn begin_stream(&mut self) {
        self.set_in_order(true);
        self.output.event(&output::Event::Sending { files: 0, bytes: None });
        self.output.line("Sending standard input");
    }

    /// The data is written in order and not stored. The length of a stream is unknown.
    pub fn set_in_order(&mut self, is_stream: bool) {
        self.in_order = true;
        self.meter.set_endless(is_stream);
    }

    /// Waits for the next step that the caller has to handle. Signals and progress are handled here.
    pub async fn next(&mut self, end: &mut impl End) -> Step {
        loop {
            let now = Instant::now();
            let wait = match &self.waiting {
                Some((at, _)) => Some(at.saturating_duration_since(now)),
                None => self.running.then_some(TICK),
            };
            let runtime = self.runtime;
            tokio::select! {
                biased;
                signal = self.signals.next() => {
                    self.signal = Some(signal);
                    self.drop_question();
                    end.cancel();
                }
                event = end.next_event() => {
                    return match event {
                        Some(event) => {
                            self.show(&event);
                            Step::Event(event)
                        }
                        None => Step::Closed,
                    };
                }
                line = answered(&mut self.question) => {
                    self.question = None;
                    return Step::Answer(line);
                }
                () = pause(runtime, wait) => self.time_passed(),
            }
        }
    }

    /// Asks the user; the answer is returned as [`Step::Answer`].
    pub fn ask(&mut self, question: &str) {
        self.question = Some(prompt::ask(&self.output, question));
    }

    /// Asks whether the words of [`Event::Verifier`] match.
    pub fn ask_to_compare(&mut self) {
        self.ask("Are the words the same on both sides? [y/N]");
    }

    fn drop_question(&mut self) {
        if self.question.take().is_some() {
            self.output.withdraw();
        }
    }

    /// Waits until the peer was notified, then returns the outcome.
    ///
    /// # Errors
    /// The transfer failed.
    pub async fn finish(mut self, mut end: impl End, outcome: Result<Summary, Problem>) -> Result<Summary, Problem> {
        let runtime = self.runtime;
        let closed = async { while end.next_event().await.is_some() {} };
        let output = &self.output;
        let patience = async {
            match &outcome {
                Ok(_) => {
                    runtime.sleep(SAY_WHY_AFTER).await;
                    output.line(
                        "Everything was received; waiting until the sender has the confirmation (Ctrl-C is safe now)",
                    );
                    // The transfer itself limits this wait.
                    std::future::pending().await
                }
                Err(_) => runtime.sleep(CLOSE_WITHIN).await,
            }
        };
        tokio::select! {
            biased;
            () = closed => {}
            _ = self.signals.next() => {}
            () = patience => {}
        }
        outcome
    }

    /// Converts a failure to a problem. After a signal, every failure is reported as an interruption.
    #[must_use]
    pub fn problem(&self, failure: &tallow_proto::peer::Failure) -> Problem {
        let known = self.memory.file();
        let at = Context { role: self.role, known_relays: &known, relays: self.has_relays };
        let problem = match self.signal {
            Some(signal) => Problem::signalled(signal, &at),
            None => failure::explain(failure, &at),
        };
        if self.moved && !self.in_order && (self.signal.is_some() || failure::is_kept(failure)) {
            problem.kept()
        } else {
            problem
        }
    }

    /// The problem to report when the transfer ended without an outcome.
    #[must_use]
    pub fn unexplained(&self, ending: Option<Ending>) -> Problem {
        match ending {
            Some(Ending::Panicked) if self.signal.is_none() => Problem::bug(),
            _ => self.problem(&tallow_proto::peer::Failure::Interrupted),
        }
    }

    fn time_passed(&mut self) {
        let now = Instant::now();
        if let Some((_, text)) = self.waiting.take_if(|(at, _)| *at <= now) {
            self.output.line(&text);
        }
        if self.running {
            self.meter.tick(now);
        }
    }

    fn show(&mut self, event: &Event) {
        let now = Instant::now();
        match event {
            Event::Scanned(totals) => {
                let (files, bytes) = (u64::from(totals.files), totals.bytes);
                self.total = bytes;
                self.output.event(&output::Event::Sending { files, bytes: Some(bytes) });
                self.output.line(&format!("Sending {}", amount(files, bytes)));
            }
            Event::Code { .. } => self.code_shown = true,
            Event::FirstUse { relay, keep } => self.first_use(relay, *keep),
            Event::Reached { relay, transport } => self.memory.reached(relay, *transport),
            Event::Waiting(what) => self.wait(now, what),
            Event::Paired => {
                // The sender now waits for the receiver's answer.
                let answer = "Waiting for the receiver to accept".to_owned();
                self.waiting = (self.role == Role::Sender).then(|| (now + SAY_WAITING_AFTER, answer));
                self.output.event(&output::Event::Paired);
                tracing::info!("paired with the peer");
            }
            Event::WrongGuess { left } => {
                self.output.event(&output::Event::WrongGuess { left: *left });
                if *left > 0 {
                    let tries = output::counted((*left).into(), "try", "tries");
                    self.output.say(&format!("A receiver used a wrong code, {tries} left"));
                }
            }
            Event::SecondReceiver => {
                self.output.event(&output::Event::SecondReceiver);
                self.output.say("Another receiver used the number of this code and was refused");
            }
            Event::Verifier { words, comparison } => self.show_verifier(now, words, comparison.is_some()),
            Event::StreamOffer(_) => self.waiting = None,
            Event::Offer(offer) => {
                self.waiting = None;
                self.total = offer.manifest().totals().bytes;
            }
            Event::Accepted => {
                self.waiting = None;
                self.output.event(&output::Event::Accepted);
                if !std::mem::replace(&mut self.running, true) {
                    self.meter.start(now, self.total);
                }
            }
            Event::Resuming => {
                self.waiting = None;
                self.output.line("Data from an earlier transfer is here: checking what can be kept");
                self.running = true;
                self.meter.start(now, self.total);
            }
            Event::Resumed { bytes } => self.show_resumed(*bytes),
            Event::Path(path) => self.show_path(*path),
            Event::Upgraded { transport, after } => {
                let (transport, ms) = (transport_name(*transport), after.as_millis());
                self.output.event(&output::Event::P2pUpgrade { transport, ms });
            }
            Event::FellBack(why) => self.show_fallback(*why),
            Event::Reconnecting { attempt, wait } => self.show_reconnecting(*attempt, *wait),
            Event::Progress(progress) => {
                self.total = progress.total;
                // Before the offer is accepted the progress is always zero.
                if self.running {
                    self.moved |= progress.bytes > 0;
                    self.meter.set(now, progress.bytes, progress.total);
                }
            }
            Event::Done(_) | Event::Failed(_) => {
                self.waiting = None;
                self.drop_question();
                if std::mem::take(&mut self.running) {
                    self.meter.finish(now);
                }
            }
            Event::Misuse(misuse) => tracing::error!("internal: {misuse}"),
            // The library may grow.
            event => tracing::debug!(?event, "an event that is not shown"),
        }
    }

    fn show_verifier(&mut self, now: Instant, words: &[&'static str], must_agree: bool) {
        let others = "Waiting for the peer to compare the words".to_owned();
        self.waiting = (!must_agree).then(|| (now + SAY_WAITING_AFTER, others));
        self.output.event(&output::Event::Verifier { words, must_agree });
        self.output.print_bold("Compare these words with the other side: ", &words.join(" "));
    }

    fn show_resumed(&mut self, bytes: u64) {
        self.kept = bytes;
        self.output.event(&output::Event::Resumed { bytes_kept: bytes });
        self.output.line(&match (bytes, self.role) {
            (0, _) => "The data from the earlier transfer does not match; everything is transferred again".to_owned(),
            (bytes, Role::Sender) => format!("Resuming: the receiver already has {}", size(bytes)),
            (bytes, Role::Receiver) => format!("Resuming: {} already received", size(bytes)),
        });
    }

    fn show_fallback(&mut self, why: Fallback) {
        let (reason, text) = match why {
            Fallback::Silent => ("silent", "no data arrived over it"),
            Fallback::Lost => ("lost", "its connection was lost"),
            Fallback::Peer => ("peer", "the peer lost it"),
            Fallback::Moved => ("moved", "this machine's addresses changed"),
            _ => ("lost", "it ended"),
        };
        self.output.event(&output::Event::P2pFallback { reason });
        self.output.line(&format!("The direct path was lost: {text}"));
    }

    fn show_reconnecting(&mut self, attempt: u32, wait: Duration) {
        self.output.event(&output::Event::Reconnecting { attempt, in_ms: wait.as_millis() });
        if self.path.take().is_some() {
            self.lost = true;
            self.output.line("Connection lost, but no data: reconnecting to the peer");
        }
        tracing::info!("reconnect attempt {attempt} in {} s", wait.as_secs());
    }

    fn first_use(&mut self, relay: &RelayAddress, keep: Trust) {
        let name = relay.to_string();
        let fingerprint = match keep {
            Trust::Known(fingerprint) | Trust::Pin(fingerprint) => Some(fingerprint.to_string()),
            _ => None,
        };
        self.output.event(&output::Event::FirstUse { relay: &name, fingerprint: fingerprint.as_deref() });
        let what = match fingerprint {
            Some(fingerprint) => format!("its certificate is {fingerprint}"),
            None => "its certificate is signed by a public authority".to_owned(),
        };
        let then = match self.memory.keep(relay, keep) {
            Ok(()) => "remembered".to_owned(),
            Err(error) => format!("it could not be remembered: {}", output::shown(&error)),
        };
        self.output.line(&format!("First contact with relay {name}: {what}; {then}"));
    }

    fn wait(&mut self, now: Instant, what: &WaitingFor) {
        let (name, text) = match what {
            WaitingFor::Relay(relay) => ("relay", format!("Waiting for relay {relay} to answer")),
            WaitingFor::Receiver => ("receiver", "Waiting for the receiver".to_owned()),
            WaitingFor::Sender => {
                ("sender", "No sender is waiting with this code yet; trying again every few seconds".to_owned())
            }
            WaitingFor::NameService(name) => {
                ("name_service", format!("Waiting for the name service (DNS) to find {}", output::shown(name)))
            }
            WaitingFor::Turn => ("turn", "The sender has another receiver; trying again every few seconds".to_owned()),
            WaitingFor::Response => {
                ("response", "The sender does not answer and may have ended; still waiting".to_owned())
            }
            WaitingFor::Answer => ("answer", "Waiting for the receiver to accept".to_owned()),
            WaitingFor::Agreement => ("agreement", "Waiting for the peer to compare the words".to_owned()),
            WaitingFor::DirectPath => {
                ("direct", "Waiting for a direct path, because --p2p-only forbids a transfer over a relay".to_owned())
            }
            WaitingFor::Peer => ("peer", "Waiting for the peer to reconnect".to_owned()),
            WaitingFor::Confirmation => (
                "confirmation",
                "Everything was sent; waiting for the receiver to confirm it (it may have everything: ask there)"
                    .to_owned(),
            ),
            _ => ("peer", "Waiting for the peer".to_owned()),
        };
        self.output.event(&output::Event::Waiting { r#for: name });
        // Shown late: waits that often end within moments. The transfer reports the others only after a delay of its
        // own.
        let is_early = matches!(what, WaitingFor::Relay(_) | WaitingFor::Sender)
            || !self.code_shown && !matches!(what, WaitingFor::Response);
        self.waiting = Some((if is_early { now + SAY_WAITING_AFTER } else { now }, text));
    }

    fn show_path(&mut self, path: Path) {
        let transport = transport_name(path.transport);
        let (name, shown) = match path.kind {
            PathKind::Direct => ("direct", format!("direct {transport}")),
            PathKind::Relay => ("relay", format!("relay {transport}")),
            PathKind::Lan => ("lan", "lan".to_owned()),
            _ => ("other", transport.to_owned()),
        };
        let rtt_ms = (path.rtt.as_secs_f64() * 10_000.0).round() / 10.0;
        self.output.event(&output::Event::Path { path: name, transport, rtt_ms });
        self.meter.set_path(&shown);
        let again = std::mem::take(&mut self.lost);
        if self.path.replace((path.kind, path.transport)) != Some((path.kind, path.transport)) {
            let what = if again { "Reconnected" } else { "Path" };
            self.output.line(&format!("{what}: {shown}, {rtt_ms} ms"));
        }
    }

    /// Shows the code, and the commands to type on the other computer.
    pub fn show_code(&self, code: &Code, link: Option<&str>, relay: Option<&str>, here: &[String]) {
        let code = code.reveal();
        self.output.event(&output::Event::Code { code: &code, link, relay: here });
        self.output.print_bold("Code: ", &code);
        let relay = relay.map(|relay| format!(" --relay {relay}")).unwrap_or_default();
        let receive = if self.in_order { "tallow receive --stdout" } else { "tallow receive" };
        self.output.line(&format!("On the other computer: {receive} {}{relay}", code.as_str()));
        if let Some(here) = here.first() {
            self.output.line(&format!("From elsewhere: {receive} {} --relay {here}", code.as_str()));
        }
    }

    /// Reports success.
    pub fn show_done(&self, summary: &Summary, out: Option<&str>) {
        let (files, bytes) = (u64::from(summary.totals.files), summary.totals.bytes);
        let seconds = summary.duration.as_secs_f64();
        let root = HEXLOWER.encode(&summary.root);
        let Placement { renamed, links_outside, links_unsupported } = summary.placement;
        let left_out = links_outside.saturating_add(links_unsupported);
        let kept = self.kept;
        self.output.event(&output::Event::Done { bytes, files, seconds, kept, root: &root, renamed, left_out, out });
        let took = took(seconds, bytes);
        let amount = if summary.totals.entries == 0 && self.in_order { size(bytes) } else { amount(files, bytes) };
        self.output.line(&match out {
            None if self.role == Role::Receiver => format!("Received {amount} in {took}, verified"),
            Some(out) => format!("Received {amount} in {took}, verified, in {}", output::shown(out)),
            None => format!("Sent {amount} in {took}, verified by the receiver"),
        });
    }
}

/// The duration, and the average rate.
fn took(seconds: f64, bytes: u64) -> String {
    let took = if seconds < 10.0 { format!("{seconds:.1} s") } else { time(seconds.round() as u64) };
    // A rate over such a short time is meaningless.
    if seconds < 0.1 {
        return took;
    }
    format!("{took} ({}/s)", size((bytes as f64 / seconds) as u64))
}

async fn answered(question: &mut Option<Answer>) -> Option<String> {
    match question {
        Some(answer) => answer.line().await,
        None => std::future::pending().await,
    }
}

async fn pause(runtime: Runtime, wait: Option<Duration>) {
    match wait {
        Some(wait) => runtime.sleep(wait).await,
        None => std::future::pending().await,
    }
}

const fn transport_name(transport: PathTransport) -> &'static str {
    match transport {
        PathTransport::Quic => "quic",
        PathTransport::Tls | PathTransport::Tcp => "tcp",
        PathTransport::WebSocket => "websocket",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
