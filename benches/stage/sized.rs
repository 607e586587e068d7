//! How much is measured.

/// The first when it is measured; the second, a small one, when it is only to be seen that all of it runs, as with
/// `cargo bench -- --test`.
pub(crate) fn sized<T>(measured: T, tried: T) -> T {
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    if has("--bench") && !has("--test") { measured } else { tried }
}
