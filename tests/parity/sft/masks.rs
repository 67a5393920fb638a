//! Loss masks, against tables written by hand.

use lehr::data::Tokenizer;
use lehr::data::chat::{Chat, ChatRow, ChatTemplate, Encoder, LossOn, PLAIN};
use lehr::vfs::RealFs;
use serde_json::{Map, json};

const ONLY: LossOn = LossOn { assistant_only: true, completion_only: true };

fn chat(turns: &[(&str, &str)]) -> Chat {
    let messages = turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    Chat { messages, extra: Map::new(), ..Chat::default() }
}

/// Text in pieces, of which those with `true` count.
type Pieces<'a> = &'a [(&'a str, bool)];

fn check(tokenizer: &Tokenizer, source: &str, loss_on: LossOn, row: &ChatRow, want: Pieces) {
    let template = ChatTemplate::new(source, tokenizer.special_tokens(), 0).unwrap();
    let got = Encoder { tokenizer, template: &template, loss_on }.encode(row).unwrap_or_else(|e| panic!("{row:?}: {e:#}"));
    let (mut tokens, mut scored) = (Vec::new(), Vec::new());
    for (text, counts) in want {
        tokens.extend(tokenizer.encode(text).unwrap());
        scored.resize(tokens.len(), *counts);
    }
    assert_eq!(tokenizer.decode(&got.tokens).unwrap(), tokenizer.decode(&tokens).unwrap());
    assert_eq!(got.tokens, tokens);
    let shown = |mask: &[bool]| got.tokens.iter().zip(mask).filter(|(_, m)| **m).map(|(t, _)| *t).collect::<Vec<u32>>();
    assert_eq!(got.scored, scored, "{:?} against {:?}", tokenizer.decode(&shown(&got.scored)), tokenizer.decode(&shown(&scored)));
}

/// Tokenizers whose tokens are characters or bytes, so that pieces of text are pieces of tokens.
fn tokenizers() -> Vec<Tokenizer> {
    let chars = ('\n'..='~').chain("äß🔥".chars());
    vec![
        Tokenizer::chars(chars.clone(), false).unwrap(),
        Tokenizer::chars(chars, true).unwrap(),
        Tokenizer::bytes(false).unwrap(),
        Tokenizer::bytes(true).unwrap(),
    ]
}

#[test]
fn the_plain_template_scores_assistant_turns_and_their_end() {
    for tokenizer in tokenizers() {
        let end = if tokenizer.eos_id().is_some() { "<|endoftext|>" } else { "\n\n" };
        let turns = [("system", "Be kind."), ("user", " Hä? "), ("assistant", "Soß 🔥.\n"), ("user", "So?"), ("assistant", "")];
        let (first, empty) = (format!("Soß 🔥.{end}"), end);
        check(
            &tokenizer,
            PLAIN,
            ONLY,
            &ChatRow::Messages(chat(&turns)),
            &[
                ("system:\nBe kind.\n\nuser:\nHä?\n\nassistant:\n", false),
                (&first, true),
                ("user:\nSo?\n\nassistant:\n", false),
                (empty, true),
            ],
        );
        // Without an assistant nothing counts; and all of it does where that is wanted.
        let alone = ChatRow::Messages(chat(&turns[..2]));
        check(&tokenizer, PLAIN, ONLY, &alone, &[("system:\nBe kind.\n\nuser:\nHä?\n\n", false)]);
        let all = LossOn { assistant_only: false, completion_only: false };
        check(&tokenizer, PLAIN, all, &alone, &[("system:\nBe kind.\n\nuser:\nHä?\n\n", true)]);
    }
}

const CHATML: &str = "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '</>\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";

#[test]
fn without_generation_blocks_prefixes_locate_turns() {
    for tokenizer in tokenizers() {
        let turns = [("user", "a"), ("assistant", "bc"), ("assistant", "<assistant>"), ("user", "bc"), ("assistant", "d")];
        check(
            &tokenizer,
            CHATML,
            ONLY,
            &ChatRow::Messages(chat(&turns)),
            &[
                ("<user>a</>\n<assistant>", false),
                ("bc</>\n", true),
                ("<assistant>", false),
                ("<assistant></>\n", true),
                ("<user>bc</>\n<assistant>", false),
                ("d</>\n", true),
            ],
        );
    }
}

/// Earlier turns are written otherwise than the last, as Qwen3 does: a turn begins behind the generation prompt.
#[test]
fn where_prefixes_fail_contents_locate_turns() {
    let source = "{% for m in messages %}{{ m.role + ':' }}{% if m.role == 'assistant' and loop.last %}{{ '()' }}{% endif %}\
        {{ m.content.strip() + (eos_token or '.') }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";
    for tokenizer in tokenizers() {
        let end = if tokenizer.eos_id().is_some() { "<|endoftext|>" } else { "." };
        let user = format!("user:q{end}assistant:");
        check(
            &tokenizer,
            source,
            ONLY,
            &ChatRow::Messages(chat(&[("user", "q"), ("assistant", " one\n"), ("user", "q"), ("assistant", "two")])),
            &[(&user, false), ("one", true), (end, true), (&user, false), ("()two", true), (end, true)],
        );
        // A template that hides them says so.
        let template = ChatTemplate::new(
            &source.replace("m.content.strip()", "m.content | upper | replace('A', 'B')"),
            tokenizer.special_tokens(),
            0,
        )
        .unwrap();
        let row = ChatRow::Messages(chat(&[("user", "q"), ("assistant", "a"), ("user", "q"), ("assistant", "b")]));
        let got = Encoder { tokenizer: &tokenizer, template: &template, loss_on: ONLY }.encode(&row);
        assert!(got.is_ok(), "marks go through filters");
        let hidden = ChatTemplate::new(
            &source.replace("m.content.strip()", "m.content.strip() | length | string"),
            tokenizer.special_tokens(),
            0,
        )
        .unwrap();
        let error = Encoder { tokenizer: &tokenizer, template: &hidden, loss_on: ONLY }.encode(&row).unwrap_err().to_string();
        assert!(error.contains("{% generation %}") && error.contains("--assistant-only-loss false"), "{error}");
    }
}

/// A masked turn has no loss, whatever masks it, with and without `{% generation %}`, in both kinds of rows.
#[test]
fn turns_of_weight_zero_are_masked() {
    let tokenizer = Tokenizer::bytes(false).unwrap();
    let turns = [("user", "a"), ("assistant", "wrong"), ("user", "b"), ("assistant", "right")];
    for (source, asked) in [
        (PLAIN, ["user:\na\n\nassistant:\n", "user:\nb\n\nassistant:\n"]),
        (CHATML, ["<user>a</>\n<assistant>", "<user>b</>\n<assistant>"]),
    ] {
        let end = if source == PLAIN { "\n\n" } else { "</>\n" };
        let muted = Chat { masked: vec![1], ..chat(&turns) };
        let (wrong, right) = (format!("wrong{end}"), format!("right{end}"));
        let row = ChatRow::Messages(muted.clone());
        check(&tokenizer, source, ONLY, &row, &[(asked[0], false), (&wrong, false), (asked[1], false), (&right, true)]);
        let all = LossOn { assistant_only: false, ..ONLY };
        check(&tokenizer, source, all, &row, &[(asked[0], true), (&wrong, false), (asked[1], true), (&right, true)]);
        let row = ChatRow::Turn(chat(&turns[..1]), muted);
        check(&tokenizer, source, ONLY, &row, &[(asked[0], false), (&wrong, false), (asked[1], true), (&right, true)]);
    }
}

#[test]
fn completions_are_scored_and_prompts_masked() {
    for tokenizer in tokenizers() {
        let end = if tokenizer.eos_id().is_some() { "<|endoftext|>" } else { "" };
        let text = |prompt: &str, completion: &str| ChatRow::Text(prompt.into(), completion.into());
        check(&tokenizer, PLAIN, ONLY, &text("ab", "cd"), &[("ab", false), ("cd", true), (end, true)]);
        check(&tokenizer, PLAIN, ONLY, &text("", "cd"), &[("cd", true), (end, true)]);
        let both = LossOn { completion_only: false, ..ONLY };
        check(&tokenizer, PLAIN, both, &text("ab", "cd"), &[("abcd", true), (end, true)]);
        let prompt = [("user", "a"), ("assistant", "b"), ("user", "c")];
        let whole = [&prompt[..], &[("assistant", "d")]].concat();
        let turn = ChatRow::Turn(chat(&prompt), chat(&whole));
        let output = format!("d{}", if end.is_empty() { "\n\n" } else { end });
        let middle = if end.is_empty() { "\n\n" } else { end };
        let before = format!("user:\na\n\nassistant:\nb{middle}user:\nc\n\nassistant:\n");
        check(&tokenizer, PLAIN, ONLY, &turn, &[(&before, false), (&output, true)]);
    }
    // The end of the text is not put there twice.
    let tokenizer = Tokenizer::bytes(true).unwrap();
    check(
        &tokenizer,
        PLAIN,
        ONLY,
        &ChatRow::Text("a".into(), "b<|endoftext|>".into()),
        &[("a", false), ("b<|endoftext|>", true)],
    );
}

/// Tokens that reach over the border of a turn count, as in transformers (`char_to_token` of both ends).
#[test]
fn tokens_across_a_boundary_go_by_their_offsets() {
    let text = std::fs::read_to_string(crate::common::golden("sft/model/tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::from_folder(&RealFs, &crate::common::golden("sft/model")).unwrap();
    assert!(text.contains("merges"));
    let (ids, places) = tokenizer.encode_with_places("What cools glass slowly? äöü 🔥<|im_end|>\n", false).unwrap();
    assert_eq!(ids, tokenizer.encode("What cools glass slowly? äöü 🔥<|im_end|>\n").unwrap());
    assert!(
        places.windows(2).all(|p| p[0].end <= p[1].end)
            && places.last().unwrap().end == "What cools glass slowly? äöü 🔥<|im_end|>\n".len()
    );
    assert!(places.iter().any(|p| p.len() > 2), "{places:?}");
}
