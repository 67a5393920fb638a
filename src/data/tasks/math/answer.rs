//! Where in a completion the answer stands.

/// The last answer in a completion: behind `</think>` if there is one; there what stands in the last `<answer>...</answer>`, else in the
/// last `\boxed{...}` (braces inside it are matched), else behind the last `####` to the end of its line, else all.
pub fn find(completion: &str) -> &str {
    let text = completion.rsplit_once("</think>").map_or(completion, |(_, after)| after);
    let text = match text.rsplit_once("</answer>") {
        Some((before, _)) => before.rsplit_once("<answer>").map_or(text, |(_, inside)| inside),
        None => text,
    };
    if let Some(inside) = last_boxed(text) {
        return inside.trim();
    }
    match text.rsplit_once("####") {
        Some((_, after)) => after.lines().next().unwrap_or_default().trim(),
        None => text.trim(),
    }
}

/// Whether [`find`] would find a mark, and not take all.
pub fn is_marked(completion: &str) -> bool {
    let text = completion.rsplit_once("</think>").map_or(completion, |(_, after)| after);
    last_boxed(text).is_some() || text.contains("####") || text.contains("</answer>")
}

/// What stands in the last `\boxed{...}` that is closed. One pass from behind: the stack holds the closing braces that are still open
/// that way.
fn last_boxed(text: &str) -> Option<&str> {
    const BOXED: &str = "\\boxed{";
    let mut closing: Vec<usize> = Vec::new();
    for (at, byte) in text.bytes().enumerate().rev() {
        match byte {
            b'}' => closing.push(at),
            b'{' => {
                let end = closing.pop();
                let start = at + 1;
                if let (Some(end), true) = (end, text[..start].ends_with(BOXED)) {
                    return Some(&text[start..end]);
                }
            }
            _ => {}
        }
    }
    None
}
