//! Types and options as a reader would write them, whatever the spacing of the source.

use quote::ToTokens;
use syn::{Attribute, Expr, ExprLit, Lit, Meta};

/// The tokens of `part` with the usual spacing.
pub(crate) fn of(part: &impl ToTokens) -> String {
    let spaced = part.to_token_stream().to_string();
    let mut text = String::with_capacity(spaced.len());
    let mut rest = spaced.chars().peekable();
    while let Some(c) = rest.next() {
        let between_words = text.ends_with(is_word) && rest.peek().copied().is_some_and(is_word);
        let around_operator = text.ends_with(SPACED)
            || text.ends_with(';')
            || (text.ends_with(',') && rest.peek() != Some(&')'))
            || rest.peek().is_some_and(|c| SPACED.contains(c));
        if c != ' ' || between_words || around_operator {
            text.push(c);
        }
    }
    text
}

/// The documentation in `attributes`, a line per line, without the space after `///`.
pub(crate) fn docs<'a>(attributes: impl Iterator<Item = &'a Attribute>) -> String {
    let lines = attributes.filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(doc) if doc.path.is_ident("doc") => match &doc.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<_> = lines.map(|line| line.strip_prefix(' ').unwrap_or(&line).to_owned()).collect();
    lines.join("\n").trim().to_owned()
}

/// Has a space on either side.
const SPACED: [char; 3] = ['=', '+', '-'];

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '"' | '\'')
}

#[cfg(test)]
mod tests {
    use syn::{Meta, Type, parse_str};

    use super::of;

    #[test]
    fn types_and_options_read_as_written() {
        for text in [
            "i64",
            "Vec<u8>",
            "BTreeMap<String, Vec<(u64, Option<bytes::Bytes>)>>",
            "[u8; 32]",
            "()",
            "(u8,)",
            "<Store as Table>::Key",
            "Box<dyn Any + Send>",
        ] {
            assert_eq!(of(&parse_str::<Type>(text).unwrap()), text);
        }
        for text in
            ["idempotent", "timeout = \"300ms\"", "lane = control", "max_concurrent = 8", "cost(a, b)"]
        {
            assert_eq!(of(&parse_str::<Meta>(text).unwrap()), text);
        }
    }
}
