//! All text output of the program: lines for users on standard error, events and payload on standard output.
//!
//! This is the only file that prints. It lets no control characters through to a terminal: they are removed from lines
//! here even if the code that made the line did not escape them, and JSON strings contain them as escapes.
//!
//! Output never blocks or ends a transfer: lines, progress and events go through [`lossy`]. If the reader closed the
//! pipe, the terminal is stopped or the disk is full, lines are lost, and their number is written in their place. Only
//! [`Output::payload`] blocks and reports an error, because its text is the purpose of the command.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use serde::Serialize;
use tallow_proto::wire::Untrusted;
use tallow_proto::wire::is_harmless;
use tallow_relay::lossy::{self, Descriptor, Lossy};

use crate::args::OutputArgs;

/// The maximum number of characters of untrusted text that is shown.
pub const SHOWN: usize = 200;

/// The output of the program. Clones share their state.
#[derive(Debug, Clone)]
pub struct Output {
    json: bool,
    quiet: bool,
    verbose: bool,
    bar: Option<BarStyle>,
    current: Arc<Mutex<Option<ProgressBar>>>,
    /// The unanswered question on the last line of the terminal.
    asked: Arc<Mutex<Option<String>>>,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarStyle {
    /// One line that is redrawn.
    Bar,
    /// A new line at intervals.
    Lines,
}

impl Output {
    /// Creates the output for these options and the kind of standard error (terminal or not).
    #[must_use]
    pub fn new(args: &OutputArgs) -> Self {
        if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            console::set_colors_enabled_stderr(false);
        }
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let bar = match (args.quiet, args.no_progress || is_dumb || !io::stderr().is_terminal()) {
            (true, _) => None,
            (false, false) => Some(BarStyle::Bar),
            (false, true) => Some(BarStyle::Lines),
        };
        let verbose = args.verbose > 0;
        Self { json: args.json, quiet: args.quiet, verbose, bar, current: Arc::default(), asked: Arc::default() }
    }

    /// Creates the output for text that is written before the options are parsed, or without options.
    #[must_use]
    pub fn plain(json: bool) -> Self {
        Self { json, quiet: false, verbose: false, bar: None, current: Arc::default(), asked: Arc::default() }
    }

    /// Whether the user wants to know more.
    #[must_use]
    pub const fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// The style of the progress display; `None` for no display.
    #[must_use]
    pub const fn bar_style(&self) -> Option<BarStyle> {
        self.bar
    }

    /// Sets the progress bar; lines are then written above it.
    pub fn set_bar(&self, bar: Option<ProgressBar>) {
        *lock(&self.current) = bar;
    }

    /// Writes a line for the user, unless `--quiet` is set.
    pub fn line(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// Writes a line even if `--quiet` is set: the code and errors.
    pub fn say(&self, text: &str) {
        self.write(&format!("{}\n", safe(text)));
    }

    /// Like [`Output::say`], with the last part in bold if the terminal supports it.
    pub fn print_bold(&self, text: &str, bold: &str) {
        let bold = safe(bold);
        self.write(&format!("{}{}\n", safe(text), console::style(bold).for_stderr().bold()));
    }

    /// Writes a question; the cursor stays behind it.
    pub fn ask(&self, text: &str) {
        let question = format!("{} ", safe(text));
        self.write(&question);
        *lock(&self.asked) = Some(question);
    }

    /// The user ended the line of the question, so that lines no longer have to be written above it.
    pub fn answered(&self) {
        *lock(&self.asked) = None;
    }

    /// Withdraws the question; the next text begins on a line of its own.
    pub fn withdraw(&self) {
        if lock(&self.asked).take().is_some() {
            self.write("\n");
        }
    }

    /// Writes trusted text of several lines, such as the help, to standard error.
    pub fn block(&self, text: &str) {
        self.write(text);
    }

    /// Writes an event if `--json` is set.
    pub fn event(&self, event: &Event<'_>) {
        if !self.json {
            return;
        }
        let mut line = json(event);
        line.push('\n');
        let push = || match event {
            // The next progress event replaces this one.
            Event::Progress { .. } => events().push_unless_busy(line.as_bytes()),
            _ => events().push(line.as_bytes()),
        };
        self.suspended(push);
    }

    /// Writes text to standard output that is the purpose of the command.
    ///
    /// # Errors
    /// The text could not be written. A reader that closed the pipe is not an error.
    pub fn payload(&self, text: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match out.write_all(text).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn write(&self, text: &str) {
        let question = lock(&self.asked).clone();
        // Other lines are written above an unanswered question.
        let text = match &question {
            Some(question) => format!("\n{text}{question}"),
            None => text.to_owned(),
        };
        self.suspended(|| lossy::stderr().push(text.as_bytes()));
    }

    /// Runs `f` while the progress bar is hidden.
    fn suspended<T>(&self, f: impl FnOnce() -> T) -> T {
        let bar = lock(&self.current).clone();
        match bar {
            Some(bar) => bar.suspend(f),
            None => f(),
        }
    }
}

/// Waits until all lines and events are written, but no longer than `patience` for a reader that reads nothing.
pub fn flush(patience: Duration) {
    lossy::stderr().flush(patience);
    events().flush(patience);
}

/// The queue for events. If standard output and standard error are one terminal, they share a queue, so that events do
/// not mix with the progress bar.
fn events() -> &'static Lossy {
    static STDOUT: OnceLock<Option<Lossy>> = OnceLock::new();
    let note = |lines| format!("{{\"event\":\"lost\",\"lines\":{lines}}}\n");
    let begin = || (!is_one_terminal()).then(|| Lossy::new(Descriptor(rustix::stdio::stdout()), note));
    STDOUT.get_or_init(begin).as_ref().unwrap_or_else(|| lossy::stderr())
}

/// Whether standard output and standard error are the same terminal.
fn is_one_terminal() -> bool {
    let device = |stream| rustix::fs::fstat(stream).map(|found| found.st_rdev).ok();
    let is_terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
    is_terminal && device(rustix::stdio::stdout()) == device(rustix::stdio::stderr())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes log lines through the same queue as all other lines.
#[derive(Debug, Clone)]
pub struct LogWriter(pub Output);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in String::from_utf8_lossy(bytes).lines() {
            self.0.say(line);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Untrusted text, escaped and shortened.
#[must_use]
pub fn shown(text: &str) -> String {
    Untrusted::new(text.to_owned()).escaped(SHOWN)
}

/// Escapes all characters that could control a terminal.
fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmless(c) { safe.push(c) } else { safe.extend(c.escape_default()) }
    }
    safe
}

/// The events of `--json`: one object per line, with the name of the event first.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// Sender: the files to send were scanned.
    Sending {
        /// Number of files.
        files: u64,
        /// Total size in bytes; null for a stream.
        bytes: Option<u64>,
    },
    /// Sender: the code.
    Code {
        /// The code to type.
        code: &'a str,
        /// A link that contains the code and the relay.
        #[serde(skip_serializing_if = "Option::is_none")]
        link: Option<&'a str>,
        /// The addresses of the relay inside this process.
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        relay: &'a [String],
    },
    /// This machine connected to a relay for the first time.
    FirstUse {
        /// The address of the relay.
        relay: &'a str,
        /// The fingerprint of its certificate; null if a public authority signed it.
        fingerprint: Option<&'a str>,
    },
    /// The transfer waits.
    Waiting {
        /// `relay`, `receiver`, `sender`, `turn`, `response`, `answer`, `agreement`, `direct`, `peer` or
        /// `confirmation`.
        r#for: &'a str,
    },
    /// The peer connected.
    Paired,
    /// Sender: a wrong code was used.
    WrongGuess {
        /// The number of tries left.
        left: u8,
    },
    /// Sender: another receiver used the number of the code and was refused.
    SecondReceiver,
    /// The verifier words, shown on both sides.
    Verifier {
        /// The words.
        words: &'a [&'static str],
        /// Whether the transfer waits for an answer here.
        must_agree: bool,
    },
    /// Receiver: the sender offered files.
    Offer {
        /// Number of files.
        files: u64,
        /// Total size in bytes.
        bytes: u64,
        /// The text, if the offer is a text message.
        text: Option<&'a str>,
        /// The first names.
        names: &'a [String],
        /// The number of further names.
        more: u64,
    },
    /// The offer was accepted.
    Accepted,
    /// Sender: an entry that is not sent, or a link that the receiver left out. Receiver: a link that was left out.
    LeftOut {
        /// Sender: its path. Receiver: its offered path.
        path: &'a str,
        /// The reason.
        why: &'a str,
    },
    /// Sender: a name that can't be sent. An error follows.
    Refused {
        /// Its path.
        path: &'a str,
        /// The violated rule.
        why: &'a str,
    },
    /// Receiver: an entry was saved under another name.
    Renamed {
        /// Its offered path.
        from: &'a str,
        /// Its path here, below the destination.
        to: &'a str,
    },
    /// Data of an earlier transfer is used.
    Resumed {
        /// The number of bytes that need not be transferred again.
        bytes_kept: u64,
    },
    /// The path of the connection changed.
    Path {
        /// `relay`, `lan` or `direct`.
        path: &'a str,
        /// `quic`, `tcp` or `websocket`.
        transport: &'a str,
        /// Round-trip time to the next hop.
        rtt_ms: f64,
    },
    /// The transfer now uses a direct path.
    P2pUpgrade {
        /// `quic` or `tcp`.
        transport: &'a str,
        /// The time since the handshake, or since the last direct path was lost.
        ms: u128,
    },
    /// The direct path was lost; the transfer now uses the relay.
    P2pFallback {
        /// `silent`, `lost`, `peer` or `moved`.
        reason: &'a str,
    },
    /// The connection was lost; this side reconnects.
    Reconnecting {
        /// The number of the attempt since the connection was lost.
        attempt: u32,
        /// The time until the attempt.
        in_ms: u128,
    },
    /// The progress of the transfer.
    Progress {
        /// Bytes transferred.
        bytes: u64,
        /// Total size in bytes.
        total: u64,
        /// Bytes per second, averaged over the last seconds.
        rate: u64,
    },
    /// The transfer is complete and verified on both sides.
    Done {
        /// Total size in bytes.
        bytes: u64,
        /// Number of files.
        files: u64,
        /// The duration of the transfer.
        seconds: f64,
        /// Bytes that were kept from an earlier transfer.
        kept: u64,
        /// The root hash that both sides computed over names and contents.
        root: &'a str,
        /// Names that are others at the receiver.
        renamed: u32,
        /// Links that the receiver left out.
        left_out: u32,
        /// Receiver: the directory of the received files.
        #[serde(skip_serializing_if = "Option::is_none")]
        out: Option<&'a str>,
    },
    /// An unfinished transfer was found or removed.
    Partial {
        /// Its id.
        id: &'a str,
        /// The top-level name of its first entry.
        name: &'a str,
        /// Total size of its files in bytes.
        bytes: u64,
        /// The approximate number of bytes that are stored.
        stored: u64,
        /// Whether a receiver is using it.
        live: bool,
        /// Whether this command removed it.
        removed: bool,
    },
    /// The command failed.
    Error {
        /// The error class, which corresponds to the exit code.
        kind: &'a str,
        /// What happened, and why.
        message: &'a str,
        /// What to do.
        hint: &'a str,
    },
}

/// One line, without its end. Characters that a terminal could obey are escapes in it, which JSON itself asks for C0
/// only.
fn json(event: &Event<'_>) -> String {
    let text = match serde_json::to_string(event) {
        Ok(text) => text,
        Err(_) => {
            return r#"{"event":"error","kind":"bug","message":"this event has no JSON form","hint":""}"#.to_owned();
        }
    };
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmless(c) {
            line.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    line
}

/// Formats a number of bytes: `1.2 GiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    for unit in UNITS {
        // 1023.95 would be shown as 1024.0.
        if amount < 1023.95 {
            return format!("{amount:.1} {unit}");
        }
        amount /= 1024.0;
    }
    format!("{bytes} B")
}

/// Formats a number of files and bytes: `3 files, 1.2 GiB`.
#[must_use]
pub fn amount(files: u64, bytes: u64) -> String {
    format!("{}, {}", counted(files, "file", "files"), size(bytes))
}

/// Formats a count: `1 file`, `2 files`, `10,000 files`.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    let digits = count.to_string();
    let mut number = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            number.push(',');
        }
        number.push(digit);
    }
    format!("{number} {}", if count == 1 { one } else { many })
}

/// Formats a duration: `12 s`, `3 min 20 s`, `2 h 05 min`.
#[must_use]
pub fn time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..360_000 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_events_begin_with_their_name() {
        let words = ["acorn", "canal"];
        let names = vec!["a.txt".to_owned()];
        let events = [
            (Event::Code { code: "7-a-b", link: None, relay: &[] }, r#"{"event":"code","code":"7-a-b"}"#),
            (
                Event::Code { code: "7-a-b", link: Some("tallow://r/7#a-b"), relay: &[] },
                r#"{"event":"code","code":"7-a-b","link":"tallow://r/7#a-b"}"#,
            ),
            (Event::Waiting { r#for: "receiver" }, r#"{"event":"waiting","for":"receiver"}"#),
            (Event::Paired, r#"{"event":"paired"}"#),
            (Event::WrongGuess { left: 2 }, r#"{"event":"wrong_guess","left":2}"#),
            (
                Event::Verifier { words: &words, must_agree: true },
                r#"{"event":"verifier","words":["acorn","canal"],"must_agree":true}"#,
            ),
            (
                Event::Offer { files: 1, bytes: 5, text: None, names: &names, more: 0 },
                r#"{"event":"offer","files":1,"bytes":5,"text":null,"names":["a.txt"],"more":0}"#,
            ),
            (
                Event::Path { path: "relay", transport: "quic", rtt_ms: 1.5 },
                r#"{"event":"path","path":"relay","transport":"quic","rtt_ms":1.5}"#,
            ),
            (Event::Progress { bytes: 1, total: 2, rate: 3 }, r#"{"event":"progress","bytes":1,"total":2,"rate":3}"#),
            (
                Event::Done {
                    bytes: 5,
                    files: 1,
                    seconds: 0.5,
                    kept: 0,
                    root: "ab",
                    renamed: 2,
                    left_out: 1,
                    out: Some("/d"),
                },
                concat!(
                    r#"{"event":"done","bytes":5,"files":1,"seconds":0.5,"kept":0,"root":"ab","#,
                    r#""renamed":2,"left_out":1,"out":"/d"}"#
                ),
            ),
            (Event::Renamed { from: "a:b", to: "a_b" }, r#"{"event":"renamed","from":"a:b","to":"a_b"}"#),
            (
                Event::LeftOut { path: "l", why: "a link out of what was sent" },
                r#"{"event":"left_out","path":"l","why":"a link out of what was sent"}"#,
            ),
            (
                Event::Error { kind: "auth", message: "wrong code", hint: "ask" },
                r#"{"event":"error","kind":"auth","message":"wrong code","hint":"ask"}"#,
            ),
        ];
        for (event, line) in events {
            assert_eq!(json(&event), line);
        }
    }

    const CONTROLS: [&str; 4] =
        ["\x1b[2J\x1b[1A\rharmless", "\x1b]52;c;ZXZpbA==\x07", "\u{9b}31m\u{7f}", "a\nb\u{202e}gpj\u{e0041}"];

    #[test]
    fn d01_control_characters_are_never_written() {
        for text in CONTROLS {
            assert!(safe(text).chars().all(is_harmless), "{text:?}");
            assert!(shown(text).chars().all(is_harmless), "{text:?}");
            let line = json(&Event::Error { kind: "peer", message: text, hint: text });
            assert!(line.chars().all(is_harmless), "{line}");
            let back: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(back.get("message").and_then(|message| message.as_str()), Some(text), "JSON loses nothing");
        }
    }

    #[test]
    fn sizes_and_times_are_formatted() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_288_490_189, "1.2 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(amount(1, 0), "1 file, 0 B");
        assert_eq!(amount(10_000, 1), "10,000 files, 1 B");
        assert_eq!(counted(1_234_567, "x", "xs"), "1,234,567 xs");
        let times = [(0, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (7_505, "2 h 05 min"), (864_000, "10 days")];
        for (seconds, text) in times {
            assert_eq!(time(seconds), text);
        }
    }
}
