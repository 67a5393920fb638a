//! Sample texts of a run, at evaluations and on request: a prompt and its continuation.

use super::run::Run;
use crate::data::chat::{self, Chat};
use crate::data::{DecodeStream, EndTokens, Tokenizer};
use crate::device::Device;
use crate::event::{Event, Sample};
use crate::model::Generator;
use crate::ops::sample::Sampling;
use crate::vfs::unix_time;
use anyhow::{Result, ensure};

/// Default temperature of samples.
const TEMPERATURE: f64 = 0.8;
/// Default number of tokens of a sample.
const TOKENS: usize = 200;
/// Maximum number of tokens of a sample: the run waits for it.
const MOST_TOKENS: u64 = 4096;
/// Maximum size of a prompt, in bytes.
const MOST_PROMPT: usize = 1 << 20;

/// A requested sample.
#[derive(Clone, Debug)]
pub(super) struct SampleRequest {
    pub prompt: String,
    pub temperature: Option<f64>,
    pub tokens: Option<u64>,
    pub chat: bool,
}

impl SampleRequest {
    /// (temperature, tokens).
    fn check(&self, usual: usize) -> Result<(f64, usize)> {
        let temperature = self.temperature.unwrap_or(TEMPERATURE);
        Sampling { temperature, ..Sampling::default() }.check("")?;
        let tokens = self.tokens.unwrap_or(usual as u64);
        ensure!((1..=MOST_TOKENS).contains(&tokens), "tokens {tokens}: must lie between 1 and {MOST_TOKENS}");
        let bytes = self.prompt.len();
        ensure!(bytes <= MOST_PROMPT, "a prompt of {bytes} bytes; shorten it to a MiB");
        Ok((temperature, tokens as usize))
    }
}

impl Run<'_> {
    /// Write a sample on request; repeated requests at the same step draw different samples.
    pub(super) fn sample_now(&mut self, asked: &SampleRequest) -> Result<()> {
        self.samples_asked += 1;
        let usual = self.settings.eval.sample_tokens.max(TOKENS);
        self.sample_by(asked, usual, self.samples_asked)
    }

    /// Generate a continuation of a prompt; an invalid prompt is a warning.
    pub(super) fn sample(&mut self, prompt: &str, tokens: usize) -> Result<()> {
        self.sample_by(&SampleRequest { prompt: prompt.into(), temperature: None, tokens: None, chat: false }, tokens, 0)
    }

    fn sample_by(&mut self, asked: &SampleRequest, usual: usize, draw: u64) -> Result<()> {
        match self.answer(asked, usual, draw) {
            Ok(sample) => self.out.emit(&Event::Sample(sample)),
            Err(error) => {
                self.trainer.device.check()?;
                self.out.emit(&Event::Warning { text: format!("no sample: {error:#}") });
            }
        }
        Ok(())
    }

    fn answer(&mut self, asked: &SampleRequest, usual: usize, draw: u64) -> Result<Sample> {
        let (temperature, tokens) = asked.check(usual)?;
        let (tokenizer, prompt) =
            if asked.chat { self.as_chat(&asked.prompt)? } else { (self.tokenizer.clone(), asked.prompt.clone()) };
        let ids = tokenizer.encode_prompt(&prompt, asked.chat)?;
        let Run { trainer, settings, sampler, .. } = self;
        let most = trainer.model.max_context();
        anyhow::ensure!(
            !asked.chat || ids.len() < most,
            "the conversation has {} tokens, but the run's context (--seq-len) holds {most}, reply included; shorten it",
            ids.len()
        );
        if sampler.is_none() {
            *sampler = Some(Generator::new(&trainer.device, &trainer.model, 1, trainer.model.max_context())?);
        }
        let Some(sampler) = sampler else { unreachable!("it was just made") };
        let seed = (settings.train.seed ^ trainer.state.step).wrapping_add(draw << 48);
        let sampling = Sampling { temperature, seed, ..Sampling::default() };
        let (text, pieces, logprobs) =
            SampleWriter::new(&tokenizer, ids, asked.chat).write(&trainer.device, sampler, sampling, tokens)?;
        Ok(Sample {
            step: trainer.state.step,
            prompt: asked.prompt.clone(),
            text,
            temperature: Some(temperature),
            chat: asked.chat,
            pieces,
            logprobs,
        })
    }

    /// The tokenizer with the chat template in use, and the prompt formatted as a user message.
    fn as_chat(&self, prompt: &str) -> Result<(Tokenizer, String)> {
        let Run { tokenizer, settings, .. } = self;
        let day = settings.sft.as_ref().and_then(|sft| sft.date.as_deref()).and_then(chat::parse_date);
        let (tokenizer, template) = chat::template_of(tokenizer, None, day.unwrap_or(unix_time() as i64))?;
        let chat = Chat { messages: vec![serde_json::json!({"role": "user", "content": prompt})], ..Chat::default() };
        Ok((tokenizer, template.render(&chat, true)?.text))
    }
}

/// A text during generation.
struct SampleWriter {
    /// Prompt and text as tokens.
    ids: Vec<u32>,
    ends: EndTokens,
    /// A stop string, in addition to the stop tokens.
    end: Option<String>,
    stream: DecodeStream,
    text: String,
    /// The text by token.
    pieces: Vec<String>,
    logprobs: Vec<f32>,
}

impl SampleWriter {
    fn new(tokenizer: &Tokenizer, ids: Vec<u32>, chat: bool) -> Self {
        let (text, pieces, logprobs) = (String::new(), Vec::new(), Vec::new());
        let ends = tokenizer.end_tokens().clone();
        let end = ends.text().filter(|_| chat).map(str::to_owned);
        // A chat answer is a text of its own, a continuation is part of one.
        let stream = tokenizer.decode_stream(if chat { &[] } else { &ids });
        Self { ids, ends, end, stream, text, pieces, logprobs }
    }

    /// Generate up to `left` tokens: (text, its pieces, log-probability of each).
    fn write(
        mut self,
        device: &Device,
        sampler: &Generator,
        mut sampling: Sampling,
        mut left: usize,
    ) -> Result<(String, Vec<String>, Vec<f32>)> {
        let (context, mut ended) = (sampler.max_len(), false);
        while left > 0 && !ended {
            // A text longer than the context continues from its last half.
            let seen =
                if self.ids.len() < context { self.ids.clone() } else { self.ids[self.ids.len() - context / 2..].to_vec() };
            let mut places = Vec::new();
            sampler.run(device, &[seen], left, &sampling, |at, new| {
                ended = self.ends.contains(new[0]);
                if !ended {
                    places.push(at);
                    ended = self.push(new[0])?;
                }
                Ok(!ended)
            })?;
            ended |= places.is_empty();
            left -= places.len().min(left);
            let logprobs = sampler.logprobs(device, 0)?;
            self.logprobs.extend(places.iter().map(|at| logprobs[*at]));
            sampling.seed = sampling.seed.wrapping_add(1 << 32);
        }
        let Self { end, stream, mut text, mut pieces, logprobs, .. } = self;
        match end.as_ref().and_then(|end| text.find(end.as_str())) {
            Some(at) => {
                text.truncate(at);
                cut(&mut pieces, at);
            }
            None => {
                let tail = stream.finish()?;
                text.push_str(&tail);
                pieces.last_mut().into_iter().for_each(|last| last.push_str(&tail));
            }
        }
        Ok((text, pieces, logprobs))
    }

    /// Add a token; true if it ends the text.
    fn push(&mut self, id: u32) -> Result<bool> {
        let piece = self.stream.push(id)?;
        self.ids.push(id);
        self.text.push_str(&piece);
        self.pieces.push(piece);
        Ok(self.end.as_ref().is_some_and(|end| self.text.contains(end.as_str())))
    }
}

/// Keep the first `bytes` bytes of the pieces; later pieces stay as empty strings, so that indices match tokens.
fn cut(pieces: &mut [String], bytes: usize) {
    let mut left = bytes;
    for piece in pieces {
        piece.truncate(left.min(piece.len()));
        left -= piece.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streamed_pieces_end_with_the_text() {
        let mut pieces = ["ab", "c", "de", "f"].map(String::from);
        cut(&mut pieces, 4);
        assert_eq!(pieces, ["ab", "c", "d", ""]);
    }

    #[test]
    fn invalid_sample_requests_are_refused() {
        let asked = SampleRequest { prompt: "a".into(), temperature: None, tokens: None, chat: false };
        assert_eq!(asked.check(200).unwrap(), (0.8, 200));
        let refused = |asked: SampleRequest| asked.check(200).unwrap_err().to_string();
        for temperature in [-1.0, 100.5, f64::NAN, f64::INFINITY] {
            assert!(refused(SampleRequest { temperature: Some(temperature), ..asked.clone() }).starts_with("temperature "));
        }
        for tokens in [0, MOST_TOKENS + 1, u64::MAX] {
            assert!(refused(SampleRequest { tokens: Some(tokens), ..asked.clone() }).starts_with("tokens "));
        }
        assert!(refused(SampleRequest { prompt: "a".repeat(MOST_PROMPT + 1), ..asked }).contains("a prompt of 1048577 bytes"));
    }
}
