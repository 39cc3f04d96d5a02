//! `multicall`.

use dom0_abi::addr::Mfn;
use dom0_abi::arch::IretContext;
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall::{
    self, FpuTaskswitch, Iret, Multicall, SchedOp, SetTrapTable, StackSwitch, XenVersion,
};
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuextCommand, MmuextOp, MulticallEntry};
use zerocopy::FromZeros;

use crate::budget::Budget;
use crate::frame::UndoQueue;
use crate::testing::{CODE, DATA, DATA_END, Guest, HOSTILE, READ_ONLY, STACK, failure, frame};
use crate::trap::return_path::Next;

fn entry(op: u64, args: &[u64]) -> MulticallEntry {
    let mut entry = MulticallEntry::new_zeroed();
    (entry.op, entry.result) = (op, 0x5a5a_5a5a);
    entry.args[..args.len()].copy_from_slice(args);
    entry
}

fn call(call: Hypercall, args: &[u64]) -> MulticallEntry {
    entry(call.number(), args)
}

fn put(guest: &Guest, calls: &[MulticallEntry]) {
    for (index, entry) in calls.iter().enumerate() {
        guest.put(DATA + index as u64 * 64, entry);
    }
}

fn result(guest: &Guest, index: u64) -> i64 {
    guest.get::<MulticallEntry>(DATA + index * 64).result as i64
}

#[test]
fn each_call_gets_its_result_and_the_whole_succeeds() {
    let mut guest = Guest::ordinary();
    put(
        &guest,
        &[
            call(XenVersion, &[0]),
            entry(11, &[]),
            call(XenVersion, &[1, 0]),
            entry(1 << 32 | XenVersion.number(), &[0]),
            call(Multicall, &[DATA, 1]),
            call(StackSwitch, &[0, 0x1234]),
        ],
    );
    assert_eq!(guest.call(Multicall, [DATA, 6]), 0);
    let results: Vec<i64> = (0..6).map(|index| result(&guest, index)).collect();
    let expected = [
        0x40011,
        failure(Errno::ENOSYS),
        failure(Errno::EFAULT),
        failure(Errno::ENOSYS),
        failure(Errno::EINVAL),
        0,
    ];
    assert_eq!(results, expected);
    assert_eq!(guest.state(|state| state.kernel_stack.sp), 0x1234);
    // Nothing but the results changed.
    assert_eq!(
        guest.get::<MulticallEntry>(DATA + 64 * 5).args,
        [0, 0x1234, 0, 0, 0, 0]
    );
    assert_eq!(guest.call(Multicall, [0, 0]), 0);
    for nowhere in [1 << 47, 0xffff_8000_0000_0000] {
        assert_eq!(guest.call(Multicall, [nowhere, 0]), failure(Errno::EFAULT));
    }
    assert_eq!(
        guest.call(Multicall, [DATA, 1 << 32]),
        0,
        "the count has 32 bits"
    );
}

#[test]
fn i13_every_entry_is_checked_where_it_lies() {
    let mut guest = Guest::ordinary();
    for list in HOSTILE {
        assert_eq!(
            guest.call(Multicall, [list, 1]),
            failure(Errno::EFAULT),
            "{list:#x}"
        );
    }
    // The second entry reaches into nothing; the first is done.
    let first = DATA_END - 64 - 8;
    guest.put(first, &call(FpuTaskswitch, &[1]));
    assert_eq!(guest.call(Multicall, [first, 2]), failure(Errno::EFAULT));
    assert!(guest.state(|state| state.privileged.task_switched()));
    assert_eq!(guest.get::<MulticallEntry>(first).result, 0);
    // A list that cannot be written: the call is made, its result is lost.
    assert_eq!(
        guest.call(Multicall, [READ_ONLY, 1]),
        failure(Errno::EFAULT)
    );
}

#[test]
fn i18_a_long_batch_goes_on_by_continuation_and_events_come_in_between() {
    let mut guest = Guest::ordinary();
    guest.state(|state| state.callbacks.event = CODE + 0x80);
    let calls = vec![call(XenVersion, &[0]); 400];
    put(&guest, &calls);
    guest.regs.rax = Multicall.number();
    (guest.regs.rdi, guest.regs.rsi) = (DATA, 400);
    let rip = guest.regs.rip;
    guest.raise_event();
    guest.set_mask(0);
    assert_eq!(guest.syscall(), Next::Guest);
    // The handler's frame holds the continuation.
    assert_eq!(guest.regs.rip, CODE + 0x80);
    let frame: [u64; 7] = guest.get(guest.regs.rsp);
    assert_eq!(frame[2], rip - 2);
    assert_eq!(guest.regs.rax, Multicall.number());
    let done = 400 - guest.regs.rsi;
    assert!(done > 0 && done < 400);
    assert_eq!(guest.regs.rdi, DATA + done * 64);
    for _ in 0..400 {
        if guest.regs.rsi == 0 || guest.regs.rax == 0 {
            break;
        }
        assert_eq!(guest.syscall(), Next::Guest);
    }
    assert_eq!(guest.regs.rax, 0);
    assert!((0..400).all(|index| result(&guest, index) == 0x40011));
}

#[test]
fn a_call_that_goes_on_leaves_its_rest_in_its_entry() {
    let mut guest = Guest::ordinary();
    for vector in 0..=255_u8 {
        let mut info = dom0_abi::arch::TrapInfo::new_zeroed();
        (info.vector, info.address) = (vector, 0x1000);
        guest.put(DATA + 0x1000 + u64::from(vector) * 16, &info);
    }
    guest.put(DATA + 0x2000, &[0_u8; 16]);
    put(
        &guest,
        &[
            call(SetTrapTable, &[DATA + 0x1000, 7, 8, 9, 10, 11]),
            call(XenVersion, &[0]),
        ],
    );
    guest.regs.rax = Multicall.number();
    (guest.regs.rdi, guest.regs.rsi) = (DATA, 2);
    assert_eq!(guest.syscall(), Next::Guest);
    assert_eq!(
        (guest.regs.rax, guest.regs.rdi, guest.regs.rsi),
        (13, DATA, 2)
    );
    let rest: MulticallEntry = guest.get(DATA);
    assert!(rest.op == 0 && rest.args[0] > DATA + 0x1000);
    assert_eq!(
        rest.args[1..],
        [7, 8, 9, 10, 11],
        "what is no argument stays"
    );
    let mut entries = 0;
    while guest.regs.rax != 0 {
        assert_eq!(guest.syscall(), Next::Guest);
        entries += 1;
        assert!(entries < 100);
    }
    assert_eq!((result(&guest, 0), result(&guest, 1)), (0, 0x40011));
    assert_eq!(guest.state(|state| state.traps.get(255).address), 0x1000);
}

#[test]
fn xsa_213_iret_ends_the_batch() {
    let mut guest = Guest::ordinary();
    let frame = IretContext {
        rax: 0x77,
        r11: 1,
        rcx: 2,
        flags: 0,
        rip: CODE + 0x20,
        cs: 0xe030,
        rflags: 0x202,
        rsp: STACK - 0x100,
        ss: 0xe02b,
    };
    guest.regs.rsp = STACK - 0x200;
    guest.put(guest.regs.rsp, &frame);
    put(&guest, &[call(Iret, &[]), call(StackSwitch, &[0, 0x999])]);
    guest.regs.rax = Multicall.number();
    (guest.regs.rdi, guest.regs.rsi) = (DATA, 2);
    assert_eq!(guest.syscall(), Next::Guest);
    assert_eq!((guest.regs.rip, guest.regs.rax), (CODE + 0x20, 0x77));
    assert_eq!(
        guest.state(|state| state.kernel_stack.sp),
        0,
        "the second call was not made"
    );
    assert_eq!(result(&guest, 1), 0x5a5a_5a5a);
    // And the next multicall is no nested one.
    put(&guest, &[call(XenVersion, &[0])]);
    assert_eq!(guest.call(Multicall, [DATA, 1]), 0);
}

#[test]
fn a_vcpu_that_goes_to_sleep_makes_the_rest_when_it_wakes() {
    let mut guest = Guest::ordinary();
    put(
        &guest,
        &[call(SchedOp, &[1, 0]), call(StackSwitch, &[0, 0x999])],
    );
    guest.regs.rax = Multicall.number();
    (guest.regs.rdi, guest.regs.rsi) = (DATA, 2);
    assert_eq!(guest.syscall(), Next::Schedule);
    assert_eq!(guest.state(|state| state.kernel_stack.sp), 0);
    assert_eq!(
        (guest.regs.rax, guest.regs.rdi, guest.regs.rsi),
        (13, DATA + 64, 1)
    );
}

#[test]
fn a_domain_that_shuts_down_makes_no_further_call() {
    let mut guest = Guest::ordinary();
    guest.put(DATA + 0x1000, &0_u32);
    put(
        &guest,
        &[
            call(SchedOp, &[2, DATA + 0x1000]),
            call(StackSwitch, &[0, 0x999]),
        ],
    );
    guest.regs.rax = Multicall.number();
    (guest.regs.rdi, guest.regs.rsi) = (DATA, 2);
    assert_eq!(guest.syscall(), Next::Schedule);
    assert_eq!(guest.state(|state| state.kernel_stack.sp), 0);
}

#[test]
fn i18_each_output_to_the_console_is_an_entry_of_its_own() {
    let mut guest = Guest::dom0();
    let text = DATA + 0x1000;
    guest.put(text, b"out\n");
    let write = [0, 4, text];
    put(
        &guest,
        &[(); 3].map(|()| call(Hypercall::ConsoleIo, &write)),
    );
    guest.regs.rax = Hypercall::Multicall.number();
    (guest.regs.rdi, guest.regs.rsi) = (DATA, 3);
    let rip = guest.regs.rip;
    let mut written = Vec::new();
    loop {
        assert_eq!(guest.syscall(), Next::Guest);
        written.push(guest.output().matches("out\r\n").count());
        if guest.regs.rip == rip {
            break;
        }
        guest.regs.rip = rip;
    }
    assert_eq!(written, [1, 2, 3]);
    assert_eq!([0, 1, 2].map(|index| result(&guest, index)), [0; 3]);
}

/// A tree of an L4, an L3 and an L2 table, pinned.
fn pinned_tree(guest: &mut Guest) -> [Mfn; 3] {
    let undo = UndoQueue::new();
    let memory = guest.host.memory(&guest.cpu, &undo);
    let tables = [(); 3].map(|()| frame(memory, guest.domid));
    for (table, below) in tables.iter().zip(&tables[1..]) {
        let entry = below.start().get() | 7;
        guest.host.mem().store_u64(table.word(1), entry).unwrap();
    }
    guest.put(DATA, &extended(MmuextCommand::PinL4Table, tables[0]));
    assert_eq!(guest.call(Hypercall::MmuextOp, [DATA, 1, 0, SELF]), 0);
    tables
}

fn extended(command: MmuextCommand, mfn: Mfn) -> MmuextOp {
    let mut op = MmuextOp::new_zeroed();
    (op.cmd, op.arg1) = (command.get(), mfn.get());
    op
}

const SELF: u64 = DomId::SELF.get() as u64;

/// Makes a call and goes on with it until it is finished.
fn finish(guest: &mut Guest, call: Hypercall, args: [u64; 4]) -> i64 {
    const BEHIND: u64 = CODE + 2;
    let regs = &mut guest.regs;
    regs.rax = call.number();
    [regs.rdi, regs.rsi, regs.rdx, regs.r10] = args;
    for _ in 0..1000 {
        guest.regs.rip = BEHIND;
        assert_eq!(guest.syscall(), Next::Guest);
        if guest.regs.rip == BEHIND {
            return guest.regs.rax as i64;
        }
    }
    panic!("it does not get on");
}

#[test]
fn what_a_call_takes_out_of_use_the_next_one_finds_free() {
    const OPS: u64 = DATA + 0x1000;
    const PAGES: u64 = DATA + 0x5000;
    for units in [25, 40, 100, u32::MAX] {
        let mut guest = Guest::ordinary();
        let [root, l3, l2] = pinned_tree(&mut guest);
        guest.put(OPS, &extended(MmuextCommand::UnpinTable, root));
        let writable = |mfn: Mfn| mfn.start().get() | 7;
        put(
            &guest,
            &[
                call(Hypercall::MmuextOp, &[OPS, 1, 0, SELF]),
                call(Hypercall::UpdateVaMapping, &[PAGES, writable(l3), 0]),
                call(
                    Hypercall::UpdateVaMapping,
                    &[PAGES + 0x1000, writable(l2), 0],
                ),
            ],
        );
        guest.host.set_entry_budget(Budget::new(units));
        assert_eq!(finish(&mut guest, Multicall, [DATA, 3, 0, 0]), 0);
        for index in 0..3 {
            assert_eq!(result(&guest, index), 0, "call {index}, budget {units}");
        }
    }
}

#[test]
fn what_a_request_takes_out_of_use_the_next_one_finds_free() {
    for units in [25, 40, 100, u32::MAX] {
        let mut guest = Guest::ordinary();
        let [root, _, l2] = pinned_tree(&mut guest);
        let ops = [
            extended(MmuextCommand::UnpinTable, root),
            extended(MmuextCommand::PinL1Table, l2),
        ];
        guest.put(DATA, &ops);
        guest.host.set_entry_budget(Budget::new(units));
        let done = finish(&mut guest, Hypercall::MmuextOp, [DATA, 2, 0, SELF]);
        assert_eq!(done, 0, "budget {units}");
    }
}
