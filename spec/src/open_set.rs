//! One macro: a set of values that later revisions extend, as a newtype with constants.

/// Defines a newtype over an integer, a constant for every value that the documents name, and
/// `name()`. Values without a name are as valid as the others.
macro_rules! open_set {
    (
        $(#[$attribute:meta])*
        pub struct $type:ident($integer:ty): $unnamed:literal {
            $($constant:ident = $value:literal, $name:literal $(, $note:literal)?;)*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
        #[derive(zerocopy::KnownLayout)]
        #[repr(transparent)]
        pub struct $type(pub $integer);

        impl $type {
            $(
                #[doc = concat!($name, $(". ", $note,)? " (", stringify!($value), ").")]
                pub const $constant: Self = Self($value);
            )*

            /// The documents' name of this value, or a word that says there is none.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => $name,)*
                    _ => $unnamed,
                }
            }
        }

        /// Shows the name and the value.
        impl core::fmt::Display for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{} ({:02x}h)", self.name(), self.0)
            }
        }

        impl core::fmt::Debug for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{}({:#04x})", stringify!($type), self.0)
            }
        }

        impl From<$integer> for $type {
            fn from(value: $integer) -> Self {
                Self(value)
            }
        }

        impl From<$type> for $integer {
            fn from(value: $type) -> Self {
                value.0
            }
        }
    };
}
pub(crate) use open_set;
