//! Event channels under several CPUs, in every order: an event arrives where its sender is connected or nowhere, ends of one
//! connection agree, nobody waits for ever, and no vCPU sleeps over an event.
#![forbid(unsafe_code)]

use dom0_abi::ids::{Port, VcpuId};
use interleavings::event::word::{Binding, PortState};
use interleavings::event::{Domain, Pair, connect};
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

const P: Port = Port::new(1);
const Q: Port = Port::new(2);

/// The orders in which a CPU is interrupted so often at most.
const FEW: Option<usize> = Some(3);

fn check(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

/// Two domains, whose ports P and Q are connected.
fn pair() -> Pair {
    let pair = Pair([Domain::new(1), Domain::new(2)]);
    connect((&pair.0[0], P), (&pair.0[1], Q));
    pair
}

/// Runs closures at the same time, the first on this thread, and returns what they do.
fn race<T, R, const N: usize>(what: &Arc<T>, cpus: [fn(&T) -> R; N]) -> [R; N]
where
    T: Send + Sync + 'static,
    R: Send + 'static,
{
    let [first, others @ ..] = &cpus[..] else {
        unreachable!()
    };
    let others: Vec<_> = others
        .iter()
        .map(|&cpu| {
            let what = what.clone();
            thread::spawn(move || cpu(&what))
        })
        .collect();
    let mut results = vec![first(what)];
    results.extend(others.into_iter().map(|other| other.join().unwrap()));
    results.try_into().ok().unwrap()
}

fn send(pair: &Pair) -> bool {
    pair.send(&pair.0[0], P)
}

/// Closes the receiving end and gives its number to somebody else.
fn close_and_reuse(pair: &Pair) -> bool {
    let domain = &pair.0[1];
    let closed = pair.close(domain, Q);
    domain.cell(Q).publish(Binding::first(PortState::Ipi));
    closed
}

#[test]
fn i22_no_event_reaches_a_port_that_is_somebody_elses_by_then() {
    check(FEW, || {
        let pair = Arc::new(pair());
        let [_, closed] = race(&pair, [send, close_and_reuse]);
        assert!(closed);
        let [a, b] = &pair.0;
        assert!(!b.is_pending(Q), "an event for who had the number before");
        assert_eq!(b.state(Q), PortState::Ipi);
        assert_eq!(a.state(P), PortState::Unbound { remote: b.id });
    });
}

#[test]
#[should_panic(expected = "an event for who had the number before")]
fn i22_which_a_sender_that_holds_nothing_would_break() {
    check(FEW, || {
        let pair = Arc::new(pair());
        race(
            &pair,
            [|pair| pair.send_unheld(&pair.0[0], P), close_and_reuse],
        );
        let told = "an event for who had the number before";
        assert!(!pair.0[1].is_pending(Q), "{told}");
    });
}

#[test]
fn i22_the_senders_own_end_is_closed_and_given_to_another() {
    check(FEW, || {
        let pair = Arc::new(pair());
        let [_, closed] = race(
            &pair,
            [send, |pair| {
                let domain = &pair.0[0];
                let closed = pair.close(domain, P);
                // From now on the other end may be closed without waiting for anybody.
                pair.close(&pair.0[1], Q);
                closed
            }],
        );
        assert!(closed);
        assert!(!pair.0[1].is_pending(Q));
        assert_eq!(
            pair.0.each_ref().map(|d| (d.state(P), d.state(Q))),
            [(PortState::Free, PortState::Free); 2]
        );
    });
}

#[test]
fn i22_both_ends_close_at_once() {
    check(FEW, || {
        let pair = Arc::new(pair());
        let closed = race(
            &pair,
            [
                |pair| pair.close(&pair.0[0], P),
                |pair| pair.close(&pair.0[1], Q),
            ],
        );
        assert_eq!(closed, [true, true]);
        assert_eq!(pair.0[0].state(P), PortState::Free);
        assert_eq!(pair.0[1].state(Q), PortState::Free);
    });
}

#[test]
fn i22_one_port_is_closed_once() {
    check(FEW, || {
        let pair = Arc::new(pair());
        let closed = race(
            &pair,
            [
                |pair| pair.close(&pair.0[0], P),
                |pair| pair.close(&pair.0[0], P),
            ],
        );
        assert_eq!(closed.map(usize::from).iter().sum::<usize>(), 1);
    });
}

#[test]
fn i22_a_port_is_connected_while_it_is_closed() {
    check(FEW, || {
        let pair = Arc::new(Pair([Domain::new(1), Domain::new(2)]));
        let remote = pair.0[0].id;
        let offered = Binding::first(PortState::Unbound { remote });
        pair.0[1].cell(Q).publish(offered);
        let [bound, closed] = race(
            &pair,
            [
                |pair| pair.bind(&pair.0[0], P, (&pair.0[1], Q)),
                |pair| pair.close(&pair.0[1], Q),
            ],
        );
        assert!(closed);
        assert_eq!(pair.0[1].state(Q), PortState::Free);
        let [a, b] = &pair.0;
        let expected = match bound {
            true => PortState::Unbound { remote: b.id },
            false => PortState::Free,
        };
        assert_eq!((a.state(P), a.is_pending(P)), (expected, bound));
    });
}

#[test]
fn i22_two_connect_to_one_port() {
    check(FEW, || {
        let pair = Arc::new(Pair([Domain::new(1), Domain::new(2)]));
        let remote = pair.0[0].id;
        let offered = Binding::first(PortState::Unbound { remote });
        pair.0[1].cell(Q).publish(offered);
        let bound = race(
            &pair,
            [
                |pair| pair.bind(&pair.0[0], P, (&pair.0[1], Q)),
                |pair| pair.bind(&pair.0[0], Q, (&pair.0[1], Q)),
            ],
        );
        assert_ne!(bound[0], bound[1]);
        let port = if bound[0] { P } else { Q };
        let expected = PortState::Interdomain { remote, port };
        assert_eq!(pair.0[1].state(Q), expected);
    });
}

#[test]
fn who_is_told_changes_under_a_send() {
    check(FEW, || {
        let pair = Arc::new(pair());
        let done = race(&pair, [send, |pair| pair.0[0].cell(P).tell(VcpuId::new(5))]);
        assert_eq!(done, [true, true]);
        // Nobody holds it any more, and it is what it was.
        assert!(pair.close(&pair.0[1], Q));
        let [a, b] = &pair.0;
        let remote = b.id;
        assert_eq!(a.cell(P).binding(), told_5(PortState::Unbound { remote }));
    });
}

#[test]
fn who_is_told_changes_under_a_close() {
    check(FEW, || {
        let pair = Arc::new(pair());
        let done = race(
            &pair,
            [
                |pair| pair.0[0].cell(P).tell(VcpuId::new(5)),
                |pair| pair.close(&pair.0[1], Q),
            ],
        );
        assert_eq!(done, [true, true]);
        let [a, b] = &pair.0;
        let remote = b.id;
        assert_eq!(a.cell(P).binding(), told_5(PortState::Unbound { remote }));
    });
}

fn told_5(state: PortState) -> Binding {
    Binding {
        state,
        vcpu: VcpuId::new(5),
    }
}

#[test]
fn an_event_that_comes_while_it_is_unmasked_is_told_once() {
    check(None, || {
        let domain = Arc::new(Domain::new(1));
        domain.mask(P);
        let told = race(
            &domain,
            [|domain| domain.deliver(P).0, |domain| domain.unmask(P)],
        );
        assert_eq!(told.iter().sum::<usize>(), 1);
        assert_eq!(domain.left(), (1 << P.get(), true));
    });
}

#[test]
fn a_kernel_misses_none_of_two_events() {
    check(FEW, || {
        let domain = Arc::new(Domain::new(1));
        let [taken, ..] = race(
            &domain,
            [
                |domain| domain.take(),
                |domain| domain.deliver(P).0 as u64,
                |domain| domain.deliver(Q).0 as u64,
            ],
        );
        let (left, is_told) = domain.left();
        assert_eq!(taken | left, 1 << P.get() | 1 << Q.get());
        assert_eq!(taken & left, 0);
        assert!(left == 0 || is_told, "it sleeps over {left:#x}");
    });
}

#[test]
fn a_poll_does_not_sleep_over_a_masked_event() {
    check(None, || {
        let domain = Arc::new(Domain::new(1));
        domain.mask(P);
        let [sleeps, kicked] = race(
            &domain,
            [|domain| domain.poll(P), |domain| domain.deliver(P).1 > 0],
        );
        assert!(!sleeps || kicked, "nobody wakes it");
    });
}
