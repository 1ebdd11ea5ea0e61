//! A time on the command line.

use std::str::FromStr;
use std::time::Duration;

/// A time with its unit.
#[derive(Clone, Debug)]
pub(super) struct Time {
    /// As it was given.
    pub(super) text: String,
    /// What it means.
    pub(super) duration: Duration,
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let seconds = match &text[digits.len()..] {
            "s" => Some(1),
            "m" => Some(60),
            "h" => Some(3_600),
            _ => None,
        };
        let number = digits.parse::<u64>().ok();
        let seconds = number.zip(seconds).and_then(|(number, unit)| number.checked_mul(unit));
        match seconds {
            Some(seconds) if (TIME_MIN..=TIME_MAX).contains(&seconds) => {
                Ok(Self { text: text.to_owned(), duration: Duration::from_secs(seconds) })
            }
            Some(_) => Err(format!("a run takes from {TIME_MIN} s to {} h", TIME_MAX / 3_600)),
            None => Err("a time is a whole number and s, m or h, as in 30s".to_owned()),
        }
    }
}

/// Seconds of the shortest run: in less time hardly a fault fits.
const TIME_MIN: u64 = 5;
/// Seconds of the longest run.
const TIME_MAX: u64 = 24 * 3_600;
