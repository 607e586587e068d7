//! tmp
use everfold::*;
use std::time::*;
struct ByCustomer;
impl Projection for ByCustomer {
    const NAME: &'static str = "by-customer";
    const GENERATION: u32 = 1;
    type Key = String;
    type Value = (u64, u64, u64);
    fn apply(&self, e: &RecordedEvent, v: &mut ViewBatch<String, (u64, u64, u64)>) -> Result<(), ApplyError> {
        v.update(e.stream().to_owned(), |b| {
            let b = b.unwrap_or_default();
            Some((b.0 + 1, b.1 + e.payload().len() as u64, b.2 + 7))
        })
    }
}
struct Each;
impl Projection for Each {
    const NAME: &'static str = "each";
    const GENERATION: u32 = 1;
    type Key = u64;
    type Value = (u64, u64, u64);
    fn apply(&self, e: &RecordedEvent, v: &mut ViewBatch<u64, (u64, u64, u64)>) -> Result<(), ApplyError> {
        v.put(e.position().get(), (e.payload().len() as u64, 1, 2));
        Ok(())
    }
}
fn fill(s: &Store, n: u64, streams: u64) {
    let mut i = 0u64;
    while i < n {
        let mut b = Batch::new().durability(Durability::Written);
        for _ in 0..1000 {
            i += 1;
            b = b.event(
                &format!("customer-{}", i.wrapping_mul(0x9E3779B97F4A7C15) % streams),
                Event::raw("p", &b"{\"date\":\"19970101\",\"qty\":1,\"cents\":1177}"[..]),
            );
        }
        s.append_batch(b).unwrap();
    }
    s.sync().unwrap();
}
fn main() {
    let dir = std::env::args().nth(1).unwrap();
    let n: u64 = std::env::args().nth(2).unwrap().parse().unwrap();
    for round in 0..3 {
        let d = format!("{dir}/a{round}");
        let s = Store::open(&d).unwrap();
        fill(&s, 70_000, 23_570);
        let t = Instant::now();
        let v = s.project(ByCustomer).unwrap();
        v.wait_for(s.watermark(), Duration::MAX).unwrap();
        println!("replay 70,000 onto {} rows: {:?}", v.len(), t.elapsed());
        s.close().unwrap();
    }
    let d = format!("{dir}/b");
    let s = Store::open(&d).unwrap();
    fill(&s, n, 1000);
    let t = Instant::now();
    let v = s.project(Each).unwrap();
    v.wait_for(s.watermark(), Duration::MAX).unwrap();
    println!("put {n} rows: {:?}", t.elapsed());
    s.close().unwrap();
    for _ in 0..3 {
        let s = Options::new().verify_views(true).open(&d).unwrap();
        let t = Instant::now();
        let v = s.project(Each).unwrap();
        println!("open {} rows: {:?}", v.len(), t.elapsed());
        s.close().unwrap();
        let s = Options::new().verify_views(false).open(&d).unwrap();
        let t = Instant::now();
        let v = s.project(Each).unwrap();
        println!("open {} rows without: {:?}", v.len(), t.elapsed());
        s.close().unwrap();
    }
}
