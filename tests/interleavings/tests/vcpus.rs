//! A vCPU that goes to sleep, polls or goes back to its guest, while two other CPUs cause something for it, in every order: when all interrupts
//! that are on their way have been taken, it has everything.
#![forbid(unsafe_code)]

use dom0_abi::ids::Port;
use interleavings::domain::signals::Signals;
use interleavings::vcpu::{Host, Next, RunState, State};
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

const P: Port = Port::new(1);

type Cpu = fn(&Host, usize);

/// Lets three CPUs do these at the same time, of which the first runs the vCPU, and says what has become of that.
fn race(preemptions: usize, cpus: [Cpu; 3], begin: fn(&Host), end: fn(&Host, State)) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(move || {
        let host = Host::new(3);
        begin(&host);
        let host = Arc::new(host);
        let [first, others @ ..] = cpus;
        let mut number = 0;
        let others = others.map(|cpu| {
            number += 1;
            let (host, number) = (host.clone(), number);
            thread::spawn(move || cpu(&host, number))
        });
        first(&host, 0);
        for other in others {
            other.join().unwrap();
        }
        host.settle();
        end(&host, host.state());
    });
}

fn nothing(_: &Host) {}

fn runs(_: &Host, state: State) {
    assert_eq!((state.run, state.next), (RunState::Running, Next::Guest));
}

fn has_an_event(host: &Host, state: State) {
    runs(host, state);
    assert!(state.in_upcall, "it was not told");
}

fn has_both(host: &Host, state: State) {
    has_an_event(host, state);
    assert!(state.in_nmi, "an NMI is lost");
}

const SLEEPS: Cpu = |host, cpu| host.block(cpu);
const LEAVES: Cpu = |host, cpu| host.leave(cpu);
const POLLS: Cpu = |host, cpu| host.poll(cpu, Some(P));
const POLLS_ANY: Cpu = |host, cpu| host.poll(cpu, None);
const EVENT: Cpu = |host, cpu| host.send(cpu, P);
const NMI: Cpu = |host, cpu| host.send_nmi(cpu);
const PAUSE: Cpu = |host, cpu| host.pause_and_unpause(cpu);
const END_OF_POLL: Cpu = |host, cpu| host.end_poll(cpu);
const SHUTDOWN: Cpu = |host, cpu| host.shut_down(cpu);

#[test]
fn i26_one_call_for_attention_does_not_hide_another() {
    loom::model(|| {
        let signals = Arc::new(Signals::new());
        let causes: [fn(&Signals); 2] = [Signals::send_nmi, Signals::end_poll];
        let others = causes.map(|cause| {
            let signals = signals.clone();
            thread::spawn(move || cause(&signals))
        });
        let look = || {
            if !signals.has_attention() {
                return [false; 2];
            }
            signals.take_attention();
            [
                signals.has_nmi() && signals.take_nmi(),
                signals.take_end_of_poll(),
            ]
        };
        let first = look();
        for other in others {
            other.join().unwrap();
        }
        let then = look();
        assert!(first[0] != then[0], "an NMI is lost");
        assert!(first[1] != then[1], "the end of the poll is lost");
    });
}

#[test]
fn one_that_sleeps_wakes_for_an_event_beside_an_nmi() {
    race(2, [SLEEPS, EVENT, NMI], nothing, has_both);
}

#[test]
fn one_that_goes_back_has_an_event_and_an_nmi() {
    race(2, [LEAVES, EVENT, NMI], nothing, has_both);
}

#[test]
fn one_that_sleeps_wakes_for_an_event_while_it_is_paused() {
    race(2, [SLEEPS, EVENT, PAUSE], nothing, has_an_event);
}

#[test]
fn one_that_sleeps_wakes_for_an_nmi_while_it_is_paused() {
    race(2, [SLEEPS, NMI, PAUSE], nothing, |host, state| {
        runs(host, state);
        assert!(state.in_nmi, "an NMI is lost");
    });
}

#[test]
fn one_that_goes_back_has_an_nmi_while_it_is_paused() {
    race(2, [LEAVES, NMI, PAUSE], nothing, |host, state| {
        runs(host, state);
        assert!(state.in_nmi, "an NMI is lost");
    });
}

fn mask(host: &Host) {
    host.domain.mask(P);
}

#[test]
fn one_that_polls_wakes_for_a_masked_event_while_it_is_paused() {
    race(2, [POLLS, EVENT, PAUSE], mask, runs);
}

#[test]
fn one_that_polls_any_port_wakes_for_a_masked_event_beside_an_nmi() {
    race(2, [POLLS_ANY, EVENT, NMI], mask, |host, state| {
        runs(host, state);
        assert!(state.in_nmi, "an NMI is lost");
    });
}

#[test]
fn one_that_polls_wakes_at_its_time_beside_an_nmi() {
    race(2, [POLLS, END_OF_POLL, NMI], nothing, |host, state| {
        runs(host, state);
        assert!(state.in_nmi, "an NMI is lost");
    });
}

#[test]
fn one_that_sleeps_hears_of_the_end_beside_an_nmi() {
    race(2, [SLEEPS, SHUTDOWN, NMI], nothing, |_, state| {
        assert_eq!(state.next, Next::Shutdown);
    });
}

#[test]
fn one_that_goes_back_hears_of_the_end_beside_an_nmi() {
    race(2, [LEAVES, SHUTDOWN, NMI], nothing, |_, state| {
        assert_eq!(state.next, Next::Shutdown);
    });
}
