//! Queues of the FIFO form under several CPUs, in every order: an event is found, once, and nobody sleeps over it.
#![forbid(unsafe_code)]

use dom0_abi::ids::Port;
use interleavings::fifo::FifoDomain;
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

const P: Port = Port::new(1);
const Q: Port = Port::new(2);
const R: Port = Port::new(3);

const fn bit(port: Port) -> u64 {
    1 << port.get()
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Two senders and a kernel; then what is left is taken, on whichever vCPU it is.
fn race(
    domain: FifoDomain,
    senders: [fn(&FifoDomain) -> bool; 2],
    kernel: u32,
) -> (Arc<FifoDomain>, [bool; 2], u64) {
    let domain = Arc::new(domain);
    let senders = senders.map(|send| {
        let domain = domain.clone();
        thread::spawn(move || send(&domain))
    });
    let found = domain.drain(kernel);
    let told = senders.map(|sender| sender.join().unwrap());
    (domain, told, found)
}

#[test]
fn a_kernel_finds_each_of_two_events_once() {
    check(3, || {
        let senders: [fn(&FifoDomain) -> bool; 2] =
            [|domain| domain.send(P, 0), |domain| domain.send(Q, 0)];
        let (domain, told, found) = race(FifoDomain::new(), senders, 0);
        let left = domain.drain(0);
        assert_eq!(found | left, bit(P) | bit(Q));
        assert_eq!(found & left, 0);
        assert!(told.contains(&true));
        assert_eq!((domain.pending(), domain.drain(0)), (0, 0));
    });
}

/// The tail is what the senders link to, and what the kernel takes out meanwhile.
#[test]
fn a_queue_that_ends_while_two_link_to_its_tail_loses_nothing() {
    check(3, || {
        let domain = FifoDomain::new();
        assert!(domain.send(R, 0));
        let senders: [fn(&FifoDomain) -> bool; 2] =
            [|domain| domain.send(P, 0), |domain| domain.send(Q, 0)];
        let (domain, _, found) = race(domain, senders, 0);
        assert_eq!(found & bit(R), bit(R));
        let left = domain.drain(0);
        assert_eq!((found | left, found & left), (bit(P) | bit(Q) | bit(R), 0));
        assert_eq!((domain.pending(), domain.drain(0)), (0, 0));
    });
}

/// The tail itself is sent again when it was taken out, to another vCPU, while somebody else would link to it.
#[test]
fn a_tail_that_moves_to_another_vcpu_takes_nobody_with_it() {
    check(3, || {
        let domain = FifoDomain::new();
        assert!(domain.send(P, 0));
        let senders: [fn(&FifoDomain) -> bool; 2] =
            [|domain| domain.send(P, 1), |domain| domain.send(Q, 0)];
        let (domain, _, found) = race(domain, senders, 0);
        let left = [0, 1].map(|vcpu| domain.drain(vcpu));
        assert_eq!(found | left[0] | left[1], bit(P) | bit(Q));
        assert_eq!(left[1] & bit(Q), 0);
        assert_eq!(domain.pending(), 0);
    });
}

/// Two senders who know of different vCPUs: it is in one queue.
#[test]
fn a_port_that_moves_while_two_send_is_in_one_queue() {
    check(3, || {
        let senders: [fn(&FifoDomain) -> bool; 2] =
            [|domain| domain.send(P, 0), |domain| domain.send(P, 1)];
        let (domain, told, found) = race(FifoDomain::new(), senders, 0);
        let left = [0, 1].map(|vcpu| domain.drain(vcpu));
        assert_eq!(found | left[0] | left[1], bit(P));
        assert!(told.contains(&true));
        assert_eq!(domain.pending(), 0);
    });
}

/// A sender who knows an old home of the port leaves no tail behind in the one that it has by then.
#[test]
fn a_port_that_moves_twice_leaves_no_tail_behind() {
    check(3, || {
        let senders: [fn(&FifoDomain) -> bool; 2] =
            [|domain| domain.send(P, 0), |domain| domain.send(P, 1)];
        let (domain, _, found) = race(FifoDomain::new(), senders, 1);
        assert!(domain.send(Q, 1) || domain.pending() & bit(P) != 0);
        let left = [1, 0].map(|vcpu| domain.drain(vcpu));
        assert_eq!(
            left[0] & bit(Q),
            bit(Q),
            "it is in the queue of another vCPU"
        );
        assert_eq!((found | left[0] | left[1]) & bit(P), bit(P));
        assert_eq!(domain.pending(), 0);
    });
}

#[test]
fn an_event_that_comes_while_it_is_unmasked_is_found_once() {
    check(3, || {
        let domain = FifoDomain::new();
        domain.mask(P);
        let senders: [fn(&FifoDomain) -> bool; 2] =
            [|domain| domain.send(P, 0), |domain| domain.unmask(P, 0)];
        let (domain, told, found) = race(domain, senders, 0);
        let left = domain.drain(0);
        assert_eq!((found | left, found & left), (bit(P), 0));
        assert_eq!(told.iter().filter(|&&told| told).count(), 1);
        assert_eq!(domain.pending(), 0);
    });
}

/// The words come while two send: what is owed is paid, by the one or the other.
#[test]
fn an_event_that_comes_while_words_are_added_arrives() {
    check(3, || {
        let senders: [fn(&FifoDomain) -> bool; 2] =
            [|domain| domain.send(P, 0), |domain| domain.add_words()];
        let (domain, told, found) = race(FifoDomain::without_words(), senders, 0);
        let left = domain.drain(0);
        assert_eq!((found | left, found & left), (bit(P), 0));
        assert_eq!(told.iter().filter(|&&told| told).count(), 1);
    });
}
