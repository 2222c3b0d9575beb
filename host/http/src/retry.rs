//! How often and how soon to try again.

use std::time::Duration;

use reqwest::{Response, StatusCode, header};

/// Tries in all.
pub const TRIES: u32 = 5;
/// The first pause; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(250);
/// A server that asks for more patience is not waited for.
const LONGEST: Duration = Duration::from_secs(60);

/// Whether an answer says that another try may go better: too many requests, or trouble on the server's side.
#[must_use]
pub fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// The pause before try number `next` (from 1), or none when that is one too many. `answer` may ask for its own.
#[must_use]
pub fn pause(next: u32, answer: Option<&Response>) -> Option<Duration> {
    if next >= TRIES {
        return None;
    }
    let asked = answer
        .and_then(|answer| answer.headers().get(header::RETRY_AFTER))
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    Some(asked.unwrap_or(FIRST * 2u32.pow(next.saturating_sub(1)))).filter(|pause| *pause <= LONGEST)
}
