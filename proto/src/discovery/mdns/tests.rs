use std::collections::BTreeSet;

use proptest::prelude::*;
use simple_dns::rdata::{A, AAAA, PTR, RData, SRV};
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, ResourceRecord, TYPE};

use super::*;

const MS: Duration = Duration::from_millis(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    SocketAddr::new(ip(text), PORT)
}

fn seed(number: u8) -> Seed {
    Seed::new([number; 32])
}

/// A network on which every host receives every multicast, including its own.
struct Lan {
    start: Instant,
    now: Instant,
    hosts: Vec<(IpAddr, Mdns)>,
    /// The time, the sender and the datagram.
    trace: Vec<(Duration, IpAddr, Outgoing)>,
}

impl Lan {
    fn new() -> Self {
        let now = Instant::now();
        Self { start: now, now, hosts: Vec::new(), trace: Vec::new() }
    }

    fn announce(&mut self, addr: &str, port: u16, number: u8) -> usize {
        self.hosts.push((ip(addr), Mdns::announce(self.now, port, &[ip(addr), ip("127.0.0.1")], &seed(number))));
        self.hosts.len() - 1
    }

    fn browse(&mut self, addr: &str, number: u8) -> usize {
        self.hosts.push((ip(addr), Mdns::browse(self.now, &[ip(addr), ip("::1")], &seed(number))));
        self.hosts.len() - 1
    }

    fn deliver(&mut self) {
        while let Some((addr, outgoing)) =
            self.hosts.iter_mut().find_map(|(addr, host)| host.poll_transmit().map(|outgoing| (*addr, outgoing)))
        {
            assert!(outgoing.from.is_none_or(|from| from == addr));
            for (host_addr, host) in &mut self.hosts {
                if outgoing.to == GROUP || outgoing.to.ip() == *host_addr {
                    host.handle_datagram(self.now, SocketAddr::new(addr, PORT), &outgoing.data);
                }
            }
            self.trace.push((self.now - self.start, addr, outgoing));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.deliver();
            let next = self.hosts.iter().filter_map(|(_, host)| host.poll_timeout()).min();
            let Some(next) = next.filter(|&next| next <= end) else { break };
            self.now = self.now.max(next);
            for (_, host) in &mut self.hosts {
                host.handle_timeout(self.now);
            }
        }
        self.now = end;
    }

    fn found(&mut self, host: usize) -> Vec<SocketAddr> {
        std::iter::from_fn(|| self.hosts[host].1.poll_found()).collect()
    }

    /// The times at which this host sent a datagram.
    fn times(&self, host: usize) -> Vec<u128> {
        self.trace
            .iter()
            .filter(|(_, addr, _)| *addr == self.hosts[host].0)
            .map(|(time, ..)| time.as_millis())
            .collect()
    }
}

fn parsed(outgoing: &Outgoing) -> Packet<'_> {
    Packet::parse(&outgoing.data).unwrap()
}

#[test]
fn announcer_and_browser_find_each_other_in_any_order() {
    for announcer_first in [true, false] {
        let mut lan = Lan::new();
        let browser = if announcer_first {
            lan.announce("192.168.1.10", 40_000, 1);
            lan.run(Duration::from_secs(5));
            lan.browse("192.168.1.20", 2)
        } else {
            let browser = lan.browse("192.168.1.20", 2);
            lan.run(Duration::from_secs(5));
            lan.announce("192.168.1.10", 40_000, 1);
            browser
        };
        lan.run(200 * MS);
        assert_eq!(lan.found(browser), ["192.168.1.10:40000".parse().unwrap()]);
        lan.run(Duration::from_secs(600));
        assert_eq!(lan.found(browser), [], "told once");
    }
}

#[test]
fn several_announcers_and_browsers_find_each_other() {
    let mut lan = Lan::new();
    for host in 1..=3 {
        lan.announce(&format!("10.0.0.{host}"), 4433, host);
    }
    let browsers = [lan.browse("10.0.0.20", 20), lan.browse("10.0.0.21", 21)];
    lan.run(Duration::from_secs(3));
    for browser in browsers {
        let found: BTreeSet<_> = lan.found(browser).into_iter().map(|addr| addr.to_string()).collect();
        assert_eq!(found, ["10.0.0.1:4433", "10.0.0.2:4433", "10.0.0.3:4433"].map(str::to_owned).into());
    }
}

#[test]
fn queries_back_off_to_one_per_minute() {
    let mut lan = Lan::new();
    let browser = lan.browse("10.0.0.1", 1);
    lan.run(Duration::from_secs(200));
    let times = lan.times(browser);
    assert_eq!(times[0], 0);
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (gap, least) in gaps.iter().zip([1, 2, 4, 8, 16, 32, 60, 60]) {
        assert!((least * 1000..least * 1000 + 100).contains(gap), "{gaps:?}");
    }
    let mut other = Lan::new();
    let browser = other.browse("10.0.0.1", 2);
    other.run(Duration::from_secs(200));
    assert_ne!(times, other.times(browser), "by the seed");
}

#[test]
fn query_matches_rfc_6762() {
    let mut mdns = Mdns::browse(Instant::now(), &[], &seed(1));
    mdns.handle_timeout(Instant::now());
    let query = mdns.poll_transmit().unwrap();
    assert_eq!((query.to, query.from), ("224.0.0.251:5353".parse().unwrap(), None));
    let expected = b"\0\0\0\0\0\x01\0\0\0\0\0\0\x07_tallow\x04_udp\x05local\0\0\x0c\0\x01";
    assert_eq!(query.data, expected);
}

#[test]
fn announcement_is_complete_without_machine_name() {
    let mut lan = Lan::new();
    let host = lan.announce("10.0.0.1", 4433, 1);
    lan.run(Duration::from_secs(60));
    assert_eq!(lan.times(host), [0, 1000], "twice, a second apart");
    let packet = parsed(&lan.trace[0].2);
    assert!(packet.has_flags(PacketFlag::RESPONSE | PacketFlag::AUTHORITATIVE_ANSWER));
    let named = |kind| packet.answers.iter().filter(move |record| record.rdata.type_code() == kind);
    let pointer = named(TYPE::PTR).next().unwrap();
    let RData::PTR(PTR(instance)) = &pointer.rdata else { panic!() };
    assert_eq!((pointer.name.to_string(), pointer.cache_flush), ("_tallow._udp.local".to_owned(), false));
    let label = instance.to_string().strip_suffix("._tallow._udp.local").unwrap().to_owned();
    assert!(label.len() == 16 && label.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let srv = named(TYPE::SRV).next().unwrap();
    let RData::SRV(SRV { port: 4433, target, .. }) = &srv.rdata else { panic!("{srv:?}") };
    assert!(srv.name == *instance && srv.cache_flush);
    assert_eq!(target.to_string(), format!("{label}.local"));
    let txt = named(TYPE::TXT).next().unwrap();
    let RData::TXT(text) = &txt.rdata else { panic!() };
    assert_eq!(text.attributes().get("versions"), Some(&Some("1-1".to_owned())));
    let address = named(TYPE::A).next().unwrap();
    assert!(address.name == *target && address.rdata == RData::A(A::from(Ipv4Addr::new(10, 0, 0, 1))));

    let label_of = |number| {
        let mut other = Lan::new();
        other.announce("10.0.0.1", 4433, number);
        other.run(MS);
        other.trace[0].2.data.clone()
    };
    assert_eq!(label_of(1), lan.trace[0].2.data, "the same seed gives the same name");
    assert_ne!(label_of(2), lan.trace[0].2.data);
}

#[test]
fn each_interface_announces_its_own_address_only() {
    let now = Instant::now();
    let addrs = ["192.168.1.5", "10.1.2.3", "127.0.0.1", "fd00::5"].map(ip);
    let mut mdns = Mdns::announce(now, 4433, &addrs, &seed(1));
    mdns.handle_timeout(now);
    let sent: Vec<_> = std::iter::from_fn(|| mdns.poll_transmit()).collect();
    let froms: Vec<_> = sent.iter().map(|outgoing| outgoing.from.unwrap().to_string()).collect();
    assert_eq!(froms, ["192.168.1.5", "10.1.2.3"]);
    for outgoing in &sent {
        let said = message::parse_response(&outgoing.data);
        assert_eq!(said[0].addresses, [outgoing.from.unwrap()]);
    }
}

#[test]
fn answers_are_delayed_and_limited_to_one_per_second() {
    let mut lan = Lan::new();
    let announcer = lan.announce("10.0.0.1", 4433, 1);
    lan.run(Duration::from_secs(10));
    lan.trace.clear();
    let asked = (lan.now - lan.start).as_millis();
    let question = message::query(std::iter::empty()).unwrap();
    for _ in 0..1000 {
        lan.hosts[announcer].1.handle_datagram(lan.now, at("10.0.0.9"), &question);
        lan.run(MS);
    }
    lan.run(Duration::from_secs(10));
    let times: Vec<_> = lan.times(announcer).iter().map(|time| time - asked).collect();
    assert!((20..120).contains(&times[0]) && times[1] >= times[0] + 1000 && times.len() == 2, "{times:?}");
}

#[test]
fn query_that_lists_own_instance_is_not_answered() {
    let mut lan = Lan::new();
    let announcer = lan.announce("10.0.0.1", 4433, 1);
    lan.run(Duration::from_secs(5));
    let browser = lan.browse("10.0.0.2", 2);
    lan.run(Duration::from_secs(55));
    assert_eq!(lan.times(announcer).len(), 3, "two unsolicited, one requested");
    assert_eq!(lan.times(browser).len(), 6);
    let queries: Vec<_> = lan.trace.iter().filter(|(_, addr, _)| *addr == ip("10.0.0.2")).collect();
    assert!(parsed(&queries[1].2).answers[0].ttl > TTL / 2);
    // After half of its TTL the instance is queried again.
    lan.run(Duration::from_secs(60));
    assert_eq!(lan.times(announcer).len(), 4);
}

#[test]
fn goodbye_withdraws_all_records() {
    let mut lan = Lan::new();
    let announcer = lan.announce("10.0.0.1", 4433, 1);
    let browser = lan.browse("10.0.0.2", 2);
    lan.run(Duration::from_secs(5));
    lan.trace.clear();
    lan.hosts[announcer].1.goodbye();
    lan.hosts[announcer].1.goodbye();
    assert_eq!(lan.hosts[announcer].1.poll_timeout(), None);
    lan.run(Duration::from_secs(10));
    assert_eq!(lan.times(announcer).len(), 1);
    let farewell = parsed(&lan.trace[0].2);
    assert!(farewell.answers.len() >= 4 && farewell.answers.iter().all(|record| record.ttl == 0));
    assert!(farewell.answers.iter().all(|record| !record.name.to_string().starts_with("_services")));
    let next = lan.trace.iter().find(|(_, addr, _)| *addr == lan.hosts[browser].0).unwrap();
    assert_eq!(parsed(&next.2).answers.len(), 0, "it is not known any more");

    let mut late = Mdns::browse(lan.now, &[ip("10.0.0.3")], &seed(3));
    late.handle_datagram(lan.now, at("10.0.0.1"), &farewell.build_bytes_vec().unwrap());
    assert_eq!(late.poll_found(), None, "no announcer is left");

    let mut silent = Mdns::announce(lan.now, 1, &[ip("10.0.0.1")], &seed(1));
    silent.goodbye();
    assert_eq!(silent.poll_transmit(), None, "records that were never announced are not withdrawn");
}

#[test]
fn legacy_resolver_gets_unicast_answer() {
    let now = Instant::now();
    let mut mdns = Mdns::announce(now, 4433, &["10.0.0.1", "192.168.7.1"].map(ip), &seed(1));
    let mut question = Packet::new_query(77);
    let service = Name::new("_TALLOW._udp.local").unwrap();
    question.questions.push(Question::new(service, TYPE::PTR.into(), CLASS::IN.into(), false));
    let asker = SocketAddr::new(ip("192.168.7.9"), 50_000);
    mdns.handle_datagram(now, asker, &question.build_bytes_vec().unwrap());
    let answer = mdns.poll_transmit().unwrap();
    assert_eq!(answer.to, asker);
    let packet = parsed(&answer);
    assert_eq!((packet.id(), packet.questions.len()), (77, 1));
    assert!(packet.answers.iter().all(|record| record.ttl <= 10 && !record.cache_flush));
    assert_eq!(message::parse_response(&answer.data)[0].addresses, [ip("192.168.7.1")]);
    for _ in 0..1000 {
        mdns.handle_datagram(now, asker, &question.build_bytes_vec().unwrap());
    }
    assert_eq!(std::iter::from_fn(|| mdns.poll_transmit()).count(), MAX_UNICASTS - 1);
}

#[test]
fn a_unicast_question_gets_a_unicast_answer_after_a_multicast() {
    let now = Instant::now();
    let mut mdns = Mdns::announce(now, 4433, &[ip("10.0.0.1")], &seed(1));
    let mut question = Packet::new_query(0);
    let service = Name::new("_tallow._udp.local").unwrap();
    question.questions.push(Question::new(service, TYPE::PTR.into(), CLASS::IN.into(), true));
    let question = question.build_bytes_vec().unwrap();
    mdns.handle_timeout(now);
    mdns.handle_timeout(now + SECOND);
    while mdns.poll_transmit().is_some() {}
    mdns.handle_datagram(now + 2 * SECOND, at("10.0.0.2"), &question);
    assert_eq!(mdns.poll_transmit().unwrap().to, at("10.0.0.2"));
    assert_eq!(mdns.poll_timeout(), None);
    mdns.handle_datagram(now + SECOND + LATELY, at("10.0.0.2"), &question);
    assert_eq!(mdns.poll_transmit(), None);
    assert!(mdns.poll_timeout().is_some());
}

#[test]
fn only_queries_for_own_records_are_answered() {
    let now = Instant::now();
    let mut mdns = Mdns::announce(now, 4433, &[ip("10.0.0.1")], &seed(1));
    mdns.handle_timeout(now);
    let said = message::parse_response(&mdns.poll_transmit().unwrap().data);
    let instance = said[0].instance.to_string();
    let host = instance.replace("._tallow._udp", "");
    mdns.handle_timeout(now + SECOND);
    let later = now + 10 * SECOND;
    let is_answered = |name: &str, kind: TYPE, mdns: &mut Mdns| {
        let mut question = Packet::new_query(0);
        question.questions.push(Question::new(Name::new(name).unwrap(), kind.into(), CLASS::IN.into(), false));
        mdns.handle_datagram(later, at("10.0.0.2"), &question.build_bytes_vec().unwrap());
        let is_answered = mdns.poll_timeout().is_some();
        mdns.handle_timeout(later + SECOND);
        if let Task::Announcing(announcer) = &mut mdns.task {
            announcer.last = Some(now);
        }
        is_answered
    };
    let ours = [
        ("_tallow._udp.local", TYPE::PTR),
        ("_services._dns-sd._udp.local", TYPE::PTR),
        (&instance, TYPE::SRV),
        (&instance, TYPE::TXT),
        (&host, TYPE::A),
    ];
    for (name, kind) in ours {
        assert!(is_answered(name, kind, &mut mdns), "{name}");
    }
    let foreign = [
        ("_ipp._tcp.local", TYPE::PTR),
        ("_tallow._tcp.local", TYPE::PTR),
        ("_tallow._udp.local", TYPE::SRV),
        ("other._tallow._udp.local", TYPE::SRV),
        (&host, TYPE::MX),
    ];
    for (name, kind) in foreign {
        assert!(!is_answered(name, kind, &mut mdns), "{name}");
    }
}

/// An announcement that any host can forge.
fn forged(label: &str, port: u16, addresses: &[&str], ttl: u32) -> Vec<u8> {
    let mut packet = Packet::new_reply(0);
    let (instance, host) = (format!("{label}._tallow._udp.local"), format!("{label}.local"));
    let mut push = |name: &str, rdata: RData<'static>| {
        let name = Name::new(name).unwrap().into_owned();
        packet.answers.push(ResourceRecord::new(name, CLASS::IN, ttl, rdata));
    };
    let target = Name::new(&host).unwrap().into_owned();
    push(&instance, RData::SRV(SRV { priority: 0, weight: 0, port, target }));
    for address in addresses {
        push(
            &host,
            match ip(address) {
                IpAddr::V4(v4) => RData::A(A::from(v4)),
                IpAddr::V6(v6) => RData::AAAA(AAAA::from(v6)),
            },
        );
    }
    packet.build_bytes_vec_compressed().unwrap()
}

fn browser() -> Mdns {
    let mut mdns = Mdns::browse(Instant::now(), &[ip("192.168.1.20"), ip("fd00::20")], &seed(1));
    let interface = |addr, prefix| Interface { name: "eth0".into(), addr: ip(addr), prefix };
    mdns.handle_interfaces(&[interface("192.168.1.20", 16), interface("fd00::20", 64)]);
    mdns
}

fn found(mdns: &mut Mdns) -> Vec<String> {
    std::iter::from_fn(|| mdns.poll_found()).map(|addr| addr.to_string()).collect()
}

fn found_from(source: &str, port: u16, addresses: &[&str]) -> Vec<String> {
    let mut mdns = browser();
    mdns.handle_datagram(Instant::now(), at(source), &forged("x", port, addresses, 120));
    found(&mut mdns)
}

#[test]
fn special_addresses_and_low_ports_are_not_reported() {
    let source = "192.168.1.10";
    let odd = [
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.251",
        "169.254.1.1",
        "8.8.8.8",
        "::1",
        "::",
        "fe80::1",
        "ff02::fb",
        "2001:4860::8888",
        "::ffff:127.0.0.1",
    ];
    for address in odd {
        assert_eq!(found_from(source, 4433, &[address]), ["192.168.1.10:4433"], "{address}: its source instead");
    }
    assert_eq!(found_from(source, 4433, &[]), ["192.168.1.10:4433"]);
    assert_eq!(found_from(source, 4433, &["fd00::9"]), ["[fd00::9]:4433"]);
    assert_eq!(found_from(source, 4433, &["192.168.1.11", source]), ["192.168.1.10:4433", "192.168.1.11:4433"]);
    for port in [0, 1, 53, 443, 1023] {
        assert_eq!(found_from(source, port, &[source]), [""; 0], "{port}");
    }
}

#[test]
fn announced_address_must_be_on_own_network() {
    for address in ["10.9.9.9", "172.16.0.1", "fd99::1"] {
        let source = "192.168.1.10";
        assert_eq!(found_from(source, 4433, &[address]), ["192.168.1.10:4433"], "{address}: its source instead");
        assert_eq!(found_from(source, 4433, &[address, source]), ["192.168.1.10:4433"]);
        assert_eq!(found_from(address, 4433, &[address]), [""; 0], "a source outside our networks");
    }
    // Before the interfaces are known, only the source address is accepted.
    let mut mdns = Mdns::browse(Instant::now(), &[ip("192.168.1.20")], &seed(1));
    let forged = forged("x", 4433, &["10.9.9.9", "192.168.1.10"], 120);
    mdns.handle_datagram(Instant::now(), at("192.168.1.10"), &forged);
    assert_eq!(found(&mut mdns), ["192.168.1.10:4433"]);
}

#[test]
fn link_local_machines_discover_each_other() {
    let mut lan = Lan::new();
    lan.announce("169.254.3.4", 4433, 1);
    let browser = lan.browse("169.254.9.9", 2);
    lan.run(SECOND);
    assert_eq!(lan.found(browser), ["169.254.3.4:4433".parse().unwrap()]);
}

#[test]
fn datagrams_of_other_networks_and_ports_are_ignored() {
    assert_eq!(found_from("8.8.8.8", 4433, &["192.168.1.10"]), [""; 0]);
    assert_eq!(found_from("2001:db8::1", 4433, &["192.168.1.10"]), [""; 0]);
    let mut mdns = browser();
    let data = forged("x", 4433, &[], 120);
    mdns.handle_datagram(Instant::now(), SocketAddr::new(ip("192.168.1.10"), 5354), &data);
    assert_eq!(found(&mut mdns), [""; 0]);
    let now = Instant::now();
    let mut announcer = Mdns::announce(now, 4433, &[ip("192.168.1.20")], &seed(1));
    let question = message::query(std::iter::empty()).unwrap();
    announcer.handle_datagram(now, SocketAddr::new(ip("203.0.113.5"), 1234), &question);
    assert_eq!(announcer.poll_transmit(), None, "unicast answers are limited");
}

#[test]
fn a_flood_of_announcements_leaves_room_for_other_sources() {
    let mut mdns = browser();
    let now = Instant::now();
    for number in 0..5000_u16 {
        mdns.handle_datagram(now, at("192.168.1.66"), &forged(&format!("n{number}"), 2000 + number, &[], 120));
    }
    mdns.handle_datagram(now, at("192.168.1.10"), &forged("good", 4433, &[], 120));
    assert_eq!(found(&mut mdns), ["192.168.1.66:2000", "192.168.1.66:2001", "192.168.1.10:4433"]);
    for number in 0..5000_u16 {
        let source = format!("192.168.{}.{}", number / 250, number % 250);
        mdns.handle_datagram(now, at(&source), &forged(&format!("m{number}"), 4433, &[], 120));
    }
    assert_eq!(found(&mut mdns).len(), MAX_FOUND - 3);
    let Task::Browsing(browser) = &mdns.task else { panic!() };
    assert!(browser.known.len() <= MAX_FOUND && browser.told.len() <= MAX_FOUND);
    for _ in 0..1000 {
        mdns.handle_timeout(mdns.poll_timeout().unwrap());
    }
    assert!(mdns.out.len() <= MAX_WAITING, "the queue is bounded");
}

#[test]
fn extreme_ttls_are_clamped() {
    let mut mdns = browser();
    let now = Instant::now();
    mdns.handle_datagram(now, at("192.168.1.10"), &forged("x", 4433, &[], u32::MAX));
    mdns.handle_datagram(now, at("192.168.1.11"), &forged("y", 4433, &[], 1));
    let Task::Browsing(browser) = &mut mdns.task else { panic!() };
    browser.next = now + 2 * SECOND;
    mdns.handle_timeout(now + 2 * SECOND);
    let query = mdns.poll_transmit().unwrap();
    assert_eq!(parsed(&query).answers.len(), 1);
    assert!(parsed(&query).answers[0].ttl <= MAX_TTL);
}

#[test]
fn compression_loops_and_false_counts_are_refused() {
    let header = |answers: u16| {
        let mut header = vec![0, 0, 0x84, 0, 0, 0];
        header.extend_from_slice(&answers.to_be_bytes());
        header.extend_from_slice(&[0; 4]);
        header
    };
    let tail = [0, 33, 0, 1, 0, 0, 0, 120, 0, 7, 0, 0, 0, 0, 0x11, 0x51, 0];
    let mut to_itself = header(1);
    to_itself.extend_from_slice(&[0xc0, 12]);
    let mut forward = header(1);
    forward.extend_from_slice(&[0xc0, 14, 0xc0, 12]);
    let mut label_and_back = header(1);
    label_and_back.extend_from_slice(&[1, b'a', 0xc0, 12]);
    // Each pointer leads two bytes back: the chain is long, but it ends, with the maximum number of records that fit.
    let mut chain = header(60);
    chain.push(0);
    for pointer in (12_u16..1400).step_by(2) {
        chain.extend_from_slice(&(0xc000 | pointer).to_be_bytes());
    }
    for mut data in [to_itself, forward, label_and_back, chain] {
        data.extend_from_slice(&tail);
        assert!(message::parse_response(&data).is_empty());
    }
    assert!(message::parse_response(&header(u16::MAX)).is_empty());
    let good = forged("x", 4433, &[], 120);
    for (more, expected) in [(63, 1), (64, 0)] {
        let mut packet = Packet::parse(&good).unwrap();
        let empty = ResourceRecord::new(Name::new(".").unwrap(), CLASS::IN, 0, RData::Empty(TYPE::TXT));
        packet.additional_records.resize(more, empty);
        assert_eq!(message::parse_response(&packet.build_bytes_vec().unwrap()).len(), expected);
    }
    let mut long = forged("x", 4433, &[], 120);
    assert_eq!(message::parse_response(&long).len(), 1);
    long.resize(message::MAX_LEN, 0);
    assert_eq!(message::parse_response(&long).len(), 1);
    long.push(0);
    assert!(message::parse_response(&long).is_empty());
}

/// Both ends process the datagram without a panic and within their bounds.
fn endure(data: &[u8]) {
    let now = Instant::now();
    let own = [ip("192.168.1.20")];
    let ends = [Mdns::announce(now, 4433, &own, &seed(1)), Mdns::browse(now, &own, &seed(2))];
    for mut end in ends {
        for from in [at("192.168.1.10"), SocketAddr::new(ip("192.168.1.10"), 9999)] {
            end.handle_datagram(now, from, data);
        }
        end.handle_timeout(now);
        assert!(end.out.len() <= MAX_WAITING && end.found.len() <= MAX_FOUND);
        while let Some(outgoing) = end.poll_transmit() {
            assert!(Packet::parse(&outgoing.data).is_ok());
        }
    }
}

proptest! {
    #[test]
    fn parser_survives_any_bytes(data in prop::collection::vec(any::<u8>(), 0..1600)) {
        endure(&data);
    }

    #[test]
    fn parser_survives_any_record(
        kind in prop_oneof![0_u16..300, any::<u16>()], class: u16, ttl: u32,
        flags in prop::sample::select(vec![0_u16, 0x8400]),
        rdata in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xc0), Just(12)], 0..80),
        claimed in prop::option::of(any::<u16>()), section in 1_usize..4,
    ) {
        let mut counts = [0_u16; 4];
        counts[section] = 1;
        let mut data = [0, flags, counts[0], counts[1], counts[2], counts[3]].map(u16::to_be_bytes).concat();
        data.extend_from_slice(b"\x01x\x07_tallow\x04_udp\x05local\0");
        data.extend_from_slice(&[kind.to_be_bytes(), class.to_be_bytes()].concat());
        data.extend_from_slice(&ttl.to_be_bytes());
        data.extend_from_slice(&claimed.unwrap_or(rdata.len() as u16).to_be_bytes());
        data.extend_from_slice(&rdata);
        endure(&data);
    }

    #[test]
    fn parser_survives_damaged_packets(
        query: bool, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut data = if query {
            message::query(std::iter::empty()).unwrap()
        } else {
            forged("x", 4433, &["192.168.1.9", "fd00::1"], 120)
        };
        for (place, byte) in damage {
            let place = place.index(data.len());
            data[place] = byte;
        }
        data.truncate(cut.index(data.len() * 2).max(1));
        endure(&data);
    }
}
