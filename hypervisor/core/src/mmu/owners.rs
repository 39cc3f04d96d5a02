//! Whose tables and whose pages a call is about, and whether the caller may (I28).

use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;

use crate::domain::Domain;
use crate::domain::table::DomainRef;
use crate::host::Host;
use crate::hypercall::CallCtx;
use crate::page_type::hold::{Pages, Reach};

/// A domain that a call names.
pub(crate) enum Named<'a> {
    /// The caller's own.
    Own(&'a Domain),
    /// Another one, which the caller controls.
    Other(DomainRef<'a>),
}

impl Named<'_> {
    /// The domain.
    pub(crate) fn domain(&self) -> &Domain {
        match self {
            Self::Own(domain) => domain,
            Self::Other(domain) => domain,
        }
    }
}

/// Whose pages.
pub(super) enum Owner<'a> {
    /// A domain's.
    Domain(Named<'a>),
    /// Devices'.
    Devices,
    /// The hypervisor's, as far as domains may see them.
    Hypervisor,
}

impl Owner<'_> {
    /// Whether that is the caller.
    pub(super) const fn is_own(&self) -> bool {
        matches!(self, Self::Domain(Named::Own(_)))
    }
}

/// Finds a domain that the caller may act for. `EPERM`: it may not, whether there is such a domain or not. `ESRCH`: there is none,
/// or it is the caller's own, which has another name here.
pub(crate) fn domain<'a>(ctx: &CallCtx<'a>, id: DomId) -> Result<Named<'a>, Errno> {
    if id == DomId::SELF {
        return Ok(Named::Own(ctx.domain));
    }
    if id == ctx.domain.id {
        return Err(Errno::ESRCH);
    }
    let host: &'a Host = ctx.host;
    match host.domains.get(id) {
        _ if !ctx.is_control() => Err(Errno::EPERM),
        Some(domain) => Ok(Named::Other(domain)),
        None => Err(Errno::ESRCH),
    }
}

/// Finds the owner of pages: a domain, or one of the two that are none. Fails as [`domain`].
pub(super) fn owner<'a>(ctx: &CallCtx<'a>, id: DomId) -> Result<Owner<'a>, Errno> {
    match id {
        DomId::IO => Ok(Owner::Devices),
        DomId::XEN if ctx.is_control() => Ok(Owner::Hypervisor),
        DomId::XEN => Err(Errno::EPERM),
        id => domain(ctx, id).map(Owner::Domain),
    }
}

/// What entries may lead to that the caller writes into the tables of one domain and that map pages of an owner.
pub(super) fn reach<'a>(ctx: &CallCtx<'a>, tables: DomId, owner: &'a Owner<'_>) -> Reach<'a> {
    let host: &'a Host = ctx.host;
    let pages = match owner {
        Owner::Domain(named) => Pages::Of(named.domain().id),
        Owner::Devices => Pages::Devices,
        Owner::Hypervisor => Pages::Hypervisor,
    };
    // Nobody gets a device by way of a domain that has none, even if the one that asks has.
    let rights = match owner {
        Owner::Domain(named) => named.domain(),
        Owner::Devices | Owner::Hypervisor => ctx.domain,
    };
    Reach {
        tables,
        pages,
        ..Reach::own(host, rights)
    }
}
