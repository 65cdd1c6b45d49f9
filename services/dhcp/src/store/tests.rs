//! What is on disk after restarts, damage and a full disk.

use std::net::Ipv4Addr;

use super::*;

fn lease(last: u8) -> LeaseRecord {
    LeaseRecord {
        address: Ipv4Addr::new(10, 0, 0, last),
        interface: "lan".parse().expect("a name"),
        client: if last.is_multiple_of(2) {
            ClientId::Option(vec![0xff, 0, last])
        } else {
            ClientId::Hardware(HardwareAddress::from(portcullis_model::MacAddress([2; 6])))
        },
        hardware: HardwareAddress::from(portcullis_model::MacAddress([2; 6])),
        hostname: (last > 3).then(|| "host".parse().expect("a name")),
        state: LeaseState::Bound,
        ends_unix_s: 1_800_000_000,
        lease_s: 3600,
    }
}

#[test]
fn leases_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let all: Vec<_> = (1..=6).map(lease).collect();
    {
        let (mut store, found) = Store::open(folder.path());
        assert!(found.is_empty());
        all.iter().cloned().for_each(|lease| store.save(lease));
        store.save(lease(9));
        store.commit().expect("stored");
        store.forget(lease(9).address);
        assert!(store.pending());
        store.commit().expect("stored");
        assert!(!store.pending());
    }
    let (_store, found) = Store::open(folder.path());
    assert_eq!(found, all);
}

#[test]
fn a_damaged_file_is_put_aside_and_a_new_one_begun() {
    for damage in [&b"this is no database at all, though it is long enough"[..], &[0xff; 8192]] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        std::fs::write(&path, damage).expect("written");
        let (mut store, found) = Store::open(folder.path());
        assert!(found.is_empty());
        store.save(lease(1));
        store.commit().expect("stored");
        drop(store);
        assert_eq!(Store::open(folder.path()).1, [lease(1)]);
        let aside = std::fs::read(folder.path().join("leases.db.damaged")).expect("kept");
        assert_eq!(aside, damage);
    }
}

#[test]
fn flipped_octets_in_the_file_never_panic_and_leave_a_working_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(FILE);
    let (mut store, _) = Store::open(folder.path());
    (1..=100).for_each(|last| store.save(lease(last)));
    store.commit().expect("stored");
    drop(store);
    let good = std::fs::read(&path).expect("a file");
    for at in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        std::fs::write(&path, &bad).expect("written");
        let (mut store, found) = Store::open(folder.path());
        assert!(found.len() <= 101, "octet {at}");
        store.save(lease(200));
        if let Err(error) = store.commit() {
            assert!(error.is_damage(), "octet {at}: {error}");
            store.begin_anew(vec![lease(200)]).expect("a new file");
        }
        drop(store);
        let again = Store::open(folder.path()).1;
        assert!(again.contains(&lease(200)), "octet {at}: {again:?}");
    }
}

#[test]
fn a_file_of_a_newer_release_is_put_aside() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(FILE);
    let newer = Connection::open(&path).expect("a file");
    newer.execute_batch("CREATE TABLE lease (x); PRAGMA user_version = 2;").expect("written");
    drop(newer);
    let (mut store, found) = Store::open(folder.path());
    assert!(found.is_empty());
    store.save(lease(1));
    store.commit().expect("stored");
    assert!(folder.path().join("leases.db.damaged").exists());
}

#[test]
fn what_a_full_disk_did_not_take_is_written_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut store, _) = Store::open(folder.path());
    let limit = |store: &Store, pages: i64| {
        let database = store.database.as_ref().expect("open");
        let set = format!("PRAGMA max_page_count = {pages}");
        database.query_row(&set, [], |row| row.get::<_, i64>(0)).expect("set");
    };
    limit(&store, 1);
    (1..=200).for_each(|last| store.save(lease(last)));
    let error = store.commit().expect_err("no room");
    assert!(!error.is_damage(), "{error}");
    assert!(error.to_string().contains("leases.db"), "{error}");
    assert!(store.pending());
    limit(&store, 1 << 20);
    store.commit().expect("room");
    drop(store);
    assert_eq!(Store::open(folder.path()).1.len(), 200);
}

#[test]
fn a_folder_that_is_missing_is_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("dhcp");
    let (mut store, found) = Store::open(&missing);
    assert!(found.is_empty());
    store.save(lease(1));
    store.commit().expect_err("no folder");
    std::fs::create_dir(&missing).expect("made");
    store.commit().expect("stored");
    drop(store);
    assert_eq!(Store::open(&missing).1, [lease(1)]);
}
