//! What can be said on the command line: the commands and their options, as `clap` reads them, and what is decided before it.
//!
//! `clap` wants options after the command they belong to. People put them anywhere, so [`arrange`] first moves what stands before
//! the command behind it. It also decides what a first word that is no command means: a code is received, a path is asked about.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use tallow_proto::code::{Code, Link};
use tallow_proto::link::proxy::Proxy;
use tallow_proto::link::trust::Fingerprint;
use tallow_proto::p2p::candidate::MIN_PORT;
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
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send files and directories
    #[command(visible_alias = "tx")]
    Send(Box<SendArgs>),
    /// Receive what somebody sends
    #[command(visible_aliases = ["recv", "rx"])]
    Receive(Box<ReceiveArgs>),
    /// Run a relay server
    Relay(Box<RelayArgs>),
    /// Show or remove what transfers left that ended unfinished
    Partial(PartialArgs),
    /// Print the completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// `tallow send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// Files and directories to send; `-` alone sends standard input as a stream
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// An own code, like 7-acorn-bicycle-canal: a name for the room, a dash, and at least 8 characters more. Each use of the same
    /// code gives an attacker new guesses, so change it. Also from $TALLOW_CODE
    #[arg(long, value_name = "CODE", conflicts_with = "words")]
    pub code: Option<String>,
    /// Read the own code from a file, `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["words", "code"])]
    pub code_file: Option<PathBuf>,
    /// How many words the code has [default: 3]
    #[arg(long, value_name = "2..8", value_parser = clap::value_parser!(u8).range(2..=8))]
    pub words: Option<u8>,
    /// Leave out what matches, in .gitignore syntax; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Leave out what git ignores
    #[arg(long)]
    pub git: bool,
    /// Send what symbolic links point at, and not the links
    #[arg(long)]
    pub follow_links: bool,
    /// Do not compress
    #[arg(long, conflicts_with = "compress_level")]
    pub no_compress: bool,
    /// zstd level, 1 (fast) to 19 (small) [default: 3]
    #[arg(long, value_name = "1..19", value_parser = clap::value_parser!(u8).range(1..=19))]
    pub compress_level: Option<u8>,
    /// What senders and receivers share.
    #[command(flatten)]
    pub peer: PeerArgs,
    /// What is shown.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `tallow receive`.
#[derive(Debug, Args)]
pub struct ReceiveArgs {
    /// The code that the sender shows; its words may be separate arguments. Without it: $TALLOW_CODE, else a question
    #[arg(value_name = "CODE")]
    pub code: Vec<String>,
    /// Read the code from a file, `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "code")]
    pub code_file: Option<PathBuf>,
    /// Where to put what arrives
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// Accept without asking; needed when standard input is no terminal
    #[arg(short, long)]
    pub yes: bool,
    /// When a name exists: replace what is there
    #[arg(long, group = "exists")]
    pub overwrite: bool,
    /// When a name exists: give what arrives another name
    #[arg(long, group = "exists")]
    pub rename: bool,
    /// When a name exists: leave what is there
    #[arg(long, group = "exists")]
    pub skip: bool,
    /// Write the stream, or the one file, that is offered to standard output, in order
    #[arg(long, conflicts_with_all = ["json", "out", "overwrite", "rename", "skip"])]
    pub stdout: bool,
    /// Keep names that other systems cannot have, and do not change them
    #[arg(long)]
    pub allow_unportable_names: bool,
    /// What senders and receivers share.
    #[command(flatten)]
    pub peer: PeerArgs,
    /// What is shown.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `tallow relay`.
#[derive(Debug, Args)]
pub struct RelayArgs {
    /// The relay's own.
    #[command(flatten)]
    pub relay: tallow_relay::Options,
    /// Say more; may be repeated
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// `tallow partial`.
#[derive(Debug, Args)]
pub struct PartialArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PartialCommand,
}

/// The commands of `tallow partial`.
#[derive(Debug, Subcommand)]
pub enum PartialCommand {
    /// Show them
    List {
        /// Where they are
        #[arg(short, long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
        /// What is shown.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove them, but for those that a running `tallow receive` uses
    Clear {
        /// Which: the beginning of its id is enough
        #[arg(value_name = "ID", required_unless_present = "all")]
        ids: Vec<String>,
        /// All that are there
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        /// Where they are
        #[arg(short, long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
        /// What is shown.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// Where STUN servers listen (RFC 8489 §14).
const STUN_PORT: u16 = 3478;

/// What senders and receivers share.
#[derive(Debug, Args)]
pub struct PeerArgs {
    /// Relay to use, repeatable, the preferred one first [default port: 4433] [env: TALLOW_RELAY, separated by commas]
    #[arg(long, value_name = "HOST[:PORT]")]
    pub relay: Vec<RelayAddress>,
    /// Accept exactly this certificate of the relay
    #[arg(long, value_name = "FINGERPRINT")]
    pub relay_pin: Option<Fingerprint>,
    /// The relay's password, if it asks for one; other users of this machine can read it here, so prefer the variable or a file
    #[arg(long, value_name = "PASSWORD", env = "TALLOW_RELAY_PASSWORD", hide_env_values = true)]
    pub relay_password: Option<String>,
    /// Read the relay's password from a file
    #[arg(long, value_name = "FILE", conflicts_with = "relay_password")]
    pub relay_password_file: Option<PathBuf>,
    /// Show words that both people compare before anything moves
    #[arg(long)]
    pub verify: bool,
    /// Never look for a direct path, and never reveal this machine's addresses to the other side
    #[arg(long, conflicts_with_all = ["p2p_only", "p2p_port", "stun"])]
    pub no_p2p: bool,
    /// Never send data over a relay: end if there is no direct path
    #[arg(long, conflicts_with = "proxy")]
    pub p2p_only: bool,
    /// The port for direct paths, UDP and TCP, for a firewall that lets it through; of a range the first that is free
    #[arg(long, value_name = "PORT[-PORT]", value_parser = ports)]
    pub p2p_port: Option<(u16, u16)>,
    /// Don't ask the router to let the other side in (PCP, NAT-PMP, UPnP)
    #[arg(long)]
    pub no_port_map: bool,
    /// A STUN server to be asked for this machine's address, beside the relay; repeatable [default port: 3478]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = stun_server)]
    pub stun: Vec<RelayAddress>,
    /// How to reach the relay: all ways at once, or only QUIC (UDP), TLS (TCP) or a WebSocket (TCP)
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    pub transport: Transport,
    /// A proxy that leads to the relay (http://, socks5://, socks5h://); nothing else is tried then, and no address is revealed
    /// [env: ALL_PROXY, HTTPS_PROXY, NO_PROXY]
    #[arg(long, value_name = "URL")]
    pub proxy: Option<Proxy>,
    /// How long to go on when the network or the other side is away, such as 30s, 10m or 2h [default: 10m, and without an end once
    /// the offer was accepted]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub give_up_after: Option<Duration>,
    /// The most bytes a second, such as 500K, 2M or 1.5MiB: K, M and G are thousands, Ki, Mi and Gi are 1024s. Either side may set
    /// one, and the lower one counts; 16K at least
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub limit: Option<NonZeroU64>,
    /// The runtime, for comparing them.
    #[arg(long, hide = true, value_enum, default_value_t = Runtime::Tokio)]
    pub runtime: Runtime,
    /// The port of the relay inside a sender, there and where a receiver looks for it.
    #[arg(long, hide = true, env = "TALLOW_PORT")]
    pub port: Option<u16>,
    /// Where state is kept.
    #[arg(long, hide = true, env = "TALLOW_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
}

/// How a relay may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// The first way that answers.
    Auto,
    /// UDP.
    Quic,
    /// TLS.
    Tcp,
    /// For networks where only the web passes.
    Websocket,
}

/// Seconds, or a number with `s`, `m`, `h` or `d` behind it.
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

/// Bytes a second: a number, perhaps with a fraction, and a unit.
fn ports(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().ok().filter(|&port| port >= MIN_PORT);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(format!("expected a port from {MIN_PORT} up, or two with a dash between, such as 50000-50010")),
    }
}

fn stun_server(text: &str) -> Result<RelayAddress, String> {
    let address: RelayAddress =
        text.parse().map_err(|_| "expected HOST, HOST:PORT, [IPV6] or [IPV6]:PORT".to_owned())?;
    // A port that was named is kept, also where it is a relay's.
    let is_named = text.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    Ok(if is_named { address } else { RelayAddress { port: STUN_PORT, ..address } })
}

fn rate(text: &str) -> Result<NonZeroU64, String> {
    let wrong = || "expected bytes a second, such as 500K, 2M or 1.5MiB".to_owned();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '/');
    let unit = text.get(number.len()..).unwrap_or_default();
    let unit = unit.strip_suffix("/s").unwrap_or(unit);
    // A small b would be bits.
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

/// What is shown, and how.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Write events as JSON to standard output, one object a line
    #[arg(long)]
    pub json: bool,
    /// Say nothing but the code, questions and errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Say more; may be repeated (-vvv: everything)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// No progress bar
    #[arg(long)]
    pub no_progress: bool,
}

/// What the command line comes to.
#[derive(Debug)]
pub enum Parsed {
    /// Do this.
    Run(Cli),
    /// Help or the version, for standard output.
    Text(String),
    /// Nothing was said at all: the help, for standard error.
    Nothing(String),
}

/// Reads the command line.
///
/// # Errors
/// It cannot be understood.
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

/// `clap`'s error as one line.
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

/// Whether a word looks like `-a-b`: a code whose first part is missing, which `clap` takes for options.
fn is_dashed_words(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|rest| !rest.starts_with('-') && rest.contains('-') && !rest.contains('/'))
}

/// Moves the options that stand before the command behind it, and puts `receive` before a code that stands alone.
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

/// How many words an option takes; `None` for a word that is no option.
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
    // The first letter that takes a value takes the rest of the word for it, and the next word if there is no rest.
    let valued = shorts.char_indices().find(|&(_, short)| takes_value(&|arg| arg.get_short() == Some(short)));
    Some(match valued {
        Some((at, short)) if at + short.len_utf8() == shorts.len() => 2,
        _ => 1,
    })
}

/// What a first word that is no command is.
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
    // A number is a code that was begun; anything else must be one that a sender could have chosen.
    let is_numbered = text.starts_with(|c: char| c.is_ascii_digit());
    if is_numbered || Code::custom(text).is_ok() { Meaning::Code } else { Meaning::Unknown }
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
