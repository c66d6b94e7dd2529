use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::client::Grant;
use crate::simulation::{self, GATEWAY, LOCAL, OUTSIDE, TARGET, natpmp_address, natpmp_mapping};

const HOUR: u32 = 3600;
const PORT: u16 = TARGET.internal_port;

fn asking() -> (Instant, NatPmp) {
    let now = Instant::now();
    let mut natpmp = NatPmp::new(now, TARGET);
    natpmp.handle_timeout(now);
    (now, natpmp)
}

fn sent(natpmp: &mut NatPmp) -> Vec<u8> {
    natpmp.poll_transmit().expect("a datagram").data
}

fn granted(port: u16) -> Outcome {
    let lifetime = Duration::from_secs(HOUR.into());
    Outcome::Granted(Grant { external: SocketAddrV4::new(OUTSIDE, port), lifetime })
}

/// A client that has requested the mapping.
fn mapping() -> (Instant, NatPmp) {
    let (now, mut natpmp) = asking();
    assert_eq!(sent(&mut natpmp), [0, 0]);
    natpmp.end_head_start(now);
    natpmp.handle_datagram(now, GATEWAY, &natpmp_address(0, 100, OUTSIDE));
    (now, natpmp)
}

fn mapped() -> (Instant, NatPmp) {
    let (now, mut natpmp) = mapping();
    let _ = sent(&mut natpmp);
    natpmp.handle_datagram(now, GATEWAY, &natpmp_mapping(0, 100, PORT, 5000, HOUR));
    assert_eq!(natpmp.poll_outcome(), Some(granted(5000)));
    (now, natpmp)
}

#[test]
fn natpmp_requests_match_rfc_6886() {
    let (_, mut natpmp) = mapping();
    let Transmit { to, from, data } = natpmp.poll_transmit().unwrap();
    assert_eq!((to, from), (GATEWAY.into(), Some(LOCAL.into())));
    assert_eq!(data, [0, 1, 0, 0, 0x9C, 0x40, 0x9C, 0x40, 0, 0, 0x0E, 0x10]);
    let (now, mut natpmp) = mapped();
    natpmp.release(now);
    natpmp.handle_timeout(now);
    assert_eq!(sent(&mut natpmp), [0, 1, 0, 0, 0x9C, 0x40, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn natpmp_mapping_waits_for_pcp_head_start() {
    let (now, mut natpmp) = asking();
    let _ = sent(&mut natpmp);
    natpmp.handle_datagram(now, GATEWAY, &natpmp_address(0, 100, OUTSIDE));
    assert_eq!(natpmp.poll_timeout(), Some(now + HEAD_START));
    natpmp.handle_timeout(now + HEAD_START - Duration::from_millis(1));
    assert!(natpmp.poll_transmit().is_none());
    natpmp.handle_timeout(now + HEAD_START);
    assert_eq!(sent(&mut natpmp)[..2], [0, 1]);
}

#[test]
fn natpmp_answer_must_match_gateway_and_port() {
    let (now, mut natpmp) = mapping();
    let answer = natpmp_mapping(0, 100, PORT, 5000, HOUR);
    natpmp.handle_datagram(now, SocketAddrV4::new(*GATEWAY.ip(), 5350), &answer);
    natpmp.handle_datagram(now, SocketAddrV4::new(LOCAL, 5351), &answer);
    natpmp.handle_datagram(now, GATEWAY, &natpmp_mapping(0, 100, PORT + 1, 5000, HOUR));
    // The answer of a gateway that supports only NAT-PMP to a PCP request.
    natpmp.handle_datagram(now, GATEWAY, &[0, 0x81, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
    for len in 0..answer.len() {
        natpmp.handle_datagram(now, GATEWAY, &answer[..len]);
    }
    assert_eq!(natpmp.poll_outcome(), None);
    natpmp.handle_datagram(now, GATEWAY, &answer);
    assert_eq!(natpmp.poll_outcome(), Some(granted(5000)));
}

#[test]
fn private_external_address_stops_natpmp_request() {
    for ip in [Ipv4Addr::new(192, 168, 0, 3), Ipv4Addr::new(100, 127, 0, 1), Ipv4Addr::UNSPECIFIED] {
        let (now, mut natpmp) = asking();
        let _ = sent(&mut natpmp);
        natpmp.end_head_start(now);
        natpmp.handle_datagram(now, GATEWAY, &natpmp_address(0, 100, ip));
        assert_eq!(natpmp.poll_outcome(), Some(Outcome::Failed(Failure::DoubleNat(ip))));
        assert!(natpmp.poll_transmit().is_none() && natpmp.is_finished());
    }
}

#[test]
fn natpmp_refusals_end_the_request() {
    let (now, mut natpmp) = asking();
    natpmp.handle_datagram(now, GATEWAY, &natpmp_address(3, 100, OUTSIDE));
    assert_eq!(natpmp.poll_outcome(), Some(Outcome::Failed(Failure::Refused)));
    assert!(natpmp.is_finished());
    // An error may end after the port.
    let (now, mut natpmp) = mapping();
    natpmp.handle_datagram(now, GATEWAY, &natpmp_mapping(4, 100, PORT, 0, 0)[..10]);
    assert_eq!(natpmp.poll_outcome(), Some(Outcome::Failed(Failure::Refused)));
    assert!(natpmp.is_finished());
    let (now, mut natpmp) = mapping();
    natpmp.handle_datagram(now, GATEWAY, &natpmp_mapping(0, 100, PORT, 80, HOUR));
    assert_eq!(natpmp.poll_outcome(), Some(Outcome::Failed(Failure::Refused)));
    natpmp.handle_timeout(now);
    assert_eq!(sent(&mut natpmp)[8..], [0; 4], "given back");
}

#[test]
fn natpmp_renewal_queries_address_and_mapping() {
    let (now, mut natpmp) = mapped();
    assert_eq!(natpmp.poll_timeout(), None);
    let now = now + Duration::from_secs(1800);
    natpmp.renew(now);
    natpmp.handle_timeout(now);
    assert_eq!(sent(&mut natpmp), [0, 0]);
    let elsewhere = Ipv4Addr::new(203, 0, 113, 99);
    natpmp.handle_datagram(now, GATEWAY, &natpmp_address(0, 1900, elsewhere));
    assert_eq!(sent(&mut natpmp)[6..8], 5000_u16.to_be_bytes(), "the present port");
    natpmp.handle_datagram(now, GATEWAY, &natpmp_mapping(0, 1900, PORT, 5000, HOUR));
    let Some(Outcome::Granted(grant)) = natpmp.poll_outcome() else { panic!("granted") };
    assert_eq!(grant.external, SocketAddrV4::new(elsewhere, 5000));
    // The gateway refuses after its epoch was reset.
    natpmp.renew(now);
    natpmp.handle_datagram(now, GATEWAY, &natpmp_address(0, 1900, OUTSIDE));
    natpmp.handle_datagram(now, GATEWAY, &natpmp_mapping(4, 5, PORT, 0, 0));
    assert_eq!(natpmp.poll_outcome(), Some(Outcome::Failed(Failure::StateLost)));
}

#[test]
fn natpmp_releases_only_requested_mappings() {
    let (now, mut natpmp) = asking();
    let _ = sent(&mut natpmp);
    natpmp.withdraw(now, None);
    assert!(natpmp.is_finished());
    let (now, mut natpmp) = mapping();
    natpmp.release(now);
    natpmp.handle_timeout(now);
    assert_eq!(sent(&mut natpmp)[8..], [0; 4]);
    natpmp.handle_datagram(now, GATEWAY, &natpmp_mapping(0, 100, PORT, 5000, HOUR));
    assert!(!natpmp.is_finished(), "the answer to an earlier request");
    natpmp.handle_datagram(now, GATEWAY, &natpmp_mapping(0, 100, PORT, 0, 0));
    assert!(natpmp.is_finished());
}

#[test]
fn late_natpmp_mapping_is_released_unless_same() {
    for (port, is_given_back) in [(5000, false), (5001, true)] {
        let (now, mut natpmp) = mapping();
        let _ = sent(&mut natpmp);
        natpmp.withdraw(now, Some(SocketAddrV4::new(OUTSIDE, 5000)));
        assert!(!natpmp.is_finished() && natpmp.poll_timeout().is_some());
        natpmp.handle_datagram(now, GATEWAY, &natpmp_mapping(0, 100, PORT, port, HOUR));
        assert_eq!(natpmp.poll_transmit().is_some(), is_given_back);
        assert_eq!(natpmp.is_finished(), !is_given_back);
    }
}

#[test]
fn natpmp_epoch_detects_gateway_restart() {
    let start = Instant::now();
    for (elapsed, before, now, is_valid) in [
        (0, 100, 98, true),
        (0, 100, 97, false),
        (0, 100, 9000, true),
        // 100 + 1575 - 2.
        (1800, 100, 1673, true),
        (1800, 100, 1672, false),
        (1800, 100, 5, false),
    ] {
        let mut epoch = Epoch::default();
        assert!(epoch.is_valid_natpmp(start, before));
        let found = epoch.is_valid_natpmp(start + Duration::from_secs(elapsed), now);
        assert_eq!(found, is_valid, "{elapsed} {before} {now}");
    }
}

proptest! {
    #[test]
    fn natpmp_survives_any_datagrams(data in simulation::any_datagrams(&[0, 0x81, 0, 0]), states in any::<u8>()) {
        let (now, mut natpmp) = match states & 3 { 0 => asking(), 1 => mapping(), _ => mapped() };
        match states >> 2 & 3 {
            0 => natpmp.release(now),
            1 => natpmp.withdraw(now, None),
            2 => natpmp.renew(now),
            _ => {}
        }
        for data in data {
            natpmp.handle_datagram(now, GATEWAY, &data);
            if let Some(Outcome::Granted(grant)) = natpmp.poll_outcome() {
                prop_assert!(grant.external.port() >= 1024 && is_public(*grant.external.ip()));
            }
        }
    }
}
