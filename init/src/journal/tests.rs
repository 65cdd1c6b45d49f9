use std::{fs, io::Write, path::Path};

use portcullis_bus::init::JournalQuery;
use proptest::prelude::*;

use super::{record::parse_line, *};

fn line(writer: &mut Writer, service: &str, text: &str) {
    writer.append(parse_line(service, text, 1));
}

fn query(after: u64, limit: u32) -> JournalQuery {
    JournalQuery { after, limit, ..JournalQuery::default() }
}

fn texts(page: &portcullis_bus::init::JournalPage) -> Vec<&str> {
    page.records.iter().map(|r| r.message.as_str()).collect()
}

fn folder_bytes(folder: &Path) -> u64 {
    fs::read_dir(folder).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn lines_of_tracing_become_fields_and_others_text() {
    let json = r#"{"level":"WARN","message":"pool is full","target":"portcullis_dhcp","free":0}"#;
    let record = parse_line("dhcp", json, 5);
    assert_eq!((record.level, record.message.as_str()), (Level::Warn, "pool is full"));
    assert_eq!(record.to_bus().fields, r#"{"free":0,"target":"portcullis_dhcp"}"#);
    for text in ["panicked at x", "{\"a\":1}", "[1]", "{"] {
        let record = parse_line("dhcp", text, 5);
        assert_eq!((record.level, record.message.as_str()), (Level::Info, text));
    }
}

#[test]
fn records_from_before_the_disk_and_of_the_last_boot_are_all_there_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::default();
    line(&mut writer, "init", "first boot, early");
    writer.open(folder.path().join("journal"), Limits::default());
    line(&mut writer, "dns", "first boot, late");
    writer.close();
    drop(writer);

    let mut writer = Writer::default();
    line(&mut writer, "init", "second boot");
    writer.open(folder.path().join("journal"), Limits::default());
    writer.flush();
    let page = writer.query(&query(0, 10)).unwrap();
    assert_eq!(texts(&page), ["first boot, early", "first boot, late", "second boot"]);
    let cursors: Vec<u64> = page.records.iter().map(|r| r.cursor).collect();
    assert!(cursors.is_sorted() && cursors[2] > cursors[1] + 1, "{cursors:?}");
    assert_eq!(texts(&writer.query(&query(cursors[0], 10)).unwrap())[0], "first boot, late");
    assert_eq!(texts(&writer.query(&query(0, 1)).unwrap()), ["second boot"]);
    let dns = JournalQuery { service: "dns".to_owned(), ..query(0, 10) };
    assert_eq!(texts(&writer.query(&dns).unwrap()), ["first boot, late"]);
}

#[test]
fn a_torn_last_line_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::default();
    writer.open(folder.path().to_owned(), Limits::default());
    line(&mut writer, "a", "whole");
    writer.close();
    let segment = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    fs::OpenOptions::new().append(true).open(&segment).unwrap().write_all(b"{\"c\":2,\"t").unwrap();

    let mut writer = Writer::default();
    writer.open(folder.path().to_owned(), Limits::default());
    line(&mut writer, "a", "next");
    writer.flush();
    assert_eq!(texts(&writer.query(&query(0, 10)).unwrap()), ["whole", "next"]);
}

#[test]
fn wrong_queries_are_told_what_is_allowed() {
    let writer = Writer::default();
    assert!(writer.query(&query(0, 0)).unwrap_err().contains("allowed: 1 to 1000"));
    let wrong = JournalQuery { level: "loud".to_owned(), ..query(0, 1) };
    assert!(writer.query(&wrong).unwrap_err().contains("allowed: error, warn, info"));
}

#[test]
fn a_burst_between_two_looks_at_the_disk_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::default();
    writer.open(folder.path().to_owned(), Limits::default());
    for n in 0..5000 {
        line(&mut writer, "a", &format!("{n}"));
    }
    let mut cursor = 1;
    let mut seen = 1;
    loop {
        let page = writer.query(&query(cursor, 1000)).unwrap();
        if page.records.is_empty() {
            break;
        }
        (cursor, seen) = (page.cursor, seen + page.records.len());
    }
    assert_eq!(seen, 5000);
}

#[test]
fn a_batch_larger_than_all_segments_keeps_the_limits() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { segment: 1000, total: 5000 };
    let mut writer = Writer::default();
    writer.open(folder.path().to_owned(), limits);
    for n in 0..500 {
        line(&mut writer, "a", &format!("{n} {}", "x".repeat(60)));
    }
    writer.flush();
    assert!(folder_bytes(folder.path()) <= limits.total, "{}", folder_bytes(folder.path()));
    let page = writer.query(&query(0, 1000)).unwrap();
    assert!(page.records.len() > 20 && page.records.last().unwrap().message.starts_with("499 "));
}

/// The whole of it stands in the memory of PID 1, several times.
#[test]
fn a_page_is_bounded_in_bytes_and_the_next_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::default();
    writer.open(folder.path().to_owned(), Limits::default());
    let long = "x".repeat(8000);
    for n in 0..400 {
        line(&mut writer, "a", &format!("{n} {long}"));
    }
    writer.flush();
    let bytes = |page: &portcullis_bus::init::JournalPage| {
        page.records.iter().map(|r| r.message.len()).sum::<usize>()
    };
    let newest = writer.query(&query(0, 1000)).unwrap();
    assert!((1 << 19..(1 << 20) + 10_000).contains(&bytes(&newest)), "{}", bytes(&newest));
    assert!(newest.records.last().unwrap().message.starts_with("399 "));
    let (mut cursor, mut seen) = (1, 1);
    while cursor < writer.newest() {
        let page = writer.query(&query(cursor, 1000)).unwrap();
        assert!(bytes(&page) < (1 << 20) + 10_000, "{}", bytes(&page));
        for record in &page.records {
            assert!(record.message.starts_with(&format!("{seen} ")));
            seen += 1;
        }
        cursor = page.cursor;
    }
    assert_eq!(seen, 400);
}

/// A service that was taken over, and would like to have its traces gone.
#[test]
fn a_flood_of_one_service_leaves_what_others_said() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::start().unwrap();
    journal.open(folder.path().to_owned(), Limits { segment: 256 << 10, total: 4 << 20 });
    journal.service_line("config", "something strange");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let said = |service: &str| {
        let query = JournalQuery { service: service.to_owned(), ..query(0, 1000) };
        runtime.block_on(journal.query(query)).unwrap().records
    };
    assert_eq!(said("config").len(), 1);
    let long = "x".repeat(4000);
    for _ in 0..25_000 {
        journal.service_line("web", &long);
    }
    runtime.block_on(journal.close());
    journal.open(folder.path().to_owned(), Limits { segment: 256 << 10, total: 4 << 20 });
    assert_eq!(said("config").len(), 1, "washed away");
    assert!(said("web").len() >= 100);
}

#[test]
fn without_a_disk_the_newest_records_stay_and_it_is_said() {
    let mut writer = Writer::default();
    writer.open("/proc/no/such/place".into(), Limits::default());
    for n in 0..5000 {
        line(&mut writer, "a", &format!("{n}"));
        writer.flush();
    }
    let page = writer.query(&query(0, 1000)).unwrap();
    assert_eq!(page.records.len(), 1000);
    assert_eq!(page.records[999].message, "4999");

    let mut writer = Writer::default();
    writer.open("/proc/no/such/place".into(), Limits::default());
    let page = writer.query(&query(0, 10)).unwrap();
    assert!(page.records[0].message.starts_with("journal stays in memory"), "{page:?}");
}

proptest! {
    #[test]
    fn any_pieces_give_the_same_lines(text in "[a-c\n]{0,200}", cut in 1_usize..20) {
        let mut whole = Lines::default();
        let mut expected = whole.push(text.as_bytes());
        expected.extend(whole.rest());
        let mut pieces = Lines::default();
        let mut got = Vec::new();
        for piece in text.as_bytes().chunks(cut) {
            got.extend(pieces.push(piece));
        }
        got.extend(pieces.rest());
        prop_assert_eq!(&got, &expected);
        prop_assert_eq!(got, text.split('\n').filter(|l| !l.is_empty()).collect::<Vec<_>>());
    }

    #[test]
    fn a_line_is_never_longer_than_its_bound(length in 0_usize..40_000) {
        let mut lines = Lines::default();
        let mut got = lines.push(&vec![b'x'; length]);
        got.extend(lines.push(b"\nnext\n"));
        prop_assert!(got.iter().all(|l| l.len() <= 8200));
        prop_assert_eq!(got.last().map(String::as_str), Some("next"));
    }

    /// However records come, how often it restarts and wherever it is torn: bounded, in order,
    /// without gaps except by age.
    #[test]
    fn the_newest_records_are_kept_within_the_limits(
        batches in proptest::collection::vec((0_usize..12, 1_usize..200, any::<bool>(), any::<bool>()), 1..25),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { segment: 1000, total: 5000 };
        let mut writer = Writer::default();
        writer.open(folder.path().to_owned(), limits);
        let mut written = 0_u32;
        for (count, length, restart, tear) in batches {
            for _ in 0..count {
                line(&mut writer, "a", &format!("{written} {}", "x".repeat(length)));
                written += 1;
                writer.flush();
            }
            if restart {
                writer.close();
                if tear {
                    let newest = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).max();
                    if let Some(path) = newest {
                        fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"{\"c\"").unwrap();
                    }
                }
                writer = Writer::default();
                writer.open(folder.path().to_owned(), limits);
            }
        }
        prop_assert!(folder_bytes(folder.path()) <= limits.total);
        let page = writer.query(&query(0, 1000)).unwrap();
        let numbers: Vec<u32> = page.records.iter()
            .map(|r| r.message.split(' ').next().unwrap().parse().unwrap()).collect();
        let expected: Vec<u32> = (written - u32::try_from(numbers.len()).unwrap()..written).collect();
        prop_assert_eq!(&numbers, &expected);
        prop_assert!(page.records.windows(2).all(|w| w[0].cursor < w[1].cursor));
        // Paging from the start gives the same records.
        let mut cursor = 1;
        let mut paged = Vec::new();
        if let Some(first) = page.records.first() {
            cursor = first.cursor.saturating_sub(1).max(1);
            if first.cursor == 1 { paged.push(first.clone()); }
        }
        loop {
            let next = writer.query(&query(cursor, 7)).unwrap();
            if next.records.is_empty() { break; }
            paged.extend(next.records);
            cursor = next.cursor;
        }
        prop_assert_eq!(paged, page.records);
    }
}

#[test]
fn a_full_queue_does_not_keep_the_journal_from_being_closed() {
    let (queue, messages) = sync_channel(1);
    let (_, newest) = watch::channel(0);
    let journal = Journal { queue, shared: Arc::default(), newest };
    journal.service_line("dns", "one of very many last words");
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        messages.iter().any(|message| match message {
            Message::Close(reply) => reply.send(()).is_ok(),
            _ => false,
        })
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(journal.close());
    drop(journal);
    assert!(thread.join().unwrap(), "it was never told to close");
}
