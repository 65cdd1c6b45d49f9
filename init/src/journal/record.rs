//! One record, and how it is made from what a service writes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Severity, the gravest first.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something is not as it should be.
    Warn,
    /// Something happened.
    Info,
    /// For developers.
    Debug,
    /// For developers, in detail.
    Trace,
}

impl Level {
    /// All, the gravest first.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// As on the bus.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// By its name, in any case of letters.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(name))
    }
}

/// A record; also its form on disk, one JSON object a line with short keys. What a service wrote is
/// kept as text: as values it could take eighty times the memory.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Record {
    /// Position, counted up over reboots.
    #[serde(rename = "c")]
    pub cursor: u64,
    /// Milliseconds since the epoch.
    #[serde(rename = "t")]
    pub unix_ms: u64,
    /// Who wrote it.
    #[serde(rename = "s")]
    pub service: String,
    /// Severity.
    #[serde(rename = "l")]
    pub level: Level,
    /// Text.
    #[serde(rename = "m")]
    pub message: String,
    /// Further fields as a JSON object; empty if there are none.
    #[serde(rename = "f", default, skip_serializing_if = "String::is_empty", with = "object")]
    pub fields: String,
}

/// Text of an object, which is a part of the line on the disk.
mod object {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::Error};
    use serde_json::{Map, Value};

    pub(super) fn serialize<S: Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<Map<String, Value>>(text).map_err(S::Error::custom)?.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
        Map::<String, Value>::deserialize(from).map(super::text)
    }
}

/// Text of an object; empty if it is.
pub(super) fn text(fields: Map<String, Value>) -> String {
    if fields.is_empty() { String::new() } else { Value::Object(fields).to_string() }
}

impl Record {
    /// A record of init itself, now.
    pub fn of_init(level: Level, message: String) -> Self {
        Self {
            cursor: 0,
            unix_ms: crate::clock::unix_ms(),
            service: "init".to_owned(),
            level,
            message,
            fields: String::new(),
        }
    }

    /// What it takes in memory, bytes.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.service.len() + self.message.len() + self.fields.len()
    }

    /// As on the bus.
    pub fn to_bus(&self) -> portcullis_bus::init::JournalRecord {
        portcullis_bus::init::JournalRecord {
            cursor: self.cursor,
            unix_ms: self.unix_ms,
            service: self.service.clone(),
            level: self.level.name().to_owned(),
            message: self.message.clone(),
            fields: if self.fields.is_empty() { "{}".to_owned() } else { self.fields.clone() },
        }
    }
}

/// Reads a line: a JSON object as `tracing` writes it, or any text, which counts as `info`.
pub(crate) fn parse_line(service: &str, line: &str, unix_ms: u64) -> Record {
    let mut record = Record {
        cursor: 0,
        unix_ms,
        service: service.to_owned(),
        level: Level::Info,
        message: String::new(),
        fields: String::new(),
    };
    match serde_json::from_str::<Value>(line) {
        Ok(Value::Object(mut fields)) if fields.contains_key("message") => {
            if let Some(Value::String(level)) = fields.remove("level") {
                record.level = Level::from_name(&level).unwrap_or(Level::Info);
            }
            record.message = match fields.remove("message") {
                Some(Value::String(text)) => text,
                other => other.unwrap_or_default().to_string(),
            };
            record.fields = text(fields);
        }
        _ => record.message = line.to_owned(),
    }
    record
}
