//! What a tokenizer's own rules put around a text (Llama's begin token), and texts that come in pieces.

use super::{Direct, END_OF_TEXT, Tokenizer, WordMemory, guarded};
use crate::data::{Corpus, Notices, shown};
use anyhow::{Result, anyhow};

/// What stands around every text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) begin: Vec<u32>,
    pub(crate) end: Vec<u32>,
}

impl Tokenizer {
    /// The ids of a whole text as `transformers` gives them: with what the tokenizer's post-processor puts around it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        match self.direct {
            Direct::Off => Ok(self.encode_by_crate(text, true)?.get_ids().to_vec()),
            _ => self.encode(text),
        }
    }

    /// The ids of what a model is to continue. A text that a chat template wrote (`chat`) has its begin token already. Where no text is
    /// given, the model begins as after the end of another.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str, chat: bool) -> Result<Vec<u32>> {
        let mut ids = if chat { self.encode(text)? } else { self.encode_text(text)? };
        if ids.is_empty() {
            ids.extend(self.bos.or(self.eos));
        }
        Ok(ids)
    }

    /// Tells where the text has the end-of-text marker of the tokenizers that are made here, and this one of them was made without.
    pub(in crate::data) fn check_marker<'a>(
        &self,
        corpora: impl IntoIterator<Item = &'a Corpus>,
        notices: &mut Notices,
    ) -> Result<()> {
        if !self.is_table() || self.eos.is_some() {
            return Ok(());
        }
        for corpus in corpora {
            if corpus.contains(END_OF_TEXT, notices)? {
                notices.push(format!(
                    "the text holds {END_OF_TEXT}, which is no token of this model: it is read as characters and ends no document"
                ));
            }
        }
        Ok(())
    }

    /// All that the ids of a text depend on, the same bytes each time: what a cache may be keyed by.
    ///
    /// # Errors
    /// None that is known of.
    pub(crate) fn rules(&self) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(&*self.inner)?)
    }

    /// What [`Self::encode_text`] puts before and behind a text.
    pub(crate) fn frame(&self) -> Result<Frame> {
        if !matches!(self.direct, Direct::Off) {
            return Ok(Frame::default());
        }
        // One that has no token for a letter may have one for nothing.
        let encoding = self.encode_by_crate("a", true).or_else(|_| self.encode_by_crate("", true))?;
        let (ids, added) = (encoding.get_ids(), encoding.get_special_tokens_mask());
        let own = |at: &usize| added[*at] == 0;
        let first = (0..ids.len()).find(own).unwrap_or(ids.len());
        let last = (first..ids.len()).rev().find(own).map_or(first, |last| last + 1);
        Ok(Frame { begin: ids[..first].to_vec(), end: ids[last..].to_vec() })
    }

    /// As [`Self::encode_into`], for a piece of a text that has the character `before` in front of it.
    ///
    /// Some tokenizers put a mark at the beginning of every text (Metaspace), or join what the cut divides; they are shown the character, and
    /// its tokens are taken off again.
    pub(in crate::data) fn encode_piece(
        &self,
        before: Option<char>,
        text: &str,
        ids: &mut Vec<u32>,
        memory: &mut WordMemory,
    ) -> Result<()> {
        let Some(before) = before.filter(|_| matches!(self.direct, Direct::Off) && !text.is_empty() && !self.cuts_cleanly())
        else {
            return self.encode_into(text, ids, memory);
        };
        let whole = format!("{before}{text}");
        let encoding = guarded(|| self.inner.encode(whole.as_str(), false))
            .map_err(|e| anyhow!("tokenizer: cannot encode {:?}: {}", shown(text), shown(&e)))?;
        let cut = before.len_utf8();
        let places = encoding.get_offsets();
        if places.iter().any(|(start, end)| *start < cut && *end > cut) {
            return self.encode_into(text, ids, memory);
        }
        let behind = encoding.get_ids().iter().zip(places).filter(|(_, (_, end))| *end > cut);
        ids.extend(behind.map(|(id, _)| *id));
        Ok(())
    }

    /// Whether the tokens of two pieces, cut where the reader of texts cuts, are those of the whole.
    fn cuts_cleanly(&self) -> bool {
        let parts = |parts: &[&str]| parts.iter().map(|part| self.encode(part).ok()).collect::<Option<Vec<_>>>();
        [["a\n", "b"], ["a", " b"]].iter().all(|cut| match (parts(cut), self.encode(&cut.concat())) {
            (Some(parts), Ok(whole)) => parts.concat() == whole,
            _ => false,
        })
    }
}
