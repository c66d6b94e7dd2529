use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn link(number: u32, carrier: Carrier, at: Instant, took: Duration) -> Proven {
    let rtt = (carrier == Carrier::Udp).then_some(took);
    Proven { link: LinkId(number), carrier, at, took, rtt }
}

fn tcp(at: Instant, took: Duration) -> Proven {
    link(1, Carrier::Tcp, at, took)
}

fn quic(at: Instant, took: Duration) -> Proven {
    link(2, Carrier::Udp, at, took)
}

const TCP: Verdict = Verdict::Take(LinkId(1));
const QUIC: Verdict = Verdict::Take(LinkId(2));

#[test]
fn plain_tcp_comes_first_where_it_is_as_near() {
    let now = Instant::now();
    let choice = Choice::new();
    assert_eq!(choice.judge(now, None, &[], true), Verdict::Nothing);
    assert_eq!(choice.judge(now, None, &[tcp(now, 500 * MS)], true), TCP);
    assert_eq!(choice.judge(now, None, &[quic(now, MS), tcp(now, 52 * MS)], false), TCP);
    assert_eq!(choice.judge(now, None, &[quic(now, MS), tcp(now, 53 * MS)], false), QUIC);
    let nearer = Proven { link: LinkId(3), ..quic(now, MS) };
    assert_eq!(choice.judge(now, None, &[quic(now, 2 * MS), nearer], false), Verdict::Take(LinkId(3)));
}

#[test]
fn quic_waits_a_moment_for_tcp_that_is_on_its_way() {
    let now = Instant::now();
    let choice = Choice::new();
    let proven = [quic(now, MS)];
    assert_eq!(choice.judge(now, None, &proven, true), Verdict::Wait(now + GRACE));
    assert_eq!(choice.judge(now + GRACE, None, &proven, true), QUIC);
    assert_eq!(choice.judge(now, None, &proven, false), QUIC);
}

#[test]
fn beside_a_path_only_what_is_nearer_counts() {
    let now = Instant::now();
    let choice = Choice::new();
    let present = |carrier, took| link(9, carrier, now, took);
    let judge = |present, found| choice.judge(now, Some(&present), &[found], false);
    assert_eq!(judge(present(Carrier::Udp, 20 * MS), quic(now, 11 * MS)), QUIC);
    assert_eq!(judge(present(Carrier::Udp, 20 * MS), quic(now, 12 * MS)), Verdict::Nothing);
    // Where all is near, a millisecond is noise.
    assert_eq!(judge(present(Carrier::Tcp, 2 * MS), tcp(now, Duration::ZERO)), Verdict::Nothing);
    assert_eq!(judge(present(Carrier::Tcp, 20 * MS), tcp(now, MS)), TCP);
    // Neither is better than the other by one rule and worse by another.
    assert_eq!(judge(present(Carrier::Tcp, 52 * MS), quic(now, MS)), Verdict::Nothing);
    assert_eq!(judge(present(Carrier::Tcp, 53 * MS), quic(now, MS)), QUIC);
    // The own network is worth more than the way through the router, and a slow one is not.
    assert_eq!(judge(present(Carrier::Udp, MS), tcp(now, 52 * MS)), TCP);
    assert_eq!(judge(present(Carrier::Udp, MS), tcp(now, 53 * MS)), Verdict::Nothing);
}

#[test]
fn tcp_that_fell_silent_is_avoided() {
    let now = Instant::now();
    let mut choice = Choice::new();
    choice.handle_lost(false);
    assert_eq!(choice.judge(now, None, &[quic(now, MS), tcp(now, MS)], false), TCP);
    choice.handle_lost(true);
    assert_eq!(choice.judge(now, None, &[quic(now, MS), tcp(now, MS)], false), QUIC);
    assert_eq!(choice.judge(now, None, &[quic(now, MS)], true), QUIC);
    assert_eq!(choice.judge(now, Some(&link(9, Carrier::Udp, now, MS)), &[tcp(now, MS)], false), Verdict::Nothing);
    // There may be nothing else.
    assert_eq!(choice.judge(now, None, &[tcp(now, MS)], false), TCP);
}

/// A link that carries, looked at every second.
struct Run {
    now: Instant,
    choice: Choice,
    arrived: u64,
}

impl Run {
    fn on(carrier: Carrier) -> Self {
        let now = Instant::now();
        let mut choice = Choice::new();
        choice.handle_chosen(now, carrier);
        Self { now, choice, arrived: 0 }
    }

    /// So many bytes arrive each second; after how many seconds the other carrier is sought.
    fn seeks_after(&mut self, rate: u64, is_held_back: bool, seconds: u32) -> Option<u32> {
        (1..=seconds).find(|_| {
            self.now += SECOND;
            assert_eq!(self.choice.poll_timeout(), Some(self.now));
            self.arrived += rate;
            self.choice.measure(self.now, self.arrived, is_held_back)
        })
    }

    fn move_to(&mut self, carrier: Carrier) {
        self.choice.handle_chosen(self.now, carrier);
        self.arrived = 0;
    }

    /// What is taken of both.
    fn takes(&self) -> Verdict {
        self.choice.judge(self.now, Some(&tcp(self.now, MS)), &[quic(self.now, MS), tcp(self.now, MS)], false)
    }
}

#[test]
fn tcp_that_holds_the_transfer_back_is_compared_with_quic() {
    let mut run = Run::on(Carrier::Tcp);
    assert_eq!(run.seeks_after(1_000_000, true, 60), Some(5));
    assert_eq!(run.takes(), QUIC);
    run.move_to(Carrier::Udp);
    assert_eq!(run.seeks_after(1_200_000, true, 3600), None);
    // And is avoided from then on.
    assert_eq!(run.choice.judge(run.now, None, &[quic(run.now, MS), tcp(run.now, MS)], false), QUIC);
}

#[test]
fn what_moves_no_more_is_left_again_and_not_tried_soon() {
    let mut run = Run::on(Carrier::Tcp);
    for pause in [AGAIN, AGAIN * 2, AGAIN * 4] {
        assert!(run.seeks_after(1_000_000, true, 60).is_some());
        run.move_to(Carrier::Udp);
        // The slow start of the new link does not count.
        assert_eq!(run.seeks_after(0, true, 1), None);
        assert_eq!(run.seeks_after(1_050_000, true, 60), Some(5));
        assert_eq!(run.takes(), TCP);
        run.move_to(Carrier::Tcp);
        let quiet = u32::try_from(pause.as_secs()).unwrap() - 1;
        assert_eq!(run.seeks_after(1_000_000, true, quiet), None);
    }
}

#[test]
fn nothing_is_compared_where_tcp_is_fast_or_not_what_holds_the_transfer_back() {
    let mut run = Run::on(Carrier::Tcp);
    assert_eq!(run.seeks_after(FAST, true, 60), None);
    assert_eq!(run.seeks_after(1000, false, 60), None);
    // A moment of it is not enough.
    assert_eq!(run.seeks_after(1000, true, 3), None);
    assert_eq!(run.seeks_after(1000, false, 1), None);
    assert_eq!(run.seeks_after(1000, true, 3), None);
    let mut run = Run::on(Carrier::Udp);
    assert_eq!(run.seeks_after(1000, true, 60), None);
}

#[test]
fn where_quic_is_not_found_tcp_goes_on() {
    let mut run = Run::on(Carrier::Tcp);
    assert!(run.seeks_after(1000, true, 60).is_some());
    assert_eq!(run.seeks_after(1000, true, 10), None);
    run.choice.handle_not_found(run.now);
    assert_eq!(run.seeks_after(1000, true, 60), None);
    assert!(run.seeks_after(1000, true, 60).is_some());
}

#[test]
fn without_a_path_nothing_is_measured() {
    let mut run = Run::on(Carrier::Tcp);
    run.choice.handle_lost(false);
    assert_eq!(run.choice.poll_timeout(), None);
    assert!(!run.choice.measure(run.now + WATCH * 2, 0, true));
}
