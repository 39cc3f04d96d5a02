//! Grant tables: their size and frames, maps and copies of what the guest grants to itself, errors, and long lists.
//!
//! A domain may map its own grants, so one guest sees all of it but what another domain's frame makes different.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

mod copies;
mod maps;
mod tables;

use dom0_abi::grant_table::GrantStatus;
use kit::Report;
use kit::grants::Grants;
use kit::page_tables::Lab;

kit::guest!("grant-tables", main);

/// From where on grants are mapped.
const MAP_SLOT: usize = Grants::FREE_SLOT;

fn main(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    tables::check(report);
    let Some(grants) = Grants::new(lab) else {
        return report.check("the grant table is mapped", false, "refused");
    };
    maps::check(report, &grants);
    copies::check(report, &grants);
    tables::swap(report, &grants);
}

const OKAY: i16 = GrantStatus::Okay as i16;
const GENERAL: i16 = GrantStatus::GeneralError as i16;
const BAD_DOMAIN: i16 = GrantStatus::BadDomain as i16;
const BAD_REF: i16 = GrantStatus::BadGntref as i16;
const BAD_HANDLE: i16 = GrantStatus::BadHandle as i16;
const BAD_PAGE: i16 = GrantStatus::BadPage as i16;
