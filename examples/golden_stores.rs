//! Makes the golden stores of the current format: `cargo run --example golden_stores -- DIR`.
//!
//! Run it once when the format changes, into a new folder of `fixtures`; what is there is never made anew, because
//! it is what later versions must be able to read.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use everfold::{Batch, Event, Expected, Options, Position, Retention, Store, Uuid, Version};

/// Small, so that the repository stays small.
const SEGMENT: u64 = 8 << 10;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let dir: PathBuf = std::env::args_os().nth(1).ok_or("give the folder to make them in")?.into();
    fs::create_dir_all(&dir)?;
    let options = Options::new().segment_size(SEGMENT);

    let store = options.open(dir.join("clean"))?;
    append_all_kinds(&store)?;
    store.close()?;

    let store = options.open(dir.join("rolled"))?;
    for number in 0..60u64 {
        store.append(&format!("cart-{}", number % 3), Expected::Any, [event(number, "sold")?])?;
    }
    store.close()?;

    retained(&dir.join("retained"))?;

    let store = options.open(dir.join("live"))?;
    append_all_kinds(&store)?;
    copy(&dir.join("live"), &dir.join("unclean"))?;
    copy(&dir.join("live"), &dir.join("flipped_bit"))?;
    let whole = active_end(&dir.join("live"))?;
    store.append("cart-7", Expected::Any, [event(900, "sold")?])?;
    copy(&dir.join("live"), &dir.join("torn_tail"))?;
    drop(store);
    fs::remove_dir_all(dir.join("live"))?;

    // The second half of the last frame never reached the disk.
    let segment = first_segment(&dir.join("torn_tail"));
    let mut bytes = fs::read(&segment)?;
    let end = active_end(&dir.join("torn_tail"))?;
    bytes.get_mut((whole + end) / 2..end).ok_or("the frame is there")?.fill(0);
    fs::write(&segment, bytes)?;

    // A bit of the second event's payload, in the first batch.
    let segment = first_segment(&dir.join("flipped_bit"));
    let mut bytes = fs::read(&segment)?;
    let at = bytes.windows(5).position(|text| text == b"pants").ok_or("the payload is there")?;
    *bytes.get_mut(at).ok_or("the payload is there")? ^= 1;
    fs::write(&segment, bytes)?;
    Ok(())
}

/// Some segments with their indexes and a directory, after retention dropped the first two and with them all events of
/// the stream `cart-early`.
fn retained(dir: &Path) -> Result<()> {
    let store = Options::new().segment_size(SEGMENT).open(dir)?;
    for number in 0..200u64 {
        let stream = if number < 40 { "cart-early".to_owned() } else { format!("cart-{}", number % 3) };
        store.append(
            &stream,
            Expected::Any,
            [event(number, "sold")?.tag(format!("customer:{}", number % 7))],
        )?;
    }
    store.retain(&Retention::new().before(Position::new(60)))?;
    Ok(store.close()?)
}

/// Every encoding, with and without tags and metadata, in batches of one and of several.
fn append_all_kinds(store: &Store) -> Result<()> {
    store.append(
        "cart-7",
        Expected::NoStream,
        [event(1, "opened")?, Event::json("sold", &("pants", 2))?.id(id(2))],
    )?;
    store.append_batch(
        Batch::new()
            .event(
                "cart-7",
                Event::bincode("sold", &("hats", 1u32))?.id(id(3)).tag("customer:jsmith").tag("vip"),
            )
            .event("stock", Event::raw("taken", [0u8, 0xff, 7]).id(id(4)).metadata(*b"by the robot")),
    )?;
    store.append("stock", Version::new(1), [Event::raw("counted", []).id(id(5)).metadata([])])?;
    store.append(
        "caf\u{e9} \u{1b}[31m",
        Expected::Any,
        [Event::json("note", "line\nbreak \u{9b}")?.id(id(6))],
    )?;
    Ok(())
}

fn event(number: u64, event_type: &str) -> Result<Event> {
    Ok(Event::json(event_type, &number)?.id(id(number)))
}

fn id(number: u64) -> Uuid {
    Uuid::from_u128(u128::from(number))
}

fn first_segment(store: &Path) -> PathBuf {
    store.join("log/00000000000000000001.seg")
}

/// Where the last non-zero byte of the first segment ends.
fn active_end(store: &Path) -> Result<usize> {
    let bytes = fs::read(first_segment(store))?;
    Ok(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?
        } else {
            fs::copy(entry.path(), target).map(drop)?
        }
    }
    Ok(())
}
