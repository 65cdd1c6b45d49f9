//! Text for people: aligned tables, sizes, durations, times. Nothing here decides anything.

use std::fmt::Write;

use time::{OffsetDateTime, macros::format_description};

/// Columns, aligned by spaces; the last one is not padded.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with a heading per column; columns whose heading begins with `>` are aligned to
    /// the right.
    pub fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let headings =
            headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
        Self { rows: vec![headings], right }
    }

    /// Adds a row; text from outside is made safe to print.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(|cell| clean(cell.as_ref())).collect());
    }

    /// The lines, each with its end.
    pub fn render(&self) -> String {
        let mut widths = vec![0; self.right.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&self.right) {
                let _ = if *right {
                    write!(line, "{cell:>width$}  ")
                } else {
                    write!(line, "{cell:<width$}  ")
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Shows characters that control the terminal instead of sending them to it: a client's host name
/// must not move the cursor, nor turn the rest of the line around.
pub fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for c in text.chars() {
        if controls(c) {
            cleaned.extend(c.escape_default());
        } else {
            cleaned.push(c);
        }
    }
    cleaned
}

/// Whether it does something instead of being shown: control characters of both sets, line and
/// paragraph separators, and what changes the direction of writing (Unicode UAX #9 section 2).
fn controls(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// JSON in which such characters stand as `\uXXXX`: the same to a program, and harmless on a
/// terminal. `serde_json` itself escapes only those below U+0020.
#[derive(Clone, Debug, Default)]
pub struct Harmless<F>(pub F);

macro_rules! as_inner {
    ($($method:ident($($arg:ident: $ty:ty),*);)*) => { $(
        fn $method<W: std::io::Write + ?Sized>(
            &mut self,
            writer: &mut W,
            $($arg: $ty),*
        ) -> std::io::Result<()> {
            self.0.$method(writer, $($arg),*)
        }
    )* };
}

impl<F: serde_json::ser::Formatter> serde_json::ser::Formatter for Harmless<F> {
    as_inner! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        end_object_key();
        begin_object_value();
        end_object_value();
    }

    fn write_string_fragment<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> std::io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| controls(*c)) {
            let (before, after) = rest.split_at(at);
            // All of them are below U+10000.
            write!(writer, "{before}\\u{:04x}", u32::from(c))?;
            rest = after.get(c.len_utf8()..).unwrap_or_default();
        }
        writer.write_all(rest.as_bytes())
    }
}

/// A size in bytes with a binary unit: `1.5 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Shown with one digit after the point, so the lost precision is invisible.
    let mut value = bytes as f64;
    let mut unit = "";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A duration with its two largest units: `3 h 12 min`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A time (seconds since the epoch) in UTC: `2026-11-22 10:15:23`.
pub fn time(unix_s: u64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    i64::try_from(unix_s)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
        .and_then(|time| time.format(&format).ok())
        .unwrap_or_else(|| format!("@{unix_s}"))
}

/// As [`time()`], with milliseconds.
pub fn time_ms(unix_ms: u64) -> String {
    format!("{}.{:03}", time(unix_ms / 1000), unix_ms % 1000)
}

/// `yes` or `no`.
pub fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// The value or a dash.
pub fn or_dash(value: Option<&str>) -> &str {
    value.filter(|value| !value.is_empty()).unwrap_or("-")
}
