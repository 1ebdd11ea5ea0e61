//! Just enough of SVG: elements with numbers in them, and axes.

use std::fmt::Write;

/// Text as HTML shows it.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A drawing of so many units; it scales to the width that there is.
pub(super) struct Drawing {
    body: String,
    width: f64,
    height: f64,
}

impl Drawing {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { body: String::new(), width, height }
    }

    pub(super) fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64), title: &str) {
        let width = width.max(1.0);
        let shape = format!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\""
        );
        self.shape(&shape, "rect", title);
    }

    pub(super) fn dot(&mut self, class: &str, (x, y): (f64, f64), radius: f64) {
        let shape = format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\"");
        self.shape(&shape, "circle", "");
    }

    pub(super) fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let shape =
            format!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"");
        self.shape(&shape, "line", "");
    }

    pub(super) fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut shape = format!("<polyline class=\"{class}\" points=\"");
        for (x, y) in points {
            // Writing into a text cannot fail.
            let _ = write!(shape, "{x:.1},{y:.1} ");
        }
        shape.push('"');
        self.shape(&shape, "polyline", "");
    }

    /// `anchor`: start, middle or end.
    pub(super) fn text(&mut self, anchor: &str, (x, y): (f64, f64), text: &str) {
        let text = escape(text);
        let _ = writeln!(self.body, "<text text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
    }

    fn shape(&mut self, shape: &str, element: &str, title: &str) {
        let _ = if title.is_empty() {
            writeln!(self.body, "{shape}/>")
        } else {
            writeln!(self.body, "{shape}><title>{}</title></{element}>", escape(title))
        };
    }

    /// The drawing as an element; `label` says what it shows to those who do not see it.
    pub(super) fn finish(self, label: &str) -> String {
        let Self { body, width, height } = self;
        let label = escape(label);
        format!(
            "<svg viewBox=\"0 0 {width:.0} {height:.0}\" style=\"--w:{width:.0}px\" role=\"img\" aria-label=\"{label}\">\n{body}</svg>\n"
        )
    }
}

/// A step for the marks of an axis that is `length` long: 1, 2 or 5 times a power of ten, at most `marks` of them.
pub(super) fn step(length: f64, marks: f64) -> f64 {
    let least = (length / marks).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= least)
        .unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_not_too_many() {
        for (length, marks, expected) in
            [(20.0, 10.0, 2.0), (21.0, 10.0, 5.0), (0.9, 10.0, 0.1), (100.0, 4.0, 50.0)]
        {
            let step = step(length, marks);
            assert!((step - expected).abs() < 1e-9, "{length}: {step}");
        }
    }
}
