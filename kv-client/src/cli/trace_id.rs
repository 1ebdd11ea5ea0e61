//! The id of a trace, and the flag `--trace` of the commands whose requests can be followed.

use clap::Args;

/// The flag of a command whose requests can be followed.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TraceFlag {
    /// Have the nodes remember what they do for this request; `trace ID` shows it
    #[arg(long)]
    pub(crate) trace: bool,
}

/// The id of a trace as it is printed.
pub(crate) fn id_text(id: u128) -> String {
    format!("{id:032x}")
}

/// Reads what [`id_text`] has written.
pub(crate) fn parse_id(text: &str) -> Result<u128, String> {
    let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten();
    id.ok_or_else(|| "a trace id is 32 hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back() {
        assert_eq!(parse_id(&id_text(u128::MAX - 7)), Ok(u128::MAX - 7));
        for wrong in ["", "12", "+0000000000000000000000000000007", &"g".repeat(32)] {
            assert!(parse_id(wrong).is_err(), "{wrong}");
        }
    }
}
