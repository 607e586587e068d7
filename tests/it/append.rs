use everfold::{Event, Expected, Options, Position, Store, Version};

fn texts(store: &Store) -> Vec<String> {
    store.read(Position::START).map(|e| String::from_utf8(e.unwrap().payload().to_vec()).unwrap()).collect()
}

#[test]
fn what_was_appended_is_read_again_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    for n in 0..10 {
        let done =
            store.append("s", Expected::Exact(Version::new(n)), [Event::raw("t", n.to_string())]).unwrap();
        assert_eq!(done.position.get(), n + 1);
    }
    let expected: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    assert_eq!(texts(&store), expected);
    store.close().unwrap();
    let store = Options::new().create(false).open(&path).unwrap();
    assert!(store.recovery().clean, "{}", store.recovery());
    assert_eq!(texts(&store), expected);
}

#[test]
fn small_segments_roll_and_are_read_across() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().segment_size(8192);
    let store = options.open(dir.path()).unwrap();
    for n in 0..500 {
        store.append(&format!("s{}", n % 7), Expected::Any, [Event::raw("t", n.to_string())]).unwrap();
    }
    let expected: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    assert_eq!(texts(&store), expected);
    let back: Vec<u64> = store.read_backward(Position::END).map(|e| e.unwrap().position().get()).collect();
    assert_eq!(back, (1..=500).rev().collect::<Vec<_>>());
    drop(store);
    let store = options.open(dir.path()).unwrap();
    assert!(store.recovery().segments > 10);
    assert_eq!(texts(&store), expected);
    let s3: Vec<u64> = store.read_stream("s3", Version::NONE).map(|e| e.unwrap().version().get()).collect();
    assert_eq!(s3, (1..=71).collect::<Vec<_>>());
}
