use super::*;
use crate::wire::BoundedVec;

fn bye(n: u32) -> Control {
    Control::Verified { transfer: n, root: [0; 32] }
}

fn ack(credit: u32) -> Control {
    Control::Ack { transfer: 1, ranges: BoundedVec::default(), credit }
}

fn all(reliable: &mut Reliable) -> Vec<(u64, Control)> {
    std::iter::from_fn(|| reliable.next(|sequence, message| Some((sequence, message.clone())))).collect()
}

fn with(messages: u32) -> Reliable {
    let mut reliable = Reliable::default();
    (1..=messages).for_each(|n| reliable.push(bye(n)).unwrap());
    reliable
}

#[test]
fn sequence_starts_at_one_and_skips_losable_messages() {
    let mut reliable = with(2);
    reliable.push(ack(7)).unwrap();
    assert!(!reliable.is_idle());
    assert_eq!(all(&mut reliable), [(1, bye(1)), (2, bye(2)), (0, ack(7))]);
    assert!(reliable.is_idle());
    assert_eq!(reliable.unacknowledged(), 2, "the losable one is not kept");
}

#[test]
fn unacknowledged_messages_are_resent_on_another_link() {
    let mut reliable = with(4);
    assert_eq!(all(&mut reliable).len(), 4);
    reliable.handle_ack(2).unwrap();
    assert_eq!(all(&mut reliable), []);
    reliable.rewind();
    assert_eq!(reliable.next(|sequence, _| Some(sequence)), Some(3));
    // An ack for a message that was sent on the old link, after a part of the messages was sent again.
    reliable.handle_ack(4).unwrap();
    reliable.push(bye(5)).unwrap();
    assert_eq!(all(&mut reliable), [(5, bye(5))]);
}

#[test]
fn ack_during_sending_skips_no_message() {
    let mut reliable = with(5);
    for _ in 0..3 {
        reliable.next(|_, _| Some(())).unwrap();
    }
    reliable.handle_ack(2).unwrap();
    assert_eq!(all(&mut reliable), [(4, bye(4)), (5, bye(5))]);
}

#[test]
fn an_ack_of_unsent_messages_is_refused_and_a_late_one_ignored() {
    let mut reliable = with(3);
    assert_eq!(reliable.handle_ack(1), Err(Violation::AckedUnsent));
    reliable.next(|_, _| Some(())).unwrap();
    reliable.next(|_, _| Some(())).unwrap();
    assert_eq!(reliable.handle_ack(3), Err(Violation::AckedUnsent));
    assert_eq!(reliable.handle_ack(u64::MAX), Err(Violation::AckedUnsent));
    reliable.handle_ack(2).unwrap();
    reliable.handle_ack(1).unwrap();
    assert_eq!(all(&mut reliable), [(3, bye(3))]);
}

#[test]
fn a_sequence_is_taken_once_and_a_gap_is_a_violation() {
    let mut reliable = Reliable::default();
    assert_eq!(reliable.handle_sequence(2), Err(Violation::ControlGap));
    assert_eq!(reliable.handle_sequence(1), Ok(true));
    assert_eq!(reliable.handle_sequence(1), Ok(false));
    assert_eq!(reliable.handle_sequence(3), Err(Violation::ControlGap));
    assert_eq!(reliable.handle_sequence(u64::MAX), Err(Violation::ControlGap));
    assert_eq!(reliable.handle_sequence(2), Ok(true));
    assert_eq!(reliable.take_ack(), 2);
}

#[test]
fn both_queues_are_bounded_and_return_refused_messages() {
    let mut reliable = with(u32::try_from(WAITING).unwrap());
    assert!(!reliable.has_room());
    assert_eq!(reliable.push(bye(9)), Err(Unsent::Full(bye(9))));
    assert_eq!(all(&mut reliable).len(), WAITING);
    assert!(!reliable.has_room(), "sent is not acknowledged");
    reliable.handle_ack(1).unwrap();
    assert!(reliable.has_room());
    for n in 0..LOOSE {
        reliable.push(ack(n as u32)).unwrap();
    }
    assert!(!reliable.has_room());
    assert_eq!(reliable.push(ack(99)), Err(Unsent::Full(ack(99))));
    reliable.next(|_, _| Some(())).unwrap();
    assert!(reliable.has_room());
}

#[test]
fn session_owned_messages_are_refused() {
    for own in [
        Control::Sync,
        Control::KeepAlive { lanes: BoundedVec::default(), reading: true },
        Control::Bind { nonce: [0; 16], echo: None },
    ] {
        assert_eq!(Reliable::default().push(own.clone()), Err(Unsent::SessionOwned(own)));
    }
}

#[test]
fn ack_is_due_after_message_limit() {
    let mut reliable = Reliable::default();
    for n in 1..=ACK_AFTER {
        assert!(!reliable.owes_ack());
        reliable.handle_sequence(n).unwrap();
    }
    assert!(reliable.owes_ack());
    reliable.take_ack();
    assert!(!reliable.owes_ack());
}

#[test]
fn a_losable_message_does_not_overtake_earlier_messages() {
    let ack = || Control::Ack { transfer: 1, ranges: crate::wire::BoundedVec::default(), credit: 9 };
    let mut reliable = Reliable::default();
    reliable.push(Control::Bye).unwrap();
    reliable.push(ack()).unwrap();
    let said = |reliable: &mut Reliable| reliable.next(|sequence, message| Some((sequence, message.clone())));
    assert_eq!(said(&mut reliable), Some((1, Control::Bye)));
    // The link is lost before the second message was sent; on the next link the first message is sent first.
    reliable.rewind();
    assert_eq!(said(&mut reliable), Some((1, Control::Bye)));
    assert_eq!(said(&mut reliable), Some((0, ack())));
    assert_eq!(said(&mut reliable), None);
}
