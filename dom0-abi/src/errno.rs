//! Error numbers. ABI: `public/errno.h`.

use crate::record::abi_enum;

abi_enum! {
    /// Why a hypercall failed. The numbers are the ABI's own; a guest sees them negative, in 64 bits.
    #[doc(alias = "xen_errno")]
    pub enum Errno: u8 {
        /// The caller may not do this.
        EPERM = 1 => "XEN_EPERM",
        /// No such thing.
        ENOENT = 2 => "XEN_ENOENT",
        /// No such domain.
        ESRCH = 3 => "XEN_ESRCH",
        /// Interrupted.
        EINTR = 4 => "XEN_EINTR",
        /// Input or output failed.
        EIO = 5 => "XEN_EIO",
        /// No such device or address.
        ENXIO = 6 => "XEN_ENXIO",
        /// The request is too big.
        E2BIG = 7 => "XEN_E2BIG",
        /// Not an executable that can be loaded.
        ENOEXEC = 8 => "XEN_ENOEXEC",
        /// Bad handle.
        EBADF = 9 => "XEN_EBADF",
        /// No child.
        ECHILD = 10 => "XEN_ECHILD",
        /// Try again.
        EAGAIN = 11 => "XEN_EAGAIN",
        /// Not enough memory.
        ENOMEM = 12 => "XEN_ENOMEM",
        /// Refused; also an interface version that is not spoken.
        EACCES = 13 => "XEN_EACCES",
        /// A guest address could not be read or written.
        EFAULT = 14 => "XEN_EFAULT",
        /// In use.
        EBUSY = 16 => "XEN_EBUSY",
        /// Exists already.
        EEXIST = 17 => "XEN_EEXIST",
        /// Belongs to somebody else.
        EXDEV = 18 => "XEN_EXDEV",
        /// No such device.
        ENODEV = 19 => "XEN_ENODEV",
        /// Not a directory.
        ENOTDIR = 20 => "XEN_ENOTDIR",
        /// Is a directory.
        EISDIR = 21 => "XEN_EISDIR",
        /// An argument has no valid meaning.
        EINVAL = 22 => "XEN_EINVAL",
        /// The host-wide limit of open things is reached.
        ENFILE = 23 => "XEN_ENFILE",
        /// The caller's limit of open things is reached.
        EMFILE = 24 => "XEN_EMFILE",
        /// No slot left.
        ENOSPC = 28 => "XEN_ENOSPC",
        /// Not writable.
        EROFS = 30 => "XEN_EROFS",
        /// Too many references.
        EMLINK = 31 => "XEN_EMLINK",
        /// Outside the domain of the function.
        EDOM = 33 => "XEN_EDOM",
        /// Outside the range.
        ERANGE = 34 => "XEN_ERANGE",
        /// Would wait for ever.
        EDEADLK = 35 => "XEN_EDEADLK",
        /// The name is too long.
        ENAMETOOLONG = 36 => "XEN_ENAMETOOLONG",
        /// No lock left.
        ENOLCK = 37 => "XEN_ENOLCK",
        /// Not implemented.
        ENOSYS = 38 => "XEN_ENOSYS",
        /// Not empty.
        ENOTEMPTY = 39 => "XEN_ENOTEMPTY",
        /// No data.
        ENODATA = 61 => "XEN_ENODATA",
        /// The time has passed.
        ETIME = 62 => "XEN_ETIME",
        /// The message is malformed.
        EBADMSG = 74 => "XEN_EBADMSG",
        /// The value does not fit.
        EOVERFLOW = 75 => "XEN_EOVERFLOW",
        /// Malformed sequence of bytes.
        EILSEQ = 84 => "XEN_EILSEQ",
        /// To be started again; used between parts of the hypervisor and never returned to a guest.
        ERESTART = 85 => "XEN_ERESTART",
        /// Not a socket.
        ENOTSOCK = 88 => "XEN_ENOTSOCK",
        /// The message is too large.
        EMSGSIZE = 90 => "XEN_EMSGSIZE",
        /// Not supported here.
        EOPNOTSUPP = 95 => "XEN_EOPNOTSUPP",
        /// The address is in use.
        EADDRINUSE = 98 => "XEN_EADDRINUSE",
        /// The address is not available.
        EADDRNOTAVAIL = 99 => "XEN_EADDRNOTAVAIL",
        /// The buffer given is too short.
        ENOBUFS = 105 => "XEN_ENOBUFS",
        /// Connected already.
        EISCONN = 106 => "XEN_EISCONN",
        /// Not connected.
        ENOTCONN = 107 => "XEN_ENOTCONN",
        /// Timed out.
        ETIMEDOUT = 110 => "XEN_ETIMEDOUT",
        /// Connection refused.
        ECONNREFUSED = 111 => "XEN_ECONNREFUSED",
    }
}

impl Errno {
    /// Another name of [`Errno::EAGAIN`].
    #[doc(alias = "XEN_EWOULDBLOCK")]
    pub const EWOULDBLOCK: Self = Self::EAGAIN;
    /// Another name of [`Errno::EDEADLK`].
    #[doc(alias = "XEN_EDEADLOCK")]
    pub const EDEADLOCK: Self = Self::EDEADLK;

    /// The number that a hypercall returns: negative.
    pub const fn as_return(self) -> i64 {
        -(self as i64)
    }

    /// The same number as the bits of the return register.
    pub const fn as_register(self) -> u64 {
        self.as_return() as u64
    }

    /// The error that a return value stands for; `None` if the call succeeded or the number is not known.
    pub fn from_return(value: i64) -> Option<Self> {
        let number = u8::try_from(value.checked_neg()?).ok()?;
        Self::try_from(number).ok()
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_return_register() {
        for &error in Errno::ALL {
            assert!(error.as_return() < 0);
            assert_eq!(error.as_register() as i64, error.as_return());
            assert_eq!(Errno::from_return(error.as_return()), Some(error));
        }
        for not_an_error in [0, 1, 22, -15, -256, i64::MIN, i64::MAX] {
            assert_eq!(Errno::from_return(not_an_error), None);
        }
    }
}
