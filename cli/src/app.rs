//! From the command line to the exit code: what surrounds every command.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, OutputArgs, Parsed, PartialCommand};
use crate::failure::Problem;
use crate::output::{LogWriter, Output};
use crate::{args, partial, prompt, receive, send};

/// Runs the program.
pub fn run(argv: Vec<OsString>) -> ExitCode {
    std::panic::set_hook(Box::new(panicked));
    hide_memory();
    prompt::remember_terminal();
    // Known before the options are: a wrong option is told in the form that was asked for, too.
    let json = argv.iter().any(|word| word == "--json");
    let plain = Output::plain(json);
    match args::parse(argv) {
        Ok(Parsed::Run(cli)) => command(cli.command, &plain),
        Ok(Parsed::Text(text)) => {
            plain.payload(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Parsed::Nothing(text)) => {
            plain.block(&text);
            ExitCode::from(2)
        }
        Err(problem) => fail(&problem, &plain),
    }
}

fn command(command: Command, plain: &Output) -> ExitCode {
    match command {
        Command::Send(args) => {
            let output = begin(&args.output);
            end(send::run(*args, output.clone()), &output)
        }
        Command::Receive(args) => {
            let output = begin(&args.output);
            end(receive::run(*args, output.clone()), &output)
        }
        Command::Relay(args) => {
            tallow_relay::log_to_stderr(args.quiet, args.verbose);
            tallow_relay::run(args.relay)
        }
        Command::Partial(args) => {
            let output = begin(match &args.command {
                PartialCommand::List { output, .. } | PartialCommand::Clear { output, .. } => output,
            });
            end(partial::run(args.command, &output), &output)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tallow", &mut script);
            plain.payload(&script);
            ExitCode::SUCCESS
        }
    }
}

fn begin(args: &OutputArgs) -> Output {
    let output = Output::new(args);
    log(Level::of(args.verbose), &output);
    output
}

fn end(outcome: Result<(), Problem>, output: &Output) -> ExitCode {
    prompt::restore_terminal();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => fail(&problem, output),
    }
}

fn fail(problem: &Problem, output: &Output) -> ExitCode {
    problem.tell(output);
    ExitCode::from(problem.code)
}

/// How much is logged.
#[derive(Debug, Clone, Copy)]
enum Level {
    Errors,
    Info,
    Debug,
    Trace,
    /// Other people's crates speak up, too.
    Everything,
}

impl Level {
    const fn of(verbose: u8) -> Self {
        match verbose {
            0 => Self::Errors,
            1 => Self::Info,
            2 => Self::Debug,
            3 => Self::Trace,
            _ => Self::Everything,
        }
    }

    /// As the log's filter reads it: other people's crates, then each of ours.
    fn filter(self) -> String {
        let (ours, theirs) = match self {
            Self::Errors => ("error", "off"),
            Self::Info => ("info", "warn"),
            Self::Debug => ("debug", "warn"),
            Self::Trace => ("trace", "info"),
            Self::Everything => ("trace", "trace"),
        };
        let parts = ["", "_proto", "_store", "_runtime", "_tokio", "_smol", "_relay"];
        let ours: String = parts.into_iter().map(|part| format!(",tallow{part}={ours}")).collect();
        format!("{theirs}{ours}")
    }
}

/// Logs go to standard error, as much as was asked for.
fn log(level: Level, output: &Output) {
    let writer = LogWriter(output.clone());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level.filter()))
        .with_timer(tracing_subscriber::fmt::time::uptime())
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
}

/// Other processes of the same user can't look into this one, and no core file holds its secrets.
fn hide_memory() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // Where it can't be set, the system protects no process.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// A bug is told in one line. What the panic says could hold a secret, so only its place is.
fn panicked(info: &std::panic::PanicHookInfo<'_>) {
    prompt::restore_terminal();
    Output::plain(false).say(&bug(info));
}

fn bug(info: &std::panic::PanicHookInfo<'_>) -> String {
    let place = info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
    format!("tallow: internal error at {place}; this is a bug in tallow, please report it")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn c02_a_panic_is_told_by_its_place_alone() {
        let (told, hear) = mpsc::channel();
        let me = std::thread::current().id();
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().id() == me {
                drop(told.send(bug(info)));
            } else {
                others(info);
            }
        }));
        let secret = "xylophone-canary";
        assert!(std::panic::catch_unwind(|| panic!("{secret}")).is_err());
        // The hook that was there before is gone with this one; the next one is the standard's.
        drop(std::panic::take_hook());
        let line = hear.recv().unwrap();
        assert!(line.starts_with("tallow: internal error at ") && line.contains("app.rs:"), "{line}");
        assert!(!line.contains(secret) && !line.contains('\n'), "{line}");
    }

    #[test]
    fn each_v_says_more_and_addresses_need_two() {
        let filters = [0, 1, 2, 3, 4, 9].map(|verbose| Level::of(verbose).filter());
        assert!(filters[0].starts_with("off,") && filters[0].contains(",tallow_proto=error"), "{}", filters[0]);
        assert!(filters[1].starts_with("warn,") && filters[1].contains(",tallow=info"));
        assert!(filters[2].contains(",tallow_relay=debug") && filters[3].contains(",tallow_tokio=trace"));
        assert!(filters[4].starts_with("trace,") && filters[4] == filters[5]);
        for filter in filters {
            assert!(EnvFilter::try_new(&filter).is_ok(), "{filter}");
        }
    }
}
