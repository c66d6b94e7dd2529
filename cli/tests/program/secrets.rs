//! C02: a code that is not given on the command line, a file's name and its contents do not appear outside the two
//! processes.

use std::collections::HashMap;
use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::stage::{Home, Program, Relay, Run, SOON};

const PASSWORD: &str = "xylophonecanary-quartzcanary";
const NAME: &str = "filename-canary-81f3.txt";
const CONTENTS: &[u8; 64] = b"0f47c9a1-file-contents-canary-e5b8d2-never-outside-two-processes";
const RELAY_PASSWORD: &str = "relay-password-canary-5d0e";

/// Forwards datagrams between clients and a relay, and keeps a copy of each.
struct Proxy {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    over: Arc<AtomicBool>,
    front: JoinHandle<()>,
}

impl Proxy {
    fn before(relay: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let over = Arc::new(AtomicBool::new(false));
        let front = std::thread::spawn({
            let (seen, over) = (seen.clone(), over.clone());
            move || {
                let mut clients: HashMap<SocketAddr, UdpSocket> = HashMap::new();
                let mut back = Vec::new();
                pump(&socket, &over, &mut |datagram, from| {
                    seen.lock().unwrap().extend_from_slice(datagram);
                    let upstream = clients.entry(from).or_insert_with(|| {
                        let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
                        upstream.connect(relay).unwrap();
                        let (down, to_client) = (upstream.try_clone().unwrap(), socket.try_clone().unwrap());
                        let (seen, over) = (seen.clone(), over.clone());
                        back.push(std::thread::spawn(move || {
                            pump(&down, &over, &mut |datagram, _| {
                                seen.lock().unwrap().extend_from_slice(datagram);
                                // QUIC retransmits lost datagrams.
                                let _ = to_client.send_to(datagram, from);
                            });
                        }));
                        upstream
                    });
                    let _ = upstream.send(datagram);
                });
                for thread in back {
                    thread.join().unwrap();
                }
            }
        });
        Self { addr, seen, over, front }
    }

    fn end(self) -> Vec<u8> {
        self.over.store(true, Ordering::SeqCst);
        self.front.join().unwrap();
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

fn pump(socket: &UdpSocket, over: &AtomicBool, each: &mut dyn FnMut(&[u8], SocketAddr)) {
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buf = vec![0; 65_536];
    while !over.load(Ordering::SeqCst) {
        if let Ok((len, from)) = socket.recv_from(&mut buf) {
            each(&buf[..len], from);
        }
    }
}

fn hits(text: &[u8], canary: &[u8]) -> usize {
    text.windows(canary.len()).filter(|window| window == &canary).count()
}

/// The readable memory of a process; `None` if the system denies access.
fn memory(pid: u32) -> Option<Vec<u8>> {
    let mem = File::open(format!("/proc/{pid}/mem")).ok()?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let mut all = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw") && !line.contains("[v")) {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let mut page = vec![0; 1 << 16];
        for at in (start..end).step_by(page.len()) {
            let got = mem.read_at(&mut page, at).unwrap_or(0);
            all.extend_from_slice(&page[..got]);
        }
    }
    Some(all)
}

/// Every command line of this machine, and the environment of every child of these.
fn notified_others(pids: &[u32]) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        if entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()) {
            all.extend(std::fs::read(entry.path().join("cmdline")).unwrap_or_default());
        }
    }
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok) {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace() {
                all.extend(std::fs::read(format!("/proc/{child}/environ")).unwrap_or_default());
                all.extend(std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default());
            }
        }
    }
    all
}

/// The log of a side: its output without the lines in which the user gets or types the code.
fn log(said: &str, typed: &str) -> String {
    let told = [
        "Code: ",
        "On the other computer: tallow receive ",
        "From elsewhere: tallow receive ",
        "Code (Tab completes): ",
    ];
    let is_reported = |line: &&str| told.iter().any(|told| line.contains(told)) && line.contains(typed);
    said.lines().filter(|line| !is_reported(line)).collect::<Vec<_>>().join("\n")
}

/// How a side gets its code.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Prompt,
    Input,
    Environment,
    File,
}

fn start(run: Run, home: &Home, way: Way, code: &str, option: bool) -> Program {
    let piped = |run: Run, input: &str| run.arg("--yes").piped(input.as_bytes());
    match way {
        Way::Prompt => {
            let mut program = run.arg("--no-progress").on_terminal();
            program.expect_asked("Code (Tab completes): ");
            program.keys(&format!("{code}\r"));
            program
        }
        Way::Input if option => run.args(["--code-file", "-"]).piped(code.as_bytes()),
        Way::Input => piped(run, &format!("{code}\n")),
        Way::Environment if option => run.env("TALLOW_CODE", code).piped(b""),
        Way::Environment => piped(run.env("TALLOW_CODE", code), ""),
        Way::File => {
            std::fs::write(home.path("code"), code).unwrap();
            let run = run.args(["--code-file", &home.text("code")]);
            if option { run.piped(b"") } else { piped(run, "") }
        }
    }
}

#[test]
fn c02_secrets_do_not_leave_the_two_processes() {
    let home = Home::new();
    std::fs::write(home.path("password"), RELAY_PASSWORD).unwrap();
    let relay = Relay::start(&home, &["-vvvv", "--password-file", &home.text("password")]);
    let contents = CONTENTS.repeat(2000);
    home.file(NAME, &contents);
    let mut looked_into_memory = false;
    let ways = [
        (Way::File, Way::Prompt),
        (Way::Input, Way::Input),
        (Way::Environment, Way::Environment),
        (Way::File, Way::File),
    ];
    for (number, (sending, receiving)) in ways.into_iter().enumerate() {
        let code = format!("{}-{PASSWORD}", 70 + number);
        let proxy = Proxy::before(relay.addr);
        let proxied = proxy.addr.to_string();
        let run = |command: &str| {
            Run::new(&home, [command, "-vvvv", "--relay", &proxied]).env("TALLOW_RELAY_PASSWORD", RELAY_PASSWORD)
        };
        let mut sender = start(run("send").args(["--no-compress", &home.text("from")]), &home, sending, &code, true);
        assert_eq!(sender.code(), code);
        sender.expect("Waiting for the receiver");
        let mut outside = notified_others(&[sender.pid(), relay.program.pid()]);
        let mut receiver = start(run("receive").arg("--overwrite"), &home, receiving, &code, false);
        outside.extend(notified_others(&[sender.pid(), receiver.pid(), relay.program.pid()]));
        if receiving == Way::Prompt {
            receiver.expect_asked("Accept? [y/N] ");
            // The offer has passed the relay, the contents wait.
            outside.extend(memory(relay.program.pid()).unwrap_or_default());
            receiver.keys("y\r");
        }
        outside.extend(notified_others(&[sender.pid(), receiver.pid(), relay.program.pid()]));
        let (received, sent) = (receiver.end(), sender.end());
        received.is(0, "Received");
        sent.is(0, "Sent");
        assert_eq!(std::fs::read(home.path("into/from").join(NAME)).unwrap(), contents);

        // After the transfer, with everything that it may have left in the relay.
        if let Some(inside) = memory(relay.program.pid()) {
            looked_into_memory = true;
            assert!(hits(&inside, RELAY_PASSWORD.as_bytes()) > 0, "this does not look where the relay keeps things");
            outside.extend(inside);
        }
        outside.extend(relay.program.so_far().into_bytes());
        let wire = proxy.end();
        assert!(wire.len() > contents.len(), "the file went another way");
        outside.extend(wire);
        for canary in [PASSWORD.as_bytes(), &PASSWORD.as_bytes()[..15], NAME.as_bytes(), CONTENTS] {
            assert_eq!(hits(&outside, canary), 0, "{sending:?} {receiving:?} {}", String::from_utf8_lossy(canary));
        }
        for end in [&sent, &received] {
            let log = log(&end.shown, &code);
            assert!(log.contains("TRACE"), "{log}");
            for canary in ["xylophonecanary", "quartzcanary", RELAY_PASSWORD, &String::from_utf8_lossy(&CONTENTS[..32])]
            {
                assert!(!log.contains(canary), "{canary} in {log}");
            }
        }
    }
    if !looked_into_memory {
        eprintln!("skipped: the relay's memory can't be read here, only by root");
    }
}

/// The search finds a secret that is there; otherwise the test above proves nothing.
#[test]
fn c02_secret_search_finds_known_secrets() {
    let home = Home::new();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let proxy = Proxy::before(socket.local_addr().unwrap());
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(CONTENTS, proxy.addr).unwrap();
    socket.recv(&mut [0; 100]).unwrap();
    assert_eq!(hits(&proxy.end(), CONTENTS), 1);

    // Different words, because the test above runs at the same time and searches every command line.
    let code = "7-marzipancanary-on-the-command-line".to_owned();
    let relay = socket.local_addr().unwrap().to_string();
    let receiver = Run::new(&home, ["receive", "--relay", &relay, &code]).piped(b"");
    socket.recv(&mut [0; 2048]).unwrap();
    assert!(hits(&notified_others(&[receiver.pid()]), code.as_bytes()) > 0);
    if let Some(inside) = memory(receiver.pid()) {
        assert!(hits(&inside, relay.as_bytes()) > 0);
    }
    assert!(log(&format!("Code: {code}\nTRACE {code}"), &code).contains(&code));
}

/// No core file, and no access to the memory by other processes of the same user: a process that can't be dumped
/// belongs to root in `/proc`, whichever user runs it.
#[test]
fn c02_no_process_can_be_dumped() {
    let home = Home::new();
    for command in ["receive", "relay"] {
        let run = Run::new(&home, [command]).args(["--listen", "127.0.0.1:0"].iter().filter(|_| command == "relay"));
        let Some(run) = run.unprivileged() else {
            return eprintln!("skipped: root can't run the program as somebody else here");
        };
        let mut program = run.on_terminal();
        program.expect_asked(if command == "relay" { "listening on" } else { "Code (Tab completes): " });
        let owner = std::fs::metadata(format!("/proc/{}/maps", program.pid())).unwrap().uid();
        assert_eq!(owner, 0);
        let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
        let runs_as = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        assert_ne!(runs_as.split_whitespace().next(), Some("0"), "this shows nothing");
    }
}
