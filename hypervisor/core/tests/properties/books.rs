//! What the auditor and a bookkeeper say about a machine that stands still.

use std::collections::BTreeMap;
use std::fmt::Write;

use dom0_abi::addr::Mfn;
use dom0_abi::ids::{DomId, Port, VcpuId};
use oxen_arch::boot::CpuId;
use oxen_core::audit::translations::{self, Remembered};
use oxen_core::audit::{self, Finding, Problem, Story, Wrong};
use oxen_core::domain::Capabilities;
use oxen_core::event::word::{Binding, PortState};
use oxen_core::frame::TypeState;
use oxen_core::page_type::PageType;

use crate::world::{CPUS, MARKS, World};

/// What can be known of a frame from outside, but for when and as what it was used before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Books {
    frames: BTreeMap<u64, (Option<DomId>, u32, String)>,
    tables: BTreeMap<u64, Vec<u64>>,
}

impl World {
    /// Whether ends of connections name each other, and VIRQs their ports (I22).
    fn check_ports(&self) -> Result<(), String> {
        let living = self.players.iter().map(|player| player.id);
        for id in living.chain(self.dying.iter().copied()) {
            let domain = self.host.domains.get(id);
            let Some(domain) = domain else { continue };
            for port in (0..64).map(Port::new) {
                let binding = domain.events.binding(port).unwrap();
                let is_right = match binding.state {
                    PortState::Interdomain { remote, port: far } => {
                        let other = self.host.domains.get(remote);
                        let end = other.and_then(|other| other.events.binding(far).ok());
                        let expected = PortState::Interdomain { remote: id, port };
                        end.is_some_and(|end| end.state == expected)
                    }
                    PortState::Virq(virq) => {
                        let whose = match virq.is_per_vcpu() {
                            true => binding.vcpu,
                            false => VcpuId::new(0),
                        };
                        let vcpu = domain.vcpu(whose);
                        vcpu.is_some_and(|vcpu| vcpu.virqs.get(virq) == Some(port))
                    }
                    PortState::Pirq(_) => domain.capabilities.contains(Capabilities::HARDWARE),
                    PortState::Free => binding == Binding::FREE,
                    PortState::Unbound { .. } | PortState::Ipi => true,
                };
                if !is_right {
                    return Err(format!("domain {id}, port {port}: {binding:?}"));
                }
            }
        }
        Ok(())
    }

    /// Lets the auditor look at everything.
    pub fn check(&mut self) -> Result<(), String> {
        self.check_ports()?;
        let mut findings = Vec::new();
        let wild = self.config.wild;
        let mut report = |finding: Finding| {
            if !(wild && is_wild(&finding)) {
                findings.push(finding);
            }
        };
        audit::audit(&self.host, &mut self.tallies, &mut report).unwrap();
        self.checks += 1;
        if self.checks.is_multiple_of(64) {
            audit::clean(&self.host, &mut report);
        }
        for id in (0..CPUS).map(CpuId::new) {
            for cached in self.host.machine.cached_frames(id) {
                let what = Remembered {
                    address: cached.address,
                    frames: cached.frames,
                    writable: cached.writable,
                    is_table: cached.is_table,
                };
                translations::check(&self.host, id, &what, &mut report);
            }
            for mfn in self.cpus[id.get() as usize].descriptor_pages() {
                let ty = self.host.frames.type_state(mfn);
                if !matches!(
                    ty,
                    Some(TypeState::InUse {
                        ty: PageType::Descriptors,
                        ..
                    })
                ) {
                    return Err(format!("CPU {id} has frame {mfn} as descriptors: {ty:?}"));
                }
            }
        }
        if findings.is_empty() {
            return Ok(());
        }
        let mut text = String::new();
        for finding in findings.iter().take(6) {
            let story = Story {
                host: &self.host,
                mfn: finding.mfn,
            };
            writeln!(text, "{finding}\n    {story}").unwrap();
        }
        Err(format!("{} findings:\n{text}", findings.len()))
    }

    /// All counts and types, and what tables hold.
    pub fn books(&self) -> Books {
        let mut books = Books {
            frames: BTreeMap::new(),
            tables: BTreeMap::new(),
        };
        let frames = &self.host.frames;
        for mfn in (0..frames.end().get()).map(Mfn::new) {
            let state = frames.type_state(mfn).unwrap();
            let text = match state {
                TypeState::None { .. } => String::new(),
                other => format!("{other:?}"),
            };
            let count = frames.reference_count(mfn);
            if count == 0 && text.is_empty() {
                continue;
            }
            if let TypeState::InUse { ty, .. } = state
                && ty != PageType::Writable
            {
                let load =
                    |index: usize| self.host.mem().load_u64(mfn.at(index * 8)).unwrap() & !MARKS;
                books.tables.insert(mfn.get(), (0..512).map(load).collect());
            }
            let known = (frames.owner(mfn), count, text);
            books.frames.insert(mfn.get(), known);
        }
        books
    }

    /// What all frames hold that domains have other than that of a place, but for those that are granted to it.
    pub fn contents_of_others(&self, slot: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut granted = Vec::new();
        let mem = self.host.mem();
        let mapper = self.host.domains.get(self.players[slot].id).unwrap();
        mapper.grants.visit_maps(mem, |_, track| {
            let granter = self.host.domains.get(track.granter()).unwrap();
            granted.push(granter.grants.active(mem, track.reference()).mfn());
        });
        for player in self
            .players
            .iter()
            .filter(|player| player.id != self.players[slot].id)
        {
            for mfn in &player.frames {
                let is_table = matches!(
                    self.host.frames.type_state(*mfn),
                    Some(TypeState::InUse {
                        ty: PageType::Table(_),
                        ..
                    })
                );
                // CPUs mark entries of tables.
                let may_change = is_table || granted.contains(mfn);
                if self.host.frames.is_of(*mfn, player.id) && !may_change {
                    let mut page = [0; 4096];
                    self.host.mem().read_bytes(mfn.at(0), &mut page).unwrap();
                    bytes.extend(page);
                }
            }
        }
        bytes
    }
}

/// What a control domain may bring about that writes what it likes into the tables of others.
fn is_wild(finding: &Finding) -> bool {
    matches!(
        finding.what,
        Problem::Entry {
            wrong: Wrong::Foreign(_) | Wrong::Cache | Wrong::Device,
            ..
        } | Problem::Remembered(translations::Danger::Foreign(..))
    )
}

impl Books {
    /// Whether no table waits half-checked for somebody to go on, who may find that it cannot be one.
    pub fn is_settled(&self) -> bool {
        !self.frames.values().any(|frame| frame.2.contains("Parked"))
    }

    /// The first difference, in words.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self == other {
            return None;
        }
        for (mfn, frame) in &self.frames {
            if other.frames.get(mfn) != Some(frame) {
                let now = other.frames.get(mfn);
                return Some(format!("frame {mfn:#x} was {frame:?} and is {now:?}"));
            }
        }
        for (mfn, frame) in &other.frames {
            if !self.frames.contains_key(mfn) {
                return Some(format!("frame {mfn:#x} was nothing and is {frame:?}"));
            }
        }
        for (mfn, table) in &self.tables {
            let now = other.tables.get(mfn)?;
            let index = (0..512).find(|&index| table[index] != now[index]);
            if let Some(index) = index {
                let (was, is) = (table[index], now[index]);
                return Some(format!(
                    "entry {index} of table {mfn:#x} was {was:#x} and is {is:#x}"
                ));
            }
        }
        Some(String::from("something changed"))
    }
}
