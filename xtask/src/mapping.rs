//! What a running machine's page tables allow, as QEMU's monitor lists them (`info tlb`).

use std::ops::RangeInclusive;

use anyhow::{Result, bail};

/// The hypervisor's part of the address space, and in it the table that guests may read.
const OURS: RangeInclusive<u64> = 0xffff_8000_0000_0000..=0xffff_87ff_ffff_ffff;
const M2P: RangeInclusive<u64> = 0xffff_8000_0000_0000..=0xffff_807f_ffff_ffff;
/// Where the image lies.
const IMAGE: RangeInclusive<u64> = 0xffff_8080_0000_0000..=0xffff_8080_3fff_ffff;

/// One page.
struct Page {
    address: u64,
    never_executes: bool,
    user: bool,
    writable: bool,
}

impl Page {
    /// Reads a line `address: physical flags`, where a flag is its letter or a dash.
    fn parse(line: &str) -> Option<Self> {
        let (address, rest) = line.trim().split_once(": ")?;
        let flags = rest.split_whitespace().nth(1)?;
        Some(Self {
            address: u64::from_str_radix(address, 16).ok()?,
            never_executes: flags.starts_with('X'),
            user: flags.contains('U'),
            writable: flags.ends_with('W'),
        })
    }
}

/// Fails on a page of the hypervisor that can be written and executed, or that a guest can reach and should not.
pub fn check(list: &str) -> Result<()> {
    let pages: Vec<Page> = list
        .lines()
        .filter_map(Page::parse)
        .filter(|page| OURS.contains(&page.address))
        .collect();
    let text = pages
        .iter()
        .filter(|page| IMAGE.contains(&page.address) && !page.never_executes)
        .count();
    if text == 0 || text == pages.len() {
        bail!(
            "the monitor lists {} pages of the hypervisor, {text} of them text",
            pages.len()
        );
    }
    for page in &pages {
        let at = page.address;
        if page.writable && !page.never_executes {
            bail!("the page at {at:#x} can be written and executed");
        }
        if page.user && (page.writable || !M2P.contains(&at)) {
            bail!("a guest reaches the page at {at:#x}");
        }
        if !page.never_executes && !IMAGE.contains(&at) {
            bail!("the page at {at:#x} can be executed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ffff808000000000: 0000000000200000 -----A---\n";
    const DATA: &str = "ffff808000040000: 0000000000240000 X--DA---W\n";

    fn with(line: &str) -> Result<()> {
        check(&format!("(qemu) info tlb\n{TEXT}{DATA}{line}(qemu) "))
    }

    #[test]
    fn each_kind_of_page_that_must_not_be_is_found() {
        assert!(with("").is_ok());
        assert!(with("ffff800000000000: 0000000001000000 X-P-A--U-\n").is_ok());
        assert!(
            with("ffffffff80000000: 0000000001000000 ---DA--UW\n").is_ok(),
            "a guest's own"
        );
        for wrong in [
            "ffff808000041000: 0000000000241000 ---DA---W\n",
            "ffff800000000000: 0000000001000000 X-P-A--UW\n",
            "ffff830000000000: 0000000000000000 X-P-A--U-\n",
            "ffff830000000000: 0000000000000000 --P-A----\n",
        ] {
            assert!(with(wrong).is_err(), "{wrong}");
        }
        assert!(check("").is_err(), "no list at all");
    }
}
