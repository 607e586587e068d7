//! The types of keys and values as they are said on the command line: `string,u64`, `option:i32`. Pure.

use std::fmt;
use std::str::FromStr;

/// The types of the components of a key or value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape(pub(crate) Vec<Kind>);

/// The type of one component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Int(Int),
    F32,
    F64,
    Bool,
    Char,
    Text,
    Bytes,
    /// So many bytes, with no length before them.
    Array(usize),
    Uuid,
    Time,
    Maybe(Box<Kind>),
    /// A key in descending order.
    Reverse(Box<Kind>),
    /// Any number of one kind; of values only.
    List(Box<Kind>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Int {
    U8,
    U16,
    U32,
    U64,
    U128,
    I8,
    I16,
    I32,
    I64,
    I128,
}

/// Does something with the type that an [`Int`] stands for.
macro_rules! by_int {
    ($int:expr, $T:ident => $body:expr) => {
        match $int {
            $crate::shape::Int::U8 => {
                type $T = u8;
                $body
            }
            $crate::shape::Int::U16 => {
                type $T = u16;
                $body
            }
            $crate::shape::Int::U32 => {
                type $T = u32;
                $body
            }
            $crate::shape::Int::U64 => {
                type $T = u64;
                $body
            }
            $crate::shape::Int::U128 => {
                type $T = u128;
                $body
            }
            $crate::shape::Int::I8 => {
                type $T = i8;
                $body
            }
            $crate::shape::Int::I16 => {
                type $T = i16;
                $body
            }
            $crate::shape::Int::I32 => {
                type $T = i32;
                $body
            }
            $crate::shape::Int::I64 => {
                type $T = i64;
                $body
            }
            $crate::shape::Int::I128 => {
                type $T = i128;
                $body
            }
        }
    };
}
pub(crate) use by_int;

/// Why text is no type.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoShape(String);

impl fmt::Display for NoShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no type: give u8 to u128, i8 to i128, f32, f64, bool, char, string, bytes, array:N, uuid, position, \
             version, time, option:T, reverse:T, list:T, or some of them with commas between",
            self.0
        )
    }
}

impl std::error::Error for NoShape {}

impl FromStr for Shape {
    type Err = NoShape;

    fn from_str(text: &str) -> Result<Self, NoShape> {
        text.split(',').map(|part| kind(part.trim(), 0)).collect::<Result<_, _>>().map(Shape)
    }
}

/// So many prefixes a type may have.
const DEEPEST: usize = 8;

fn kind(text: &str, depth: usize) -> Result<Kind, NoShape> {
    let unknown = || NoShape(text.to_owned());
    if let Some((outer, inner)) = text.split_once(':') {
        if outer == "array" {
            return inner.parse().map(Kind::Array).map_err(|_| unknown());
        }
        let wrap = match outer {
            "option" => Kind::Maybe,
            "reverse" => Kind::Reverse,
            "list" => Kind::List,
            _ => return Err(unknown()),
        };
        if depth >= DEEPEST {
            return Err(unknown());
        }
        return Ok(wrap(Box::new(kind(inner, depth + 1)?)));
    }
    Ok(match text {
        "u8" => Kind::Int(Int::U8),
        "u16" => Kind::Int(Int::U16),
        "u32" => Kind::Int(Int::U32),
        "u64" | "position" | "version" => Kind::Int(Int::U64),
        "u128" => Kind::Int(Int::U128),
        "i8" => Kind::Int(Int::I8),
        "i16" => Kind::Int(Int::I16),
        "i32" => Kind::Int(Int::I32),
        "i64" => Kind::Int(Int::I64),
        "i128" => Kind::Int(Int::I128),
        "f32" => Kind::F32,
        "f64" => Kind::F64,
        "bool" => Kind::Bool,
        "char" => Kind::Char,
        "string" => Kind::Text,
        "bytes" => Kind::Bytes,
        "uuid" => Kind::Uuid,
        "time" => Kind::Time,
        _ => return Err(unknown()),
    })
}

impl Shape {
    /// The same, if it can be that of a key.
    pub(crate) fn of_key(self) -> Result<Self, String> {
        fn fits(kind: &Kind) -> bool {
            match kind {
                Kind::F32 | Kind::F64 | Kind::List(_) => false,
                Kind::Maybe(inner) | Kind::Reverse(inner) => fits(inner),
                _ => true,
            }
        }
        if self.0.iter().all(fits) { Ok(self) } else { Err("no key has floats or lists in it".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_and_what_is_none_is_told() {
        let shape: Shape = "string, u64,option:reverse:array:3".parse().unwrap();
        let array = Kind::Reverse(Box::new(Kind::Array(3)));
        assert_eq!(shape.0, [Kind::Text, Kind::Int(Int::U64), Kind::Maybe(Box::new(array))]);
        for text in ["", "u7", "string,", "array:x", "vec:u8", &"option:".repeat(99)] {
            assert!(text.parse::<Shape>().is_err(), "{text}");
        }
        assert!("list:u8".parse::<Shape>().unwrap().of_key().is_err());
        assert!("option:f64".parse::<Shape>().unwrap().of_key().is_err());
    }
}
