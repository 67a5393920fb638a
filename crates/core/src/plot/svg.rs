//! SVG output: elements without ids (so that several figures can share a page), numbers to a hundredth of a pixel.

use super::scene::{Anchor, Point, Scene, Shape, Style};
use super::text::escape;
use std::fmt::Write as _;

/// Fonts of the reader's system: none is embedded.
const FONTS: &str = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif";

/// The figure as SVG text, with its own background, since dark text is unreadable on a dark page.
pub(super) fn svg(scene: &Scene) -> String {
    let [w, h] = [scene.size.0, scene.size.1].map(num);
    let title = escape(&scene.title);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"{title}\" \
         font-family=\"{FONTS}\">\n<title>{title}</title>\n<rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>\n"
    );
    scene.shapes.iter().for_each(|shape| element(&mut out, shape));
    out + "</svg>\n"
}

fn element(out: &mut String, shape: &Shape) {
    let _ = match shape {
        Shape::Rect(r, style) => {
            let [x, y, w, h] = [r.x, r.y, r.w, r.h].map(num);
            writeln!(out, r#"<rect x="{x}" y="{y}" width="{w}" height="{h}"{}/>"#, attributes(style, true))
        }
        Shape::Line([from, to], style) => {
            let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(num);
            writeln!(out, r#"<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"{}/>"#, attributes(style, false))
        }
        Shape::Path { lines, closed, style } => {
            let end = if *closed { "Z" } else { "" };
            let d: String = lines.iter().map(|line| polyline(line.iter().copied()) + end).collect();
            path(out, &d, style, lines.len() > 1 && *closed)
        }
        Shape::Area(pairs, style) => {
            let round = pairs.iter().map(|p| p[0]).chain(pairs.iter().rev().map(|p| p[1]));
            path(out, &(polyline(round) + "Z"), style, false)
        }
        Shape::Circle((x, y), r, style) => {
            let [x, y, r] = [*x, *y, *r].map(num);
            writeln!(out, r#"<circle cx="{x}" cy="{y}" r="{r}"{}/>"#, attributes(style, true))
        }
        Shape::Text { at, anchor, degrees, kind, text } => {
            let [x, y, size] = [at.0, at.1, kind.size].map(num);
            let anchor = match anchor {
                Anchor::Start => "",
                Anchor::Middle => r#" text-anchor="middle""#,
                Anchor::End => r#" text-anchor="end""#,
            };
            let weight = if kind.bold { r#" font-weight="600""# } else { "" };
            let halo = if kind.halo {
                r##" paint-order="stroke" stroke="#ffffff" stroke-width="3" stroke-linejoin="round""##
            } else {
                ""
            };
            let turn = if *degrees == 0.0 { String::new() } else { format!(r#" transform="rotate({} {x} {y})""#, num(*degrees)) };
            let (ink, text) = (kind.ink.hex(), escape(text));
            writeln!(out, r#"<text x="{x}" y="{y}" font-size="{size}" fill="{ink}"{anchor}{weight}{halo}{turn}>{text}</text>"#)
        }
        // A nested svg element clips without an id.
        Shape::Clip(r) => {
            let [x, y, w, h] = [r.x, r.y, r.w, r.h].map(num);
            writeln!(out, r#"<svg x="{x}" y="{y}" width="{w}" height="{h}" viewBox="{x} {y} {w} {h}">"#)
        }
        Shape::EndClip => writeln!(out, "</svg>"),
    };
}

fn path(out: &mut String, d: &str, style: &Style, even_odd: bool) -> std::fmt::Result {
    if d.is_empty() || d == "Z" {
        return Ok(());
    }
    let rule = if even_odd { r#" fill-rule="evenodd""# } else { "" };
    writeln!(out, r#"<path d="{d}"{}{rule}/>"#, attributes(style, true))
}

/// `inside` distinguishes shapes with an interior from lines.
fn attributes(style: &Style, inside: bool) -> String {
    let mut out = String::new();
    let mut colored = |name: &str, of: Option<(super::Ink, f64)>| {
        let Some((ink, opacity)) = of else { return };
        let _ = write!(out, r#" {name}="{}""#, ink.hex());
        if opacity < 1.0 {
            let _ = write!(out, r#" {name}-opacity="{}""#, num(opacity));
        }
    };
    colored("fill", style.fill);
    colored("stroke", style.stroke);
    if inside && style.fill.is_none() {
        out.insert_str(0, r#" fill="none""#);
    }
    if style.stroke.is_some() {
        let _ = write!(out, r#" stroke-width="{}""#, num(style.width));
        if !style.dash.is_empty() {
            let dash: Vec<String> = style.dash.iter().map(|v| num(*v)).collect();
            let _ = write!(out, r#" stroke-dasharray="{}""#, dash.join(" "));
        }
        if style.round {
            out += r#" stroke-linejoin="round" stroke-linecap="round""#;
        }
    }
    out
}

/// A number for SVG: at most two decimals.
fn num(v: f64) -> String {
    let v = if v.is_finite() { v.clamp(-1e6, 1e6) } else { 0.0 };
    let text = format!("{v:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_string() } else { text.to_string() }
}

/// A path of straight lines through the points; a point that is not finite is a gap.
fn polyline(points: impl IntoIterator<Item = Point>) -> String {
    let mut out = String::new();
    let mut pen_up = true;
    for (x, y) in points {
        if !x.is_finite() || !y.is_finite() {
            pen_up = true;
            continue;
        }
        let _ = write!(out, "{}{} {}", if pen_up { "M" } else { "L" }, num(x), num(y));
        pen_up = false;
    }
    out
}
