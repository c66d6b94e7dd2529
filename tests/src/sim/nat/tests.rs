//! Each test is a definition or a requirement of RFC 4787.

use super::*;

const OUTSIDE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 101));
const SECOND: Duration = Duration::from_secs(1);

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A NAT, and the moment at which it was made.
fn nat(mapping: Dependence, filtering: Dependence) -> (Nat, Instant) {
    (Nat::new(Behaviour::nat(mapping, filtering), OUTSIDE, &Seed::new([1; 32])), Instant::now())
}

/// The outside address of `x` towards `y`.
fn mapped(nat: &mut Nat, now: Instant, x: &str, y: &str) -> SocketAddr {
    nat.out(now, Protocol::Udp, addr(x), addr(y)).expect("UDP gets out")
}

fn comes_in(nat: &Nat, now: Instant, y: &str, outside: SocketAddr) -> bool {
    let inside = nat.back(now, Protocol::Udp, addr(y), outside);
    assert!(inside.is_none_or(|inside| inside == addr("192.168.1.10:5000")), "to another one: {inside:?}");
    inside.is_some()
}

const X: &str = "192.168.1.10:5000";

/// Section 4.1: X1':x1' equals X2':x2' for all values of Y2:y2; if and only if Y2 equals Y1; if and only if Y2:y2
/// equals Y1:y1.
#[test]
fn mappings_are_reused_by_mapping_behaviour() {
    for (mapping, other_port, other_address) in [
        (Dependence::Independent, true, true),
        (Dependence::Address, true, false),
        (Dependence::AddressAndPort, false, false),
    ] {
        let (mut nat, now) = nat(mapping, Dependence::AddressAndPort);
        let first = mapped(&mut nat, now, X, "198.51.100.1:1000");
        assert_eq!(first, mapped(&mut nat, now, X, "198.51.100.1:1000"), "{mapping:?}");
        assert_eq!(first == mapped(&mut nat, now, X, "198.51.100.1:1001"), other_port, "{mapping:?}");
        assert_eq!(first == mapped(&mut nat, now, X, "198.51.100.2:1000"), other_address, "{mapping:?}");
        assert_ne!(first, mapped(&mut nat, now, "192.168.1.10:5001", "198.51.100.1:1000"), "another inside port");
        assert_ne!(first, mapped(&mut nat, now, "192.168.1.11:5000", "198.51.100.1:1000"), "another inside address");
    }
}

/// Section 5: which hosts may answer.
#[test]
fn inbound_packets_pass_by_filtering_behaviour() {
    for mapping in [Dependence::Independent, Dependence::AddressAndPort] {
        for (filtering, other_port, other_address) in [
            (Dependence::Independent, true, true),
            (Dependence::Address, true, false),
            (Dependence::AddressAndPort, false, false),
        ] {
            let (mut nat, now) = nat(mapping, filtering);
            let outside = mapped(&mut nat, now, X, "198.51.100.1:1000");
            assert!(comes_in(&nat, now, "198.51.100.1:1000", outside));
            assert_eq!(comes_in(&nat, now, "198.51.100.1:1001", outside), other_port, "{filtering:?}");
            assert_eq!(comes_in(&nat, now, "198.51.100.2:1000", outside), other_address, "{filtering:?}");
            let nobody = SocketAddr::new(OUTSIDE, outside.port() ^ 1);
            assert!(!comes_in(&nat, now, "198.51.100.1:1000", nobody), "a port that nobody has");
        }
    }
}

/// The host for which a dependent mapping was created may answer to it, and to no other mapping.
#[test]
fn each_mapping_has_its_own_filter() {
    let (mut nat, now) = nat(Dependence::AddressAndPort, Dependence::Address);
    let one = mapped(&mut nat, now, X, "198.51.100.1:1000");
    let two = mapped(&mut nat, now, X, "198.51.100.2:1000");
    assert!(comes_in(&nat, now, "198.51.100.1:9", one) && comes_in(&nat, now, "198.51.100.2:9", two));
    assert!(!comes_in(&nat, now, "198.51.100.2:1000", one) && !comes_in(&nat, now, "198.51.100.1:1000", two));
}

/// REQ-3: port preservation, and no port overloading.
#[test]
fn ports_are_kept_if_they_are_free() {
    let (mut nat, now) = nat(Dependence::Independent, Dependence::Independent);
    assert_eq!(mapped(&mut nat, now, X, "198.51.100.1:1").port(), 5000);
    let second = mapped(&mut nat, now, "192.168.1.11:5000", "198.51.100.1:1");
    assert!(second.port() != 5000 && second.port() >= 1024, "{second}");
    let (mut nat, now) = self::nat(Dependence::AddressAndPort, Dependence::Independent);
    let outsides: Vec<u16> =
        (1..=64).map(|port| mapped(&mut nat, now, X, &format!("198.51.100.1:{port}")).port()).collect();
    let mut once = outsides.clone();
    once.sort_unstable();
    once.dedup();
    assert!(once.len() == 64 && !outsides.contains(&5000), "random and each given once: {outsides:?}");
    assert!(outsides.iter().zip(&outsides[1..]).any(|(a, b)| a.abs_diff(*b) > 1000), "not in a row: {outsides:?}");
}

/// REQ-5 and REQ-6: a lifetime, refreshed from inside and not from outside.
#[test]
fn mappings_expire_without_outbound_packets() {
    let (mut nat, now) = nat(Dependence::Independent, Dependence::AddressAndPort);
    let y = "198.51.100.1:1000";
    let outside = mapped(&mut nat, now, X, y);
    let almost = now + LIFETIME - SECOND;
    assert!(comes_in(&nat, almost, y, outside), "two minutes are asked for");
    assert!(!comes_in(&nat, now + LIFETIME, y, outside), "what came in refreshed it");
    assert_eq!(mapped(&mut nat, almost, X, y), outside);
    let later = almost + LIFETIME - SECOND;
    assert!(comes_in(&nat, later, y, outside), "what goes out refreshes it");
    // A mapping that other traffic refreshes drops only the permission of the old destination.
    mapped(&mut nat, later, X, "198.51.100.2:1000");
    assert!(
        !comes_in(&nat, later + 2 * SECOND, y, outside)
            && comes_in(&nat, later + 2 * SECOND, "198.51.100.2:1000", outside)
    );
    // The port is another one's to take after that.
    let late = later + 2 * LIFETIME;
    assert_eq!(mapped(&mut nat, late, "192.168.1.11:5000", y).port(), 5000);
    assert_ne!(mapped(&mut nat, late, X, y), outside);
}

#[test]
fn flush_drops_mappings_and_changes_ports() {
    let (mut nat, now) = nat(Dependence::Independent, Dependence::Independent);
    let outside = mapped(&mut nat, now, X, "198.51.100.1:1");
    nat.out(now, Protocol::Syn, addr(X), addr("198.51.100.1:2"));
    nat.flush();
    assert!(!comes_in(&nat, now, "198.51.100.1:1", outside));
    assert_eq!(nat.out(now, Protocol::Tcp, addr(X), addr("198.51.100.1:2")), None);
    assert_ne!(mapped(&mut nat, now, X, "198.51.100.1:1"), outside);
    nat.readdress([203, 0, 113, 151].into());
    assert_eq!(mapped(&mut nat, now, X, "198.51.100.1:1").ip(), IpAddr::from([203, 0, 113, 151]));
}

#[test]
fn firewall_translates_nothing_and_admits_only_answers() {
    let mut wall = Nat::new(Behaviour::firewall(), OUTSIDE, &Seed::new([1; 32]));
    let now = Instant::now();
    assert!(!comes_in(&wall, now, "198.51.100.1:1000", addr(X)));
    assert_eq!(mapped(&mut wall, now, X, "198.51.100.1:1000"), addr(X));
    assert!(comes_in(&wall, now, "198.51.100.1:1000", addr(X)));
    assert!(!comes_in(&wall, now, "198.51.100.1:1001", addr(X)));
    wall.flush();
    assert!(!comes_in(&wall, now, "198.51.100.1:1000", addr(X)));
    assert_eq!(mapped(&mut wall, now, X, "198.51.100.1:1000"), addr(X));
}

#[test]
fn tcp_opens_from_inside_and_admits_only_its_target() {
    let (mut nat, now) = nat(Dependence::Independent, Dependence::Independent);
    let (x, y) = (addr(X), addr("198.51.100.1:443"));
    assert_eq!(nat.out(now, Protocol::Tcp, x, y), None, "in the middle of what was never opened");
    let outside = nat.out(now, Protocol::Syn, x, y).unwrap();
    assert_eq!(nat.out(now, Protocol::Syn, x, y), Some(outside), "sent again");
    assert_eq!(nat.out(now, Protocol::Tcp, x, y), Some(outside));
    assert_eq!(nat.back(now + 100 * LIFETIME, Protocol::Tcp, y, outside), Some(x));
    assert_eq!(nat.back(now, Protocol::Tcp, addr("198.51.100.1:444"), outside), None);
    assert_eq!(nat.back(now, Protocol::Syn, y, outside), None);
    let other = nat.out(now, Protocol::Syn, addr("192.168.1.11:5000"), y).unwrap();
    assert_ne!(other, outside);
}

#[test]
fn blocked_udp_is_dropped_and_tcp_passes() {
    let (mut nat, now) = nat(Dependence::Independent, Dependence::Independent);
    let outside = mapped(&mut nat, now, X, "198.51.100.1:1");
    nat.allow_udp(false);
    assert_eq!(nat.out(now, Protocol::Udp, addr(X), addr("198.51.100.1:1")), None);
    assert!(!comes_in(&nat, now, "198.51.100.1:1", outside));
    assert!(nat.out(now, Protocol::Syn, addr(X), addr("198.51.100.1:1")).is_some());
}
