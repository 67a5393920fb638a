//! Sections of the page, and their parts: tables and figures.

use super::html::escape;
use std::fmt::Write as _;

/// A section of the page with a heading. Everything is HTML except the title, which is trusted text.
pub(super) struct Section {
    pub id: &'static str,
    pub title: &'static str,
    pub intro: String,
    pub body: String,
}

/// A figure with its heading; `title` and `hint` are trusted text.
pub(super) fn figure(title: &str, hint: &str, svg: &str) -> String {
    format!(
        "<figure><figcaption><h3>{}</h3></figcaption>\n<div class=\"plot\">{svg}</div>\n<p class=\"hint\">{}</p></figure>\n",
        escape(title),
        escape(hint)
    )
}

/// A table of HTML cells; the first cell of a row is its heading.
pub(super) fn table(caption: &str, columns: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut out = String::from("<div class=\"scroll\"><table>");
    if !caption.is_empty() {
        let _ = write!(out, "<caption>{caption}</caption>");
    }
    out += "<thead><tr>";
    for column in columns {
        let _ = match column.is_empty() {
            true => write!(out, "<td></td>"),
            false => write!(out, "<th scope=\"col\">{column}</th>"),
        };
    }
    out += "</tr></thead><tbody>\n";
    for row in rows {
        out += "<tr>";
        for (i, cell) in row.iter().enumerate() {
            let _ = match i {
                0 => write!(out, "<th scope=\"row\">{cell}</th>"),
                _ => write!(out, "<td>{cell}</td>"),
            };
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div>\n"
}
