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

/// Where in a document something is wrong, and what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    path: String,
    what: String,
}

impl Fault {
    /// Says what is wrong with a value; where it is, its readers add.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            what: what.into(),
        }
    }

    /// Puts the name of what holds the value, or its index, in front of the path.
    fn at(mut self, name: &str) -> Self {
        let dot = match self.path.chars().next() {
            None | Some('[') => "",
            Some(_) => ".",
        };
        self.path = format!("{name}{dot}{}", self.path);
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let colon = if self.path.is_empty() { "" } else { ": " };
        write!(f, "{}{colon}{}", self.path, self.what)
    }
}

/// What is read, or why not.
pub(crate) type Read<T> = std::result::Result<T, Fault>;

/// What can be read from a value that is not null.
pub(crate) trait FromJson: Default {
    /// Reads it.
    fn from_json(value: &Value) -> Read<Self>;
}

/// Reads a document.
pub(crate) fn parse<T: FromJson>(bytes: &[u8]) -> Result<T> {
    let value: Value = serde_json::from_slice(bytes).context(|| "not JSON")?;
    T::from_json(&value).map_err(|fault| Error::new(fault.to_string()))
}

/// Returns the members of an object.
pub(crate) fn object(value: &Value) -> Read<&Map<String, Value>> {
    value
        .as_object()
        .ok_or_else(|| Fault::new("expected an object"))
}

/// Reads a member into its place; an absent one leaves it as it is.
pub(crate) fn member<T: FromJson>(
    object: &Map<String, Value>,
    name: &str,
    place: &mut T,
) -> Read<()> {
    if let Some(value) = object.get(name).filter(|value| !value.is_null()) {
        *place = T::from_json(value).map_err(|fault| fault.at(name))?;
    }
    Ok(())
}

/// Insists on members.
pub(crate) fn require(object: &Map<String, Value>, names: &[&str]) -> Read<()> {
    let is_missing = |name: &&&str| object.get(**name).is_none_or(Value::is_null);
    match names.iter().find(is_missing) {
        Some(name) => Err(Fault::new("missing").at(name)),
        None => Ok(()),
    }
}

/// Refuses members that say anything: not null, and neither an empty string nor an empty list.
pub(crate) fn refuse(object: &Map<String, Value>, names: &[&str]) -> Read<()> {
    let says_something = |name: &&&str| match object.get(**name) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    match names.iter().find(says_something) {
        Some(name) => Err(Fault::new("not supported").at(name)),
        None => Ok(()),
    }
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
            fn from_json(
                value: &serde_json::Value,
            ) -> $crate::json::Read<Self> {
                let object = $crate::json::object(value)?;
                $($crate::json::require(object, &[$($required),+])?;)?
                $($crate::json::refuse(object, &[$($refused),+])?;)?
                let mut record = Self::default();
                $($crate::json::member(object, $member, &mut record.$field)?;)*
                Ok(record)
            }
        }
    };
}
pub(crate) use record;

impl FromJson for bool {
    fn from_json(value: &Value) -> Read<Self> {
        value
            .as_bool()
            .ok_or_else(|| Fault::new("expected true or false"))
    }
}

impl FromJson for String {
    fn from_json(value: &Value) -> Read<Self> {
        let text = value.as_str();
        text.map(str::to_owned)
            .ok_or_else(|| Fault::new("expected a string"))
    }
}

/// Returns a number that is whole; i128 holds both signs of what JSON may say.
fn number(value: &Value) -> Read<i128> {
    let signed = value.as_i64().map(i128::from);
    signed
        .or_else(|| value.as_u64().map(i128::from))
        .ok_or_else(|| Fault::new("expected a whole number"))
}

macro_rules! numbers {
    ($($type:ty)*) => {
        $(impl FromJson for $type {
            fn from_json(value: &Value) -> Read<Self> {
                Self::try_from(number(value)?).map_err(|_| Fault::new("number out of range"))
            }
        })*
    };
}
numbers!(u16 i32 u32 i64 u64);

impl<T: FromJson> FromJson for Option<T> {
    fn from_json(value: &Value) -> Read<Self> {
        T::from_json(value).map(Some)
    }
}

fn list(value: &Value) -> Read<&[Value]> {
    let list = value.as_array().map(Vec::as_slice);
    list.ok_or_else(|| Fault::new("expected a list"))
}

impl<T: FromJson> FromJson for Vec<T> {
    fn from_json(value: &Value) -> Read<Self> {
        let each = list(value)?.iter().enumerate();
        each.map(|(index, value)| {
            T::from_json(value).map_err(|fault| fault.at(&format!("[{index}]")))
        })
        .collect()
    }
}

impl<T: FromJson> FromJson for (T, T) {
    fn from_json(value: &Value) -> Read<Self> {
        match list(value)? {
            [first, second] => Ok((T::from_json(first)?, T::from_json(second)?)),
            _ => Err(Fault::new("expected a list of two")),
        }
    }
}

impl<T: FromJson> FromJson for BTreeMap<String, T> {
    fn from_json(value: &Value) -> Read<Self> {
        let each = object(value)?.iter();
        each.map(|(name, value)| {
            let value = T::from_json(value).map_err(|fault| fault.at(name))?;
            Ok((name.clone(), value))
        })
        .collect()
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
