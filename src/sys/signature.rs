//! Functions as lists of types that can be compared: those of our bindings with those that `cudarc` generates from the headers.
//!
//! What counts is how an argument is handed over: its size, whether it is a pointer, to what where that is a number, and whether
//! it is a floating-point number, which goes in other registers.

/// The functions of a library with their types: arguments, then the result.
pub(in crate::sys) trait Bound {
    fn signatures() -> Vec<(&'static str, Vec<String>)>;
}

pub(in crate::sys) trait Signature {
    fn types() -> Vec<String>;
}

/// The types of a function that is at hand.
pub(in crate::sys) fn types_of<F: Signature>(_: F) -> Vec<String> {
    F::types()
}

/// How a value of a type is handed over. An enum of C is a number of four bytes; what an opaque pointer points to does not count.
fn shown<T>() -> String {
    let name = std::any::type_name::<T>();
    let mut pointee = name;
    let mut depth = 0;
    while let Some(rest) = pointee.strip_prefix("*const ").or_else(|| pointee.strip_prefix("*mut ")) {
        (pointee, depth) = (rest, depth + 1);
    }
    if depth > 0 {
        return format!("{}{}", "*".repeat(depth), number(pointee).unwrap_or("any"));
    }
    match number(name) {
        Some("f32") => "f32".to_owned(),
        Some("f64") => "f64".to_owned(),
        _ => format!("{} bytes", size_of::<T>()),
    }
}

/// What a struct behind a pointer looks like is not seen here: the tests beside the bindings hold sizes and offsets.
/// Signedness is of no account to the caller of a function.
fn number(name: &str) -> Option<&'static str> {
    Some(match name {
        "i8" | "u8" => "8",
        "i16" | "u16" => "16",
        "i32" | "u32" => "32",
        "i64" | "u64" | "isize" | "usize" => "64",
        "f32" => "f32",
        "f64" => "f64",
        // An enum of C behind a pointer: the tests beside the binding hold its size.
        _ if name.ends_with("::ncclResult_t") => "32",
        _ => return None,
    })
}

macro_rules! signature {
    ($($arg:ident)*) => {
        impl<R, $($arg),*> Signature for unsafe extern "C" fn($($arg),*) -> R {
            fn types() -> Vec<String> {
                vec![$(shown::<$arg>(),)* shown::<R>()]
            }
        }

        // `cudarc` wraps each function of C in one of Rust with the same types.
        impl<R, $($arg),*> Signature for unsafe fn($($arg),*) -> R {
            fn types() -> Vec<String> {
                vec![$(shown::<$arg>(),)* shown::<R>()]
            }
        }
    };
}

signature!();
signature!(A);
signature!(A B);
signature!(A B C);
signature!(A B C D);
signature!(A B C D E);
signature!(A B C D E F);
signature!(A B C D E F G);
signature!(A B C D E F G H);
signature!(A B C D E F G H I);
signature!(A B C D E F G H I J);
signature!(A B C D E F G H I J K);
signature!(A B C D E F G H I J K L);
signature!(A B C D E F G H I J K L M);
signature!(A B C D E F G H I J K L M N);
signature!(A B C D E F G H I J K L M N O);
signature!(A B C D E F G H I J K L M N O P);

/// Holds every function of a binding against those that `cudarc` has for the same library; `_` stands for one argument.
macro_rules! assert_signatures {
    ($ours:ty, $theirs:path, { $($symbol:ident($($arg:tt)*);)* }) => {{
        use $theirs as theirs;
        let theirs: Vec<(&str, Vec<String>)> = vec![
            $((stringify!($symbol), $crate::sys::signature::types_of(theirs::$symbol as unsafe fn($($arg)*) -> _)),)*
        ];
        let ours = <$ours as $crate::sys::signature::Bound>::signatures();
        for (symbol, types) in &ours {
            let known = theirs.iter().find(|(name, _)| name == symbol);
            let known = known.unwrap_or_else(|| panic!("{symbol} is held against nothing"));
            assert_eq!(types, &known.1, "{symbol}");
        }
        assert_eq!(ours.len(), theirs.len());
    }};
}

pub(in crate::sys) use assert_signatures;

mod tests {
    use super::{Signature, shown};
    use std::ffi::{c_char, c_int, c_void};

    #[test]
    fn what_is_handed_over_in_another_way_differs() {
        #[repr(u32)]
        enum Code {
            _One = 1,
        }
        assert_eq!((shown::<Code>(), shown::<c_int>()), ("4 bytes".to_owned(), "4 bytes".to_owned()));
        assert_eq!((shown::<*mut c_int>(), shown::<*mut usize>()), ("*32".to_owned(), "*64".to_owned()));
        assert_eq!((shown::<*mut *const c_char>(), shown::<*mut c_void>()), ("**8".to_owned(), "*any".to_owned()));
        assert_eq!((shown::<f32>(), shown::<[u8; 128]>()), ("f32".to_owned(), "128 bytes".to_owned()));
        let types = <unsafe extern "C" fn(f64, u64) -> c_int as Signature>::types();
        assert_eq!(types, ["f64", "8 bytes", "4 bytes"]);
    }
}
