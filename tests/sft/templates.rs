//! Every rendering and every refusal of transformers, byte for byte.

use crate::golden;
use lehr::data::chat::{Chat, ChatTemplate, PLAIN};
use serde_json::{Map, Value};

fn goldens() -> Vec<Value> {
    let text = std::fs::read_to_string(golden("chat.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    file["templates"].as_array().unwrap().clone()
}

fn chat(case: &Value) -> Chat {
    let mut extra = Map::new();
    if !case["tools"].is_null() {
        extra.insert("tools".into(), case["tools"].clone());
    }
    Chat { messages: case["messages"].as_array().unwrap().clone(), extra }
}

#[test]
fn templates_render_as_in_transformers() {
    let (mut rendered, mut refused, mut marked) = (0, 0, 0);
    for golden in goldens() {
        let (name, source) = (golden["name"].as_str().unwrap(), golden["template"].as_str().unwrap());
        for case in golden["cases"].as_array().unwrap() {
            let template = ChatTemplate::new(source, case["specials"].as_object().unwrap().clone(), 0).unwrap();
            let got = template.render(&chat(case), case["add_generation_prompt"] == true);
            let about = format!("{name}: {}", case["messages"]);
            if let Some(error) = case["error"].as_str() {
                let said = got.expect_err(&about).to_string();
                assert!(said.contains(error), "{about}\n{said}\ntransformers: {error}");
                refused += 1;
                continue;
            }
            let got = got.unwrap_or_else(|e| panic!("{about}: {e:#}"));
            assert_eq!(got.text, case["text"].as_str().unwrap(), "{about}");
            // transformers counts characters.
            let chars = |at: usize| got.text[..at].chars().count() as u64;
            let spans: Vec<[u64; 2]> = got.generated.iter().map(|s| [chars(s.start), chars(s.end)]).collect();
            let want: Vec<[u64; 2]> = serde_json::from_value(case["spans"].clone()).unwrap();
            assert_eq!(spans, want, "{about}");
            rendered += 1;
            marked += usize::from(!spans.is_empty());
        }
    }
    assert!(rendered > 100 && refused > 10 && marked > 20, "{rendered} {refused} {marked}");
}

#[test]
fn the_plain_template_is_the_one_that_transformers_saw() {
    let plain = goldens().into_iter().find(|t| t["name"] == "plain").unwrap();
    assert_eq!(plain["template"], PLAIN, "run tests/golden/chat.py");
}

#[test]
fn a_template_from_outside_is_bounded_and_named() {
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
