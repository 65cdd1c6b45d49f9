//! Init's own log: a `tracing` layer into the journal, and what matters onto the console.

use std::fmt::Write;

use serde_json::{Map, Value};
use tracing::{Event, Subscriber, field::Visit};
use tracing_subscriber::layer::{Context, Layer};

use super::{Journal, Level, Record, record};
use crate::console::Console;

/// Takes events of init.
#[derive(Debug)]
pub struct JournalLayer {
    journal: Journal,
    console: Console,
}

impl JournalLayer {
    /// A layer into `journal`; warnings and errors also go to `console`.
    pub fn new(journal: Journal, console: Console) -> Self {
        Self { journal, console }
    }
}

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            // What libraries tell developers is not for the journal of a router.
            _ => return,
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        if level <= Level::Warn {
            self.console.say(&line(level, &fields));
        }
        let (message, fields) = (fields.message, record::text(fields.map));
        self.journal.append(Record { fields, ..Record::of_init(level, message) });
    }
}

fn line(level: Level, fields: &Fields) -> String {
    let mut line = format!("init: {}: {}", level.name(), fields.message);
    for (name, value) in &fields.map {
        let _ = match value {
            Value::String(text) => write!(line, " {name}={text}"),
            other => write!(line, " {name}={other}"),
        };
    }
    line
}

#[derive(Default)]
struct Fields {
    message: String,
    map: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, name: &str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.put(field.name(), format!("{value:?}").into());
        }
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.put(field.name(), value.into());
        }
    }

    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        self.put(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &tracing::field::Field, value: i64) {
        self.put(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &tracing::field::Field, value: bool) {
        self.put(field.name(), value.into());
    }
}
