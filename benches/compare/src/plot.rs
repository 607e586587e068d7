//! The figures as bars, in an SVG by hand: a panel for each workload, two panels side by side.

use std::fmt::Write;

use crate::figures::{Measured, Row};
use crate::report::short;
use crate::workload::Kind;

const WIDTH: f64 = 1080.0;
const MARGIN: f64 = 24.0;
const PANEL: f64 = (WIDTH - 3.0 * MARGIN) / 2.0;
/// Room for names, left of the bars.
const NAMES: f64 = 210.0;
/// Room for figures, right of the longest bar.
const FIGURES: f64 = 64.0;
const LINE: f64 = 21.0;
const BAR: f64 = 13.0;
/// Title and room below, of a panel.
const AROUND: f64 = 62.0;
const HEAD: f64 = 74.0;

const STYLE: &str = "text { font: 12.5px system-ui, sans-serif; fill: #24292f } \
    .title { font-size: 14px; font-weight: 600 } .head { font-size: 19px; font-weight: 600 } \
    .small { fill: #57606a } .own { font-weight: 600 } .spread { stroke: #24292f; stroke-opacity: .55 }";

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Raw => "#afb8c1",
        Kind::Own => "#0969da",
        Kind::Peer => "#d4a72c",
    }
}

/// The plot of all workloads.
pub(crate) fn svg(all: &[Measured]) -> String {
    let mut body = String::new();
    let mut top = HEAD;
    for pair in all.chunks(2) {
        for (column, measured) in (0_u8..).zip(pair) {
            panel(&mut body, measured, MARGIN + f64::from(column) * (PANEL + MARGIN), top);
        }
        top += pair.iter().map(height).fold(0.0, f64::max);
    }
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top}\" width=\"{WIDTH}\" \
         height=\"{top}\" role=\"img\" aria-label=\"everfold beside other engines and the bare disk\">\n\
         <style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
    );
    let _ = writeln!(
        svg,
        "<text class=\"head\" x=\"{MARGIN}\" y=\"34\">everfold beside other engines and the bare disk</text>"
    );
    legend(&mut svg);
    svg.push_str(&body);
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String) {
    let entries =
        [(Kind::Raw, "the limit: no engine"), (Kind::Own, "everfold"), (Kind::Peer, "other engines")];
    for (place, (kind, words)) in (0_u8..).zip(entries) {
        let x = MARGIN + f64::from(place) * 170.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"48\" width=\"12\" height=\"12\" fill=\"{}\"/>\
             <text class=\"small\" x=\"{}\" y=\"58\">{words}</text>",
            colour(kind),
            x + 18.0
        );
    }
    let _ = writeln!(
        svg,
        "<text class=\"small\" x=\"{}\" y=\"58\">bars: medians; lines: least to greatest of all rounds</text>",
        MARGIN + 510.0
    );
}

fn height(measured: &Measured) -> f64 {
    measured.rows.iter().fold(AROUND, |height, _| height + LINE)
}

fn panel(svg: &mut String, measured: &Measured, left: f64, top: f64) {
    let better = if measured.is_time() { "less is better" } else { "more is better" };
    let _ = writeln!(
        svg,
        "<text class=\"title\" x=\"{left}\" y=\"{}\">{}</text>\
         <text class=\"small\" x=\"{left}\" y=\"{}\">{}, {better}</text>",
        top + 16.0,
        escaped(measured.title),
        top + 33.0,
        measured.unit
    );
    let longest = measured.rows.iter().map(|row| row.spread().1).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (PANEL - NAMES - FIGURES) / longest;
    let mut line = top + 42.0;
    for row in &measured.rows {
        bar(svg, row, left, line, scale);
        line += LINE;
    }
}

fn bar(svg: &mut String, row: &Row, left: f64, top: f64, scale: f64) {
    let start = left + NAMES;
    let (least, greatest) = row.spread();
    let (baseline, middle) = (top + BAR - 2.0, top + BAR / 2.0);
    let class = if row.kind == Kind::Own { "own" } else { "" };
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{}</text>\
         <rect x=\"{start}\" y=\"{top}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>\
         <line class=\"spread\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\
         <text class=\"{class}\" x=\"{:.1}\" y=\"{baseline}\">{}</text>",
        start - 8.0,
        escaped(&row.name),
        (row.median() * scale).max(1.0),
        colour(row.kind),
        start + least * scale,
        start + greatest * scale,
        start + greatest * scale + 6.0,
        short(row.median())
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
