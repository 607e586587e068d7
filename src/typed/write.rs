//! A case of an enum as the payload of an event: serde's variant, without its name around it.

use std::cell::Cell;
use std::fmt;

use serde::ser::{
    Error as _, Impossible, Serialize, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleVariant, Serializer,
};

const NOT_A_CASE: &str =
    "only an enum in serde's default form, where the name of the case is outside, is a set of typed events";

/// What the case of a value is called in the log; `None` when the value is no case of an enum, or one that is skipped.
pub(super) fn case_of<T: Serialize>(value: &T) -> Option<&'static str> {
    let name = Cell::new(None);
    // It stops at the name: the fields are not looked at.
    let _stopped = value.serialize(Naming(&name));
    name.get()
}

/// Serialises as the fields of its case.
pub(super) struct Fields<'a, T>(pub(super) &'a T);

impl<T: Serialize> Serialize for Fields<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(Outside(serializer))
    }
}

/// Writes the methods that are given for what is no case of an enum.
macro_rules! refuse {
    ($($method:ident: $($of:ty),*;)*) => {
        $(fn $method(self, $(_: $of),*) -> Result<Self::Ok, Self::Error> {
            Err(Self::Error::custom(NOT_A_CASE))
        })*
    };
}

macro_rules! refuse_all {
    () => {
        refuse! {
            serialize_bool: bool; serialize_i8: i8; serialize_i16: i16; serialize_i32: i32; serialize_i64: i64;
            serialize_u8: u8; serialize_u16: u16; serialize_u32: u32; serialize_u64: u64; serialize_f32: f32;
            serialize_f64: f64; serialize_char: char; serialize_str: &str; serialize_bytes: &[u8];
            serialize_none:; serialize_unit:; serialize_unit_struct: &'static str;
        }

        fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<Self::Ok, Self::Error> {
            Err(Self::Error::custom(NOT_A_CASE))
        }

        fn serialize_newtype_struct<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            value: &T,
        ) -> Result<Self::Ok, Self::Error> {
            value.serialize(self)
        }

        fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Self::Error> {
            Err(Self::Error::custom(NOT_A_CASE))
        }

        fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Self::Error> {
            Err(Self::Error::custom(NOT_A_CASE))
        }

        fn serialize_tuple_struct(
            self,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleStruct, Self::Error> {
            Err(Self::Error::custom(NOT_A_CASE))
        }

        fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Self::Error> {
            Err(Self::Error::custom(NOT_A_CASE))
        }

        fn serialize_struct(
            self,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeStruct, Self::Error> {
            Err(Self::Error::custom(NOT_A_CASE))
        }
    };
}

/// Takes the case for its fields.
struct Outside<S>(S);

impl<S: Serializer> Serializer for Outside<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Impossible<S::Ok, S::Error>;
    type SerializeTuple = Impossible<S::Ok, S::Error>;
    type SerializeTupleStruct = Impossible<S::Ok, S::Error>;
    type SerializeTupleVariant = Inside<S::SerializeTuple>;
    type SerializeMap = Impossible<S::Ok, S::Error>;
    type SerializeStruct = Impossible<S::Ok, S::Error>;
    type SerializeStructVariant = Inside<S::SerializeStruct>;

    refuse_all!();

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit()
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        value.serialize(self.0)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.0.serialize_tuple(len).map(Inside)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.0.serialize_struct(name, len).map(Inside)
    }
}

/// The fields of a case, which are written as those of a tuple or a struct.
struct Inside<F>(F);

impl<F: SerializeTuple> SerializeTupleVariant for Inside<F> {
    type Ok = F::Ok;
    type Error = F::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), F::Error> {
        self.0.serialize_element(value)
    }

    fn end(self) -> Result<F::Ok, F::Error> {
        self.0.end()
    }
}

impl<F: SerializeStruct> SerializeStructVariant for Inside<F> {
    type Ok = F::Ok;
    type Error = F::Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), F::Error> {
        self.0.serialize_field(key, value)
    }

    fn skip_field(&mut self, key: &'static str) -> Result<(), F::Error> {
        self.0.skip_field(key)
    }

    fn end(self) -> Result<F::Ok, F::Error> {
        self.0.end()
    }
}

/// Writes nothing: notes the case.
struct Naming<'a>(&'a Cell<Option<&'static str>>);

/// The name is known, or there is none.
#[derive(Debug)]
struct Stopped;

impl std::error::Error for Stopped {}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NOT_A_CASE)
    }
}

impl serde::ser::Error for Stopped {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Stopped
    }
}

impl Serializer for Naming<'_> {
    type Ok = ();
    type Error = Stopped;
    type SerializeSeq = Impossible<(), Stopped>;
    type SerializeTuple = Impossible<(), Stopped>;
    type SerializeTupleStruct = Impossible<(), Stopped>;
    type SerializeTupleVariant = Impossible<(), Stopped>;
    type SerializeMap = Impossible<(), Stopped>;
    type SerializeStruct = Impossible<(), Stopped>;
    type SerializeStructVariant = Impossible<(), Stopped>;

    refuse_all!();

    fn serialize_unit_variant(self, _: &'static str, _: u32, case: &'static str) -> Result<(), Stopped> {
        self.0.set(Some(case));
        Ok(())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        case: &'static str,
        _: &T,
    ) -> Result<(), Stopped> {
        self.0.set(Some(case));
        Ok(())
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        case: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Stopped> {
        self.0.set(Some(case));
        Err(Stopped)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        case: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Stopped> {
        self.0.set(Some(case));
        Err(Stopped)
    }
}
