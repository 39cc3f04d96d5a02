//! What EFI's system table says that the control domain asks for. SPEC: UEFI 2.10, 4.2 and 4.3.
//!
//! It is read once, on the first page tables, which map the first 4 GiB onto themselves. Firmware keeps the tables that are named here in
//! memory of its own, also when boot services have ended.

use dom0_abi::addr::Maddr;

use crate::boot::EfiTables;

/// What the system table begins with.
const SIGNATURE: u64 = u64::from_le_bytes(*b"IBI SYST");

/// Reads the system table. `None`: there is none, or it or what it names lies above 4 GiB.
pub(super) fn read(system_table: u64) -> Option<EfiTables> {
    // Offsets in the system table, and of the revision in each table's header.
    const REVISION: u64 = 8;
    const RUNTIME_SERVICES: u64 = 88;
    const COUNT: u64 = 104;
    const TABLES: u64 = 112;
    if system_table == 0 || long(system_table)? != SIGNATURE {
        return None;
    }
    let field = |offset| long(system_table.checked_add(offset)?);
    let runtime_services = field(RUNTIME_SERVICES)?;
    Some(EfiTables {
        revision: word(system_table.checked_add(REVISION)?)?,
        runtime_revision: word(runtime_services.checked_add(REVISION)?)?,
        tables: Maddr::new(field(TABLES)?),
        count: u32::try_from(field(COUNT)?).ok()?,
    })
}

fn word(at: u64) -> Option<u32> {
    let at = at as usize;
    if at >= (1 << 32) - size_of::<u64>() {
        return None;
    }
    // SAFETY: mapped onto itself; what is not RAM reads as anything.
    Some(unsafe { (at as *const u32).read_unaligned() })
}

fn long(at: u64) -> Option<u64> {
    let high = word(at.checked_add(4)?)?;
    Some(u64::from(word(at)?) | u64::from(high) << 32)
}
