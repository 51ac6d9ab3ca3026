//! JSON into the types of this crate: `serde_json`'s values in, structs out.
//!
//! serde's derived code for the same structs is 140 KB of an image. What a person sees of this
//! room is an error with the whole path: `linux.resources.memory.limit: expected a number`.
//!
//! Unknown members are passed over and `null` is as good as absent, as with Go's decoder, which
//! the files were made for. `serde_json` limits the depth (128); readers limit the size.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::error::{Context, Error, Result};

/// Where in a document something is wrong, and what. Boxed: almost every result is another.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault(Box<Place>);

#[derive(Debug, PartialEq, Eq)]
struct Place {
    path: String,
    what: String,
}

impl Fault {
    /// Says what is wrong with a value; where it is, its readers add.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(Box::new(Place {
            path: String::new(),
            what: what.into(),
        }))
    }

    /// Puts the name of what holds the value, or its index, in front of the path.
    fn at(mut self, name: &str) -> Self {
        let dot = match self.0.path.chars().next() {
            None | Some('[') => "",
            Some(_) => ".",
        };
        self.0.path = format!("{name}{dot}{}", self.0.path);
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Place { path, what } = &*self.0;
        let colon = if path.is_empty() { "" } else { ": " };
        write!(f, "{path}{colon}{what}")
    }
}

/// Done, or what is wrong.
pub(crate) type Read = std::result::Result<(), Fault>;

/// What can be read from a value that is not null. In place and behind a pointer: the code that
/// reads a struct is then little more than the list of its members.
pub(crate) trait FromJson {
    /// Reads it.
    fn read(&mut self, value: &Value) -> Read;
}

/// Reads a document.
pub(crate) fn parse<T: FromJson + Default>(bytes: &[u8]) -> Result<T> {
    let value: Value = serde_json::from_slice(bytes).context(|| "not JSON")?;
    let mut document = T::default();
    match document.read(&value) {
        Ok(()) => Ok(document),
        Err(fault) => Err(Error::new(fault.to_string())),
    }
}

fn object(value: &Value) -> std::result::Result<&Map<String, Value>, Fault> {
    let object = value.as_object();
    object.ok_or_else(|| Fault::new("expected an object"))
}

/// A member's name, and where its value goes.
pub(crate) type Member<'a> = (&'static str, &'a mut dyn FromJson);

/// Reads an object's members into their places; absent ones leave them as they are.
///
/// Of `required` ones there must be one each, `refused` ones must not say anything: null, and an
/// empty string or list do not.
pub(crate) fn read_members(
    value: &Value,
    required: &[&str],
    refused: &[&str],
    members: &mut [Member<'_>],
) -> Read {
    let object = object(value)?;
    for name in required {
        if object.get(*name).is_none_or(Value::is_null) {
            return Err(Fault::new("missing").at(name));
        }
    }
    for name in refused {
        let says_something = match object.get(*name) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        };
        if says_something {
            return Err(Fault::new("not supported").at(name));
        }
    }
    for (name, place) in members {
        if let Some(value) = object.get(*name).filter(|value| !value.is_null()) {
            place.read(value).map_err(|fault| fault.at(name))?;
        }
    }
    Ok(())
}

/// Declares a struct, all of it visible in the crate, together with how it is read: behind each
/// field the member's name, then which members must be there and which are refused.
macro_rules! record {
    (
        $(#[$about:meta])*
        $name:ident {
            $($(#[$field_about:meta])* $field:ident: $type:ty = $member:literal,)*
        }
        $(required $($required:literal)+)?
        $(refused $($refused:literal)+)?
    ) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        pub(crate) struct $name {
            $($(#[$field_about])* pub(crate) $field: $type,)*
        }

        impl $crate::json::FromJson for $name {
            fn read(&mut self, value: &serde_json::Value) -> $crate::json::Read {
                $crate::json::read_members(
                    value,
                    &[$($($required),+)?],
                    &[$($($refused),+)?],
                    &mut [$(($member, &mut self.$field)),*],
                )
            }
        }
    };
}
pub(crate) use record;

impl FromJson for bool {
    fn read(&mut self, value: &Value) -> Read {
        let is = value.as_bool();
        *self = is.ok_or_else(|| Fault::new("expected true or false"))?;
        Ok(())
    }
}

/// Returns a string.
pub(crate) fn text(value: &Value) -> std::result::Result<&str, Fault> {
    let text = value.as_str();
    text.ok_or_else(|| Fault::new("expected a string"))
}

impl FromJson for String {
    fn read(&mut self, value: &Value) -> Read {
        text(value)?.clone_into(self);
        Ok(())
    }
}

/// Returns a number that is whole; i128 holds both signs of what JSON may say.
fn number(value: &Value) -> std::result::Result<i128, Fault> {
    let signed = value.as_i64().map(i128::from);
    signed
        .or_else(|| value.as_u64().map(i128::from))
        .ok_or_else(|| Fault::new("expected a whole number"))
}

macro_rules! numbers {
    ($($type:ty)*) => {
        $(impl FromJson for $type {
            fn read(&mut self, value: &Value) -> Read {
                let number = Self::try_from(number(value)?);
                *self = number.map_err(|_| Fault::new("number out of range"))?;
                Ok(())
            }
        })*
    };
}
numbers!(u16 i32 u32 i64 u64);

impl<T: FromJson + Default> FromJson for Option<T> {
    fn read(&mut self, value: &Value) -> Read {
        self.insert(T::default()).read(value)
    }
}

fn list(value: &Value) -> std::result::Result<&[Value], Fault> {
    let list = value.as_array().map(Vec::as_slice);
    list.ok_or_else(|| Fault::new("expected a list"))
}

fn read_at(place: &mut dyn FromJson, index: usize, value: &Value) -> Read {
    let read = place.read(value);
    read.map_err(|fault| fault.at(&format!("[{index}]")))
}

impl<T: FromJson + Default> FromJson for Vec<T> {
    fn read(&mut self, value: &Value) -> Read {
        self.clear();
        for (index, value) in list(value)?.iter().enumerate() {
            self.push(T::default());
            if let Some(place) = self.last_mut() {
                read_at(place, index, value)?;
            }
        }
        Ok(())
    }
}

impl<T: FromJson> FromJson for (T, T) {
    fn read(&mut self, value: &Value) -> Read {
        match list(value)? {
            [first, second] => {
                read_at(&mut self.0, 0, first)?;
                read_at(&mut self.1, 1, second)
            }
            _ => Err(Fault::new("expected a list of two")),
        }
    }
}

impl<T: FromJson + Default> FromJson for BTreeMap<String, T> {
    fn read(&mut self, value: &Value) -> Read {
        for (name, value) in object(value)? {
            let place = self.entry(name.clone()).or_default();
            place.read(value).map_err(|fault| fault.at(name))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    record! {
        /// Of every kind something.
        Sample {
            name: String = "name",
            small: Option<u16> = "small",
            signed: i64 = "signed",
            large: u64 = "large",
            pair: Option<(u16, u16)> = "pair",
            inner: Vec<Inner> = "innerOnes",
            map: BTreeMap<String, String> = "map",
        }
        required "name"
        refused "gone" "gone2"
    }

    record! {
        /// One level down.
        Inner {
            on: bool = "on",
        }
    }

    fn fault(json: &str) -> String {
        parse::<Sample>(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn everything_is_read() {
        let sample: Sample = parse(
            br#"{"name":"n","small":65535,"signed":-9223372036854775808,"gone":null,"gone2":[],
            "large":18446744073709551615,"pair":[1,2],"innerOnes":[{"on":true},{"on":null}],
            "map":{"a":"b"},"later":[{}]}"#,
        )
        .unwrap();
        assert_eq!(sample.name, "n");
        assert_eq!((sample.small, sample.signed), (Some(65535), i64::MIN));
        assert_eq!((sample.large, sample.pair), (u64::MAX, Some((1, 2))));
        let on: Vec<bool> = sample.inner.iter().map(|inner| inner.on).collect();
        assert_eq!(on, [true, false]);
        assert_eq!(sample.map["a"], "b");
        let sample: Sample = parse(br#"{"name":"n","small":null}"#).unwrap();
        assert_eq!((sample.small, sample.pair), (None, None));
    }

    #[test]
    fn faults_say_where_and_what() {
        for (json, expected) in [
            ("[]", "expected an object"),
            ("{}", "name: missing"),
            (r#"{"name":null}"#, "name: missing"),
            (r#"{"name":1}"#, "name: expected a string"),
            (r#"{"name":"","gone":{}}"#, "gone: not supported"),
            (r#"{"name":"","small":65536}"#, "small: number out of range"),
            (r#"{"name":"","small":-1}"#, "small: number out of range"),
            (
                r#"{"name":"","small":1.5}"#,
                "small: expected a whole number",
            ),
            (r#"{"name":"","pair":[1]}"#, "pair: expected a list of two"),
            (
                r#"{"name":"","innerOnes":[{},{"on":1}]}"#,
                "innerOnes[1].on: expected true or false",
            ),
            (r#"{"name":"","map":{"k":1}}"#, "map.k: expected a string"),
            (r#"{"name":"","map":[]}"#, "map: expected an object"),
        ] {
            assert_eq!(fault(json), expected, "{json}");
        }
        assert!(fault("{").starts_with("not JSON: "));
        let deep = "[".repeat(100_000);
        assert!(fault(&deep).contains("recursion limit"), "{}", fault(&deep));
    }
}
