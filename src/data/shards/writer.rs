//! Collects tokens and document ends, in memory or in a file, checking every id.

use super::{Store, TokenFile};
use anyhow::{Result, ensure};
#[cfg(not(target_arch = "wasm32"))]
use {super::cache::FileOutput, anyhow::bail};

/// Where the tokens go.
pub(super) enum Output {
    Narrow(Vec<u16>),
    Wide(Vec<u32>),
    #[cfg(not(target_arch = "wasm32"))]
    File(FileOutput),
}

/// Puts tokens behind one another and remembers where documents end.
pub(super) struct Writer {
    output: Output,
    vocab_size: usize,
    eos: Option<u32>,
    ends: Vec<u64>,
    count: u64,
    /// A document is finished but its end-of-text token is not written: a second document must appear first.
    owes_eos: bool,
}

/// Everything that was written.
pub(super) struct Written {
    pub(super) output: Output,
    pub(super) ends: Vec<u64>,
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "only the cache file writes it down"))]
    pub(super) count: u64,
}

impl Output {
    /// Memory, two bytes a token where they suffice.
    pub(super) fn memory(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 { Self::Narrow(Vec::new()) } else { Self::Wide(Vec::new()) }
    }
}

impl Writer {
    pub(super) fn new(output: Output, vocab_size: usize, eos: Option<u32>) -> Self {
        Self { output, vocab_size, eos, ends: Vec::new(), count: 0, owes_eos: false }
    }

    /// Adds tokens to the current document. An end-of-text token among them ends it.
    pub(super) fn push(&mut self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        if let (true, Some(eos)) = (std::mem::take(&mut self.owes_eos), self.eos) {
            self.append(&[eos])?;
            self.close();
        }
        let mut rest = ids;
        while let Some(at) = self.eos.and_then(|eos| rest.iter().position(|id| *id == eos)) {
            let (document, after) = rest.split_at(at + 1);
            self.append(document)?;
            self.close();
            rest = after;
        }
        self.append(rest)
    }

    /// Ends the current document; empty ones leave no trace.
    pub(super) fn end_document(&mut self) -> Result<()> {
        if self.count == self.ends.last().copied().unwrap_or(0) {
            return Ok(());
        }
        if self.eos.is_none() {
            self.close();
        } else {
            self.owes_eos = true;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Written> {
        if let (true, false, Some(eos)) = (self.owes_eos, self.ends.is_empty(), self.eos) {
            self.append(&[eos])?;
        }
        if self.count > self.ends.last().copied().unwrap_or(0) {
            self.close();
        }
        Ok(Written { output: self.output, ends: self.ends, count: self.count })
    }

    fn close(&mut self) {
        self.ends.push(self.count);
    }

    fn append(&mut self, ids: &[u32]) -> Result<()> {
        let vocab_size = self.vocab_size;
        let good = ids.iter().all(|id| (*id as usize) < vocab_size);
        ensure!(good, "tokenizer: an id is outside its vocabulary of {vocab_size}. Its tokenizer.json is wrong");
        match &mut self.output {
            Output::Narrow(tokens) => tokens.extend(ids.iter().map(|id| *id as u16)),
            Output::Wide(tokens) => tokens.extend_from_slice(ids),
            #[cfg(not(target_arch = "wasm32"))]
            Output::File(file) => file.append(ids)?,
        }
        self.count += ids.len() as u64;
        Ok(())
    }
}

impl Written {
    pub(super) fn into_memory(self, vocab_size: usize) -> Result<TokenFile> {
        let ends = self.ends;
        let store = match self.output {
            Output::Narrow(tokens) => Store::Narrow { tokens, ends },
            Output::Wide(tokens) => Store::Wide { tokens, ends },
            #[cfg(not(target_arch = "wasm32"))]
            Output::File(_) => bail!("token file: written to a file, not to memory"),
        };
        Ok(TokenFile { store, vocab_size, from_cache: false })
    }
}
