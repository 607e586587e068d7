//! What a storage in memory promises, and what it may lose.

use super::*;

/// A file `a` of 1,024 bytes, its size and name durable. Three operations.
fn one_file() -> (MemoryStorage, Arc<dyn File>) {
    let storage = MemoryStorage::new();
    let file = storage.create("a", 1024).unwrap();
    file.sync().unwrap();
    storage.sync_folder("").unwrap();
    (storage, file)
}

fn head(storage: &MemoryStorage) -> [u8; 2] {
    storage.file("a").unwrap()[..2].try_into().unwrap()
}

#[test]
fn what_is_written_is_read_at_once_and_durable_after_a_sync() {
    let (storage, file) = one_file();
    file.write_at(b"ab", 0).unwrap();
    assert_eq!((head(&storage), head(&storage.crash(0)), head(&storage.crash(u64::MAX))), {
        (*b"ab", [0, 0], *b"ab")
    });
    file.sync().unwrap();
    assert_eq!(head(&storage.crash(0)), *b"ab");
    assert_eq!(storage.operations(), 5);
}

#[test]
fn a_crash_leaves_an_independent_storage_in_which_all_is_durable() {
    let (storage, file) = one_file();
    let _lock = storage.lock().unwrap();
    storage.fail_at(5, Fault::from_then_on(ErrorKind::Other));
    file.write_at(b"ab", 0).unwrap();
    let after = storage.crash(u64::MAX);
    assert_eq!((head(&after.crash(0)), after.operations()), (*b"ab", 0));
    let other = after.open("a", Access::Write).unwrap();
    other.write_at(b"cd", 0).unwrap();
    other.sync().unwrap();
    assert_eq!((head(&storage), head(&after)), (*b"ab", *b"cd"));
    after.lock().unwrap();
}

#[test]
fn the_same_seed_leaves_the_same_bytes() {
    let (storage, file) = one_file();
    file.write_at(&[7; 1024], 0).unwrap();
    storage.create("b", 600).unwrap().write_at(&[8; 600], 0).unwrap();
    let bytes = |seed| {
        let after = storage.crash(seed);
        after.files().iter().map(|name| after.file(name).unwrap()).collect::<Vec<_>>()
    };
    assert!((0..100).all(|seed| bytes(seed) == bytes(seed)));
    assert!((1..100).any(|seed| bytes(seed) != bytes(seed + 1)));
}

#[test]
fn a_removed_file_can_come_back_and_an_open_one_can_still_be_used() {
    let (storage, file) = one_file();
    storage.remove("a").unwrap();
    file.write_at(b"ab", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(storage.file("a"), None);
    assert_eq!(head(&storage.crash(0)), *b"ab");
    storage.sync_folder("").unwrap();
    assert_eq!(storage.crash(0).files(), [""; 0]);
}

#[test]
fn a_synced_file_without_a_synced_name_is_lost() {
    let storage = MemoryStorage::new();
    let file = storage.create("a", 2).unwrap();
    file.write_at(b"ab", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(storage.crash(0).file("a"), None);
    assert_eq!(storage.crash(u64::MAX).file("a").unwrap(), b"ab");
}

#[test]
fn a_failed_sync_loses_the_bytes_and_a_second_sync_does_not_cure_it() {
    let (storage, file) = one_file();
    storage.fail_at(5, Fault::once(ErrorKind::Other));
    file.write_at(b"ab", 0).unwrap();
    assert!(file.sync().is_err());
    file.sync().unwrap();
    assert_eq!((head(&storage), head(&storage.crash(0))), (*b"ab", [0, 0]));
    file.write_at(b"ab", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(head(&storage.crash(0)), *b"ab");
}

#[test]
fn a_short_write_writes_the_first_half_and_fails() {
    let (storage, file) = one_file();
    storage.fail_at(4, Fault::once(ErrorKind::StorageFull).short());
    assert_eq!(file.write_at(b"ab", 0).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(head(&storage), *b"a\0");
    file.write_at(b"ab", 0).unwrap();
}

#[test]
fn a_planned_loss_of_power_leaves_what_one_at_that_operation_leaves() {
    let (storage, file) = one_file();
    for seed in [0, 7, u64::MAX] {
        storage.crash_at(4, seed);
        storage.crash_at(6, seed);
    }
    file.write_at(b"ab", 0).unwrap();
    let of_write: Vec<_> = storage.outages().iter().map(|outage| head(&outage.left)).collect();
    assert!(of_write.contains(&[0, 0]) && of_write.contains(b"ab"), "{of_write:?}");
    file.sync().unwrap();
    storage.rename("a", "b").unwrap();
    let outages = storage.outages();
    assert_eq!(outages.iter().map(|outage| (outage.operation, outage.seed)).collect::<Vec<_>>(), {
        [(6, 0), (6, 7), (6, u64::MAX)]
    });
    assert_eq!((outages[0].left.files(), outages[2].left.files()), (vec!["a".into()], vec!["b".into()]));
    assert!(storage.outages().is_empty());
}

#[test]
fn a_planned_loss_of_power_finds_any_first_part_of_a_write() {
    let (storage, file) = one_file();
    (0..2000).for_each(|seed| storage.crash_at(4, seed));
    file.write_at(&[1, 2, 3, 4], 0).unwrap();
    let seen: std::collections::BTreeSet<Vec<u8>> =
        storage.outages().iter().map(|outage| outage.left.file("a").unwrap()[..4].to_vec()).collect();
    let prefixes: [&[u8]; 5] = [&[0, 0, 0, 0], &[1, 0, 0, 0], &[1, 2, 0, 0], &[1, 2, 3, 0], &[1, 2, 3, 4]];
    assert_eq!(seen.iter().map(Vec::as_slice).collect::<Vec<_>>(), prefixes);
    assert_eq!(storage.file("a").unwrap()[..4], [1, 2, 3, 4], "life goes on");
}

#[test]
fn reads_fail_by_a_number_of_their_own() {
    let (storage, file) = one_file();
    let (done, operations) = (storage.reads(), storage.operations());
    storage.fail_read_at(done + 2, Fault::from_then_on(ErrorKind::Other));
    assert!(file.len().is_ok() && file.len().is_err());
    assert!(file.read_at(&mut [0], 0).is_err() && file.map(1).is_err());
    assert!(storage.list("").is_err() && storage.open("a", Access::Read).is_err());
    assert_eq!((storage.reads() - done, storage.operations()), (6, operations));
    storage.clear_faults();
    assert!(storage.list("").is_ok());
}

#[test]
fn what_is_random_follows_from_the_seed() {
    let drawn = |storage: &MemoryStorage| (storage.random(), storage.now(), storage.random());
    let storages = [4, 4, 5].map(MemoryStorage::seeded);
    let [first, same, other] = storages.each_ref().map(drawn);
    assert!(first == same && first != other);
    assert_eq!(drawn(&storages[0].crash(3)), drawn(&storages[1].crash(3)));
    assert_ne!(MemoryStorage::new().random(), MemoryStorage::new().random());
}

#[test]
fn every_kind_of_operation_fails_on_a_dead_disk_and_changes_nothing() {
    let (storage, file) = one_file();
    storage.fail_at(4, Fault::from_then_on(ErrorKind::Other));
    assert!(file.write_at(b"ab", 0).is_err());
    assert!(file.sync().is_err());
    assert!(storage.create("b", 1).is_err());
    assert!(storage.create_folder("log").is_err());
    assert!(storage.rename("a", "b").is_err());
    assert!(storage.remove("a").is_err());
    assert!(storage.sync_folder("").is_err());
    assert_eq!((storage.operations(), storage.list("").unwrap()), (10, vec!["a".to_owned()]));
    assert_eq!(head(&storage), [0, 0]);
    storage.clear_faults();
    storage.rename("a", "b").unwrap();
}

#[test]
fn damage_reaches_every_image_and_a_miss_is_an_error() {
    let (storage, file) = one_file();
    file.write_at(b"ab", 0).unwrap();
    storage.flip_bit("a", 1, 7).unwrap();
    storage.overwrite("a", 0, b"X").unwrap();
    assert_eq!((head(&storage), head(&storage.crash(0))), ([b'X', b'b' ^ 0x80], [b'X', 0x80]));
    storage.truncate("a", 1).unwrap();
    assert_eq!((storage.file("a").unwrap(), storage.crash(0).file("a").unwrap()), (vec![b'X'], vec![b'X']));
    assert!(storage.flip_bit("a", 1, 0).is_err());
    assert!(storage.flip_bit("a", 0, 8).is_err());
    assert!(storage.overwrite("b", 0, b"").is_err());
    storage.delete("a").unwrap();
    assert!(storage.delete("a").is_err());
    assert_eq!(storage.crash(u64::MAX).files(), [""; 0]);
}

#[test]
fn files_are_read_and_written_within_their_size_and_access() {
    let (storage, file) = one_file();
    assert_eq!(file.write_at(b"ab", 1023).unwrap_err().kind(), ErrorKind::InvalidInput);
    file.write_at(b"b", 1023).unwrap();
    let reader = storage.open("a", Access::Read).unwrap();
    assert_eq!(reader.write_at(b"x", 0).unwrap_err().kind(), ErrorKind::PermissionDenied);
    let mut buf = [9; 3];
    assert_eq!((reader.read_at(&mut buf, 1022).unwrap(), buf), (2, [0, b'b', 9]));
    assert_eq!(reader.read_at(&mut buf, u64::MAX).unwrap(), 0);
    assert_eq!((reader.len().unwrap(), reader.map(1024).unwrap().len()), (1024, 1024));
    assert!(storage.create("huge", u64::MAX).is_err());
}

#[test]
fn one_holder_has_the_lock() {
    let storage = MemoryStorage::new();
    let lock = storage.lock().unwrap();
    let pid = Some(std::process::id());
    assert!(matches!(storage.clone().lock(), Err(LockError::Held { pid: held }) if held == pid));
    drop(lock);
    storage.lock().unwrap();
}

#[test]
fn a_file_that_is_put_there_is_durable_and_replaces_another() {
    let (storage, _) = one_file();
    storage.put("a", b"new").unwrap();
    storage.put("log/b", b"").unwrap();
    assert_eq!(storage.crash(0).files(), ["a", "log/b"]);
    assert_eq!(storage.crash(0).file("a").unwrap(), b"new");
    assert!(storage.put("log", b"").is_err() && storage.put("a/b", b"").is_err());
}
