//! Rules and translations as YAML or JSON: the tables of `[firewall]` by the same names and with the
//! same fields, read into a document and written from one.
//!
//! ```yaml
//! addresses:
//!   servers: { members: [192.168.77.20] }
//! rules:
//!   - name: web
//!     from: wan
//!     to: lan
//!     destinations: ["@servers"]
//!     protocols: [tcp]
//!     destination_ports: [80, 443]
//!     action: allow
//! ```

use std::{collections::BTreeSet, fmt};

use portcullis_model::{
    Document,
    firewall::{Firewall, PortForward, Rule},
    validate::validate,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// How the text is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// YAML 1.2.
    Yaml,
    /// JSON.
    Json,
}

impl Format {
    /// By the ending of a file's name: `.json` is JSON, all else YAML (which JSON is part of).
    pub fn of(name: &str) -> Self {
        if name.to_ascii_lowercase().ends_with(".json") { Self::Json } else { Self::Yaml }
    }
}

/// What becomes of the tables that the document has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// A table in the text replaces that of the document; others stay.
    Replace,
    /// Sets, rules and port forwards replace those of the same name, and new ones come behind all
    /// others; the rest of the lists is added.
    Merge,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ImportError {
    /// Where: `rules[3].sources[0]`, or as the validation names it, `firewall.rules[3].sources[0]`;
    /// empty for the text as a whole.
    pub path: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ImportError {}

/// The tables in the order in which they are written.
const TABLES: [&str; 8] = [
    "addresses",
    "ports",
    "schedules",
    "policies",
    "rules",
    "port_forwards",
    "static_nat",
    "source_nat",
];

/// Errors that are told of one entry at most.
const ERRORS_OF_ONE: usize = 16;

/// The document with the tables of `text`.
///
/// # Errors
/// Everything that is wrong: with the form of the text, or, if that is right, with the document that
/// comes of it.
pub fn import(
    text: &str,
    format: Format,
    mode: Mode,
    document: &Document,
) -> Result<Document, Vec<ImportError>> {
    let tables = tables(text, format).map_err(|error| vec![error])?;
    let mut errors = Vec::new();
    let mut document = document.clone();
    let firewall = &mut document.firewall;
    for (name, value) in tables {
        let mut reader = Reader { errors: &mut errors };
        match name.as_str() {
            "addresses" => table(&mut firewall.addresses, reader.named(&name, value), mode),
            "ports" => table(&mut firewall.ports, reader.named(&name, value), mode),
            "schedules" => table(&mut firewall.schedules, reader.named(&name, value), mode),
            "policies" => {
                list(&mut firewall.policies, reader.list(&name, value), mode, |one, two| {
                    (&one.from, &one.to) == (&two.from, &two.to)
                })
            }
            "rules" => list(&mut firewall.rules, reader.list(&name, value), mode, same_rule),
            "port_forwards" => {
                list(&mut firewall.port_forwards, reader.list(&name, value), mode, same_forward);
            }
            "static_nat" => {
                list(&mut firewall.static_nat, reader.list(&name, value), mode, PartialEq::eq);
            }
            "source_nat" => {
                list(&mut firewall.source_nat, reader.list(&name, value), mode, PartialEq::eq);
            }
            _ => reader.add(
                &name,
                format!("`{name}` is not a table of rules; allowed are {}", TABLES.join(", ")),
            ),
        }
    }
    if errors.is_empty() {
        let problems = validate(&document).into_iter();
        errors.extend(problems.map(|p| ImportError { path: p.path, message: p.message }));
    }
    if errors.is_empty() { Ok(document) } else { Err(errors) }
}

fn same_rule(one: &Rule, other: &Rule) -> bool {
    one.name == other.name
}

fn same_forward(one: &PortForward, other: &PortForward) -> bool {
    one.name == other.name
}

/// The tables of a text; they may stand under `firewall`.
fn tables(text: &str, format: Format) -> Result<Map<String, Value>, ImportError> {
    let whole = |message| ImportError { path: String::new(), message };
    let value: Value = match format {
        Format::Json => serde_json::from_str(text).map_err(|error| whole(error.to_string()))?,
        Format::Yaml => serde_saphyr::from_str(text)
            .map_err(|error| whole(error.without_snippet().to_string()))?,
    };
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(mut tables) => match tables.remove("firewall") {
            Some(Value::Object(inner)) if tables.is_empty() => Ok(inner),
            Some(_) => Err(whole(
                "`firewall` must have all tables in it, and nothing may stand beside it".to_owned(),
            )),
            None => Ok(tables),
        },
        _ => Err(whole(format!("tables are needed: {}", TABLES.join(", ")))),
    }
}

fn table<K: Ord, V>(target: &mut std::collections::BTreeMap<K, V>, new: Vec<(K, V)>, mode: Mode) {
    if mode == Mode::Replace {
        target.clear();
    }
    target.extend(new);
}

fn list<T>(target: &mut Vec<T>, new: Vec<T>, mode: Mode, same: impl Fn(&T, &T) -> bool) {
    if mode == Mode::Replace {
        *target = new;
        return;
    }
    let old = target.len();
    for one in new {
        match target.iter_mut().take(old).find(|other| same(other, &one)) {
            Some(other) => *other = one,
            // Two of one name in the text: the validation tells.
            None => target.push(one),
        }
    }
}

struct Reader<'a> {
    errors: &'a mut Vec<ImportError>,
}

impl Reader<'_> {
    fn add(&mut self, path: &str, message: String) {
        self.errors.push(ImportError { path: path.to_owned(), message });
    }

    fn list<T: DeserializeOwned>(&mut self, name: &str, value: Value) -> Vec<T> {
        match value {
            Value::Null => Vec::new(),
            Value::Array(items) => {
                let items = items.into_iter().enumerate();
                items.filter_map(|(n, item)| self.one(&format!("{name}[{n}]"), item)).collect()
            }
            _ => {
                self.add(name, "a list is needed".to_owned());
                Vec::new()
            }
        }
    }

    fn named<K, T>(&mut self, name: &str, value: Value) -> Vec<(K, T)>
    where
        K: std::str::FromStr,
        K::Err: fmt::Display,
        T: DeserializeOwned,
    {
        let mut found = Vec::new();
        match value {
            Value::Null => {}
            Value::Object(entries) => {
                for (key, value) in entries {
                    let path = format!("{name}.{key}");
                    match key.parse() {
                        Ok(key) => found.extend(self.one(&path, value).map(|value| (key, value))),
                        Err(error) => self.add(&path, K::Err::to_string(&error)),
                    }
                }
            }
            _ => self.add(name, "a table of names is needed".to_owned()),
        }
        found
    }

    /// Reads one entry. Each field that is wrong is told of and left out, to find the next one.
    fn one<T: DeserializeOwned>(&mut self, path: &str, mut value: Value) -> Option<T> {
        let mut left_out = BTreeSet::new();
        for _ in 0..ERRORS_OF_ONE {
            let error = match serde_path_to_error::deserialize(&value) {
                // It is not what was meant.
                Ok(_) if !left_out.is_empty() => return None,
                Ok(read) => return Some(read),
                Err(error) => error,
            };
            let inner = match error.path().to_string() {
                inner if inner == "." => String::new(),
                inner => inner,
            };
            let message = error.inner().to_string();
            let field: String = inner.chars().take_while(|c| !matches!(c, '.' | '[')).collect();
            // What was left out is missing now.
            if left_out.iter().any(|name| message == format!("missing field `{name}`")) {
                return None;
            }
            let whole = if inner.is_empty() { path.to_owned() } else { format!("{path}.{inner}") };
            self.add(&whole, message);
            match value.as_object_mut().and_then(|fields| fields.remove(&field)) {
                Some(_) => left_out.insert(field),
                None => return None,
            };
        }
        None
    }
}

/// The tables of a firewall as [`import`] reads them; empty ones are left out.
///
/// # Errors
/// None is known; both formats could have no form for a later field.
pub fn export(firewall: &Firewall, format: Format) -> Result<String, ImportError> {
    let failed = |message| ImportError { path: String::new(), message };
    let whole = serde_json::to_value(firewall).map_err(|error| failed(error.to_string()))?;
    let table = |name: &str| whole.get(name).cloned().filter(|table| !is_empty(table));
    let tables = Tables {
        addresses: table("addresses"),
        ports: table("ports"),
        schedules: table("schedules"),
        policies: table("policies"),
        rules: table("rules"),
        port_forwards: table("port_forwards"),
        static_nat: table("static_nat"),
        source_nat: table("source_nat"),
    };
    match format {
        Format::Json => {
            serde_json::to_string_pretty(&tables).map_err(|error| failed(error.to_string()))
        }
        Format::Yaml => serde_saphyr::to_string(&tables).map_err(|error| failed(error.to_string())),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(table) => table.is_empty(),
        _ => false,
    }
}

/// What is written, in this order.
#[derive(Serialize)]
struct Tables {
    #[serde(skip_serializing_if = "Option::is_none")]
    addresses: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedules: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policies: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port_forwards: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    static_nat: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_nat: Option<Value>,
}
