//! The process under test. It says on its standard output what was acknowledged, after it was.

use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use everfold::{AppendError, Appended, Error, ErrorKind, Position, Retention, Store, Ticket, View};

use crate::claims::Ack;
use crate::workload::{CountByStream, Did, SumByTag, options};

/// Appends to a store until it is killed (started by the other campaigns).
#[derive(Clone, Debug, Args)]
pub(crate) struct Worker {
    /// The directory of the store.
    dir: PathBuf,
    /// Which life of the process this is.
    #[arg(long, default_value_t = 0)]
    life: u32,
    /// How many threads append.
    #[arg(long, default_value_t = 4)]
    threads: u32,
    /// After how many batches of a thread the store is closed.
    #[arg(long)]
    batches: Option<u64>,
    /// Drop segments before this position.
    #[arg(long)]
    retain: Option<u64>,
    /// Without views: all that touches the store's files then happens in one thread, if one thread appends.
    #[arg(long)]
    no_views: bool,
    /// Sync what was appended without a sync after so many milliseconds (default: 1, or 200 in a life in which hardly
    /// anything else is synced).
    #[arg(long)]
    sync_after: Option<u64>,
}

impl Worker {
    /// Ends with 0 after a close, with 2 after an error that the store told.
    pub(crate) fn run(&self) -> ExitCode {
        match self.live() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(format_args!("error {:?}: {error}", error.kind()));
                ExitCode::from(2)
            }
        }
    }

    fn live(&self) -> Result<(), Error> {
        let lazy = Did { life: self.life, thread: 0, n: 0 }.is_lazy();
        let sync_after = Duration::from_millis(self.sync_after.unwrap_or(if lazy { 200 } else { 1 }));
        let store = options().sync_after(sync_after).open(&self.dir)?;
        say("opened");
        let views = (!self.no_views).then(|| (store.project(CountByStream), store.project(SumByTag)));
        let lived = std::thread::scope(|scope| {
            let others: Vec<_> = (1..self.threads)
                .map(|thread| {
                    scope.spawn({
                        let store = &store;
                        move || self.append_until_closed(store, thread)
                    })
                })
                .collect();
            let mine = self.append_and_close(&store, views);
            others.into_iter().fold(mine, |all, other| match other.join() {
                Ok(result) => all.and(result),
                Err(panic) => std::panic::resume_unwind(panic),
            })
        });
        lived.inspect(|()| say("closed"))
    }

    /// The first thread drops segments, waits for the views, and closes the store.
    fn append_and_close(&self, store: &Store, views: Option<Views>) -> Result<(), Error> {
        let appended = (0..self.batches.unwrap_or(u64::MAX)).try_for_each(|n| {
            let did = Did { life: self.life, thread: 0, n };
            append(store, did)?;
            match self.retain {
                Some(before) if n == 20 => retain(store, before),
                _ => sync_now_and_then(store, did),
            }
        });
        let viewed = views.map_or(Ok(()), |(counts, sums)| {
            counts?.wait_for(store.watermark(), Duration::from_secs(10))?;
            sums?.wait_for(store.watermark(), Duration::from_secs(10))
        });
        appended.and(viewed).and(store.close())
    }

    /// The last of four threads submits its batches several at a time.
    fn append_until_closed(&self, store: &Store, thread: u32) -> Result<(), Error> {
        let several = if thread == 3 { 8 } else { 1 };
        let result = (0..).step_by(several).try_for_each(|n| {
            let batches = (n..).take(several).map(|n| Did { life: self.life, thread, n });
            if several > 1 {
                submit(store, batches)?
            } else {
                batches.into_iter().try_for_each(|did| append(store, did))?
            }
            sync_now_and_then(store, Did { life: self.life, thread, n })
        });
        result.or_else(|error| if error.kind() == ErrorKind::Closed { Ok(()) } else { Err(error) })
    }
}

type Views = (Result<View<String, u64>, Error>, Result<View<String, u64>, Error>);

/// Says something to whoever started this process, and ends where nobody listens any more.
fn say(what: impl Display) {
    if std::io::stdout().lock().write_all(format!("{what}\n").as_bytes()).is_err() {
        std::process::exit(3);
    }
}

fn acknowledged(did: Did, done: Result<Appended, AppendError>) -> Result<(), Error> {
    let done = done.map_err(|error| match error {
        AppendError::Failed(error) => error,
        conflict => unreachable!("no batch has a guard: {conflict}"),
    })?;
    say(Ack { first: done.first.get(), did });
    Ok(())
}

/// A full disk is no end: nothing was written, and the same append works once there is space.
fn append(store: &Store, did: Did) -> Result<(), Error> {
    match acknowledged(did, store.append_batch(did.batch()?)) {
        Err(error) if error.kind() == ErrorKind::DiskFull => {
            acknowledged(did, store.append_batch(did.batch()?))
        }
        result => result,
    }
}

fn submit(store: &Store, batches: impl Iterator<Item = Did>) -> Result<(), Error> {
    let tickets: Vec<_> =
        batches.map(|did| Ok((did, store.submit(did.batch()?)))).collect::<Result<_, Error>>()?;
    tickets.into_iter().try_for_each(|(did, ticket)| acknowledged(did, ticket.and_then(Ticket::wait)))
}

fn sync_now_and_then(store: &Store, did: Did) -> Result<(), Error> {
    if did.n % 16 == 15 && !did.is_lazy() {
        say(format_args!("durable {}", store.sync()?));
    } else if did.n % 4 == 1 {
        say(format_args!("durable {}", store.watermark()));
    }
    Ok(())
}

fn retain(store: &Store, before: u64) -> Result<(), Error> {
    say(format_args!("retain {before}"));
    let retained = store.retain(&Retention::new().before(Position::new(before)))?;
    say(format_args!("retained {}", retained.first));
    Ok(())
}
