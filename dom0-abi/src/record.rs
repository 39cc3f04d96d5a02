//! How the other modules state a structure, a value set or a constant once, and leave a record of it behind.
//!
//! `abi_structs!`, `abi_enum!`, `abi_flags!` and `abi_constants!` are the only ways by which this crate defines what
//! the C headers also define. Each emits, beside the Rust item, a [`Layout`] or a [`Group`] of [`Constant`]s that
//! carries the C spelling; `tests/abi` walks the records in [`crate::LAYOUTS`] and [`crate::CONSTANTS`] and compares
//! all of them with what a C compiler makes of the headers.

/// One structure: what Rust made of it and which C type it stands for.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Name of the Rust type, with its module.
    pub rust: &'static str,
    /// The C type: `struct name`, a type name, or `struct name: member` for the unnamed type of a member.
    pub c: &'static str,
    /// Bytes of the whole structure.
    pub size: usize,
    /// The fields in order, explicit padding included.
    pub fields: &'static [Field],
}

/// One field of a [`Layout`].
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name of the Rust field; explicit padding begins with `_pad`.
    pub rust: &'static str,
    /// The member in C, as `offsetof` accepts it; equals `rust` unless a spelling was given. `*` if the C type is no
    /// structure but an array, which the field stands for.
    pub c: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// Bytes of the field.
    pub size: usize,
}

impl Field {
    /// Whether the field only spells out what the C compiler leaves unnamed.
    pub fn is_padding(&self) -> bool {
        self.rust.starts_with("_pad")
    }
}

/// The constants that belong to one type or one module.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Name of the Rust type with its module, or of the module for free-standing constants.
    pub rust: &'static str,
    /// The constants.
    pub constants: &'static [Constant],
}

/// One constant that has a name in the C headers.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    /// The C macro or enumerator.
    pub c: &'static str,
    /// The value, sign-extended to 64 bits if its type is signed.
    pub value: u64,
    /// Bytes of the Rust type that holds it.
    pub width: usize,
}

/// A number that is none of a type's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

/// Defines the wire structures of a module and the list `LAYOUTS` of their records.
///
/// The number behind the C type is the size in bytes, asserted when compiling. A field's C name is given by
/// `= "name"` where it differs. Implicit padding does not compile (`IntoBytes`): spell it as a `_pad…` field, so that
/// no byte of the hypervisor ever reaches a guest through a hole.
macro_rules! abi_structs {
    (
        $(
            $(#[$meta:meta])*
            pub struct $name:ident = $c:literal, $size:literal {
                $(
                    $(#[$field_meta:meta])*
                    pub $field:ident: $ty:ty $(= $field_c:literal)?,
                )*
            }
        )+
    ) => {
        $(
            $(#[$meta])*
            #[doc = concat!("\n\nABI: `", $c, "`.")]
            #[doc(alias = $c)]
            #[derive(
                Clone,
                Copy,
                Debug,
                PartialEq,
                Eq,
                ::zerocopy::FromBytes,
                ::zerocopy::IntoBytes,
                ::zerocopy::Immutable,
                ::zerocopy::KnownLayout,
            )]
            #[repr(C)]
            pub struct $name {
                $(
                    $(#[$field_meta])*
                    $(#[doc(alias = $field_c)])?
                    pub $field: $ty,
                )*
            }

            const _: () = assert!(size_of::<$name>() == $size);

            impl $name {
                /// The record of this structure.
                pub const LAYOUT: $crate::record::Layout = $crate::record::Layout {
                    rust: concat!(module_path!(), "::", stringify!($name)),
                    c: $c,
                    size: size_of::<Self>(),
                    fields: &[$(
                        $crate::record::Field {
                            rust: stringify!($field),
                            c: abi_structs!(@c $field $($field_c)?),
                            offset: core::mem::offset_of!(Self, $field),
                            size: size_of::<$ty>(),
                        },
                    )*],
                };

                /// The structure with every byte zero.
                pub fn zeroed() -> Self {
                    ::zerocopy::FromZeros::new_zeroed()
                }
            }
        )+

        /// The records of this module's structures.
        pub const LAYOUTS: &[$crate::record::Layout] = &[$($name::LAYOUT),+];
    };
    (@c $field:ident) => { stringify!($field) };
    (@c $field:ident $c:literal) => { $c };
}

/// Gives a structure whose last field `u` stands for a C union the means to read and write one variant of it.
macro_rules! union_bytes {
    ($name:ident, $size:literal) => {
        impl $name {
            /// The union, read as the variant `T`. A `T` larger than the union does not compile.
            pub fn variant<T: ::zerocopy::FromBytes>(&self) -> T {
                const { assert!(size_of::<T>() <= $size) }
                match T::read_from_prefix(&self.u) {
                    Ok((variant, _)) => variant,
                    // Not reached: the union is long enough, and bytes have no alignment to miss.
                    Err(_) => T::new_zeroed(),
                }
            }

            /// Writes the variant `T` into the union and leaves the bytes behind it as they are. A `T` larger than
            /// the union does not compile.
            pub fn set_variant<T: ::zerocopy::IntoBytes + ::zerocopy::Immutable>(
                &mut self,
                variant: &T,
            ) {
                const { assert!(size_of::<T>() <= $size) }
                for (to, from) in self.u.iter_mut().zip(variant.as_bytes()) {
                    *to = *from;
                }
            }
        }
    };
}

/// Defines a closed set of values that arrives as a number: an enum, decoded by `TryFrom`, never by a cast.
macro_rules! abi_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident: $raw:ident {
            $(
                $(#[$variant_meta:meta])*
                $variant:ident = $value:literal => $c:literal,
            )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr($raw)]
        pub enum $name {
            $(
                $(#[$variant_meta])*
                #[doc(alias = $c)]
                $variant = $value,
            )+
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The record of the values.
            pub const CONSTANTS: $crate::record::Group = $crate::record::Group {
                rust: concat!(module_path!(), "::", stringify!($name)),
                constants: &[$(
                    $crate::record::Constant {
                        c: $c,
                        value: $value as $raw as i64 as u64,
                        width: size_of::<$raw>(),
                    },
                )+],
            };

            /// The number, as the ABI carries it.
            pub const fn get(self) -> $raw {
                self as $raw
            }
        }

        impl TryFrom<$raw> for $name {
            type Error = $crate::record::Unknown;

            fn try_from(value: $raw) -> Result<Self, $crate::record::Unknown> {
                match value {
                    $($value => Ok(Self::$variant),)+
                    _ => Err($crate::record::Unknown),
                }
            }
        }
    };
}

/// Defines a set of flags; `from_bits` refuses bits that the ABI does not name.
macro_rules! abi_flags {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $raw:ident {
            $(
                $(#[$($flag_meta:tt)*])*
                const $flag:ident = $value:expr => $c:literal,
            )+
        }
    ) => {
        ::bitflags::bitflags! {
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            pub struct $name: $raw {
                $(
                    $(#[$($flag_meta)*])*
                    #[doc(alias = $c)]
                    const $flag = $value;
                )+
            }
        }

        impl $name {
            /// The record of the flags.
            pub const CONSTANTS: $crate::record::Group = $crate::record::Group {
                rust: concat!(module_path!(), "::", stringify!($name)),
                constants: &[$(
                    $crate::record::Constant {
                        c: $c,
                        value: $name::$flag.bits() as u64,
                        width: size_of::<$raw>(),
                    },
                )+],
            };
        }
    };
}

/// Defines the free-standing constants of a module and their record, the `Group` `VALUES`. The C name is given where it
/// differs.
macro_rules! abi_constants {
    (
        $(
            $(#[$meta:meta])*
            pub const $name:ident: $ty:ident = $value:expr $(=> $c:literal)?;
        )+
    ) => {
        $(
            $(#[$meta])*
            $(#[doc(alias = $c)])?
            pub const $name: $ty = $value;
        )+

        /// The record of this module's free-standing constants.
        pub const VALUES: $crate::record::Group = $crate::record::Group {
            rust: module_path!(),
            constants: &[$(
                $crate::record::Constant {
                    c: abi_constants!(@c $name $($c)?),
                    value: $name as i64 as u64,
                    width: size_of::<$ty>(),
                },
            )+],
        };
    };
    (@c $name:ident) => { stringify!($name) };
    (@c $name:ident $c:literal) => { $c };
}

pub(crate) use {abi_constants, abi_enum, abi_flags, abi_structs, union_bytes};

#[cfg(test)]
mod tests {
    use crate::domctl::{Domctl, MaxMem};
    use crate::handle::GuestHandle;
    use crate::{addr::GuestAddr, xen::MmuUpdate};

    #[test]
    fn a_variant_is_read_and_written_at_the_start_of_its_union() {
        let mut op = Domctl {
            u: [0xee; 128],
            ..Domctl::zeroed()
        };
        op.set_variant(&MaxMem { max_memkb: 0x0102 });
        assert_eq!(op.u[..9], [2, 1, 0, 0, 0, 0, 0, 0, 0xee]);
        assert_eq!(op.variant::<MaxMem>().max_memkb, 0x0102);
    }

    #[test]
    fn a_handle_steps_by_its_target_and_never_wraps() {
        let handle = GuestHandle::<MmuUpdate>::new(GuestAddr::new(0x1000));
        assert_eq!(
            handle.element(3).map(|next| next.addr().get()),
            Some(0x1030)
        );
        assert_eq!(handle.element(u64::MAX / 16), None);
        assert_eq!(handle.element(u64::MAX), None);
    }
}
