//! Grants: given, mapped, copied from and to, and ended, rightly and wrongly.

use dom0_abi::grant_table::{
    GrantCopy, GrantFlags, GrantTableCommand, MapGrantRef, QuerySize, SetupTable, SwapGrantRef,
    UnmapAndReplace, UnmapGrantRef,
};
use dom0_abi::ids::GrantRef;

use super::*;
use crate::world::{GRANT_TABLE, L1, WINDOW, WINDOW_PAGES};

/// So many entries of a table are used.
const GRANTS: u64 = 8;

impl Maker<'_> {
    /// A write to the domain's own grant table: where, and what.
    fn entry_of_grant(&mut self) -> (u64, Vec<u8>) {
        let at = linear(GRANT_TABLE) + self.rng.below(GRANTS) * 8;
        let flags = match self.rng.below(10) {
            0 => 0,
            1 => self.rng.next() & 0xffff,
            2..5 => 1 | u64::from(GrantFlags::READONLY.bits()),
            _ => 1,
        };
        let to = self.domain();
        let frame = if self.rng.percent(85) {
            self.loose(self.slot)
        } else {
            self.mfn()
        };
        let entry = flags | to << 16 | frame.get() << 32;
        // Now and then only its flags, as who ends a grant does.
        let length = if self.rng.percent(80) { 8 } else { 2 };
        (at, entry.to_le_bytes()[..length].to_vec())
    }

    /// The same as an operation.
    pub(super) fn grant(&mut self) -> Op {
        let (at, bytes) = self.entry_of_grant();
        Op::Write(at, bytes)
    }

    /// A domain that plays.
    pub(super) fn domain(&mut self) -> u64 {
        let slot = self.rng.below(3) as usize;
        u64::from(self.world.players[slot].id.get())
    }

    fn granter(&mut self) -> DomId {
        match self.world.dying.last() {
            Some(&dying) if self.rng.percent(5) => dying,
            _ if self.rng.percent(3) => DomId::SELF,
            _ => DomId::new(self.domain() as u16),
        }
    }

    fn reference(&mut self) -> GrantRef {
        let odd = [GRANTS, 511, 512, 0xffff_ffff];
        GrantRef::new(if self.rng.percent(4) {
            self.rng.pick(&odd).unwrap() as u32
        } else {
            self.rng.below(GRANTS) as u32
        })
    }

    fn window(&mut self) -> u64 {
        WINDOW as u64 + self.rng.below(WINDOW_PAGES)
    }

    /// Where an entry of a page is, as the flags say it.
    fn host_addr(&mut self, page: u64, by_entry: bool) -> u64 {
        if self.rng.percent(3) {
            return self.address();
        }
        if by_entry {
            self.world.players[self.slot].frames[L1].start().get() + page * 8
        } else {
            linear(page as usize)
        }
    }

    /// A call about grants, sometimes behind a write to the domain's own table.
    pub(super) fn grant_call(&mut self) -> Call {
        let mut call = self.any_grant_call();
        if self.rng.percent(30) {
            call.data.push(self.entry_of_grant());
        }
        call
    }

    fn any_grant_call(&mut self) -> Call {
        let count = match self.rng.below(8) {
            0 => 0,
            1..5 => 1,
            _ => 1 + self.rng.below(9),
        };
        match self.rng.below(20) {
            0..8 => self.grant_list(GrantTableCommand::MapGrantRef, count, Self::map_one),
            8..14 => self.grant_list(GrantTableCommand::UnmapGrantRef, count, Self::unmap_one),
            14 => self.grant_list(GrantTableCommand::UnmapAndReplace, count, Self::replace_one),
            15..18 => self.grant_list(GrantTableCommand::Copy, count, Self::copy_one),
            18 => self.grant_list(GrantTableCommand::SwapGrantRef, count, |maker| {
                let mut op = SwapGrantRef::new_zeroed();
                (op.ref_a, op.ref_b) = (maker.reference(), maker.reference());
                op.as_bytes().to_vec()
            }),
            _ if self.rng.one_in(2) => self.grant_list(GrantTableCommand::QuerySize, 1, |maker| {
                let mut op = QuerySize::new_zeroed();
                op.dom = maker.granter();
                op.as_bytes().to_vec()
            }),
            _ => self.grant_list(GrantTableCommand::SetupTable, 1, |maker| {
                let mut op = SetupTable::new_zeroed();
                op.dom = maker.granter();
                op.nr_frames = 1 + maker.rng.below(3) as u32;
                // Where nobody minds.
                op.frame_list = GuestHandle::new(GuestAddr::new(linear(ARGS + maker.seat) + 0xf00));
                op.as_bytes().to_vec()
            }),
        }
    }

    fn grant_list(
        &mut self,
        command: GrantTableCommand,
        count: u64,
        one: impl Fn(&mut Self) -> Vec<u8>,
    ) -> Call {
        let mut data = Vec::new();
        let ops: Vec<u8> = (0..count).flat_map(|_| one(self)).collect();
        let at = self.data(&mut data, &ops);
        Call {
            call: Hypercall::GrantTableOp,
            args: [command.get().into(), at, count, 0, 0],
            data,
        }
    }

    fn map_one(&mut self) -> Vec<u8> {
        let mut op = MapGrantRef::new_zeroed();
        (op.dom, op.grant_ref) = (self.granter(), self.reference());
        op.flags = match self.rng.below(12) {
            0 => self.rng.next() as u32,
            1..3 => 1,
            3..5 => 3,
            5..7 => 2 | 16,
            _ => 2,
        };
        if self.rng.percent(35) {
            op.flags |= 4;
        }
        if self.rng.percent(20) {
            op.flags |= 8 | 1 << 16;
        }
        let page = self.window();
        op.host_addr = self.host_addr(page, op.flags & 16 != 0);
        op.as_bytes().to_vec()
    }

    /// A handle, where it may be mapped, and the address of its frame.
    fn mapping(&mut self) -> (u32, u64, u64) {
        let host = self.world.host;
        let player = &self.world.players[self.slot];
        let mut maps = Vec::new();
        let domain = host.domains.get(player.id).unwrap();
        domain.grants.visit_maps(host.mem(), |handle, track| {
            let granter = host.domains.get(track.granter());
            let active = granter.map(|by| by.grants.active(host.mem(), track.reference()));
            maps.push((handle, track, active.map_or(0, |active| active.mfn().get())));
        });
        let Some((handle, track, mfn)) = self.rng.pick(&maps).filter(|_| self.rng.percent(95))
        else {
            let page = self.window();
            return (self.rng.below(40) as u32, linear(page as usize), 0);
        };
        let table = player.frames[L1];
        let leads_there = |page: &u64| {
            let entry = host.mem().load_u64(table.word(*page as usize)).unwrap_or(0);
            entry & 1 != 0 && entry >> 12 & 0xff_ffff_ffff == mfn
        };
        let first = WINDOW as u64;
        let pages: Vec<_> = (first..first + WINDOW_PAGES).filter(leads_there).collect();
        let page = match self.rng.pick(&pages) {
            Some(page) => page,
            None => self.window(),
        };
        let host_addr = self.host_addr(page, track.is_by_entry());
        (handle, host_addr, mfn << 12)
    }

    fn unmap_one(&mut self) -> Vec<u8> {
        let mut op = UnmapGrantRef::new_zeroed();
        let (handle, host_addr, dev_bus_addr) = self.mapping();
        op.handle = handle;
        match self.rng.below(8) {
            0 => op.host_addr = host_addr,
            1 => op.dev_bus_addr = dev_bus_addr,
            _ => (op.host_addr, op.dev_bus_addr) = (host_addr, dev_bus_addr),
        }
        op.as_bytes().to_vec()
    }

    fn replace_one(&mut self) -> Vec<u8> {
        let mut op = UnmapAndReplace::new_zeroed();
        let (handle, host_addr, _) = self.mapping();
        (op.handle, op.host_addr) = (handle, host_addr);
        let page = self.window();
        op.new_addr = if self.rng.percent(50) {
            linear(page as usize)
        } else {
            self.address()
        };
        op.as_bytes().to_vec()
    }

    fn copy_one(&mut self) -> Vec<u8> {
        let mut op = GrantCopy::new_zeroed();
        op.flags = self.rng.below(4) as u16;
        for (is_grant, end) in [(op.flags & 1, 0), (op.flags & 2, 1)] {
            let (domid, u) = if is_grant != 0 {
                (self.granter(), u64::from(self.reference().get()))
            } else {
                (DomId::SELF, self.loose(self.slot).get())
            };
            let offset = self.rng.below(4200) as u16;
            let end = if end == 0 {
                &mut op.source
            } else {
                &mut op.dest
            };
            (end.domid, end.u, end.offset) = (domid, u, offset);
        }
        op.len = self.rng.below(300) as u16;
        op.as_bytes().to_vec()
    }
}
