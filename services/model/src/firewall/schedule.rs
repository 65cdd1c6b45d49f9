//! Times at which a rule holds.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::text::text_form;

/// When the rules that name it hold: on `days`, from `from` until `to`. All in UTC.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Days of the week on which it begins. Default all.
    pub days: BTreeSet<Day>,
    /// Time at which it begins. Default `00:00`.
    pub from: TimeOfDay,
    /// Time at which it ends; if that is not after `from`, on the next day. Default `24:00`.
    pub to: TimeOfDay,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { days: Day::ALL.into(), from: TimeOfDay::START, to: TimeOfDay::END }
    }
}

/// A day of the week.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Day {
    /// The week.
    pub const ALL: [Self; 7] =
        [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];
}

/// Minutes since midnight, 0 to 1,440. Written `HH:MM`, `00:00` to `24:00`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay(u16);

/// Why a text is not a [`TimeOfDay`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a time of day: 00:00 to 24:00 is allowed, two digits each")]
pub struct TimeOfDayError(String);

impl TimeOfDay {
    /// Midnight before the day.
    pub const START: Self = Self(0);
    /// Midnight after the day.
    pub const END: Self = Self(24 * 60);

    /// Minutes since midnight.
    pub const fn minutes(self) -> u16 {
        self.0
    }

    /// From minutes since midnight; none above 1,440.
    pub const fn from_minutes(minutes: u16) -> Option<Self> {
        if minutes <= Self::END.0 { Some(Self(minutes)) } else { None }
    }
}

impl FromStr for TimeOfDay {
    type Err = TimeOfDayError;

    fn from_str(text: &str) -> Result<Self, TimeOfDayError> {
        let error = || TimeOfDayError(text.to_owned());
        let two_digits = |text: &str| {
            let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<u16>().ok()).flatten()
        };
        let (hours, minutes) = text.split_once(':').ok_or_else(error)?;
        match (two_digits(hours), two_digits(minutes)) {
            (Some(hours), Some(minutes)) if minutes < 60 => {
                Self::from_minutes(hours * 60 + minutes).ok_or_else(error)
            }
            _ => Err(error()),
        }
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

text_form!(TimeOfDay, TimeOfDayError);
