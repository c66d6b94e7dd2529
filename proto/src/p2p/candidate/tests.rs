use proptest::prelude::*;

use super::*;
use crate::wire::{decode, encode};

fn interface(name: &str, addr: &str, prefix: u8) -> Interface {
    Interface { name: name.into(), addr: addr.parse().unwrap(), prefix }
}

fn at_home() -> Vec<Interface> {
    vec![
        interface("lo", "127.0.0.1", 8),
        interface("lo", "::1", 128),
        interface("eth0", "192.168.1.2", 24),
        interface("eth0", "fe80::2", 64),
        interface("eth0", "2001:db8:1:1::2", 64),
    ]
}

fn in_a_data_centre() -> Vec<Interface> {
    vec![interface("lo", "127.0.0.1", 8), interface("eth0", "203.0.113.5", 24)]
}

fn udp(addr: &str) -> Candidate {
    Candidate { kind: Kind::Host, transport: CandidateTransport::Udp, addr: addr.parse().unwrap() }
}

fn tcp(addr: &str) -> Candidate {
    Candidate { transport: CandidateTransport::Tcp, ..udp(addr) }
}

fn reflexive(addr: &str) -> Candidate {
    Candidate { kind: Kind::Reflexive, ..udp(addr) }
}

fn addrs(admitted: &[Candidate]) -> Vec<String> {
    admitted.iter().map(|candidate| candidate.addr.to_string()).collect()
}

#[test]
fn k01_a_candidate_that_cannot_be_a_peer_is_denied() {
    let denied = [
        "127.0.0.1:5000",
        "127.8.9.1:5000",
        "0.0.0.0:5000",
        "0.1.2.3:5000",
        "[::1]:5000",
        "[::]:5000",
        "169.254.169.254:5000",
        "224.0.0.1:5000",
        "239.255.255.250:5000",
        "240.0.0.1:5000",
        "255.255.255.255:5000",
        "192.0.0.9:5000",
        "[fe80::1]:5000",
        "[ff02::fb]:5000",
        "[fec0::1]:5000",
        "[100::1]:5000",
        // The broadcast address of the own network, and its old form.
        "192.168.1.255:5000",
        "192.168.1.0:5000",
        // IPv4 in IPv6: mapped, compatible, NAT64, 6to4, Teredo.
        "[::ffff:127.0.0.1]:5000",
        "[::ffff:169.254.169.254]:5000",
        "[::ffff:192.168.1.255]:5000",
        "[::127.0.0.1]:5000",
        "[64:ff9b::7f00:1]:5000",
        "[2002:7f00:1::1]:5000",
        "[2001::1]:5000",
    ];
    for addr in denied {
        for candidate in [udp(addr), tcp(addr), reflexive(addr), Candidate { kind: Kind::Mapped, ..udp(addr) }] {
            assert_eq!(admit(&[candidate], &at_home()), [], "{addr}");
        }
    }
    for port in [0, 22, 25, 53, 80, 443, 1023] {
        for ip in ["192.168.1.9", "10.0.0.5", "198.51.100.7", "[2001:db8::9]", "[::ffff:192.168.1.9]"] {
            let addr = format!("{ip}:{port}");
            assert_eq!(admit(&[udp(&addr), tcp(&addr)], &at_home()), [], "{addr}");
        }
    }
    // Candidates that an overly broad rule would deny.
    let welcome = [
        "192.168.1.9:1024",
        "192.168.1.254:65535",
        "198.51.100.7:5000",
        "[2001:db8::9]:5000",
        "[::ffff:10.0.0.5]:5000",
    ];
    for addr in welcome {
        assert_eq!(admit(&[udp(addr)], &at_home()).len(), 1, "{addr}");
    }
}

#[test]
fn k02_many_candidates_for_one_victim_are_cut_to_a_few() {
    let many: Vec<_> = (0..10_000_u32).map(|n| udp(&format!("198.51.{}.{}:5000", n / 250, 1 + n % 250))).collect();
    assert_eq!(admit(&many, &at_home()).len(), MAX);
    assert_eq!(admit(&[udp("198.51.100.7:5000"); 64], &at_home()).len(), 1);
    // Other forms of the same addresses.
    let disguised = [udp("198.51.100.7:5000"), reflexive("[::ffff:198.51.100.7]:5000")];
    assert_eq!(admit(&disguised, &at_home()), [udp("198.51.100.7:5000")]);
    let ports: Vec<_> = (5000..5064).map(|port| udp(&format!("198.51.100.7:{port}"))).collect();
    assert_eq!(admit(&ports, &at_home()).len(), MAX_PER_ADDRESS);
    let listeners: Vec<_> = (10..40).map(|host| tcp(&format!("192.168.1.{host}:5000"))).collect();
    assert_eq!(admit(&listeners, &at_home()).len(), MAX_TCP);
    // The bounds also hold when the candidates arrive one after the other.
    for (said, most) in [(&many[..100], MAX), (&ports, MAX_PER_ADDRESS), (&listeners, MAX_TCP)] {
        let mut known = Vec::new();
        for one in said {
            known.extend(admit_beside(&known, &[*one, *one], &at_home()));
        }
        assert_eq!(known.len(), most);
    }
    // A list that is too long does not decode.
    assert!(decode::<Candidates>(&encode(&many[..MAX + 1].to_vec())).is_err());
    let full = Candidates::new(many[..MAX].to_vec()).unwrap();
    assert_eq!(decode::<Candidates>(&encode(&full)), Ok(full));
}

#[test]
fn k04_private_candidate_needs_own_address_of_same_scope() {
    let private = [udp("10.0.0.5:5000"), udp("172.31.0.5:5000"), udp("192.168.7.7:5000")];
    assert_eq!(admit(&private, &in_a_data_centre()), []);
    assert_eq!(admit(&private, &at_home()).len(), 3);
    assert_eq!(admit(&private, &[]), []);
    let (shared, unique) = ([udp("100.64.0.5:5000"), udp("100.127.255.5:5000")], [udp("[fd00::5]:5000")]);
    assert_eq!(admit(&shared, &at_home()), []);
    assert_eq!(admit(&unique, &at_home()), []);
    assert_eq!(admit(&shared, &[interface("tailscale0", "100.99.1.1", 32)]).len(), 2);
    assert_eq!(admit(&unique, &[interface("eth0", "fd12::1", 64)]).len(), 1);
    assert_eq!(admit(&[udp("100.128.0.1:5000"), udp("172.32.0.1:5000")], &in_a_data_centre()).len(), 2);
}

#[test]
fn a_tcp_candidate_must_be_in_an_own_network() {
    let theirs = [
        tcp("192.168.1.9:5000"),
        tcp("192.168.2.9:5000"),
        tcp("198.51.100.7:5000"),
        tcp("[2001:db8:1:1::9]:5000"),
        tcp("[2001:db8:1:2::9]:5000"),
        Candidate { kind: Kind::Reflexive, ..tcp("192.168.1.8:5000") },
        Candidate { kind: Kind::Mapped, ..tcp("192.168.1.7:5000") },
    ];
    assert_eq!(addrs(&admit(&theirs, &at_home())), ["[2001:db8:1:1::9]:5000", "192.168.1.9:5000"]);
    // A tunnel interface whose prefix covers half of all addresses is not a local network.
    let tunnel = [interface("tun0", "10.8.0.2", 1), interface("tun0", "2001:db8::1", 3)];
    assert_eq!(admit(&[tcp("10.8.0.9:5000"), tcp("[2001:db8::9]:5000")], &tunnel), []);
    // A candidate at this machine's own address.
    assert_eq!(admit(&[tcp("192.168.1.2:5000")], &at_home()).len(), 1);
}

#[test]
fn a_nearer_candidate_is_tried_first() {
    let theirs = [
        udp("10.9.9.9:5000"),
        Candidate { kind: Kind::Mapped, ..udp("198.51.100.1:5001") },
        reflexive("198.51.100.1:5000"),
        udp("203.0.113.9:5000"),
        udp("[2001:db8:9::9]:5000"),
        udp("192.168.1.9:5000"),
        tcp("192.168.1.9:5000"),
        udp("[2001:db8:1:1::9]:5000"),
    ];
    let best_first = [
        "192.168.1.9:5000",
        "[2001:db8:1:1::9]:5000",
        "192.168.1.9:5000",
        "[2001:db8:9::9]:5000",
        "203.0.113.9:5000",
        "198.51.100.1:5000",
        "198.51.100.1:5001",
        "10.9.9.9:5000",
    ];
    let admitted = admit(&theirs, &at_home());
    assert_eq!(addrs(&admitted), best_first);
    assert_eq!(admitted[0].transport, CandidateTransport::Tcp);
}

#[test]
fn a_candidate_that_the_peer_would_deny_is_not_offered() {
    assert_eq!(offered(&at_home()), ["192.168.1.2", "2001:db8:1:1::2"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    let odd = [
        interface("eth0", "169.254.3.4", 16),
        interface("eth0", "::ffff:192.168.1.2", 24),
        interface("eth1", "192.168.1.2", 24),
        interface("sit0", "2002:c000:204::1", 16),
        interface("eth0", "fd00::1", 64),
    ];
    assert_eq!(offered(&odd), ["192.168.1.2", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
}

#[test]
fn container_addresses_do_not_displace_lan_addresses() {
    let mut own: Vec<_> = (0..40).map(|n| interface(&format!("br-{n:02}"), &format!("172.20.{n}.1"), 24)).collect();
    own.push(interface("docker0", "172.17.0.1", 16));
    own.push(interface("wlan0", "192.168.1.2", 24));
    // The address with the MAC address first, then temporary addresses, some of which are outdated.
    own.push(interface("wlan0", "2001:db8::211:22ff:fe33:4455", 64));
    own.extend((1..9).map(|n| interface("wlan0", &format!("2001:db8::{n}"), 64)));
    own.push(interface("wlan0", "2001:db8:0:1::1", 64));
    let offered = offered(&own);
    assert_eq!(offered.len(), MAX_HOSTS);
    let best: Vec<IpAddr> =
        ["192.168.1.2", "2001:db8::1", "172.20.0.1", "2001:db8::2", "172.20.1.1", "2001:db8:0:1::1"]
            .map(|ip| ip.parse().unwrap())
            .into();
    assert_eq!(offered, best);
}

#[test]
fn a_reflexive_address_must_be_usable() {
    for usable in ["198.51.100.7:1024", "10.0.0.1:5000", "[2001:db8::1]:5000"] {
        assert!(is_usable(usable.parse().unwrap()), "{usable}");
    }
    for useless in ["198.51.100.7:1023", "198.51.100.7:0", "127.0.0.1:5000", "0.0.0.0:5000", "[::ffff:224.0.0.1]:5000"]
    {
        assert!(!is_usable(useless.parse().unwrap()), "{useless}");
    }
}

#[test]
fn candidate_encoding_is_stable() {
    let candidates = [tcp("192.168.1.2:5000"), Candidate { kind: Kind::Mapped, ..udp("[2001:db8::1]:1024") }];
    let bytes = encode(&Candidates::new(candidates.to_vec()).unwrap());
    let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    assert_eq!(bytes, [&[2, 0, 1, 0, 192, 168, 1, 2, 0x88, 0x27, 2, 0, 1][..], &v6, &[0x80, 8]].concat());
    assert_eq!(decode::<Candidates>(&bytes).unwrap().as_slice(), candidates);
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
    let near = any::<[u8; 2]>().prop_map(|[c, d]| IpAddr::from([192, 168, c & 3, d]));
    let disguised = any::<[u8; 4]>().prop_map(|ip| IpAddr::V6(Ipv4Addr::from(ip).to_ipv6_mapped()));
    let v6 = (prop::sample::select(vec![0, 0x2001, 0x2002, 0xFC00, 0xFE80, 0xFF02, 0x64]), any::<u128>())
        .prop_map(|(first, rest)| IpAddr::from(((first as u128) << 112 | rest >> 16).to_be_bytes()));
    prop_oneof![v4, near, disguised, v6]
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let kind = prop::sample::select(vec![Kind::Host, Kind::Reflexive, Kind::Mapped]);
    let transport = prop::sample::select(vec![CandidateTransport::Udp, CandidateTransport::Tcp]);
    (kind, transport, any_ip(), any::<u16>()).prop_map(|(kind, transport, ip, port)| Candidate {
        kind,
        transport,
        addr: SocketAddr::new(ip, port),
    })
}

fn any_interface() -> impl Strategy<Value = Interface> {
    (any_ip(), any::<u8>()).prop_map(|(addr, prefix)| Interface { name: "eth0".into(), addr, prefix })
}

proptest! {
    #[test]
    fn k01_k02_k04_the_rules_hold_for_any_candidates(
        theirs in prop::collection::vec(any_candidate(), 0..100),
        own in prop::collection::vec(any_interface(), 0..6),
    ) {
        let admitted = admit(&theirs, &own);
        prop_assert!(admitted.len() <= MAX);
        let tcp = admitted.iter().filter(|candidate| candidate.transport == CandidateTransport::Tcp);
        prop_assert!(tcp.count() <= MAX_TCP);
        prop_assert_eq!(admit(&admitted, &own), admitted.clone(), "nothing is left to deny");
        for candidate in &admitted {
            let ip = candidate.addr.ip();
            prop_assert!(candidate.addr.port() >= MIN_PORT && ip == ip.to_canonical());
            prop_assert!(!ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast());
            if let IpAddr::V4(ip) = ip {
                prop_assert!(!ip.is_broadcast() && !ip.is_link_local());
                let private = |interface: &Interface| {
                    matches!(interface.addr.to_canonical(), IpAddr::V4(own) if own.is_private())
                };
                prop_assert!(!ip.is_private() || own.iter().any(private));
            }
        }
    }

    #[test]
    fn an_offered_candidate_is_admitted_by_a_neighbour(own in prop::collection::vec(any_interface(), 0..20)) {
        let offered = offered(&own);
        prop_assert!(offered.len() <= MAX_HOSTS);
        for ip in offered {
            let broadcast = is_broadcast(ip, &own);
            prop_assert_eq!(admit(&[udp(&SocketAddr::new(ip, 5000).to_string())], &own).len(), usize::from(!broadcast));
        }
    }
}
