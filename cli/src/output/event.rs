//! The events of `--json`.

use serde::Serialize;

/// One object per line, with the name of the event first.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// Sender: the files to send were scanned.
    Sending {
        /// Number of files.
        files: u64,
        /// Total size in bytes; null for a stream.
        bytes: Option<u64>,
        /// How many of these bytes are sent: holes of sparse files are not. Null for a stream.
        data: Option<u64>,
    },
    /// Sender: a file or directory that is left out because it can't be read. The command fails in the end.
    Unreadable {
        /// Its path.
        path: &'a str,
        /// The reason.
        why: &'a str,
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
        /// `relay`, `source`, `receiver`, `sender`, `turn`, `response`, `answer`, `agreement`, `direct`, `peer` or
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
        /// How many of these bytes are sent: holes of sparse files are not.
        data: u64,
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
    /// A file that the sender could not send. The command fails in the end.
    Failed {
        /// Its offered path.
        path: &'a str,
        /// `changed`, `vanished` or `unreadable`.
        why: &'a str,
    },
    /// A file that grew while it was sent. The part that was offered is in place.
    Grown {
        /// Its offered path.
        path: &'a str,
    },
    /// An entry that was not sent because its name exists at the receiver.
    Skipped {
        /// Sender: its offered path. Receiver: its path below the destination.
        path: &'a str,
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
        /// Files that the sender could not send.
        failed: u64,
        /// Files that grew while they were sent.
        grown: u64,
        /// Entries that were not sent because their names exist at the receiver.
        skipped: u64,
        /// Sender: files and directories that were left out because they can't be read.
        #[serde(skip_serializing_if = "Option::is_none")]
        unreadable: Option<u64>,
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
