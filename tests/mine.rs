//! Mine.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "x")]
mod cli {
    pub(crate) fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }
}
#[path = "it/cli_views.rs"]
mod cli_views;
