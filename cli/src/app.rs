//! The frame of every command: parsing of the command line, output, log, exit code.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory;
use tallow_relay::process;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, OutputArgs, Parsed, PartialCommand};
use crate::failure::Problem;
use crate::output::{LogWriter, Output};
use crate::{args, output, partial, prompt, receive, send};

/// At exit the program waits for the reader of its output as long as it reads something within this time.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs the program.
pub fn run(argv: Vec<OsString>) -> ExitCode {
    std::panic::set_hook(Box::new(panicked));
    process::hide_memory();
    let code = parse(argv);
    output::flush(PATIENCE);
    code
}

fn parse(argv: Vec<OsString>) -> ExitCode {
    prompt::remember_terminal();
    // Determined before the options are parsed, so that a usage error is reported as JSON, too.
    let json = argv.iter().any(|word| word == "--json");
    let plain = Output::plain(json);
    match args::parse(argv) {
        Ok(Parsed::Run(cli)) => command(cli.command, &plain),
        Ok(Parsed::Text(text)) => show(text.as_bytes(), &plain),
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
            tallow_relay::run(args.relay, args.quiet)
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
            show(&script, plain)
        }
    }
}

/// Writes the result of a command to standard output, and reports a failure to do so.
fn show(text: &[u8], plain: &Output) -> ExitCode {
    match plain.payload(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&Problem::system("could not write to standard output", &error), plain),
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
    problem.report(output);
    ExitCode::from(problem.code)
}

/// The log level.
#[derive(Debug, Clone, Copy)]
enum Level {
    Errors,
    Info,
    Debug,
    Trace,
    /// Everything, including the log of dependencies.
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

    /// The filter directive: the level for dependencies, then the level for each crate of this project.
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

/// Starts the log to standard error at this level.
fn log(level: Level, output: &Output) {
    let writer = LogWriter(output.clone());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level.filter()))
        .with_timer(tracing_subscriber::fmt::time::uptime())
        .with_ansi(false)
        .with_writer(move || writer.clone())
        // Otherwise it writes its own errors to standard error, where it could block or panic.
        .log_internal_errors(false)
        .init();
}

/// Reports a panic as one line, without its message.
fn panicked(info: &std::panic::PanicHookInfo<'_>) {
    prompt::restore_terminal();
    Output::plain(false).say(&process::bug(info));
    // The program may end right after this.
    process::flush();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn c02_panic_report_has_place_but_no_message() {
        let (sender, receiver) = mpsc::channel();
        let me = std::thread::current().id();
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().id() == me {
                drop(sender.send(process::bug(info)));
            } else {
                others(info);
            }
        }));
        let secret = "xylophone-canary";
        assert!(std::panic::catch_unwind(|| panic!("{secret}")).is_err());
        // Removes this hook, which also drops the previous one; the default hook is active then.
        drop(std::panic::take_hook());
        let line = receiver.recv().unwrap();
        assert!(line.starts_with("tallow: internal error at ") && line.contains("app.rs:"), "{line}");
        assert!(!line.contains(secret) && !line.contains('\n'), "{line}");
    }

    #[test]
    fn each_verbose_flag_raises_the_level() {
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
