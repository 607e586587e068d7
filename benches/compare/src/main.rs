//! Compares everfold with other embedded stores and with the bare disk: see `README.md` beside this crate.

mod args;
mod fact;
mod figures;
mod peer;
mod peers;
mod plot;
mod raw;
mod report;
mod targets;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use args::{Args, HELP};
use figures::Measured;
use peer::Outcome;
use workload::{Setting, Workload, crash, deferred, durable, guarded, reading, tickets, views};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("\nerror: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let mut given = std::env::args().skip(1).peekable();
    if given.peek().is_some_and(|arg| arg == crash::CHILD) {
        let given: Vec<_> = given.skip(1).collect();
        let [name, events, dir] = given.as_slice() else {
            return Err("only this program itself says that".into());
        };
        return crash::fill_and_wait(name, events.parse()?, Path::new(dir));
    }
    if given.peek().is_some_and(|arg| arg == views::large::CHILD) {
        return views::large::make(Path::new(&given.nth(1).ok_or("only this program itself says that")?));
    }
    let args = Args::parse(given)?;
    if args.help {
        print!("{HELP}");
        return Ok(());
    }
    let setting = setting(&args)?;
    workload::warn_without_disk(&setting.dir)?;
    let start = Instant::now();
    println!(
        "{} rounds, turns of {} ms, 256-byte payloads; inputs are built before the clock starts, for every engine",
        setting.rounds,
        setting.turn.as_millis()
    );
    let all = measure(&args, &setting)?;
    let targets = targets::targets(&all);
    print!("{}{}", report::promises(), report::ratios(&targets));
    let plot = match (&args.svg, args.only.is_empty()) {
        (Some(path), _) => Some(path.clone()),
        (None, true) => Some(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/compare.svg"))),
        (None, false) => None,
    };
    if let Some(path) = plot {
        std::fs::write(&path, plot::svg(&all)).map_err(|e| format!("write {}: {e}", path.display()))?;
    }
    eprintln!("{} s", start.elapsed().as_secs());
    Ok(())
}

fn setting(args: &Args) -> Outcome<Setting> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::current_exe()?.parent().ok_or("a program without a directory")?.to_owned(),
    };
    Ok(match args.full {
        false => Setting {
            rounds: 5,
            turn: Duration::from_millis(300),
            scanned: 200_000,
            opened: 100_000,
            opened_own: [300_000, 1_345_000],
            dir,
        },
        true => Setting {
            rounds: 11,
            turn: Duration::from_millis(1000),
            scanned: 1_000_000,
            opened: 1_000_000,
            opened_own: [1_000_000, 4_000_000],
            dir,
        },
    })
}

fn measure(args: &Args, setting: &Setting) -> Outcome<Vec<Measured>> {
    let mut all = Vec::new();
    let mut run = |workload: Workload| -> Outcome<()> {
        if args.wants(workload.key) {
            let measured = workload.run(setting.rounds)?;
            print!("{}", report::table(&measured));
            all.push(measured);
        }
        Ok(())
    };
    run(durable::one_thread(setting))?;
    run(durable::threads(setting))?;
    run(tickets::tickets(setting))?;
    run(deferred::deferred(setting))?;
    if args.wants("scan") {
        run(reading::scan(setting)?)?;
    }
    if args.wants("stream") || args.wants("tag") {
        for workload in reading::by_name(setting)? {
            run(workload)?;
        }
    }
    if args.wants("guarded") {
        run(guarded::guarded(setting)?)?;
    }
    if args.wants("open") {
        run(crash::open(setting)?)?;
    }
    if args.wants("replay-rare") {
        run(views::rare(setting)?)?;
    }
    if args.wants("replay-often") {
        run(views::often(setting)?)?;
    }
    run(views::visible(setting))?;
    if args.wants("at-once") {
        run(views::at_once(setting)?)?;
    }
    if args.wants("large-view") && (args.full || !args.only.is_empty()) {
        views::large::large(setting)?;
    }
    Ok(all)
}
