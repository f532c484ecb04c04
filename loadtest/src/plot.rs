//! Bars as SVG: for each panel a bar per target, as long as the median, with a line from the smallest run to the largest.

use std::fmt::Write as _;

use crate::compare::Sheet;
use crate::compare::sheet::short;
use crate::figures::Figure;

const WIDTH: f64 = 720.0;
/// Where bars begin, and how much is left for the number behind the longest.
const LEFT: f64 = 170.0;
const RIGHT: f64 = 80.0;
const BAR: f64 = 16.0;
const STEP: f64 = 22.0;
const HEADING: f64 = 34.0;

/// Bars of what is ours, and of others.
const OURS: &str = "#1f6feb";
const OTHERS: &str = "#9aa4b2";
const INK: &str = "#24292f";

#[derive(Clone, Debug)]
pub struct Panel {
    pub title: String,
    /// Target and figure, in this order.
    pub bars: Vec<(String, Figure)>,
}

impl Panel {
    /// A column of a sheet, without those of whom it was not measured.
    pub fn of(sheet: &Sheet, column: &str) -> Option<Self> {
        let figure = |target: &str| sheet.figure(target, column).cloned();
        let bars: Vec<_> =
            sheet.rows.iter().filter_map(|row| Some((row.target.clone(), figure(&row.target)?))).collect();
        let title = format!("{}: {column}", sheet.name);
        (!bars.is_empty()).then_some(Self { title, bars })
    }
}

/// One under the other.
pub fn svg(panels: &[Panel]) -> String {
    let height: f64 = panels.iter().map(|panel| HEADING + STEP * panel.bars.len() as f64).sum::<f64>() + 16.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let mut top = 0.0;
    for panel in panels {
        let label = escaped(&panel.title);
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "<text x=\"8\" y=\"{:.0}\" fill=\"{INK}\" font-weight=\"bold\">{label}</text>",
            top + 22.0
        );
        top += HEADING;
        let runs = panel.bars.iter().flat_map(|(_, figure)| &figure.runs).copied();
        let largest = runs.fold(f64::MIN_POSITIVE, f64::max);
        let at = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * (value / largest).max(0.0);
        for (target, figure) in &panel.bars {
            bar(&mut text, top, target, figure, at);
            top += STEP;
        }
    }
    text.push_str("</svg>\n");
    text
}

fn bar(text: &mut String, top: f64, target: &str, figure: &Figure, at: impl Fn(f64) -> f64) {
    let colour = if target.starts_with("culvert") { OURS } else { OTHERS };
    let (middle, length) = (top + BAR / 2.0, at(figure.median) - LEFT);
    let smallest = figure.runs.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = figure.runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (from, to) = (at(smallest), at(largest));
    let _ = writeln!(
        text,
        "<text x=\"{:.0}\" y=\"{:.1}\" fill=\"{INK}\" text-anchor=\"end\">{}</text>\
         <rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
         <path d=\"M{from:.1} {middle:.1}H{to:.1}\" stroke=\"{INK}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{INK}\">{}</text>",
        LEFT - 8.0,
        middle + 4.0,
        escaped(target),
        to.max(at(figure.median)) + 6.0,
        middle + 4.0,
        short(figure.median)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measured_target_has_a_bar_and_the_longest_stays_inside() {
        let mut sheet = Sheet::new("small & large", &["us"]);
        sheet.add("culvert", [10.0]);
        sheet.add("peer", [20.0]);
        sheet.add("unmeasured", [f64::NAN]);
        let drawn = svg(&[Panel::of(&sheet, "us").unwrap()]);
        assert_eq!(drawn.matches("<rect x=").count(), 2);
        assert!(drawn.contains(&format!("width=\"{:.1}\"", WIDTH - LEFT - RIGHT)), "{drawn}");
        assert!(drawn.contains("small &amp; large: us"));
        assert!(Panel::of(&sheet, "other").is_none());
    }
}
