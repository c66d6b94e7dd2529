use super::*;

fn arranged(words: &[&str]) -> Vec<String> {
    let argv = std::iter::once("tallow").chain(words.iter().copied()).map(OsString::from).collect();
    let arranged =
        arrange(argv, &|path| path == Path::new("here.txt")).unwrap_or_else(|problem| panic!("{}", problem.line()));
    arranged.into_iter().skip(1).map(|word| word.into_string().unwrap()).collect()
}

fn run(words: &[&str]) -> Command {
    let argv = std::iter::once("tallow").chain(words.iter().copied()).map(OsString::from).collect();
    match parse(argv) {
        Ok(Parsed::Run(cli)) => cli.command,
        other => panic!("{words:?}: {other:?}"),
    }
}

fn refused(words: &[&str]) -> Problem {
    let argv = std::iter::once("tallow").chain(words.iter().copied()).map(OsString::from).collect();
    match parse(argv) {
        Err(problem) => problem,
        other => panic!("{words:?}: {other:?}"),
    }
}

#[test]
fn options_before_the_command_are_moved_after_it() {
    assert_eq!(arranged(&["--out", "dir", "-y", "receive", "7-a-b"]), ["receive", "--out", "dir", "-y", "7-a-b"]);
    assert_eq!(arranged(&["--out=dir", "rx"]), ["rx", "--out=dir"]);
    assert_eq!(arranged(&["-yo", "send", "recv"]), ["recv", "-yo", "send"]);
    assert_eq!(arranged(&["-odir", "recv"]), ["recv", "-odir"]);
    assert_eq!(arranged(&["-vv", "--json", "tx", "a"]), ["tx", "-vv", "--json", "a"]);
    assert_eq!(arranged(&["help", "send"]), ["help", "send"]);
    assert_eq!(arranged(&["--version"]), ["--version"]);
    assert_eq!(arranged(&[]), Vec::<String>::new());
}

#[test]
fn options_work_before_and_after_the_command() {
    for words in [["--relay", "r.example:99", "send", "x"], ["send", "x", "--relay", "r.example:99"]] {
        let Command::Send(send) = run(&words) else { panic!() };
        assert_eq!(send.peer.relay, [RelayAddress { host: "r.example".into(), port: 99 }]);
        assert_eq!(send.paths, [Path::new("x")]);
    }
}

#[test]
fn a_code_without_a_command_is_received() {
    for words in [
        &["7-acorn-bicycle-canal"][..],
        &["7", "acorn", "bicycle", "canal"],
        &["tallow://r.example/7#acorn-bicycle-canal"],
        &["-y", "7-acorn-bicycle-canal", "--out", "d"],
        &["team-secret-words"],
    ] {
        assert!(matches!(run(words), Command::Receive(_)), "{words:?}");
    }
    let Command::Receive(receive) = run(&["-o", "d", "7", "acorn", "-y"]) else { panic!() };
    assert_eq!(
        (receive.code.as_slice(), receive.out.as_path(), receive.yes),
        (&["7".to_owned(), "acorn".into()][..], Path::new("d"), true)
    );
}

#[test]
fn a_path_without_a_command_suggests_send() {
    let argv = ["tallow", "here.txt"].map(OsString::from).to_vec();
    let problem = arrange(argv, &|path| path == Path::new("here.txt")).unwrap_err();
    assert_eq!((problem.code, problem.hint.as_str()), (2, "did you mean: tallow send here.txt?"));
    assert_eq!(refused(&["./no/such\x1b[2J"]).hint, "did you mean: tallow send ./no/such\\u{1b}[2J?");
}

#[test]
fn a_usage_error_is_one_line() {
    for words in [
        &["sned", "x"][..],
        &["send"],
        &["send", "x", "--relya", "r"],
        &["send", "x", "--words", "9"],
        &["send", "x", "--code", "7-a-b", "--words", "3"],
        &["receive", "--overwrite", "--skip"],
        &["receive", "--relay", "a b"],
        &["receive", "--relay-pin", "zz"],
        &["completions", "tcsh"],
        &["receive", "-a-b"],
        &["--nonsense"],
    ] {
        let problem = refused(words);
        assert_eq!((problem.code, problem.kind), (2, "usage"), "{words:?}");
        let line = problem.line();
        assert!(line.starts_with("tallow: ") && !line.contains('\n') && line.contains("; "), "{line}");
    }
    assert!(refused(&["receive", "-a-b"]).message.starts_with("not a valid code"));
    assert!(refused(&["send", "x", "--relya", "r"]).hint.contains("--relay"), "clap's tip is kept");
    assert!(refused(&["send"]).message.contains("<PATH>"));
}

#[test]
fn aliases_run_their_commands() {
    assert!(matches!(run(&["tx", "a"]), Command::Send(_)));
    assert!(matches!(run(&["recv"]), Command::Receive(_)));
    assert!(matches!(run(&["rx"]), Command::Receive(_)));
    assert!(matches!(run(&["relay"]), Command::Relay(_)));
    assert!(matches!(run(&["completions", "bash"]), Command::Completions { .. }));
}

#[test]
fn clap_accepts_the_definition() {
    Cli::command().debug_assert();
}

#[test]
fn a_duration_has_a_number_and_a_unit() {
    let seconds = |text| duration(text).map(|duration| duration.as_secs());
    for (text, wanted) in [("30", 30), ("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86_400), ("0", 0)] {
        assert_eq!(seconds(text), Ok(wanted), "{text}");
    }
    for text in ["", "s", "-1s", "1.5h", "1w", "10 m", "1hm", "99999999999999999999", "999999999999999999d"] {
        assert!(seconds(text).is_err(), "{text}");
    }
}

#[test]
fn a_rate_is_parsed_as_bytes_per_second() {
    let bytes = |text| rate(text).map(NonZeroU64::get);
    for (text, wanted) in [
        ("16000", LEAST_RATE),
        ("500K", 500_000),
        ("2M", 2_000_000),
        ("2MB/s", 2_000_000),
        ("1.5MiB", 1_572_864),
        ("20.5k", 20_500),
        ("1Gi", 1 << 30),
        ("3G", 3_000_000_000),
        ("1.0000019M", 1_000_001),
    ] {
        assert_eq!(bytes(text), Ok(wanted), "{text}");
    }
    for text in [
        "",
        "0",
        "0.0001",
        "15.999K",
        "K",
        "-1K",
        "1Kb",
        "1mb",
        "1 M",
        "1T",
        ".5M",
        "1.M",
        "1.5.5M",
        "1e6",
        "99999999999999G",
        "2M/h",
    ] {
        assert!(bytes(text).is_err(), "{text}");
    }
    let Command::Receive(receive) = run(&["receive", "--limit", "2M", "7-a-b"]) else { panic!() };
    assert_eq!(receive.peer.limit, NonZeroU64::new(2_000_000));
    assert_eq!(refused(&["send", "--limit", "0", "x"]).code, 2);
}
