//! Log records go to standard error: as JSON lines when init reads them into the journal, as
//! text for a person otherwise.

use tracing_subscriber::{EnvFilter, fmt};

/// Set by init, as by systemd: standard error is the journal.
const JOURNAL_VARIABLE: &str = "JOURNAL_STREAM";

/// Level filter in tracing's syntax: `info`, `portcullis_dhcp=debug`.
const FILTER_VARIABLE: &str = "PORTCULLIS_LOG";

pub(crate) fn init() {
    let filter =
        EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call (tests run several services in one process) keeps the first subscriber.
    let _ = if std::env::var_os(JOURNAL_VARIABLE).is_some() {
        builder.json().flatten_event(true).without_time().with_span_list(false).try_init()
    } else {
        builder.try_init()
    };
}
