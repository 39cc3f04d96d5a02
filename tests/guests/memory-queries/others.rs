//! What is not for paravirtual guests, or not for a domain itself.

use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use dom0_abi::memory::{
    AcquireResource, AddToPhysmap, MapSpace, MemoryCommand, MemoryReservation, ResourceType,
};
use guest_pv_drivers::hypercall::memory;
use kit::{Report, start_info};

use crate::{NOBODY, at, call};

pub fn check(report: &mut Report) {
    physmap(report);
    claims(report);
    targets(report);
    resources(report);
}

fn physmap(report: &mut Report) {
    let mut indices = [0u64; 2];
    let mut pfns = [5u64; 2];
    let mut errors = [77u32; 2];
    let own = [DomId::SELF, DomId::DOM0].map(|domid| (domid, Errno::EACCES));
    let nobody = NOBODY.map(|domid| (domid, Errno::ESRCH));
    for (domid, right) in own.into_iter().chain(nobody) {
        for space in 0..8u32 {
            let mut argument = AddToPhysmap {
                domid,
                size: 1,
                space,
                idx: 0,
                gpfn: 5,
            };
            let foreign = space == MapSpace::GmfnForeign as u32;
            report.equal(
                format_args!("add_to_physmap of {domid:?}: space {space}"),
                call(MemoryCommand::AddToPhysmap as u64, &mut argument),
                Err(if foreign { Errno::ENOSYS } else { right }),
            );
            for size in [0, 1] {
                // Domain, space, size; then the lists.
                let mut argument = [
                    u64::from(domid.get()) | u64::from(space) << 16 | size << 32,
                    memory::list(&mut indices).addr().get(),
                    memory::list(&mut pfns).addr().get(),
                    memory::list(&mut errors).addr().get(),
                ];
                let range = space == MapSpace::GmfnRange as u32;
                report.equal(
                    format_args!("add_to_physmap_batch of {domid:?}: space {space}, {size}"),
                    call(MemoryCommand::AddToPhysmapBatch as u64, &mut argument),
                    Err(if range { Errno::EOPNOTSUPP } else { right }),
                );
            }
        }
        for pfn in [0, start_info().nr_pages - 1, 1 << 40] {
            let mut argument = [u64::from(domid.get()), pfn];
            report.equal(
                format_args!("remove_from_physmap of {domid:?}: {pfn:#x}"),
                call(MemoryCommand::RemoveFromPhysmap as u64, &mut argument),
                Err(right),
            );
        }
    }
    report.equal("no list was written", errors, [77; 2]);
}

fn claims(report: &mut Report) {
    let plain = MemoryReservation {
        extent_start: at(0),
        nr_extents: 0,
        extent_order: 0,
        mem_flags: 0,
        domid: DomId::DOM0,
        _pad0: [0; 3],
    };
    let rows = [
        ("nothing", plain, Ok(0)),
        // A claim counts what the domain has already.
        (
            "less than it has",
            MemoryReservation {
                nr_extents: 1,
                ..plain
            },
            Err(Errno::EINVAL),
        ),
        (
            "too much",
            MemoryReservation {
                nr_extents: 100_000_000,
                ..plain
            },
            Err(Errno::ENOMEM),
        ),
        (
            "more than exists",
            MemoryReservation {
                nr_extents: 1 << 40,
                ..plain
            },
            Err(Errno::EINVAL),
        ),
        (
            "an order",
            MemoryReservation {
                extent_order: 1,
                ..plain
            },
            Err(Errno::EINVAL),
        ),
        (
            "flags",
            MemoryReservation {
                mem_flags: 1,
                ..plain
            },
            Err(Errno::EINVAL),
        ),
        (
            "a list",
            MemoryReservation {
                extent_start: at(8),
                ..plain
            },
            Err(Errno::EINVAL),
        ),
        (
            "for itself by the special number",
            MemoryReservation {
                domid: DomId::SELF,
                ..plain
            },
            Err(Errno::EINVAL),
        ),
        (
            "for nobody",
            MemoryReservation {
                domid: DomId::new(1),
                ..plain
            },
            Err(Errno::EINVAL),
        ),
    ];
    for (name, mut argument, right) in rows {
        report.equal(
            format_args!("claim_pages: {name}"),
            call(MemoryCommand::ClaimPages as u64, &mut argument),
            right,
        );
    }
}

fn targets(report: &mut Report) {
    for (domid, right) in [
        (DomId::SELF, Errno::EINVAL),
        (DomId::DOM0, Errno::EINVAL),
        (DomId::new(1), Errno::ESRCH),
        (DomId::XEN, Errno::ESRCH),
    ] {
        for command in [MemoryCommand::SetPodTarget, MemoryCommand::GetPodTarget] {
            // Target, three answers, domain.
            let mut argument = [0, 0, 0, 0, u64::from(domid.get())];
            report.equal(
                format_args!("{command:?} of {domid:?}"),
                call(command as u64, &mut argument),
                Err(right),
            );
        }
    }
}

fn resources(report: &mut Report) {
    let mut frames = [0x55u64; 4];
    let plain = AcquireResource {
        domid: DomId::DOM0,
        kind: ResourceType::GrantTable as u16,
        id: 0,
        nr_frames: 1,
        pad: 0,
        frame: 0,
        frame_list: memory::list(&mut frames),
    };
    let rows = [
        // The domain must be another one, and nobody is served by the special number.
        ("its own", plain, Errno::EPERM),
        (
            "its own size",
            AcquireResource {
                nr_frames: 0,
                frame_list: at(0),
                ..plain
            },
            Errno::EPERM,
        ),
        (
            "its own, by the special number",
            AcquireResource {
                domid: DomId::SELF,
                ..plain
            },
            Errno::ESRCH,
        ),
        (
            "nobody's",
            AcquireResource {
                domid: DomId::new(1),
                ..plain
            },
            Errno::ESRCH,
        ),
        (
            "the hypervisor's",
            AcquireResource {
                domid: DomId::XEN,
                ..plain
            },
            Errno::ESRCH,
        ),
        (
            "an unknown kind of nobody's",
            AcquireResource {
                domid: DomId::new(1),
                kind: 99,
                ..plain
            },
            Errno::ESRCH,
        ),
        (
            "with something in the padding",
            AcquireResource { pad: 1, ..plain },
            Errno::EINVAL,
        ),
        (
            "from far behind",
            AcquireResource {
                frame: 1 << 40,
                ..plain
            },
            Errno::EINVAL,
        ),
    ];
    for (name, mut argument, right) in rows {
        report.equal(
            format_args!("acquire_resource: {name}"),
            call(MemoryCommand::AcquireResource as u64, &mut argument),
            Err(right),
        );
    }
    report.equal("acquire_resource: nothing was told", frames, [0x55; 4]);
}
