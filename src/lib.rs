//! everfold
mod batch;
mod codec;
mod error;
mod event;
mod guard;
mod storage;
mod watermark;
