use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn link(number: u32, transport: CandidateTransport, at: Instant, took: Duration) -> ValidatedPath {
    let rtt = (transport == CandidateTransport::Udp).then_some(took);
    ValidatedPath { link: LinkId(number), transport, at, took, rtt }
}

fn tcp(at: Instant, took: Duration) -> ValidatedPath {
    link(1, CandidateTransport::Tcp, at, took)
}

fn quic(at: Instant, took: Duration) -> ValidatedPath {
    link(2, CandidateTransport::Udp, at, took)
}

const TCP: Selection = Selection::Take(LinkId(1));
const QUIC: Selection = Selection::Take(LinkId(2));

#[test]
fn tcp_is_preferred_at_similar_round_trip_time() {
    let now = Instant::now();
    let choice = PathSelector::new();
    assert_eq!(choice.judge(now, None, &[], true), Selection::Nothing);
    assert_eq!(choice.judge(now, None, &[tcp(now, 500 * MS)], true), TCP);
    assert_eq!(choice.judge(now, None, &[quic(now, MS), tcp(now, 52 * MS)], false), TCP);
    assert_eq!(choice.judge(now, None, &[quic(now, MS), tcp(now, 53 * MS)], false), QUIC);
    let nearer = ValidatedPath { link: LinkId(3), ..quic(now, MS) };
    assert_eq!(choice.judge(now, None, &[quic(now, 2 * MS), nearer], false), Selection::Take(LinkId(3)));
}

#[test]
fn quic_waits_grace_period_for_pending_tcp() {
    let now = Instant::now();
    let choice = PathSelector::new();
    let proven = [quic(now, MS)];
    assert_eq!(choice.judge(now, None, &proven, true), Selection::Wait(now + GRACE));
    assert_eq!(choice.judge(now + GRACE, None, &proven, true), QUIC);
    assert_eq!(choice.judge(now, None, &proven, false), QUIC);
}

#[test]
fn path_is_replaced_only_by_nearer_one() {
    let now = Instant::now();
    let choice = PathSelector::new();
    let present = |transport, took| link(9, transport, now, took);
    let judge = |present, found| choice.judge(now, Some(&present), &[found], false);
    assert_eq!(judge(present(CandidateTransport::Udp, 20 * MS), quic(now, 11 * MS)), QUIC);
    assert_eq!(judge(present(CandidateTransport::Udp, 20 * MS), quic(now, 12 * MS)), Selection::Nothing);
    // On short paths a millisecond of difference is noise.
    assert_eq!(judge(present(CandidateTransport::Tcp, 2 * MS), tcp(now, Duration::ZERO)), Selection::Nothing);
    assert_eq!(judge(present(CandidateTransport::Tcp, 20 * MS), tcp(now, MS)), TCP);
    // The two rules do not contradict each other.
    assert_eq!(judge(present(CandidateTransport::Tcp, 52 * MS), quic(now, MS)), Selection::Nothing);
    assert_eq!(judge(present(CandidateTransport::Tcp, 53 * MS), quic(now, MS)), QUIC);
    // A link in the own network is better than one through the router, unless it is slow.
    assert_eq!(judge(present(CandidateTransport::Udp, MS), tcp(now, 52 * MS)), TCP);
    assert_eq!(judge(present(CandidateTransport::Udp, MS), tcp(now, 53 * MS)), Selection::Nothing);
}

#[test]
fn tcp_that_fell_silent_is_avoided() {
    let now = Instant::now();
    let mut choice = PathSelector::new();
    choice.handle_lost(false);
    assert_eq!(choice.judge(now, None, &[quic(now, MS), tcp(now, MS)], false), TCP);
    choice.handle_lost(true);
    assert_eq!(choice.judge(now, None, &[quic(now, MS), tcp(now, MS)], false), QUIC);
    assert_eq!(choice.judge(now, None, &[quic(now, MS)], true), QUIC);
    assert_eq!(
        choice.judge(now, Some(&link(9, CandidateTransport::Udp, now, MS)), &[tcp(now, MS)], false),
        Selection::Nothing
    );
    // There may be no other link.
    assert_eq!(choice.judge(now, None, &[tcp(now, MS)], false), TCP);
}

/// An active link that is measured every second.
struct Run {
    now: Instant,
    choice: PathSelector,
    arrived: u64,
}

impl Run {
    fn on(transport: CandidateTransport) -> Self {
        let now = Instant::now();
        let mut choice = PathSelector::new();
        choice.handle_chosen(now, transport);
        Self { now, choice, arrived: 0 }
    }

    /// Delivers `rate` bytes each second. Returns after how many seconds the selector seeks the other transport.
    fn seeks_after(&mut self, rate: u64, is_held_back: bool, seconds: u32) -> Option<u32> {
        (1..=seconds).find(|_| {
            self.now += SECOND;
            assert_eq!(self.choice.poll_timeout(), Some(self.now));
            self.arrived += rate;
            self.choice.measure(self.now, self.arrived, is_held_back)
        })
    }

    fn move_to(&mut self, transport: CandidateTransport) {
        self.choice.handle_chosen(self.now, transport);
        self.arrived = 0;
    }

    /// The selection among both transports.
    fn takes(&self) -> Selection {
        self.choice.judge(self.now, Some(&tcp(self.now, MS)), &[quic(self.now, MS), tcp(self.now, MS)], false)
    }
}

#[test]
fn tcp_that_holds_the_transfer_back_is_compared_with_quic() {
    let mut run = Run::on(CandidateTransport::Tcp);
    assert_eq!(run.seeks_after(1_000_000, true, 60), Some(5));
    assert_eq!(run.takes(), QUIC);
    run.move_to(CandidateTransport::Udp);
    assert_eq!(run.seeks_after(1_200_000, true, 3600), None);
    // TCP is avoided from then on.
    assert_eq!(run.choice.judge(run.now, None, &[quic(run.now, MS), tcp(run.now, MS)], false), QUIC);
}

#[test]
fn path_without_gain_is_left_and_not_retried_soon() {
    let mut run = Run::on(CandidateTransport::Tcp);
    for pause in [AGAIN, AGAIN * 2, AGAIN * 4] {
        assert!(run.seeks_after(1_000_000, true, 60).is_some());
        run.move_to(CandidateTransport::Udp);
        // The slow start of the new link is not measured.
        assert_eq!(run.seeks_after(0, true, 1), None);
        assert_eq!(run.seeks_after(1_050_000, true, 60), Some(5));
        assert_eq!(run.takes(), TCP);
        run.move_to(CandidateTransport::Tcp);
        let quiet = u32::try_from(pause.as_secs()).unwrap() - 1;
        assert_eq!(run.seeks_after(1_000_000, true, quiet), None);
    }
}

#[test]
fn a_tcp_path_is_not_compared_unless_it_limits_the_transfer() {
    let mut run = Run::on(CandidateTransport::Tcp);
    assert_eq!(run.seeks_after(FAST, true, 60), None);
    assert_eq!(run.seeks_after(1000, false, 60), None);
    // A short period of low speed is not sufficient.
    assert_eq!(run.seeks_after(1000, true, 3), None);
    assert_eq!(run.seeks_after(1000, false, 1), None);
    assert_eq!(run.seeks_after(1000, true, 3), None);
    let mut run = Run::on(CandidateTransport::Udp);
    assert_eq!(run.seeks_after(1000, true, 60), None);
}

#[test]
fn tcp_path_is_kept_if_no_quic_path_is_found() {
    let mut run = Run::on(CandidateTransport::Tcp);
    assert!(run.seeks_after(1000, true, 60).is_some());
    assert_eq!(run.seeks_after(1000, true, 10), None);
    run.choice.handle_not_found(run.now);
    assert_eq!(run.seeks_after(1000, true, 60), None);
    assert!(run.seeks_after(1000, true, 60).is_some());
}

#[test]
fn a_selector_without_a_path_measures_nothing() {
    let mut run = Run::on(CandidateTransport::Tcp);
    run.choice.handle_lost(false);
    assert_eq!(run.choice.poll_timeout(), None);
    assert!(!run.choice.measure(run.now + WATCH * 2, 0, true));
}
