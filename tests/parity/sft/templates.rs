//! Every rendering and every refusal of transformers, byte for byte.

use crate::common::golden;
use lehr::data::chat::{Chat, ChatTemplate, PLAIN};
use serde_json::{Map, Value};

/// The references; LEHR_CHAT_GOLDENS names others, which tests/golden/chat.py makes of any folder of templates.
fn goldens() -> (i64, Vec<Value>) {
    let other = std::env::var_os("LEHR_CHAT_GOLDENS").map(std::path::PathBuf::from);
    let text = std::fs::read_to_string(other.unwrap_or_else(|| golden("chat.json"))).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    (file["date"].as_i64().unwrap_or(0), file["templates"].as_array().unwrap().clone())
}

fn chat(case: &Value) -> Chat {
    let mut extra = Map::new();
    if !case["tools"].is_null() {
        extra.insert("tools".into(), case["tools"].clone());
    }
    Chat { messages: case["messages"].as_array().unwrap().clone(), extra, ..Chat::default() }
}

/// Words of Python and of jinja2 for what no template meant to refuse; that it is refused is enough.
const OF_PYTHON: &[&str] = &["str object", "can only concatenate"];

/// What differs between this rendering and that of transformers.
fn difference(template: &ChatTemplate, case: &Value) -> Option<String> {
    let got = template.render(&chat(case), case["add_generation_prompt"] == true);
    let (got, error) = match (got, case["error"].as_str()) {
        (Err(output), Some(error)) => {
            let output = output.to_string();
            let same = output.contains(error) || OF_PYTHON.iter().any(|words| error.contains(words));
            return (!same).then(|| format!("{output}\ntransformers: {error}"));
        }
        (Err(output), None) => return Some(format!("{output:#}")),
        (Ok(got), error) => (got, error),
    };
    if let Some(error) = error {
        return Some(format!("{:?}, where transformers refuses: {error}", got.text));
    }
    // transformers counts characters.
    let chars = |at: usize| got.text[..at].chars().count() as u64;
    let spans: Vec<[u64; 2]> = got.generated.iter().map(|s| [chars(s.start), chars(s.end)]).collect();
    let (text, want): (String, Vec<[u64; 2]>) =
        (case["text"].as_str()?.to_owned(), serde_json::from_value(case["spans"].clone()).ok()?);
    (got.text != text || spans != want).then(|| format!("{:?} {spans:?}\n{text:?} {want:?}", got.text))
}

#[test]
fn templates_render_as_in_transformers() {
    let (mut rendered, mut refused, mut marked, mut wrong) = (0, 0, 0, Vec::new());
    let (date, goldens) = goldens();
    for golden in goldens {
        let (name, source) = (golden["name"].as_str().unwrap(), golden["template"].as_str().unwrap());
        for case in golden["cases"].as_array().unwrap() {
            let template = match ChatTemplate::new(source, case["specials"].as_object().unwrap().clone(), date) {
                Ok(template) => template,
                Err(error) => {
                    wrong.push(format!("{name}: {error:#}"));
                    break;
                }
            };
            if let Some(difference) = difference(&template, case) {
                wrong.push(format!("{name}: {}\n{difference}", case["messages"]));
            }
            let error = case.get("error").is_some();
            (rendered, refused) = (rendered + usize::from(!error), refused + usize::from(error));
            marked += usize::from(case["spans"].as_array().is_some_and(|spans| !spans.is_empty()));
        }
    }
    eprintln!("{rendered} renderings, {marked} with marks, {refused} refusals, {} differences", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(rendered > 100 && refused > 10 && marked > 20, "{rendered} {refused} {marked}");
}

/// What Jinja2 and Python define otherwise than other engines is rendered alike, or refused with the template's line.
#[test]
fn semantics_are_those_of_jinja2_or_refused() {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(golden("semantics.json")).unwrap()).unwrap();
    let extra = file["context"].as_object().unwrap().clone();
    let chat = Chat { messages: file["messages"].as_array().unwrap().clone(), extra, ..Chat::default() };
    let (mut rendered, mut refused, mut wrong) = (0, 0, Vec::new());
    for case in file["cases"].as_array().unwrap() {
        let source = case["template"].as_str().unwrap();
        let got = ChatTemplate::new(source, Map::new(), 0).and_then(|template| template.render(&chat, false));
        match (case["text"].as_str(), got) {
            (Some(text), Ok(got)) if got.text == text => rendered += 1,
            (None, Err(error)) if error.to_string().contains("line 1") => refused += 1,
            (text, got) => wrong.push(format!("{source}\n  lehr:   {got:?}\n  jinja2: {text:?} {}", case["error"])),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rendered > 20 && refused > 40, "{rendered} {refused}");
}

/// What Qwen3's template does not say of its assistant's part is what the same template with `{% generation %}` says, as transformers
/// reads it: from where the generation prompt ends.
#[test]
fn reasoning_is_scored_in_every_turn() {
    let goldens = goldens().1;
    let named = |name: &str| goldens.iter().find(|t| t["name"] == name).unwrap();
    let (plain, marked) = (named("qwen3"), named("qwen3-generation"));
    let new = |golden: &Value, case: &Value| {
        ChatTemplate::new(golden["template"].as_str().unwrap(), case["specials"].as_object().unwrap().clone(), 0).unwrap()
    };
    let mut turns = 0;
    for case in marked["cases"].as_array().unwrap() {
        if case["add_generation_prompt"] == true || case["text"].is_null() {
            continue;
        }
        let (chat, template) = (chat(case), new(plain, case));
        let whole = template.render(&chat, false).unwrap();
        assert_eq!(whole.text, case["text"], "the same text with and without marks");
        let wanted = new(marked, case).render(&chat, false).unwrap().generated;
        let found: Vec<_> = template.assistant_part(&chat, &whole).unwrap().into_iter().map(|output| output.bytes).collect();
        let shown = |spans: &[std::ops::Range<usize>]| spans.iter().map(|s| whole.text[s.clone()].to_owned()).collect::<Vec<_>>();
        assert_eq!(shown(&found), shown(&wanted), "{}", whole.text);
        assert_eq!(found, wanted);
        turns += found.len();
    }
    assert!(turns > 12, "{turns} turns");
    // Without thinking, an empty block is part of the generation prompt, and no turn but the last has one.
    let case = &marked["cases"][0];
    let say = |role: &str, content: &str| serde_json::json!({"role": role, "content": content});
    let messages = vec![say("user", "a"), say("assistant", "<thought>"), say("user", "c"), say("assistant", "d")];
    let chat = Chat { messages, extra: Map::from_iter([("enable_thinking".into(), false.into())]), ..Chat::default() };
    let template = new(plain, case);
    let whole = template.render(&chat, false).unwrap();
    let found = template.assistant_part(&chat, &whole).unwrap();
    let texts: Vec<&str> = found.iter().map(|output| &whole.text[output.bytes.clone()]).collect();
    assert_eq!(texts, ["<thought><|im_end|>\n", "d<|im_end|>\n"]);
}

#[test]
fn line_ends_of_templates_match_jinja() {
    let chat = Chat { messages: vec![serde_json::json!({"role": "user", "content": "a\r\nb"})], ..Chat::default() };
    let render = |source: &str| ChatTemplate::new(source, Map::new(), 0).unwrap().render(&chat, false).unwrap().text;
    let unix = "{% for m in messages %}\n{{ m.content + '\n\n' }}\n{% endfor %}\n\nend\n";
    assert_eq!(render(unix), "a\r\nb\n\n\n\nend");
    for other in ["\r\n", "\r"] {
        assert_eq!(render(&unix.replace('\n', other)), render(unix), "{other:?}");
    }
}

#[test]
fn the_plain_template_matches_the_transformers_fixture() {
    let plain = goldens().1.into_iter().find(|t| t["name"] == "plain").unwrap();
    assert_eq!(plain["template"], PLAIN, "run tests/golden/chat.py");
}

#[test]
fn external_templates_are_bounded_and_named() {
    let chat = Chat { messages: vec![serde_json::json!({"role": "user", "content": "x"})], ..Chat::default() };
    let new = |source: &str| ChatTemplate::new(source, Map::new(), 951_782_400);
    let error = new("{% for m in messages %}").err().unwrap().to_string();
    assert!(error.contains("line 1"), "{error}");
    for (source, wanted) in [
        ("\n\n{{ nobody.name }}", "line 3"),
        ("{{ raise_exception('no\u{1b}[2J') }}", "no\\u{1b}[2J"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{{ messages }}{% endfor %}{% endfor %}", "fuel"),
        ("{{ messages | nothing }}", "nothing"),
    ] {
        let error = match new(source) {
            Err(error) => error,
            Ok(template) => template.render(&chat, false).expect_err(source),
        };
        let error = error.to_string();
        assert!(error.contains(wanted) && !error.contains(char::is_control), "{source}: {error}");
    }
    assert_eq!(new("{{ strftime_now('%d %B %Y') }}").unwrap().render(&chat, false).unwrap().text, "29 February 2000");
    // Text that holds our marks is refused, not misread.
    let marked = Chat { messages: vec![serde_json::json!({"role": "user", "content": "\u{FDD0}x"})], ..Chat::default() };
    assert!(new(PLAIN).unwrap().render(&marked, false).unwrap_err().to_string().contains("U+FDD0"));
}
