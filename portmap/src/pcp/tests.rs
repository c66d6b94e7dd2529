use std::time::Duration;

use proptest::prelude::*;
use rand_core::SeedableRng;

use super::*;
use crate::client::{Grant, SENDS};
use crate::mapper::RELEASE_WITHIN;
use crate::simulation::{self, GATEWAY, LOCAL, OUTSIDE, TARGET, pcp_answer};

const HOUR: u32 = 3600;

fn asking() -> (Instant, Pcp) {
    let now = Instant::now();
    let mut pcp = Pcp::new(now, TARGET, &mut ChaCha20Rng::from_seed([7; 32]));
    pcp.handle_timeout(now);
    (now, pcp)
}

fn sent(pcp: &mut Pcp) -> Vec<u8> {
    pcp.poll_transmit().expect("a datagram").data
}

fn granted(port: u16) -> Outcome {
    let lifetime = Duration::from_secs(HOUR.into());
    Outcome::Granted(Grant { external: SocketAddrV4::new(OUTSIDE, port), lifetime })
}

/// A client with a mapping of port 5000, granted at epoch 100.
fn mapped() -> (Instant, Pcp) {
    let (now, mut pcp) = asking();
    let request = sent(&mut pcp);
    pcp.handle_datagram(now, GATEWAY, &pcp_answer(&request, 0, HOUR, 100, OUTSIDE, 5000));
    assert_eq!(pcp.poll_outcome(), Some(granted(5000)));
    (now, pcp)
}

#[test]
fn pcp_request_matches_rfc_6887() {
    let (_, mut pcp) = asking();
    let Transmit { to, from, data } = pcp.poll_transmit().unwrap();
    assert_eq!((to, from), (GATEWAY.into(), Some(LOCAL.into())));
    let mut expected = vec![2, 1, 0, 0, 0, 0, 0x0E, 0x10];
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 192, 168, 1, 2]);
    expected.extend(pcp.nonce);
    expected.extend([17, 0, 0, 0, 0x9C, 0x40, 0x9C, 0x40]);
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0]);
    assert_eq!(data, expected);
    assert_eq!(data.len(), 60);
}

#[test]
fn nonces_come_from_the_seed() {
    let nonce = |seed| Pcp::new(Instant::now(), TARGET, &mut ChaCha20Rng::from_seed([seed; 32])).nonce;
    assert_eq!(nonce(1), nonce(1));
    assert_ne!(nonce(1), nonce(2));
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let now = Instant::now();
    assert_ne!(Pcp::new(now, TARGET, &mut rng).nonce, Pcp::new(now, TARGET, &mut rng).nonce);
}

#[test]
fn pcp_answer_must_match_its_request() {
    let (now, mut pcp) = asking();
    let request = sent(&mut pcp);
    let answer = pcp_answer(&request, 0, HOUR, 9, OUTSIDE, 5000);
    let changed = |at: usize| {
        let mut other = answer.clone();
        other[at] ^= 1;
        other
    };
    pcp.handle_datagram(now, SocketAddrV4::new(*GATEWAY.ip(), 5350), &answer);
    pcp.handle_datagram(now, SocketAddrV4::new(LOCAL, 5351), &answer);
    // Version, opcode, each byte of the nonce, protocol, internal port.
    for at in [0, 1].into_iter().chain(24..37).chain(40..42) {
        pcp.handle_datagram(now, GATEWAY, &changed(at));
    }
    for len in 0..answer.len() {
        pcp.handle_datagram(now, GATEWAY, &answer[..len]);
    }
    assert_eq!(pcp.poll_outcome(), None);
    pcp.handle_datagram(now, GATEWAY, &answer);
    assert_eq!(pcp.poll_outcome(), Some(granted(5000)));
}

#[test]
fn pcp_request_backs_off_and_then_fails() {
    let (start, mut pcp) = asking();
    let mut times = vec![0];
    let first = sent(&mut pcp);
    while let Some(at) = pcp.poll_timeout() {
        pcp.handle_timeout(at);
        if let Some(again) = pcp.poll_transmit() {
            assert_eq!(again.data, first);
            times.push((at - start).as_millis());
        }
    }
    assert_eq!(times, [0, 250, 750, 1750, 3750, 7750]);
    assert_eq!(times.len(), usize::from(SENDS));
    assert_eq!(pcp.poll_outcome(), Some(Outcome::Failed(Failure::NoAnswer)));
    assert!(pcp.is_finished());
}

#[test]
fn unusable_pcp_mapping_is_released() {
    for (ip, port, lifetime, failure) in [
        (Ipv4Addr::new(10, 0, 0, 1), 5000, HOUR, Failure::DoubleNat(Ipv4Addr::new(10, 0, 0, 1))),
        (Ipv4Addr::new(100, 64, 0, 1), 5000, HOUR, Failure::DoubleNat(Ipv4Addr::new(100, 64, 0, 1))),
        (Ipv4Addr::UNSPECIFIED, 5000, HOUR, Failure::DoubleNat(Ipv4Addr::UNSPECIFIED)),
        (OUTSIDE, 1023, HOUR, Failure::Refused),
        (OUTSIDE, 5000, 19, Failure::Refused),
    ] {
        let (now, mut pcp) = asking();
        let request = sent(&mut pcp);
        pcp.handle_datagram(now, GATEWAY, &pcp_answer(&request, 0, lifetime, 1, ip, port));
        assert_eq!(pcp.poll_outcome(), Some(Outcome::Failed(failure)));
        pcp.handle_timeout(now);
        let back = sent(&mut pcp);
        assert_eq!(back[4..8], [0; 4]);
        assert_eq!(back[24..36], request[24..36], "with the nonce of the granted request");
        pcp.handle_datagram(now, GATEWAY, &pcp_answer(&back, 0, 0, 1, ip, port));
        assert!(pcp.is_finished());
    }
}

#[test]
fn pcp_errors_end_request_but_keep_old_mapping() {
    let (now, mut pcp) = asking();
    // The answer of a gateway that supports only NAT-PMP to a PCP request.
    pcp.handle_datagram(now, GATEWAY, &[0, 0x81, 0, 1, 0, 0, 0, 9]);
    assert_eq!(pcp.poll_outcome(), Some(Outcome::Failed(Failure::Unsupported)));
    assert!(pcp.is_finished());
    let (now, mut pcp) = asking();
    let request = sent(&mut pcp);
    pcp.handle_datagram(now, GATEWAY, &pcp_answer(&request, 2, 30, 1, OUTSIDE, 0));
    assert_eq!(pcp.poll_outcome(), Some(Outcome::Failed(Failure::Refused)));
    assert!(pcp.is_finished());
    // An error response without a nonce.
    let (now, mut pcp) = asking();
    let request = sent(&mut pcp);
    pcp.handle_datagram(now, GATEWAY, &pcp_answer(&request, 3, 30, 1, OUTSIDE, 0)[..24]);
    assert_eq!(pcp.poll_outcome(), Some(Outcome::Failed(Failure::Refused)));
    // Such an error cannot remove a mapping.
    let (now, mut pcp) = mapped();
    pcp.renew(now);
    pcp.handle_datagram(now, GATEWAY, &pcp_answer(&request, 3, 30, 1, OUTSIDE, 0)[..24]);
    pcp.handle_datagram(now, GATEWAY, &[0, 0x81, 0, 1, 0, 0, 0, 9]);
    assert_eq!(pcp.poll_outcome(), None);
}

#[test]
fn pcp_renewal_keeps_port_and_reports_changes() {
    let (now, mut pcp) = mapped();
    assert_eq!(pcp.poll_timeout(), None);
    let now = now + Duration::from_secs(1800);
    pcp.renew(now);
    pcp.handle_timeout(now);
    let request = sent(&mut pcp);
    assert_eq!(request[42..44], 5000_u16.to_be_bytes());
    assert_eq!(request[56..60], OUTSIDE.octets());
    pcp.handle_datagram(now, GATEWAY, &pcp_answer(&request, 0, HOUR, 1900, OUTSIDE, 6000));
    assert_eq!(pcp.poll_outcome(), Some(granted(6000)));
    // The renewal is refused: the mapping remains until its lifetime ends.
    pcp.renew(now);
    pcp.handle_datagram(now, GATEWAY, &pcp_answer(&request, 8, 30, 1900, OUTSIDE, 0));
    assert_eq!(pcp.poll_outcome(), Some(Outcome::Failed(Failure::Refused)));
    assert!(!pcp.is_finished());
    // The gateway was restarted, and has no resources for the mapping.
    pcp.renew(now);
    pcp.handle_datagram(now, GATEWAY, &pcp_answer(&request, 8, 30, 3, OUTSIDE, 0));
    assert_eq!(pcp.poll_outcome(), Some(Outcome::Failed(Failure::StateLost)));
}

#[test]
fn pcp_zero_lifetime_answer_ends_mapping() {
    let (now, mut pcp) = mapped();
    let request = pcp.request(LIFETIME);
    pcp.handle_datagram(now, GATEWAY, &pcp_answer(&request, 2, 30, 100, OUTSIDE, 5000));
    assert_eq!(pcp.poll_outcome(), None, "an old refusal");
    pcp.handle_datagram(now, GATEWAY, &pcp_answer(&request, 0, 0, 100, OUTSIDE, 5000));
    assert_eq!(pcp.poll_outcome(), Some(Outcome::Failed(Failure::StateLost)));
}

#[test]
fn pcp_release_is_sent_three_times_within_a_second() {
    let (start, mut pcp) = mapped();
    pcp.release(start);
    let mut count = 0;
    let mut last = start;
    while let Some(at) = pcp.poll_timeout() {
        pcp.handle_timeout(at);
        last = at;
        count += usize::from(pcp.poll_transmit().is_some_and(|out| out.data[4..8] == [0; 4]));
    }
    assert!(pcp.is_finished());
    assert_eq!((count, last - start), (3, RELEASE_WITHIN));
    // A late answer to the last renewal is not the answer to the new request.
    let (now, mut pcp) = mapped();
    let request = pcp.request(LIFETIME);
    pcp.release(now);
    pcp.handle_datagram(now, GATEWAY, &pcp_answer(&request, 0, HOUR, 100, OUTSIDE, 5000));
    assert!(!pcp.is_finished());
    pcp.handle_datagram(now, GATEWAY, &pcp_answer(&request, 0, 0, 100, OUTSIDE, 5000));
    assert!(pcp.is_finished());
}

#[test]
fn late_pcp_mapping_is_released_unless_same() {
    let kept = SocketAddrV4::new(OUTSIDE, 5000);
    for (port, is_given_back) in [(5000, false), (5001, true)] {
        let (now, mut pcp) = asking();
        let request = sent(&mut pcp);
        pcp.withdraw(now, Some(kept));
        assert!(!pcp.is_finished());
        pcp.handle_datagram(now, GATEWAY, &pcp_answer(&request, 0, HOUR, 1, OUTSIDE, port));
        pcp.handle_timeout(now);
        assert_eq!(pcp.poll_transmit().is_some(), is_given_back);
        assert_eq!(pcp.is_finished(), !is_given_back);
    }
    let (now, mut pcp) = asking();
    pcp.withdraw(now, Some(kept));
    pcp.handle_timeout(pcp.poll_timeout().unwrap());
    assert!(pcp.is_finished());
}

#[test]
fn pcp_epoch_detects_gateway_restart() {
    let start = Instant::now();
    for (elapsed, before, now, is_valid) in [
        (0, 100, 100, true),
        (0, 100, 99, true),
        (0, 100, 98, false),
        (0, 100, 102, true),
        (0, 100, 103, false),
        (1800, 100, 1900, true),
        (1800, 100, 1790, true),
        // The minimum is 1800 - 112 - 2.
        (1800, 100, 1786, true),
        (1800, 100, 1785, false),
        (1800, 100, 5, false),
        // 1922 - 120 - 2 are 1800.
        (1800, 100, 2022, true),
        (1800, 100, 2024, false),
    ] {
        let mut epoch = Epoch::default();
        assert!(epoch.is_valid_pcp(start, before));
        let found = epoch.is_valid_pcp(start + Duration::from_secs(elapsed), now);
        assert_eq!(found, is_valid, "{elapsed} {before} {now}");
    }
}

proptest! {
    #[test]
    fn pcp_survives_any_datagrams(data in simulation::any_datagrams(&[2, 0x81, 0, 0]), states in any::<u8>()) {
        let (now, mut pcp) = if states & 1 == 0 { asking() } else { mapped() };
        match states >> 1 & 3 {
            0 => pcp.release(now),
            1 => pcp.withdraw(now, None),
            2 => pcp.renew(now),
            _ => {}
        }
        for data in data {
            pcp.handle_datagram(now, GATEWAY, &data);
            prop_assert!(!matches!(pcp.poll_outcome(), Some(Outcome::Granted(_))));
        }
    }
}
