//! Reads the code: from the arguments, a file, the environment, a line of standard input, or a prompt that completes
//! words.
//!
//! The first source that is present is used. The text is wiped from memory after it was parsed, as far as this program
//! holds it.

use std::io::{self, BufRead, IsTerminal};
use std::path::Path;
use std::time::Duration;

use console::{Key, Term};
use tallow_proto::code::{self, Code, Link};
use tallow_proto::peer::DEFAULT_PORT;
use tallow_proto::peer::RelayAddress;
use zeroize::Zeroizing;

use crate::args::PeerArgs;
use crate::failure::{Problem, cause};
use crate::output::{self, Output};
use crate::prompt::{self, Raw};

/// The environment variable that contains the code.
const VARIABLE: &str = "TALLOW_CODE";
/// The maximum length of the input, which is longer than any code or link.
const LONGEST: u64 = 8 * 1024;
/// The hint for invalid codes.
const LOOKS_LIKE: &str = "a code looks like 7-acorn-bicycle-canal";

/// The input of a receiver: a code, and a relay if the input was a link.
#[derive(Debug)]
pub struct Given {
    /// The code.
    pub code: Code,
    /// The relay that the link names.
    pub relay: Option<RelayAddress>,
}

/// Reads the code for a receiver.
///
/// # Errors
/// There is no code, or it is invalid.
pub fn for_receiving(words: &[String], file: Option<&Path>) -> Result<Given, Problem> {
    let typed = if !words.is_empty() {
        Zeroizing::new(words.join("-"))
    } else if let Some(file) = file {
        from_file(file)?
    } else if let Some(code) = from_environment()? {
        code
    } else if prompt::is_interactive() {
        ask()?
    } else {
        line_of(io::stdin().lock()).map_err(|error| unreadable("standard input", &error))?
    };
    given(&typed)
}

/// Warns the user of secrets in the arguments, which other users of the machine can read while the program runs.
pub fn warn_of_arguments(output: &Output, code: Option<&str>, arguments: &PeerArgs) {
    if !io::stderr().is_terminal() {
        return;
    }
    let has_password = arguments.relay_password.is_some() && is_password_among(std::env::args_os());
    let password = has_password.then_some(("the relay's password", "prefer --relay-password-file"));
    for (what, instead) in code.map(|instead| ("the code", instead)).into_iter().chain(password) {
        output.line(&format!("Other users of this computer can read {what} in the list of processes; {instead}"));
    }
}

/// Whether the password was given by its option, and not by the environment.
fn is_password_among(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> bool {
    let mut arguments = arguments.into_iter().take_while(|word| word != "--");
    arguments.any(|word| word == "--relay-password" || word.as_encoded_bytes().starts_with(b"--relay-password="))
}

/// Reads the custom code for a sender, if there is one.
///
/// # Errors
/// The code can't be read, is invalid, or is too easy to guess.
pub fn for_sending(option: Option<&str>, file: Option<&Path>) -> Result<Option<Code>, Problem> {
    let typed = match (option, file) {
        (Some(code), _) => Zeroizing::new(code.to_owned()),
        (None, Some(file)) => from_file(file)?,
        (None, None) => match from_environment()? {
            Some(code) => code,
            None => return Ok(None),
        },
    };
    match Code::custom(&typed) {
        Ok(code) => Ok(Some(code)),
        Err(error) => Err(invalid(&error.to_string())),
    }
}

fn from_environment() -> Result<Option<Zeroizing<String>>, Problem> {
    match std::env::var_os(VARIABLE) {
        None => Ok(None),
        Some(value) if value.is_empty() => Ok(None),
        Some(value) => match value.into_string() {
            Ok(value) => Ok(Some(Zeroizing::new(value))),
            Err(_) => Err(Problem::usage("not a valid code: $TALLOW_CODE is not valid UTF-8", LOOKS_LIKE)),
        },
    }
}

fn from_file(path: &Path) -> Result<Zeroizing<String>, Problem> {
    let line = if path == Path::new("-") {
        line_of(io::stdin().lock())
    } else {
        std::fs::File::open(path).and_then(|file| line_of(io::BufReader::new(file)))
    };
    line.map_err(|error| unreadable(&crate::output::shown(&path.to_string_lossy()), &error))
}

/// Reads the first line.
fn line_of(input: impl BufRead) -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    input.take(LONGEST).read_line(&mut line)?;
    Ok(line)
}

/// Parses a code or a link.
fn given(typed: &str) -> Result<Given, Problem> {
    if Link::is_link(typed) {
        let link = Link::parse(typed).map_err(|error| Problem::usage(&error.to_string(), "ask for the link again"))?;
        let port = link.port().unwrap_or(DEFAULT_PORT);
        let relay = RelayAddress { host: link.host().to_owned(), port };
        return Ok(Given { code: link.code().clone(), relay: Some(relay) });
    }
    match Code::parse(typed) {
        Ok(code) => Ok(Given { code, relay: None }),
        Err(error) => Err(invalid(&error.to_string())),
    }
}

/// Splits an error text that may contain both a cause and a hint.
fn invalid(text: &str) -> Problem {
    let (message, hint) = text.split_once("; ").or_else(|| text.split_once(": ")).unwrap_or((text, LOOKS_LIKE));
    Problem::usage(message, hint)
}

fn unreadable(what: &str, error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::InvalidData => Problem::usage("not a valid code: it is not valid UTF-8", LOOKS_LIKE),
        _ => Problem::usage(
            &format!("could not read the code from {what}: {}", cause(error.kind())),
            "give the code as an argument",
        ),
    }
}

/// Asks for the code on the terminal.
fn ask() -> Result<Zeroizing<String>, Problem> {
    // Writes all earlier lines, so that they appear above the prompt.
    output::flush(Duration::from_secs(1));
    let term = Term::stderr();
    let mut editor = Editor::default();
    let broken = |error: io::Error| unreadable("the terminal", &error);
    let raw = Raw::begin().map_err(broken)?;
    loop {
        term.clear_line().and_then(|()| term.write_str(&editor.line())).map_err(broken)?;
        let key = match term.read_key() {
            // Ctrl-C: the signal thread ends the program.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                drop(term.write_line(""));
                loop {
                    std::thread::park();
                }
            }
            other => other.map_err(broken)?,
        };
        match editor.key(&key) {
            Step::Go => {}
            Step::Choices(words) => {
                let shown = words.get(..12).unwrap_or(&words).join(" ");
                let more = if words.len() > 12 { " …" } else { "" };
                term.clear_line().and_then(|()| term.write_line(&format!("  {shown}{more}"))).map_err(broken)?;
            }
            Step::Done => break,
            Step::End => {
                drop(raw);
                drop(term.write_line(""));
                return Err(Problem::usage("no code was given", LOOKS_LIKE));
            }
        }
    }
    drop(raw);
    term.write_line("").map_err(broken)?;
    Ok(editor.typed)
}

/// The edited line: a state machine whose input is keys.
#[derive(Debug, Default)]
struct Editor {
    typed: Zeroizing<String>,
}

/// The result of a key.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The line may have changed.
    Go,
    /// Show these words, which all match the input.
    Choices(Vec<&'static str>),
    /// The line is complete.
    Done,
    /// The input ended.
    End,
}

impl Editor {
    fn line(&self) -> String {
        format!("Code (Tab completes): {}", self.typed.as_str())
    }

    fn key(&mut self, key: &Key) -> Step {
        match key {
            Key::Char('\u{4}') if self.typed.is_empty() => return Step::End,
            // Ctrl-U.
            Key::Char('\u{15}') => self.typed.clear(),
            // Ctrl-W: the last word.
            Key::Char('\u{17}') => {
                let kept = self.typed.trim_end_matches(['-', ' ']).rfind(['-', ' ']).map_or(0, |at| at + 1);
                self.typed.truncate(kept);
            }
            Key::Char(' ') if !self.typed.is_empty() && !self.typed.ends_with('-') => self.typed.push('-'),
            Key::Char(c) if c.is_ascii_graphic() && (self.typed.len() as u64) < LONGEST => self.typed.push(*c),
            Key::Backspace => drop(self.typed.pop()),
            Key::Tab => return self.complete(),
            Key::Enter if !self.typed.is_empty() => return Step::Done,
            // Other keys, such as cursor keys, are ignored: text is edited only at the end of the line.
            _ => {}
        }
        Step::Go
    }

    /// Appends the common prefix of all matching words, and a dash if only one word matches.
    fn complete(&mut self) -> Step {
        let words = code::complete(&self.typed);
        let begun = self.typed.rsplit(['-', ' ', '.']).next().map_or(0, str::len);
        let Some(&first) = words.first() else { return Step::Go };
        let common = words.iter().fold(first.len(), |common, word| {
            common.min(first.bytes().zip(word.bytes()).take_while(|(a, b)| a == b).count())
        });
        let kept = self.typed.len() - begun;
        self.typed.truncate(kept);
        self.typed.push_str(first.get(..common).unwrap_or(first));
        if words.len() == 1 {
            self.typed.push('-');
            return Step::Go;
        }
        if common > begun { Step::Go } else { Step::Choices(words) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(editor: &mut Editor, text: &str) {
        for c in text.chars() {
            let key = match c {
                '\t' => Key::Tab,
                '\n' => Key::Enter,
                '\x08' => Key::Backspace,
                c => Key::Char(c),
            };
            editor.key(&key);
        }
    }

    #[test]
    fn tab_completes_word_and_adds_dash() {
        let all: Vec<&str> = ["7-a", "7-b"].iter().flat_map(|typed| code::complete(typed)).collect();
        let [first, .., last] = all.as_slice() else { panic!() };
        let mut editor = Editor::default();
        let begun = |word: &str| word.get(..3).unwrap().to_owned();
        typed(&mut editor, &format!("7-{}\t{}\t", begun(first), begun(last)));
        assert_eq!(editor.typed.as_str(), format!("7-{first}-{last}-"));
        assert_eq!(Code::parse(&editor.typed).unwrap().reveal().as_str(), format!("7-{first}-{last}"));
        assert_eq!(editor.key(&Key::Enter), Step::Done);
    }

    #[test]
    fn tab_lists_the_words_if_several_match() {
        let mut editor = Editor::default();
        typed(&mut editor, "7-a");
        let Step::Choices(words) = editor.key(&Key::Tab) else { panic!() };
        assert!(words.len() > 1 && words.iter().all(|word| word.starts_with('a')));
        assert_eq!(editor.typed.as_str(), "7-a");
        typed(&mut editor, "\u{15}7");
        assert_eq!((editor.key(&Key::Tab), editor.typed.as_str()), (Step::Go, "7"), "a number is not completed");
    }

    #[test]
    fn keys_edit_the_line() {
        let mut editor = Editor::default();
        assert_eq!(editor.key(&Key::Enter), Step::Go, "an empty line is not a code");
        typed(&mut editor, " 7 acorn  bicyx\x08\x1b\u{9b}é");
        assert_eq!(editor.typed.as_str(), "7-acorn-bicy");
        editor.key(&Key::Char('\u{17}'));
        assert_eq!(editor.typed.as_str(), "7-acorn-");
        editor.key(&Key::Char('\u{17}'));
        assert_eq!(editor.typed.as_str(), "7-");
        assert_eq!(editor.key(&Key::Char('\u{4}')), Step::Go);
        editor.key(&Key::Char('\u{15}'));
        assert_eq!(editor.key(&Key::Char('\u{4}')), Step::End);
    }

    #[test]
    fn c01_an_invalid_code_is_a_usage_error() {
        for text in [
            "MySecretPass",
            "",
            "7",
            "7-",
            "-a-b",
            &"7-a".repeat(4_000),
            "7-a\0corn",
            "é-acorn",
            "tallow://",
            "tallow://u@h/7#a-b",
        ] {
            let problem = given(text).unwrap_err();
            assert_eq!((problem.code, problem.kind), (2, "usage"), "{text:?}");
            let line = problem.line();
            assert!(!line.contains("MySecretPass") && !line.contains('\0') && line.contains("; "), "{line}");
        }
    }

    #[test]
    fn words_and_links_are_parsed() {
        let given_words = given("7-acorn-bicycle-canal\n").unwrap();
        assert_eq!((given_words.code.reveal().as_str(), given_words.relay.is_none()), ("7-acorn-bicycle-canal", true));
        let link = given("tallow://r.example:99/7#acorn-bicycle-canal").unwrap();
        assert_eq!(link.relay, Some(RelayAddress { host: "r.example".into(), port: 99 }));
        let link = given("tallow://r.example/7#acorn-bicycle-canal").unwrap();
        assert_eq!(link.relay, Some(RelayAddress { host: "r.example".into(), port: DEFAULT_PORT }));
    }

    #[test]
    fn a_password_in_the_arguments_is_found() {
        let is_among = |words: &[&str]| is_password_among(words.iter().map(Into::into));
        assert!(is_among(&["tallow", "send", "--relay-password", "x"]));
        assert!(is_among(&["tallow", "send", "--relay-password=x", "a"]));
        assert!(!is_among(&["tallow", "send", "--relay-password-file", "x", "--", "--relay-password"]));
    }

    #[test]
    fn code_is_read_from_first_line_only() {
        let line = line_of(&b"7-acorn-canal\r\nsecond"[..]).unwrap();
        assert_eq!(given(&line).unwrap().code.reveal().as_str(), "7-acorn-canal");
        assert!(line_of(&b"\xff\xfe"[..]).is_err());
        assert_eq!(line_of(&vec![b'a'; 100_000][..]).unwrap().len() as u64, LONGEST);
    }

    #[test]
    fn an_easy_custom_code_is_refused() {
        assert!(for_sending(Some("7-acorn"), None).is_err());
        assert!(for_sending(Some("team-a-long-secret"), None).unwrap().is_some());
        assert_eq!(for_sending(None, Some(Path::new("/no/such/file"))).unwrap_err().code, 2);
    }
}
