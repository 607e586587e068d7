//! A running projection, seen from the store.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::chunks::Chunks;
use super::opened::ViewHome;
use super::policy::ProjectionOptions;
use super::proving::Prover;
use super::refold::Source;
use super::run::Run;
use super::runs::Runs;
use super::views::Views;
use crate::error::Error;
use crate::event::Position;
use crate::view::state::ViewState;
use crate::view::status::ProjectionState;

/// What a projector is started with.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) home: ViewHome,
    pub(crate) options: ProjectionOptions,
    pub(crate) state: Arc<ViewState>,
    /// The log as projections of the same store read it.
    pub(crate) chunks: Arc<Chunks>,
}

/// The thread of a projection, and what it shares with the store.
#[derive(Debug)]
pub(crate) struct Projector {
    state: Arc<ViewState>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Whether the rows are on disk.
    keeps_rows: bool,
    from_log_start: bool,
}

impl Projector {
    /// Opens the view and starts the thread. The view can be read from then on, as of its checkpoint.
    pub(crate) fn start<R: Runs>(
        projection: Arc<R>,
        views: Arc<Views<R::Key, R::Value>>,
        setting: Setting,
    ) -> Result<Self, Error> {
        let (state, stop) = (setting.state.clone(), Arc::new(AtomicBool::new(false)));
        let keeps_rows = setting.home.folder.is_some();
        let from_log_start = setting.home.from_log_start;
        let name = format!("everfold-{}", setting.home.name);
        let catalog = state.catalog.clone();
        state.set_refolder(Arc::new(Source {
            projection: projection.clone(),
            views: views.clone(),
            catalog: catalog.clone(),
        }));
        let (home, chunks) = (setting.home.clone(), setting.chunks.clone());
        let (own_projection, own_views) = (projection.clone(), views.clone());
        state.set_prover(Arc::new(Prover { projection, views, home, catalog, chunks }));
        let run = Run::open(own_projection, own_views, setting, stop.clone())?;
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || run.follow())
            .map_err(|e| Error::io("start a projector's thread", e))?;
        Ok(Projector { state, stop, thread: Mutex::new(Some(thread)), keeps_rows, from_log_start })
    }

    pub(crate) fn state(&self) -> &Arc<ViewState> {
        &self.state
    }

    /// Whether it gave up.
    pub(crate) fn has_stopped(&self) -> bool {
        matches!(self.state.state(), ProjectionState::Stopped { .. })
    }

    /// The checkpoint that the view goes on from after a loss of power, whatever happens: it is made durable. A view in
    /// memory starts anew, from the log's start unless it may do without.
    pub(crate) fn durable_checkpoint(&self) -> Position {
        match (self.keeps_rows, self.from_log_start) {
            (true, _) => self.state.make_durable().unwrap_or_else(|error| {
                tracing::warn!(view = &*self.state.name, %error, "a view is not known to be durable");
                Position::START
            }),
            (false, true) => self.state.checkpoint.get(),
            (false, false) => Position::START,
        }
    }

    /// Takes the rows away, so that nobody reads them after the store was closed.
    pub(crate) fn release(&self) {
        self.state.release();
    }

    /// Ends the thread after the write it is at, and makes the view durable.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            thread.thread().unpark();
            // An `apply` that closes the store cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!(view = &*self.state.name, "the projector's thread had panicked");
            }
        }
    }
}
