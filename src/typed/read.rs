//! The payload of an event as a case of an enum: serde's variant, with the event's type for its name.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::StrDeserializer;
use serde::de::{
    Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _,
    IntoDeserializer as _, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

const NOT_AN_ENUM: &str =
    "only an enum in serde's default form, where the name of the case is outside, is a set of typed events";

/// What serde knows of an enum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cases {
    /// The enum's name.
    pub(super) set: &'static str,
    /// The names of its cases, with their aliases.
    pub(super) names: &'static [&'static str],
}

/// Asks a type for its cases; `None` when it is no enum, or one in another form than serde's default.
pub(super) fn cases_of<T: DeserializeOwned>() -> Option<Cases> {
    let cases = Cell::new(None);
    // It stops when it was asked for: there is nothing to read.
    let _stopped = T::deserialize(Asking(&cases));
    cases.get()
}

/// Makes a value of the fields of one of its cases.
pub(super) struct OfCase<'a, T> {
    case: &'a str,
    of: PhantomData<T>,
}

impl<'a, T> OfCase<'a, T> {
    pub(super) fn new(case: &'a str) -> Self {
        OfCase { case, of: PhantomData }
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for OfCase<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, fields: D) -> Result<T, D::Error> {
        T::deserialize(Case { name: self.case, fields })
    }
}

/// A case, by its name and what reads its fields.
struct Case<'a, D> {
    name: &'a str,
    fields: D,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Case<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, D::Error> {
        Err(D::Error::custom(NOT_AN_ENUM))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        visitor.visit_enum(self)
    }

    fn is_human_readable(&self) -> bool {
        self.fields.is_human_readable()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de, D: Deserializer<'de>> EnumAccess<'de> for Case<'_, D> {
    type Error = D::Error;
    type Variant = OnlyFields<D>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, OnlyFields<D>), D::Error> {
        let name: StrDeserializer<'_, D::Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, OnlyFields(self.fields)))
    }
}

/// The fields of a case whose name was read.
struct OnlyFields<D>(D);

impl<'de, D: Deserializer<'de>> VariantAccess<'de> for OnlyFields<D> {
    type Error = D::Error;

    fn unit_variant(self) -> Result<(), D::Error> {
        <()>::deserialize(self.0)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, D::Error> {
        seed.deserialize(self.0)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct("", fields, visitor)
    }
}

/// Reads nothing: notes what it is asked for.
struct Asking<'a>(&'a Cell<Option<Cases>>);

/// There is nothing to read.
#[derive(Debug)]
struct Stopped;

impl std::error::Error for Stopped {}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NOT_AN_ENUM)
    }
}

impl serde::de::Error for Stopped {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Stopped
    }
}

impl<'de> Deserializer<'de> for Asking<'_> {
    type Error = Stopped;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stopped> {
        Err(Stopped)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stopped> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        set: &'static str,
        names: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Stopped> {
        self.0.set(Some(Cases { set, names }));
        Err(Stopped)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}
