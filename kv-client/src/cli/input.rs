//! What comes in: durations, keys as exact bytes, values from the command line, stdin or a file.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use kv_client::api::VALUE_SIZE_MAX;

use super::Exit;

/// Reads `500ms`, `5s`, `2m`, `1h`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|digit: char| !digit.is_ascii_digit() && digit != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds_each = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{text}` has no unit that is known: use ms, s, m or h, as in 500ms")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is no time: use 500ms, 5s or 2m"))?;
    match Duration::try_from_secs_f64(number * seconds_each) {
        Ok(duration) if !duration.is_zero() && duration <= DURATION_MAX => Ok(duration),
        _ => Err(format!("`{text}` is not between 1ns and 24h")),
    }
}

/// An argument as exact bytes.
pub(crate) fn bytes(argument: OsString) -> Bytes {
    argument.into_vec().into()
}

/// A value: the argument itself, `-` for stdin, `@FILE` for a file. Never reads much more than the largest value.
pub(crate) fn value(argument: OsString) -> Result<Bytes, Exit> {
    let argument = argument.into_vec();
    match argument.as_slice() {
        b"-" => read(io::stdin().lock(), "stdin"),
        [b'@', path @ ..] => {
            let path = OsString::from_vec(path.to_vec());
            let name = Path::new(&path).display().to_string();
            match File::open(&path) {
                Ok(file) => read(file, &name),
                Err(error) => {
                    Err(Exit::Usage
                        .because(format_args!("the value's file `{name}` cannot be read: {error}")))
                }
            }
        }
        _ => Ok(argument.into()),
    }
}

/// What `path` names, `-` for stdin, of at most `limit` bytes.
pub(crate) fn text(path: &Path, limit: u64) -> Result<String, Exit> {
    let name = path.display();
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().lock().take(limit + 1).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(limit + 1).read_to_string(&mut text))
    };
    match read {
        Err(error) => Err(Exit::Usage.because(format_args!("`{name}` cannot be read: {error}"))),
        Ok(size) if size as u64 > limit => {
            Err(Exit::Limit.because(format_args!("`{name}` is larger than the limit of {limit} bytes")))
        }
        Ok(_) => Ok(text),
    }
}

fn read(source: impl Read, name: &str) -> Result<Bytes, Exit> {
    let mut value = Vec::new();
    let limit = VALUE_SIZE_MAX as u64 + 1;
    source
        .take(limit)
        .read_to_end(&mut value)
        .map_err(|error| Exit::Usage.because(format_args!("the value in {name} cannot be read: {error}")))?;
    if value.len() > VALUE_SIZE_MAX {
        return Err(Exit::Limit.because(format_args!(
            "the value in {name} is larger than the limit of {VALUE_SIZE_MAX} bytes"
        )));
    }
    Ok(value.into())
}

/// The longest time that a command can be given.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let table = [("500ms", 500), ("5s", 5_000), ("5", 5_000), ("1.5s", 1_500), ("2m", 120_000)];
        for (text, ms) in table {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "5x", "-1s", "0s", "25h", "1e9s", "..s", "5 s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_is_read_up_to_its_limit() {
        let exact = vec![7; VALUE_SIZE_MAX];
        assert_eq!(read(exact.as_slice(), "test").map(|value| value.len()), Ok(VALUE_SIZE_MAX));
        assert_eq!(read(io::repeat(7), "test"), Err(Exit::Limit));
    }
}
