//! The purchases of a shop, and a table of what was sold: the pattern's own example.
//!
//! ```sh
//! cargo run --release --example shop
//! ```
//!
//! Events are appended: a customer buys some things and gives one back. The table is a fold of them, kept up to date in the
//! background: the sum of the quantities, by customer and item. Each purchase changes it.

use std::error::Error;
use std::time::Duration;

use everfold::{Event, Expected, Fold, MemoryStorage, Options, Position, Store};
use serde::{Deserialize, Serialize};

/// The payload of an event, as JSON.
#[derive(Serialize, Deserialize)]
struct Purchase {
    customer: String,
    item: String,
    quantity: i32,
}

/// `SELECT customer, item, SUM(quantity) FROM purchases GROUP BY customer, item`
fn sold() -> Fold<(String, String), i64> {
    Fold::new("sold", 1)
        .types(["purchased"])
        .decode::<Purchase>()
        .key_by(|purchase| (purchase.customer.clone(), purchase.item.clone()))
        .sum(|purchase| purchase.quantity)
}

const PURCHASES: [(&str, i32); 6] =
    [("hats", 1), ("hats", 1), ("pants", 1), ("sweaters", 1), ("pants", 1), ("pants", -1)];

fn main() -> Result<(), Box<dyn Error>> {
    // In memory; `Store::open("shop")` keeps it in a directory.
    let store = Options::new().open_memory(&MemoryStorage::new())?;
    let table = store.project_fold(sold())?;
    let (_, changes) = table.follow()?;
    for (item, quantity) in PURCHASES {
        let purchase = Purchase { customer: "jsmith".to_owned(), item: item.to_owned(), quantity };
        store.append("purchases", Expected::Any, [Event::json("purchased", &purchase)?])?;
    }
    println!("what changed:");
    for change in changes.take(PURCHASES.len()) {
        let change = change?;
        let (customer, item) = change.key;
        println!("  {customer:<8} {item:<10} {:>3}", change.new.unwrap_or_default());
    }
    table.wait_for(store.watermark(), Duration::from_secs(10))?;
    println!("sold:");
    for row in table.range(..) {
        let ((customer, item), quantity) = row?;
        println!("  {customer:<8} {item:<10} {quantity:>3}");
    }
    print_as_of(&store, Position::new(2))?;
    store.close()?;
    Ok(())
}

/// What the table was before: the log knows.
fn print_as_of(store: &Store, position: Position) -> Result<(), Box<dyn Error>> {
    println!("sold, as of position {position}:");
    for ((customer, item), quantity) in store.fold(&sold()).as_of(position).rows()? {
        println!("  {customer:<8} {item:<10} {quantity:>3}");
    }
    Ok(())
}
