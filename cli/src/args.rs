//! The command line: the commands and options that `clap` parses, and the preparation of the arguments before it does.
//!
//! `clap` expects options after the command they belong to. Users put them anywhere, so [`arrange`] first moves options
//! that precede the command behind it. It also decides what a first word means that is not a command: a code starts
//! `receive`, a path is a usage error that suggests `send`.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use tallow_proto::code::{Code, Link};
use tallow_proto::link::Fingerprint;
use tallow_proto::link::Proxy;
use tallow_proto::peer::MIN_DIRECT_PORT;
use tallow_proto::peer::RelayAddress;
use tallow_proto::transfer::LEAST_RATE;

use crate::failure::Problem;
use crate::runtime::Runtime;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "tallow",
    version,
    about = "Send files between any two machines, end-to-end encrypted, with a short code",
    after_help = "Options work before or after the command. `tallow 7-acorn-bicycle-canal` alone receives.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send files and directories
    #[command(visible_alias = "tx")]
    Send(Box<SendArgs>),
    /// Receive files, directories or a stream
    #[command(visible_aliases = ["recv", "rx"])]
    Receive(Box<ReceiveArgs>),
    /// Run a relay server
    Relay(Box<RelayArgs>),
    /// List or remove the data of unfinished transfers
    Partial(PartialArgs),
    /// Print the completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `tallow send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// Files and directories to send; `-` alone sends standard input as a stream
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Use this code instead of a generated one, such as 7-acorn-bicycle-canal: a name for the room, a dash, and at
    /// least 8 more characters. Each use of the same code gives an attacker new guesses, so change it. $TALLOW_CODE
    /// sets it, too
    #[arg(long, value_name = "CODE", conflicts_with = "words")]
    pub code: Option<String>,
    /// Read the code to use from a file; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["words", "code"])]
    pub code_file: Option<PathBuf>,
    /// Number of words in the code [default: 3]
    #[arg(long, value_name = "2..8", value_parser = clap::value_parser!(u8).range(2..=8))]
    pub words: Option<u8>,
    /// Leave out files that match this pattern (.gitignore syntax); may be repeated
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Leave out files that git ignores
    #[arg(long)]
    pub git: bool,
    /// Symbolic links to send: those that lead to something that is sent, too, or all of them as they are. The receiver
    /// needs --links keep for those that lead out of what is sent
    #[arg(long, value_enum, default_value_t = LinkChoice::Inside)]
    pub links: LinkChoice,
    /// Send the targets of symbolic links instead of the links
    #[arg(long, conflicts_with = "links")]
    pub follow_links: bool,
    /// Do not compress
    #[arg(long, conflicts_with = "compress_level")]
    pub no_compress: bool,
    /// zstd level, 1 (fast) to 19 (small) [default: 3]
    #[arg(long, value_name = "1..19", value_parser = clap::value_parser!(u8).range(1..=19))]
    pub compress_level: Option<u8>,
    /// The options that senders and receivers share.
    #[command(flatten)]
    pub peer: PeerArgs,
    /// The output options.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `tallow receive`.
#[derive(Debug, Args)]
pub struct ReceiveArgs {
    /// The code that the sender shows; its words may be separate arguments. Without it,
    /// $TALLOW_CODE is used, or tallow asks for it
    #[arg(value_name = "CODE")]
    pub code: Vec<String>,
    /// Read the code from a file; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with = "code")]
    pub code_file: Option<PathBuf>,
    /// Directory for the received files
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// Accept the offer without asking; needed when standard input is not a terminal
    #[arg(short, long)]
    pub yes: bool,
    /// If a name already exists: replace the existing file
    #[arg(long, group = "exists")]
    pub overwrite: bool,
    /// If a name already exists: save the received file under another name
    #[arg(long, group = "exists")]
    pub rename: bool,
    /// If a name already exists: keep the existing file
    #[arg(long, group = "exists")]
    pub skip: bool,
    /// Write the offered stream or single file to standard output, in order
    #[arg(long, conflicts_with_all = ["json", "out", "overwrite", "rename", "skip"])]
    pub stdout: bool,
    /// Symbolic links to create: those that stay inside what is received, or all, as they were sent. Nothing is
    /// received through a link, but other programs follow it
    #[arg(long, value_enum, default_value_t = LinkChoice::Inside)]
    pub links: LinkChoice,
    /// Names of the received files: as they were sent, without invisible characters that mislead (plain), with all of
    /// them (exact), or such as every system can hold (portable). What the disk can't hold is changed in any case
    #[arg(long, value_enum, default_value_t = NameChoice::Plain)]
    pub names: NameChoice,
    /// The options that senders and receivers share.
    #[command(flatten)]
    pub peer: PeerArgs,
    /// The output options.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `tallow relay`.
#[derive(Debug, Args)]
pub struct RelayArgs {
    /// The options of the relay.
    #[command(flatten)]
    pub relay: tallow_relay::Options,
    /// Log more; may be repeated
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Write nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// `tallow partial`.
#[derive(Debug, Args)]
pub struct PartialArgs {
    /// The command to run.
    #[command(subcommand)]
    pub command: PartialCommand,
}

/// The commands of `tallow partial`.
#[derive(Debug, Subcommand)]
pub enum PartialCommand {
    /// List unfinished transfers
    List {
        /// Directory that was used for the received files
        #[arg(short, long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
        /// The output options.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove unfinished transfers, except those in use by a running `tallow receive`
    Clear {
        /// Id of a transfer, or the beginning of it
        #[arg(value_name = "ID", required_unless_present = "all")]
        ids: Vec<String>,
        /// Remove all unfinished transfers in the directory
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        /// Directory that was used for the received files
        #[arg(short, long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
        /// The output options.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// The default port of STUN servers (RFC 8489 §14).
const STUN_PORT: u16 = 3478;

/// The options that senders and receivers share.
#[derive(Debug, Args)]
pub struct PeerArgs {
    /// Relay to use, repeatable, the preferred one first [default port: 4433] [env: TALLOW_RELAY, separated by commas]
    #[arg(long, value_name = "HOST[:PORT]")]
    pub relay: Vec<RelayAddress>,
    /// Accept exactly this certificate of the relay
    #[arg(long, value_name = "FINGERPRINT")]
    pub relay_pin: Option<Fingerprint>,
    /// The relay's password, if it requires one. Other users of this machine can read it on the command line, so prefer
    /// the variable or --relay-password-file
    #[arg(long, value_name = "PASSWORD", env = "TALLOW_RELAY_PASSWORD", hide_env_values = true)]
    pub relay_password: Option<String>,
    /// Read the relay's password from a file
    #[arg(long, value_name = "FILE", conflicts_with = "relay_password")]
    pub relay_password_file: Option<PathBuf>,
    /// Show words that both people compare before any data is sent
    #[arg(long)]
    pub verify: bool,
    /// Use no direct path, and do not reveal this machine's addresses to the peer
    #[arg(long, conflicts_with_all = ["p2p_only", "p2p_port", "stun"])]
    pub no_p2p: bool,
    /// Never send data over a relay; fail if there is no direct path
    #[arg(long, conflicts_with = "proxy")]
    pub p2p_only: bool,
    /// UDP and TCP port for direct paths, for a firewall that allows it; of a range, the first free port is used
    #[arg(long, value_name = "PORT[-PORT]", value_parser = ports)]
    pub p2p_port: Option<(u16, u16)>,
    /// Do not request a port mapping from the router (PCP, NAT-PMP, UPnP)
    #[arg(long)]
    pub no_port_map: bool,
    /// STUN server to ask for this machine's public address, in addition to the relay; repeatable [default port: 3478]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = stun_server)]
    pub stun: Vec<RelayAddress>,
    /// Transport to the relay: all of them at once, or only QUIC (UDP), TLS (TCP) or a WebSocket (TCP)
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    pub transport: Transport,
    /// Proxy for the connection to the relay (http://, socks5://, socks5h://). No other way is tried then, and no
    /// address is revealed [env: ALL_PROXY, HTTPS_PROXY, NO_PROXY]
    #[arg(long, value_name = "URL")]
    pub proxy: Option<Proxy>,
    /// How long to keep trying while the network or the peer is unreachable, such as 30s, 10m or 2h [default: 10m, and
    /// without a limit once the offer was accepted]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub give_up_after: Option<Duration>,
    /// Maximum number of bytes per second, such as 500K, 2M or 1.5MiB: K, M and G are powers of 1000, Ki, Mi and Gi of
    /// 1024. Either side may set a limit, and the lower one applies; at least 16K
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub limit: Option<NonZeroU64>,
    /// The async runtime, for comparisons.
    #[arg(long, hide = true, value_enum, default_value_t = Runtime::Tokio)]
    pub runtime: Runtime,
    /// The port of the relay inside a sender: a sender listens on it, and a receiver connects to it.
    #[arg(long, hide = true, env = "TALLOW_PORT")]
    pub port: Option<u16>,
    /// Directory for the state files.
    #[arg(long, hide = true, env = "TALLOW_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
}

/// The transports that may be used to reach a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// All transports at once; the first that connects is used.
    Auto,
    /// UDP.
    Quic,
    /// TLS.
    Tcp,
    /// WebSocket, for networks that allow web traffic only.
    Websocket,
}

/// The symbolic links that are sent, or created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LinkChoice {
    /// Links that stay inside what is sent.
    Inside,
    /// All links as they are.
    Keep,
}

/// The names of received files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NameChoice {
    /// As they were sent, without invisible characters that mislead.
    Plain,
    /// As they were sent.
    Exact,
    /// Such as every system can hold.
    Portable,
}

/// Parses a number of seconds, or a number followed by `s`, `m`, `h` or `d`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..) {
        Some("" | "s") => Some(1),
        Some("m") => Some(60),
        Some("h") => Some(3600),
        Some("d") => Some(86_400),
        _ => None,
    };
    let seconds = digits.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    seconds.map(Duration::from_secs).ok_or_else(|| "expected a duration such as 30s, 10m or 2h".to_owned())
}

/// Parses a port, or a range of ports.
fn ports(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().ok().filter(|&port| port >= MIN_DIRECT_PORT);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(format!("expected a port number of at least {MIN_DIRECT_PORT}, or a range such as 50000-50010")),
    }
}

/// Parses the address of a STUN server.
fn stun_server(text: &str) -> Result<RelayAddress, String> {
    let address: RelayAddress =
        text.parse().map_err(|_| "expected HOST, HOST:PORT, [IPV6] or [IPV6]:PORT".to_owned())?;
    // `RelayAddress` fills in the default port of a relay, so an explicit port is told apart here.
    let is_named = text.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    Ok(if is_named { address } else { RelayAddress { port: STUN_PORT, ..address } })
}

/// Parses a number of bytes per second: a number, with or without a fraction, and a unit.
fn rate(text: &str) -> Result<NonZeroU64, String> {
    let wrong = || "expected bytes per second, such as 500K, 2M or 1.5MiB".to_owned();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '/');
    let unit = text.get(number.len()..).unwrap_or_default();
    let unit = unit.strip_suffix("/s").unwrap_or(unit);
    // A lower-case b would mean bits.
    let unit = unit.strip_suffix('B').unwrap_or(unit);
    let unit: u128 = match unit {
        "" => 1,
        "k" | "K" => 1000,
        "m" | "M" => 1000_u128.pow(2),
        "g" | "G" => 1000_u128.pow(3),
        "ki" | "Ki" => 1024,
        "mi" | "Mi" => 1024_u128.pow(2),
        "gi" | "Gi" => 1024_u128.pow(3),
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| {
        let is_number = (1..=15).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u128>().ok().filter(|_| is_number).ok_or_else(wrong)
    };
    let scale = 10_u128.pow(u32::try_from(fraction.len().min(15)).unwrap_or(0));
    let bytes = (digits(whole)? * scale + digits(fraction)?) * unit / scale;
    let rate = u64::try_from(bytes).ok().and_then(NonZeroU64::new).ok_or_else(wrong)?;
    if rate.get() < LEAST_RATE { Err("the lowest rate is 16K".to_owned()) } else { Ok(rate) }
}

/// The options that control the output.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Write events as JSON to standard output, one object per line
    #[arg(long)]
    pub json: bool,
    /// Write nothing but the code, questions and errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Log more; may be repeated (-vvv: everything)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Show no progress bar
    #[arg(long)]
    pub no_progress: bool,
}

/// The result of parsing the command line.
#[derive(Debug)]
pub enum Parsed {
    /// Run this command.
    Run(Cli),
    /// The help or the version, to be written to standard output.
    Text(String),
    /// There were no arguments: the help, to be written to standard error.
    Nothing(String),
}

/// Parses the command line.
///
/// # Errors
/// The arguments are invalid.
pub fn parse(argv: Vec<OsString>) -> Result<Parsed, Problem> {
    let argv = arrange(argv, &|path| path.symlink_metadata().is_ok())?;
    match Cli::try_parse_from(&argv) {
        Ok(cli) => Ok(Parsed::Run(cli)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Parsed::Text(error.render().to_string())),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Ok(Parsed::Nothing(error.render().to_string())),
            _ => Err(usage(&error, &argv)),
        },
    }
}

/// Renders an error of `clap` as one line.
fn usage(error: &clap::Error, argv: &[OsString]) -> Problem {
    let receiving = argv.get(1).is_some_and(|word| ["receive", "recv", "rx"].iter().any(|name| word == name));
    if receiving
        && error.kind() == ErrorKind::UnknownArgument
        && argv.iter().skip(2).filter_map(|word| word.to_str()).any(is_dashed_words)
    {
        return Problem::usage("not a valid code: it begins with a dash", "a code looks like 7-acorn-bicycle-canal");
    }
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim);
    let mut message = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    if error.kind() == ErrorKind::MissingRequiredArgument {
        let missing = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::Strings(names)) => names.join(" "),
            Some(ContextValue::String(name)) => name.clone(),
            _ => String::new(),
        };
        message = format!("{missing} is missing");
    }
    let tip = lines.find_map(|line| line.strip_prefix("tip: "));
    let command =
        argv.get(1).and_then(|word| word.to_str()).filter(|word| Cli::command().find_subcommand(word).is_some());
    let help = match command {
        Some(command) => format!("see `tallow {command} --help`"),
        None => "see `tallow --help`".to_owned(),
    };
    Problem::usage(&message, &tip.map_or(help.clone(), |tip| format!("{tip}; {help}")))
}

/// Whether a word looks like `-a-b`: a code whose first part is missing, which `clap` parses as options.
fn is_dashed_words(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|rest| !rest.starts_with('-') && rest.contains('-') && !rest.contains('/'))
}

/// Moves the options that precede the command behind it, and inserts `receive` before a code without a command.
///
/// # Errors
/// The first word is a path.
fn arrange(mut argv: Vec<OsString>, exists: &dyn Fn(&Path) -> bool) -> Result<Vec<OsString>, Problem> {
    let root = Cli::command();
    let mut at = 1;
    while let Some(word) = argv.get(at) {
        match steps(&root, word) {
            Some(steps) => at += steps,
            None => break,
        }
    }
    let Some(word) = argv.get(at).cloned() else { return Ok(argv) };
    if word == "--" || word == "help" {
        return Ok(argv);
    }
    if root.find_subcommand(&word).is_some() {
        let command = argv.remove(at);
        argv.insert(1, command);
        return Ok(argv);
    }
    match meaning(&word, exists) {
        Meaning::Code => argv.insert(1, "receive".into()),
        Meaning::Path => {
            let path = crate::output::shown(&word.to_string_lossy());
            return Err(Problem::usage(
                &format!("{path} is a path, not a command"),
                &format!("did you mean: tallow send {path}?"),
            ));
        }
        Meaning::Unknown => {}
    }
    Ok(argv)
}

/// The number of words that an option consists of; `None` for a word that is not an option.
fn steps(root: &clap::Command, word: &OsStr) -> Option<usize> {
    let word = word.to_str()?;
    let takes_value = |is: &dyn Fn(&clap::Arg) -> bool| {
        root.get_subcommands()
            .flat_map(clap::Command::get_arguments)
            .any(|arg| is(arg) && arg.get_action().takes_values())
    };
    if let Some(long) = word.strip_prefix("--") {
        if long.is_empty() {
            return None;
        }
        return Some(if takes_value(&|arg| arg.get_long() == Some(long)) { 2 } else { 1 });
    }
    let shorts = word.strip_prefix('-').filter(|shorts| !shorts.is_empty())?;
    // The first short option that takes a value uses the rest of the word, or the next word if there is no rest.
    let valued = shorts.char_indices().find(|&(_, short)| takes_value(&|arg| arg.get_short() == Some(short)));
    Some(match valued {
        Some((at, short)) if at + short.len_utf8() == shorts.len() => 2,
        _ => 1,
    })
}

/// The meaning of a first word that is not a command.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Code,
    Path,
    Unknown,
}

fn meaning(word: &OsStr, exists: &dyn Fn(&Path) -> bool) -> Meaning {
    let text = word.to_str();
    if text.is_some_and(Link::is_link) {
        return Meaning::Code;
    }
    if exists(Path::new(word)) || word.as_encoded_bytes().contains(&b'/') {
        return Meaning::Path;
    }
    let Some(text) = text else { return Meaning::Unknown };
    // A word that begins with a digit is a code, even if incomplete; any other word must be a valid custom code.
    let is_numbered = text.starts_with(|c: char| c.is_ascii_digit());
    if is_numbered || Code::custom(text).is_ok() { Meaning::Code } else { Meaning::Unknown }
}

#[cfg(test)]
mod tests;
