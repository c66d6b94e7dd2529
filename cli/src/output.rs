//! Everything that leaves the program as text: lines for people on standard error, events and payload on standard output.
//!
//! It is the only file that prints, and nothing passes it that a terminal could obey: lines lose their control characters here even
//! if the code that made them forgot, and JSON strings have them as escapes.
//!
//! No transfer waits for its text, and none ends because of it: lines, progress and events go through [`lossy`]. A reader that left, a
//! terminal that is stopped or a disk that is full costs lines; how many is told where they are missing. Only [`Output::payload`] waits
//! and reports an error: its text is what the program was started for.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use serde::Serialize;
use tallow_proto::wire::Untrusted;
use tallow_proto::wire::untrusted::is_harmless;
use tallow_relay::lossy::{self, Descriptor, Lossy};

use crate::args::OutputArgs;

/// How many characters of somebody else's text are shown.
pub const SHOWN: usize = 200;

/// Where the program's text goes. Clones are the same.
#[derive(Debug, Clone)]
pub struct Output {
    json: bool,
    quiet: bool,
    bar: Option<BarStyle>,
    current: Arc<Mutex<Option<ProgressBar>>>,
    /// The question that stands at the end of what is shown.
    asked: Arc<Mutex<Option<String>>>,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarStyle {
    /// One line that is drawn again and again.
    Bar,
    /// A line now and then.
    Lines,
}

impl Output {
    /// By what the person asked for and what standard error is.
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
        Self { json: args.json, quiet: args.quiet, bar, current: Arc::default(), asked: Arc::default() }
    }

    /// For what has to be said before, or without, any options.
    #[must_use]
    pub fn plain(json: bool) -> Self {
        Self { json, quiet: false, bar: None, current: Arc::default(), asked: Arc::default() }
    }

    /// How progress is to be shown, if at all.
    #[must_use]
    pub const fn bar_style(&self) -> Option<BarStyle> {
        self.bar
    }

    /// The bar below which lines appear from now on.
    pub fn set_bar(&self, bar: Option<ProgressBar>) {
        *lock(&self.current) = bar;
    }

    /// A line for the person, unless they asked for quiet.
    pub fn line(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// A line that quiet does not silence: the code, errors.
    pub fn say(&self, text: &str) {
        self.write(&format!("{}\n", safe(text)));
    }

    /// Like [`Output::say`], with the last part emphasised where the terminal can do so.
    pub fn say_bold(&self, text: &str, bold: &str) {
        let bold = safe(bold);
        self.write(&format!("{}{}\n", safe(text), console::style(bold).for_stderr().bold()));
    }

    /// A question; the cursor stays behind it.
    pub fn ask(&self, text: &str) {
        let question = format!("{} ", safe(text));
        self.write(&question);
        *lock(&self.asked) = Some(question);
    }

    /// The person ended the line of the question, or it needs no answer any more.
    pub fn answered(&self) {
        *lock(&self.asked) = None;
    }

    /// The question needs no answer any more; what follows begins on a line of its own.
    pub fn withdraw(&self) {
        if lock(&self.asked).take().is_some() {
            self.write("\n");
        }
    }

    /// Text of our own with several lines, such as the help, for standard error.
    pub fn block(&self, text: &str) {
        self.write(text);
    }

    /// An event, when the person asked for JSON.
    pub fn event(&self, event: &Event<'_>) {
        if !self.json {
            return;
        }
        let mut line = json(event);
        line.push('\n');
        let push = || match event {
            // The next one says more.
            Event::Progress { .. } => events().push_unless_busy(line.as_bytes()),
            _ => events().push(line.as_bytes()),
        };
        self.suspended(push);
    }

    /// Text for standard output that the program was started for.
    ///
    /// # Errors
    /// It could not be written. A reader that has enough is no error.
    pub fn payload(&self, text: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match out.write_all(text).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn write(&self, text: &str) {
        let question = lock(&self.asked).clone();
        // Other lines go above a question that stands.
        let text = match &question {
            Some(question) => format!("\n{text}{question}"),
            None => text.to_owned(),
        };
        self.suspended(|| lossy::stderr().push(text.as_bytes()));
    }

    /// Runs with the bar out of the way.
    fn suspended<T>(&self, f: impl FnOnce() -> T) -> T {
        let bar = lock(&self.current).clone();
        match bar {
            Some(bar) => bar.suspend(f),
            None => f(),
        }
    }
}

/// Waits until all lines and events are written, but no longer than `patience` for a reader that takes nothing.
pub fn flush(patience: Duration) {
    lossy::stderr().flush(patience);
    events().flush(patience);
}

/// Where events go. On one terminal they share the queue of standard error, so that they stay apart from the bar.
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

/// Log lines go the same way as all others.
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

/// Text from outside, as it may be shown.
#[must_use]
pub fn shown(text: &str) -> String {
    Untrusted::new(text.to_owned()).escaped(SHOWN)
}

/// Whatever a terminal could obey, made visible.
fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmless(c) { safe.push(c) } else { safe.extend(c.escape_default()) }
    }
    safe
}

/// What `--json` writes: one object a line, its name first.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// Sender: what will be sent.
    Sending {
        /// Files.
        files: u64,
        /// Their bytes; null for a stream.
        bytes: Option<u64>,
    },
    /// Sender: the code.
    Code {
        /// To be typed.
        code: &'a str,
        /// The same with a relay in it.
        #[serde(skip_serializing_if = "Option::is_none")]
        link: Option<&'a str>,
        /// Where the relay inside this process can be reached.
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        relay: &'a [String],
    },
    /// A relay's certificate was seen for the first time.
    FirstUse {
        /// Which relay.
        relay: &'a str,
        /// Its certificate, unless a public authority vouches for it.
        fingerprint: Option<&'a str>,
    },
    /// Nothing happens until this comes.
    Waiting {
        /// `relay`, `receiver`, `sender`, `turn`, `response`, `answer`, `agreement`, `direct` or `peer`.
        r#for: &'a str,
    },
    /// The other side is there.
    Paired,
    /// Sender: a wrong code was used.
    WrongGuess {
        /// Tries that are left.
        left: u8,
    },
    /// Sender: another receiver came with the number of the code, and was turned away.
    SecondReceiver,
    /// What both people see.
    Verifier {
        /// The words.
        words: &'a [&'static str],
        /// Whether the transfer waits for an answer here.
        must_agree: bool,
    },
    /// Receiver: what is offered.
    Offer {
        /// Files.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// A text message, if it is one.
        text: Option<&'a str>,
        /// The first names, with what could mislead made visible.
        names: &'a [String],
        /// How many more there are.
        more: u64,
    },
    /// The offer was accepted.
    Accepted,
    /// Some of it was there from before.
    Resumed {
        /// So much need not move again.
        bytes_kept: u64,
    },
    /// The way the bytes take.
    Path {
        /// `relay`, `lan` or `direct`.
        path: &'a str,
        /// `quic`, `tcp` or `websocket`.
        transport: &'a str,
        /// Round trip to the next hop.
        rtt_ms: f64,
    },
    /// A direct path carries the transfer now.
    P2pUpgrade {
        /// `quic` or `tcp`.
        transport: &'a str,
        /// Since the handshake, or since the last direct path was left.
        ms: u128,
    },
    /// The direct path is gone; the relay carries the transfer.
    P2pFallback {
        /// `silent`, `lost`, `peer` or `moved`.
        reason: &'a str,
    },
    /// The connection was lost; the other side is looked for again.
    Reconnecting {
        /// Counts up while it does not succeed.
        attempt: u32,
        /// Until then.
        in_ms: u128,
    },
    /// How far it is.
    Progress {
        /// Done.
        bytes: u64,
        /// All.
        total: u64,
        /// Bytes a second, lately.
        rate: u64,
    },
    /// Complete, verified on both sides.
    Done {
        /// All.
        bytes: u64,
        /// Files.
        files: u64,
        /// How long it took.
        seconds: f64,
        /// Bytes that were there from before.
        kept: u64,
        /// What both sides computed over names and bytes.
        root: &'a str,
        /// Receiver: where it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        out: Option<&'a str>,
    },
    /// A partial transfer that is there, or was removed.
    Partial {
        /// What to call it.
        id: &'a str,
        /// The name at the top of the first thing in it.
        name: &'a str,
        /// Bytes of all its files.
        bytes: u64,
        /// About how many of them are there.
        stored: u64,
        /// Whether a receiver is at it.
        live: bool,
        /// Whether it was removed now.
        removed: bool,
    },
    /// It did not work.
    Error {
        /// The class, as the exit code says it.
        kind: &'a str,
        /// What happened, and why.
        message: &'a str,
        /// What to do.
        hint: &'a str,
    },
}

/// One line, without its end. Characters that a terminal could obey are escapes in it, which JSON itself asks for C0 only.
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

/// A number of bytes for people: `1.2 GiB`.
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

/// `3 files, 1.2 GiB`.
#[must_use]
pub fn amount(files: u64, bytes: u64) -> String {
    format!("{}, {}", counted(files, "file", "files"), size(bytes))
}

/// `1 file`, `2 files`, `10,000 files`.
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

/// A time for people: `12 s`, `3 min 20 s`, `2 h 05 min`.
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
    fn the_name_of_an_event_comes_first() {
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
                Event::Done { bytes: 5, files: 1, seconds: 0.5, kept: 0, root: "ab", out: Some("/d") },
                r#"{"event":"done","bytes":5,"files":1,"seconds":0.5,"kept":0,"root":"ab","out":"/d"}"#,
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

    const EVIL: [&str; 4] =
        ["\x1b[2J\x1b[1A\rharmless", "\x1b]52;c;ZXZpbA==\x07", "\u{9b}31m\u{7f}", "a\nb\u{202e}gpj\u{e0041}"];

    #[test]
    fn d01_nothing_that_a_terminal_obeys_is_written() {
        for evil in EVIL {
            assert!(safe(evil).chars().all(is_harmless), "{evil:?}");
            assert!(shown(evil).chars().all(is_harmless), "{evil:?}");
            let line = json(&Event::Error { kind: "peer", message: evil, hint: evil });
            assert!(line.chars().all(is_harmless), "{line}");
            let back: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(back.get("message").and_then(|message| message.as_str()), Some(evil), "JSON loses nothing");
        }
    }

    #[test]
    fn sizes_and_times_for_people() {
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
