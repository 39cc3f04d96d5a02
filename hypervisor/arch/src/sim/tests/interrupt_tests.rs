use super::*;
use crate::interrupts::{Interrupt, Ipi};

fn machine(cpus: u32) -> Machine {
    Machine::new(SimConfig {
        cpus,
        ..SimConfig::new(4 << 20)
    })
    .0
}

#[test]
fn an_interrupt_waits_at_the_cpu_that_it_was_sent_to() {
    let machine = machine(3);
    let cpus = [0, 1, 2].map(|id| machine.cpu(CpuId::new(id)));
    for what in [Ipi::Reschedule, Ipi::Call, Ipi::Event, Ipi::Reschedule] {
        machine.interrupt(CpuId::new(1), what);
    }
    machine.interrupt(CpuId::new(2), Ipi::Event);
    assert_eq!(cpus[0].take_interrupt(), None);
    // Those of one kind are one, and the most urgent comes first.
    let taken: Vec<_> = std::iter::from_fn(|| cpus[1].take_interrupt()).collect();
    assert_eq!(
        taken,
        [Ipi::Call, Ipi::Event, Ipi::Reschedule].map(Interrupt::Ipi)
    );
    assert_eq!(cpus[2].take_interrupt(), Some(Interrupt::Ipi(Ipi::Event)));
    let log = machine.take_ipi_log();
    assert_eq!(log.len(), 5, "{log:?}");
    assert_eq!((log[4].to, log[4].what), (CpuId::new(2), Ipi::Event));
    assert!(machine.take_ipi_log().is_empty());
}

#[test]
fn a_timer_fires_once_and_not_before_its_time() {
    let machine = machine(2);
    let (cpu, other) = (machine.cpu(CpuId::BOOT), machine.cpu(CpuId::new(1)));
    let then = cpu.clock().after(1000);
    cpu.set_timer(Some(then));
    assert_eq!(cpu.timer(), Some(then));
    assert_eq!(cpu.take_interrupt(), None);
    machine.advance_tsc(1000);
    assert_eq!(other.take_interrupt(), None, "it is the other CPU's");
    assert_eq!(cpu.take_interrupt(), Some(Interrupt::Timer));
    assert_eq!((cpu.take_interrupt(), cpu.timer()), (None, None));
    // A time that has passed fires at once; one that is called off does not, unless it was too late.
    cpu.set_timer(Some(then));
    assert_eq!(cpu.take_interrupt(), Some(Interrupt::Timer));
    cpu.set_timer(Some(cpu.clock().after(1000)));
    cpu.set_timer(None);
    machine.advance_tsc(2000);
    assert_eq!(cpu.take_interrupt(), None);
    cpu.set_timer(Some(cpu.clock()));
    machine.advance_tsc(1);
    cpu.set_timer(None);
    assert_eq!(cpu.take_interrupt(), Some(Interrupt::Timer));
}

#[test]
fn an_idle_cpu_sleeps_until_something_happens() {
    let machine = machine(2);
    let cpu = machine.cpu(CpuId::BOOT);
    let a_while = u64::from(machine.tsc_khz());
    let start = cpu.clock();
    cpu.wait_for_interrupt();
    assert!(
        start.until(cpu.clock()) >= a_while,
        "nothing: a millisecond"
    );
    // A timer, near or far: until then.
    for cycles in [100, 1000 * a_while] {
        let then = cpu.clock().after(cycles);
        cpu.set_timer(Some(then));
        cpu.wait_for_interrupt();
        let now = cpu.clock();
        assert!(now >= then && then.until(now) < 10, "{now:?} {then:?}");
        assert_eq!(cpu.take_interrupt(), Some(Interrupt::Timer));
    }
    // Something that waits already: no sleep.
    machine.interrupt(CpuId::BOOT, Ipi::Reschedule);
    let start = cpu.clock();
    cpu.wait_for_interrupt();
    assert!(start.until(cpu.clock()) < 10);
    assert_eq!(cpu.take_interrupt(), Some(Interrupt::Ipi(Ipi::Reschedule)));
    assert_eq!(cpu.registers().waits, 4);
}
