//! Properties of every figure: well-formed text, labels inside the canvas and without overlaps, gaps for NaN.

use super::*;
use std::collections::BTreeMap;

/// An element's name and attributes, and the text after its start tag.
struct Element {
    name: String,
    attributes: BTreeMap<String, String>,
    text: String,
}

/// A small strict XML parser: rejects unbalanced tags, unquoted or repeated attributes, bare `&` and `<`, control characters.
fn parse(svg: &str) -> Vec<Element> {
    assert!(svg.chars().all(|c| c == '\n' || !c.is_control()), "control characters");
    let mut open = Vec::new();
    let mut elements: Vec<Element> = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        let text = &rest[..start];
        assert!(!text.contains('>'), "a bare > in {text:?}");
        let entity = |part: &str| ["amp;", "lt;", "gt;", "quot;", "#39;"].iter().any(|e| part.starts_with(e));
        assert!(text.split('&').skip(1).all(entity), "a bare & in {text:?}");
        if let Some(last) = elements.last_mut() {
            last.text.push_str(text);
        }
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "tags are balanced");
            elements.push(Element { name: format!("/{name}"), attributes: BTreeMap::new(), text: String::new() });
            continue;
        }
        let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |t| (t, true));
        let (name, mut list) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut attributes = BTreeMap::new();
        while !list.trim().is_empty() {
            let (key, after) = list.trim_start().split_once("=\"").expect("an attribute has a quoted value");
            let (value, more) = after.split_once('"').expect("a value ends");
            assert!(!key.contains(' ') && !value.contains('<') && value.split('&').skip(1).all(entity), "{key}={value}");
            assert!(attributes.insert(key.to_string(), value.to_string()).is_none(), "{key} twice in {tag}");
            list = more;
        }
        if !empty {
            open.push(name.to_string());
        }
        elements.push(Element { name: name.into(), attributes, text: String::new() });
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest:?}");
    elements
}

impl Element {
    fn number(&self, key: &str) -> f64 {
        self.attributes.get(key).map_or(0.0, |v| v.parse().unwrap_or_else(|_| panic!("{key}={v}")))
    }

    /// The bounding box of a text, rotated around its anchor.
    fn bounds(&self) -> Rect {
        let (x, y, size) = (self.number("x"), self.number("y"), self.number("font-size"));
        let text = self
            .text
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&amp;", "&");
        let w = text::width(&text, size) * if self.attributes.contains_key("font-weight") { 1.1 } else { 1.0 };
        let left = match self.attributes.get("text-anchor").map(String::as_str) {
            Some("middle") => -w / 2.0,
            Some("end") => -w,
            _ => 0.0,
        };
        let degrees: f64 = self
            .attributes
            .get("transform")
            .map_or(0.0, |t| t.trim_start_matches("rotate(").split(' ').next().expect("an angle").parse().expect("a number"));
        let (sin, cos) = degrees.to_radians().sin_cos();
        let corners = [(left, -0.75 * size), (left + w, -0.75 * size), (left, 0.15 * size), (left + w, 0.15 * size)];
        let turned = corners.map(|(a, b)| (x + a * cos - b * sin, y + a * sin + b * cos));
        let (l, r) = turned.iter().fold((f64::MAX, f64::MIN), |m, p| (m.0.min(p.0), m.1.max(p.0)));
        let (t, b) = turned.iter().fold((f64::MAX, f64::MIN), |m, p| (m.0.min(p.1), m.1.max(p.1)));
        Rect::new(l, t, r - l, b - t)
    }
}

/// Check a figure; returns its texts.
fn check(name: &str, figure: impl Into<Figure>) -> Vec<String> {
    let figure = figure.into();
    let svg = figure.svg();
    assert_eq!(svg, figure.svg(), "{name}: the same every time");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}: only numbers");
    let elements = parse(&svg);
    let (w, h) = (elements[0].number("width"), elements[0].number("height"));
    let texts: Vec<&Element> = elements.iter().filter(|e| e.name == "text").collect();
    for (i, a) in texts.iter().enumerate() {
        let r = a.bounds();
        let inside = r.x >= -0.5 && r.y >= -0.5 && r.right() <= w + 0.5 && r.bottom() <= h + 0.5;
        assert!(inside, "{name}: '{}' leaves the canvas {w} x {h}: {r:?}", a.text);
        // The bounding boxes of slanted texts overlap even if the texts do not.
        let upright = |e: &Element| e.attributes.get("transform").is_none_or(|t| t.starts_with("rotate(-90 "));
        for b in texts[i + 1..].iter().filter(|b| upright(a) && upright(b)) {
            let shared = r.overlap(&b.bounds());
            assert!(shared < 1.0, "{name}: '{}' at {r:?} and '{}' at {:?} overlap", a.text, b.text, b.bounds());
        }
    }
    texts.iter().map(|t| t.text.clone()).collect()
}

fn curve(n: usize, f: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    (0..n).map(|i| i as f64 / n as f64).map(|x| (x, f(x))).collect()
}

fn bowl(n: usize, scale: f64) -> Field {
    let axis: Vec<f64> = (0..n).map(|i| scale * (i as f64 / (n - 1) as f64 - 0.4)).collect();
    let values =
        axis.iter().map(|y| axis.iter().map(|x| 1.5 + (x * x + 2.0 * y * y + x * y) / (scale * scale)).collect()).collect();
    Field { xs: axis.clone(), ys: axis, values }
}

const LONG: &str = "a name that is far longer than what anyone would call a series, an axis or a row <&\"\u{1b}[2J\u{202e}";

#[test]
fn charts_keep_the_laws() {
    for (w, h) in [(480.0, 320.0), (760.0, 440.0), (1600.0, 500.0)] {
        for (scale, shift) in [(1.0, 0.0), (1e9, 0.0), (1e-7, 0.0), (1e-3, 123.0), (-50.0, 3.0)] {
            let points: Vec<(f64, f64)> =
                curve(50, |x| shift + scale * (x * 9.0).sin()).iter().map(|p| (p.0 * 1e6, p.1)).collect();
            let ends: Vec<_> = points.iter().map(|p| (p.1 - scale.abs() * 0.1, p.1 + scale.abs() * 0.1)).collect();
            let chart = Chart::new(LONG).subtitle(LONG).footnote(LONG).size(w, h).x(LONG).y(LONG);
            let chart =
                chart.add(Series::line("band", &points).with_band(&ends)).add(Series::scatter(LONG, &points).with_errors(&ends));
            let chart =
                chart.smoothed("smooth", &points, 5).hline(shift, "a level").vline(5e5, "a place").vline(5.1e5, "another place");
            let chart =
                chart.mark(5e5, shift, "here").mark(5.2e5, shift + 0.1 * scale, "there").mark(9.9e5, shift, "at the edge");
            check(&format!("{w} x {h}, {scale}, {shift}"), chart);
        }
    }
    for (low, high) in [(1.0f64, 2.0f64), (0.5, 60.0), (1e-9, 1e9), (3e4, 4e5)] {
        let points = curve(40, |x| low * (high / low).powf(x));
        check(&format!("log {low} {high}"), Chart::new("log").x("x").y("y").log_x().log_y().line("a", &points));
    }
}

#[test]
fn nothing_to_show_is_shown_as_nothing() {
    let nan = f64::NAN;
    check("empty", Chart::new(""));
    check("no numbers", Chart::new("t").line("a", &[(nan, nan), (1.0, nan), (f64::INFINITY, 2.0)]).log_y());
    check("one point", Chart::new("t").line("a", &[(5.0, 5.0)]).hline(nan, "nowhere").mark(nan, 1.0, "nowhere"));
    check("a constant", Chart::new("t").line("a", &[(0.0, 1e9), (1.0, 1e9)]).x_range(3.0, 1.0));
    check("no bars", Bars::new::<&str>("t", &[]).bars("a", &[1.0]));
    check("bars of nothing", Bars::new("t", &["a", "b"]).bars("a", &[nan, nan]).bars("b", &[]));
    check("no cells", Heatmap::new::<&str>("t", &[], &[]));
    check("cells of nothing", Heatmap::new("t", &["a"], &["b"]).values(&[vec![nan]]).highlight(0, 7));
    check("no field", Contours::new("t", Field::default()).point(0.0, 0.0, "p", Mark::Dot).equal());
    check("flat field", Contours::new("t", Field { xs: vec![0.0, 1.0], ys: vec![0.0, 1.0], values: vec![vec![1.0; 2]; 2] }));
    check("no panels", Panels::new("t", 0));
    let gap = Chart::new("t").line("a", &[(0.0, 1.0), (1.0, 1.0), (2.0, nan), (3.0, 1.0), (4.0, 1.0)]).svg();
    assert!(gap.lines().any(|l| l.starts_with("<path") && l.matches('M').count() == 2), "a gap: {gap}");
}

#[test]
fn bars_keep_the_laws() {
    let values = [0.031, -0.02, f64::NAN, 0.1];
    let errors: Vec<_> = values.iter().map(|v| (v - 0.01, v + 0.02)).collect();
    for groups in [["a", "b", "c", "d"], [LONG, "b", LONG, "a middling name"]] {
        let bars = Bars::new("bars", &groups).x("method").y(LONG).bars_with_errors("sma", &values, &errors).bars("ema", &values);
        let texts = check("bars", bars.hline(0.05, "annealed"));
        assert!(texts.contains(&"n/a".to_string()), "{texts:?}");
    }
    let many: Vec<String> = (0..24).map(|i| format!("group {i}")).collect();
    check("many", Bars::new("bars", &many).bars("x", &[1.5; 24]).size(500.0, 300.0));
    let texts = check("values", Bars::new("bars", &["a", "b"]).from_any().bars("", &[1.61, 1.5825]));
    assert!(texts.contains(&"1.6100".to_string()) && texts.contains(&"1.5825".to_string()), "{texts:?}");
}

#[test]
fn heat_maps_keep_the_laws() {
    for (rows, columns) in [(1, 1), (3, 4), (9, 12), (30, 40)] {
        let names = |n: usize| (0..n).map(|i| format!("{i}00 updates")).collect::<Vec<_>>();
        let values: Vec<Vec<f64>> = (0..rows).map(|i| (0..columns).map(|j| 1.5 + 0.001 * (i * j) as f64).collect()).collect();
        let map = Heatmap::new("map", &names(rows), &names(columns)).x("N").y("V").bar(LONG).values(&values).highlight(0, 0);
        check(&format!("{rows} x {columns}"), map.clone());
        check(&format!("diverging {rows} x {columns}"), map.diverging());
    }
}

#[test]
fn contours_keep_the_laws_and_name_their_levels() {
    for scale in [1.0, 1e-6, 4e3] {
        let plot = Contours::new("bowl", bowl(15, scale)).x("along").y("across").bar("loss").equal();
        let plot = plot.point(0.0, 0.0, "mean 1.5", Mark::Star).point(0.1 * scale, 0.02 * scale, "A", Mark::Dot);
        let plot = plot.point(0.11 * scale, 0.03 * scale, "B", Mark::Cross).point(
            0.59 * scale,
            0.59 * scale,
            "in the corner",
            Mark::Dot,
        );
        let texts = check(&format!("scale {scale}"), plot.point(9.0 * scale, 0.0, "outside", Mark::Dot));
        assert!(texts.iter().filter(|t| t.as_str() == "1.8" || t.as_str() == "2.0").count() >= 2, "levels are named: {texts:?}");
        assert!(!texts.iter().any(|t| t == "outside"));
    }
}

#[test]
fn violins_keep_the_laws() {
    let wave = |n: usize, scale: f64| (0..n).map(|i| scale * (i as f64 * 0.37).sin().powi(3)).collect::<Vec<_>>();
    for scale in [1.0, 1e-6, 3e5] {
        for groups in [["a", "b", "c", "d"], [LONG, "b", LONG, "< 0.25"]] {
            let spread = [wave(500, scale), wave(3, scale), vec![scale; 40], vec![f64::NAN, f64::INFINITY]];
            let plot = Violins::new("violins", &groups).x("probability").y(LONG).hline(0.0).outliers(0.01).violins(LONG, &spread);
            let texts = check("violins", plot.clone());
            assert!(texts.contains(&"n/a".to_string()), "{texts:?}");
            check("two series", plot.violins("b", &spread[..2]).footnote("1 % left out").y_range(-scale, scale));
        }
    }
    check("no groups", Violins::new::<&str>("t", &[]).violins("a", &[vec![1.0]]));
    check("no series", Violins::new("t", &["a"]));
    let many: Vec<String> = (0..24).map(|i| format!("group {i}")).collect();
    check("many", Violins::new("t", &many).violins("x", &vec![wave(50, 1.0); 24]).size(500.0, 300.0));
}

#[test]
fn panels_keep_the_laws() {
    let chart = Chart::new("chart").x("x").y("y").line("a", &curve(20, |x| x)).line("b", &curve(20, |x| 1.0 - x));
    let panels = Panels::new("four", 2).subtitle("of all kinds").footnote("small").panel(chart.clone());
    let panels =
        panels.panel(Bars::new("bars", &["a", "b"]).bars("v", &[1.0, 2.0])).panel(Contours::new("bowl", bowl(9, 1.0)).bar("f"));
    let map = Heatmap::new("map", &["a", "b"], &["c", "d"]).values(&[vec![1.0, 2.0], vec![3.0, 4.0]]);
    let texts = check("panels", panels.panel(map).panel(Panels::new("inner", 1).panel(chart)));
    assert!(["chart", "bars", "bowl", "map", "inner"].iter().all(|t| texts.iter().any(|s| s == t)), "{texts:?}");
}
