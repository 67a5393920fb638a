//! Collects tokens and document ends, in memory or in a file, and checks every id.

use super::{Corpus, TokenFile, TokenStore, Tokenizer};
use crate::data::tokenizer::TextFrame;
use anyhow::{Result, bail, ensure};

/// Destination of the tokens.
pub(super) enum TokenOutput<'a> {
    Narrow(Vec<u16>),
    Wide(Vec<u32>),
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "a browser has no cache"))]
    File(&'a mut dyn FnMut(&[u32]) -> Result<()>),
}

/// Tokens around documents.
#[derive(Default)]
pub(super) struct Bounds {
    frame: TextFrame,
    eos: Option<u32>,
    /// Whether the first of several documents gets an end-of-text token prepended.
    leads: bool,
}

impl Bounds {
    pub(super) fn of(corpus: &Corpus, tokenizer: &Tokenizer) -> Result<Self> {
        let (frame, eos) = (tokenizer.frame()?, tokenizer.eos_id());
        let leads = frame.begin.is_empty() && corpus.may_have_several_documents();
        Ok(Self { frame, eos, leads })
    }

    /// See [`TokenFile::separator`].
    pub(super) fn separator(&self) -> Option<u32> {
        self.eos.filter(|_| self.frame.begin.is_empty())
    }
}

/// Appends tokens and records document ends.
pub(super) struct TokenWriter<'a> {
    output: TokenOutput<'a>,
    vocab_size: usize,
    bounds: Bounds,
    ends: Vec<u64>,
    count: u64,
    /// A document has ended but its end-of-text token is not written: it is only needed if a second document follows.
    owes_eos: bool,
}

/// The result of a `TokenWriter`.
pub(super) struct WrittenTokens<'a> {
    pub(super) output: TokenOutput<'a>,
    pub(super) ends: Vec<u64>,
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "only the cache file writes it down"))]
    pub(super) count: u64,
}

impl TokenOutput<'_> {
    /// In memory, with two bytes per token where possible.
    pub(super) fn memory(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 { Self::Narrow(Vec::new()) } else { Self::Wide(Vec::new()) }
    }
}

impl<'a> TokenWriter<'a> {
    pub(super) fn new(output: TokenOutput<'a>, vocab_size: usize, bounds: Bounds) -> Self {
        Self { output, vocab_size, bounds, ends: Vec::new(), count: 0, owes_eos: false }
    }

    /// Appends tokens to the current document. An end-of-text token among them ends it.
    pub(super) fn push(&mut self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        if let (true, Some(eos)) = (std::mem::take(&mut self.owes_eos), self.bounds.eos) {
            self.append(&[eos])?;
            self.close();
        }
        let mut rest = ids;
        while let Some(at) = self.bounds.eos.and_then(|eos| rest.iter().position(|id| *id == eos)) {
            let (document, after) = rest.split_at(at + 1);
            self.begin_document(document[0])?;
            self.append(document)?;
            self.close();
            rest = after;
        }
        if let Some(first) = rest.first() {
            self.begin_document(*first)?;
        }
        self.append(rest)
    }

    /// Ends the current document; empty ones are ignored.
    pub(super) fn end_document(&mut self) -> Result<()> {
        if self.is_between() {
            return Ok(());
        }
        let end = std::mem::take(&mut self.bounds.frame.end);
        self.append(&end)?;
        let ended = end.last().is_some() && end.last() == self.bounds.eos.as_ref();
        self.bounds.frame.end = end;
        if ended || self.bounds.eos.is_none() {
            self.close();
        } else {
            self.owes_eos = true;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<WrittenTokens<'a>> {
        if let (true, false, Some(eos)) = (self.owes_eos, self.ends.is_empty(), self.bounds.eos) {
            self.append(&[eos])?;
        }
        if !self.is_between() {
            self.close();
        }
        Ok(WrittenTokens { output: self.output, ends: self.ends, count: self.count })
    }

    /// Whether no document is open.
    fn is_between(&self) -> bool {
        self.count == self.ends.last().copied().unwrap_or(0)
    }

    /// At the start of a document, writes the tokens that precede it; `first` is the document's first token.
    fn begin_document(&mut self, first: u32) -> Result<()> {
        if !self.is_between() {
            return Ok(());
        }
        if let (true, 0, Some(eos)) = (self.bounds.leads, self.count, self.bounds.eos) {
            return if first == eos { Ok(()) } else { self.append(&[eos]) };
        }
        let begin = std::mem::take(&mut self.bounds.frame.begin);
        let appended = self.append(&begin);
        self.bounds.frame.begin = begin;
        appended
    }

    fn close(&mut self) {
        self.ends.push(self.count);
    }

    fn append(&mut self, ids: &[u32]) -> Result<()> {
        let vocab_size = self.vocab_size;
        let good = ids.iter().all(|id| (*id as usize) < vocab_size);
        ensure!(good, "tokenizer: an id is outside its vocabulary of {vocab_size}. Its tokenizer.json is wrong");
        match &mut self.output {
            TokenOutput::Narrow(tokens) => tokens.extend(ids.iter().map(|id| *id as u16)),
            TokenOutput::Wide(tokens) => tokens.extend_from_slice(ids),
            TokenOutput::File(append) => append(ids)?,
        }
        self.count += ids.len() as u64;
        Ok(())
    }
}

impl WrittenTokens<'_> {
    pub(super) fn into_memory(self, vocab_size: usize) -> Result<TokenFile> {
        let ends = self.ends;
        let store = match self.output {
            TokenOutput::Narrow(tokens) => TokenStore::Narrow { tokens, ends },
            TokenOutput::Wide(tokens) => TokenStore::Wide { tokens, ends },
            TokenOutput::File(_) => bail!("token file: written to a file, not to memory"),
        };
        Ok(TokenFile { store, vocab_size, from_cache: false, separator: None })
    }
}
