//! The exceptions of x86-64, as values: which one, with which error code, at which address.
//!
//! What makes a guest see one, the bounce, lives elsewhere; so does the decision who gets it.

use core::fmt;

macro_rules! vectors {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal $code:literal;)*) => {
        /// An exception that the CPU raises. SPEC: Intel SDM volume 3, table 6-1; AMD APM volume 2, table 8-1.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Vector {
            $($(#[$doc])* $name = $number,)*
        }

        impl Vector {
            /// Every one, in ascending order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Decodes a vector; `None` for a number that no exception has.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name in manuals.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// Whether the CPU pushes an error code.
            pub const fn has_error_code(self) -> bool {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }
    };
}

vectors! {
    /// Division by zero, or the quotient does not fit.
    DivideError = 0 "#DE" false;
    /// Single step, breakpoint register.
    Debug = 1 "#DB" false;
    /// Non-maskable interrupt.
    Nmi = 2 "NMI" false;
    /// `int3`.
    Breakpoint = 3 "#BP" false;
    /// `into`.
    Overflow = 4 "#OF" false;
    /// `bound`.
    BoundRange = 5 "#BR" false;
    /// No such instruction.
    InvalidOpcode = 6 "#UD" false;
    /// FPU not available: CR0.TS or CR0.EM.
    DeviceNotAvailable = 7 "#NM" false;
    /// An exception while another was being delivered.
    DoubleFault = 8 "#DF" true;
    /// The task state segment is not valid.
    InvalidTss = 10 "#TS" true;
    /// A segment is not present.
    SegmentNotPresent = 11 "#NP" true;
    /// Stack segment, or a stack address that is not canonical.
    StackFault = 12 "#SS" true;
    /// Everything that has no exception of its own.
    GeneralProtection = 13 "#GP" true;
    /// Page fault.
    PageFault = 14 "#PF" true;
    /// x87.
    FloatingPoint = 16 "#MF" false;
    /// Alignment check.
    AlignmentCheck = 17 "#AC" true;
    /// Machine check.
    MachineCheck = 18 "#MC" false;
    /// SIMD.
    Simd = 19 "#XM" false;
    /// Virtualization exception.
    Virtualization = 20 "#VE" false;
    /// Control-flow protection.
    ControlProtection = 21 "#CP" true;
    /// Injected by a hypervisor (AMD).
    HypervisorInjection = 28 "#HV" false;
    /// Of an encrypted guest's hypervisor (AMD).
    VmmCommunication = 29 "#VC" true;
    /// Security (AMD).
    Security = 30 "#SX" true;
}

impl Vector {
    /// The number of the vector.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An exception for a guest. It has an error code exactly if [`Vector::has_error_code`] says so, and a fault address
/// exactly if it is a page fault: the fields are private so that no other combination exists.
#[must_use = "an exception that nobody delivers leaves the guest at the instruction that raised it"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    vector: Vector,
    error_code: u32,
    fault_address: u64,
}

impl Exception {
    /// Any exception. `error_code` is dropped for a vector that has none; a page fault gets address 0, so use
    /// [`Exception::pf`] for those.
    pub const fn new(vector: Vector, error_code: u32) -> Self {
        let error_code = if vector.has_error_code() {
            error_code
        } else {
            0
        };
        Self {
            vector,
            error_code,
            fault_address: 0,
        }
    }

    /// Single step or breakpoint.
    pub const fn db() -> Self {
        Self::new(Vector::Debug, 0)
    }

    /// Invalid opcode.
    pub const fn ud() -> Self {
        Self::new(Vector::InvalidOpcode, 0)
    }

    /// FPU not available.
    pub const fn nm() -> Self {
        Self::new(Vector::DeviceNotAvailable, 0)
    }

    /// Stack fault.
    pub const fn ss(error_code: u32) -> Self {
        Self::new(Vector::StackFault, error_code)
    }

    /// General protection.
    pub const fn gp(error_code: u32) -> Self {
        Self::new(Vector::GeneralProtection, error_code)
    }

    /// Page fault at `fault_address`; the error code is a combination of [`PageFaultCode`] bits.
    pub const fn pf(fault_address: u64, error_code: u32) -> Self {
        Self {
            vector: Vector::PageFault,
            error_code,
            fault_address,
        }
    }

    /// Which one.
    pub const fn vector(self) -> Vector {
        self.vector
    }

    /// The error code, for a vector that has one.
    pub const fn error_code(self) -> Option<u32> {
        if self.vector.has_error_code() {
            Some(self.error_code)
        } else {
            None
        }
    }

    /// The address, for a page fault.
    pub const fn fault_address(self) -> Option<u64> {
        match self.vector {
            Vector::PageFault => Some(self.fault_address),
            _ => None,
        }
    }
}

/// Bits in the error code of a page fault. SPEC: Intel SDM volume 3, 4.7.
pub struct PageFaultCode;

impl PageFaultCode {
    /// The page is mapped: rights were missing.
    pub const PRESENT: u32 = 1 << 0;
    /// A write.
    pub const WRITE: u32 = 1 << 1;
    /// From user mode.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit was set in a table.
    pub const RESERVED: u32 = 1 << 3;
    /// An instruction fetch.
    pub const FETCH: u32 = 1 << 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_error_codes() {
        for number in 0..=u8::MAX {
            match Vector::from_number(number) {
                Some(vector) => {
                    assert_eq!(vector.number(), number);
                    let with_code = [8, 10, 11, 12, 13, 14, 17, 21, 29, 30].contains(&number);
                    assert_eq!(vector.has_error_code(), with_code, "{vector}");
                }
                None => assert!(matches!(number, 9 | 15 | 22..=27 | 31..)),
            }
        }
        assert!(Vector::ALL.iter().is_sorted());
    }

    #[test]
    fn parts_exist_only_where_they_mean_something() {
        for &vector in Vector::ALL {
            let exception = Exception::new(vector, 0x18);
            assert_eq!(exception.error_code().is_some(), vector.has_error_code());
            assert_eq!(
                exception.fault_address().is_some(),
                vector == Vector::PageFault
            );
        }
        let fault = Exception::pf(0x1234, PageFaultCode::WRITE | PageFaultCode::USER);
        assert_eq!(fault.fault_address(), Some(0x1234));
        assert_eq!(fault.error_code(), Some(6));
        assert_eq!(Exception::gp(0).error_code(), Some(0));
        assert_eq!(Exception::ud().error_code(), None);
    }
}
