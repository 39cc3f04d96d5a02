//! Copies between grants and pages of the guest's own.

use dom0_abi::grant_table::{
    CopyFlags, GrantCopy, GrantFlags, GrantStatus, GrantTableCommand as Cmd,
};
use dom0_abi::ids::DomId;
use kit::Report;
use kit::page_tables::page;

use kit::grants::{Grants, PERMIT, UNTOUCHED, copy, copy_end, operate};

use super::{BAD_DOMAIN, BAD_PAGE, BAD_REF, GENERAL, OKAY};

const FROM: u16 = CopyFlags::SOURCE_GREF.bits();
const TO: u16 = CopyFlags::DEST_GREF.bits();

pub fn check(report: &mut Report, grants: &Grants) {
    let (granted, own) = (page(), page());
    let (me, own_name) = (DomId::DOM0, DomId::SELF);
    let denied = GrantStatus::PermissionDenied as i16;
    let bad_arg = GrantStatus::BadCopyArg as i16;
    let readonly = GrantFlags::READONLY.bits();
    let table = grants.lab.table(1).mfn;
    let (grant, mfn) = (30, own.mfn());
    for (what, flags, source, dest, len, how, wanted) in [
        (
            "from a grant",
            PERMIT,
            copy_end(me, grant, 0),
            copy_end(own_name, mfn, 0),
            4096,
            FROM,
            OKAY,
        ),
        (
            "of one's own name",
            PERMIT,
            copy_end(own_name, grant, 8),
            copy_end(own_name, mfn, 16),
            99,
            FROM,
            OKAY,
        ),
        (
            "into a grant",
            PERMIT,
            copy_end(own_name, mfn, 0),
            copy_end(me, grant, 1),
            17,
            TO,
            OKAY,
        ),
        (
            "between grants",
            PERMIT,
            copy_end(me, grant, 0),
            copy_end(me, grant, 2048),
            2048,
            FROM | TO,
            OKAY,
        ),
        (
            "between pages",
            PERMIT,
            copy_end(own_name, mfn, 0),
            copy_end(own_name, mfn, 2048),
            9,
            0,
            OKAY,
        ),
        (
            "nothing",
            PERMIT,
            copy_end(me, grant, 4096),
            copy_end(own_name, mfn, 4096),
            0,
            FROM,
            OKAY,
        ),
        (
            "beyond the source",
            PERMIT,
            copy_end(me, grant, 4095),
            copy_end(own_name, mfn, 0),
            2,
            FROM,
            bad_arg,
        ),
        (
            "beyond the destination",
            PERMIT,
            copy_end(me, grant, 0),
            copy_end(own_name, mfn, 1),
            4096,
            FROM,
            bad_arg,
        ),
        (
            "far beyond",
            PERMIT,
            copy_end(me, grant, 0xffff),
            copy_end(own_name, mfn, 0xffff),
            0xffff,
            FROM,
            bad_arg,
        ),
        (
            "what is to be read",
            PERMIT | readonly,
            copy_end(me, grant, 0),
            copy_end(own_name, mfn, 0),
            9,
            FROM,
            OKAY,
        ),
        (
            "into what is to be read",
            PERMIT | readonly,
            copy_end(own_name, mfn, 0),
            copy_end(me, grant, 0),
            9,
            TO,
            GENERAL,
        ),
        (
            "what is not granted",
            0,
            copy_end(me, grant, 0),
            copy_end(own_name, mfn, 0),
            9,
            FROM,
            GENERAL,
        ),
        (
            "no grant",
            PERMIT,
            copy_end(me, 0x8000, 0),
            copy_end(own_name, mfn, 0),
            9,
            FROM,
            BAD_REF,
        ),
        (
            "by number",
            PERMIT,
            copy_end(me, mfn, 0),
            copy_end(own_name, mfn, 0),
            9,
            0,
            denied,
        ),
        (
            "into, by number",
            PERMIT,
            copy_end(own_name, mfn, 0),
            copy_end(me, mfn, 0),
            9,
            0,
            denied,
        ),
        (
            "of nobody",
            PERMIT,
            copy_end(DomId::new(1), grant, 0),
            copy_end(own_name, mfn, 0),
            9,
            FROM,
            BAD_DOMAIN,
        ),
        (
            "no frame",
            PERMIT,
            copy_end(own_name, 0xffff_ffff, 0),
            copy_end(own_name, mfn, 0),
            9,
            0,
            BAD_PAGE,
        ),
        (
            "no frame at all",
            PERMIT,
            copy_end(own_name, !0, 0),
            copy_end(own_name, mfn, 0),
            9,
            0,
            BAD_PAGE,
        ),
        (
            "into no frame",
            PERMIT,
            copy_end(me, grant, 0),
            copy_end(own_name, 0xffff_ffff, 0),
            9,
            FROM,
            BAD_PAGE,
        ),
        (
            "from a table",
            PERMIT,
            copy_end(own_name, table, 0),
            copy_end(own_name, mfn, 0),
            9,
            0,
            OKAY,
        ),
        (
            "into a table",
            PERMIT,
            copy_end(me, grant, 0),
            copy_end(own_name, table, 0),
            9,
            FROM,
            GENERAL,
        ),
    ] {
        grants.set(grant as u32, flags, me, granted.mfn());
        report.equal(
            format_args!("copy {what}"),
            copy(source, dest, len, how),
            wanted,
        );
        report.equal("the grant is as before", grants.flags(grant as u32), flags);
    }
    bytes(report, grants);
    many(report, grants);
}

/// Where the bytes go.
fn bytes(report: &mut Report, grants: &Grants) {
    let granted = grants.fresh(31, 0);
    let own = page();
    for word in 0..512 {
        granted.set_word(word, 0x0101_0101_0101_0101 * (word as u64 % 200));
    }
    let status = copy(
        copy_end(DomId::DOM0, 31, 80),
        copy_end(DomId::SELF, own.mfn(), 163),
        1001,
        FROM,
    );
    report.equal("bytes are copied", status, OKAY);
    let byte = |index: u64| match index {
        163..1164 => (index - 163 + 80) / 8 % 200,
        _ => 0,
    };
    let word = |index: u64| (0..8).fold(0, |word, at| word | byte(index * 8 + at) << (at * 8));
    let wrong = (0..512).find(|&index| own.word(index as usize) != Ok(word(index)));
    report.equal("all of them and no other", wrong, None);
}

/// More than a call may take at once.
fn many(report: &mut Report, grants: &Grants) {
    let granted = grants.fresh(32, 0);
    granted.set_word(511, 0x77);
    let own = page();
    let mut ops = [const { None }; 60].map(|_: Option<()>| GrantCopy::zeroed());
    for op in &mut ops {
        op.source = copy_end(DomId::DOM0, 32, 0);
        op.dest = copy_end(DomId::SELF, own.mfn(), 0);
        (op.len, op.flags, op.status) = (4096, FROM, UNTOUCHED);
    }
    ops[30].source.u = 0x8000;
    report.equal("many copies", operate(Cmd::Copy, &mut ops), Ok(0));
    let okay = ops.iter().filter(|op| op.status == OKAY).count();
    report.equal("so many of them", (okay, ops[30].status), (59, BAD_REF));
    report.equal("what they copied", own.word(511), Ok(0x77));
}
