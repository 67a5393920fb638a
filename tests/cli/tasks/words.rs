//! The tokenizer of words.

use lehr::config::{DataSettings, PuzzleForm, TaskSettings};
use lehr::data::chat::{ChatRow, ChatTemplate, Encoder, LossOn, PLAIN};
use lehr::data::tasks::{Split, kk, open};
use lehr::data::{Corpus, Notices, Tokenizer, TokenizerKind};
use lehr::progress::silent;
use lehr::vfs::RealFs;

fn rows(count: u64) -> Vec<kk::KkRow> {
    (0..count).map(|n| kk::row(PuzzleForm::Compact, &kk::generate_puzzle(3, 1, Split::Train, n).unwrap(), 1, n)).collect()
}

fn tokenizer(rows: &[kk::KkRow]) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let lines: String = rows.iter().map(|row| serde_json::to_string(row).unwrap() + "\n").collect();
    std::fs::write(&path, lines).unwrap();
    let corpus = Corpus::open(&RealFs, &[path], &mut Notices::new()).unwrap();
    Tokenizer::build(&RealFs, &TokenizerKind::Words, &corpus, None, &mut Notices::new()).unwrap()
}

#[test]
fn text_with_single_spaces_comes_back() {
    let rows = rows(60);
    let tokenizer = tokenizer(&rows);
    for row in &rows {
        let (prompt, completion) = (tokenizer.encode(&row.prompt).unwrap(), tokenizer.encode(&row.completion).unwrap());
        assert_eq!(tokenizer.encode(&row.text).unwrap(), [prompt.clone(), completion.clone()].concat(), "they join cleanly");
        assert_eq!(prompt.len() + completion.len(), row.text.split(' ').count());
        assert_eq!(tokenizer.decode(&prompt).unwrap(), row.prompt);
        assert_eq!(tokenizer.decode(&completion).unwrap(), row.completion.trim_start());
        for (before, expected) in [(&[][..], row.completion.trim_start()), (&prompt, row.completion.as_str())] {
            let mut stream = tokenizer.decode_stream(before);
            let mut streamed: String = completion.iter().map(|id| stream.push(*id).unwrap()).collect();
            streamed += &stream.finish().unwrap();
            assert_eq!(streamed, expected, "behind the prompt the space between the two is kept");
        }
    }
    let unknown = tokenizer.token_id("<unk>").unwrap();
    assert_eq!(tokenizer.encode("A says xyzzy").unwrap()[2], unknown);
    assert_eq!(tokenizer.eos_id(), tokenizer.token_id("<|endoftext|>"));
    assert_eq!(tokenizer.vocab_size(), tokenizer.eos_id().unwrap() as usize + 1);
    let json: serde_json::Value = serde_json::from_slice(tokenizer.json()).unwrap();
    assert_eq!(json["model"]["type"], "WordLevel");
    assert_eq!(json["pre_tokenizer"]["type"], "WhitespaceSplit");
}

#[test]
fn fine_tuning_rows_score_the_completion_and_its_end() {
    let rows = rows(20);
    let tokenizer = tokenizer(&rows);
    let template = ChatTemplate::new(PLAIN, tokenizer.special_tokens(), 0).unwrap();
    let loss_on = LossOn { assistant_only: true, completion_only: true };
    let encoder = Encoder { tokenizer: &tokenizer, template: &template, loss_on };
    for row in &rows {
        let example = encoder.encode(&ChatRow::Text(row.prompt.clone(), row.completion.clone())).unwrap();
        let prompt = row.prompt.split(' ').count();
        assert_eq!(example.tokens.len(), row.text.split(' ').count() + 1);
        assert_eq!(example.tokens.last().copied(), tokenizer.eos_id());
        assert_eq!(example.scored.iter().position(|scored| *scored), Some(prompt));
        assert!(example.scored[prompt..].iter().all(|scored| *scored));
    }
}

#[test]
fn documents_of_a_corpus_end_in_the_end_of_text() {
    let rows = rows(5);
    let tokenizer = tokenizer(&rows);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let lines: String = rows.iter().map(|row| serde_json::to_string(row).unwrap() + "\n").collect();
    std::fs::write(&path, lines).unwrap();
    let mut notices = Notices::new();
    let corpus = Corpus::open(&RealFs, &[path], &mut notices).unwrap();
    let cache = lehr::data::TokenCache::Off;
    let file = lehr::data::tokenize(&RealFs, &corpus, &tokenizer, &cache, &mut notices, &mut silent).unwrap();
    assert!(notices.is_empty(), "{notices:?}");
    let expected: usize = rows.iter().map(|row| row.text.split(' ').count() + 1).sum();
    // The end of text also stands in front of the first document.
    assert_eq!(file.len(), 1 + expected as u64);
}

#[test]
fn words_missing_from_the_tokenizer_are_reported() {
    let tokenizer = tokenizer(&rows(200));
    for (people, form, says) in [
        ("3", PuzzleForm::Compact, None),
        ("4", PuzzleForm::Compact, Some(r#"--task kk: the tokenizer has no token for "D" in the questions and reads <unk>"#)),
        ("3", PuzzleForm::Natural, Some(r#"the tokenizer has no token for "very""#)),
    ] {
        let settings = TaskSettings { people: people.into(), form, ..TaskSettings::default() };
        let mut notices = Notices::new();
        open(&RealFs, &settings, &DataSettings::default(), 1, Some(&tokenizer), 0, &mut notices).unwrap();
        match says {
            None => assert!(notices.is_empty(), "{notices:?}"),
            Some(says) => assert!(notices.lines().len() == 1 && notices.lines()[0].contains(says), "{notices:?}"),
        }
    }
    let letters = Tokenizer::chars("ABC says knight".chars(), true).unwrap();
    let settings = TaskSettings { form: PuzzleForm::Compact, ..TaskSettings::default() };
    let error = open(&RealFs, &settings, &DataSettings::default(), 1, Some(&letters), 0, &mut Notices::new()).err().unwrap();
    assert!(format!("{error:#}").starts_with("--task kk: a question: tokenizer: the character"), "{error:#}");
}
